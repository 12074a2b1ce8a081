/* Where each thread looks for free slots: a cursor for each ledger that it has used lately. A cursor is only advice. */
#ifndef HBCORE_THREADS_H
#define HBCORE_THREADS_H

#include <stdint.h>

#define HB_CURSORS 64 /* per thread; handles are numbered in order, so the last 64 of a thread never collide */

struct hb_cursor {
    uint64_t handle; /* of the ledger that it belongs to; 0: unused */
    uint64_t worker; /* a forked child is another worker and finds its own place */
    uint64_t slot;
    uint64_t late_at; /* so many slots were open when the thread found no block that nobody had begun; 0: never yet */
};

static _Thread_local struct hb_cursor hb_cursors[HB_CURSORS];
static _Thread_local uint64_t hb_thread_number; /* from 1; 0: not numbered yet */
static uint64_t hb_thread_count;

static inline uint64_t hb_this_thread(void)
{
    if (hb_thread_number == 0)
        hb_thread_number = __atomic_add_fetch(&hb_thread_count, 1, __ATOMIC_RELAXED);
    return hb_thread_number;
}

/* The calling thread's cursor for a handle, or for another handle of the same number modulo HB_CURSORS. */
static inline struct hb_cursor *hb_cursor_of(uint64_t handle) { return &hb_cursors[handle % HB_CURSORS]; }

#endif
