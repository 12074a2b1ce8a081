"""The audit of envelopes: proof from the slots that nothing was given twice and nothing is missing.

For every envelope: the strata's shares sum to its total; the amounts in the slots are those that law and seed give;
each live slot is found by its user's key and by one index word only; each index word names a live slot. Counters and
hints are not believed.

On a quiet engine the audit is exact. While others claim, it looks again at what is in motion and leaves it out if it
has moved; so a sound engine is never called unsound, and damage is found unless it moves as well.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from hbcore._claims.free_map cimport free_map_hides
from hbcore._claims.index cimport (
    ENTRY, PHASE_BITS, Index, empty_word, entry_prefix, is_moving, slot_mask, table_of, tombstone_word, word_kind,
)
from hbcore._claims.ledger cimport Found, help_on, ledger_find, ledger_read, table_at_hand
from hbcore._claims.amount cimport amount_word
from hbcore._claims.packets cimport Deck, deck_expire, tranche_of
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
    BAD_TABLE = 15

cdef struct Finding:
    uint64_t packet         # number of the packet, the stratum or the index word that is wrong
    uint64_t expected       # what should stand there
    uint64_t present        # what stands there

cdef struct Sums:
    uint64_t packets        # packets of all tranches
    uint64_t total          # sum of the shares of all strata, in minor units
    uint64_t granted        # packets granted and not settled
    uint64_t settled        # packets settled
    uint64_t refunded       # packets refunded, those of untouched strata included
    uint64_t amount_granted     # sum of the granted packets, in minor units
    uint64_t amount_settled     # sum of the settled packets, in minor units
    uint64_t moving         # slots in motion when they were looked at
    uint64_t digest         # digest of all slot states: the same twice means that nothing happened in between


cdef int audit_packet(
    Deck *deck, const Tranche *tranche, uint64_t packet, uint64_t amount, Sums *sums, Finding *finding
) noexcept nogil:
    # Check one slot of an open stratum and add it to the sums. amount: what law and seed give for this packet. Returns
    # SOUND, or what is wrong, with the details in `finding`.
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
    # A state word does not come back, so equal digests of two passes mean equal states all the while.
    sums.digest = (sums.digest ^ state) * <uint64_t>0x9E3779B97F4A7C15
    finding.packet = packet
    finding.expected = amount
    finding.present = present & tranche.amounts.mask
    # While a stratum is being opened, an amount may not be there yet; a claim has its amount before it is published.
    if (present != amount_word(&tranche.amounts, packet, amount)
            and not (present == 0 and (kind == FREE or kind == REFUNDED))):
        return BAD_AMOUNT
    if kind == GRANTED or kind == SETTLED:
        answer = ledger_find(&deck.ledger, &key, &found)
        if answer == BUSY:
            sums.moving += 1
        # A claim that has lapsed since its slot was read is found as well, and counts as it was read.
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
        # A bit is cleared before a slot below it becomes free, so a slot that was free all the while lies under no set
        # bit, unless slots beside it were being opened.
        if (hb_load_acquire(&deck.ledger.slots[packet].state) == state
                and hb_load_acquire(deck.ledger.free_map.open_count) == cleared):
            return HIDDEN
        sums.moving += 1
    return SOUND


cdef int audit_slots(Deck *deck, Sums *sums, Finding *finding) noexcept nogil:
    # Check the packets of all tranches, and that the shares of all strata sum to the total. Returns SOUND, or what is
    # wrong first.
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
    # Check the strata of one tranche, and the packets of those that are open. Strata that nobody has touched stay
    # untouched. Returns SOUND, or what is wrong first.
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
    # Check that in a stratum that is not open no slot was ever taken, or refunded by itself. Returns SOUND, or what is
    # wrong first.
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
            # A worker holds a slot before it opens the slot's stratum. If it comes too late for that, because a close
            # has refunded the stratum, the slot itself may be refunded as well.
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
    # Check the words first .. end - 1 of an index table: each names a slot of its user that is not free. Adds their
    # number to *entries. Returns SOUND, or BAD_WORD for the first that is wrong.
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
        if hb_load_acquire(&table[i]) == word:      # the word has not changed meanwhile
            return BAD_WORD
    return SOUND


cdef int audit_index(Deck *deck, Region region, uint64_t *entries, Finding *finding) noexcept nogil:
    # Check the words of the current table. Pages of it that were never touched are holes in the file, and stay holes.
    # Returns SOUND, or what is wrong first.
    cdef Index *index = &deck.ledger.index
    cdef uint64_t state = hb_load_acquire(index.state)
    cdef uint64_t *table = table_at_hand(&deck.ledger, state)
    cdef uint64_t base = <char *>table - region.base
    cdef uint64_t end = base + 8 * index.word_count
    cdef uint64_t data_end
    cdef uint64_t data
    cdef int status
    if table == NULL:
        return SOUND        # the table is being replaced since the slots were looked at, or was
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
    # Return the text of the error for a status other than SOUND and BAD_MEMORY.
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
        BAD_TABLE: f"{where}: the second table of its index is damaged",
        BAD_TRANCHE: f"{where}: one of its top-ups is damaged",
        NO_TRANCHE: f"{where}: packet {finding.packet} is taken, but the envelope has no such packet",
        BAD_COUNT: f"{where}: {finding.present} index words name {finding.expected} live packets",
    }[status]


cdef int audit_deck(Deck *deck, Region region, Sums *sums, Finding *finding) noexcept nogil:
    # Make one pass over slots and index. Returns SOUND, or what is wrong first.
    cdef uint64_t state, entries = 0
    cdef int status, _turn
    memset(sums, 0, sizeof(Sums))
    memset(finding, 0, sizeof(Finding))
    if (table_of(&deck.ledger.index, 1) == NULL and hb_load_acquire(&deck.shared.second_table) != 0
            and deck.meet(deck, False) != 0):
        return BAD_TABLE
    for _turn in range(3):      # once for each phase of a replacement that has begun
        state = hb_load_acquire(deck.ledger.index.state)
        if (table_at_hand(&deck.ledger, state) == NULL and not (is_moving(state) and deck.ledger.is_readonly)
                and not help_on(&deck.ledger, state)):
            return BAD_REPLACEMENT
    status = audit_strata(deck, region, finding)
    if status == SOUND:
        status = audit_slots(deck, sums, finding)
    if table_at_hand(&deck.ledger, state) == NULL or deck.ledger.is_stale:
        return status       # the index is left out: it is stale, or is being replaced and may not be helped on here
    if status == SOUND:
        status = audit_index(deck, region, &entries, finding)
    if status == SOUND and entries != sums.granted + sums.settled:
        finding.expected = sums.granted + sums.settled
        finding.present = entries
        # The counts may be compared only if slots and index stood still and the table was not being replaced. So the
        # caller looks again.
        return BAD_COUNT if sums.moving == 0 and hb_load_acquire(deck.ledger.index.state) == state else SOUND
    return status


cdef tuple audit_envelope(Envelope envelope):
    # Audit one envelope and return its sums, or raise AuditError for the first thing that is wrong.
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
    # A tranche is appended before its slots are opened, so no more than these may be open.
    open_count = hb_load_acquire(deck.ledger.free_map.open_count)
    if not least <= open_count <= packets_of(deck):
        raise AuditError(f"envelope {envelope.name!r}: {open_count} of its {packets_of(deck)} packets may be claimed")
    with nogil:
        status = audit_deck(deck, region, &sums, &finding)
        if status == BAD_COUNT and (audit_deck(deck, region, &again, &second) != BAD_COUNT
                                    or again.digest != sums.digest):
            status = SOUND      # claims went on between the look at the slots and that at the index; no pass can tell
    if status == BAD_MEMORY:
        raise MemoryError(f"no memory to audit envelope {envelope.name!r}")
    if status != SOUND:
        raise AuditError(describe(envelope, status, &finding))
    return (
        sums.packets, sums.granted, sums.settled, sums.refunded, sums.total, sums.amount_granted,
        sums.amount_settled,
    )


cdef uint64_t packets_of(Deck *deck) noexcept:
    # Return the number of packets in all tranches, up to a damaged one.
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
