/* The clocks of grants, lapses and expiries. */
#ifndef HBCORE_CLOCK_H
#define HBCORE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Return milliseconds since 1970, from the kernel's coarse clock: it takes 5 ns to read, and is no older than one tick
 * (1 to 10 ms). */
static inline uint64_t hb_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Return milliseconds of a clock that nobody can set, and that goes on while the machine sleeps; it begins anew at a
 * reboot. In a time namespace it is ahead by an offset, which Region.clock_offset_ms takes off. */
static inline uint64_t hb_boot_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

#endif
