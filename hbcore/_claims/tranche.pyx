"""The tranches of an envelope: what it was made with, and what each top-up has added, in the order of their packets.

In the mapping they are a chain that is only ever appended to: each says where the next one is. A handle keeps a private
copy of the terms of each, checked once, in a chain of its own. Any thread of the handle makes this chain longer when it
first meets a packet of a tranche beyond it. All of this is safe in any thread of any process.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from hbcore._lib.atomics cimport hb_cas, hb_load_acquire
from hbcore._split.law cimport terms_prepare

cdef void tranche_prepare(Tranche *tranche, const unsigned char *seed) noexcept nogil:
    # Derive everything else from the terms. seed: that of the envelope, whose first half seals the amounts of all its
    # tranches.
    terms_prepare(&tranche.terms)
    tranche.next = 0
    tranche.previous = tranche.jump = tranche
    memcpy(tranche.amounts.seal, seed, sizeof(tranche.amounts.seal))
    tranche.amounts.min = tranche.terms.min
    tranche.amounts.max = tranche.terms.max
    tranche.amounts.mask = 1
    while tranche.amounts.mask < tranche.terms.max:
        tranche.amounts.mask = tranche.amounts.mask << 1 | 1


cdef bint tranche_join(Tranche *tranche, Tranche *next) noexcept nogil:
    # Append `next` to the chain of this handle, and return whether this call did so: if several threads try, one wins
    # and the others throw theirs away. Release: a thread that sees the address sees the terms.
    next.start = tranche.start + tranche.terms.packets
    next.number = tranche.number + 1
    next.previous = tranche
    # Two jumps of one length are followed by one over both, so the way back to any tranche takes O(log tranches) steps
    # (Myers, 1983).
    next.jump = tranche
    if tranche.number - tranche.jump.number == tranche.jump.number - tranche.jump.jump.number:
        next.jump = tranche.jump.jump
    return hb_cas(&tranche.next, 0, <uint64_t>next)


cdef void tranches_free(Tranche *first) noexcept nogil:
    # Free all tranches but the first.
    cdef Tranche *tranche = <Tranche *>first.next
    cdef Tranche *next
    while tranche != NULL:
        next = <Tranche *>tranche.next
        free(tranche)
        tranche = next
    first.next = 0


cdef int tranche_step(attach_function attach, void *owner, Tranche **tranche) noexcept nogil:
    # Go on to the next tranche, or to NULL after the last one. Return 0, CORRUPT or NO_MEMORY.
    cdef int answer
    if hb_load_acquire(&tranche[0].next) == 0 and hb_load_acquire(tranche[0].following) != 0:
        answer = attach(owner, tranche[0])
        if answer != 0:
            return answer
    tranche[0] = <Tranche *>hb_load_acquire(&tranche[0].next)
    return 0


cdef Tranche *tranche_with(attach_function attach, void *owner, Tranche *tranche, uint64_t packet) noexcept nogil:
    # Return the tranche of a packet that may be claimed, looking from any tranche on. NULL means damage, because a slot
    # is opened only after its tranche was appended, or that there is no memory for the next Tranche.
    while packet < tranche.start:
        tranche = tranche.jump if packet < tranche.jump.start else tranche.previous
    while tranche != NULL and packet - tranche.start >= tranche.terms.packets:
        if tranche_step(attach, owner, &tranche) != 0:
            return NULL
    return tranche
