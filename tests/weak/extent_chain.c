/* The chain of extents: a frontier that is beyond an extent means that the extent is there.
 *
 * An extent exists from the CAS on that makes its state nonzero. The frontier in the header is raised after that, so it
 * is never beyond the end of the chain. A walker that meets a zero state before the frontier looks at the state again:
 * an extent was added meanwhile, and must be seen now, or the file is damaged. A maker that has passed others' extents
 * may raise the frontier over them: it has acquired their states.
 *
 * Transcribes:
 *   hbcore/_file/region.pyx: allocate, next_extent
 * Asserts: the state of an extent before the frontier is seen at the second look.
 * Configurations:
 *   PLAIN: two append an extent each, one walks
 * Plants:
 *   1 (PLAIN): the CAS that raises the frontier orders nothing
 *   2 (PLAIN): the load of the frontier is relaxed
 */
#include "kernel.h"

enum { EXTENTS = 3, MAKERS = 2 };
static uint64_t states[EXTENTS], frontier; /* extents of one unit each */

static void *allocate(void *unused)
{
    for (uint64_t at = 0; at < MAKERS;) {
        uint64_t state = hb_load_acquire(&states[at]);
        if (state == 0) {
            if (at < planted_load(2, &frontier)) {
                assert(hb_load_acquire(&states[at]) != 0);
                continue;
            }
            if (hb_cas(&states[at], 0, 1)) {
                uint64_t hint = hb_load_relaxed(&frontier);
                if (hint < at + 1)
                    planted_cas(1, &frontier, hint, at + 1);
                return unused;
            }
            continue;
        }
        at++;
    }
    assert(!"there is room for both");
    return unused;
}

static void *walk(void *unused)
{
    for (uint64_t at = 0; at < EXTENTS; at++)
        if (hb_load_acquire(&states[at]) == 0) {
            if (at >= planted_load(2, &frontier))
                return unused;
            assert(hb_load_acquire(&states[at]) != 0);
        }
    return unused;
}

int main(void)
{
    RUN(allocate, allocate, walk);
    assert(states[0] && states[1] && !states[2] && frontier <= MAKERS);
    return 0;
}
