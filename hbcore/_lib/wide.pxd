from libc.stdint cimport uint64_t


cdef extern from "wide.h" nogil:
    uint64_t hb_multiply(uint64_t a, uint64_t b, uint64_t *low) noexcept
    uint64_t hb_multiply_divide(uint64_t a, uint64_t b, uint64_t divisor) noexcept
    bint hb_product_below(uint64_t a, uint64_t b, uint64_t c) noexcept
    unsigned int hb_highest_bit(uint64_t word) noexcept
    unsigned int hb_lowest_bit(uint64_t word) noexcept
