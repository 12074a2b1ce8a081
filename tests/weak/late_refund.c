/* Late refunds: what a release gives back after the close reaches the budget.
 *
 * A thread that frees a slot of a closed envelope makes it REFUNDED and adds 1 to late_refunds. A thread that credits
 * the budget reads late_refunds, counts what is refunded, and stores in passed_on how far it has come. Whoever finds
 * that passed_on is behind counts again. The add is relaxed, and comes after the CAS to FREE, a full fence, and the CAS
 * to REFUNDED. It is right only because of that fence: who acquires the number sees the slot free at least, and refunds
 * it itself before it counts. (The load of late_refunds before the count may be relaxed, because the closer's full
 * fence comes after it; and so may the store of passed_on, which only says that nothing is to be done.)
 *
 * Transcribes:
 *   hbcore/_claims/transitions.pyx: finish_release, refund_if_closed, ledger_refund
 *   hbcore/_claims/packets.pyx: deck_close, close_tranche
 *   hbcore/envelope.pyx: end, pass_on
 * Asserts: if nobody has to pass anything on in the end, the refund was credited.
 * Configurations:
 *   PLAIN: the envelope is closed; one releases, one closes once more
 *   OPEN: the envelope is open at first
 *   TWO_CLOSERS: the envelope is closed; one releases, one closes once more, one passes on
 * Plants:
 *   1 (PLAIN, TWO_CLOSERS, OPEN): there is no fence before the add
 *   2 (PLAIN, TWO_CLOSERS, OPEN): the closer counts without refunding what is free
 *   3 (PLAIN, TWO_CLOSERS, OPEN): late_refunds is read after the count
 */
#include "kernel.h"

#ifdef OPEN
static uint64_t closed;
#else
static uint64_t closed = 1;
#endif
static uint64_t state_word = SLOT_STATE(RELEASING, 1, 1), late_refunds, passed_on;
static uint64_t credited; /* the hold in the budget that refund_from raises to what was counted */

static void refund(void)
{
    uint64_t state = hb_load_acquire(&state_word);
    while (slot_kind(state) == FREE) {
        if (hb_cas(&state_word, state, SLOT_STATE(REFUNDED, slot_generation(state), 0)))
            return;
        state = hb_load_acquire(&state_word);
    }
}

static void end(void)
{
    uint64_t late = hb_load_acquire(&late_refunds) + 1;
    hb_cas(&closed, 0, 1);
    hb_fence_full();
    if (!is_planted(2))
        refund();
    if (slot_kind(hb_load_acquire(&state_word)) == REFUNDED)
        hb_cas(&credited, 0, 1);
    if (is_planted(3))
        late = hb_load_acquire(&late_refunds) + 1;
    hb_store_release(&passed_on, late);
}

static void pass_on(void)
{
    if (hb_load_acquire(&closed) && hb_load_acquire(&passed_on) != hb_load_acquire(&late_refunds) + 1)
        end();
}

static void *release(void *unused)
{
    hb_cas(&state_word, SLOT_STATE(RELEASING, 1, 1), SLOT_STATE(FREE, 1, 0));
    planted_fence_full(1);
    if (hb_load_acquire(&closed)) {
        refund();
        hb_fetch_add_relaxed(&late_refunds, 1);
    }
    pass_on();
    return unused;
}

static void *close(void *unused)
{
    end();
    return unused;
}

static void *look_after(void *unused)
{
    pass_on();
    return unused;
}

int main(void)
{
#ifdef TWO_CLOSERS
    RUN(release, close, look_after);
#else
    RUN(release, close);
#endif
    if (hb_load_relaxed(&passed_on) == hb_load_relaxed(&late_refunds) + 1)
        assert(hb_load_relaxed(&credited) == 1);
    (void)look_after;
    return 0;
}
