# The state of a hold: kind (4 bits) | generation (18 bits) | time in ms (42 bits), and beside it a value.
#
# g is the generation; the states in the middle are undecided:
#
#     UNUSED(g) -> PENDING(g + 1) -> GRANTED(g + 1), or UNUSED(g + 1)         reserve
#     GRANTED(g) -> SETTLING(g + 1) -> SETTLED(g + 1), or at once if nothing comes back       settle
#     GRANTED(g) -> RELEASING(g + 1) -> RELEASED(g + 1)                       release
#     UNUSED(g) -> FUNDING(g + 1) -> FUNDED(g + 1), or UNUSED(g + 1)          fund a child: budget, envelope, top-up
#     FUNDED(g) -> REFUNDING(g + 1) -> FUNDED(g + 1)                          more has come back from a closed child
#     UNUSED(g) -> ADDING(g + 1) -> ADDED(g + 1)                              money comes from outside
#
# account.pyx says which thread takes which step, and when. A hold's first request is written before a word of the index
# names it. Until then the hold is its maker's, and what stands in it has not happened, and never will if its maker dies
# or gives it back.
from libc.stdint cimport uint64_t

from hbcore._file.format cimport hb_hold
from hbcore._lib.atomics cimport hb_load_acquire, hb_load_relaxed

cdef enum:
    UNUSED = 0          # its key was never granted anything
    PENDING = 1         # value: the amount that is asked for
    GRANTED = 2
    SETTLED = 3         # value: what came back of the amount
    SETTLING = 4        # value: what comes back of the amount
    RELEASING = 5       # value: the amount
    RELEASED = 6        # value: the amount
    FUNDING = 7         # value: offset of the child that is to be funded
    FUNDED = 8          # value: all that came back from the child so far
    REFUNDING = 9       # value: all that came back from the child, this refund with it
    ADDING = 10         # value: the amount that is added to the account
    ADDED = 11

    READ_LIMIT = 64     # looks at a pair that other threads change each time

cdef struct Standing:       # a hold as it was found
    hb_hold *hold
    uint64_t number         # number of the hold
    uint64_t *word          # the word at which the path has ended
    uint64_t level          # level of the word
    uint64_t distance       # words between it and the first of the path in its level
    uint64_t state
    uint64_t value
    uint64_t amount
    uint64_t link
    uint64_t announced      # the state that this call of account_reserve or account_finish has written; 0: none yet


cdef inline int hold_kind(uint64_t state) noexcept nogil:
    return <int>(state >> 60)


cdef inline uint64_t hold_generation(uint64_t state) noexcept nogil:
    return state >> 42 & ((1 << 18) - 1)


cdef inline uint64_t hold_time(uint64_t state) noexcept nogil:
    return state & ((<uint64_t>1 << 42) - 1)


cdef inline uint64_t hold_state(int kind, uint64_t generation, uint64_t time_ms) noexcept nogil:
    return <uint64_t>kind << 60 | (generation & ((1 << 18) - 1)) << 42 | time_ms


cdef inline uint64_t with_kind(uint64_t state, int kind) noexcept nogil:
    return state & ((<uint64_t>1 << 60) - 1) | <uint64_t>kind << 60


cdef inline bint is_undecided(int kind) noexcept nogil:
    return kind in (PENDING, SETTLING, RELEASING, FUNDING, REFUNDING, ADDING)


cdef inline bint read_pair(const uint64_t *pair, uint64_t *first, uint64_t *second) noexcept nogil:
    # Read two words that change together, of which the first never comes back. Return False if the first changed at
    # every look: in a hold only damage can do that; in the money of an account, other threads are very busy.
    # Both loads acquire: the second word must not be read before the first, nor the first again before the second.
    cdef uint64_t before, _turn
    for _turn in range(READ_LIMIT):
        before = hb_load_acquire(&pair[0])
        second[0] = hb_load_acquire(&pair[1])
        first[0] = hb_load_relaxed(&pair[0])
        if first[0] == before:
            return True
    return False
