/* What a worker wrote in its last moment is read by those who reclaim its slots.
 *
 * A worker writes its key with relaxed stores and is killed. Its end is told by the kernel alone: the locks that it
 * held go with it. A thread that reclaims asks the kernel for the lock, and reads the key only when the answer is that
 * the worker is dead. The kernel drops the last reference of the open file with a full barrier, and takes the lock off
 * its list under a spin lock, under which it also looks for it; where it looks without the lock, it acquires the
 * emptiness of the list. So everything that the dead wrote is there. The kernel's side is modelled, not transcribed.
 *
 * Transcribes:
 *   hbcore/_claims/transitions.pyx: ledger_reclaim, locate
 *   hbcore/_claims/claim.pyx: hold, ledger_claim
 *   hbcore/_file/process.h: hb_worker_is_dead
 * Asserts: who was told that the worker is dead reads its key, and finds what it had published.
 * Configurations:
 *   PLAIN: the worker dies before it publishes
 *   PUBLISHED: the worker dies after it has published
 *   LOCKLESS: the kernel looks at an empty list without its lock
 *   LOCKLESS + PUBLISHED: the same, after it has published
 * Plants:
 *   1 (PLAIN, PUBLISHED): the kernel's spin lock is given back without release
 *   2 (LOCKLESS): the kernel's look without the lock is relaxed
 *   3 (PLAIN, PUBLISHED, LOCKLESS): the key is read before the kernel is asked
 *   4 (PUBLISHED, LOCKLESS + PUBLISHED): the index is looked at before the kernel is asked
 */
#include "kernel.h"

enum { ANN = 1, ENTRY = 11 };
static uint64_t state_word, user[2], word;
static uint64_t spin_lock, is_locked_by_worker = 1; /* the kernel's */

static void *work_and_die(void *unused)
{
    if (!hb_cas(&state_word, 0, SLOT_STATE(HELD, 1, 1)))
        return unused;
    hb_fence_release();
    hb_store_relaxed(&user[0], ANN);
    hb_store_relaxed(&user[1], ANN);
#ifdef PUBLISHED
    hb_cas(&word, 0, ENTRY);
#endif
#ifdef LOCKLESS
    hb_fence_full(); /* the reference of the file is dropped */
#endif
    assume(hb_cas(&spin_lock, 0, 1));
    hb_store_relaxed(&is_locked_by_worker, 0);
    planted_store(1, &spin_lock, 0);
    return unused;
}

static int is_dead(void)
{
#ifdef LOCKLESS
    return planted_load(2, &is_locked_by_worker) == 0;
#else
    assume(hb_cas(&spin_lock, 0, 1));
    uint64_t is_locked = hb_load_relaxed(&is_locked_by_worker);
    hb_store_release(&spin_lock, 0);
    return !is_locked;
#endif
}

static void *reclaim(void *unused)
{
    uint64_t early_low = 0, early_word = 0;
    uint64_t state = hb_load_acquire(&state_word);
    assume(slot_kind(state) == HELD);
    if (is_planted(3))
        early_low = hb_load_relaxed(&user[0]);
    if (is_planted(4))
        early_word = hb_load_acquire(&word);
    assume(is_dead());
    assert((is_planted(3) ? early_low : hb_load_relaxed(&user[0])) == ANN && hb_load_relaxed(&user[1]) == ANN);
    assert(hb_load_acquire(&state_word) == state);
#ifdef PUBLISHED
    assert((is_planted(4) ? early_word : hb_load_acquire(&word)) == ENTRY);
#endif
    (void)early_word;
    return unused;
}

int main(void)
{
    RUN(work_and_die, reclaim);
    return 0;
}
