/* The scheduler of the explorer: runs a few operations as fibers of one thread, and chooses who goes on before each
 * atomic operation (hb_schedule, called by atomics.h when HBCORE_SCHEDULE is defined).
 *
 * All schedules with a bounded number of preemptions and deaths are visited depth first: a run replays the choices of
 * the last one up to the point where another choice is left, and takes the first choice from there on.
 */
#include "schedule.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define FIBER_LIMIT 4
#define STACK_SIZE (256 * 1024)
#define POINT_LIMIT 20000 /* atomic operations of one run; more is a livelock */

struct fiber {
    ucontext_t context;
    char *stack;
    void (*work)(void *);
    void *argument;
    int state; /* 0 ready, 1 finished, 2 dead */
    long began, ended, died;
};

uint64_t explore_clock_ms;
int explore_crowded_at = 1;
int explore_crowded_parts = 4;
int explore_watches_children = 0;

static struct fiber fibers[FIBER_LIMIT];
static ucontext_t home;
static int fiber_count, current = -1;
static int preemptions_left, deaths_left, is_livelock;
static int preemption_limit, death_limit;
static unsigned char choices[POINT_LIMIT], options[POINT_LIMIT];
static int point_count, prefix_length;
static long step;
static void (*on_resume)(int fiber), (*on_death)(int fiber), (*on_step)(void);
static int (*is_time_to_die)(void); /* of a fiber that runs alone; NULL: none does */

/* Choose one of `count`; remembered, so that the next run can choose another. */
static int choose(int count)
{
    int choice = 0;
    if (count == 1)
        return 0;
    if (point_count < prefix_length)
        choice = choices[point_count];
    choices[point_count] = (unsigned char)choice;
    options[point_count] = (unsigned char)count;
    point_count++;
    return choice;
}

/* Go on with the nth fiber that is ready, not counting `except`; back home if there is none. */
static void resume(int n, int except)
{
    int i, from = current;
    for (i = 0; i < fiber_count; i++)
        if (i != except && fibers[i].state == 0 && n-- == 0)
            break;
    current = i < fiber_count ? i : -1;
    if (current >= 0 && fibers[current].began < 0)
        fibers[current].began = ++step; /* after whatever ended before it */
    swapcontext(from < 0 ? &home : &fibers[from].context, current < 0 ? &home : &fibers[current].context);
    if (current >= 0 && on_resume)
        on_resume(current);
}

void explore_set_clock(uint64_t ms) { explore_clock_ms = ms; }

void explore_set_sizes(int crowded_at, int crowded_parts, int watches_children)
{
    explore_crowded_at = crowded_at;
    explore_crowded_parts = crowded_parts;
    explore_watches_children = watches_children;
}

void explore_watch(void (*resumed)(int fiber), void (*died)(int fiber), void (*stepped)(void))
{
    on_resume = resumed;
    on_death = died;
    on_step = stepped;
}

static int ready_count(int except)
{
    int i, count = 0;
    for (i = 0; i < fiber_count; i++)
        count += i != except && fibers[i].state == 0;
    return count;
}

void hb_schedule(const char *operation, const void *address)
{
    int others, choice;
    (void)operation;
    (void)address;
    if (current < 0)
        return;
    if (is_time_to_die) {
        if (is_time_to_die()) {
            fibers[current].state = 2;
            current = -1;
            setcontext(&home);
        }
        return;
    }
    if (++step >= POINT_LIMIT || point_count >= POINT_LIMIT - 2) {
        is_livelock = 1;
        fibers[current].state = 2;
        current = -1;
        setcontext(&home);
    }
    if (on_step)
        on_step();
    others = ready_count(current);
    choice = choose(1 + (preemptions_left > 0 ? others : 0) + (deaths_left > 0));
    if (choice == 0)
        return;
    if (preemptions_left > 0 && choice <= others) {
        preemptions_left--;
        resume(choice - 1, current);
        return;
    }
    deaths_left--;
    fibers[current].state = 2;
    fibers[current].died = step;
    if (on_death)
        on_death(current);
    resume(others ? choose(others) : 0, current);
}

static void fiber_main(int number)
{
    if (on_resume)
        on_resume(number);
    fibers[number].work(fibers[number].argument);
    fibers[number].state = 1;
    fibers[number].ended = ++step;
    resume(ready_count(number) ? choose(ready_count(number)) : 0, number);
}

void explore_begin(int preemptions, int deaths)
{
    preemption_limit = preemptions;
    death_limit = deaths;
    prefix_length = 0;
}

static void prepare(int number, void (*work)(void *), void *argument)
{
    struct fiber *fiber = &fibers[number];
    if (!fiber->stack)
        fiber->stack = malloc(STACK_SIZE);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_SIZE;
    fiber->context.uc_link = &home;
    fiber->work = work;
    fiber->argument = argument;
    fiber->state = 0;
    fiber->began = -1;
    fiber->ended = -1;
    fiber->died = -1;
    makecontext(&fiber->context, (void (*)(void))fiber_main, 1, number);
}

int explore_alone(void (*work)(void *), void *argument, int (*is_time)(void))
{
    fiber_count = 1;
    prepare(0, work, argument);
    is_time_to_die = is_time;
    resume(0, -1);
    is_time_to_die = NULL;
    return fibers[0].state == 2;
}

int explore_run(int count, void (*work)(void *), void **arguments)
{
    int i, first;
    fiber_count = count;
    preemptions_left = preemption_limit;
    deaths_left = death_limit;
    point_count = 0;
    step = 0;
    is_livelock = 0;
    for (i = 0; i < count; i++)
        prepare(i, work, arguments[i]);
    first = choose(count);
    resume(first, -1);
    return is_livelock ? -1 : 0;
}

int explore_next(void)
{
    int last = point_count - 1;
    while (last >= 0 && choices[last] + 1 >= options[last])
        last--;
    if (last < 0)
        return 0;
    choices[last]++;
    prefix_length = last + 1;
    return 1;
}

int explore_died(int fiber) { return fibers[fiber].state == 2; }
long explore_died_at(int fiber) { return fibers[fiber].died; }
long explore_began(int fiber) { return fibers[fiber].began; }
long explore_ended(int fiber) { return fibers[fiber].ended; }
long explore_steps(void) { return step; }

void explore_describe(char *text, int size)
{
    int i, used = 0;
    text[0] = 0;
    for (i = 0; i < point_count && used < size - 8; i++)
        if (choices[i])
            used += snprintf(text + used, (size_t)(size - used), "%d:%d ", i, choices[i]);
}
