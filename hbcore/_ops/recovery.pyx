"""The recovery of a file after a reboot: no worker of it is alive, and nobody else can have it open meanwhile.

The index as it was found decides what becomes of slots in dead hands; then free map and index are made anew from the
slots, which are the truth. Each step may be repeated from its beginning: if a process dies in here, the next one does
all of it again, because the boot id is written last (``opening.pyx``).
"""
from libc.stdint cimport uint64_t

from hbcore._claims.index cimport Index, entry_prefix, home_of, table_of
from hbcore._claims.packets cimport Deck, tranche_of
from hbcore._claims.slot cimport FREE, GRANTED, HELD, RELEASING, SETTLED, slot_kind, slot_state
from hbcore._claims.tranche cimport STRATUM_OPEN, Tranche, place_in
from hbcore._claims.transitions cimport ledger_reclaim
from hbcore._file.clock cimport hb_boot_ms
from hbcore._file.directory cimport is_named
from hbcore._file.format cimport (
    HB_KIND_BUDGET, HB_KIND_ENVELOPE, HB_PHASE_LIVE, HB_PHASE_MAKING, HB_PHASE_RETIRED, hb_budget, hb_extent, hb_slot,
)
from hbcore._file.region cimport CHAIN_BROKEN, CHAIN_EXTENT, Region, extent_phase
from hbcore._keys.user cimport UserKey
from hbcore._lib.atomics cimport hb_cas, hb_load_relaxed, hb_store_relaxed
from hbcore._split.law cimport stratum_of
from hbcore.envelope cimport Envelope, envelope_at

from hbcore.errors import CorruptFileError

ctypedef void (*slot_function)(Deck *deck, uint64_t packet) noexcept nogil


def recover(Region region):
    """Put every object of a file right. The caller holds the recovery lock, and nobody is registered.

    Raises:
        CorruptFileError: the chain of extents is broken, so that not everything can be found.
    """
    cdef uint64_t offset = 0
    cdef uint64_t state
    cdef hb_extent *extent
    cdef Envelope envelope
    cdef int step
    forget_completed(region)
    step = region.next_extent(&offset, &state)
    while step == CHAIN_EXTENT:
        extent = <hb_extent *>(region.base + offset)
        if extent_phase(state) == HB_PHASE_MAKING:
            state ^= HB_PHASE_MAKING ^ (HB_PHASE_LIVE if is_named(region, offset) else HB_PHASE_RETIRED)
            hb_store_relaxed(&extent.state, state)
        if extent_phase(state) == HB_PHASE_LIVE and extent.kind == HB_KIND_ENVELOPE:
            try:
                envelope = envelope_at(region, offset, "")
            except CorruptFileError:
                pass        # whoever asks for this envelope is told that it is damaged
            else:
                with nogil:
                    recover_deck(&envelope.deck, region)
        step = region.next_extent(&offset, &state)
    # A chain that ends with the disk space of the file is whole, though nothing can be appended to it: a copy of the
    # file may be cut there.
    if step == CHAIN_BROKEN and (region.contains(offset, sizeof(hb_extent))
                                 or offset < hb_load_relaxed(&region.header.frontier)):
        raise CorruptFileError(f"the chain of extents of {region.path!r} is damaged at byte {offset}")


cdef void forget_completed(Region region) noexcept nogil:
    # Take back what budgets say of operations that are written into their holds. A file that went through a crash of
    # the machine can have that word, and the hold as it was before.
    cdef uint64_t offset = 0
    cdef uint64_t state
    while region.next_extent(&offset, &state) == CHAIN_EXTENT:
        if region.extent(offset, HB_KIND_BUDGET, sizeof(hb_budget)) != NULL:
            hb_store_relaxed(&(<hb_budget *>(region.base + offset)).completed, 0)


cdef void recover_deck(Deck *deck, Region region) noexcept nogil:
    # Decide every slot, then make free map and index anew.
    cdef Index *index = &deck.ledger.index
    each_slot(deck, region, decide)
    # From here on the old index is not needed any more: no slot is in anybody's hands.
    clear(region, deck.ledger.free_map.levels[0], <uint64_t>(table_of(index, 0) - deck.ledger.free_map.levels[0]))
    clear(region, table_of(index, 0), index.word_count)
    if deck.meet(deck, False) == 0:
        clear(region, table_of(index, 1), index.word_count)
    else:
        hb_store_relaxed(&deck.shared.second_table, 0)      # there is none, or it is damaged: a claim makes another
    hb_store_relaxed(deck.ledger.free_map.cleared_count, hb_load_relaxed(deck.ledger.free_map.open_count))
    hb_store_relaxed(index.state, 0)
    hb_store_relaxed(index.tombstones, 0)
    hb_store_relaxed(deck.ledger.next_expiry, 0)
    each_slot(deck, region, enter)


cdef void each_slot(Deck *deck, Region region, slot_function work) noexcept nogil:
    # Do the work for every slot that was ever written, whatever its stratum's word says.
    cdef uint64_t base = <char *>deck.ledger.slots - region.base
    cdef uint64_t end = base + deck.ledger.slot_count * sizeof(hb_slot)
    cdef uint64_t data_end, packet
    cdef uint64_t data = region.next_data(base, end, &data_end)
    while data < end:
        for packet in range((data - base) // sizeof(hb_slot), (data_end - base - 1) // sizeof(hb_slot) + 1):
            work(deck, packet)
        data = region.next_data(data_end, end, &data_end)


cdef void decide(Deck *deck, uint64_t packet) noexcept nogil:
    # Decide what becomes of a slot: a HELD slot that the index names is a claim, and another is not; a slot that was
    # being released is released.
    cdef hb_slot *slot = &deck.ledger.slots[packet]
    cdef uint64_t state = hb_load_relaxed(&slot.state)
    cdef uint64_t *stratum
    cdef uint64_t now_ms
    cdef Tranche *tranche
    if slot_kind(state) == HELD or slot_kind(state) == RELEASING:
        ledger_reclaim(&deck.ledger, packet)
        state = hb_load_relaxed(&slot.state)
        if slot_kind(state) == HELD or slot_kind(state) == RELEASING:
            # The index is damaged and cannot decide it. The slot may become free: nobody was answered, or the release
            # was decided.
            hb_cas(&slot.state, state, slot_state(FREE, state, 0))
    if slot_kind(state) == GRANTED and deck.first.terms.hold_ms != 0:
        # Nobody knows how long the machine was off, so the claim has its whole time to be settled again.
        now_ms = (hb_boot_ms() + deck.clock_offset_ms) & ((<uint64_t>1 << 42) - 1)
        hb_store_relaxed(&slot.state, slot_state(GRANTED, state, now_ms))
    if slot_kind(state) == GRANTED or slot_kind(state) == SETTLED:
        tranche = tranche_of(deck, packet)
        if tranche == NULL:
            return      # damage, which an audit finds
        stratum = &tranche.strata[stratum_of(&tranche.terms, place_in(tranche, packet))]
        if hb_load_relaxed(stratum) != STRATUM_OPEN:
            hb_store_relaxed(stratum, STRATUM_OPEN)     # it was open, or nothing could have been claimed of it


cdef void enter(Deck *deck, uint64_t packet) noexcept nogil:
    # Enter a claim into the new index.
    cdef Index *index = &deck.ledger.index
    cdef int kind = slot_kind(hb_load_relaxed(&deck.ledger.slots[packet].state))
    cdef uint64_t at, _step
    cdef UserKey key
    if kind != GRANTED and kind != SETTLED:
        return
    key.low = hb_load_relaxed(&deck.ledger.slots[packet].user[0])
    key.high = hb_load_relaxed(&deck.ledger.slots[packet].user[1])
    at = home_of(index, &key)
    for _step in range(index.word_count):
        if hb_cas(&table_of(index, 0)[at], 0, entry_prefix(index, 0, &key) | packet):
            return
        at = at + 1 if at + 1 < index.word_count else 0


cdef void clear(Region region, uint64_t *words, uint64_t count) noexcept nogil:
    # Set words to 0, but write only to those that were ever written and are not 0 yet.
    cdef uint64_t base = <char *>words - region.base
    cdef uint64_t end = base + 8 * count
    cdef uint64_t data_end, i
    cdef uint64_t data = region.next_data(base, end, &data_end)
    while data < end:
        for i in range((data - base) // 8, (data_end - base + 7) // 8):
            if hb_load_relaxed(&words[i]) != 0:
                hb_store_relaxed(&words[i], 0)
        data = region.next_data(data_end, end, &data_end)
