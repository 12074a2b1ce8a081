# Every atomic operation is declared here; atomics.h says what each one orders.
from libc.stdint cimport uint64_t


cdef extern from "atomics.h" nogil:
    uint64_t hb_load_relaxed(const uint64_t *p) noexcept
    uint64_t hb_load_once(const uint64_t *p) noexcept
    void hb_store_relaxed(uint64_t *p, uint64_t value) noexcept
    uint64_t hb_load_private(const uint64_t *p) noexcept
    void hb_store_private(uint64_t *p, uint64_t value) noexcept
    uint64_t hb_load_acquire(const uint64_t *p) noexcept
    unsigned int hb_set_words(const uint64_t *p, int count, uint64_t wanted, uint64_t mask, int *like) noexcept
    void hb_store_release(uint64_t *p, uint64_t value) noexcept
    bint hb_cas(uint64_t *p, uint64_t expected, uint64_t desired) noexcept
    bint hb_cas_pair(
        uint64_t *p, uint64_t expected0, uint64_t expected1, uint64_t desired0, uint64_t desired1
    ) noexcept
    uint64_t hb_fetch_add_relaxed(uint64_t *p, uint64_t value) noexcept
    void hb_fence_acquire() noexcept
    void hb_fence_release() noexcept
    void hb_fence_full() noexcept
    void hb_prefetch_read(const void *p) noexcept
    void hb_prefetch_write(const void *p) noexcept
