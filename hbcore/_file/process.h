/* A process's knowledge of itself: the mappings that it is registered with, and what a fork does to them.
 *
 * A forked child shares the parent's open file descriptions, and an OFD lock belongs to the description: if the child
 * kept them open, the parent would seem alive after its death. So the child closes them before anything else runs, and
 * has no worker number until it registers anew.
 */
#ifndef HBCORE_PROCESS_H
#define HBCORE_PROCESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "format.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct hb_presence {
    uint64_t worker; /* number | epoch << 12; 0: not registered (after a fork or a close) */
    int lock_fd;     /* descriptor of the open file description that holds the locks; -1: none */
    int is_copy;     /* whether this is the copy of a presence in a forked child, or in a child of that */
    struct hb_presence *next;
};

static struct hb_presence *hb_presences;
static pthread_mutex_t hb_presence_mutex = PTHREAD_MUTEX_INITIALIZER;

static void hb_before_fork(void) { pthread_mutex_lock(&hb_presence_mutex); }
static void hb_after_fork_in_parent(void) { pthread_mutex_unlock(&hb_presence_mutex); }
static void hb_after_fork_in_child(void)
{
    struct hb_presence *presence;
    for (presence = hb_presences; presence; presence = presence->next) {
        if (presence->lock_fd >= 0)
            close(presence->lock_fd);
        presence->lock_fd = -1;
        presence->worker = 0;
        presence->is_copy = 1;
    }
    pthread_mutex_unlock(&hb_presence_mutex);
}

static inline int hb_watch_forks(void)
{
    return pthread_atfork(hb_before_fork, hb_after_fork_in_parent, hb_after_fork_in_child);
}

static inline void hb_presence_add(struct hb_presence *presence)
{
    pthread_mutex_lock(&hb_presence_mutex);
    presence->next = hb_presences;
    hb_presences = presence;
    pthread_mutex_unlock(&hb_presence_mutex);
}

/* Give the presence up, and the locks with it. */
static inline void hb_presence_remove(struct hb_presence *presence)
{
    struct hb_presence **link;
    pthread_mutex_lock(&hb_presence_mutex);
    for (link = &hb_presences; *link; link = &(*link)->next)
        if (*link == presence) {
            *link = presence->next;
            break;
        }
    if (presence->lock_fd >= 0)
        close(presence->lock_fd); /* under the mutex, so that no child can be forked that has it and does not know */
    presence->lock_fd = -1;
    pthread_mutex_unlock(&hb_presence_mutex);
}

/* This lock lets only one thread of a process register it. A thread does not hold the GIL while it waits, and a fork
 * waits as well. */
static inline void hb_presence_lock(void) { pthread_mutex_lock(&hb_presence_mutex); }
static inline void hb_presence_unlock(void) { pthread_mutex_unlock(&hb_presence_mutex); }

/* A file and the descriptor that a mapping has of it. A daemon may close all its descriptors, and then the number is
 * another file's. So nothing is believed of a descriptor that does not lead to the inode that was mapped. */
struct hb_file {
    int fd;
    uint64_t device, inode;
    const struct hb_worker *workers; /* the table of workers, in the mapping */
};

static inline int hb_is_file(int fd, const struct hb_file *file)
{
    struct stat status;
    return fstat(fd, &status) == 0 && (uint64_t)status.st_dev == file->device && (uint64_t)status.st_ino == file->inode;
}

static inline int hb_identify(struct hb_file *file)
{
    struct stat status;
    if (fstat(file->fd, &status) != 0)
        return -1;
    file->device = (uint64_t)status.st_dev;
    file->inode = (uint64_t)status.st_ino;
    return 0;
}

/* Open the file anew, also a memfd or a file that was renamed: this makes a description of our own. Return a
 * descriptor, or -1 with errno; EBADF if the old descriptor is not the file's any more. */
static inline int hb_reopen(const struct hb_file *file)
{
    char path[40];
    int fd;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file->fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && !hb_is_file(fd, file)) {
        close(fd);
        errno = EBADF;
        return -1;
    }
    return fd;
}

/* ---- which worker is alive: locked bytes of each process, see format.h ----------------------------------------- */

static inline int hb_lock_call(int fd, int command, struct flock *lock, int64_t start, int64_t length)
{
    int answer;
    lock->l_type = F_WRLCK;
    lock->l_whence = SEEK_SET;
    lock->l_start = start;
    lock->l_len = length;
    lock->l_pid = 0; /* OFD locks require this */
    do
        answer = fcntl(fd, command, lock);
    while (answer != 0 && errno == EINTR && command != F_OFD_SETLKW); /* a signal must be able to end a wait */
    return answer;
}

static inline uint64_t hb_worker_number(uint64_t worker) { return worker & 0xFFF; }
static inline uint64_t hb_worker_epoch(uint64_t worker) { return worker >> 12; }
static inline int64_t hb_life(uint64_t number, uint64_t epoch)
{
    return HB_LOCK_LIVES + (int64_t)(number << HB_EPOCH_BITS | epoch);
}

/* Become the owner of a worker's entry. Return 0, or -1 with errno (EAGAIN: a living process has it). */
static inline int hb_lock_entry(int fd, uint64_t number)
{
    struct flock lock;
    return hb_lock_call(fd, F_OFD_SETLK, &lock, HB_LOCK_ENTRIES + (int64_t)number, 1);
}

/* Begin the life of a worker. Return 0, or -1 with errno. */
static inline int hb_lock_life(int fd, uint64_t number, uint64_t epoch)
{
    struct flock lock;
    return hb_lock_call(fd, F_OFD_SETLK, &lock, hb_life(number, epoch), 1);
}

/* Return whether no process can ever have been that worker: the epochs of a number only rise. */
static inline int hb_worker_never_was(const struct hb_file *file, uint64_t worker)
{
    uint64_t number = hb_worker_number(worker), epoch = hb_worker_epoch(worker);
    return number >= HB_WORKER_LIMIT || epoch == 0
           || epoch > __atomic_load_n(&file->workers[number].epoch, __ATOMIC_RELAXED);
}

/* Return whether a worker is dead for ever. The description of `file` holds no lock of its own. A worker that was seen
 * in the mapping had its lock before, so a missing lock is a death; in doubt the worker is alive. */
static inline int hb_worker_is_dead(const struct hb_file *file, uint64_t worker)
{
    /* A worker that never was is damage: nothing is taken from it. */
    if (hb_worker_never_was(file, worker))
        return 0;
    struct flock lock;
    if (hb_lock_call(file->fd, F_OFD_GETLK, &lock, hb_life(hb_worker_number(worker), hb_worker_epoch(worker)), 1) != 0)
        return 0;
    return lock.l_type == F_UNLCK && hb_is_file(file->fd, file);
}

/* Return the epoch of the living worker of a number; 0 if there is none, and in doubt UINT64_MAX. */
static inline uint64_t hb_living_epoch(const struct hb_file *file, uint64_t number)
{
    struct flock lock;
    if (hb_lock_call(file->fd, F_OFD_GETLK, &lock, hb_life(number, 0), INT64_C(1) << HB_EPOCH_BITS) != 0
        || !hb_is_file(file->fd, file))
        return UINT64_MAX;
    return lock.l_type == F_UNLCK ? 0 : (uint64_t)(lock.l_start - hb_life(number, 0));
}

/* Return whether any worker of the file is alive; in doubt one is. */
static inline int hb_anybody_alive(int fd)
{
    struct flock lock;
    if (hb_lock_call(fd, F_OFD_GETLK, &lock, HB_LOCK_LIVES, (int64_t)HB_WORKER_LIMIT << HB_EPOCH_BITS) != 0)
        return 1;
    return lock.l_type != F_UNLCK;
}

/* Wait for the lock of the process that puts the file right after a reboot. A death of that process gives it back.
 * Return 0, or -1 with errno (EINTR: a signal came). */
static inline int hb_lock_recovery(int fd)
{
    struct flock lock;
    return hb_lock_call(fd, F_OFD_SETLKW, &lock, HB_LOCK_RECOVERY, 1);
}

#endif
