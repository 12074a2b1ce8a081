/* Every atomic operation of hbcore, and the few other things that Cython has no words for.
 *
 * The mapping is shared by processes, so everything here must be address-free: true of lock-free 64-bit atomics.
 * A build with -DHBCORE_SCHEDULE calls hb_schedule() before each operation on shared memory, so that a test can
 * choose every interleaving and every death.
 */
#ifndef HBCORE_ATOMICS_H
#define HBCORE_ATOMICS_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "hbcore needs 64-bit atomics that are always lock-free");
#ifndef __GCC_HAVE_SYNC_COMPARE_AND_SWAP_16
#error "hbcore needs a compare-and-swap of 16 bytes: on x86-64 compile with -mcx16"
#endif
static_assert(sizeof(uint64_t) == sizeof(unsigned long long), "uint64_t must be the type the assertion above speaks of");

#ifdef HBCORE_SCHEDULE
void hb_schedule(const char *operation, const void *address);
#define HB_STEP(operation, address) hb_schedule(operation, address)
#else
#define HB_STEP(operation, address) ((void)0)
#endif

/* Where two words can be read by one instruction: not if somebody watches each word. */
#if defined(__SSE2__) && !defined(HBCORE_SCHEDULE) && !defined(__SANITIZE_THREAD__)
#define HB_VECTORS
#include <emmintrin.h>
#endif

/* Relaxed: for hints, and for data that another operation publishes. */
static inline uint64_t hb_load_relaxed(const uint64_t *p)
{
    HB_STEP("load_relaxed", p);
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void hb_store_relaxed(uint64_t *p, uint64_t value)
{
    HB_STEP("store_relaxed", p);
    __atomic_store_n(p, value, __ATOMIC_RELAXED);
}

/* For what only the threads of one process share: no step of the protocol. They pair with each other, so that who reads
 * what another thread knows about the mapping sees the mapping at least as that thread did. */
static inline uint64_t hb_load_private(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void hb_store_private(uint64_t *p, uint64_t value) { __atomic_store_n(p, value, __ATOMIC_RELEASE); }

/* Acquire: pairs with the release half of the hb_cas that wrote the value. */
static inline uint64_t hb_load_acquire(const uint64_t *p)
{
    HB_STEP("load_acquire", p);
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* Which of `count` words (32 at most) have the highest bit set: bit i is of word i; each is read once, in turn.
 * *like: whether a word agrees with `wanted` in all bits of `mask`, which lie in its upper half. Acquire, as above. The
 * same instructions whatever the words are: where a word stands is chance, and a wrong guess of the processor costs more
 * than to read them all. */
static inline unsigned int hb_set_words(const uint64_t *p, int count, uint64_t wanted, uint64_t mask, int *like)
{
    unsigned int set = 0, alike = 0;
#ifdef HB_VECTORS
    if (count == 8) {
        /* An aligned load of 16 bytes reads each of its halves in one piece, and x86 orders it before all that follow;
         * volatile and the fence bind the compiler. What is asked for stands in the upper halves: 3, 1 of each load. */
        const volatile __m128i *line = (const volatile __m128i *)p;
        __m128 pair0 = _mm_castsi128_ps(line[0]), pair1 = _mm_castsi128_ps(line[1]);
        __m128 pair2 = _mm_castsi128_ps(line[2]), pair3 = _mm_castsi128_ps(line[3]);
        __m128 upper0 = _mm_shuffle_ps(pair0, pair1, 0xdd), upper1 = _mm_shuffle_ps(pair2, pair3, 0xdd);
        __m128i bits = _mm_set1_epi32((int)(mask >> 32)), same = _mm_set1_epi32((int)((wanted & mask) >> 32));
        __m128i like0 = _mm_cmpeq_epi32(_mm_and_si128(_mm_castps_si128(upper0), bits), same);
        __m128i like1 = _mm_cmpeq_epi32(_mm_and_si128(_mm_castps_si128(upper1), bits), same);
        atomic_signal_fence(memory_order_acquire);
        *like = _mm_movemask_epi8(_mm_or_si128(like0, like1)) != 0;
        return (unsigned int)(_mm_movemask_ps(upper0) | _mm_movemask_ps(upper1) << 4);
    }
#endif
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
        uint64_t word = hb_load_acquire(p + i);
        set |= (unsigned int)(word >> 63) << i;
        alike |= ((word ^ wanted) & mask) == 0;
    }
    *like = (int)alike;
    return set;
}

static inline void hb_store_release(uint64_t *p, uint64_t value)
{
    HB_STEP("store_release", p);
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

/* Acquire and release, and part of the single total order: the only way a state changes. Returns 1 if it did. */
static inline int hb_cas(uint64_t *p, uint64_t expected, uint64_t desired)
{
    HB_STEP("cas", p);
    return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}

/* The same for two neighbouring words at a multiple of 16 bytes. */
static inline int hb_cas_pair(uint64_t *p, uint64_t expected0, uint64_t expected1, uint64_t desired0, uint64_t desired1)
{
    typedef unsigned __int128 pair;
    HB_STEP("cas_pair", p);
    return __sync_bool_compare_and_swap((pair *)p, (pair)expected1 << 64 | expected0, (pair)desired1 << 64 | desired0);
}

/* Relaxed counters are hints: nothing is decided by them alone. */
static inline uint64_t hb_fetch_add_relaxed(uint64_t *p, uint64_t value)
{
    HB_STEP("fetch_add_relaxed", p);
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}

/* The two halves of a sequence lock: between a state word and the data that it guards. */
static inline void hb_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void hb_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void hb_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void hb_prefetch_read(const void *p) { __builtin_prefetch(p, 0, 3); }
static inline void hb_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

#endif
