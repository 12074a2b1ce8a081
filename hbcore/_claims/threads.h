/* A cursor says where a thread looks for free slots in a ledger that it has used lately. A cursor is only advice. */
#ifndef HBCORE_THREADS_H
#define HBCORE_THREADS_H

#include <stdint.h>

#define HB_CURSORS 64 /* cursors per thread; handles are numbered in order, so 64 numbers in a row never collide */

struct hb_cursor {
    uint64_t handle;  /* handle of the ledger that the cursor belongs to; 0: unused */
    uint64_t worker;  /* worker that it belongs to: a forked child is another one and finds its own place */
    uint64_t slot;    /* the slot to try next */
    uint64_t late_at; /* slots that were open when the thread found no block that nobody had begun; 0: never yet */
};

static _Thread_local struct hb_cursor hb_cursors[HB_CURSORS];
static _Thread_local uint64_t hb_thread_number; /* counted from 1; 0: not numbered yet */
static uint64_t hb_thread_count;

static inline uint64_t hb_this_thread(void)
{
    if (hb_thread_number == 0)
        hb_thread_number = __atomic_add_fetch(&hb_thread_count, 1, __ATOMIC_RELAXED);
    return hb_thread_number;
}

/* Return the calling thread's cursor for a handle, or for another handle of the same number modulo HB_CURSORS. */
static inline struct hb_cursor *hb_cursor_of(uint64_t handle) { return &hb_cursors[handle % HB_CURSORS]; }

#endif
