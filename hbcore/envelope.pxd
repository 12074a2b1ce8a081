# Envelopes and claims: the public classes.
from libc.stdint cimport int64_t, uint64_t

from hbcore.deck cimport Counts, Deck
from hbcore.ledger cimport Found
from hbcore.region cimport Region

cdef class Claim:
    cdef readonly int64_t amount
    cdef readonly int64_t packet
    cdef int status_code


cdef class Envelope:
    cdef Deck deck
    cdef Region region
    cdef uint64_t offset
    cdef readonly str name
    cdef object __weakref__

    cdef int count(self, Counts *counts) except -1
    cdef tuple identity(self)
    cdef object raise_for(self, int answer)
    cdef Claim answer(self, int status, const Found *found)


cdef Envelope envelope_at(Region region, uint64_t offset, str name)
cdef Envelope envelope_find(Region region, str name, bytes encoded)
cdef Envelope envelope_create(Region region, str name, bytes encoded, object terms, bint *is_new)
cdef object envelope_terms_of(Envelope envelope)
