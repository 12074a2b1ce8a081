# The word of an amount in its slot. Below stands the amount, in as many bits as the largest may need; above stands a
# check of slot and amount, so that an amount that was damaged is never handed out. The check is a check sum under the
# envelope's seed, no more: a process that can write to the file can read the seed.
from libc.stdint cimport int64_t, uint64_t

from hbcore._file.format cimport hb_slot
from hbcore._lib.atomics cimport hb_load_relaxed

cdef struct AmountRule:     # what the amounts of a run of slots may be
    uint64_t seal[2]        # key of the check
    uint64_t mask           # bits of an amount in its word; the other bits are its check
    uint64_t min
    uint64_t max


cdef inline uint64_t amount_word(const AmountRule *rule, uint64_t slot, uint64_t amount) noexcept nogil:
    cdef uint64_t hash = (amount ^ rule.seal[0]) * <uint64_t>0x9E3779B97F4A7C15
    hash = ((hash ^ hash >> 32) + (slot ^ rule.seal[1])) * <uint64_t>0xC2B2AE3D27D4EB4F
    hash = (hash ^ hash >> 32) * <uint64_t>0x9E3779B97F4A7C15
    return (hash & ~rule.mask) | amount


cdef inline bint amount_read(
    const AmountRule *rule, const hb_slot *slots, uint64_t slot, int64_t *amount
) noexcept nogil:
    # Read the amount of a slot. Return False if it is not there yet, or damaged.
    cdef uint64_t word = hb_load_relaxed(&slots[slot].amount)
    cdef uint64_t value = word & rule.mask
    amount[0] = <int64_t>value
    return rule.min <= value <= rule.max and word == amount_word(rule, slot, value)
