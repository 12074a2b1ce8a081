/* Reading a slot and its key while the slot goes from one claim to the next.
 *
 * The state of a slot is a sequence lock over its key: a claimer makes the slot HELD, passes a release fence and writes
 * the key; a reader loads the state, the key, passes an acquire fence and loads the state again. A reader that sees a
 * word of the new key also sees the state HELD that came before it, so two equal states mean that the key is of that
 * state's claim. A thread that comes by an index word looks at the word once more: if the word still names the slot,
 * the claim is the one that was published there, not the same user's next one in the same slot. (This second look may
 * be relaxed, because the first load of the state acquires the release of the claim before, and with it the tombstone.
 * The CAS that takes the slot may be relaxed as well: the load before it acquires, and the fence after it releases.)
 *
 * Transcribes:
 *   hbcore/_claims/ledger.pxd: read_slot, probe, make_granted
 *   hbcore/_claims/claim.pyx: take_in, hold, ledger_claim
 *   hbcore/_claims/group.pyx: ledger_claim_plain, repeated
 *   hbcore/_claims/transitions.pyx: give_back, finish_release, bury
 * Asserts: the key that goes with a granted or released state is the key of that claim; what a thread finds by an index
 *   word is the claim that was published there.
 * Configurations:
 *   PLAIN: the reader looks at the slot alone, as the snapshots do
 *   SAME_KEY: the same, and the next claim is the same user's
 *   PROBE: the reader comes by the index word
 *   PROBE + SAME_KEY: the same, and the next claim is the same user's
 * Plants:
 *   1 (PLAIN, PROBE): hold has no release fence
 *   2 (PLAIN, PROBE): read_slot has no acquire fence
 *   3 (PROBE, PROBE + SAME_KEY): the CAS that publishes orders nothing
 *   4 (PLAIN, SAME_KEY): the CAS that makes the slot granted orders nothing
 *   5 (PLAIN, SAME_KEY): the first load of the state is relaxed
 *   6 (PROBE, PROBE + SAME_KEY): the second look at the index word is left out
 *   7 (PROBE, PROBE + SAME_KEY): the first load of the index word is relaxed
 */
#include "kernel.h"

enum { NOBODY = 7, ANN = 1, TOMBSTONE = 99, FIRST_ENTRY = 11, NEXT_ENTRY = 12 };
#ifdef SAME_KEY
enum { NEXT = ANN };
#else
enum { NEXT = 2 };
#endif

static struct slot slot = {SLOT_STATE(FREE, 0, 0), {NOBODY, NOBODY}, 0};
static uint64_t first_word, next_word;

static int take_and_hold(uint64_t state, uint64_t generation, uint64_t key)
{
    if (!hb_cas(&slot.state, state, SLOT_STATE(HELD, generation, generation)))
        return 0;
    planted_fence_release(1);
    hb_store_relaxed(&slot.user[0], key);
    hb_store_relaxed(&slot.user[1], key);
    return 1;
}

static void *claim_and_release(void *unused)
{
    if (!take_and_hold(SLOT_STATE(FREE, 0, 0), 1, ANN))
        return unused;
    planted_cas(3, &first_word, 0, FIRST_ENTRY);
    planted_cas(4, &slot.state, SLOT_STATE(HELD, 1, 1), SLOT_STATE(GRANTED, 1, 100));
    if (!hb_cas(&slot.state, SLOT_STATE(GRANTED, 1, 100), SLOT_STATE(RELEASING, 1, 1)))
        return unused;
    hb_cas(&first_word, FIRST_ENTRY, TOMBSTONE);
    hb_cas(&slot.state, SLOT_STATE(RELEASING, 1, 1), SLOT_STATE(FREE, 1, 0));
    return unused;
}

static void *claim_next(void *unused)
{
    uint64_t state = hb_load_acquire(&slot.state);
    assume(state == SLOT_STATE(FREE, 1, 0));
    if (!take_and_hold(state, 2, NEXT))
        return unused;
    hb_cas(&next_word, 0, NEXT_ENTRY);
    hb_cas(&slot.state, SLOT_STATE(HELD, 2, 2), SLOT_STATE(GRANTED, 2, 200));
    return unused;
}

static int read_slot(uint64_t *key, uint64_t *state)
{
    uint64_t before = planted_load(5, &slot.state);
    key[0] = hb_load_relaxed(&slot.user[0]);
    key[1] = hb_load_relaxed(&slot.user[1]);
    planted_fence_acquire(2);
    *state = hb_load_relaxed(&slot.state);
    return *state == before;
}

#ifdef PROBE
static void *read(void *unused)
{
    uint64_t key[2], state;
    uint64_t word = planted_load(7, &first_word);
    assume(word == FIRST_ENTRY);
    assume(read_slot(key, &state));
    int kind = slot_kind(state);
    int is_claim = kind == HELD || kind == GRANTED;
    if (is_claim && key[0] == ANN && key[1] == ANN && (is_planted(6) || hb_load_acquire(&first_word) == word))
        assert(slot_generation(state) == 1);
    else /* the claim is gone, or going: no user may lose theirs */
        assert(!is_claim || slot_generation(state) == 2 || hb_load_acquire(&first_word) == TOMBSTONE);
    return unused;
}
#else
static void *read(void *unused)
{
    uint64_t key[2], state;
    assume(read_slot(key, &state));
    int kind = slot_kind(state);
    if (kind == GRANTED || kind == RELEASING)
        assert(key[0] == (slot_generation(state) == 1 ? ANN : NEXT) && key[1] == key[0]);
    if (kind == FREE && slot_generation(state) == 1)
        assert(key[0] == ANN && key[1] == ANN);
    return unused;
}
#endif

int main(void)
{
    RUN(claim_and_release, claim_next, read);
    return 0;
}
