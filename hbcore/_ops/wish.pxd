# What is asked for: one envelope, or many.
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from hbcore._split.law cimport Terms

cdef enum:
    SEED_SIZE = 32


cdef struct Wish:           # what an envelope is to be
    Terms terms             # as far as they are given: nothing in it is derived, and the seed only if there is one
    uint64_t expires_at_ms
    uint64_t hold_ms
    uint64_t per_user
    uint64_t max_packets
    bint has_seed


cdef class Order:           # many envelopes that are to be, as pointers and counts
    cdef Py_ssize_t count
    cdef tuple names        # they own the texts, or:
    cdef unsigned char *copies
    cdef const unsigned char **texts
    cdef unsigned char *lengths
    cdef int64_t *totals
    cdef int64_t *packets
    cdef bytes seeds        # 32 bytes for each, or None
    cdef const unsigned char *seed_bytes
    cdef uint64_t highest   # the most that any packet may be
    cdef uint64_t room      # max_packets of all; 0: each for just its packets


cdef bint text_of(str name, const unsigned char **text, uint64_t *length) except -1
cdef bint is_default_law(object law) noexcept
cdef bint plain_wish(
    object total, object packets, object law, object min, object max, object concentration, object seed,
    object expires_at, object per_user, object hold_seconds, object max_packets, Wish *wish
) except -1
cdef int wish_from(object checked, Wish *wish) except -1
cdef object wish_as_terms(const Wish *wish)
cdef Order plain_order(object names, object totals, object packets, object seeds, const Wish *common)


cdef inline void wish_of(Order order, Py_ssize_t i, Wish *wish) noexcept nogil:
    # Fill in what is an envelope's own. wish: of what all have in common, or of another of them.
    wish.terms.total = <uint64_t>order.totals[i]
    wish.terms.packets = <uint64_t>order.packets[i]
    wish.terms.max = min(order.highest, wish.terms.total)
    wish.max_packets = order.room if order.room != 0 else wish.terms.packets
    if wish.has_seed:
        memcpy(wish.terms.seed, order.seed_bytes + i * SEED_SIZE, SEED_SIZE)
