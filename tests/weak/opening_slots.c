/* Opening of slots while one thread marks and another searches.
 *
 * An opening raises open_count, then pins the word over the first new slot, clears the bits over it and raises their
 * versions, raises cleared_count as well, and takes its pin away. A bit that was set from a look with the old count is
 * cleared, or its CAS fails on the version; a bit that is set after the clearing was set from a word that was read
 * after it, and so with the new count. A thread that finds nothing free finishes an opening that another has begun, and
 * believes only a look during which the counts were equal and stayed so. (The marker's load of open_count may be
 * relaxed: a word from after the clearing brings it along.)
 *
 * There is one block of two slots. The first is granted, the second is opened, and nobody takes it.
 *
 * Transcribes:
 *   hbcore/_claims/free_map.pyx: free_map_open, free_map_opened, uncover, free_map_unpin, free_map_mark
 *   hbcore/_claims/free_map.pyx: block_is_final, is_full
 *   hbcore/_claims/free_map.pxd: open_slots
 *   hbcore/_claims/claim.pyx: search, has_grown
 * Asserts: SOLD_OUT is told only before the opening; in the end no bit lies over the new slot.
 * Configurations:
 *   PLAIN: one opens, one marks, one searches
 *   DIES: the opener dies when it has raised open_count
 * Plants:
 *   1 (PLAIN, DIES): the marker's load of the word is relaxed
 *   2 (PLAIN, DIES): the CAS that pins and clears, and the one that takes the pin away, order nothing
 *   3 (PLAIN, DIES): the bits are not cleared
 *   4 (PLAIN, DIES): the version is not raised
 *   5 (PLAIN): the loads of cleared_count are relaxed
 *   6 (PLAIN): the CAS that raises cleared_count orders nothing
 */
#include "kernel.h"

#define PIN ((uint64_t)1 << 32)
#define VERSION ((uint64_t)1 << 40)
static uint64_t states[2] = {SLOT_STATE(GRANTED, 1, 100), 0}, root, open_count = 1, cleared_count = 1, is_opened;

static uint64_t pins(uint64_t word) { return word >> 32 & 255; }

static void mark(void)
{
    uint64_t word = planted_load(1, &root), version = word / VERSION;
    if ((word & 1) || pins(word))
        return;
    uint64_t end = hb_load_acquire(&open_count);
    for (uint64_t i = 0; i < end; i++)
        if (!slot_is_final(hb_load_acquire(&states[i])))
            return;
    while (!hb_cas(&root, word, word | 1)) {
        word = hb_load_acquire(&root);
        if (word / VERSION != version || (word & 1) || pins(word))
            return;
    }
}

static void uncover(void)
{
    for (;;) {
        uint64_t word = hb_load_acquire(&root);
        if (planted_cas(2, &root, word, (word & ~(uint64_t)1) + (is_planted(4) ? 0 : VERSION) + PIN))
            return;
    }
}

static void unpin(void)
{
    uint64_t word = hb_load_acquire(&root);
    while (pins(word) && !planted_cas(2, &root, word, word - PIN))
        word = hb_load_acquire(&root);
}

static uint64_t finish_opening(void)
{
    uint64_t cleared = planted_load(5, &cleared_count), count = hb_load_acquire(&open_count);
    while (cleared != count) {
        if (!is_planted(3))
            uncover();
        planted_cas(6, &cleared_count, cleared, count);
        unpin();
        cleared = planted_load(5, &cleared_count);
        count = hb_load_acquire(&open_count);
    }
    return count;
}

static void *open_slot(void *unused)
{
    if (finish_opening() == 1) {
        hb_cas(&open_count, 1, 2);
#ifndef DIES
        finish_opening();
        hb_store_release(&is_opened, 1);
#endif
    }
    return unused;
}

static void *mark_it(void *unused)
{
    mark();
    return unused;
}

static void *search(void *unused)
{
    int was_opened = hb_load_acquire(&is_opened) == 1;
    uint64_t count = finish_opening();
    uint64_t word = hb_load_acquire(&root);
    if ((word & 1) && pins(word) == 0 && hb_load_acquire(&open_count) == count)
        assert(!was_opened && count == 1);
    return unused;
}

int main(void)
{
    RUN(open_slot, mark_it, search);
    if (cleared_count == 2)
        assert(!(root & 1));
    return 0;
}
