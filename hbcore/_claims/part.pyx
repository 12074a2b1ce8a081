"""The parts of an envelope: what it was made with, and what each top-up has added, in the order of their packets.

In the mapping they are a chain that is only ever appended to: each says where the next one is. A handle keeps a private
copy of the terms of each, checked once, in a chain of its own that any of its threads makes longer when it first meets
a packet of a part beyond it. Safe in any thread of any process.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from hbcore._file.format cimport hb_part
from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey, siphash128
from hbcore._lib.atomics cimport hb_cas, hb_load_acquire
from hbcore._split.law cimport terms_prepare

cdef enum:
    CHECKED_SIZE = 64   # of a record: from the total to the seed


cdef bint part_check(Region region, const hb_part *record, UserKey *out) except -1:
    # A keyed hash of what a part is; whether that is the one it was made with.
    cdef unsigned char[16 + CHECKED_SIZE] message
    memcpy(message, &record.extent.kind, 16)
    memcpy(message + 16, &record.total, CHECKED_SIZE)
    siphash128(region.header.directory_key, message, 16 + CHECKED_SIZE, out)
    return memcmp(out, record.check, 16) == 0


cdef void part_prepare(Part *part) noexcept nogil:
    # Derive everything from the terms.
    terms_prepare(&part.terms)
    part.next = 0
    part.previous = part.jump = part
    part.amount_mask = 1
    while part.amount_mask < part.terms.max:
        part.amount_mask = part.amount_mask << 1 | 1


cdef bint part_join(Part *part, Part *next) noexcept nogil:
    # Of several threads one wins; the others throw theirs away. Release: who sees the address sees the terms.
    next.start = part.start + part.terms.packets
    next.number = part.number + 1
    next.previous = part
    # Two jumps of one length are followed by one over both: O(log parts) back to any (Myers, 1983).
    next.jump = part
    if part.number - part.jump.number == part.jump.number - part.jump.jump.number:
        next.jump = part.jump.jump
    return hb_cas(&part.next, 0, <uint64_t>next)


cdef void parts_free(Part *first) noexcept nogil:
    # All but the first.
    cdef Part *part = <Part *>first.next
    cdef Part *next
    while part != NULL:
        next = <Part *>part.next
        free(part)
        part = next
    first.next = 0


cdef int part_step(attach_function attach, void *owner, Part **part) noexcept nogil:
    # Go on to the next part, NULL after the last one. Returns 0, CORRUPT or NO_MEMORY.
    cdef int answer
    if hb_load_acquire(&part[0].next) == 0 and hb_load_acquire(part[0].following) != 0:
        answer = attach(owner, part[0])
        if answer != 0:
            return answer
    part[0] = <Part *>hb_load_acquire(&part[0].next)
    return 0


cdef Part *part_with(attach_function attach, void *owner, Part *part, uint64_t packet) noexcept nogil:
    # The part of a packet that may be claimed, from any part on; NULL: damage, for a slot is opened after its part was
    # appended.
    while packet < part.start:
        part = part.jump if packet < part.jump.start else part.previous
    while part != NULL and packet - part.start >= part.terms.packets:
        if part_step(attach, owner, &part) != 0:
            return NULL
    return part
