/* Levels of the hold index: a path that is closed leads on, to a level that is there and whole.
 *
 * A level is made, written whole, and named by one CAS. Only a thread that has seen it named closes a path in the level
 * before. So who meets a closed path finds the next level named; if it did not, it would call the file damaged. Each
 * process attaches a level once, after it has checked it, by storing its address for its other threads with release.
 * The same is true of the segments of the holds.
 *
 * The extent of the level is plain memory here, as it is in hbcore, so a lack of order is a data race.
 *
 * Transcribes:
 *   hbcore/_file/region.pxd: heading_of
 *   hbcore/_file/region.pyx: extent
 *   hbcore/_money/budget_base.pyx: make_next, attach
 *   hbcore/_money/hold_index.pxd: occupy, locate_in, hold_index_locate, words_of, hold_at
 * Asserts: who meets the closed path finds the level; who has its address finds it checked.
 * Configurations:
 *   PLAIN: one makes the level, one closes the path, two threads of a process go along the path
 * Plants:
 *   1 (PLAIN): the CAS that names the level orders nothing
 *   2 (PLAIN): the loads of the level's offset are relaxed
 *   3 (PLAIN): the CAS that closes the path orders nothing
 *   4 (PLAIN): the load of the word of the path is relaxed
 *   5 (PLAIN): the store of the level's address is relaxed
 *   6 (PLAIN): the load of the level's address is relaxed
 */
#include "kernel.h"

enum { PATH_CLOSED = 1, KIND_LEVEL = 4, OFFSET = 4096 };
static uint64_t level_kind, level_offset, word; /* in the mapping */
static uint64_t address, checked_kind;          /* of the process: checked_kind is what attaching has found out */
static uint64_t attaching;                      /* of the process: one thread attaches, as under the GIL */

static void *make_level(void *unused)
{
    level_kind = KIND_LEVEL;
    planted_cas(1, &level_offset, 0, OFFSET);
    return unused;
}

static void *close_path(void *unused)
{
    if (planted_load(2, &level_offset) != 0)
        planted_cas(3, &word, 0, PATH_CLOSED);
    return unused;
}

static void *go_along(void *unused)
{
    if (planted_load(4, &word) != PATH_CLOSED)
        return unused;
    if (planted_load(6, &address) == 0) {
        uint64_t offset = planted_load(2, &level_offset);
        assert(offset == OFFSET); /* or else: CORRUPT */
        assume(hb_cas(&attaching, 0, 1));
        assert(hb_load_once(&level_kind) == KIND_LEVEL);
        checked_kind = level_kind;
        planted_store(5, &address, offset);
    }
    assert(checked_kind == KIND_LEVEL);
    return unused;
}

int main(void)
{
    RUN(make_level, close_path, go_along, go_along);
    return 0;
}
