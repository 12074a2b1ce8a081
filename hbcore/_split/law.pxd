# The laws: pure functions from terms to amounts.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    STRATUM_SIZE = 1024


cdef extern from "terms.h" nogil:
    struct hb_terms:
        uint64_t total
        uint64_t packets
        uint64_t min
        uint64_t max
        uint32_t law
        uint32_t concentration
        uint64_t expires_at_ms
        uint64_t hold_ms
        uint64_t per_user
        uint64_t max_packets
        unsigned char seed[32]

    # Terms has the same fields, together also as `given`, and what terms_prepare derives from them.
    ctypedef struct Terms "struct hb_split_terms":
        hb_terms given
        uint64_t total
        uint64_t packets
        uint64_t min
        uint64_t max
        uint32_t law
        uint32_t concentration
        uint64_t expires_at_ms
        uint64_t hold_ms
        uint64_t per_user
        uint64_t max_packets
        unsigned char seed[32]
        uint64_t stratum_count
        uint64_t stratum_size
        uint64_t larger_count
        uint64_t rotation


cdef bint terms_valid(const hb_terms *terms) noexcept nogil
cdef void terms_prepare(Terms *terms) noexcept nogil
cdef uint64_t stratum_share(const Terms *terms, uint64_t stratum) noexcept nogil
cdef int split_stratum(const Terms *terms, uint64_t stratum, uint64_t *amounts) noexcept nogil
cdef int terms_from_python(Terms *terms, object checked) except -1
cdef int terms_read(hb_terms *terms, object checked) except -1
cdef object terms_as_python(const hb_terms *terms, bint has_seed)


cdef inline uint64_t strata_of(uint64_t packets) noexcept nogil:
    # Return the number of strata.
    return (packets + STRATUM_SIZE - 1) // STRATUM_SIZE


cdef inline uint64_t stratum_start(const Terms *terms, uint64_t stratum) noexcept nogil:
    return stratum * terms.stratum_size + (stratum if stratum < terms.larger_count else terms.larger_count)


cdef inline uint64_t stratum_of(const Terms *terms, uint64_t position) noexcept nogil:
    cdef uint64_t larger_packets = terms.larger_count * (terms.stratum_size + 1)
    if position < larger_packets:
        return position // (terms.stratum_size + 1)
    return terms.larger_count + (position - larger_packets) // terms.stratum_size


cdef inline uint64_t position_of(const Terms *terms, uint64_t packet) noexcept nogil:
    cdef uint64_t position = packet + terms.rotation
    return position if position < terms.packets else position - terms.packets


cdef inline uint64_t packet_at(const Terms *terms, uint64_t position) noexcept nogil:
    return position - terms.rotation if position >= terms.rotation else position + terms.packets - terms.rotation
