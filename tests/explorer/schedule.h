#ifndef HBCORE_EXPLORER_SCHEDULE_H
#define HBCORE_EXPLORER_SCHEDULE_H

#include <stdint.h>

/* What clock.h reads. */
extern uint64_t explore_clock_ms;
void explore_set_clock(uint64_t ms);

/* Sizes of the miniature that a scenario chooses; build.py puts them into the sources. How far from its home a key must
 * be for its level to be crowded; in how many parts of an index one of tombstones crowds it; and whether another may run
 * before an account reads what lies in a child. */
extern int explore_crowded_at, explore_crowded_parts, explore_watches_children;
void explore_set_sizes(int crowded_at, int crowded_parts, int watches_children);

void hb_schedule(const char *operation, const void *address);

/* Begin a search over all schedules with at most so many preemptions and deaths. */
void explore_begin(int preemptions, int deaths);
/* Call these when a fiber goes on, when it dies, and before every atomic operation; NULL: nothing. */
void explore_watch(void (*resumed)(int fiber), void (*died)(int fiber), void (*stepped)(void));
/* Run work(arguments[i]) as `count` fibers under the next schedule. 0, or -1 for a livelock. */
int explore_run(int count, void (*work)(void *), void **arguments);
/* Run work(argument) alone, until it is done or is_time() says, before an atomic operation, that it dies: 1 if it died.
 */
int explore_alone(void (*work)(void *), void *argument, int (*is_time)(void));
/* Whether another schedule is left. */
int explore_next(void);
/* Of the last run: whether a fiber died, and the steps at which it died, began and ended (-1: it did not). */
int explore_died(int fiber);
long explore_died_at(int fiber);
long explore_began(int fiber);
long explore_ended(int fiber);
long explore_steps(void);
/* The choices that were not the first, as "point:choice ". */
void explore_describe(char *text, int size);

#endif
