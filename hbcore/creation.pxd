# Making envelopes, one or many.
from libc.stdint cimport int64_t, uint64_t

from hbcore.budget cimport Budget
from hbcore.law cimport Terms
from hbcore.region cimport Region


cdef struct Wish:           # what an envelope is to be
    Terms terms             # as far as they are given: nothing in it is derived, and the seed only if there is one
    uint64_t expires_at_ms
    uint64_t hold_ms
    uint64_t per_user
    bint has_seed


cdef class Order:           # many envelopes that are to be, as pointers and counts
    cdef Py_ssize_t count
    cdef tuple names        # they own the texts
    cdef const unsigned char **texts
    cdef unsigned char *lengths
    cdef int64_t *totals
    cdef int64_t *packets
    cdef bytes seeds        # 32 bytes for each, or None
    cdef const unsigned char *seed_bytes


cdef object get_envelope(
    Region region, Budget budget, object name, object total, object packets, object law, object min, object max,
    object concentration, object seed, object expires_at, object per_user, object hold_seconds
)
cdef object create_envelopes(
    Region region, Budget budget, object names, object totals, object packets, object law, object min, object max,
    object concentration, object seeds, object expires_at, object per_user, object hold_seconds
)
