/* Replacement of the index table, against an insertion in flight and against a release with reuse of the slot.
 *
 * Helpers freeze every entry of the old table, copy it to the first empty word of its path in the new one, and call it
 * moved. A helper reads the key in the slot, looks for the first empty word, and looks again whether the old word is
 * still frozen. If it is, no helper had finished the copy, so nothing of the claim was released, so the key is the
 * claim's own, and a copy by another helper would have been seen on the path before that word. So the CAS on that word
 * decides, once. (The second look may be relaxed, because the load of the new word before it acquires; and the CAS that
 * copies, because nobody goes by the new table before the CAS that calls the old word moved.)
 *
 * Tables have two words here. Slot 0 is Ann's, whose entry stands in word 0 of the table of generation 0.
 *
 * Transcribes:
 *   hbcore/_claims/index.pyx: index_help, move_table, copy_entry
 *   hbcore/_claims/ledger.pyx: ledger_find
 *   hbcore/_claims/index.pxd: entry_prefix, empty_word, tombstone_word, moved_word
 *   hbcore/_claims/transitions.pyx: give_back, finish_release, locate, bury
 *   hbcore/_claims/claim.pyx: hold, ledger_claim
 *   hbcore/_claims/group.pyx: ledger_claim_plain
 * Asserts: each entry stands in the new table exactly once; the old table is all moved; what was released is a
 *   tombstone.
 * Configurations:
 *   PLAIN: two helpers
 *   INSERT: and a claim whose publishing CAS is in flight
 *   RELEASE: and a release of Ann's claim after the replacement, with the slot taken by another user
 *   RELEASE + SAME_TAG: the other user has Ann's tag and another home
 *   RELEASE + SELF: the releaser helps as well
 *   FIND: one helper, and a thread that looks for Ann's claim
 * Plants:
 *   1 (RELEASE + SAME_TAG): copy_entry has no acquire fence
 *   2 (RELEASE, RELEASE + SAME_TAG, RELEASE + SELF): the load of a word of the new table is relaxed
 *   3 (RELEASE, RELEASE + SAME_TAG, RELEASE + SELF): the second look at the old word is left out
 *   4 (PLAIN, INSERT): a helper does not know its own entry in the new table
 *   5 (RELEASE, RELEASE + SAME_TAG, RELEASE + SELF): the CAS that calls the old word moved orders nothing
 *   6 (INSERT): an empty word is called moved by a store
 *   7 (RELEASE, RELEASE + SAME_TAG, RELEASE + SELF): the load of a word of the old table is relaxed
 *   8 (FIND): the load of the index state is relaxed
 *   9 (FIND): the CAS that ends the replacement orders nothing
 */
#include "kernel.h"

enum { WORDS = 2, ANN = 1, BOB = 2, CYD = 3 };
enum { EMPTY, ENTRY, FROZEN, GONE };
#ifdef SAME_TAG
#define TAG_OF(key) 1
static int home_of(uint64_t key) { return key == CYD; }
#else
#define TAG_OF(key) (key)
static int home_of(uint64_t key)
{
    (void)key;
    return 0;
}
#endif
#define EMPTY_WORD(generation) ((uint64_t)(generation) >> 1)
#define ENTRY_WORD(generation, key, slot) \
    ((uint64_t)ENTRY << 62 | (uint64_t)(generation) << 16 | (uint64_t)TAG_OF(key) << 8 | (slot))
#define TOMBSTONE(generation) ((uint64_t)GONE << 62 | (uint64_t)(generation) << 1)
#define MOVED(generation) (TOMBSTONE(generation) | 1)
#define FREEZE ((uint64_t)(ENTRY ^ FROZEN) << 62)
enum { PHASE_MOVE = 2, PHASE_MASK = 3, PHASE_BITS = 2 };

static struct slot slots[2] = {
    {SLOT_STATE(GRANTED, 1, 100), {ANN, ANN}, 0},
    {SLOT_STATE(HELD, 1, 2), {BOB, BOB}, 0},
};
static uint64_t tables[2][WORDS] = {{ENTRY_WORD(0, ANN, 0), 0}, {0, 0}}, index_state = PHASE_MOVE;
static int is_inserted;

static int copy_entry(uint64_t generation, const uint64_t *place, uint64_t frozen)
{
    uint64_t *table = tables[(generation + 1) & 1];
    uint64_t slot = frozen & 1;
    uint64_t low = hb_load_relaxed(&slots[slot].user[0]), high = hb_load_relaxed(&slots[slot].user[1]);
    planted_fence_acquire(1);
    if ((frozen ^ FREEZE) != ENTRY_WORD(generation, low, slot) || low != high)
        return hb_load_acquire(place) != frozen;
    uint64_t entry = ENTRY_WORD(generation + 1, low, slot);
    for (int at = home_of(low); at < WORDS; at++)
        for (;;) {
            uint64_t word = planted_load(2, &table[at]);
            if (!is_planted(4) && word == entry)
                return 1;
            if (word != EMPTY_WORD(generation + 1))
                break;
            if (!is_planted(3) && hb_load_acquire(place) != frozen)
                return 1;
            if (hb_cas(&table[at], EMPTY_WORD(generation + 1), entry))
                return 1;
        }
    return 0;
}

static int move_table(uint64_t state)
{
    uint64_t generation = state >> PHASE_BITS;
    for (int i = 0; i < WORDS; i++)
        for (;;) {
            uint64_t *place = &tables[generation & 1][i];
            uint64_t word = planted_load(7, place);
            if (word == MOVED(generation))
                break;
            if (word == EMPTY_WORD(generation) || word == TOMBSTONE(generation)) {
                if (is_planted(6))
                    hb_store_relaxed(place, MOVED(generation));
                else
                    hb_cas(place, word, MOVED(generation));
                continue;
            }
            if (hb_load_acquire(&index_state) != state)
                return 0;
            if (word >> 62 == ENTRY) {
                hb_cas(place, word, word ^ FREEZE);
                continue;
            }
            if (word >> 62 != FROZEN || !copy_entry(generation, place, word))
                return 0;
            planted_cas(5, place, word, MOVED(generation));
        }
    return 1;
}

static void help(uint64_t state)
{
    if (move_table(state))
        planted_cas(9, &index_state, state, ((state >> PHASE_BITS) + 1) << PHASE_BITS);
}

static void *help_once(void *unused)
{
    help(PHASE_MOVE);
    return unused;
}

/* This thread has seen a stable index of generation 0 before the replacement began. */
static void *insert(void *unused)
{
    if (hb_load_acquire(&tables[0][1]) == EMPTY_WORD(0))
        is_inserted = hb_cas(&tables[0][1], EMPTY_WORD(0), ENTRY_WORD(0, BOB, 1));
    return unused;
}

static void *release_and_take(void *unused)
{
    uint64_t state = hb_load_acquire(&index_state);
#ifdef SELF
    if (state & PHASE_MASK) {
        help(state);
        state = hb_load_acquire(&index_state);
    }
#endif
    assume(!(state & PHASE_MASK));
    hb_cas(&slots[0].state, SLOT_STATE(GRANTED, 1, 100), SLOT_STATE(RELEASING, 1, 1));
    for (int at = 0;; at++) {
        assert(at < WORDS);
        if (hb_load_acquire(&tables[1][at]) == ENTRY_WORD(1, ANN, 0)) {
            assert(hb_cas(&tables[1][at], ENTRY_WORD(1, ANN, 0), TOMBSTONE(1)));
            break;
        }
    }
    hb_cas(&slots[0].state, SLOT_STATE(RELEASING, 1, 1), SLOT_STATE(FREE, 1, 0));
    hb_cas(&slots[0].state, SLOT_STATE(FREE, 1, 0), SLOT_STATE(HELD, 2, 1));
    hb_fence_release();
    hb_store_relaxed(&slots[0].user[0], CYD);
    hb_store_relaxed(&slots[0].user[1], CYD);
    for (int at = home_of(CYD);; at++) {
        assert(at < WORDS);
        if (hb_load_acquire(&tables[1][at]) == EMPTY_WORD(1)) {
            assert(hb_cas(&tables[1][at], EMPTY_WORD(1), ENTRY_WORD(1, CYD, 0)));
            break;
        }
    }
    return unused;
}

static void *find(void *unused)
{
    uint64_t state = planted_load(8, &index_state);
    assume(!(state & PHASE_MASK));
    assert(hb_load_acquire(&tables[1][0]) == ENTRY_WORD(1, ANN, 0));
    return unused;
}

static int count(uint64_t word) { return (tables[1][0] == word) + (tables[1][1] == word); }

int main(void)
{
#if defined INSERT
    RUN(help_once, help_once, insert);
#elif defined RELEASE
    RUN(help_once, help_once, release_and_take);
#elif defined FIND
    RUN(help_once, find);
#else
    RUN(help_once, help_once);
#endif
    assert(index_state == 1 << PHASE_BITS);
    assert(tables[0][0] == MOVED(0) && tables[0][1] == MOVED(0));
#if defined RELEASE && defined SAME_TAG
    assert(tables[1][0] == TOMBSTONE(1) && tables[1][1] == ENTRY_WORD(1, CYD, 0));
#elif defined RELEASE
    assert(count(ENTRY_WORD(1, ANN, 0)) == 0 && count(TOMBSTONE(1)) == 1 && count(ENTRY_WORD(1, CYD, 0)) == 1);
#else
    assert(count(ENTRY_WORD(1, ANN, 0)) == 1 && count(ENTRY_WORD(1, BOB, 1)) == is_inserted);
#endif
    (void)insert, (void)release_and_take, (void)find;
    return 0;
}
