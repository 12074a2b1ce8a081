"""The audit: proof from the slots that nothing was given twice and nothing is missing.

For every envelope: the strata's shares sum to its total; the amounts in the slots are those that law and seed give;
each live slot is found by its user's key and by one index word only; each index word names a live slot. Counters and
hints are not believed.

For every budget: each hold stands where its key leads; what is available and what was granted are the total; each child
is a hold of its parent, of its total; and what a parent has got back is what the child has given.

On a quiet engine it is exact. While others claim, what is in motion is looked at again and left out if it moved, so
that a sound engine is never called unsound, and damage is found unless it moves as well.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from hbcore.account cimport MONEY_CLOSED, account_available, account_money
from hbcore.atomics cimport hb_fence_acquire, hb_load_acquire, hb_load_relaxed
from hbcore.budget cimport Budget, budget_at
from hbcore.deck cimport (
    STRATUM_OPEN, STRATUM_REFUNDED, STRATUM_UNTOUCHED, Counts, Deck, deck_expire, sealed_amount,
)
from hbcore.directory cimport name_hash
from hbcore.envelope cimport Envelope
from hbcore.funding cimport finish_top_ups, refund_from, refund_upwards
from hbcore.hold cimport ABSENT, ADDED, DAMAGED, FUNDED, LACKING, Standing, hold_kind
from hbcore.index cimport (
    ENTRY, PHASE_BITS, Index, empty_word, entry_prefix, index_help, slot_mask, tombstone_word, word_kind,
)
from hbcore.format cimport (
    HB_KIND_BUDGET, HB_KIND_ENVELOPE, HB_KIND_TOP_UP, hb_extent, hb_slot, hb_top_up,
)
from hbcore.law cimport (
    STRATUM_SIZE, packet_at, position_of, split_stratum, stratum_of, stratum_share, stratum_start,
)
from hbcore.ledger cimport BUSY, EXPIRED, REPEATED, Found, ledger_find, ledger_read, ledger_reclaim
from hbcore.purse cimport Run
from hbcore.region cimport Region, hb_now_ms, hb_worker_never_was, worker_of
from hbcore.slot cimport FREE, GRANTED, HELD, REFUNDED, RELEASING, SETTLED, slot_kind, slot_payload
from hbcore.tally cimport Sums as AccountSums, account_check
from hbcore.user cimport UserKey
from hbcore.vacancy cimport vacancy_hides

from functools import partial

from hbcore.errors import AuditError

cdef enum:
    LOOKS = 4       # at the money of a budget that moves
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

cdef struct Finding:
    uint64_t packet     # or stratum, or index word
    uint64_t expected
    uint64_t present

cdef struct Sums:
    uint64_t total
    uint64_t granted
    uint64_t settled
    uint64_t refunded
    uint64_t amount_granted
    uint64_t amount_settled
    uint64_t moving         # slots in motion: held or being released
    uint64_t digest         # of all slot states: the same twice means that nothing happened in between


cdef int audit_packet(Deck *deck, uint64_t packet, uint64_t amount, Sums *sums, Finding *finding) noexcept nogil:
    cdef UserKey key
    cdef Found found
    cdef uint64_t state, present
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
    finding.present = present & deck.amount_mask
    # An amount may not be there yet where a stratum is just being opened; a claim has one before it is published.
    if present != sealed_amount(deck, packet, amount) and not (present == 0 and (kind == FREE or kind == REFUNDED)):
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
    elif vacancy_hides(&deck.ledger.vacancy, packet):
        # A bit is cleared before a slot becomes free, so a slot that was free all the while lies under none.
        if hb_load_acquire(&deck.ledger.slots[packet].state) == state:
            return HIDDEN
        sums.moving += 1
    return SOUND


cdef int audit_slots(Deck *deck, Sums *sums, Finding *finding) noexcept nogil:
    # Strata that nobody has touched are not touched now either.
    cdef uint64_t amounts[STRATUM_SIZE]
    cdef uint64_t stratum, share, sum, start, word
    cdef int count, i, status
    for stratum in range(deck.terms.stratum_count):
        share = stratum_share(&deck.terms, stratum)
        sums.total += share
        word = hb_load_acquire(&deck.strata[stratum])
        start = stratum_start(&deck.terms, stratum)
        finding.packet = stratum
        if word == STRATUM_REFUNDED:
            if hb_load_acquire(deck.ledger.closed) == 0:
                return BAD_REFUND
            sums.refunded += stratum_start(&deck.terms, stratum + 1) - start
            continue
        if word == STRATUM_UNTOUCHED:
            continue
        if word != STRATUM_OPEN:
            finding.present = word
            return BAD_STRATUM
        count = split_stratum(&deck.terms, stratum, amounts)
        if count < 0:
            return BAD_MEMORY
        sum = 0
        for i in range(count):
            sum += amounts[i]
            status = audit_packet(deck, packet_at(&deck.terms, start + <uint64_t>i), amounts[i], sums, finding)
            if status != SOUND:
                return status
        if sum != share:
            finding.packet = stratum
            finding.expected = share
            finding.present = sum
            return BAD_SUM
    finding.expected = deck.terms.total
    finding.present = sums.total
    return SOUND if sums.total == deck.terms.total else BAD_SUM


cdef int audit_strata(Deck *deck, Region region, Finding *finding) noexcept nogil:
    # No slot was ever taken or refunded by itself in a stratum that is not open.
    cdef uint64_t base = <char *>deck.ledger.slots - region.base
    cdef uint64_t end = base + deck.ledger.slot_count * sizeof(hb_slot)
    cdef uint64_t data_end, packet, stratum, word
    cdef uint64_t data = region.next_data(base, end, &data_end)
    cdef int kind
    while data < end:
        for packet in range((data - base) // sizeof(hb_slot), (data_end - base - 1) // sizeof(hb_slot) + 1):
            if slot_kind(hb_load_acquire(&deck.ledger.slots[packet].state)) == FREE:
                continue
            stratum = stratum_of(&deck.terms, position_of(&deck.terms, packet))
            word = hb_load_acquire(&deck.strata[stratum])
            kind = slot_kind(hb_load_acquire(&deck.ledger.slots[packet].state))
            # A slot is HELD before its stratum is opened by who holds it, and may be refunded by who came too late.
            if word == STRATUM_OPEN or kind == FREE or kind == HELD:
                continue
            if word != STRATUM_REFUNDED or kind != REFUNDED:
                finding.packet = stratum
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
        HIDDEN: f"{where}: packet {finding.packet} is free, but the vacancy tree hides it from claims",
        BAD_WORKER: f"{where}: packet {finding.packet} is in the hands of a worker that never was",
        BAD_REPLACEMENT: f"{where}: the replacement of its index cannot go on",
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
    cdef uint64_t worker
    cdef int status
    if not region.is_readonly:
        worker = worker_of(region)
        with nogil:
            deck_expire(deck, worker)
        envelope.finish_closing()
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
        deck.terms.packets, sums.granted, sums.settled, sums.refunded, deck.terms.total, sums.amount_granted,
        sums.amount_settled,
    )


def audit_all(envelopes):
    """Audit envelopes in turn; return the sums of ``AuditReport``, the number of envelopes first."""
    sums = [0] * 8
    for envelope in envelopes:
        sums[0] += 1
        for i, value in enumerate(audit_envelope(envelope)):
            sums[i + 1] += value
    return sums


# ---- budgets --------------------------------------------------------------------------------------------------------

cdef int audit_places(Budget budget) except -1:
    # Every hold stands where its key leads.
    cdef uint64_t place
    cdef Run run
    cdef int answer
    run.segment = run.end = 0
    budget.attach_levels()
    while budget.next_run(&run):
        answer = LACKING
        while answer != 0:
            with nogil:
                answer = account_check(&budget.account, run.first, run.end, &place)
            if answer == DAMAGED:
                raise AuditError(
                    f"budget {budget.name!r}: hold {place} is damaged, or its key does not lead to it"
                )
            if answer != 0:
                budget.supply(answer)
    return 0


cdef int audit_holds(Budget budget, AccountSums *sums) except -1:
    # What was granted and what is available are the total together.
    cdef uint64_t operation, available, again
    cdef AccountSums second
    cdef int64_t missing
    cdef int _turn
    for _turn in range(LOOKS):
        if not account_money(&budget.account, &operation, &available):
            continue
        budget.count(sums)
        again = available
        if not account_money(&budget.account, &operation, &again) or again != available:
            continue
        budget.count(&second)
        account_money(&budget.account, &operation, &again)
        if again != available or second.digest != sums.digest:
            continue        # it moves
        available &= ~MONEY_CLOSED
        if available + sums.taken != budget.base_total + sums.added:
            missing = <int64_t>(budget.base_total + sums.added - available - sums.taken)
            difference = f"{missing:,} are missing" if missing > 0 else f"{-missing:,} are too many"
            raise AuditError(
                f"budget {budget.name!r}: {available} available and {<int64_t>sums.taken} held or spent are not "
                f"{budget.base_total + sums.added} in all: {difference}"
            )
        return 0
    return 0


cdef int audit_child(
    Region region, Budget parent, uint64_t offset, bytes name, uint32_t kind, uint64_t total
) except -1:
    # A child is a hold of its parent.
    cdef UserKey key = name_hash(region, kind, parent.offset, name)
    cdef Standing standing
    what = f"{'budget' if kind == HB_KIND_BUDGET else 'envelope'} {name.decode(errors='backslashreplace')!r}"
    if parent.look_up(&key, &standing) == ABSENT or hold_kind(standing.state) != FUNDED or standing.link != offset:
        raise AuditError(f"budget {parent.name!r} holds nothing for {what}")
    if standing.amount != total:
        raise AuditError(f"budget {parent.name!r} holds {standing.amount} for {what}, whose total is {total}")
    return 0


cdef uint64_t refunded_to(Region region, Budget parent, uint32_t kind, bytes name) except? 0xFFFFFFFFFFFFFFFF:
    cdef UserKey key = name_hash(region, kind, parent.offset, name)
    cdef Standing standing
    parent.look_up(&key, &standing)
    return standing.value


cdef int audit_refund(Region region, Budget parent, uint32_t kind, str name, object given) except -1:
    # What a parent has got back is what the child has given.
    cdef bytes encoded = name.encode()
    cdef uint64_t before = given(), present, after
    cdef UserKey key
    present = refunded_to(region, parent, kind, encoded)
    if present < before and not region.is_readonly:
        # It is on its way, by somebody who closes the child just now or has died in it. Passed on here as well it
        # counts once only.
        key = name_hash(region, kind, parent.offset, encoded)
        refund_from(parent, &key, before)
        present = refunded_to(region, parent, kind, encoded)
    after = given()
    if present > after or (not region.is_readonly and present < before):
        raise AuditError(
            f"budget {parent.name!r} has got back {present} of {'budget' if kind == HB_KIND_BUDGET else 'envelope'} "
            f"{name!r}, which has given {after}"
        )
    return 0


def audit_budgets(budgets, envelopes):
    """Audit budgets and what they have funded; return the sums of ``AuditReport``, the number of budgets first."""
    cdef Budget budget
    cdef Envelope envelope
    cdef AccountSums sums
    cdef uint64_t holds = 0
    for budget in budgets:
        audit_places(budget)    # before anything else goes through the holds, and cannot say which is damaged
    for budget in budgets:
        if not budget.region.is_readonly:
            finish_top_ups(budget)
            refund_upwards(budget)
    for budget in budgets:
        audit_holds(budget, &sums)
        holds += sums.count
        audit_links(budget)
        if budget.parent is not None:
            audit_child(budget.region, budget.parent, budget.offset, budget.name.encode(), HB_KIND_BUDGET,
                        budget.base_total)
            audit_refund(budget.region, budget.parent, HB_KIND_BUDGET, budget.name, partial(given_by_budget, budget))
    for envelope in envelopes:
        if envelope.budget is not None:
            audit_child(envelope.region, envelope.budget, envelope.offset, envelope.name.encode(), HB_KIND_ENVELOPE,
                        envelope.deck.terms.total)
            audit_refund(envelope.region, envelope.budget, HB_KIND_ENVELOPE, envelope.name,
                         partial(given_by_envelope, envelope))
    stats = [budget.stats() for budget in budgets]
    budgeted = sum(money.total for budget, money in zip(budgets, stats) if budget.parent is None)
    available = sum(money.available for money in stats)
    spent = sum(money.settled for budget, money in zip(budgets, stats) if budget.parent is None)
    return [len(stats), holds, budgeted, available, budgeted - available - spent, spent]


def given_by_budget(Budget budget not None):
    """Return all that a budget has given to its parent."""
    cdef bint is_closed
    cdef uint64_t available = account_available(&budget.account, &is_closed)
    return available if is_closed else 0


def given_by_envelope(Envelope envelope not None):
    """Return all that an envelope has given to its budget."""
    cdef Counts counts
    envelope.count(&counts)
    return counts.amount_refunded


cdef int audit_links(Budget budget) except -1:
    # Whatever was funded is there, and says so itself.
    cdef Region region = budget.region
    cdef hb_extent *extent
    cdef hb_top_up *record
    cdef Budget target
    cdef UserKey key
    cdef Standing standing
    cdef int answer
    for offset in budget.children():
        record = <hb_top_up *>region.extent(offset, HB_KIND_TOP_UP, sizeof(hb_top_up))
        if record != NULL:
            key.low = record.key[0]
            key.high = record.key[1]
            target = budget_at(region, record.extent.parent)
            answer = target.look_up(&key, &standing)
            if answer == ABSENT:        # on its way, by somebody who tops up just now or has died in it
                if region.is_readonly:
                    continue
                finish_top_ups(budget)
                answer = target.look_up(&key, &standing)
            if answer == ABSENT or hold_kind(standing.state) != ADDED or standing.amount != record.total:
                raise AuditError(f"budget {budget.name!r} has topped up {target.name!r}, which has not got it")
            continue
        extent = region.extent(offset, HB_KIND_BUDGET, sizeof(hb_extent))
        if extent == NULL:
            extent = region.extent(offset, HB_KIND_ENVELOPE, sizeof(hb_extent))
        if extent == NULL or extent.parent != budget.offset:
            raise AuditError(f"budget {budget.name!r} holds money for a child at byte {offset}, where none is")
    return 0
