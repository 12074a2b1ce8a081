# The vacancy tree: which blocks of slots have nothing free, so that a search is short to the last packet.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from hbcore.format cimport hb_slot

cdef enum:
    BLOCK_SIZE = 64
    FAN_OUT = 32
    LEVEL_LIMIT = 8         # 64 * 32**8 slots are more than an envelope can have


cdef struct Vacancy:
    hb_slot *slots
    uint64_t slot_count
    int level_count
    uint64_t *levels[LEVEL_LIMIT]       # words of each level, blocks first, the single root word last
    uint64_t children[LEVEL_LIMIT]      # how many blocks, or words of the level below, each level has bits for


cdef uint64_t vacancy_size(uint64_t slot_count) noexcept nogil
cdef void vacancy_attach(Vacancy *vacancy, uint64_t *words, hb_slot *slots, uint64_t slot_count) noexcept nogil
cdef bint vacancy_hides(const Vacancy *vacancy, uint64_t slot) noexcept nogil
cdef bint vacancy_none(const Vacancy *vacancy) noexcept nogil
cdef uint64_t vacancy_version(const Vacancy *vacancy) noexcept nogil
cdef void vacancy_mark(Vacancy *vacancy, uint64_t block) noexcept nogil
cdef void vacancy_unpin(Vacancy *vacancy, uint64_t block) noexcept nogil
cdef void vacancy_pin(Vacancy *vacancy, uint64_t block) noexcept nogil
cdef int64_t vacancy_next(const Vacancy *vacancy, uint64_t block) noexcept nogil
