/* Products of two 64-bit integers, and the highest and the lowest set bit of one. Cython cannot express them. */
#ifndef HBCORE_WIDE_H
#define HBCORE_WIDE_H

#include <stdint.h>

typedef unsigned __int128 hb_u128;

/* Return the high half of a * b; *low receives the low half. */
static inline uint64_t hb_multiply(uint64_t a, uint64_t b, uint64_t *low)
{
    hb_u128 product = (hb_u128)a * b;
    *low = (uint64_t)product;
    return (uint64_t)(product >> 64);
}

/* Return floor(a * b / divisor), which must fit in 64 bits. */
static inline uint64_t hb_multiply_divide(uint64_t a, uint64_t b, uint64_t divisor)
{
    return (uint64_t)((hb_u128)a * b / divisor);
}

/* Return whether a * b < c. */
static inline int hb_product_below(uint64_t a, uint64_t b, uint64_t c) { return (hb_u128)a * b < c; }

/* Return the number of the highest bit that is set; some bit must be. */
static inline unsigned int hb_highest_bit(uint64_t word) { return 63 - (unsigned int)__builtin_clzll(word); }

/* Return the number of the lowest bit that is set; some bit must be. */
static inline unsigned int hb_lowest_bit(uint64_t word) { return (unsigned int)__builtin_ctzll(word); }

#endif
