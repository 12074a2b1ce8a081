/* What all kernels share: the orderings that a plant takes away, the state word of a slot, and the start of threads.
 *
 * A kernel is a small program over hbcore's own atomics.h that GenMC runs in every way that a memory model allows. With
 * -DPLANT=n it has bug n planted, and GenMC must find a failing assertion. Without, there must be none.
 */
#ifndef HBCORE_WEAK_KERNEL_H
#define HBCORE_WEAK_KERNEL_H

#define static_assert _Static_assert /* the assert.h that GenMC brings is older than C11 */
#define __SANITIZE_THREAD__ 1        /* hb_set_words then reads its words one by one */
#include "atomics.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* GenMC gives an execution up, without a word, where the argument is false. */
void __VERIFIER_assume(bool condition);
#define assume __VERIFIER_assume

#ifndef PLANT
#define PLANT 0
#endif
#define is_planted(number) (PLANT == (number))

/* Each of these is the operation of atomics.h, but orders nothing, or is left out, where its plant is in. */
static inline uint64_t planted_load(int plant, const uint64_t *p)
{
    return is_planted(plant) ? hb_load_relaxed(p) : hb_load_acquire(p);
}

static inline void planted_store(int plant, uint64_t *p, uint64_t value)
{
    if (is_planted(plant))
        hb_store_relaxed(p, value);
    else
        hb_store_release(p, value);
}

static inline int planted_cas(int plant, uint64_t *p, uint64_t expected, uint64_t desired)
{
    if (is_planted(plant))
        return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return hb_cas(p, expected, desired);
}

static inline void planted_fence_acquire(int plant)
{
    if (!is_planted(plant))
        hb_fence_acquire();
}

static inline void planted_fence_release(int plant)
{
    if (!is_planted(plant))
        hb_fence_release();
}

static inline void planted_fence_full(int plant)
{
    if (!is_planted(plant))
        hb_fence_full();
}

/* The state word of a slot, as hbcore/_claims/slot.pxd has it. */
enum { FREE, HELD, GRANTED, SETTLED, RELEASING, REFUNDED };
#define SLOT_STATE(kind, generation, payload) ((uint64_t)(kind) << 61 | (uint64_t)(generation) << 42 | (payload))

static inline int slot_kind(uint64_t state) { return (int)(state >> 61); }
static inline uint64_t slot_generation(uint64_t state) { return state >> 42 & 0x7ffff; }
static inline int slot_is_final(uint64_t state)
{
    int kind = slot_kind(state);
    return kind == GRANTED || kind == SETTLED || kind == REFUNDED;
}

struct slot {
    uint64_t state, user[2], amount;
};

typedef void *(*thread_function)(void *);
enum { THREAD_LIMIT = 4 };

/* Run the threads at once, and return when all have ended. */
static inline void run(const thread_function *functions, int count)
{
    pthread_t threads[THREAD_LIMIT];
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], 0, functions[i], 0);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], 0);
}
#define RUN(...) \
    do { \
        const thread_function functions[] = {__VA_ARGS__}; \
        run(functions, (int)(sizeof functions / sizeof functions[0])); \
    } while (0)

#endif
