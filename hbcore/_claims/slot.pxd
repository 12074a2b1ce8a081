# The state word of a slot: kind (3 bits) | generation (19 bits) | worker or time in ms (42 bits).
#
#     FREE -> HELD(worker) -> GRANTED(time) -> SETTLED(time)
#      ^        |                 |
#      +--------+- RELEASING <----+              FREE -> REFUNDED, once the envelope is closed
#
# The generation is raised whenever the slot is taken, so a CAS that was delayed fails, and a state that reads the same
# before and after the user's key was read belongs to that key. For GRANTED and SETTLED to come back, a slot would have
# to be taken 2**19 times within one millisecond; for HELD and RELEASING, exactly a multiple of 2**19 times by one
# process while a thread of another stands still between two instructions. FREE and REFUNDED may come back, and
# harmlessly so: free is free.
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


cdef inline uint64_t slot_state(uint64_t kind, uint64_t previous, uint64_t payload) noexcept nogil:
    # the same generation as `previous`
    return kind << 61 | (previous & (((<uint64_t>1 << 19) - 1) << 42)) | payload


cdef inline uint64_t slot_taken(uint64_t free_state, uint64_t worker) noexcept nogil:
    # the next generation; an overflow out of the 19 bits is cut off
    return slot_state(HELD, free_state + (<uint64_t>1 << 42), worker)


cdef inline bint slot_is_final(uint64_t state) noexcept nogil:
    # neither free nor about to become so without a further word from a user
    cdef int kind = slot_kind(state)
    return kind == GRANTED or kind == SETTLED or kind == REFUNDED


cdef inline bint slot_is_claim(uint64_t state) noexcept nogil:
    # with the right key and an index word that names it, the slot is somebody's claim
    cdef int kind = slot_kind(state)
    return kind == HELD or kind == GRANTED or kind == SETTLED
