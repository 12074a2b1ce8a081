/* Tranches: what a top-up has added is found whole by whoever gets one of its packets.
 *
 * A tranche is written whole, then appended to the chain of its envelope by one CAS, and only then are its slots opened
 * by raising open_count; any thread that finds it in the chain may do so. So a thread that takes one of the new slots
 * finds the chain as long as it must be; if it did not, it would call the file damaged. Each handle keeps a chain of
 * private copies: a thread makes a copy of a tranche whole and appends it by a CAS, and the word for the last copy that
 * is known is a release store, with acquire loads.
 *
 * Transcribes:
 *   hbcore/envelope.pyx: attach_tranche
 *   hbcore/_file/record.pyx: record_copy
 *   hbcore/_ops/top_up.pyx: write_tranche, append, finish_tranches
 *   hbcore/_claims/packets.pyx: deck_open, prepare_packet
 *   hbcore/_claims/packets.pxd: later_tranche_of
 *   hbcore/_claims/tranche.pyx: tranche_join, tranche_step, tranche_with
 *   hbcore/_claims/free_map.pyx: free_map_open
 *   hbcore/_claims/free_map.pxd: open_slots
 * Asserts: who has taken a slot of the tranche finds the tranche in the chain and reads its terms.
 * Configurations:
 *   PLAIN: one appends and opens, another opens what it finds in the chain, two threads of a handle get new packets
 * Plants:
 *   1 (PLAIN): the CAS that appends orders nothing
 *   2 (PLAIN): the CAS that raises open_count orders nothing
 *   3 (PLAIN): the load of open_count is relaxed
 *   4 (PLAIN): the load of the offset of the next tranche is relaxed
 *   5 (PLAIN): the CAS that appends a private copy orders nothing
 *   6 (PLAIN): the loads of the address of the next private copy are relaxed
 *   7 (PLAIN): the store of the address of the last private copy is relaxed
 *   8 (PLAIN): the load of the address of the last private copy is relaxed
 */
#include "kernel.h"

enum { OFFSET = 1, TERMS = 5 };
static uint64_t terms, following, open_count = 1; /* in the mapping */
static uint64_t copies[2], next, last;            /* of the handle; copies and terms are plain memory */

static void open_tranche(void)
{
    if (hb_load_acquire(&open_count) == 1)
        planted_cas(2, &open_count, 1, 2);
}

static void *append(void *unused)
{
    terms = TERMS;
    if (planted_cas(1, &following, 0, OFFSET))
        open_tranche();
    return unused;
}

static void *finish(void *unused)
{
    if (planted_load(4, &following) != 0)
        open_tranche();
    return unused;
}

/* Threads make their copies in places of their own, and the first that appends it wins. */
static void claim(int thread)
{
    if (planted_load(3, &open_count) == 1)
        return;
    uint64_t known = planted_load(8, &last);
    if (known == 0) {
        if (planted_load(6, &next) == 0) {
            assert(planted_load(4, &following) == OFFSET);
            copies[thread] = terms;
            planted_cas(5, &next, 0, (uint64_t)thread + 1);
        }
        known = planted_load(6, &next);
        planted_store(7, &last, known);
    }
    assert(copies[known - 1] == TERMS);
}

static void *claim_0(void *unused)
{
    claim(0);
    return unused;
}

static void *claim_1(void *unused)
{
    claim(1);
    return unused;
}

int main(void)
{
    RUN(append, finish, claim_0, claim_1);
    return 0;
}
