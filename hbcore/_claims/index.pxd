# The index: an open-addressed table of 64-bit words that finds the slot of a user.
#
#     EMPTY(generation)                      nothing was ever inserted here in this generation of the table
#     ENTRY(generation, tag, slot)           the slot holds, or is about to stop holding, a user with this tag
#     FROZEN(generation, tag, slot)          an ENTRY while the table is being replaced
#     GONE(generation, 0)                    a tombstone: the claim was released
#     GONE(generation, 1)                    moved: the word's content, if any, stands in the next table
#
# Within a generation a word goes EMPTY -> ENTRY -> GONE and never back, and an insertion always goes to the first EMPTY
# word of its user's path. That is why two racing insertions of one user must meet at the same word.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from hbcore._file.format cimport hb_slot
from hbcore._keys.user cimport UserKey
from hbcore._lib.atomics cimport hb_load_private
from hbcore._lib.wide cimport hb_multiply

cdef enum:
    EMPTY = 0
    ENTRY = 1
    FROZEN = 2
    GONE = 3
    TAG_BITS = 14
    PHASE_STABLE = 0
    PHASE_RESET = 1         # the next table is being made empty
    PHASE_MOVE = 2          # the current table is being frozen and copied
    PHASE_BITS = 2


cdef struct Index:
    uint64_t *state             # [shared] generation << PHASE_BITS | phase
    uint64_t *tombstones        # [shared] hint: tombstones in the current table
    uint64_t tables[2]          # [private] addresses of the tables; the second's is 0 until this view has met it
    uint64_t word_count         # words in each table
    hb_slot *slots
    uint64_t slot_count
    uint32_t slot_bits


cdef uint64_t index_word_count(uint64_t slot_count) noexcept nogil
cdef uint64_t index_table_size(uint64_t slot_count) noexcept nogil
cdef void index_attach(Index *index, uint64_t *words, hb_slot *slots, uint64_t slot_count) noexcept nogil
cdef bint index_is_crowded(const Index *index) noexcept nogil
cdef void index_start_replacement(Index *index, uint64_t state) noexcept nogil
cdef void index_help(Index *index, uint64_t state) noexcept nogil


cdef inline uint64_t *table_of(const Index *index, uint64_t generation) noexcept nogil:
    # Return the table of a generation, or NULL: it is the second, and this view has not met it yet.
    return <uint64_t *>hb_load_private(&index.tables[generation & 1])


cdef inline bint is_moving(uint64_t state) noexcept nogil:
    # Return whether the index is being replaced, by its state word.
    return state & ((1 << PHASE_BITS) - 1) != 0


cdef inline uint64_t home_of(const Index *index, const UserKey *key) noexcept nogil:
    cdef uint64_t low
    return hb_multiply(key.low, index.word_count, &low)


cdef inline uint64_t slot_mask(const Index *index) noexcept nogil:
    return (<uint64_t>1 << index.slot_bits) - 1


cdef inline uint64_t empty_word(uint64_t generation) noexcept nogil:
    # Return the empty word of a generation. A table is used by every second generation. Its first empty word is 0: what
    # was never written is empty.
    return generation >> 1


cdef inline uint64_t tag_of(const UserKey *key) noexcept nogil:
    # Return the key's tag. It depends on all bits of the key, so that the audit notices a key that was damaged.
    return (key.low ^ (key.high << 32 | key.high >> 32)) * <uint64_t>0x9E3779B97F4A7C15 >> (64 - TAG_BITS)


cdef inline uint64_t entry_prefix(const Index *index, uint64_t generation, const UserKey *key) noexcept nogil:
    # Return all of an entry but the slot. The bits that the slot leaves free are generation: a delayed CAS could
    # mistake an entry for one of an earlier generation only after 2**46 claims and releases of one ledger while its
    # thread stood still.
    cdef uint64_t fields = generation << TAG_BITS | tag_of(key)
    return <uint64_t>ENTRY << 62 | ((fields << index.slot_bits) & (((<uint64_t>1) << 62) - 1))


cdef inline uint64_t tombstone_word(uint64_t generation) noexcept nogil:
    return <uint64_t>GONE << 62 | ((generation << 1) & (((<uint64_t>1) << 62) - 1))


cdef inline uint64_t moved_word(uint64_t generation) noexcept nogil:
    return tombstone_word(generation) | 1


cdef inline int word_kind(uint64_t word) noexcept nogil:
    return <int>(word >> 62)
