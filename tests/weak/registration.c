/* Registration: a worker number that is seen anywhere in the mapping goes with its epoch.
 *
 * The process that registers stores the epoch of its entry and then its worker number, which other threads of the
 * process load before each change of the mapping. A thread of another process that meets HELD(worker) asks whether such
 * a worker can ever have been, and looks at the epoch; if it read an older one, it would call the file damaged. The
 * epoch stands in the mapping and the number in the memory of one process, so the number must carry the epoch along: a
 * release store of the number and acquire loads.
 *
 * Transcribes:
 *   hbcore/_file/region.pyx: take_entry, check_open
 *   hbcore/_file/region.pxd: worker_of
 *   hbcore/_file/directory.pyx: directory_allocate
 *   hbcore/_file/process.h: hb_worker_never_was
 *   hbcore/_claims/claim.pyx: take_in
 * Asserts: who sees the slot HELD by the worker sees its epoch.
 * Configurations:
 *   PLAIN: one thread registers, another of its process claims, another process meets the slot
 * Plants:
 *   1 (PLAIN): the store of the worker number is relaxed
 *   2 (PLAIN): the load of the worker number is relaxed
 *   3 (PLAIN): the load of the state is relaxed
 */
#include "kernel.h"

enum { NUMBER = 1, EPOCH = 1 };
static uint64_t epoch, worker, state_word;

static void *take_entry(void *unused)
{
    hb_store_relaxed(&epoch, EPOCH);
    planted_store(1, &worker, NUMBER);
    return unused;
}

static void *claim(void *unused)
{
    uint64_t mine = planted_load(2, &worker);
    if (mine != 0)
        hb_cas(&state_word, 0, SLOT_STATE(HELD, 1, mine));
    return unused;
}

static void *meet(void *unused)
{
    if (slot_kind(planted_load(3, &state_word)) == HELD)
        assert(hb_load_relaxed(&epoch) == EPOCH);
    return unused;
}

int main(void)
{
    RUN(take_entry, claim, meet);
    return 0;
}
