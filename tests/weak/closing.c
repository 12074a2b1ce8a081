/* Closing against what becomes free, and against what is appended, at the same moment.
 *
 * The closer closes, passes a full fence and looks at the slots and at the chain of tranches. A thread that frees a
 * slot frees it, passes a full fence and looks whether the ledger is closed; one that appends a tranche does likewise.
 * This is Dekker's pattern: with a fence between the write and the look on both sides, at least one of the two sees the
 * other, and whichever it is refunds the slot.
 *
 * Transcribes:
 *   hbcore/_claims/transitions.pyx: put_back, finish_release, refund_if_closed, ledger_refund
 *   hbcore/_claims/packets.pyx: deck_close, close_tranche
 *   hbcore/_ops/top_up.pyx: append, finish_tranches
 * Asserts: in the end the slot is refunded; the appended tranche is refunded.
 * Configurations:
 *   PLAIN: one frees a slot, one closes
 *   TWO_CLOSERS: one frees a slot, two close
 *   APPEND: one appends a tranche with one slot, one closes
 * Plants:
 *   1 (PLAIN, TWO_CLOSERS, APPEND): the thread that frees or appends has no fence
 *   2 (PLAIN, TWO_CLOSERS, APPEND): the closer has no fence
 */
#include "kernel.h"

#ifdef APPEND
enum { IS_APPENDING = 1 };
#else
enum { IS_APPENDING = 0 };
#endif
static uint64_t state_word = IS_APPENDING ? SLOT_STATE(FREE, 0, 0) : SLOT_STATE(RELEASING, 1, 1), closed, following;

static void refund(void)
{
    uint64_t state = hb_load_acquire(&state_word);
    while (slot_kind(state) == FREE) {
        if (hb_cas(&state_word, state, SLOT_STATE(REFUNDED, slot_generation(state), 0)))
            return;
        state = hb_load_acquire(&state_word);
    }
}

static void close_deck(void)
{
    hb_cas(&closed, 0, 1);
    planted_fence_full(2);
    if (!IS_APPENDING || hb_load_acquire(&following))
        refund();
}

static void *release(void *unused)
{
    hb_cas(&state_word, SLOT_STATE(RELEASING, 1, 1), SLOT_STATE(FREE, 1, 0));
    planted_fence_full(1);
    if (hb_load_acquire(&closed))
        refund();
    return unused;
}

static void *append(void *unused)
{
    hb_cas(&following, 0, 4096);
    planted_fence_full(1);
    if (hb_load_acquire(&closed))
        close_deck();
    return unused;
}

static void *close(void *unused)
{
    close_deck();
    return unused;
}

int main(void)
{
#if defined APPEND
    RUN(append, close);
#elif defined TWO_CLOSERS
    RUN(release, close, close);
#else
    RUN(release, close);
#endif
    assert(slot_kind(hb_load_relaxed(&state_word)) == REFUNDED);
    (void)release, (void)append;
    return 0;
}
