# Envelopes and claims: the public classes.
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.ledger cimport Found
from hbcore._claims.packets cimport Counts, Deck
from hbcore._file.directory cimport Name
from hbcore._file.format cimport hb_envelope
from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey
from hbcore._lib.limits cimport NAME_LIMIT
from hbcore._split.law cimport hb_terms
from hbcore.budget cimport Budget

cdef class Claim:
    cdef int64_t _amount
    cdef int64_t _packet
    cdef int status_code


cdef class Envelope:
    cdef Deck deck
    cdef Region region
    cdef uint64_t offset
    cdef readonly str name
    cdef readonly Budget budget
    cdef UserKey funding_key        # the key under which the budget holds this envelope's money
    cdef object __weakref__

    cdef uint64_t checked_nth(self, object nth) except? 0xFFFFFFFFFFFFFFFF
    cdef bint is_over(self) noexcept
    cdef bint has_expired(self) noexcept
    cdef int pass_on(self) except -1
    cdef uint64_t end(self, uint64_t worker) except? 0xFFFFFFFFFFFFFFFF
    cdef bint finish_closing(self) except -1
    cdef int end_if_due(self) except -1
    cdef int count(self, Counts *counts) except -1
    cdef tuple identity(self)
    cdef object raise_for(self, int answer)
    cdef Claim answer(self, int status, const Found *found)

cdef const char *envelope_read(
    Region region, uint64_t offset, hb_envelope *copy, unsigned char *name
) noexcept nogil
cdef object raise_damaged(Region region, str name, const char *wrong)
cdef Envelope envelope_at(Region region, uint64_t offset, str name, Budget budget=*)
cdef Envelope envelope_from(
    Region region, uint64_t offset, str name, Budget budget, const Name *place, const hb_terms *terms
)
cdef uint64_t envelope_sweep(Envelope envelope) except? 0xFFFFFFFFFFFFFFFF
cdef object envelope_terms_of(Envelope envelope)

# The function behind Envelope.top_up, whose steps need claims and money together.
ctypedef object (*top_up_function)(Envelope envelope, object key, object amount, object packets, object seed)

cdef void envelope_set_top_up(top_up_function function) noexcept
cdef void envelope_set_reopen(object function) noexcept
