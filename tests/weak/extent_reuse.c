/* Reuse of the extent of a child that was refused, while a thread that comes late still helps with its funding.
 *
 * A child is written whole, and then its parent is asked to fund it. If the parent refuses, the extent is retired, and
 * another process may take it over, clear it and write another object there. A helper that stood still since before the
 * refusal then reads anything as what the child asks for. What it reads of that is never taken: the refusal changed the
 * money, so the helper's CAS on the money fails. And if what it has read is impossible, it looks at the hold once more
 * before it speaks of damage: the refusal stands in the hold since before the extent was retired. That look must come
 * after the reading, and who clears an extent must do so after taking it over: an acquire fence here, a release fence
 * there, as in every sequence lock.
 *
 * Pairs are one word here.
 *
 * Transcribes:
 *   hbcore/_file/region.pxd: heading_of
 *   hbcore/_money/account.pyx: fulfil, complete, child_total
 *   hbcore/_money/funding.pyx: child_insert
 *   hbcore/_file/directory.pyx: retire_extent, reuse, directory_allocate
 * Asserts: the late helper speaks of no damage, and takes no money for what is not the child.
 * Configurations:
 *   PLAIN: one is refused and retires its child, one reuses the extent, one helps late
 * Plants:
 *   1 (PLAIN): the helper has no acquire fence before it looks at the hold again
 *   2 (PLAIN): who clears the extent has no release fence after taking it over
 *   3 (PLAIN): the helper does not look at the hold again
 */
#include "kernel.h"

enum { UNUSED, FUNDING, FUNDED };
enum { MAKING = 1, RETIRED = 3, BY_ANOTHER = 16, KIND = 2, OTHER_KIND = 6, AVAILABLE = 5, TOTAL = 9, OTHER_TOTAL = 1 };
#define PAIR(first, second) ((uint64_t)(first) << 32 | (second))
enum { NONE = 0, OWN = 1, OWN_FAIL = 2 };

static uint64_t hold = FUNDING, money = PAIR(NONE, AVAILABLE);
static struct {
    uint64_t state, kind, total;
} extent = {MAKING, KIND, TOTAL};

static void *be_refused(void *unused)
{
    if (hb_cas(&money, PAIR(NONE, AVAILABLE), PAIR(OWN_FAIL, AVAILABLE)))
        hb_cas(&hold, FUNDING, UNUSED);
    else
        assume(hb_load_acquire(&hold) == UNUSED);
    hb_cas(&extent.state, MAKING, RETIRED);
    return unused;
}

static void *reuse(void *unused)
{
    assume(hb_load_acquire(&extent.state) == RETIRED);
    hb_cas(&extent.state, RETIRED, BY_ANOTHER | MAKING);
    planted_fence_release(2);
    hb_store_relaxed(&extent.kind, 0);
    hb_store_relaxed(&extent.total, 0);
    hb_store_relaxed(&extent.kind, OTHER_KIND);
    hb_store_relaxed(&extent.total, OTHER_TOTAL);
    return unused;
}

static void *help_late(void *unused)
{
    uint64_t before = hb_load_acquire(&money);
    if (before >> 32 == OWN_FAIL)
        hb_cas(&hold, FUNDING, UNUSED);
    uint64_t state = hb_load_acquire(&hold);
    if (state != FUNDING)
        return unused;
    uint64_t kind = hb_load_once(&extent.kind);
    uint64_t total = kind == KIND || kind == OTHER_KIND ? hb_load_once(&extent.total) : 0;
    if (total == 0) {
        planted_fence_acquire(1);
        assert(!is_planted(3) && hb_load_acquire(&hold) != state); /* or else: CORRUPT */
        return unused;
    }
    if (AVAILABLE < total) {
        if (hb_cas(&money, before, PAIR(OWN_FAIL, AVAILABLE)))
            hb_cas(&hold, FUNDING, UNUSED);
    } else {
        assert(!hb_cas(&money, before, PAIR(OWN, AVAILABLE - total)));
    }
    return unused;
}

int main(void)
{
    RUN(be_refused, reuse, help_late);
    return 0;
}
