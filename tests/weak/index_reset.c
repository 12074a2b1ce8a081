/* Replacement of an index table by one that was used before: it is made empty first, by every thread that helps.
 *
 * A word of the other table becomes empty only from what the generation before left there, by a CAS from that very
 * word; so a helper that comes late overwrites nothing. The phase goes on to the copying by a CAS of a thread that has
 * seen every word empty, and who reads the new phase sees them empty as well. Otherwise an entry would be copied behind
 * a word that only seems to be taken, where no path finds it. (The helper's first load of the state may be relaxed,
 * because it looks at the state again, with acquire, before it copies.)
 *
 * Tables have two words here. Generation 1 has one entry, at its home, word 0; the other table is all moved, of
 * generation 0.
 *
 * Transcribes:
 *   hbcore/_claims/index.pyx: index_help, reset_table, move_table, copy_entry
 *   hbcore/_claims/index.pxd: empty_word, moved_word
 * Asserts: in the end the entry stands at its home in the new table, the other word is empty, and the state is stable.
 * Configurations:
 *   PLAIN: two threads help until the state is stable
 * Plants:
 *   1 (PLAIN): the CAS that ends the reset orders nothing
 *   2 (PLAIN): a word is made empty by a store
 */
#include "kernel.h"

enum { WORDS = 2, ANN = 1, STEPS = 2 };
enum { EMPTY, ENTRY, FROZEN, GONE };
#define EMPTY_WORD(generation) ((uint64_t)(generation) >> 1)
#define ENTRY_WORD(generation, key) ((uint64_t)ENTRY << 62 | (uint64_t)(generation) << 16 | (uint64_t)(key) << 8)
#define MOVED(generation) ((uint64_t)GONE << 62 | (uint64_t)(generation) << 1 | 1)
#define FREEZE ((uint64_t)(ENTRY ^ FROZEN) << 62)
enum { PHASE_RESET = 1, PHASE_MOVE = 2, PHASE_MASK = 3, PHASE_BITS = 2 };

static uint64_t tables[2][WORDS] = {{MOVED(0), MOVED(0)}, {ENTRY_WORD(1, ANN), 0}};
static uint64_t index_state = 1 << PHASE_BITS | PHASE_RESET;

static int reset_table(uint64_t state)
{
    uint64_t generation = state >> PHASE_BITS, *table = tables[(generation + 1) & 1];
    for (int i = 0; i < WORDS; i++) {
        uint64_t word = hb_load_acquire(&table[i]);
        if (word == MOVED(generation - 1)) {
            if (is_planted(2))
                hb_store_relaxed(&table[i], EMPTY_WORD(generation + 1));
            else
                hb_cas(&table[i], word, EMPTY_WORD(generation + 1));
        } else if (word != EMPTY_WORD(generation + 1) && hb_load_acquire(&index_state) != state) {
            return 0;
        }
    }
    return hb_load_acquire(&index_state) == state;
}

static int copy_entry(uint64_t generation, const uint64_t *place, uint64_t frozen)
{
    uint64_t *table = tables[(generation + 1) & 1], entry = ENTRY_WORD(generation + 1, ANN);
    for (int at = 0; at < WORDS; at++) {
        uint64_t word = hb_load_acquire(&table[at]);
        if (word == entry)
            return 1;
        if (word != EMPTY_WORD(generation + 1))
            continue;
        if (hb_load_acquire(place) != frozen || hb_cas(&table[at], EMPTY_WORD(generation + 1), entry))
            return 1;
        at--; /* another has written here: look again */
    }
    return 0;
}

static int move_table(uint64_t state)
{
    uint64_t generation = state >> PHASE_BITS;
    for (int i = 0; i < WORDS; i++)
        for (;;) {
            uint64_t *place = &tables[generation & 1][i];
            uint64_t word = hb_load_acquire(place);
            if (word == MOVED(generation))
                break;
            if (word == EMPTY_WORD(generation)) {
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
            hb_cas(place, word, MOVED(generation));
        }
    return 1;
}

static void *help(void *unused)
{
    for (int step = 0; step < STEPS; step++) {
        uint64_t state = hb_load_acquire(&index_state), generation = state >> PHASE_BITS;
        if ((state & PHASE_MASK) == PHASE_RESET) {
            if (reset_table(state))
                planted_cas(1, &index_state, state, generation << PHASE_BITS | PHASE_MOVE);
        } else if ((state & PHASE_MASK) == PHASE_MOVE) {
            if (move_table(state))
                hb_cas(&index_state, state, (generation + 1) << PHASE_BITS);
        }
    }
    return unused;
}

int main(void)
{
    RUN(help, help);
    assert(index_state == 2 << PHASE_BITS);
    assert(tables[0][0] == ENTRY_WORD(2, ANN) && tables[0][1] == EMPTY_WORD(2));
    return 0;
}
