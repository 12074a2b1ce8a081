"""The keyed check of what an object was made with, so that damage is not believed. See ``record.pxd``."""
from libc.string cimport memcmp, memcpy

from hbcore._file.format cimport hb_extent
from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey, siphash128


cdef size_t record_message(
    const hb_extent *record, size_t size, const unsigned char *name, size_t name_length, unsigned char *message
) noexcept nogil:
    # Write what is hashed, RECORD_MESSAGE bytes at most. Return how many.
    memcpy(message, &record.kind, 16)
    memcpy(message + 16, <const char *>record + sizeof(hb_extent), size)
    if name_length:
        memcpy(message + 16 + size, name, name_length)
    return 16 + size + name_length


cdef void check_of(
    Region region, const hb_extent *record, size_t size, const unsigned char *name, size_t name_length, UserKey *check
) noexcept nogil:
    cdef unsigned char[RECORD_MESSAGE] message
    siphash128(
        region.header.directory_key, message, record_message(record, size, name, name_length, message), check
    )


cdef void record_copy(hb_extent *copy, const hb_extent *record, size_t size) noexcept nogil:
    # Copy what was written once: the heading, the fields that never change, and their check. The rest of the copy is
    # left as it was, because other threads change these fields meanwhile. What stands in the copy is checked, and used,
    # without a look at the record again.
    memcpy(&copy.kind, &record.kind, 16)
    memcpy(<char *>copy + sizeof(hb_extent), <const char *>record + sizeof(hb_extent), size + 16)


cdef void record_seal(
    Region region, hb_extent *record, size_t size, const unsigned char *name, size_t name_length
) noexcept nogil:
    # Write the check of a record that is whole but for its check.
    cdef UserKey check
    check_of(region, record, size, name, name_length, &check)
    memcpy(<char *>record + sizeof(hb_extent) + size, &check, 16)


cdef bint record_is_sound(
    Region region, const hb_extent *record, size_t size, const unsigned char *name, size_t name_length
) noexcept nogil:
    # Return whether the check of a record is that of what stands in it. If not, the record is half made, or damaged.
    cdef UserKey check
    check_of(region, record, size, name, name_length, &check)
    return memcmp(&check, <const char *>record + sizeof(hb_extent) + size, 16) == 0
