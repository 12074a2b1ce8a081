"""The deck of an envelope: its packets, as pointers and counts, without Python.

A deck is a ledger whose slots are the packets, and a law that says what each is worth. The amounts of a stratum (at
most 1,024 packets) are written at its first claim, by whichever thread comes first: they are a pure function of the
terms, so writing them twice is harmless. Every function is safe in any thread of any process; ``ledger.pyx`` says why.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset

from hbcore._claims.amount cimport amount_read, amount_word
from hbcore._claims.free_map cimport free_map_open
from hbcore._claims.group cimport Plain, ledger_claim_plain, ledger_prefetch_group
from hbcore._claims.ledger cimport Found, ledger_attach, ledger_read
from hbcore._claims.slot cimport GRANTED, REFUNDED, SETTLED, slot_kind, slot_payload
from hbcore._claims.tranche cimport (
    STRATUM_OPEN, STRATUM_REFUNDED, STRATUM_UNTOUCHED, Tranche, packet_in, place_in, tranche_step,
)
from hbcore._claims.transitions cimport ledger_expire, ledger_reclaim, ledger_refund
from hbcore._file.clock cimport hb_now_ms
from hbcore._file.format cimport hb_envelope, hb_hints
from hbcore._file.process cimport hb_file, hb_worker_is_dead, hb_worker_never_was
from hbcore._keys.batch cimport Batch, batch_group
from hbcore._keys.user cimport GROUP, UserKey
from hbcore._lib.answers cimport CLOSED, CORRUPT, GRANTED_NOW, NO_MEMORY, REPEATED
from hbcore._lib.atomics cimport (
    hb_cas, hb_fence_full, hb_load_acquire, hb_load_private, hb_load_relaxed, hb_store_private, hb_store_relaxed,
)
from hbcore._split.law cimport STRATUM_SIZE, split_stratum, stratum_of, stratum_share, stratum_start


cdef void deck_attach(
    Deck *deck, hb_envelope *shared, uint64_t name_length, const hb_file *file, bint is_readonly, bint is_stale
) noexcept nogil:
    # Lay a deck over an envelope's memory. The terms of the first tranche are prepared. Only this private copy says
    # where things are; the shared header is not trusted again.
    cdef uint64_t max_packets = deck.first.terms.max_packets
    cdef Layout layout = envelope_layout(name_length, deck.first.terms.stratum_count, max_packets)
    cdef char *base = <char *>shared
    cdef hb_hints *hints = <hb_hints *>(base + layout.hints)
    deck.shared = shared
    deck.first.start = 0
    deck.first.strata = <uint64_t *>(base + layout.strata)
    deck.first.following = &shared.following
    deck.last = <uint64_t>&deck.first
    ledger_attach(&deck.ledger, <uint64_t *>(base + layout.free_map), base + layout.ledger, max_packets, &shared.closed,
                  &shared.index_state, &hints.tombstones)
    deck.ledger.free_map.open_count = &shared.open_count
    deck.ledger.free_map.cleared_count = &shared.cleared_count
    deck.ledger.next_expiry = &hints.next_expiry_ms
    deck.ledger.late_refunds = &hints.late_refunds
    deck.ledger.hold_ms = deck.first.terms.hold_ms
    deck.ledger.clock_offset_ms = deck.clock_offset_ms
    deck.ledger.prepare = prepare_packet
    deck.ledger.meet = deck.meet
    if deck.first.terms.max_packets > deck.first.terms.packets:
        deck.ledger.grow = open_appended
    deck.ledger.context = deck
    deck.ledger.is_dead = hb_worker_is_dead
    deck.ledger.never_was = hb_worker_never_was
    deck.ledger.file = file
    deck.ledger.is_readonly = is_readonly
    deck.ledger.is_stale = is_stale


cdef int prepare_packet(void *context, uint64_t packet, int64_t *amount) noexcept nogil:
    # Make sure that the amount of a packet that this worker holds is there. Return 0 with the amount, CLOSED, NO_MEMORY
    # or CORRUPT.
    cdef Deck *deck = <Deck *>context
    cdef Tranche *tranche = tranche_of(deck, packet)
    cdef int answer
    if tranche == NULL:
        return CORRUPT
    if hb_load_relaxed(&deck.ledger.slots[packet].amount) == 0:
        answer = open_stratum(deck, tranche, stratum_of(&tranche.terms, place_in(tranche, packet)))
        if answer != 0:
            return answer
    # An amount that the law cannot have given is damage, and is never handed out.
    return 0 if amount_read(&tranche.amounts, deck.ledger.slots, packet, amount) else CORRUPT


cdef int deck_open(Deck *deck, Tranche *tranche) noexcept nogil:
    # Open all tranches after one that is open. Return 0, CORRUPT or NO_MEMORY.
    cdef uint64_t end
    cdef int answer
    while True:     # each turn passes one tranche
        end = tranche.start + tranche.terms.packets
        answer = tranche_step(deck.attach, deck.owner, &tranche)
        if answer != 0 or tranche == NULL:
            return answer
        free_map_open(&deck.ledger.free_map, end, end + tranche.terms.packets)
        if tranche.number > (<Tranche *>hb_load_private(&deck.last)).number:
            hb_store_private(&deck.last, <uint64_t>tranche)


cdef void open_appended(void *context) noexcept nogil:
    # Open what was added, for a thread that finds nothing free: the process that has appended a tranche may have died
    # before it was open. Damage is not reported here.
    cdef Deck *deck = <Deck *>context
    deck_open(deck, <Tranche *>hb_load_private(&deck.last))


cdef int open_stratum(Deck *deck, const Tranche *tranche, uint64_t stratum) noexcept nogil:
    # Compute the amounts of a stratum and write them. The stratum's word decides between the first claim and a close:
    # exactly one of them moves it on. Return 0, CLOSED or NO_MEMORY.
    cdef uint64_t amounts[STRATUM_SIZE]
    cdef uint64_t start, packet
    cdef int count, i
    if hb_load_acquire(&tranche.strata[stratum]) == STRATUM_UNTOUCHED:
        hb_cas(&tranche.strata[stratum], STRATUM_UNTOUCHED, STRATUM_OPEN)
    if hb_load_acquire(&tranche.strata[stratum]) != STRATUM_OPEN:
        return CLOSED
    count = split_stratum(&tranche.terms, stratum, amounts)
    if count < 0:
        return NO_MEMORY
    start = stratum_start(&tranche.terms, stratum)
    for i in range(count):
        packet = packet_in(tranche, start + <uint64_t>i)
        hb_store_relaxed(&deck.ledger.slots[packet].amount, amount_word(&tranche.amounts, packet, amounts[i]))
    return 0


cdef int deck_claim_many(
    Deck *deck, uint64_t worker, const Batch *batch, Py_ssize_t count, ClaimRow *rows
) noexcept nogil:
    # Claim for each user in order. Return 0, NO_MEMORY or CORRUPT; what was granted before that stays granted.
    cdef UserKey group[GROUP]
    cdef const UserKey *keys
    cdef Found found
    cdef Plain plain
    cdef Py_ssize_t base = 0
    cdef Py_ssize_t i, size
    cdef uint64_t now_ms
    cdef int status
    cdef bint is_plain
    plain.amounts = deck.first.amounts
    plain.end = deck.first.terms.packets
    while base < count:
        size = min(count - base, <Py_ssize_t>GROUP)
        keys = batch_group(batch, base, size, group)
        ledger_prefetch_group(&deck.ledger, keys, size)
        now_ms = hb_now_ms()
        is_plain = not is_closed(deck, now_ms)
        i = 0
        while True:
            if is_plain:
                i += ledger_claim_plain(&deck.ledger, &plain, worker, keys + i, size - i, now_ms, rows + base + i)
            if i == size:
                break
            status = deck_claim(deck, worker, &keys[i], now_ms, &found)
            rows[base + i].amount = 0
            rows[base + i].packet = -1
            if status == GRANTED_NOW or status == REPEATED:
                rows[base + i].packet = <int64_t>found.slot
                if not claim_amount(deck, status, &found, &rows[base + i].amount):
                    return CORRUPT
            elif status < 0:
                return status
            rows[base + i].status = <uint64_t>status
            # Once a slot was taken the long way, the next of its block is as plain as can be. After SOLD_OUT or CLOSED,
            # the next user most likely hears that too; and an envelope that is over by its expiry alone is not plain.
            is_plain = is_plain and status == REPEATED or status == GRANTED_NOW
            i += 1
        base += size
    return 0


cdef int deck_count(Deck *deck, Counts *counts) noexcept nogil:
    # Count the packets and their amounts by state. Strata that nobody has touched are not touched now either. Return
    # COUNT_SOUND, or COUNT_DAMAGED, also for an amount that the law cannot have given.
    cdef uint64_t stratum, word
    cdef uint64_t now_ms = hb_now_ms()
    cdef Tranche *tranche = &deck.first
    memset(counts, 0, sizeof(Counts))
    while tranche != NULL:
        counts.packets += tranche.terms.packets
        counts.amount_total += tranche.terms.total
        for stratum in range(tranche.terms.stratum_count):
            word = hb_load_acquire(&tranche.strata[stratum])
            if word == STRATUM_REFUNDED:
                counts.refunded += stratum_start(&tranche.terms, stratum + 1) - stratum_start(&tranche.terms, stratum)
                counts.amount_refunded += stratum_share(&tranche.terms, stratum)
            if word == STRATUM_OPEN and not count_stratum(deck, tranche, stratum, now_ms, counts):
                return COUNT_DAMAGED
        if tranche_step(deck.attach, deck.owner, &tranche) != 0:
            return COUNT_DAMAGED
    return COUNT_SOUND


cdef bint count_stratum(
    Deck *deck, const Tranche *tranche, uint64_t stratum, uint64_t now_ms, Counts *counts
) noexcept nogil:
    cdef uint64_t position, packet
    cdef int64_t amount
    cdef int kind
    cdef UserKey key
    for position in range(stratum_start(&tranche.terms, stratum), stratum_start(&tranche.terms, stratum + 1)):
        packet = packet_in(tranche, position)
        kind = slot_kind(ledger_read(&deck.ledger, packet, now_ms, &key))
        if kind == REFUNDED:
            if not refunded_amount(deck, tranche, stratum, packet, &amount):
                return False
            counts.refunded += 1
            counts.amount_refunded += <uint64_t>amount
        elif kind == GRANTED or kind == SETTLED:
            if not amount_read(&tranche.amounts, deck.ledger.slots, packet, &amount):
                return False
            if kind == GRANTED:
                counts.granted += 1
                counts.amount_granted += <uint64_t>amount
            else:
                counts.settled += 1
                counts.amount_settled += <uint64_t>amount
    return True


cdef bint refunded_amount(
    Deck *deck, const Tranche *tranche, uint64_t stratum, uint64_t packet, int64_t *amount
) noexcept nogil:
    # Read the amount of a packet that was refunded. It may have been refunded while its stratum was being opened, or
    # after the process that was opening it had died: then its amount is still to be written, and is computed here for
    # now. Return False for damage, or no memory.
    cdef uint64_t amounts[STRATUM_SIZE]
    if hb_load_relaxed(&deck.ledger.slots[packet].amount) != 0:
        return amount_read(&tranche.amounts, deck.ledger.slots, packet, amount)
    if split_stratum(&tranche.terms, stratum, amounts) < 0:
        return False
    amount[0] = <int64_t>amounts[place_in(tranche, packet) - stratum_start(&tranche.terms, stratum)]
    return True


cdef int64_t deck_snapshot(Deck *deck, SnapshotRow *rows, uint64_t limit) noexcept nogil:
    # Write up to `limit` live claims, by stratum. Return how many, or COUNT_DAMAGED.
    cdef uint64_t stratum
    cdef uint64_t count = 0
    cdef uint64_t now_ms = hb_now_ms()
    cdef Tranche *tranche = &deck.first
    while tranche != NULL:
        for stratum in range(tranche.terms.stratum_count):
            if (hb_load_acquire(&tranche.strata[stratum]) == STRATUM_OPEN
                    and not snapshot_stratum(deck, tranche, stratum, now_ms, rows, limit, &count)):
                return COUNT_DAMAGED
        if tranche_step(deck.attach, deck.owner, &tranche) != 0:
            return COUNT_DAMAGED
    return <int64_t>count


cdef bint snapshot_stratum(
    Deck *deck, const Tranche *tranche, uint64_t stratum, uint64_t now_ms, SnapshotRow *rows, uint64_t limit,
    uint64_t *count
) noexcept nogil:
    cdef uint64_t position, packet, state
    cdef UserKey key
    cdef SnapshotRow *row
    for position in range(stratum_start(&tranche.terms, stratum), stratum_start(&tranche.terms, stratum + 1)):
        packet = packet_in(tranche, position)
        state = ledger_read(&deck.ledger, packet, now_ms, &key)
        if slot_kind(state) != GRANTED and slot_kind(state) != SETTLED:
            continue
        if count[0] == limit:
            return True
        row = &rows[count[0]]
        if not amount_read(&tranche.amounts, deck.ledger.slots, packet, &row.amount):
            return False
        row.packet = <int64_t>packet
        row.user = key
        row.state = <uint8_t>slot_kind(state)
        row.granted_at_ms = <int64_t>slot_payload(state)
        count[0] += 1
    return True


cdef uint64_t deck_expire(Deck *deck, uint64_t worker) noexcept nogil:
    # Give back every claim that has lapsed. Return how many there were.
    cdef uint64_t stratum, position
    cdef uint64_t next_expiry = <uint64_t>-1
    cdef uint64_t count = 0
    cdef Tranche *tranche = &deck.first
    while tranche != NULL and deck.first.terms.hold_ms != 0:
        for stratum in range(tranche.terms.stratum_count):
            if hb_load_acquire(&tranche.strata[stratum]) == STRATUM_OPEN:
                for position in range(
                    stratum_start(&tranche.terms, stratum), stratum_start(&tranche.terms, stratum + 1)
                ):
                    count += ledger_expire(&deck.ledger, worker, packet_in(tranche, position), &next_expiry)
        if tranche_step(deck.attach, deck.owner, &tranche) != 0:
            break       # damage, which deck_count reports
    return count


cdef void deck_close(Deck *deck, uint64_t now_ms) noexcept nogil:
    # Close the deck and refund what is free. This is idempotent, and what a closer that dies leaves is finished by the
    # next one. Closing is the first CAS; after it no claim begins. A tranche that is appended after the closer has
    # passed is refunded by the thread that appends it.
    cdef Tranche *tranche = &deck.first
    hb_cas(deck.ledger.closed, 0, now_ms if now_ms else 1)
    # The fence comes before the looks at the slots and the tranches. It pairs with refund_if_closed and with the
    # append.
    hb_fence_full()
    while tranche != NULL:
        close_tranche(deck, tranche)
        if tranche_step(deck.attach, deck.owner, &tranche) != 0:
            break


cdef void close_tranche(Deck *deck, const Tranche *tranche) noexcept nogil:
    cdef uint64_t stratum, position, packet
    for stratum in range(tranche.terms.stratum_count):
        if hb_cas(&tranche.strata[stratum], STRATUM_UNTOUCHED, STRATUM_REFUNDED):
            continue
        if hb_load_acquire(&tranche.strata[stratum]) == STRATUM_OPEN:
            for position in range(stratum_start(&tranche.terms, stratum), stratum_start(&tranche.terms, stratum + 1)):
                packet = packet_in(tranche, position)
                ledger_reclaim(&deck.ledger, packet)
                ledger_refund(&deck.ledger, packet)
