/* SOLD_OUT by two equal looks.
 *
 * Slots in other hands keep a block from being full, so a search may find nothing free and yet no full root. Then it
 * looks again: if the root's version, those of the words of blocks that were read, and every state that was seen are
 * the same in two looks in a row, all these states stood at one moment between the two, because no state comes back and
 * a release raises the version of its block's word before its first step, and that of the root too where the word was
 * full. (The root is the only word here.) The searcher reads the version before the states, and each load acquires:
 * what it sees of one slot brings along what had been done before to the other.
 *
 * There is one block of two slots here. Slot 0 is granted and slot 1 is free; another thread releases slot 0 and then
 * takes slot 1. At every moment something is free.
 *
 * Transcribes:
 *   hbcore/_claims/claim.pyx: search, take_in, search_blocks
 *   hbcore/_claims/free_map.pyx: free_map_mark, free_map_none, free_map_version, uncover, free_map_unpin
 *   hbcore/_claims/transitions.pyx: give_back, finish_release
 * Asserts: the searcher takes a slot; it is never told SOLD_OUT.
 * Configurations:
 *   PLAIN: one thread releases and takes, one searches, with three looks at most
 * Plants:
 *   1 (PLAIN): the loads of the states in a look are relaxed
 *   2 (PLAIN): the CASes that take and grant the other slot order nothing
 */
#include "kernel.h"

enum { SLOTS = 2, LOOKS = 3, OTHER = 1, SEARCHER = 2 };
#define PIN ((uint64_t)1 << 32)
#define VERSION ((uint64_t)1 << 40)

static uint64_t states[SLOTS] = {SLOT_STATE(GRANTED, 1, 100), SLOT_STATE(FREE, 0, 0)}, root;

static uint64_t pins(uint64_t word) { return word >> 32 & 255; }

static void mark(void)
{
    uint64_t word = hb_load_acquire(&root), version = word / VERSION;
    if (pins(word) || (word & 1))
        return;
    for (int i = 0; i < SLOTS; i++)
        if (!slot_is_final(hb_load_acquire(&states[i])))
            return;
    while (!hb_cas(&root, word, word | 1)) {
        word = hb_load_acquire(&root);
        if (word / VERSION != version || pins(word) || (word & 1))
            return;
    }
}

static void pin(void)
{
    uint64_t word;
    do
        word = hb_load_acquire(&root);
    while (!hb_cas(&root, word, (word & ~(uint64_t)1) + VERSION + PIN));
}

static void unpin(void)
{
    uint64_t word = hb_load_acquire(&root);
    while (pins(word) && !hb_cas(&root, word, word - PIN))
        word = hb_load_acquire(&root);
}

static void *release_and_take(void *unused)
{
    pin();
    hb_cas(&states[0], SLOT_STATE(GRANTED, 1, 100), SLOT_STATE(RELEASING, 1, OTHER));
    hb_cas(&states[0], SLOT_STATE(RELEASING, 1, OTHER), SLOT_STATE(FREE, 1, 0));
    unpin();
    if (planted_cas(2, &states[1], SLOT_STATE(FREE, 0, 0), SLOT_STATE(HELD, 1, OTHER)))
        planted_cas(2, &states[1], SLOT_STATE(HELD, 1, OTHER), SLOT_STATE(GRANTED, 1, 200));
    mark();
    return unused;
}

static void *search(void *unused)
{
    uint64_t before = 0;
    for (int turn = 0; turn < LOOKS; turn++) {
        uint64_t word = hb_load_acquire(&root);
        assert(!(word & 1) || pins(word));
        uint64_t digest = hb_load_acquire(&root) / VERSION | (uint64_t)1 << 63;
        for (int i = 0; i < SLOTS;) {
            uint64_t state = planted_load(1, &states[i]);
            if (slot_kind(state) == FREE) {
                if (hb_cas(&states[i], state, SLOT_STATE(HELD, slot_generation(state) + 1, SEARCHER)))
                    return unused;
                continue;
            }
            digest = (digest ^ state) * 0x9E3779B97F4A7C15u;
            i++;
        }
        mark();
        assert(digest != before);
        before = digest;
    }
    return unused;
}

int main(void)
{
    RUN(release_and_take, search);
    return 0;
}
