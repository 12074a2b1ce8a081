# Requests: the terms of one envelope that is to be made, or of many.
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from hbcore._lib.limits cimport SEED_SIZE
from hbcore._split.law cimport hb_terms

cdef struct Request:           # the terms of an envelope that is to be made
    hb_terms terms          # its seed is one that the caller has given only if has_seed
    bint has_seed           # whether the caller has given a seed


cdef class BatchRequest:           # many envelopes that are to be made, as pointers and counts
    cdef Py_ssize_t count                   # number of envelopes
    cdef tuple names                        # the names as str, which own the texts; None: the texts lie in copies
    cdef unsigned char *copies              # the characters of an array of names, if all are ASCII
    cdef const unsigned char **texts        # the name of each envelope in UTF-8
    cdef unsigned char *lengths             # the length of each name in bytes
    cdef int64_t *totals                    # the total of each envelope in minor units
    cdef int64_t *packets                   # the number of packets of each envelope
    cdef bytes seeds                        # 32 bytes for each envelope; None: no seeds were given
    cdef const unsigned char *seed_bytes    # the same bytes
    cdef uint64_t highest                   # the most that any packet may hold, in minor units
    cdef uint64_t room                      # max_packets of all envelopes; 0: each has room for just its packets


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
    # Fill in what is envelope i's own. request: holds what all have in common, as the request of another of them does.
    request.terms.total = <uint64_t>batch.totals[i]
    request.terms.packets = <uint64_t>batch.packets[i]
    request.terms.max = min(batch.highest, request.terms.total)
    request.terms.max_packets = batch.room if batch.room != 0 else request.terms.packets
    if request.has_seed:
        memcpy(request.terms.seed, batch.seed_bytes + i * SEED_SIZE, SEED_SIZE)
