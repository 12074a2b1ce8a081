"""The audit of envelopes: proof from the slots that nothing was given twice and nothing is missing.

For every envelope: the strata's shares sum to its total; the amounts in the slots are those that law and seed give;
each live slot is found by its user's key and by one index word only; each index word names a live slot. Counters and
hints are not believed.

On a quiet engine it is exact. While others claim, what is in motion is looked at again and left out if it moved, so
that a sound engine is never called unsound, and damage is found unless it moves as well.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from hbcore._claims.free_map cimport free_map_hides
from hbcore._claims.index cimport (
    ENTRY, PHASE_BITS, Index, empty_word, entry_prefix, index_help, slot_mask, tombstone_word, word_kind,
)
from hbcore._claims.ledger cimport Found, ledger_find, ledger_read
from hbcore._claims.packets cimport Deck, deck_expire, sealed_amount, tranche_of
from hbcore._claims.slot cimport FREE, GRANTED, HELD, REFUNDED, RELEASING, SETTLED, slot_kind, slot_payload
from hbcore._claims.tranche cimport (
    STRATUM_OPEN, STRATUM_REFUNDED, STRATUM_UNTOUCHED, Tranche, packet_in, place_in, tranche_step,
)
from hbcore._claims.transitions cimport ledger_reclaim
from hbcore._file.clock cimport hb_now_ms
from hbcore._file.format cimport hb_slot
from hbcore._file.process cimport hb_worker_never_was
from hbcore._file.region cimport Region, worker_of
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport BUSY, EXPIRED, REPEATED
from hbcore._lib.atomics cimport hb_fence_acquire, hb_load_acquire, hb_load_relaxed
from hbcore._split.law cimport STRATUM_SIZE, split_stratum, stratum_of, stratum_share, stratum_start
from hbcore.envelope cimport Envelope

from hbcore.errors import AuditError
from hbcore._ops.top_up import finish_tranches

cdef enum:
    SOUND = 0
    BAD_MEMORY = 1
    BAD_SUM = 2
    BAD_STRATUM = 3
    BAD_KIND = 4
    BAD_AMOUNT = 5
    BAD_REFUND = 6
    NOT_INDEXED = 7
    BAD_WORD = 8
    BAD_COUNT = 9
    HIDDEN = 10
    BAD_WORKER = 11
    BAD_REPLACEMENT = 12
    BAD_TRANCHE = 13
    NO_TRANCHE = 14

cdef struct Finding:
    uint64_t packet     # or stratum, or index word
    uint64_t expected
    uint64_t present

cdef struct Sums:
    uint64_t packets
    uint64_t total
    uint64_t granted
    uint64_t settled
    uint64_t refunded
    uint64_t amount_granted
    uint64_t amount_settled
    uint64_t moving         # slots in motion: held or being released
    uint64_t digest         # of all slot states: the same twice means that nothing happened in between


cdef int audit_packet(
    Deck *deck, const Tranche *tranche, uint64_t packet, uint64_t amount, Sums *sums, Finding *finding
) noexcept nogil:
    cdef UserKey key
    cdef Found found
    cdef uint64_t state, present
    cdef uint64_t cleared = hb_load_acquire(deck.ledger.free_map.cleared_count)
    cdef int kind, answer
    if not deck.ledger.is_readonly:
        ledger_reclaim(&deck.ledger, packet)
    state = ledger_read(&deck.ledger, packet, hb_now_ms(), &key)
    present = hb_load_relaxed(&deck.ledger.slots[packet].amount)
    kind = slot_kind(state)
    # State words never come back, so equal digests of two passes mean equal states all the while.
    sums.digest = (sums.digest ^ state) * <uint64_t>0x9E3779B97F4A7C15
    finding.packet = packet
    finding.expected = amount
    finding.present = present & tranche.amount_mask
    # An amount may not be there yet where a stratum is just being opened; a claim has one before it is published.
    if (present != sealed_amount(deck, tranche, packet, amount)
            and not (present == 0 and (kind == FREE or kind == REFUNDED))):
        return BAD_AMOUNT
    if kind == GRANTED or kind == SETTLED:
        answer = ledger_find(&deck.ledger, &key, &found)
        if answer == BUSY:
            sums.moving += 1
        # A claim whose time has run out since it was read is found as well, and counts as it was read.
        elif (answer != REPEATED and answer != EXPIRED) or found.slot != packet:
            if hb_load_acquire(&deck.ledger.slots[packet].state) == state:
                return NOT_INDEXED
            sums.moving += 1
            return SOUND
        if kind == GRANTED:
            sums.granted += 1
            sums.amount_granted += amount
        else:
            sums.settled += 1
            sums.amount_settled += amount
    elif kind == REFUNDED:
        sums.refunded += 1
        if hb_load_acquire(deck.ledger.closed) == 0:
            return BAD_REFUND
    elif kind == RELEASING or kind == FREE and slot_kind(hb_load_relaxed(&deck.ledger.slots[packet].state)) != FREE:
        state = hb_load_acquire(&deck.ledger.slots[packet].state)
        if ((slot_kind(state) == HELD or slot_kind(state) == RELEASING)
                and hb_worker_never_was(deck.ledger.file, slot_payload(state))):
            return BAD_WORKER
        sums.moving += 1
    elif kind != FREE:
        finding.present = <uint64_t>kind
        return BAD_KIND
    elif free_map_hides(&deck.ledger.free_map, packet):
        # A bit is cleared before a slot becomes free, so a slot that was free all the while lies under none, unless
        # others were being opened beside it.
        if (hb_load_acquire(&deck.ledger.slots[packet].state) == state
                and hb_load_acquire(deck.ledger.free_map.open_count) == cleared):
            return HIDDEN
        sums.moving += 1
    return SOUND


cdef int audit_slots(Deck *deck, Sums *sums, Finding *finding) noexcept nogil:
    cdef Tranche *tranche = &deck.first
    cdef uint64_t total = 0
    cdef int status
    while tranche != NULL:
        status = audit_tranche(deck, tranche, sums, finding)
        if status != SOUND:
            return status
        total += tranche.terms.total
        sums.packets += tranche.terms.packets
        if tranche_step(deck.attach, deck.owner, &tranche) != 0:
            return BAD_TRANCHE
    finding.expected = total
    finding.present = sums.total
    return SOUND if sums.total == total else BAD_SUM


cdef int audit_tranche(Deck *deck, const Tranche *tranche, Sums *sums, Finding *finding) noexcept nogil:
    # Strata that nobody has touched are not touched now either.
    cdef uint64_t amounts[STRATUM_SIZE]
    cdef uint64_t stratum, share, sum, start, word
    cdef int count, i, status
    for stratum in range(tranche.terms.stratum_count):
        share = stratum_share(&tranche.terms, stratum)
        sums.total += share
        word = hb_load_acquire(&tranche.strata[stratum])
        start = stratum_start(&tranche.terms, stratum)
        finding.packet = stratum
        if word == STRATUM_REFUNDED:
            if hb_load_acquire(deck.ledger.closed) == 0:
                return BAD_REFUND
            sums.refunded += stratum_start(&tranche.terms, stratum + 1) - start
            continue
        if word == STRATUM_UNTOUCHED:
            continue
        if word != STRATUM_OPEN:
            finding.present = word
            return BAD_STRATUM
        count = split_stratum(&tranche.terms, stratum, amounts)
        if count < 0:
            return BAD_MEMORY
        sum = 0
        for i in range(count):
            sum += amounts[i]
            status = audit_packet(deck, tranche, packet_in(tranche, start + <uint64_t>i), amounts[i], sums, finding)
            if status != SOUND:
                return status
        if sum != share:
            finding.packet = stratum
            finding.expected = share
            finding.present = sum
            return BAD_SUM
    return SOUND


cdef int audit_strata(Deck *deck, Region region, Finding *finding) noexcept nogil:
    # No slot was ever taken or refunded by itself in a stratum that is not open.
    cdef uint64_t base = <char *>deck.ledger.slots - region.base
    cdef uint64_t end = base + deck.ledger.slot_count * sizeof(hb_slot)
    cdef uint64_t data_end, packet, word
    cdef Tranche *tranche
    cdef uint64_t data = region.next_data(base, end, &data_end)
    cdef int kind
    while data < end:
        for packet in range((data - base) // sizeof(hb_slot), (data_end - base - 1) // sizeof(hb_slot) + 1):
            if slot_kind(hb_load_acquire(&deck.ledger.slots[packet].state)) == FREE:
                continue
            tranche = tranche_of(deck, packet)
            if tranche == NULL:
                finding.packet = packet
                return NO_TRANCHE
            word = hb_load_acquire(&tranche.strata[stratum_of(&tranche.terms, place_in(tranche, packet))])
            kind = slot_kind(hb_load_acquire(&deck.ledger.slots[packet].state))
            # A slot is HELD before its stratum is opened by who holds it, and may be refunded by who came too late.
            if word == STRATUM_OPEN or kind == FREE or kind == HELD:
                continue
            if word != STRATUM_REFUNDED or kind != REFUNDED:
                finding.packet = stratum_of(&tranche.terms, place_in(tranche, packet))
                finding.present = word
                return BAD_STRATUM
        data = region.next_data(data_end, end, &data_end)
    return SOUND


cdef int audit_words(
    Deck *deck, uint64_t *table, uint64_t first, uint64_t end, uint64_t generation, uint64_t *entries, Finding *finding
) noexcept nogil:
    cdef Index *index = &deck.ledger.index
    cdef uint64_t i, word, slot
    cdef UserKey key
    for i in range(first, end):
        word = hb_load_acquire(&table[i])
        if word == empty_word(generation) or word == tombstone_word(generation):
            continue
        if word_kind(word) != ENTRY:
            finding.packet = i
            finding.present = word & slot_mask(index)
            return BAD_WORD
        entries[0] += 1
        slot = word & slot_mask(index)
        finding.packet = i
        finding.present = slot
        if slot >= index.slot_count:
            return BAD_WORD
        key.low = hb_load_relaxed(&index.slots[slot].user[0])
        key.high = hb_load_relaxed(&index.slots[slot].user[1])
        hb_fence_acquire()      # the key before the second look at the word
        if (slot_kind(hb_load_acquire(&index.slots[slot].state)) not in (FREE, REFUNDED)
                and word == entry_prefix(index, generation, &key) | slot):
            continue
        if hb_load_acquire(&table[i]) == word:      # it has not moved meanwhile
            return BAD_WORD
    return SOUND


cdef int audit_index(Deck *deck, Region region, uint64_t *entries, Finding *finding) noexcept nogil:
    # Pages of the table that were never touched are holes of the file, and left so.
    cdef Index *index = &deck.ledger.index
    cdef uint64_t state = hb_load_acquire(index.state)
    cdef uint64_t *table = index.tables[state >> PHASE_BITS & 1]
    cdef uint64_t base = <char *>table - region.base
    cdef uint64_t end = base + 8 * index.word_count
    cdef uint64_t data_end
    cdef uint64_t data
    cdef int status
    if state & ((1 << PHASE_BITS) - 1):
        return SOUND        # somebody has begun to replace it since the slots were looked at
    data = region.next_data(base, end, &data_end)
    while data < end:
        status = audit_words(deck, table, (data - base) // 8, (data_end - base + 7) // 8, state >> PHASE_BITS, entries,
                             finding)
        if status != SOUND:
            # A table that was replaced meanwhile says nothing.
            return status if hb_load_acquire(index.state) == state else SOUND
        data = region.next_data(data_end, end, &data_end)
    return SOUND


cdef object describe(Envelope envelope, int status, const Finding *finding):
    where = f"envelope {envelope.name!r}"
    return {
        BAD_SUM: f"{where}: stratum {finding.packet} sums to {finding.present}, not {finding.expected}",
        BAD_STRATUM: f"{where}: stratum {finding.packet} has the impossible state {finding.present} for what is in it",
        BAD_KIND: f"{where}: packet {finding.packet} has the impossible state {finding.present}",
        BAD_AMOUNT: f"{where}: packet {finding.packet} holds {finding.present}; law and seed give {finding.expected}",
        BAD_REFUND: f"{where}: packet or stratum {finding.packet} is refunded, but the envelope is open",
        NOT_INDEXED: f"{where}: packet {finding.packet} is granted, but the index does not lead from its user to it",
        BAD_WORD: f"{where}: index word {finding.packet} names packet {finding.present}, which is not its user's",
        HIDDEN: f"{where}: packet {finding.packet} is free, but the free map hides it from claims",
        BAD_WORKER: f"{where}: packet {finding.packet} is in the hands of a worker that never was",
        BAD_REPLACEMENT: f"{where}: the replacement of its index cannot go on",
        BAD_TRANCHE: f"{where}: one of its top-ups is damaged",
        NO_TRANCHE: f"{where}: packet {finding.packet} is taken, but the envelope has no such packet",
        BAD_COUNT: f"{where}: {finding.present} index words name {finding.expected} live packets",
    }[status]


cdef int audit_deck(Deck *deck, Region region, Sums *sums, Finding *finding) noexcept nogil:
    # One pass over slots and index. Returns SOUND or what is wrong first.
    cdef uint64_t state, entries = 0
    cdef int status, _turn
    memset(sums, 0, sizeof(Sums))
    memset(finding, 0, sizeof(Finding))
    for _turn in range(3):       # the phases of a replacement that somebody has begun
        state = hb_load_acquire(deck.ledger.index.state)
        if state & ((1 << PHASE_BITS) - 1) and not deck.ledger.is_readonly:
            index_help(&deck.ledger.index, state)
            if hb_load_acquire(deck.ledger.index.state) == state:
                return BAD_REPLACEMENT      # who helps brings it on, or somebody else has: but for damage
    status = audit_strata(deck, region, finding)
    if status == SOUND:
        status = audit_slots(deck, sums, finding)
    if state & ((1 << PHASE_BITS) - 1) or deck.ledger.is_stale:
        return status       # nothing may be written, and the index is being replaced, or stale: it is left out
    if status == SOUND:
        status = audit_index(deck, region, &entries, finding)
    if status == SOUND and entries != sums.granted + sums.settled:
        finding.expected = sums.granted + sums.settled
        finding.present = entries
        # True only if slots and index have stood still and the table was not being replaced; the caller looks again.
        return BAD_COUNT if sums.moving == 0 and hb_load_acquire(deck.ledger.index.state) == state else SOUND
    return status


cdef tuple audit_envelope(Envelope envelope):
    # Returns its sums, or raises AuditError for the first thing that is wrong.
    cdef Sums sums, again
    cdef Finding finding, second
    cdef Deck *deck = &envelope.deck
    cdef Region region = envelope.region
    cdef uint64_t worker, open_count
    cdef uint64_t least = deck.first.terms.packets
    cdef int status
    if not region.is_readonly:
        worker = worker_of(region)
        with nogil:
            deck_expire(deck, worker)
        least = packets_of(deck)
        finish_tranches(envelope)
        envelope.finish_closing()
    open_count = hb_load_acquire(deck.ledger.free_map.open_count)    # a tranche is appended before it is opened
    if not least <= open_count <= packets_of(deck):
        raise AuditError(f"envelope {envelope.name!r}: {open_count} of its {packets_of(deck)} packets may be claimed")
    with nogil:
        status = audit_deck(deck, region, &sums, &finding)
        if status == BAD_COUNT and (audit_deck(deck, region, &again, &second) != BAD_COUNT
                                    or again.digest != sums.digest):
            status = SOUND      # claims went on between the slots and the index; neither pass can say more
    if status == BAD_MEMORY:
        raise MemoryError(f"no memory to audit envelope {envelope.name!r}")
    if status != SOUND:
        raise AuditError(describe(envelope, status, &finding))
    return (
        sums.packets, sums.granted, sums.settled, sums.refunded, sums.total, sums.amount_granted,
        sums.amount_settled,
    )


cdef uint64_t packets_of(Deck *deck) noexcept:
    # In all tranches; up to a damaged one.
    cdef Tranche *tranche = &deck.first
    cdef uint64_t end = 0
    while tranche != NULL:
        end = tranche.start + tranche.terms.packets
        if tranche_step(deck.attach, deck.owner, &tranche) != 0:
            break
    return end


def audit_envelopes(envelopes):
    """Audit envelopes in turn; return the sums of ``AuditReport``, the number of envelopes first."""
    sums = [0] * 8
    for envelope in envelopes:
        sums[0] += 1
        for i, value in enumerate(audit_envelope(envelope)):
            sums[i + 1] += value
    return sums
