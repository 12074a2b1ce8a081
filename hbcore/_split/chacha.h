/* ChaCha20 (RFC 8439, section 2.3), eight blocks side by side, in which each word of the state is a vector of eight;
 * and one block alone, in which each row of the state is a vector of four: for streams of which little is drawn.
 *
 * This is C because Cython cannot express vectors, nor one function in several instruction sets. The vectors are those
 * of GCC and Clang, on any machine; on x86-64 the widest instructions that the processor has are used. Words are
 * little-endian, as is every machine that hbcore runs on (opening.pyx refuses a file of another byte order). */
#ifndef HBCORE_CHACHA_H
#define HBCORE_CHACHA_H

#include <stdint.h>
#include <string.h>

#define HB_LANES 8

typedef uint32_t hb_lanes __attribute__((vector_size(4 * HB_LANES)));

#define HB_INLINE static inline __attribute__((always_inline))

HB_INLINE void hb_mix(hb_lanes *target, const hb_lanes *source, hb_lanes *mixed, int shift)
{
    *target += *source;
    *mixed ^= *target;
    *mixed = *mixed << shift | *mixed >> (32 - shift);
}

HB_INLINE void hb_quarter_round(hb_lanes *x, int a, int b, int c, int d)
{
    hb_mix(&x[a], &x[b], &x[d], 16);
    hb_mix(&x[c], &x[d], &x[b], 12);
    hb_mix(&x[a], &x[b], &x[d], 8);
    hb_mix(&x[c], &x[d], &x[b], 7);
}

HB_INLINE void hb_chacha20_any(const uint32_t *start, uint32_t *words)
{
    const hb_lanes order = {0, 1, 2, 3, 4, 5, 6, 7};
    hb_lanes first[16], x[16];
    for (int i = 0; i < 16; i++)
        first[i] = (hb_lanes){0} + start[i];
    first[12] += order; /* the block counter */
    for (int i = 0; i < 16; i++)
        x[i] = first[i];
    for (int turn = 0; turn < 10; turn++) {
        hb_quarter_round(x, 0, 4, 8, 12);
        hb_quarter_round(x, 1, 5, 9, 13);
        hb_quarter_round(x, 2, 6, 10, 14);
        hb_quarter_round(x, 3, 7, 11, 15);
        hb_quarter_round(x, 0, 5, 10, 15);
        hb_quarter_round(x, 1, 6, 11, 12);
        hb_quarter_round(x, 2, 7, 8, 13);
        hb_quarter_round(x, 3, 4, 9, 14);
    }
    for (int i = 0; i < 16; i++)
        x[i] += first[i];
    for (int lane = 0; lane < HB_LANES; lane++)
        for (int i = 0; i < 16; i++)
            words[16 * lane + i] = x[i][lane];
}

typedef uint32_t hb_row __attribute__((vector_size(16)));

HB_INLINE void hb_mix_row(hb_row *target, const hb_row *source, hb_row *mixed, int shift)
{
    *target += *source;
    *mixed ^= *target;
    *mixed = *mixed << shift | *mixed >> (32 - shift);
}

HB_INLINE void hb_quarter_rounds(hb_row *x)
{
    hb_mix_row(&x[0], &x[1], &x[3], 16);
    hb_mix_row(&x[2], &x[3], &x[1], 12);
    hb_mix_row(&x[0], &x[1], &x[3], 8);
    hb_mix_row(&x[2], &x[3], &x[1], 7);
}

/* Rotate a row by so many places, so that diagonals become columns, and columns diagonals. */
HB_INLINE hb_row hb_turned(hb_row x, int places)
{
    return (hb_row){x[places], x[(places + 1) & 3], x[(places + 2) & 3], x[(places + 3) & 3]};
}

/* Compute one block of 16 words. */
static inline void hb_chacha20_block(const uint32_t *start, uint32_t *words)
{
    hb_row first[4], x[4];
    memcpy(first, start, sizeof(first));
    memcpy(x, start, sizeof(x));
    for (int turn = 0; turn < 10; turn++) {
        hb_quarter_rounds(x);
        for (int row = 1; row < 4; row++)
            x[row] = hb_turned(x[row], row);
        hb_quarter_rounds(x);
        for (int row = 1; row < 4; row++)
            x[row] = hb_turned(x[row], 4 - row);
    }
    for (int i = 0; i < 4; i++)
        x[i] += first[i];
    memcpy(words, x, sizeof(x));
}

enum { HB_ANY_MACHINE, HB_AVX2, HB_AVX512VL };

#ifdef __x86_64__

__attribute__((target("avx2"))) static void hb_chacha20_avx2(const uint32_t *start, uint32_t *words)
{
    hb_chacha20_any(start, words);
}

/* AVX-512VL brings rotations, and twice the registers, to vectors of 256 bits. */
__attribute__((target("avx512f,avx512vl"))) static void hb_chacha20_avx512vl(const uint32_t *start, uint32_t *words)
{
    hb_chacha20_any(start, words);
}

#endif

/* Return the best of the above that this processor and its operating system have. */
static inline int hb_chacha20_best(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512vl"))
        return HB_AVX512VL;
    if (__builtin_cpu_supports("avx2"))
        return HB_AVX2;
#endif
    return HB_ANY_MACHINE;
}

/* Compute HB_LANES blocks. `start` is the state of 16 words, whose counter is that of the first block; `words` receives
 * 16 * HB_LANES of them; `instructions` is at most hb_chacha20_best(). */
static inline void hb_chacha20(int instructions, const uint32_t *start, uint32_t *words)
{
#ifdef __x86_64__
    if (instructions == HB_AVX512VL) {
        hb_chacha20_avx512vl(start, words);
        return;
    }
    if (instructions == HB_AVX2) {
        hb_chacha20_avx2(start, words);
        return;
    }
#endif
    (void)instructions;
    hb_chacha20_any(start, words);
}

#endif
