/* Noise: hbcore's atomics.h calls hb_schedule before each atomic operation in a build with HBCORE_SCHEDULE.
 *
 * Now and then another thread is let on, so that threads meet between two instructions that lie a few nanoseconds
 * apart; and an operation that may die does so now and then, at any step, and leaves everything as it stands. It is
 * compiled without a sanitizer and shares nothing between threads: it orders nothing.
 */
#include "noise.h"

#include <sched.h>
#include <setjmp.h>
#include <stdint.h>
#include <time.h>

static _Thread_local uint64_t state;
static _Thread_local unsigned mortal_odds; /* 0: the thread cannot die now */
static _Thread_local jmp_buf before_birth;

static uint64_t draw(void)
{
    struct timespec now;
    if (state == 0) { /* of each thread another */
        clock_gettime(CLOCK_MONOTONIC, &now);
        state = (uint64_t)(uintptr_t)&state ^ (uint64_t)now.tv_nsec << 32;
    }
    state = state * UINT64_C(6364136223846793005) + 1;
    return state >> 32; /* the high half of a linear congruence is good enough */
}

void hb_schedule(const char *operation, const void *address)
{
    uint64_t drawn = draw();
    int turns = 0;
    (void)operation;
    (void)address;
    if (drawn % 64 == 0)
        turns = drawn % 1024 == 0 ? 32 : 1;
    while (turns-- > 0)
        sched_yield();
    if (mortal_odds && draw() % mortal_odds == 0)
        longjmp(before_birth, 1);
}

int noise_run(void (*operation)(void *), void *argument, unsigned odds)
{
    if (setjmp(before_birth) != 0) {
        mortal_odds = 0;
        return 0;
    }
    mortal_odds = odds;
    operation(argument);
    mortal_odds = 0;
    return 1;
}
