"""The deck of an envelope: its packets, as pointers and counts, without Python.

A deck is a ledger whose slots are the packets, and a law that says what each is worth. The amounts of a stratum (at
most 1,024 packets) are written at its first claim, by whoever comes first: they are a pure function of the terms, so
writing them twice is harmless. Every function is safe in any thread of any process; ``ledger.pyx`` says why.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from hbcore.atomics cimport hb_cas, hb_fence_full, hb_load_acquire, hb_load_relaxed, hb_store_relaxed
from hbcore.batch cimport GROUP, Batch, batch_group
from hbcore.format cimport hb_envelope
from hbcore.law cimport (
    STRATUM_SIZE, packet_at, position_of, split_stratum, stratum_of, stratum_share, stratum_start,
)
from hbcore.ledger cimport (
    CLOSED, CORRUPT, GRANTED_NOW, NO_MEMORY, REPEATED, Found, ledger_attach, ledger_expire, ledger_prefetch,
    ledger_read, ledger_reclaim, ledger_refund,
)
from hbcore.region cimport hb_file, hb_now_ms, hb_worker_is_dead, hb_worker_never_was
from hbcore.slot cimport GRANTED, REFUNDED, SETTLED, slot_kind, slot_payload
from hbcore.user cimport UserKey


cdef void deck_attach(
    Deck *deck, hb_envelope *shared, uint64_t name_length, const hb_file *file, bint is_readonly, bint is_stale
) noexcept nogil:
    # deck.terms is set. Only this private copy says where things are; the shared header is not trusted again.
    cdef char *memory = <char *>shared + memory_offset(name_length)
    deck.shared = shared
    deck.strata = <uint64_t *>memory
    ledger_attach(&deck.ledger, memory + whole_units(8 * deck.terms.stratum_count), deck.terms.packets,
                  &shared.closed, &shared.index_state, &shared.tombstones)
    deck.ledger.next_expiry = &shared.next_expiry_ms
    deck.ledger.late_refunds = &shared.late_refunds
    deck.ledger.hold_ms = deck.hold_ms
    deck.ledger.clock_offset_ms = deck.clock_offset_ms
    deck.ledger.prepare = prepare_packet
    deck.ledger.context = deck
    deck.ledger.is_dead = hb_worker_is_dead
    deck.ledger.never_was = hb_worker_never_was
    deck.ledger.file = file
    deck.ledger.is_readonly = is_readonly
    deck.ledger.is_stale = is_stale
    memcpy(deck.seal, deck.terms.seed, 16)
    deck.amount_mask = 1
    while deck.amount_mask < deck.terms.max:
        deck.amount_mask = deck.amount_mask << 1 | 1


cdef int prepare_packet(void *context, uint64_t packet) noexcept nogil:
    # Called for a packet that this worker holds: make sure that its amount is there.
    cdef Deck *deck = <Deck *>context
    cdef int64_t amount
    cdef int answer
    if hb_load_relaxed(&deck.ledger.slots[packet].amount) == 0:
        answer = deck_open_stratum(deck, stratum_of(&deck.terms, position_of(&deck.terms, packet)))
        if answer != 0:
            return answer
    # An amount that the law cannot have given is damage, and never handed out.
    return 0 if deck_amount(deck, packet, &amount) else CORRUPT


cdef int deck_open_stratum(Deck *deck, uint64_t stratum) noexcept nogil:
    # Compute the amounts of a stratum. The stratum's word decides between the first claim and a close: exactly one of
    # them moves it on.
    cdef uint64_t amounts[STRATUM_SIZE]
    cdef uint64_t start, packet
    cdef int count, i
    if hb_load_acquire(&deck.strata[stratum]) == STRATUM_UNTOUCHED:
        hb_cas(&deck.strata[stratum], STRATUM_UNTOUCHED, STRATUM_OPEN)
    if hb_load_acquire(&deck.strata[stratum]) != STRATUM_OPEN:
        return CLOSED
    count = split_stratum(&deck.terms, stratum, amounts)
    if count < 0:
        return NO_MEMORY
    start = stratum_start(&deck.terms, stratum)
    for i in range(count):
        packet = packet_at(&deck.terms, start + <uint64_t>i)
        hb_store_relaxed(&deck.ledger.slots[packet].amount, sealed_amount(deck, packet, amounts[i]))
    return 0


cdef int deck_claim_many(
    Deck *deck, uint64_t worker, const Batch *batch, Py_ssize_t count, ClaimRow *rows
) noexcept nogil:
    # Claim for each user in order. Returns 0, NO_MEMORY or CORRUPT; what was granted before that stays granted.
    cdef UserKey group[GROUP]
    cdef const UserKey *keys
    cdef Found found
    cdef Py_ssize_t base = 0
    cdef Py_ssize_t i, size
    cdef uint64_t now_ms
    cdef int status
    while base < count:
        size = min(count - base, <Py_ssize_t>GROUP)
        keys = batch_group(batch, base, size, group)
        for i in range(size):
            ledger_prefetch(&deck.ledger, &keys[i])
        now_ms = hb_now_ms()
        for i in range(size):
            status = deck_claim(deck, worker, &keys[i], now_ms, &found)
            rows[base + i].amount = 0
            rows[base + i].packet = -1
            if status == GRANTED_NOW or status == REPEATED:
                rows[base + i].packet = <int64_t>found.slot
                if not deck_amount(deck, found.slot, &rows[base + i].amount):
                    return CORRUPT
            elif status < 0:
                return status
            rows[base + i].status = <uint8_t>status
        base += size
    return 0


cdef int deck_count(Deck *deck, Counts *counts) noexcept nogil:
    # Strata that nobody has touched are not touched now either. Returns COUNT_SOUND, or COUNT_DAMAGED for an amount
    # that the law cannot have given.
    cdef uint64_t stratum, position, packet, state, word
    cdef uint64_t now_ms = hb_now_ms()
    cdef int64_t amount
    cdef UserKey key
    memset(counts, 0, sizeof(Counts))
    for stratum in range(deck.terms.stratum_count):
        word = hb_load_acquire(&deck.strata[stratum])
        if word == STRATUM_REFUNDED:
            counts.refunded += stratum_start(&deck.terms, stratum + 1) - stratum_start(&deck.terms, stratum)
            counts.amount_refunded += stratum_share(&deck.terms, stratum)
        if word != STRATUM_OPEN:
            continue
        for position in range(stratum_start(&deck.terms, stratum), stratum_start(&deck.terms, stratum + 1)):
            packet = packet_at(&deck.terms, position)
            state = ledger_read(&deck.ledger, packet, now_ms, &key)
            if slot_kind(state) == REFUNDED:
                counts.refunded += 1
                if not refunded_amount(deck, stratum, packet, &amount):
                    return COUNT_DAMAGED
                counts.amount_refunded += <uint64_t>amount
                continue
            if slot_kind(state) != GRANTED and slot_kind(state) != SETTLED:
                continue
            if not deck_amount(deck, packet, &amount):
                return COUNT_DAMAGED
            if slot_kind(state) == GRANTED:
                counts.granted += 1
                counts.amount_granted += <uint64_t>amount
            else:
                counts.settled += 1
                counts.amount_settled += <uint64_t>amount
    return COUNT_SOUND


cdef bint refunded_amount(Deck *deck, uint64_t stratum, uint64_t packet, int64_t *amount) noexcept nogil:
    # A packet may be refunded while its stratum is being opened, or after who opened it has died: then its amount is
    # still to be written, and computed here for now. False: damage, or no memory.
    cdef uint64_t amounts[STRATUM_SIZE]
    if hb_load_relaxed(&deck.ledger.slots[packet].amount) != 0:
        return deck_amount(deck, packet, amount)
    if split_stratum(&deck.terms, stratum, amounts) < 0:
        return False
    amount[0] = <int64_t>amounts[position_of(&deck.terms, packet) - stratum_start(&deck.terms, stratum)]
    return True


cdef int64_t deck_snapshot(Deck *deck, SnapshotRow *rows, uint64_t limit) noexcept nogil:
    # Write up to `limit` live claims, by stratum; return how many, or COUNT_DAMAGED.
    cdef uint64_t stratum, position, packet, state
    cdef uint64_t count = 0
    cdef uint64_t now_ms = hb_now_ms()
    cdef UserKey key
    for stratum in range(deck.terms.stratum_count):
        if hb_load_acquire(&deck.strata[stratum]) != STRATUM_OPEN:
            continue
        for position in range(stratum_start(&deck.terms, stratum), stratum_start(&deck.terms, stratum + 1)):
            packet = packet_at(&deck.terms, position)
            state = ledger_read(&deck.ledger, packet, now_ms, &key)
            if slot_kind(state) != GRANTED and slot_kind(state) != SETTLED:
                continue
            if count == limit:
                return <int64_t>count
            if not deck_amount(deck, packet, &rows[count].amount):
                return COUNT_DAMAGED
            rows[count].packet = <int64_t>packet
            rows[count].user = key
            rows[count].state = <uint8_t>slot_kind(state)
            rows[count].granted_at_ms = <int64_t>slot_payload(state)
            count += 1
    return <int64_t>count


cdef uint64_t deck_expire(Deck *deck, uint64_t worker) noexcept nogil:
    # Give back every claim that has expired; returns how many.
    cdef uint64_t stratum, position
    cdef uint64_t next_expiry = <uint64_t>-1
    cdef uint64_t count = 0
    if deck.hold_ms == 0:
        return 0
    for stratum in range(deck.terms.stratum_count):
        if hb_load_acquire(&deck.strata[stratum]) == STRATUM_OPEN:
            for position in range(stratum_start(&deck.terms, stratum), stratum_start(&deck.terms, stratum + 1)):
                count += ledger_expire(&deck.ledger, worker, packet_at(&deck.terms, position), &next_expiry)
    return count


cdef void deck_close(Deck *deck, uint64_t now_ms) noexcept nogil:
    # Idempotent, and a closer that dies is finished by the next. Closing is the first CAS; after it no claim begins.
    cdef uint64_t stratum, position, packet
    hb_cas(deck.ledger.closed, 0, now_ms if now_ms else 1)
    hb_fence_full()     # before the slots are looked at; pairs with the fence of refund_if_closed
    for stratum in range(deck.terms.stratum_count):
        if hb_cas(&deck.strata[stratum], STRATUM_UNTOUCHED, STRATUM_REFUNDED):
            continue
        if hb_load_acquire(&deck.strata[stratum]) == STRATUM_OPEN:
            for position in range(stratum_start(&deck.terms, stratum), stratum_start(&deck.terms, stratum + 1)):
                packet = packet_at(&deck.terms, position)
                ledger_reclaim(&deck.ledger, packet)
                ledger_refund(&deck.ledger, packet)
