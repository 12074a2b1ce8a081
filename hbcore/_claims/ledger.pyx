"""The ledger: the slots in which claims are recorded, and how one is found.

The slot is the truth; every counter and bit beside it is a hint. A claim is one CAS: the one that puts (tag, slot) into
the first empty index word of its user's path (``claim.pyx``). A death leaves:

- before that CAS: a HELD slot that no index word names. Nobody has been answered; the slot may be freed.
- after it: a HELD slot that the index names. It is a claim, and any thread may make it GRANTED, also while its worker
  lives, because nothing about it is open any more.
- during a release: a RELEASING slot. Any thread may finish it, in the order of ``finish_release``
  (``transitions.pyx``).

No thread ever acts for a living worker whose HELD slot is not in the index, or whose slot is RELEASING. A thread that
finds nothing free looks for what the dead have left (``reclaim_all``) before it says SOLD_OUT. ``slot.pxd`` says why no
state word ever comes back, ``free_map.pyx`` why a search misses no free slot, ``index.pyx`` how a crowded table is
replaced.
"""
from libc.stdint cimport uint64_t

from hbcore._claims.free_map cimport free_map_attach, open_slots
from hbcore._claims.index cimport (
    PHASE_BITS, home_of, index_attach, index_help, index_table_size, is_moving, table_of,
)
from hbcore._claims.slot cimport FREE, GRANTED, HELD, SETTLED, slot_kind, slot_payload, slot_state
from hbcore._file.clock cimport hb_now_ms
from hbcore._file.format cimport hb_slot
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport BUSY, CORRUPT, EXPIRED, NOT_FOUND, REPEATED
from hbcore._lib.atomics cimport hb_load_acquire, hb_load_relaxed, hb_prefetch_write


cdef uint64_t ledger_size(uint64_t slot_count) noexcept nogil:
    # Return the bytes of the first table and the slots.
    return index_table_size(slot_count) + slot_count * sizeof(hb_slot)


cdef void ledger_attach(
    Ledger *ledger, uint64_t *free_map, char *memory, uint64_t slot_count, uint64_t *closed, uint64_t *index_state,
    uint64_t *tombstones
) noexcept nogil:
    # Lay a ledger over its free map and over `memory`, which has ledger_size(slot_count) bytes and begins at a cache
    # line: the first table of the index, and the slots. The caller sets how many slots are open.
    ledger.slots = <hb_slot *>(memory + index_table_size(slot_count))
    ledger.slot_count = slot_count
    ledger.closed = closed
    free_map_attach(&ledger.free_map, free_map, ledger.slots, slot_count)
    index_attach(&ledger.index, <uint64_t *>memory, ledger.slots, slot_count)
    ledger.index.state = index_state
    ledger.index.tombstones = tombstones
    ledger.handle = 0
    ledger.patient_until_ms = 0
    ledger.grow = NULL


cdef void ledger_prefetch(const Ledger *ledger, const UserKey *key) noexcept nogil:
    # Prefetch the index word that a claim of this user will look at first.
    cdef uint64_t *table = table_of(&ledger.index, hb_load_relaxed(ledger.index.state) >> PHASE_BITS)
    if table != NULL:
        hb_prefetch_write(table + home_of(&ledger.index, key))


cdef bint help_on(Ledger *ledger, uint64_t index_state) noexcept nogil:
    # Do what keeps the index from being used: meet its second table, or help with a replacement. Return False if no
    # thread could bring it on, which happens in a damaged file only.
    if table_of(&ledger.index, 1) == NULL:
        return ledger.meet(ledger.context, False) == 0
    if is_moving(index_state):
        index_help(&ledger.index, index_state)
        return hb_load_acquire(ledger.index.state) != index_state
    return True


cdef int ledger_find(Ledger *ledger, const UserKey *key, Found *found) noexcept nogil:
    # Find the user's claim. Return REPEATED, or EXPIRED if it has lapsed, with the user's slot and its state; NOT_FOUND
    # or CORRUPT; BUSY if nothing may be written and the index is being replaced, or stale.
    cdef uint64_t index_state, _attempt, position
    cdef uint64_t *table
    cdef int outcome
    if ledger.is_stale:
        return BUSY
    for _attempt in range(RETRY_LIMIT):
        index_state = hb_load_acquire(ledger.index.state)
        table = table_at_hand(ledger, index_state)
        if table == NULL:
            if ledger.is_readonly and is_moving(index_state):
                return BUSY
            if not help_on(ledger, index_state):
                return CORRUPT
            continue
        position = home_of(&ledger.index, key)
        outcome = probe(ledger, key, index_state, table, &position, found)
        if outcome == PROBE_FOUND:
            if slot_kind(found.state) == HELD and not ledger.is_readonly:
                if ledger.never_was(ledger.file, slot_payload(found.state)):
                    return CORRUPT
                # What is answered must be seen by every thread, also by one that looks at the slots alone.
                make_granted(ledger, found, hb_now_ms())
                continue
            return EXPIRED if ledger_is_expired(ledger, found.state) else REPEATED
        if outcome == PROBE_MOVING and hb_load_acquire(ledger.index.state) == index_state:
            return CORRUPT
        # A crowded table that was replaced under the probe shows nothing: only the present table counts.
        if outcome == PROBE_ABSENT or outcome == PROBE_CROWDED and hb_load_acquire(ledger.index.state) == index_state:
            return NOT_FOUND
    return CORRUPT


cdef uint64_t ledger_read(Ledger *ledger, uint64_t slot, uint64_t now_ms, UserKey *key) noexcept nogil:
    # Return the state of a slot, and the key that belongs to it, for snapshots. A HELD slot that the index names is a
    # claim and is made GRANTED; one that it does not name is read as FREE, because nobody has been answered. A claim
    # that has lapsed is read as FREE as well.
    cdef uint64_t state, _turn
    cdef Found found
    for _turn in range(READ_LIMIT):
        if not read_slot(&ledger.slots[slot], key, &state):
            break
        if slot_kind(state) != HELD:
            return slot_state(FREE, state, 0) if ledger_is_expired(ledger, state) else state
        if ledger_find(ledger, key, &found) != REPEATED or found.slot != slot:
            return slot_state(FREE, state, 0)
        if ledger.is_readonly:
            return slot_state(GRANTED, found.state, now_ms)
    return slot_state(FREE, 0, 0)


cdef int ledger_scan(Ledger *ledger, const UserKey *key, Found *found) noexcept nogil:
    # Find a user's claim by the long way, past the index, in O(slots). Return REPEATED, or EXPIRED if it has lapsed,
    # with the slot and its state, or NOT_FOUND.
    cdef UserKey slot_key
    for found.slot in range(open_slots(&ledger.free_map)):
        if (read_slot(&ledger.slots[found.slot], &slot_key, &found.state) and slot_key.low == key.low
                and slot_key.high == key.high
                and (slot_kind(found.state) == GRANTED or slot_kind(found.state) == SETTLED)):
            return EXPIRED if ledger_is_expired(ledger, found.state) else REPEATED
    return NOT_FOUND
