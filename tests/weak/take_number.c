/* Taking the number of a hold: a number of a segment that is not there yet means a segment to make, or damage.
 *
 * Segments are made in turn, and numbers are taken in turn. A thread that finds `next` at the first hold of a segment
 * that no thread has made looks whether the segment before it is there. It must be, because somebody has taken its last
 * number; if it is not seen, the file is called damaged. So `next` is loaded with acquire: which segment is looked at
 * depends on the number, and such a dependency orders the two loads on every processor, but no language promises it.
 *
 * A batch takes several numbers by one CAS, all of one segment; that CAS is the same step. Each segment has one number
 * here.
 *
 * Transcribes:
 *   hbcore/_money/hold_index.pxd: take_number, take_numbers, is_next_segment, hold_at
 *   hbcore/_money/budget_base.pyx: make_next
 * Asserts: the segment before the first one that is missing is seen.
 * Configurations:
 *   PLAIN: one makes segment 1, one takes its number, one finds no segment 2
 * Plants:
 *   1 (PLAIN): the load of next is relaxed
 *   2 (PLAIN): the CAS that takes a number orders nothing
 */
#include "kernel.h"

static uint64_t segment_offsets[4], next = 1;

static void *make_segment(void *unused)
{
    hb_cas(&segment_offsets[1], 0, 4096);
    return unused;
}

static void *take(void *unused)
{
    if (hb_load_acquire(&segment_offsets[1]))
        planted_cas(2, &next, 1, 2);
    return unused;
}

static void *find_none(void *unused)
{
    uint64_t number = planted_load(1, &next);
    if (number == 2 && hb_load_acquire(&segment_offsets[number]) == 0)
        assert(hb_load_acquire(&segment_offsets[number - 1]) != 0);
    return unused;
}

int main(void)
{
    RUN(make_segment, take, find_none);
    return 0;
}
