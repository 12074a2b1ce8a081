# The deck of an envelope: its packets, as pointers and counts, without Python.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from hbcore._claims.amount cimport amount_read
from hbcore._claims.claim cimport ledger_claim
from hbcore._claims.free_map cimport free_map_size
from hbcore._claims.group cimport ClaimRow
from hbcore._claims.ledger cimport (
    Found, Ledger, ledger_find, ledger_prefetch, ledger_scan, ledger_size, meet_function,
)
from hbcore._claims.tranche cimport Tranche, attach_function, tranche_with
from hbcore._claims.transitions cimport ledger_look, ledger_release, ledger_settle
from hbcore._file.format cimport HB_HINTS_OFFSET, HB_SMALL, hb_envelope, hb_hints, whole_units
from hbcore._file.process cimport hb_file
from hbcore._keys.batch cimport Batch
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport GRANTED_NOW
from hbcore._lib.atomics cimport hb_load_acquire, hb_load_private, hb_store_private

cdef struct Deck:
    Ledger ledger
    Tranche first           # what the envelope was made with; the tranches of its top-ups follow
    uint64_t last           # [atomic] address of the last Tranche known to be open
    attach_function attach
    meet_function meet      # called with the deck
    void *owner             # what attach is called with
    hb_envelope *shared
    uint64_t clock_offset_ms


cdef struct Layout:         # where the parts of an envelope lie: bytes from its start
    uint64_t hints
    uint64_t strata
    uint64_t free_map
    uint64_t ledger         # the first table of the index, and the slots
    uint64_t end


cdef struct Counts:
    uint64_t packets
    uint64_t granted
    uint64_t settled
    uint64_t refunded
    uint64_t amount_total
    uint64_t amount_granted
    uint64_t amount_settled
    uint64_t amount_refunded


cdef enum:
    COUNT_SOUND = 0             # what deck_count returns
    COUNT_DAMAGED = -1          # damage, or no memory, which cannot be told apart; deck_snapshot returns it too


cdef struct SnapshotRow:    # hbcore.SNAPSHOT_DTYPE
    int64_t packet
    UserKey user
    int64_t amount
    uint8_t state
    int64_t granted_at_ms


cdef void deck_attach(
    Deck *deck, hb_envelope *shared, uint64_t name_length, const hb_file *file, bint is_readonly, bint is_stale
) noexcept nogil
cdef int deck_claim_many(
    Deck *deck, uint64_t worker, const Batch *batch, Py_ssize_t count, ClaimRow *rows
) noexcept nogil
cdef int deck_count(Deck *deck, Counts *counts) noexcept nogil
cdef int64_t deck_snapshot(Deck *deck, SnapshotRow *rows, uint64_t limit) noexcept nogil
cdef int deck_open(Deck *deck, Tranche *tranche) noexcept nogil
cdef uint64_t deck_expire(Deck *deck, uint64_t worker) noexcept nogil
cdef void deck_close(Deck *deck, uint64_t now_ms) noexcept nogil


cdef inline Layout envelope_layout(uint64_t name_length, uint64_t stratum_count, uint64_t max_packets) noexcept nogil:
    # Return where the parts of an envelope lie; format.h says why.
    cdef Layout layout
    cdef uint64_t end = sizeof(hb_envelope) + name_length       # of the name
    if max_packets <= HB_SMALL:
        layout.hints = HB_HINTS_OFFSET
        layout.strata = (end + 7) // 8 * 8
        layout.free_map = layout.strata + 8 * stratum_count
        layout.ledger = whole_units(layout.free_map + free_map_size(max_packets))
    else:
        layout.hints = whole_units(end)
        layout.strata = layout.hints + whole_units(sizeof(hb_hints))
        layout.free_map = layout.strata + whole_units(8 * stratum_count)
        layout.ledger = layout.free_map + whole_units(free_map_size(max_packets))
    layout.end = layout.ledger + ledger_size(max_packets)
    return layout


cdef inline bint is_closed(const Deck *deck, uint64_t now_ms) noexcept nogil:
    return hb_load_acquire(deck.ledger.closed) != 0 or (
        deck.first.terms.expires_at_ms != 0 and now_ms >= deck.first.terms.expires_at_ms
    )


cdef inline int deck_claim(
    Deck *deck, uint64_t worker, const UserKey *key, uint64_t now_ms, Found *found
) noexcept nogil:
    return ledger_claim(&deck.ledger, worker, key, now_ms, is_closed(deck, now_ms), found)


cdef inline int deck_find(Deck *deck, const UserKey *key, Found *found) noexcept nogil:
    return ledger_find(&deck.ledger, key, found)


cdef inline int deck_scan(Deck *deck, const UserKey *key, Found *found) noexcept nogil:
    return ledger_scan(&deck.ledger, key, found)


cdef inline int deck_look(Deck *deck, uint64_t worker, const UserKey *key, Found *found) noexcept nogil:
    return ledger_look(&deck.ledger, worker, key, found)


cdef inline int deck_settle(Deck *deck, uint64_t worker, const UserKey *key, Found *found) noexcept nogil:
    return ledger_settle(&deck.ledger, worker, key, found)


cdef inline int deck_release(Deck *deck, uint64_t worker, const UserKey *key, Found *found) noexcept nogil:
    return ledger_release(&deck.ledger, worker, key, found)


cdef inline void deck_prefetch(const Deck *deck, const UserKey *key) noexcept nogil:
    ledger_prefetch(&deck.ledger, key)


cdef inline Tranche *tranche_of(Deck *deck, uint64_t packet) noexcept nogil:
    return &deck.first if packet < deck.first.terms.packets else later_tranche_of(deck, packet)


cdef inline Tranche *later_tranche_of(Deck *deck, uint64_t packet) noexcept nogil:
    cdef Tranche *last = <Tranche *>hb_load_private(&deck.last)
    cdef Tranche *tranche = tranche_with(deck.attach, deck.owner, last, packet)
    if tranche != NULL and tranche.number > last.number:
        hb_store_private(&deck.last, <uint64_t>tranche)
    return tranche


cdef inline bint deck_amount(Deck *deck, uint64_t packet, int64_t *amount) noexcept nogil:
    # Read the amount of a packet. Return False for damage.
    cdef Tranche *tranche = tranche_of(deck, packet)
    return tranche != NULL and amount_read(&tranche.amounts, deck.ledger.slots, packet, amount)


cdef inline bint claim_amount(Deck *deck, int status, const Found *found, int64_t *amount) noexcept nogil:
    # Say what a claim that was found is worth. Return False for damage; for a claim that was just granted, damage was
    # seen before.
    if status == GRANTED_NOW:
        amount[0] = found.amount
        return True
    return deck_amount(deck, found.slot, amount)
