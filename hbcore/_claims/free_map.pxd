# The free map says which blocks of slots have nothing free, so that every search is short, the one for the last packet
# too.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from hbcore._file.format cimport hb_slot
from hbcore._lib.atomics cimport hb_load_acquire

cdef enum:
    BLOCK_BITS = 6
    BLOCK_SIZE = 1 << BLOCK_BITS
    FAN_OUT_BITS = 5
    FAN_OUT = 1 << FAN_OUT_BITS
    LEVEL_LIMIT = 8         # 64 * 32**8 slots are more than an envelope can have


cdef struct FreeMap:
    hb_slot *slots
    uint64_t slot_count             # slots that there is room for
    uint64_t *open_count            # [shared] slots that may be taken, counted from the first
    uint64_t *cleared_count         # [shared] slots whose bits are cleared: none from before they were open is left
    int level_count
    uint64_t *levels[LEVEL_LIMIT]       # words of each level, blocks first, the single root word last


cdef uint64_t free_map_size(uint64_t slot_count) noexcept nogil
cdef void free_map_attach(FreeMap *free_map, uint64_t *words, hb_slot *slots, uint64_t slot_count) noexcept nogil
cdef void free_map_open(FreeMap *free_map, uint64_t count, uint64_t new_count) noexcept nogil
cdef uint64_t free_map_opened(FreeMap *free_map) noexcept nogil
cdef bint free_map_hides(const FreeMap *free_map, uint64_t slot) noexcept nogil
cdef bint free_map_none(const FreeMap *free_map) noexcept nogil
cdef uint64_t free_map_version(const FreeMap *free_map) noexcept nogil
cdef void free_map_mark(FreeMap *free_map, uint64_t block) noexcept nogil
cdef void free_map_unpin(FreeMap *free_map, uint64_t block) noexcept nogil
cdef void free_map_pin(FreeMap *free_map, uint64_t block) noexcept nogil
cdef int64_t free_map_next(const FreeMap *free_map, uint64_t block, uint64_t *digest) noexcept nogil


cdef inline uint64_t open_slots(const FreeMap *free_map) noexcept nogil:
    # Return how many slots may be taken. The number only grows. Whatever damage has made of it, what is returned lies
    # within 1 .. slot_count.
    cdef uint64_t count = hb_load_acquire(free_map.open_count)
    return count if count - 1 < free_map.slot_count else free_map.slot_count


cdef inline uint64_t open_blocks(const FreeMap *free_map) noexcept nogil:
    return (open_slots(free_map) - 1 >> BLOCK_BITS) + 1
