"""The index finds a user's slot; here a table that tombstones crowd is replaced while every thread goes on.

Probing is in ``ledger.pxd``, publishing in ``claim.pyx``. This file replaces generation g by g + 1, a table of the same
size that lives in the other of two places. An envelope is made with one of these, and a claim makes the other when it
first needs it (``begin_replacement`` in ``ledger.pxd``); a release never does, for a release must not fail for want of
space. Every thread that meets a replacement helps, none waits, and a helper may die or stop at any step. The state word
goes stable(g) -> reset(g) -> move(g) -> stable(g + 1), each by one CAS of a thread that has seen that the whole step is
done:

1. reset: every word of the other table becomes EMPTY(g + 1). Before that, the table is all zeros if it was never used,
   or all "moved" of generation g - 1.
2. move: in the current table, every EMPTY and every tombstone becomes "moved", so that an insertion in flight fails and
   tries again in the next table. Every ENTRY becomes FROZEN, is copied to the first EMPTY word of its user's path in
   the next table, and then becomes "moved".
3. When every word is "moved", the state becomes stable(g + 1).

An entry is copied exactly once, however many threads help. Until the state says stable(g + 1), only copies are written
to the next table. A helper looks for the first EMPTY word of the path, p, and then looks again whether the old word is
still FROZEN. If it is, no helper had finished copying it, so nothing of it was released yet, so the entry itself would
have been seen on the path before p if any helper had written it there. Another helper that copies it now must use p as
well, because p is the first EMPTY word of the same path; so the CAS on p decides, once. A helper that was stopped
between its look and its CAS finds p no longer EMPTY(g + 1): words never become empty again within a generation, and all
words carry their generation.

The key that gives the path is read from the slot. It is stable: a slot is freed only after its word became a tombstone,
and the second look at the old word says that it had not.
"""
from libc.stdint cimport uint64_t

from hbcore._file.format cimport hb_slot
from hbcore._keys.user cimport UserKey
from hbcore._lib.atomics cimport hb_cas, hb_fence_acquire, hb_load_acquire, hb_load_relaxed, hb_store_relaxed

cdef enum:
    CROWDED_PARTS = 4       # a quarter of the words are tombstones


cdef uint64_t index_word_count(uint64_t slot_count) noexcept nogil:
    # Return the words of a table, in whole cache lines. About half of them are taken when every slot is claimed; in a
    # table of one or two lines up to three quarters, for whoever looks there has the whole line.
    return max((31 * slot_count + 64) // 128, <uint64_t>1) * 8


cdef uint64_t index_table_size(uint64_t slot_count) noexcept nogil:
    # Return the bytes of a table.
    return 8 * index_word_count(slot_count)


cdef void index_attach(Index *index, uint64_t *words, hb_slot *slots, uint64_t slot_count) noexcept nogil:
    # Set up a view of an index whose first table is `words`, and whose second table this view has not met.
    index.tables[0] = <uint64_t>words
    index.tables[1] = 0
    index.word_count = index_word_count(slot_count)
    index.slots = slots
    index.slot_count = slot_count
    index.slot_bits = 1
    while slot_count - 1 >> index.slot_bits:
        index.slot_bits += 1


cdef bint index_is_crowded(const Index *index) noexcept nogil:
    return hb_load_relaxed(index.tombstones) >= index.word_count // CROWDED_PARTS


cdef void index_start_replacement(Index *index, uint64_t state) noexcept nogil:
    # Begin a replacement. state: the state word as it was read, stable.
    if hb_cas(index.state, state, state | PHASE_RESET):
        # The hint starts anew with the next table. A death before this store leaves it high, and the next replacement
        # comes early.
        hb_store_relaxed(index.tombstones, 0)


cdef void index_help(Index *index, uint64_t state) noexcept nogil:
    # Do what is left of the step of the replacement that `state` speaks of. state: the state word as it was read, not
    # stable. This view has met both tables.
    cdef uint64_t generation = state >> PHASE_BITS
    cdef uint64_t phase = state & ((1 << PHASE_BITS) - 1)
    if phase == PHASE_RESET:
        if not reset_table(index, state):
            return
        hb_cas(index.state, state, generation << PHASE_BITS | PHASE_MOVE)
    elif phase == PHASE_MOVE:
        if not move_table(index, state):
            return
        hb_cas(index.state, state, (generation + 1) << PHASE_BITS)


cdef bint reset_table(Index *index, uint64_t state) noexcept nogil:
    cdef uint64_t generation = state >> PHASE_BITS
    cdef uint64_t *table = table_of(index, generation + 1)
    cdef uint64_t empty = empty_word(generation + 1)
    cdef uint64_t word, i
    if generation == 0:
        return True     # the second table was never used: it is all zeros, which is EMPTY(1)
    for i in range(index.word_count):
        word = hb_load_acquire(&table[i])
        # Only what the generation before left may be overwritten. If the word is anything else, another helper has
        # reset it already, or the whole step is over and this helper has stood still.
        if word == moved_word(generation - 1):
            hb_cas(&table[i], word, empty)
        elif word != empty and hb_load_acquire(index.state) != state:
            return False
    return hb_load_acquire(index.state) == state


cdef bint move_table(Index *index, uint64_t state) noexcept nogil:
    cdef uint64_t generation = state >> PHASE_BITS
    cdef uint64_t *table = table_of(index, generation)
    cdef uint64_t moved = moved_word(generation)
    cdef uint64_t word, i, frozen
    for i in range(index.word_count):
        # A word changes at most three more times in this step, so the loop ends.
        while True:
            word = hb_load_acquire(&table[i])
            if word == moved:
                break
            if word == empty_word(generation) or word == tombstone_word(generation):
                hb_cas(&table[i], word, moved)
                continue
            if hb_load_acquire(index.state) != state:
                return False
            if word_kind(word) == ENTRY:
                frozen = word ^ (<uint64_t>(ENTRY ^ FROZEN) << 62)
                hb_cas(&table[i], word, frozen)
                continue
            if word_kind(word) != FROZEN or not copy_entry(index, state, &table[i], word):
                return False    # damage, or a step that is over
            hb_cas(&table[i], word, moved)
    return True


cdef bint copy_entry(Index *index, uint64_t state, uint64_t *place, uint64_t frozen) noexcept nogil:
    # Put the entry into the next table unless it is there. Return False if the entry is damaged, if the table has no
    # room for it, which only damage can bring about, or if the step is over.
    cdef uint64_t generation = (state >> PHASE_BITS) + 1
    cdef uint64_t *table = table_of(index, generation)
    cdef uint64_t slot = frozen & slot_mask(index)
    cdef uint64_t empty = empty_word(generation)
    cdef uint64_t position, entry, word, _step
    cdef UserKey key
    if slot >= index.slot_count:
        return False
    key.low = hb_load_relaxed(&index.slots[slot].user[0])
    key.high = hb_load_relaxed(&index.slots[slot].user[1])
    hb_fence_acquire()      # the key is read before the second look at the old word
    if frozen ^ <uint64_t>(ENTRY ^ FROZEN) << 62 != (entry_prefix(index, generation - 1, &key) | slot):
        # Another helper has moved the entry, or the key is damaged: then nothing is made of it that looks right.
        return hb_load_acquire(place) != frozen
    entry = entry_prefix(index, generation, &key) | slot
    position = home_of(index, &key)
    for _step in range(index.word_count):
        while True:
            word = hb_load_acquire(&table[position])
            if word == entry:
                return True
            if word != empty:
                break
            if hb_load_acquire(place) != frozen:
                return True     # somebody has copied it
            if hb_cas(&table[position], empty, entry):
                return True
        position += 1
        if position == index.word_count:
            position = 0
    return False
