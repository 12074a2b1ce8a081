# The tranches of an envelope: what it was made with, and what each top-up has added.
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.amount cimport AmountRule
from hbcore._keys.user cimport UserKey
from hbcore._split.law cimport Terms, packet_at, position_of

cdef enum:
    # the word of a stratum [atomic]
    STRATUM_UNTOUCHED = 0
    STRATUM_OPEN = 1        # its amounts are computed, or are about to be
    STRATUM_REFUNDED = 2    # the envelope was closed before any of its packets was asked for


cdef struct Tranche:
    Terms terms             # a private copy, checked once
    UserKey key             # key of the top-up
    uint64_t start          # number of its first packet
    uint64_t number         # number of the top-up, from 1; 0: what the envelope was made with
    uint64_t *strata        # [shared] a word for each stratum
    uint64_t *following     # [shared] offset of the next tranche; 0: none yet
    AmountRule amounts
    uint64_t next           # [atomic] address of the next Tranche of this handle; 0: not met yet
    Tranche *previous       # the tranche before it; the first tranche itself
    Tranche *jump           # a tranche before it, so chosen that the way back to any is short


# Make the Tranche after one whose `following` is not 0. Return 0, CORRUPT or NO_MEMORY.
ctypedef int (*attach_function)(void *owner, Tranche *tranche) noexcept nogil


cdef void tranche_prepare(Tranche *tranche, const unsigned char *seed) noexcept nogil
cdef bint tranche_join(Tranche *tranche, Tranche *next) noexcept nogil
cdef void tranches_free(Tranche *first) noexcept nogil
cdef int tranche_step(attach_function attach, void *owner, Tranche **tranche) noexcept nogil
cdef Tranche *tranche_with(attach_function attach, void *owner, Tranche *tranche, uint64_t packet) noexcept nogil


cdef inline uint64_t packet_in(const Tranche *tranche, uint64_t position) noexcept nogil:
    return tranche.start + packet_at(&tranche.terms, position)


cdef inline uint64_t place_in(const Tranche *tranche, uint64_t packet) noexcept nogil:
    return position_of(&tranche.terms, packet - tranche.start)
