/* The second table of an index: it is made before a replacement begins, so whoever meets a replacement finds it.
 *
 * A claim that needs the table makes it as an extent of its own, and one CAS names it in the envelope. Only a thread
 * that has seen it named begins the replacement. A thread of another process that meets the replacement, or what stands
 * after it, meets the table then; if it were not named, or not whole, it would call the file damaged. Each handle meets
 * the table once, after it has checked it, by storing its address for its other threads with release.
 *
 * The extent of the table is plain memory here, as it is in hbcore, so a lack of order is a data race.
 *
 * Transcribes:
 *   hbcore/_file/region.pxd: heading_of
 *   hbcore/_file/region.pyx: extent
 *   hbcore/envelope.pyx: make_table, meet_table
 *   hbcore/_claims/ledger.pxd: begin_replacement, table_at_hand
 *   hbcore/_claims/ledger.pyx: help_on
 *   hbcore/_claims/index.pyx: index_start_replacement
 * Asserts: who meets the replacement finds the table; who has its address finds it checked.
 * Configurations:
 *   PLAIN: one makes the table, one finds it made and begins the replacement, two threads of a third process meet that
 * Plants:
 *   1 (PLAIN): the CAS that names the table orders nothing
 *   2 (PLAIN): the loads of the table's offset are relaxed
 *   3 (PLAIN): the CAS that begins the replacement orders nothing
 *   4 (PLAIN): the load of the index state is relaxed
 *   5 (PLAIN): the store of the table's address is relaxed
 *   6 (PLAIN): the load of the table's address is relaxed
 *   7 (PLAIN): the replacement begins before the table is named
 */
#include "kernel.h"

enum { PHASE_RESET = 1, KIND_TABLE = 7, OFFSET = 4096 };
static uint64_t table_kind, second_table, index_state; /* in the mapping */
static uint64_t address, checked_kind;                 /* of a handle: checked_kind is what meeting has found out */
static uint64_t meeting;                               /* of a handle: one thread meets the table, as under the GIL */

static void *make_table(void *unused)
{
    table_kind = KIND_TABLE;
    planted_cas(1, &second_table, 0, OFFSET);
    return unused;
}

static void *begin_replacement(void *unused)
{
    if (planted_load(2, &second_table) != 0 || is_planted(7))
        planted_cas(3, &index_state, 0, PHASE_RESET);
    return unused;
}

static void *meet_replacement(void *unused)
{
    if (planted_load(4, &index_state) != PHASE_RESET)
        return unused;
    if (planted_load(6, &address) == 0) {
        uint64_t offset = planted_load(2, &second_table);
        assert(offset == OFFSET); /* or else: CORRUPT */
        assume(hb_cas(&meeting, 0, 1));
        assert(hb_load_once(&table_kind) == KIND_TABLE);
        checked_kind = table_kind;
        planted_store(5, &address, offset);
    }
    assert(checked_kind == KIND_TABLE);
    return unused;
}

int main(void)
{
    RUN(make_table, begin_replacement, meet_replacement, meet_replacement);
    return 0;
}
