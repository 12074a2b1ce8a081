# A record in its extent says what an object was made with, under a keyed check.
#
# Every kind of object (envelope, budget, top-up, tranche) begins with the extent's header and the fields that never
# change, `size` bytes of them from the total on; its check stands right behind them. The check is a keyed hash of the
# kind, the parent and the place of the name, of those fields, and of the name if there is one.
from libc.stdint cimport uint64_t

from hbcore._file.format cimport hb_extent
from hbcore._file.region cimport Region
from hbcore._lib.limits cimport NAME_LIMIT

cdef enum:
    # Bytes from the total to the check:
    BUDGET_TERMS = 8
    TOP_UP_TERMS = 24
    TRANCHE_TERMS = 64
    ENVELOPE_TERMS = 104
    RECORD_MESSAGE = 16 + ENVELOPE_TERMS + NAME_LIMIT   # bytes that are hashed for a check, at most


cdef size_t record_message(
    const hb_extent *record, size_t size, const unsigned char *name, size_t name_length, unsigned char *message
) noexcept nogil
cdef void record_copy(hb_extent *copy, const hb_extent *record, size_t size) noexcept nogil
cdef void record_seal(
    Region region, hb_extent *record, size_t size, const unsigned char *name, size_t name_length
) noexcept nogil
cdef bint record_is_sound(
    Region region, const hb_extent *record, size_t size, const unsigned char *name, size_t name_length
) noexcept nogil
