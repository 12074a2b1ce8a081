/* Putting a file right after a reboot: who reads the new boot id sees all that was put right.
 *
 * One process, under a lock of the kernel, puts the file right, passes a full fence and writes the boot id. Others that
 * open the file read the boot id without the lock, pass an acquire fence, and go on. The boot id has 16 bytes, which
 * are copied in whichever pieces and order; here they are two words. All of the new id must be there, and one word of
 * it is enough for the fences.
 *
 * Transcribes:
 *   hbcore/_file/opening.pyx: is_awake, wake, take_clock
 * Asserts: the whole boot id goes with what was recovered and with the clock.
 * Configurations:
 *   PLAIN: one puts the file right, one opens it
 * Plants:
 *   1 (PLAIN): there is no full fence before the boot id is written
 *   2 (PLAIN): there is no acquire fence after the boot id was read
 */
#include "kernel.h"

enum { OLD = 1, NEW = 2 };
static uint64_t boot_id[2] = {OLD, OLD}, recovered = OLD, clock_offset = OLD;

static void *wake(void *unused)
{
    hb_store_relaxed(&recovered, NEW);
    hb_store_relaxed(&clock_offset, NEW);
    planted_fence_full(1);
    hb_store_relaxed(&boot_id[0], NEW);
    hb_store_relaxed(&boot_id[1], NEW);
    return unused;
}

static void *open_file(void *unused)
{
    int is_awake = hb_load_relaxed(&boot_id[0]) == NEW && hb_load_relaxed(&boot_id[1]) == NEW;
    planted_fence_acquire(2);
    if (is_awake)
        assert(hb_load_relaxed(&recovered) == NEW && hb_load_relaxed(&clock_offset) == NEW);
    return unused;
}

int main(void)
{
    RUN(wake, open_file);
    return 0;
}
