/* The hint of the next expiry: no claim is told SOLD_OUT over a slot that another thread has given back.
 *
 * A thread that finds nothing free gives back what has lapsed, and then raises the hint to the time of the next expiry.
 * A search loads the hint before its look. If the hint says that nothing has lapsed, the search believes it; then its
 * look must have seen what was given back before the hint was raised.
 *
 * Transcribes:
 *   hbcore/_claims/claim.pyx: search, take_in
 *   hbcore/_claims/transitions.pyx: expire_due, ledger_expire, give_back, finish_release
 * Asserts: the search takes the slot, or finds that the hint is due.
 * Configurations:
 *   PLAIN: one gives back what has lapsed, one searches
 * Plants:
 *   1 (PLAIN): the store of the hint is relaxed
 *   2 (PLAIN): the load of the hint is relaxed
 *   3 (PLAIN): the hint is loaded after the look
 */
#include "kernel.h"

enum { LAPSED_AT = 100, NOW = 200, LATER = 300 };
static uint64_t state_word = SLOT_STATE(GRANTED, 1, LAPSED_AT), next_expiry = LAPSED_AT;

static int give_back(void)
{
    if (!hb_cas(&state_word, SLOT_STATE(GRANTED, 1, LAPSED_AT), SLOT_STATE(RELEASING, 1, 1)))
        return 0;
    hb_cas(&state_word, SLOT_STATE(RELEASING, 1, 1), SLOT_STATE(FREE, 1, 0));
    return 1;
}

static void *expire(void *unused)
{
    give_back();
    planted_store(1, &next_expiry, LATER);
    return unused;
}

static void *search(void *unused)
{
    uint64_t hint = planted_load(2, &next_expiry);
    uint64_t state = hb_load_acquire(&state_word);
    if (is_planted(3))
        hint = hb_load_acquire(&next_expiry);
    if (slot_kind(state) != FREE && slot_kind(state) != RELEASING)
        assert(NOW >= hint); /* or else: SOLD_OUT */
    return unused;
}

int main(void)
{
    RUN(expire, search);
    return 0;
}
