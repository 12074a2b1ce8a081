# The kernel's locks say which processes have a file open, and which of them are dead; see process.h.
#
# The list of the presences that a fork looks after is a static variable of process.h, so it is region.pyx's alone:
# other modules call presence_add and presence_remove of that module.
from libc.stdint cimport uint64_t

from hbcore._file.format cimport hb_worker

cdef extern from "process.h" nogil:
    struct hb_presence:
        uint64_t worker
        int lock_fd
        int is_copy
        hb_presence *next

    struct hb_file:
        int fd
        uint64_t device
        uint64_t inode
        const hb_worker *workers

    int hb_watch_forks()
    void hb_presence_add(hb_presence *presence)
    void hb_presence_remove(hb_presence *presence)
    void hb_presence_lock()
    void hb_presence_unlock()
    int hb_is_file(int fd, const hb_file *file)
    int hb_identify(hb_file *file)
    int hb_reopen(const hb_file *file)
    int hb_lock_entry(int fd, uint64_t number)
    int hb_lock_life(int fd, uint64_t number, uint64_t epoch)
    int hb_lock_recovery(int fd)
    int hb_anybody_alive(int fd)
    uint64_t hb_living_epoch(const hb_file *file, uint64_t number)
    bint hb_worker_is_dead(const hb_file *file, uint64_t worker) noexcept
    bint hb_worker_never_was(const hb_file *file, uint64_t worker) noexcept
