/* Two requests of one user while the index table is replaced: one claim, and both answer with its slot.
 *
 * A claim goes to the first empty word of its user's path, and by one CAS, so two requests of one user meet at one
 * word. A replacement calls every empty word moved first, so a request whose table is being replaced fails there and
 * goes on in the next table. It reads the generation from the index state and every word by an acquire load.
 *
 * Tables have two words here. The first word of the table of generation 0 is a tombstone, so the path has two words.
 *
 * Transcribes:
 *   hbcore/_claims/claim.pyx: ledger_claim, hold
 *   hbcore/_claims/ledger.pxd: probe
 *   hbcore/_claims/ledger.pyx: help_on
 *   hbcore/_claims/index.pyx: index_start_replacement, index_help, reset_table, move_table, copy_entry
 * Asserts: both requests are answered with the same slot, and the new table has one entry; who meets a word that is
 *   frozen or moved sees that the index state has changed.
 * Configurations:
 *   PLAIN: two requests, and a thread that replaces the table
 * Plants:
 *   1 (PLAIN): the load of an index word by a request is relaxed
 *   2 (PLAIN): the CAS that publishes orders nothing
 *   3 (PLAIN): an empty word is called moved by a store
 */
#include "kernel.h"

enum { WORDS = 2, ANN = 1, TURNS = 5 };
enum { EMPTY, ENTRY, FROZEN, GONE };
#define EMPTY_WORD(generation) ((uint64_t)(generation) >> 1)
#define ENTRY_WORD(generation, key, slot) \
    ((uint64_t)ENTRY << 62 | (uint64_t)(generation) << 16 | (uint64_t)(key) << 8 | (slot))
#define TOMBSTONE(generation) ((uint64_t)GONE << 62 | (uint64_t)(generation) << 1)
#define MOVED(generation) (TOMBSTONE(generation) | 1)
#define FREEZE ((uint64_t)(ENTRY ^ FROZEN) << 62)
enum { PHASE_RESET = 1, PHASE_MOVE = 2, PHASE_MASK = 3, PHASE_BITS = 2 };

static struct slot slots[2];
static uint64_t tables[2][WORDS] = {{TOMBSTONE(0), 0}, {0, 0}}, index_state;
static int answers[2];

static int copy_entry(uint64_t generation, const uint64_t *place, uint64_t frozen)
{
    uint64_t *table = tables[(generation + 1) & 1];
    uint64_t slot = frozen & 1;
    uint64_t low = hb_load_relaxed(&slots[slot].user[0]), high = hb_load_relaxed(&slots[slot].user[1]);
    hb_fence_acquire();
    if ((frozen ^ FREEZE) != ENTRY_WORD(generation, low, slot) || low != high)
        return hb_load_acquire(place) != frozen;
    uint64_t entry = ENTRY_WORD(generation + 1, low, slot);
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
                if (is_planted(3))
                    hb_store_relaxed(place, MOVED(generation));
                else
                    hb_cas(place, word, MOVED(generation));
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
            hb_cas(place, word, MOVED(generation));
        }
    hb_cas(&index_state, state, (generation + 1) << PHASE_BITS);
}

static int claim(int mine)
{
    int is_holding = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t state = hb_load_acquire(&index_state);
        if (state & PHASE_MASK) {
            help(state);
            continue;
        }
        uint64_t generation = state >> PHASE_BITS, *table = tables[generation & 1];
        for (;;) {
            int at, found = -1, is_moving = 0;
            for (at = 0; at < WORDS; at++) {
                uint64_t word = planted_load(1, &table[at]);
                if (word == EMPTY_WORD(generation))
                    break;
                if ((word & ~(uint64_t)1) == ENTRY_WORD(generation, ANN, 0)) {
                    const struct slot *slot = &slots[word & 1];
                    assert(hb_load_relaxed(&slot->user[0]) == ANN && hb_load_relaxed(&slot->user[1]) == ANN);
                    if (hb_load_acquire(&table[at]) == word)
                        found = (int)(word & 1);
                    else
                        is_moving = 1;
                    break;
                }
                if (word != TOMBSTONE(generation) && word >> 62 != ENTRY) {
                    is_moving = 1;
                    break;
                }
            }
            if (found >= 0)
                return found;
            if (is_moving)
                assert(hb_load_acquire(&index_state) != state); /* or else: CORRUPT */
            if (is_moving || at == WORDS)
                break;
            if (!is_holding) {
                hb_fence_release();
                hb_store_relaxed(&slots[mine].user[0], ANN);
                hb_store_relaxed(&slots[mine].user[1], ANN);
                is_holding = 1;
            }
            if (planted_cas(2, &table[at], EMPTY_WORD(generation), ENTRY_WORD(generation, ANN, mine)))
                return mine;
        }
    }
    assume(0);
    return -1;
}

static void *claim_0(void *unused)
{
    answers[0] = claim(0);
    return unused;
}

static void *claim_1(void *unused)
{
    answers[1] = claim(1);
    return unused;
}

static void *replace(void *unused)
{
    if (hb_cas(&index_state, 0, PHASE_RESET)) {
        help(PHASE_RESET);
        help(PHASE_MOVE);
    }
    return unused;
}

int main(void)
{
    RUN(claim_0, claim_1, replace);
    assert(answers[0] == answers[1]);
    if (index_state == 1 << PHASE_BITS)
        assert((tables[1][0] >> 62 == ENTRY) + (tables[1][1] >> 62 == ENTRY) == 1);
    return 0;
}
