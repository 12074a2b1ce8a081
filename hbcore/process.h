/* What a process knows of itself: the mappings that it is registered with, and what a fork does to them.
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
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

struct hb_presence {
    uint64_t worker; /* number | epoch << 12; 0: not registered (a fork or a close) */
    int lock_fd;     /* the open file description that holds the lock; -1: none */
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

static inline void hb_presence_remove(struct hb_presence *presence)
{
    struct hb_presence **link;
    pthread_mutex_lock(&hb_presence_mutex);
    for (link = &hb_presences; *link; link = &(*link)->next)
        if (*link == presence) {
            *link = presence->next;
            break;
        }
    pthread_mutex_unlock(&hb_presence_mutex);
}

/* Only one thread of a process registers it. The GIL is not held while waiting, and a fork waits as well. */
static inline void hb_presence_lock(void) { pthread_mutex_lock(&hb_presence_mutex); }
static inline void hb_presence_unlock(void) { pthread_mutex_unlock(&hb_presence_mutex); }

/* Open the file behind a descriptor anew: a description of our own, also of a memfd or a file that was renamed.
 * Returns a descriptor, or -1 with errno. */
static inline int hb_reopen(int fd)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

/* Lock one byte for this open file description. Returns 0, or -1 with errno (EAGAIN: somebody alive has it). */
static inline int hb_lock_byte(int fd, int64_t offset)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1, .l_pid = 0};
    return fcntl(fd, F_OFD_SETLK, &lock);
}

#endif
