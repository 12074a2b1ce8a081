"""The ledger: the slots in which claims are recorded, and how one is taken, published, found, settled and released.

The slot is the truth; every counter and bit beside it is a hint. A claim is one CAS: the one that puts (tag, slot) into
the first empty index word of its user's path. What a death leaves:

- before that CAS: a HELD slot that no index word names. Nobody has been answered; the slot may be freed.
- after it: a HELD slot that the index names. It is a claim, and anyone may make it GRANTED, also while its worker
  lives, because nothing about it is open any more.
- a RELEASING slot: anyone may finish it, in the order of ``finish_release``.

Nobody ever acts for a living worker whose HELD slot is not in the index, or whose slot is RELEASING. Whoever finds
nothing free looks for what the dead have left (``reclaim_all``) before it says SOLD_OUT. ``slot.pxd`` says why no
state word ever comes back, ``vacancy.pyx`` why a search misses no free slot, ``index.pyx`` how a crowded table is
replaced.
"""
from libc.stdint cimport int64_t, uint64_t

from hbcore.atomics cimport (
    hb_cas, hb_fence_acquire, hb_fence_full, hb_fence_release, hb_fetch_add_relaxed, hb_load_acquire,
    hb_load_relaxed, hb_prefetch_write, hb_store_relaxed, hb_store_release,
)
from hbcore.format cimport HB_UNIT, hb_slot
from hbcore.index cimport (
    ENTRY, PHASE_BITS, Index, empty_word, entry_prefix, home_of, index_attach, index_help, index_is_crowded,
    index_start_replacement, index_word_count, slot_mask, tombstone_word, word_kind,
)
from hbcore.slot cimport (
    FREE, GRANTED, HELD, REFUNDED, RELEASING, SETTLED, slot_is_claim, slot_is_final, slot_kind, slot_payload,
    slot_state, slot_taken,
)
from hbcore.user cimport UserKey
from hbcore.vacancy cimport (
    BLOCK_SIZE, open_blocks, open_slots, vacancy_attach, vacancy_mark, vacancy_next, vacancy_none, vacancy_opened,
    vacancy_pin, vacancy_size, vacancy_unpin, vacancy_version,
)
from hbcore.wide cimport hb_multiply

cdef extern from "clock.h" nogil:
    uint64_t hb_now_ms() noexcept
    uint64_t hb_boot_ms() noexcept

cdef extern from "threads.h" nogil:
    struct hb_cursor:
        uint64_t handle
        uint64_t worker
        uint64_t slot
        uint64_t late_at
    hb_cursor *hb_cursor_of(uint64_t handle)
    uint64_t hb_this_thread()

cdef enum:
    # Every retry means that somebody else has made progress; only damage can bring about so many.
    RETRY_LIMIT = 1 << 20
    # A slot changes state a few times in one life, so a reader that is overtaken more often is in a damaged file.
    READ_LIMIT = 64
    # begin_block: blocks drawn from all there are, and blocks in a row: more than there are threads at work, as a rule.
    FAR_LOOKS = 4
    NEAR_LOOKS = 32

cdef uint64_t NO_BLOCK = <uint64_t>-1

cdef struct Entry:      # where a claim stands in the index
    uint64_t generation
    uint64_t word
    uint64_t *place

cdef enum:
    PROBE_FOUND
    PROBE_ABSENT        # the position is that of the first empty word
    PROBE_MOVING        # the table is being replaced, or has been
    PROBE_CROWDED       # there is no empty word

cdef uint64_t handle_count = 0

hb_this_thread()        # the thread that imports hbcore is number 1


cdef inline uint64_t whole_units(uint64_t size) noexcept nogil:
    return (size + HB_UNIT - 1) // HB_UNIT * HB_UNIT


cdef uint64_t ledger_size(uint64_t slot_count) noexcept nogil:
    return (vacancy_size(slot_count) + whole_units(2 * 8 * index_word_count(slot_count))
            + slot_count * sizeof(hb_slot))


cdef void ledger_attach(
    Ledger *ledger, char *memory, uint64_t slot_count, uint64_t *closed, uint64_t *index_state, uint64_t *tombstones
) noexcept nogil:
    # memory: ledger_size(slot_count) bytes at a cache line. The vacancy tree, the index, the slots. How many slots are
    # open is for the caller to set.
    cdef char *words = memory + vacancy_size(slot_count)
    ledger.slots = <hb_slot *>(words + whole_units(2 * 8 * index_word_count(slot_count)))
    ledger.slot_count = slot_count
    ledger.closed = closed
    vacancy_attach(&ledger.vacancy, <uint64_t *>memory, ledger.slots, slot_count)
    index_attach(&ledger.index, <uint64_t *>words, ledger.slots, slot_count)
    ledger.index.state = index_state
    ledger.index.tombstones = tombstones
    ledger.handle = 0
    ledger.grow = NULL


cdef void ledger_prefetch(const Ledger *ledger, const UserKey *key) noexcept nogil:
    # Ask for the index word that a claim of this user will look at first.
    cdef uint64_t generation = hb_load_relaxed(ledger.index.state) >> PHASE_BITS
    hb_prefetch_write(ledger.index.tables[generation & 1] + home_of(&ledger.index, key))


cdef inline uint64_t time_of_grant(const Ledger *ledger) noexcept nogil:
    # Where claims expire, a clock that cannot be set; read after the claim was published, or its time is cut short.
    if ledger.hold_ms == 0:
        return hb_now_ms()
    return (hb_boot_ms() + ledger.clock_offset_ms) & ((<uint64_t>1 << 42) - 1)


cdef bint ledger_is_expired(const Ledger *ledger, uint64_t state) noexcept nogil:
    # More than the whole time: both ends were rounded down to milliseconds.
    return (ledger.hold_ms != 0 and slot_kind(state) == GRANTED
            and time_of_grant(ledger) > slot_payload(state) + ledger.hold_ms)


cdef inline bint help_on(Index *index, uint64_t index_state) noexcept nogil:
    # Help with a replacement. False: nobody could bring it on, which happens in a damaged file only.
    index_help(index, index_state)
    return hb_load_acquire(index.state) != index_state


# ---- finding ------------------------------------------------------------------------------------------------------

cdef inline bint read_slot(hb_slot *slot, UserKey *key, uint64_t *state) noexcept nogil:
    # A consistent pair of state and key: the sequence lock of slot.pxd. False only if the file is damaged.
    cdef uint64_t before, _turn
    for _turn in range(READ_LIMIT):
        before = hb_load_acquire(&slot.state)
        key.low = hb_load_relaxed(&slot.user[0])
        key.high = hb_load_relaxed(&slot.user[1])
        hb_fence_acquire()
        state[0] = hb_load_relaxed(&slot.state)
        if state[0] == before:
            return True
    return False


cdef inline int probe(
    Ledger *ledger, const UserKey *key, uint64_t index_state, uint64_t *position, Found *found
) noexcept nogil:
    # Follow the user's path from `position` to its claim or to the first empty word.
    cdef Index *index = &ledger.index
    cdef uint64_t generation = index_state >> PHASE_BITS
    cdef uint64_t *table = index.tables[generation & 1]
    cdef uint64_t prefix = entry_prefix(index, generation, key)
    cdef uint64_t mask = slot_mask(index)
    cdef uint64_t empty = empty_word(generation)
    cdef uint64_t tombstone = tombstone_word(generation)
    cdef uint64_t at = position[0]
    cdef uint64_t word, _step, slot
    cdef UserKey slot_key
    for _step in range(index.word_count):
        word = hb_load_acquire(&table[at])      # pairs with the publishing CAS: the slot's key and amount are there
        if word == empty:
            position[0] = at
            return PROBE_ABSENT
        if word & ~mask == prefix:
            slot = word & mask
            if (slot < ledger.slot_count and read_slot(&ledger.slots[slot], &slot_key, &found.state)
                    and slot_is_claim(found.state) and slot_key.low == key.low and slot_key.high == key.high):
                # The second look: the word still names the slot, so what was read of the slot is this claim. Without
                # it, the slot could have been released and be in the hands of the same user's next, unpublished claim.
                if hb_load_acquire(&table[at]) == word:
                    position[0] = at
                    found.slot = slot
                    return PROBE_FOUND
                continue    # the word has become GONE or FROZEN: look at it again
        elif word != tombstone and word_kind(word) != ENTRY:
            return PROBE_MOVING
        at += 1
        if at == index.word_count:
            at = 0
    return PROBE_CROWDED


cdef int ledger_find(Ledger *ledger, const UserKey *key, Found *found) noexcept nogil:
    # Returns REPEATED or EXPIRED with the user's slot and its state, NOT_FOUND or CORRUPT; BUSY if nothing may be
    # written and the index is being replaced, or stale.
    cdef uint64_t index_state, _attempt, position
    cdef int outcome
    if ledger.is_stale:
        return BUSY
    for _attempt in range(RETRY_LIMIT):
        index_state = hb_load_acquire(ledger.index.state)
        if index_state & ((1 << PHASE_BITS) - 1):
            if ledger.is_readonly:
                return BUSY
            if not help_on(&ledger.index, index_state):
                return CORRUPT
            continue
        position = home_of(&ledger.index, key)
        outcome = probe(ledger, key, index_state, &position, found)
        if outcome == PROBE_FOUND:
            if slot_kind(found.state) == HELD and not ledger.is_readonly:
                if ledger.never_was(ledger.file, slot_payload(found.state)):
                    return CORRUPT
                # What is answered must be seen by everybody, also by who looks at the slots alone.
                make_granted(ledger, found, hb_now_ms())
                continue
            return EXPIRED if ledger_is_expired(ledger, found.state) else REPEATED
        if outcome == PROBE_MOVING and hb_load_acquire(ledger.index.state) == index_state:
            return CORRUPT
        # A crowded table that was replaced under the probe shows nothing: only the present one counts.
        if outcome == PROBE_ABSENT or outcome == PROBE_CROWDED and hb_load_acquire(ledger.index.state) == index_state:
            return NOT_FOUND
    return CORRUPT


cdef uint64_t ledger_read(Ledger *ledger, uint64_t slot, uint64_t now_ms, UserKey *key) noexcept nogil:
    # The state of a slot and the key that belongs to it, for snapshots. A HELD slot that the index names is a claim and
    # is made GRANTED; one that it does not name is read as FREE: nobody has been answered.
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
    # The long way to a user's claim, past the index: O(slots). Returns REPEATED or NOT_FOUND.
    cdef UserKey slot_key
    for found.slot in range(open_slots(&ledger.vacancy)):
        if (read_slot(&ledger.slots[found.slot], &slot_key, &found.state) and slot_key.low == key.low
                and slot_key.high == key.high
                and (slot_kind(found.state) == GRANTED or slot_kind(found.state) == SETTLED)):
            return EXPIRED if ledger_is_expired(ledger, found.state) else REPEATED
    return NOT_FOUND


# ---- taking -------------------------------------------------------------------------------------------------------

cdef struct Look:
    uint64_t digest     # of every state that was seen
    bint in_hands       # some slots were neither free nor final


cdef inline int64_t take_in(
    Ledger *ledger, uint64_t slot, uint64_t end, uint64_t worker, Look *look
) noexcept nogil:
    # Take the first free slot within slot .. end - 1; -1 if there is none.
    cdef uint64_t state
    while slot < end:
        state = hb_load_acquire(&ledger.slots[slot].state)     # before the next look at the root's version
        if slot_kind(state) == FREE:
            # From here on the slot is this worker's alone. Acquire: what its last owner did is over.
            if hb_cas(&ledger.slots[slot].state, state, slot_taken(state, worker)):
                return <int64_t>slot
        else:
            look.digest = (look.digest ^ state) * <uint64_t>0x9E3779B97F4A7C15
            look.in_hands = look.in_hands or not slot_is_final(state)
        slot += 1
    return -1


cdef inline bint has_grown(Ledger *ledger, uint64_t open_count) noexcept nogil:
    # Whether there are more slots than at the beginning of a look, those included that a death has kept from being
    # opened.
    if ledger.grow != NULL:
        ledger.grow(ledger.context)
    return hb_load_acquire(ledger.vacancy.open_count) != open_count


cdef int64_t search(Ledger *ledger, uint64_t cursor, uint64_t worker) noexcept nogil:
    # The long way to a free slot: the rest of the cursor's block, its beginning, and then every block that the vacancy
    # tree does not call full. -1: sold out.
    #
    # If every block is full, the load of the root is the moment at which nothing was free. Slots in other hands, and
    # pins, keep their blocks from being full; then two equal looks in a row show that moment, between the two: what was
    # seen has the same state (no state comes back), and no block that was called full had a release meanwhile, for that
    # would have cleared its bit first and then raised the root's version. Unequal looks mean that somebody got on, so
    # looking again is lock-free. Slots in the hands of the dead are reclaimed after the first look.
    cdef uint64_t block = cursor // BLOCK_SIZE
    cdef uint64_t before = 0
    cdef uint64_t start, next_expiry, open_count, _turn
    cdef int64_t slot
    cdef Look look
    cdef bint may_expire = ledger.hold_ms != 0
    for _turn in range(RETRY_LIMIT):
        # Before the look: acquire pairs with the release in expire_due, so what others gave back before they raised the
        # hint is seen by the look.
        next_expiry = hb_load_acquire(ledger.next_expiry) if may_expire else 0
        open_count = vacancy_opened(&ledger.vacancy)
        if vacancy_none(&ledger.vacancy):
            if has_grown(ledger, open_count):
                continue
            if may_expire and expire_due(ledger, worker, next_expiry, &may_expire):
                continue
            return -1
        look.digest = vacancy_version(&ledger.vacancy) | <uint64_t>1 << 63
        look.in_hands = False
        start = block * BLOCK_SIZE
        slot = take_in(ledger, cursor, min(start + BLOCK_SIZE, open_slots(&ledger.vacancy)), worker, &look)
        if slot < 0:
            slot = take_in(ledger, start, cursor, worker, &look)
        if slot >= 0:
            return slot
        vacancy_mark(&ledger.vacancy, block)
        slot = search_blocks(ledger, block + 1, open_blocks(&ledger.vacancy), worker, &look)
        if slot < 0:
            slot = search_blocks(ledger, 0, block, worker, &look)
        if slot >= 0:
            return slot
        if look.digest == before and not has_grown(ledger, open_count):
            if may_expire and expire_due(ledger, worker, next_expiry, &may_expire):
                continue
            return -1
        before = look.digest
        if look.in_hands:
            reclaim_all(ledger)
    return -1


cdef int64_t search_blocks(
    Ledger *ledger, uint64_t block, uint64_t end, uint64_t worker, Look *look
) noexcept nogil:
    cdef int64_t candidate, slot
    cdef uint64_t start
    while True:     # block rises with every turn
        candidate = vacancy_next(&ledger.vacancy, block)
        if candidate < 0 or <uint64_t>candidate >= end:
            return -1
        start = <uint64_t>candidate * BLOCK_SIZE
        slot = take_in(ledger, start, min(start + BLOCK_SIZE, open_slots(&ledger.vacancy)), worker, look)
        if slot >= 0:
            return slot
        vacancy_mark(&ledger.vacancy, <uint64_t>candidate)
        block = <uint64_t>candidate + 1


cdef int64_t begin_block(Ledger *ledger, uint64_t cursor, uint64_t worker) noexcept nogil:
    # A thread has come to where others have been. If they are still at work there, and it goes on among them, all of
    # them want the same cache line for every packet: that costs more than the claim. So first the rest of its own
    # block, and then the first slot of a block that nobody has begun; if it can be, one far away, because processors
    # fetch what comes next before it is wanted. -1: there may be none left; search knows.
    cdef uint64_t block = cursor // BLOCK_SIZE
    cdef uint64_t block_count = open_blocks(&ledger.vacancy)
    cdef uint64_t number = (cursor ^ worker << 32) * <uint64_t>0x9E3779B97F4A7C15
    cdef uint64_t low
    cdef int64_t slot
    cdef uint64_t before, _look
    cdef Look unused
    unused.digest = unused.in_hands = 0
    if block_count <= NEAR_LOOKS:
        return -1       # a small ledger is searched in order, as the reference does it
    if cursor % BLOCK_SIZE != 0:
        slot = take_in(ledger, cursor, min((block + 1) * BLOCK_SIZE, open_slots(&ledger.vacancy)), worker, &unused)
        if slot >= 0:
            return slot
    for _look in range(FAR_LOOKS):
        number = (number ^ number >> 32) * <uint64_t>0x9E3779B97F4A7C15
        slot = begin_next(ledger, hb_multiply(number, block_count, &low), &block, worker)
        if slot >= 0:
            return slot
    for _look in range(NEAR_LOOKS):
        before = block
        slot = begin_next(ledger, before + 1, &block, worker)
        if slot >= 0:
            return slot
        if block == NO_BLOCK or block == before:
            break
    return -1


cdef inline int64_t begin_next(Ledger *ledger, uint64_t start, uint64_t *block, uint64_t worker) noexcept nogil:
    # Take the first slot of the first block from `start` on, or else from the beginning, that may have a free slot; -1
    # if it has been begun. *block: which it is, or NO_BLOCK.
    cdef Look unused
    cdef uint64_t slot
    cdef int64_t next_block = vacancy_next(&ledger.vacancy, start)
    if next_block < 0:
        next_block = vacancy_next(&ledger.vacancy, 0)
    block[0] = <uint64_t>next_block
    if next_block < 0:
        return -1
    slot = block[0] * BLOCK_SIZE
    unused.digest = unused.in_hands = 0
    return take_in(ledger, slot, slot + 1, worker, &unused)


cdef uint64_t number_view(Ledger *ledger) noexcept nogil:
    global handle_count
    cdef uint64_t handle = hb_fetch_add_relaxed(&handle_count, 1) + 1
    hb_store_relaxed(&ledger.handle, handle)
    return handle


cdef inline int64_t take(Ledger *ledger, uint64_t worker) noexcept nogil:
    # Take a free slot for this worker, or return -1: sold out. Each thread walks blocks of its own choosing, so that
    # two of them seldom want the same cache line. A view is numbered when it first takes: views that only look, as the
    # statistics of a budget make by the dozen, use up no numbers, and cursors of neighbours in time do not collide.
    cdef uint64_t handle = hb_load_relaxed(&ledger.handle)
    cdef hb_cursor *cursor = hb_cursor_of(handle)
    cdef uint64_t slot, open_count
    cdef Look unused
    cdef int64_t taken
    cdef bint is_new = False
    if cursor.handle != handle or cursor.worker != worker:      # a cursor that nobody has used has no worker
        if handle == 0:
            # Two threads may do this at once; the number of one of them is lost, and its place with it: only advice.
            handle = number_view(ledger)
            cursor = hb_cursor_of(handle)
        cursor.handle = handle
        cursor.worker = worker
        cursor.slot = first_slot(ledger, worker)
        cursor.late_at = 0
        is_new = True
    slot = cursor.slot
    open_count = open_slots(&ledger.vacancy)
    unused.digest = unused.in_hands = 0
    if slot % BLOCK_SIZE == 0:
        # The block that was just left is most likely full; noting it while it is in the cache keeps the last searches
        # short.
        vacancy_mark(&ledger.vacancy, ((slot if slot else open_count) - 1) // BLOCK_SIZE)
    taken = take_in(ledger, slot, slot + 1, worker, &unused)
    if taken < 0:
        taken = -1
        # Not at the first look of a cursor: where each request has a handle of its own, or a thread more than there are
        # cursors, all would look in vain at the same few blocks.
        if not is_new and cursor.late_at != open_count:
            taken = begin_block(ledger, slot, worker)
            if taken < 0:
                cursor.late_at = open_count
        if taken < 0:
            taken = search(ledger, slot, worker)
        if taken < 0:
            return -1
    slot = <uint64_t>taken + 1
    cursor.slot = slot if slot < open_count else 0
    return taken


cdef uint64_t first_slot(Ledger *ledger, uint64_t worker) noexcept nogil:
    # Where a thread begins: multiples of the golden ratio spread any number of threads evenly over the blocks.
    cdef uint64_t number = (worker & 0xFFF) * 8 + hb_this_thread() - 1
    cdef uint64_t low
    return hb_multiply(number * <uint64_t>0x9E3779B97F4A7C15, open_blocks(&ledger.vacancy), &low) * BLOCK_SIZE


cdef void put_back(Ledger *ledger, const Found *held) noexcept nogil:
    # Give up a slot that this worker holds and has not published. No bit of the vacancy tree was set over it.
    hb_cas(&ledger.slots[held.slot].state, held.state, slot_state(FREE, held.state, 0))
    refund_if_closed(ledger, held.slot)


cdef inline void refund_if_closed(Ledger *ledger, uint64_t slot) noexcept nogil:
    # After freeing a slot. Either the closer, who closes first and looks at the slots then, sees it free, or this load
    # sees that it has closed: the fence puts it after the CAS that freed the slot.
    hb_fence_full()
    if hb_load_acquire(ledger.closed) != 0:
        ledger_refund(ledger, slot)
        hb_fetch_add_relaxed(ledger.late_refunds, 1)


cdef void ledger_refund(Ledger *ledger, uint64_t slot) noexcept nogil:
    # Of a closed ledger: a free slot becomes REFUNDED.
    cdef uint64_t state = hb_load_acquire(&ledger.slots[slot].state)
    while slot_kind(state) == FREE:     # a CAS fails only because somebody has taken or refunded it
        if hb_cas(&ledger.slots[slot].state, state, slot_state(REFUNDED, state, 0)):
            return
        state = hb_load_acquire(&ledger.slots[slot].state)


# ---- claiming, settling, releasing ----------------------------------------------------------------------------------

cdef inline void make_granted(Ledger *ledger, const Found *found, uint64_t now_ms) noexcept nogil:
    # found: a HELD slot that the index names. Its owner does this, or anyone who meets it: the claim is decided.
    if ledger.hold_ms != 0:
        now_ms = time_of_grant(ledger)
    hb_cas(&ledger.slots[found.slot].state, found.state, slot_state(GRANTED, found.state, now_ms))


cdef int ledger_claim(
    Ledger *ledger, uint64_t worker, const UserKey *key, uint64_t now_ms, bint is_closed, Found *found
) noexcept nogil:
    # Returns GRANTED_NOW or REPEATED with the user's slot, SOLD_OUT, CLOSED, NO_MEMORY or CORRUPT.
    cdef uint64_t index_state, _attempt, position, generation
    cdef uint64_t *table
    cdef Found held             # the slot that this call has taken, and its state; not in the index yet
    cdef bint is_holding = False
    cdef int outcome = PROBE_MOVING
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        index_state = hb_load_acquire(ledger.index.state)
        if index_state & ((1 << PHASE_BITS) - 1):
            if not help_on(&ledger.index, index_state):
                break
            continue
        generation = index_state >> PHASE_BITS
        table = ledger.index.tables[generation & 1]
        position = home_of(&ledger.index, key)
        while True:     # each turn but the last finds a word taken that was empty before: at most once for every word
            outcome = probe(ledger, key, index_state, &position, found)
            if outcome != PROBE_ABSENT:
                break
            if not is_holding:
                answer = hold(ledger, worker, key, is_closed, &held)
                if answer != GRANTED_NOW:
                    # Nothing was free. If the word is still empty the user had no claim at that moment; if it is not,
                    # another request of the same user may have published there: look again.
                    if answer < 0 or hb_load_acquire(&table[position]) == empty_word(generation):
                        return answer
                    continue
                is_holding = True
            # Publish: this one CAS is the claim. Release: whoever reads the word sees key and amount.
            if hb_cas(&table[position], empty_word(generation),
                      entry_prefix(&ledger.index, generation, key) | held.slot):
                # To die here leaves a HELD slot that the index names: a claim. The CAS expects the state of this very
                # life of the slot: by now others may have granted and released it and taken it anew.
                make_granted(ledger, &held, now_ms)
                found[0] = held
                return GRANTED_NOW
            # Somebody published here first: look at what it is.
        if outcome == PROBE_FOUND:
            if slot_kind(found.state) == HELD:
                if ledger.never_was(ledger.file, slot_payload(found.state)):
                    outcome = PROBE_MOVING      # damage
                    break
                make_granted(ledger, found, now_ms)     # before it is answered: see ledger_find
            elif ledger_is_expired(ledger, found.state):
                if give_back(ledger, worker, key, found) == CORRUPT:
                    outcome = PROBE_MOVING
                    break
                continue
            break
        if outcome == PROBE_CROWDED:
            index_start_replacement(&ledger.index, index_state)
        elif hb_load_acquire(ledger.index.state) == index_state:
            break       # words of another generation in a table that nobody replaces
    if is_holding:
        put_back(ledger, &held)
    return REPEATED if outcome == PROBE_FOUND else CORRUPT


cdef inline int hold(
    Ledger *ledger, uint64_t worker, const UserKey *key, bint is_closed, Found *held
) noexcept nogil:
    # Take a slot and make it ready to be published. Returns GRANTED_NOW, or why not, and then holds nothing.
    cdef int64_t taken
    cdef int answer
    cdef hb_slot *slot
    if is_closed:
        return CLOSED
    taken = take(ledger, worker)
    if taken < 0:
        return CLOSED if hb_load_acquire(ledger.closed) else SOLD_OUT
    slot = &ledger.slots[taken]
    held.slot = <uint64_t>taken
    held.state = hb_load_relaxed(&slot.state)   # until it is published nobody else changes it
    answer = ledger.prepare(ledger.context, held.slot, &held.amount)
    if answer != 0:
        put_back(ledger, held)
        return answer
    # A reader that sees the new key also sees the state HELD that came before it: see read_slot.
    hb_fence_release()
    hb_store_relaxed(&slot.user[0], key.low)
    hb_store_relaxed(&slot.user[1], key.high)
    return GRANTED_NOW


cdef int ledger_look(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil:
    # As ledger_find, but what has expired is given back before anybody is told that it is gone: a settle that is under
    # way then fails. Nothing is EXPIRED.
    cdef uint64_t _attempt
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        answer = ledger_find(ledger, key, found)
        if answer != EXPIRED:
            return answer
        if ledger.is_readonly:
            return NOT_FOUND
        if give_back(ledger, worker, key, found) == CORRUPT:
            return CORRUPT
    return CORRUPT


cdef int ledger_settle(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil:
    # Make the user's claim final. Returns REPEATED with the slot, NOT_FOUND or CORRUPT. The time of the grant is kept.
    cdef uint64_t _attempt
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        answer = ledger_look(ledger, worker, key, found)
        if answer != REPEATED or slot_kind(found.state) == SETTLED:
            return answer
        # settle, release and expiry race on this one CAS: exactly one of them wins
        if hb_cas(&ledger.slots[found.slot].state, found.state,
                  slot_state(SETTLED, found.state, slot_payload(found.state))):
            return REPEATED
    return CORRUPT


cdef int ledger_release(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil:
    # Give the user's packet back. Returns REPEATED with the slot that was released, NOT_FOUND, ALREADY_SETTLED or
    # CORRUPT.
    cdef uint64_t _attempt
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        answer = ledger_look(ledger, worker, key, found)
        if answer != REPEATED:
            return answer
        if slot_kind(found.state) == SETTLED:
            return ALREADY_SETTLED
        answer = give_back(ledger, worker, key, found)
        if answer != BUSY:
            return answer
    return CORRUPT


cdef int give_back(Ledger *ledger, uint64_t worker, const UserKey *key, const Found *found) noexcept nogil:
    # From GRANTED, as found, to FREE. Returns REPEATED, BUSY if somebody else has changed the slot, or CORRUPT.
    cdef uint64_t releasing = slot_state(RELEASING, found.state, worker)
    # No bit may lie over the slot from here on, so that it can be seen if this worker dies.
    vacancy_pin(&ledger.vacancy, found.slot // BLOCK_SIZE)
    # settle, release and expiry race on this one CAS: exactly one of them wins
    if hb_cas(&ledger.slots[found.slot].state, found.state, releasing):
        return REPEATED if finish_release(ledger, key, found.slot, releasing) else CORRUPT
    vacancy_unpin(&ledger.vacancy, found.slot // BLOCK_SIZE)
    return BUSY


cdef bint ledger_expire(Ledger *ledger, uint64_t worker, uint64_t slot, uint64_t *next_expiry) noexcept nogil:
    # Give the slot back if its claim has expired; whether it did. Else lower *next_expiry to its time.
    cdef Found found
    cdef UserKey key
    if not read_slot(&ledger.slots[slot], &key, &found.state) or slot_kind(found.state) != GRANTED:
        return False
    if not ledger_is_expired(ledger, found.state):
        next_expiry[0] = min(next_expiry[0], slot_payload(found.state) + ledger.hold_ms + 1)
        return False
    found.slot = slot
    return give_back(ledger, worker, &key, &found) == REPEATED


cdef bint expire_due(Ledger *ledger, uint64_t worker, uint64_t hint, bint *may_expire) noexcept nogil:
    # Where a look found nothing free: give back what has expired. hint: of next_expiry, from before that look. False if
    # nothing had expired then; True means look again, also if it was others who gave something back: one of them may
    # have done so since the look, and a claim must not be told SOLD_OUT over it. The hint keeps this from being done by
    # every claim that is told SOLD_OUT; a claim that was granted while its thread stood still can be found late by it.
    # *may_expire becomes False where nothing had expired: then one more look is enough. Where claims expire in less
    # time than going through the slots takes, the hint is always in the past, and that would have no end.
    cdef uint64_t slot, next_expiry
    if time_of_grant(ledger) < hint:
        return False
    may_expire[0] = False
    next_expiry = time_of_grant(ledger) + ledger.hold_ms
    for slot in range(open_slots(&ledger.vacancy)):
        may_expire[0] = ledger_expire(ledger, worker, slot, &next_expiry) or may_expire[0]
    hb_store_release(ledger.next_expiry, next_expiry)
    return True


cdef bint finish_release(Ledger *ledger, const UserKey *key, uint64_t slot, uint64_t releasing) noexcept nogil:
    # From RELEASING to FREE, in an order that lets anyone go on where a death stopped it: every step may be repeated,
    # by several at once.
    # 1. No index word may name it: a word that outlived its claim would publish the slot's next holder by itself.
    if not bury(ledger, key, slot, releasing):
        return False
    # 2. Free. Only now can anybody else write to the slot. Who frees it takes the releaser's pin away.
    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):
        vacancy_unpin(&ledger.vacancy, slot // BLOCK_SIZE)
        refund_if_closed(ledger, slot)
    # 3. Replace the index table when tombstones crowd it: whoever notices does the work.
    relieve(&ledger.index)
    return True


cdef int locate(Ledger *ledger, const UserKey *key, uint64_t slot, Entry *entry) noexcept nogil:
    # The index word that names this slot for this user. Returns REPEATED with the word, NOT_FOUND if at some moment
    # there was none, or CORRUPT.
    cdef Index *index = &ledger.index
    cdef uint64_t _attempt, index_state, position, word, _step
    cdef uint64_t *table
    cdef bint is_moving
    for _attempt in range(RETRY_LIMIT):
        index_state = hb_load_acquire(index.state)
        if index_state & ((1 << PHASE_BITS) - 1):
            if not help_on(index, index_state):
                return CORRUPT
            continue
        entry.generation = index_state >> PHASE_BITS
        entry.word = entry_prefix(index, entry.generation, key) | slot
        table = index.tables[entry.generation & 1]
        position = home_of(index, key)
        is_moving = False
        for _step in range(index.word_count):
            word = hb_load_acquire(&table[position])
            if word == entry.word:
                entry.place = &table[position]
                return REPEATED
            if word == empty_word(entry.generation):
                break
            if word_kind(word) != ENTRY and word != tombstone_word(entry.generation):
                is_moving = True
                break
            position += 1
            if position == index.word_count:
                position = 0
        # Until a replacement begins, entries stay where they are: this table was the only one all the while.
        if hb_load_acquire(index.state) == index_state:
            return CORRUPT if is_moving else NOT_FOUND
    return CORRUPT


cdef bint bury(Ledger *ledger, const UserKey *key, uint64_t slot, uint64_t releasing) noexcept nogil:
    # Make the index word of a RELEASING slot a tombstone, in whichever table it is. False only in a damaged file.
    cdef uint64_t _attempt
    cdef Entry entry
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        answer = locate(ledger, key, slot, &entry)
        if answer != REPEATED:
            return answer == NOT_FOUND      # somebody has buried it
        # Who goes on for the dead may have been overtaken: then the word is of a later claim of the same user in the
        # same slot. While the slot is still in this state, the word that was just read is this claim's.
        if hb_load_acquire(&ledger.slots[slot].state) != releasing:
            return True
        if hb_cas(entry.place, entry.word, tombstone_word(entry.generation)):
            hb_fetch_add_relaxed(ledger.index.tombstones, 1)
            return True
        # frozen, or somebody has buried it
    return False


cdef void relieve(Index *index) noexcept nogil:
    cdef uint64_t state = hb_load_acquire(index.state)
    cdef uint64_t generation = state >> PHASE_BITS
    cdef uint64_t before
    if not index_is_crowded(index):
        return
    if state & ((1 << PHASE_BITS) - 1) == 0:
        index_start_replacement(index, state)
    state = hb_load_acquire(index.state)
    while state >> PHASE_BITS == generation and state & ((1 << PHASE_BITS) - 1):
        before = state
        index_help(index, state)
        state = hb_load_acquire(index.state)
        if state == before:
            return      # damage: the next claim will say so


# ---- what the dead have left ----------------------------------------------------------------------------------------

cdef void reclaim_all(Ledger *ledger) noexcept nogil:
    # Reclaim every slot of dead workers. None of them lies under a bit of the vacancy tree.
    cdef uint64_t slot, end
    cdef int64_t block = vacancy_next(&ledger.vacancy, 0)
    while block >= 0:       # it rises with every turn
        slot = <uint64_t>block * BLOCK_SIZE
        end = min(slot + BLOCK_SIZE, open_slots(&ledger.vacancy))
        while slot < end:
            ledger_reclaim(ledger, slot)
            slot += 1
        block = vacancy_next(&ledger.vacancy, <uint64_t>block + 1)


cdef void ledger_reclaim(Ledger *ledger, uint64_t slot) noexcept nogil:
    # If the slot is in the hands of a dead worker, finish what it has decided and give back what it has not. Any number
    # may do this at once, and die at it: each last step is one CAS from the state that was read.
    cdef uint64_t state = hb_load_acquire(&ledger.slots[slot].state)
    cdef int kind = slot_kind(state)
    cdef UserKey key
    cdef Found found
    cdef Entry entry
    cdef int answer
    if kind != HELD and kind != RELEASING or not ledger.is_dead(ledger.file, slot_payload(state)):
        return
    # The key is read only now: what the worker wrote in its last moment is there, and nothing will follow. If the slot
    # is not in this state any more, somebody else has reclaimed it.
    if not read_slot(&ledger.slots[slot], &key, &found.state) or found.state != state:
        return
    if kind == RELEASING:
        finish_release(ledger, &key, slot, state)
        return
    # A key that is only half written belongs to no index word. No index word: no claim, nobody was answered, and the
    # dead cannot publish any more.
    answer = locate(ledger, &key, slot, &entry)
    found.slot = slot
    if answer == REPEATED:
        make_granted(ledger, &found, hb_now_ms())
    elif answer == NOT_FOUND and hb_cas(&ledger.slots[slot].state, state, slot_state(FREE, state, 0)):
        refund_if_closed(ledger, slot)
