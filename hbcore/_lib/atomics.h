/* Every atomic operation of hbcore, and the few other things that Cython cannot express.
 *
 * Processes share the mapping, so every operation here must be address-free. Lock-free 64-bit atomics are.
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
static_assert(sizeof(uint64_t) == sizeof(unsigned long long),
              "uint64_t must be the type the assertion above speaks of");

#ifdef HBCORE_SCHEDULE
void hb_schedule(const char *operation, const void *address);
#define HB_STEP(operation, address) hb_schedule(operation, address)
#else
#define HB_STEP(operation, address) ((void)0)
#endif

/* HB_VECTORS is defined where one instruction may read two words. A build in which a test or a sanitizer watches each
 * word must read them one by one. */
#if defined(__SSE2__) && !defined(HBCORE_SCHEDULE) && !defined(__SANITIZE_THREAD__)
#define HB_VECTORS
#include <emmintrin.h>
#endif

/* Relaxed operations are for hints, and for data that another operation publishes. */
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

/* These two are for words that only the threads of one process share; they are no step of the protocol. They pair with
 * each other, so that a thread that reads what another thread knows about the mapping sees the mapping at least as that
 * thread did. */
static inline uint64_t hb_load_private(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void hb_store_private(uint64_t *p, uint64_t value) { __atomic_store_n(p, value, __ATOMIC_RELEASE); }

/* Load a word that is written once, before another thread can find it; this is no step of the protocol. A thread that
 * comes late may read it in space that is being taken over for something else, and throws away what it has read: the
 * load is atomic for the sake of that one. */
static inline uint64_t hb_load_once(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }

/* The acquire load pairs with the release half of the hb_cas, or with the hb_store_release, that wrote the value. */
static inline uint64_t hb_load_acquire(const uint64_t *p)
{
    HB_STEP("load_acquire", p);
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* Return which of `count` words (32 at most) have their highest bit set: bit i of the result is that of word i. Each
 * word is read once, in turn, by an acquire load as above. *like receives whether a word agrees with `wanted` in all
 * bits of `mask`, which lie in the upper half of a word. The same instructions run whatever the words are: where a word
 * stands is chance, and a wrong guess of the processor costs more than to read all words. */
static inline unsigned int hb_set_words(const uint64_t *p, int count, uint64_t wanted, uint64_t mask, int *like)
{
    unsigned int set = 0, alike = 0;
#ifdef HB_VECTORS
    if (count == 8) {
        /* An aligned load of 16 bytes reads each of its halves in one piece, and x86 orders it before all accesses that
         * follow; volatile and the fence bind the compiler. The bits that are asked for stand in the upper halves of
         * the words: elements 1 and 3 of each load. */
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

/* Replace *p by `desired` if it is `expected`; return 1 if it was. The operation has acquire and release order and is
 * part of the single total order. It is the only way in which a state changes. */
static inline int hb_cas(uint64_t *p, uint64_t expected, uint64_t desired)
{
    HB_STEP("cas", p);
    return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}

/* Do the same with two neighbouring words, of which the first stands at a multiple of 16 bytes. */
static inline int hb_cas_pair(uint64_t *p, uint64_t expected0, uint64_t expected1, uint64_t desired0, uint64_t desired1)
{
    typedef unsigned __int128 pair;
    HB_STEP("cas_pair", p);
    return __sync_bool_compare_and_swap((pair *)p, (pair)expected1 << 64 | expected0, (pair)desired1 << 64 | desired0);
}

/* Add to a relaxed counter. Such counters are hints: nothing is decided by them alone. */
static inline uint64_t hb_fetch_add_relaxed(uint64_t *p, uint64_t value)
{
    HB_STEP("fetch_add_relaxed", p);
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}

/* The acquire fence and the release fence are the two halves of a sequence lock: each stands between a state word and
 * the data that it guards. */
static inline void hb_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void hb_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void hb_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void hb_prefetch_read(const void *p) { __builtin_prefetch(p, 0, 3); }
static inline void hb_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

#endif
