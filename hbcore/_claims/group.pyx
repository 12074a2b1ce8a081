"""The plain claims of a batch, many in one function.

Nearly every claim of a batch is a plain one: its user has no claim yet, or one that cannot lapse; nobody is replacing
the index; and the thread's next slot is free, is one of the envelope's first packets, and has its amount, or else
nothing at all is left and nothing can come back by itself. ``ledger_claim_plain`` does those one after another, at most
a group of them, and leaves what is not plain to
``ledger_claim``. It takes the steps of ``ledger_claim`` on what is shared, in the same order. The state of the index is
read once for all of them: a word that is replaced meanwhile is not empty any more, and publishing there fails. That the
ledger is closed is looked at before each slot is taken, so that a thread that stands still in the middle grants one
packet after a close at most. What else is different:

- The amount is read before the slot is taken. It is a pure function of the terms, and its word has its check.
- Where claims may lapse, all claims of the group are published first; then the clock is read; and then their slots
  are made GRANTED. So a thread that stands still in the middle shortens nobody's time, and the clock that measures it,
  which is slow to read, is read once a group. A published slot that is HELD is a claim like any other, and any thread
  that meets it makes it GRANTED. A thread that looks for what has lapsed does so too (``ledger_expire``): the time of a
  claim whose thread stands still begins then.

A death leaves what it leaves in ``ledger_claim``: at most one HELD slot that no index word names. Where claims may
lapse, it can also leave as many HELD slots that are claims as a group has users.
"""
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.amount cimport amount_read
from hbcore._claims.claim cimport hb_cursor, ledger_cursor
from hbcore._claims.free_map cimport BLOCK_SIZE, free_map_mark, free_map_none, open_slots
from hbcore._claims.index cimport (
    ENTRY, PHASE_BITS, empty_word, entry_prefix, home_of, slot_mask, table_of, tombstone_word, word_kind,
)
from hbcore._claims.ledger cimport Found, read_slot, table_at_hand, time_of_grant, wants_table
from hbcore._claims.slot cimport FREE, GRANTED, SETTLED, slot_kind, slot_state, slot_taken
from hbcore._claims.transitions cimport put_back
from hbcore._file.format cimport hb_slot
from hbcore._lib.answers cimport GRANTED_NOW, REPEATED, SOLD_OUT
from hbcore._lib.atomics cimport (
    hb_cas, hb_fence_release, hb_load_acquire, hb_load_relaxed, hb_prefetch_write, hb_store_relaxed,
)


cdef void ledger_prefetch_group(const Ledger *ledger, const UserKey *keys, Py_ssize_t count) noexcept nogil:
    # Prefetch the index word that the claim of each user will look at first.
    cdef uint64_t *table = table_of(&ledger.index, hb_load_relaxed(ledger.index.state) >> PHASE_BITS)
    cdef Py_ssize_t i
    if table == NULL:
        return
    for i in range(count):
        hb_prefetch_write(table + home_of(&ledger.index, &keys[i]))


cdef Py_ssize_t ledger_claim_plain(
    Ledger *ledger, const Plain *plain, uint64_t worker, const UserKey *keys, Py_ssize_t count, uint64_t now_ms,
    ClaimRow *rows
) noexcept nogil:
    # Do the claims at the beginning of a group, up to the first that is not plain, and return how many these are. The
    # ledger was not closed a moment ago. Nothing is in hand afterwards.
    cdef uint64_t index_state = hb_load_acquire(ledger.index.state)
    cdef uint64_t generation = index_state >> PHASE_BITS
    cdef uint64_t *table = table_at_hand(ledger, index_state)
    cdef uint64_t word_count = ledger.index.word_count
    cdef uint64_t mask = slot_mask(&ledger.index)
    cdef uint64_t empty = empty_word(generation)
    cdef uint64_t tombstone = tombstone_word(generation)
    cdef uint64_t handle = hb_load_relaxed(&ledger.handle)
    cdef hb_cursor *cursor = ledger_cursor(ledger)
    cdef bint may_lapse = ledger.hold_ms != 0
    # No slots are ever added, none comes back because it has lapsed, and the free map says that none is free.
    cdef bint is_sold_out = ledger.grow == NULL and not may_lapse and free_map_none(&ledger.free_map)
    cdef uint64_t slots[GROUP]      # where claims may lapse: what was published, and is still to be made GRANTED
    cdef uint64_t states[GROUP]
    cdef uint64_t next_slot, open_count, end, at, home, word, prefix, state, held
    cdef Py_ssize_t published = 0
    cdef Py_ssize_t i = 0
    cdef hb_slot *slot
    cdef int64_t amount
    if handle == 0 or cursor.handle != handle or cursor.worker != worker or table == NULL:
        return 0
    next_slot = cursor.slot
    open_count = open_slots(&ledger.free_map)
    end = min(open_count, plain.end)
    while i < count:
        prefix = entry_prefix(&ledger.index, generation, &keys[i])
        at = home = home_of(&ledger.index, &keys[i])
        word = hb_load_acquire(&table[at])      # pairs with the publishing CAS, as in `probe`
        while word != empty and word & ~mask != prefix and (word_kind(word) == ENTRY or word == tombstone):
            at += 1
            if at == word_count:
                at = 0
            if at == home:
                break
            word = hb_load_acquire(&table[at])
        if word != empty:
            # The user's own claim, or another user's of the same tag; or the table is being replaced.
            if may_lapse or word & ~mask != prefix or not repeated(ledger, plain, &keys[i], word, &rows[i]):
                break
            i += 1
            continue
        if is_sold_out:
            # As in ledger_claim: nothing is free, the ledger is open, and the user has no claim.
            if (not free_map_none(&ledger.free_map) or hb_load_acquire(ledger.closed) != 0
                    or hb_load_acquire(&table[at]) != empty):
                break
            rows[i].status = SOLD_OUT
            rows[i].amount = 0
            rows[i].packet = -1
            i += 1
            continue
        if next_slot >= end or hb_load_acquire(ledger.closed) != 0 or wants_table(ledger, home, at, now_ms):
            break
        if next_slot % BLOCK_SIZE == 0:     # as in `take`: the block that was left is most likely full
            free_map_mark(&ledger.free_map, ((next_slot if next_slot else open_count) - 1) // BLOCK_SIZE)
        slot = &ledger.slots[next_slot]
        state = hb_load_acquire(&slot.state)
        if slot_kind(state) != FREE or not amount_read(&plain.amounts, ledger.slots, next_slot, &amount):
            break
        held = slot_taken(state, worker)
        if not hb_cas(&slot.state, state, held):
            break
        # A reader that sees the new key also sees the state HELD that came before it: see read_slot.
        hb_fence_release()
        hb_store_relaxed(&slot.user[0], keys[i].low)
        hb_store_relaxed(&slot.user[1], keys[i].high)
        # Publish: this one CAS is the claim. If the table is being replaced by now, its empty words are not empty any
        # more, and the CAS fails.
        if not hb_cas(&table[at], empty, prefix | next_slot):
            give_up(ledger, next_slot, held)
            break
        if may_lapse:
            slots[published] = next_slot
            states[published] = held
            published += 1
        else:
            hb_cas(&slot.state, held, slot_state(GRANTED, held, now_ms))
        rows[i].status = GRANTED_NOW
        rows[i].amount = amount
        rows[i].packet = <int64_t>next_slot
        next_slot += 1
        i += 1
    cursor.slot = next_slot if next_slot < open_count else 0
    if published != 0:
        now_ms = time_of_grant(ledger)      # after the last of them was published
        while published != 0:
            published -= 1
            hb_cas(&ledger.slots[slots[published]].state, states[published],
                   slot_state(GRANTED, states[published], now_ms))
    return i


cdef inline bint repeated(
    Ledger *ledger, const Plain *plain, const UserKey *key, uint64_t word, ClaimRow *row
) noexcept nogil:
    # Answer a user with the claim that an index word names. Return False if this is not so plain: another user's claim,
    # one that is still to be made GRANTED, a packet of a top-up, or damage. A slot that is GRANTED or SETTLED under the
    # user's key is the user's claim, so the second look of `probe`, which is for HELD slots, is not needed.
    cdef uint64_t slot = word & slot_mask(&ledger.index)
    cdef uint64_t state
    cdef UserKey slot_key
    if (slot >= plain.end or not read_slot(&ledger.slots[slot], &slot_key, &state)
            or slot_key.low != key.low or slot_key.high != key.high
            or (slot_kind(state) != GRANTED and slot_kind(state) != SETTLED)):
        return False
    row.status = REPEATED
    row.packet = <int64_t>slot
    return amount_read(&plain.amounts, ledger.slots, slot, &row.amount)


cdef void give_up(Ledger *ledger, uint64_t slot, uint64_t state) noexcept nogil:
    # Give a slot back: another request of the same user was faster.
    cdef Found held
    held.slot = slot
    held.state = state
    put_back(ledger, &held)
