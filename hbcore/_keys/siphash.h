/* SipHash-2-4-128 (Aumasson and Bernstein, 2012) of several messages at once, one in each lane of a vector. The
 * messages are the 9 bytes of integers, hashed as integer_key in user.pxd does, or any that have equally many blocks,
 * hashed as siphash128 in user.pyx does. This is C because Cython cannot express vectors.
 */
#ifndef HBCORE_SIPHASH_H
#define HBCORE_SIPHASH_H

#include <stdint.h>
#include <string.h>

enum { HB_LANES = 4 };
typedef uint64_t hb_lanes __attribute__((vector_size(8 * HB_LANES)));

/* When the module is loaded, the best of these instruction sets that the processor has is chosen. Elsewhere the
 * compiler builds the vectors from the one instruction set that it compiles for. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define HB_HAS_CLONES
#define HB_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HB_CLONES
#endif

#define HB_ROTATE(x, shift) ((x) << (shift) | (x) >> (64 - (shift)))
#define HB_SIP_ROUND(a, b, c, d) \
    do { \
        a += b; \
        b = HB_ROTATE(b, 13) ^ a; \
        a = HB_ROTATE(a, 32); \
        c += d; \
        d = HB_ROTATE(d, 16) ^ c; \
        a += d; \
        d = HB_ROTATE(d, 21) ^ a; \
        c += b; \
        b = HB_ROTATE(b, 17) ^ c; \
        c = HB_ROTATE(c, 32); \
    } while (0)

/* Define a function that hashes integers, `lanes` of them side by side; each has `count` of them, and room
 * for the next multiple of HB_WIDE_LANES. `numbers` has them in two's complement; `negatives` has 1 for each that is
 * negative, else 0. `keys` receives the low and the high word of each hash in turn. */
#define HB_DEFINE_HASH_INTEGERS(name, lanes) \
    static void name(const uint64_t key[2], const uint64_t *numbers, const uint64_t *negatives, uint64_t *keys, \
                     int count) \
    { \
        typedef uint64_t vector __attribute__((vector_size(8 * (lanes)))); \
        const vector zero = {0}; \
        vector a, b, c, d, block, low, high; \
        int i, lane, round; \
        for (i = 0; i < count; i += (lanes)) { \
            a = zero + (key[0] ^ UINT64_C(0x736F6D6570736575)); \
            b = zero + (key[1] ^ UINT64_C(0x646F72616E646F6D) ^ 0xEE); \
            c = zero + (key[0] ^ UINT64_C(0x6C7967656E657261)); \
            d = zero + (key[1] ^ UINT64_C(0x7465646279746573)); \
            memcpy(&block, numbers + i, sizeof block); \
            d ^= block; \
            HB_SIP_ROUND(a, b, c, d); \
            HB_SIP_ROUND(a, b, c, d); \
            a ^= block; \
            memcpy(&block, negatives + i, sizeof block); \
            block |= zero + (UINT64_C(9) << 56); /* the length of the message */ \
            d ^= block; \
            HB_SIP_ROUND(a, b, c, d); \
            HB_SIP_ROUND(a, b, c, d); \
            a ^= block; \
            c ^= zero + 0xEE; \
            for (round = 0; round < 4; round++) \
                HB_SIP_ROUND(a, b, c, d); \
            low = a ^ b ^ c ^ d; \
            b ^= zero + 0xDD; \
            for (round = 0; round < 4; round++) \
                HB_SIP_ROUND(a, b, c, d); \
            high = a ^ b ^ c ^ d; \
            for (lane = 0; lane < (lanes); lane++) { \
                keys[2 * (i + lane)] = low[lane]; \
                keys[2 * (i + lane) + 1] = high[lane]; \
            } \
        } \
    }

/* As many lanes as the vectors of the processor, twice, keep its units busy: 16 with AVX-512, whose 32 registers have
 * room for them, and 8 with AVX2. */
enum { HB_WIDE_LANES = 16 };
#ifdef HB_HAS_CLONES
__attribute__((target("arch=x86-64-v4"))) HB_DEFINE_HASH_INTEGERS(hb_hash_integers_wide, HB_WIDE_LANES)
HB_CLONES HB_DEFINE_HASH_INTEGERS(hb_hash_integers_narrow, 8)

static inline void hb_hash_integers(const uint64_t key[2], const uint64_t *numbers, const uint64_t *negatives,
                                    uint64_t *keys, int count)
{
    if (__builtin_cpu_supports("x86-64-v4"))
        hb_hash_integers_wide(key, numbers, negatives, keys, count);
    else
        hb_hash_integers_narrow(key, numbers, negatives, keys, count);
}
#else
HB_DEFINE_HASH_INTEGERS(hb_hash_integers, 8)
#endif

/* Hash HB_LANES messages of `count` blocks of 8 bytes each, the last of which carries the length. `blocks` has the
 * first block of each message, then the second of each, and so on; `keys` is as above. */
HB_CLONES static void hb_hash_blocks(const uint64_t key[2], const uint64_t *blocks, int count, uint64_t *keys)
{
    const hb_lanes zero = {0};
    hb_lanes a, b, c, d, block, low, high;
    int i, lane, round;
    a = zero + (key[0] ^ UINT64_C(0x736F6D6570736575));
    b = zero + (key[1] ^ UINT64_C(0x646F72616E646F6D) ^ 0xEE);
    c = zero + (key[0] ^ UINT64_C(0x6C7967656E657261));
    d = zero + (key[1] ^ UINT64_C(0x7465646279746573));
    for (i = 0; i < count; i++) {
        memcpy(&block, blocks + HB_LANES * i, sizeof block);
        d ^= block;
        HB_SIP_ROUND(a, b, c, d);
        HB_SIP_ROUND(a, b, c, d);
        a ^= block;
    }
    c ^= zero + 0xEE;
    for (round = 0; round < 4; round++)
        HB_SIP_ROUND(a, b, c, d);
    low = a ^ b ^ c ^ d;
    b ^= zero + 0xDD;
    for (round = 0; round < 4; round++)
        HB_SIP_ROUND(a, b, c, d);
    high = a ^ b ^ c ^ d;
    for (lane = 0; lane < HB_LANES; lane++) {
        keys[2 * lane] = low[lane];
        keys[2 * lane + 1] = high[lane];
    }
}

#endif
