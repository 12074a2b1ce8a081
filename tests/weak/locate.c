/* Looking for a claim by its slot while the index table is replaced: an entry that is there is found.
 *
 * A thread that gives a slot back, or reclaims it from the dead, looks for the index word that names it. If there is
 * none, it believes that only if the index state is the same after the look as before: then the table that it looked at
 * was the only one all the while. A word that is frozen or moved brings the new state along, because the helper that
 * wrote it had read that state. So the slot of a claim is never taken for one that nobody was answered about.
 *
 * Tables have two words here. The entry stands in word 1 of the table of generation 0, behind a tombstone.
 *
 * Transcribes:
 *   hbcore/_claims/transitions.pyx: locate, ledger_reclaim, bury
 *   hbcore/_claims/ledger.pyx: help_on
 *   hbcore/_claims/index.pyx: index_start_replacement, index_help, reset_table, move_table, copy_entry
 * Asserts: the entry is found, in one table or the other.
 * Configurations:
 *   PLAIN: one replaces the table, one looks
 *   TWO_HELPERS: two replace the table, one looks
 * Plants:
 *   1 (PLAIN, TWO_HELPERS): the load of an index word is relaxed
 *   2 (PLAIN, TWO_HELPERS): the first load of the index state is relaxed
 *   3 (PLAIN, TWO_HELPERS): the CAS that ends the replacement orders nothing
 *   4 (PLAIN, TWO_HELPERS): the last look at the index state is left out
 *   5 (PLAIN, TWO_HELPERS): the CAS that calls a word moved orders nothing
 */
#include "kernel.h"

enum { WORDS = 2, ANN = 1, TURNS = 4 };
enum { EMPTY, ENTRY, FROZEN, GONE };
#define EMPTY_WORD(generation) ((uint64_t)(generation) >> 1)
#define ENTRY_WORD(generation, key, slot) \
    ((uint64_t)ENTRY << 62 | (uint64_t)(generation) << 16 | (uint64_t)(key) << 8 | (slot))
#define TOMBSTONE(generation) ((uint64_t)GONE << 62 | (uint64_t)(generation) << 1)
#define MOVED(generation) (TOMBSTONE(generation) | 1)
#define FREEZE ((uint64_t)(ENTRY ^ FROZEN) << 62)
enum { PHASE_RESET = 1, PHASE_MOVE = 2, PHASE_MASK = 3, PHASE_BITS = 2 };

static uint64_t tables[2][WORDS] = {{TOMBSTONE(0), ENTRY_WORD(0, ANN, 0)}, {0, 0}}, index_state;

/* The key is read in the slot, which does not change here. */
static int copy_entry(uint64_t generation, const uint64_t *place, uint64_t frozen)
{
    uint64_t *table = tables[(generation + 1) & 1], entry = ENTRY_WORD(generation + 1, ANN, 0);
    for (int at = 0; at < WORDS; at++)
        for (;;) {
            uint64_t word = hb_load_acquire(&table[at]);
            if (word == entry)
                return 1;
            if (word != EMPTY_WORD(generation + 1))
                break;
            if (hb_load_acquire(place) != frozen)
                return 1;
            if (hb_cas(&table[at], EMPTY_WORD(generation + 1), entry))
                return 1;
        }
    return 0;
}

static void help(uint64_t state)
{
    uint64_t generation = state >> PHASE_BITS;
    if ((state & PHASE_MASK) == PHASE_RESET) { /* the second table was never used */
        hb_cas(&index_state, state, generation << PHASE_BITS | PHASE_MOVE);
        return;
    }
    for (int i = 0; i < WORDS; i++)
        for (;;) {
            uint64_t *place = &tables[generation & 1][i];
            uint64_t word = hb_load_acquire(place);
            if (word == MOVED(generation))
                break;
            if (word == EMPTY_WORD(generation) || word == TOMBSTONE(generation)) {
                planted_cas(5, place, word, MOVED(generation));
                continue;
            }
            if (hb_load_acquire(&index_state) != state)
                return;
            if (word >> 62 == ENTRY) {
                hb_cas(place, word, word ^ FREEZE);
                continue;
            }
            if (word >> 62 != FROZEN || !copy_entry(generation, place, word))
                return;
            planted_cas(5, place, word, MOVED(generation));
        }
    planted_cas(3, &index_state, state, (generation + 1) << PHASE_BITS);
}

static void *replace(void *unused)
{
    hb_cas(&index_state, 0, PHASE_RESET);
    help(PHASE_RESET);
    help(PHASE_MOVE);
    return unused;
}

static void *locate(void *unused)
{
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t state = planted_load(2, &index_state);
        if (state & PHASE_MASK) {
            help(state);
            continue;
        }
        uint64_t generation = state >> PHASE_BITS, *table = tables[generation & 1];
        for (int at = 0; at < WORDS; at++) {
            uint64_t word = planted_load(1, &table[at]);
            if (word == ENTRY_WORD(generation, ANN, 0))
                return unused;
            if (word == EMPTY_WORD(generation) || (word >> 62 != ENTRY && word != TOMBSTONE(generation)))
                break;
        }
        assert(!is_planted(4) && hb_load_acquire(&index_state) != state); /* or else: NOT_FOUND, or CORRUPT */
    }
    assume(0);
    return unused;
}

int main(void)
{
#ifdef TWO_HELPERS
    RUN(replace, replace, locate);
#else
    RUN(replace, locate);
#endif
    return 0;
}
