# The vacancy tree: which blocks of slots have nothing free, so that a search is short to the last packet.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from hbcore._file.format cimport hb_slot
from hbcore._lib.atomics cimport hb_load_acquire

cdef enum:
    BLOCK_BITS = 6
    BLOCK_SIZE = 1 << BLOCK_BITS
    FAN_OUT_BITS = 5
    FAN_OUT = 1 << FAN_OUT_BITS
    LEVEL_LIMIT = 8         # 64 * 32**8 slots are more than an envelope can have


cdef struct Vacancy:
    hb_slot *slots
    uint64_t slot_count             # there is room for so many
    uint64_t *open_count            # [shared] so many of them may be taken, from the first on
    uint64_t *cleared_count         # [shared] no bit of the time before there were so many lies over any of these
    int level_count
    uint64_t *levels[LEVEL_LIMIT]       # words of each level, blocks first, the single root word last


cdef uint64_t vacancy_size(uint64_t slot_count) noexcept nogil
cdef void vacancy_attach(Vacancy *vacancy, uint64_t *words, hb_slot *slots, uint64_t slot_count) noexcept nogil
cdef void vacancy_open(Vacancy *vacancy, uint64_t count, uint64_t new_count) noexcept nogil
cdef uint64_t vacancy_opened(Vacancy *vacancy) noexcept nogil
cdef bint vacancy_hides(const Vacancy *vacancy, uint64_t slot) noexcept nogil
cdef bint vacancy_none(const Vacancy *vacancy) noexcept nogil
cdef uint64_t vacancy_version(const Vacancy *vacancy) noexcept nogil
cdef void vacancy_mark(Vacancy *vacancy, uint64_t block) noexcept nogil
cdef void vacancy_unpin(Vacancy *vacancy, uint64_t block) noexcept nogil
cdef void vacancy_pin(Vacancy *vacancy, uint64_t block) noexcept nogil
cdef int64_t vacancy_next(const Vacancy *vacancy, uint64_t block) noexcept nogil


cdef inline uint64_t open_slots(const Vacancy *vacancy) noexcept nogil:
    # How many slots may be taken; it only grows. Whatever damage has made of it is within 1 .. slot_count.
    cdef uint64_t count = hb_load_acquire(vacancy.open_count)
    return count if count - 1 < vacancy.slot_count else vacancy.slot_count


cdef inline uint64_t open_blocks(const Vacancy *vacancy) noexcept nogil:
    return (open_slots(vacancy) - 1 >> BLOCK_BITS) + 1
