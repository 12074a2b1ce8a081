/* The clock of the explorer, in place of hbcore's: it stands until a scenario moves it. */
#ifndef HBCORE_CLOCK_H
#define HBCORE_CLOCK_H

#include <stdint.h>

extern uint64_t explore_clock_ms;

static inline uint64_t hb_now_ms(void) { return explore_clock_ms; }
static inline uint64_t hb_boot_ms(void) { return explore_clock_ms; }

#endif
