/* The directory: an object is made by the one CAS that names it, and who finds it finds it whole.
 *
 * A maker writes its extent whole, and then puts it into the first empty word of the path of its name. Two makers of
 * one name meet at one word; the loser reads the winner's object and retires its own. Anybody who finds an object calls
 * it LIVE. A level of the directory is made in the same way.
 *
 * The extents and the header of the level are plain memory here, as they are in hbcore, so a lack of order is a data
 * race.
 *
 * Transcribes:
 *   hbcore/_file/region.pxd: heading_of
 *   hbcore/_file/region.pyx: extent
 *   hbcore/_file/directory.pyx: walk, names, level_buckets, make_level, publish_extent, retire_extent, directory_insert
 *   hbcore/_file/directory.pyx: directory_find
 * Asserts: who comes by a word reads the object of that name; in the end one of the two objects is live, the other
 *   retired.
 * Configurations:
 *   PLAIN: two make one object in a level that one of them has made, one finds it
 * Plants:
 *   1 (PLAIN): the CAS that names the object orders nothing
 *   2 (PLAIN): the load of the word is relaxed
 *   3 (PLAIN): the CAS that publishes the level orders nothing
 *   4 (PLAIN): the load of the level's offset is relaxed
 */
#include "kernel.h"

enum { MAKING = 1, LIVE = 2, RETIRED = 3, KIND = 2, KIND_DIRECTORY = 1, NAME = 7, OFFSET_OF_LEVEL = 4096 };
static struct {
    uint64_t state, kind, name;
} extents[2] = {{MAKING, 0, 0}, {MAKING, 0, 0}};
static uint64_t level_offset, level_kind, word;

static int has_level(void)
{
    if (planted_load(4, &level_offset) == 0)
        return 0;
    assert(hb_load_once(&level_kind) == KIND_DIRECTORY);
    return 1;
}

static void publish_extent(uint64_t number)
{
    uint64_t state = hb_load_acquire(&extents[number].state);
    if (state == MAKING)
        hb_cas(&extents[number].state, state, LIVE);
}

/* Return the number of the object that has the name, plus 1. */
static uint64_t walk(uint64_t offset)
{
    uint64_t found = planted_load(2, &word);
    if (found == 0) {
        if (offset == 0)
            return 0;
        if (planted_cas(1, &word, 0, offset))
            return offset;
        found = planted_load(2, &word);
    }
    assert(hb_load_once(&extents[found - 1].kind) == KIND && extents[found - 1].name == NAME);
    return found;
}

static void make(uint64_t number)
{
    extents[number].kind = KIND;
    extents[number].name = NAME;
    if (number == 0) {
        level_kind = KIND_DIRECTORY;
        planted_cas(3, &level_offset, 0, OFFSET_OF_LEVEL);
    }
    assume(has_level());
    uint64_t winner = walk(number + 1);
    if (winner != number + 1)
        hb_cas(&extents[number].state, MAKING, RETIRED);
    publish_extent(winner - 1);
}

static void *make_0(void *unused)
{
    make(0);
    return unused;
}

static void *make_1(void *unused)
{
    make(1);
    return unused;
}

static void *find(void *unused)
{
    if (has_level()) {
        uint64_t found = walk(0);
        if (found)
            publish_extent(found - 1);
    }
    return unused;
}

int main(void)
{
    RUN(make_0, make_1, find);
    assert(extents[0].state + extents[1].state == LIVE + RETIRED && extents[word - 1].state == LIVE);
    return 0;
}
