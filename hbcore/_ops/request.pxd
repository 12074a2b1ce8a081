# What is asked for: one envelope, or many.
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from hbcore._lib.limits cimport SEED_SIZE
from hbcore._split.law cimport hb_terms

cdef struct Request:           # what an envelope is to be
    hb_terms terms          # the seed only if one is given
    bint has_seed


cdef class BatchRequest:           # many envelopes that are to be, as pointers and counts
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
cdef bint plain_request(
    object total, object packets, object law, object min, object max, object concentration, object seed,
    object expires_at, object per_user, object hold_seconds, object max_packets, Request *request
) except -1
cdef int request_from(object checked, Request *request) except -1
cdef object request_as_terms(const Request *request)
cdef BatchRequest plain_batch_request(object names, object totals, object packets, object seeds, const Request *common)


cdef inline void request_of(BatchRequest batch, Py_ssize_t i, Request *request) noexcept nogil:
    # Fill in what is an envelope's own. request: of what all have in common, or of another of them.
    request.terms.total = <uint64_t>batch.totals[i]
    request.terms.packets = <uint64_t>batch.packets[i]
    request.terms.max = min(batch.highest, request.terms.total)
    request.terms.max_packets = batch.room if batch.room != 0 else request.terms.packets
    if request.has_seed:
        memcpy(request.terms.seed, batch.seed_bytes + i * SEED_SIZE, SEED_SIZE)
