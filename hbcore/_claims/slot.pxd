# The state word of a slot: kind (3 bits) | generation (19 bits) | worker or time in ms (42 bits).
#
#     FREE -> HELD(worker) -> GRANTED(time) -> SETTLED(time)
#      ^        |                 |
#      +--------+- RELEASING <----+              FREE -> REFUNDED, once the envelope is closed
#
# The generation is raised whenever the slot is taken, so a CAS that was delayed fails, and a state that reads the same
# before and after the user's key was read belongs to that key. For GRANTED and SETTLED to come back, a slot would have
# to be taken 2**19 times within one millisecond. For HELD and RELEASING, it would have to be taken exactly a multiple
# of 2**19 times by one process while a thread of another stands still between two instructions. FREE and REFUNDED may
# come back, which is harmless: free is free.
from libc.stdint cimport uint64_t

cdef enum:
    FREE = 0
    HELD = 1
    GRANTED = 2
    SETTLED = 3
    RELEASING = 4
    REFUNDED = 5


cdef inline int slot_kind(uint64_t state) noexcept nogil:
    return <int>(state >> 61)


cdef inline uint64_t slot_payload(uint64_t state) noexcept nogil:
    return state & (((<uint64_t>1) << 42) - 1)


cdef inline uint64_t slot_generation(uint64_t state) noexcept nogil:
    return state >> 42 & ((1 << 19) - 1)


cdef inline uint64_t slot_state(uint64_t kind, uint64_t previous, uint64_t payload) noexcept nogil:
    # Return a state with the same generation as `previous`.
    return kind << 61 | (previous & (((<uint64_t>1 << 19) - 1) << 42)) | payload


cdef inline uint64_t slot_taken(uint64_t free_state, uint64_t worker) noexcept nogil:
    # Return HELD in the next generation. An overflow out of the 19 bits is cut off.
    return slot_state(HELD, free_state + (<uint64_t>1 << 42), worker)


cdef inline bint slot_is_final(uint64_t state) noexcept nogil:
    # Return whether the slot is neither free nor on its way to it: without a further release or lapse it will not be
    # free.
    cdef int kind = slot_kind(state)
    return kind == GRANTED or kind == SETTLED or kind == REFUNDED


cdef inline bint slot_is_claim(uint64_t state) noexcept nogil:
    # Return whether the slot is somebody's claim, if it has the right key and an index word names it.
    cdef int kind = slot_kind(state)
    return kind == HELD or kind == GRANTED or kind == SETTLED
