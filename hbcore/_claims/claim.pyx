"""Claiming: take a free slot, make it fit to be granted, and publish it in the index.

The top of ``ledger.pyx`` says what a death on the way leaves.
"""
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.free_map cimport (
    BLOCK_SIZE, free_map_mark, free_map_next, free_map_none, free_map_opened, free_map_version, open_blocks, open_slots,
)
from hbcore._claims.index cimport PHASE_BITS, empty_word, entry_prefix, home_of
from hbcore._claims.ledger cimport (
    PATIENCE_MS, PROBE_ABSENT, PROBE_CROWDED, PROBE_FOUND, PROBE_MOVING, RETRY_LIMIT, begin_replacement, help_on,
    ledger_is_expired, make_granted, probe, table_at_hand, wants_table,
)
from hbcore._claims.slot cimport FREE, HELD, slot_is_final, slot_kind, slot_payload, slot_taken
from hbcore._claims.transitions cimport expire_due, give_back, put_back, reclaim_all
from hbcore._file.format cimport hb_slot
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport CLOSED, CORRUPT, GRANTED_NOW, NO_SPACE, REPEATED, SOLD_OUT
from hbcore._lib.atomics cimport (
    hb_cas, hb_fence_release, hb_fetch_add_relaxed, hb_load_acquire, hb_load_relaxed, hb_store_private,
    hb_store_relaxed,
)
from hbcore._lib.wide cimport hb_multiply

cdef extern from "threads.h" nogil:
    hb_cursor *hb_cursor_of(uint64_t handle)
    uint64_t hb_this_thread()

cdef enum:
    # begin_block looks at FAR_LOOKS blocks drawn from all that there are, and then at NEAR_LOOKS blocks in a row: as a
    # rule, more blocks than there are threads at work.
    FAR_LOOKS = 4
    NEAR_LOOKS = 32

cdef uint64_t NO_BLOCK = <uint64_t>-1

cdef uint64_t handle_count = 0

hb_this_thread()        # the thread that imports hbcore is number 1


# ---- taking ---------------------------------------------------------------------------------------------------------

cdef struct Look:
    uint64_t digest     # hash of the versions that were read, and of every state that was seen and not free
    bint in_hands       # whether some slots were neither free nor final


cdef inline int64_t take_in(
    Ledger *ledger, uint64_t slot, uint64_t end, uint64_t worker, Look *look
) noexcept nogil:
    # Take the first free slot within slot .. end - 1 for this worker, and return it. Return -1 if there is none. Every
    # slot that is passed counts in the look as it was when it was not free. So a slot that another thread was faster to
    # take is read again: passed over, it would be in no digest, and could be free between two looks that are equal.
    cdef uint64_t state
    while slot < end:
        state = hb_load_acquire(&ledger.slots[slot].state)     # before the root's version is read for the next look
        if slot_kind(state) == FREE:
            # From here on the slot is this worker's alone. Acquire: what its last owner did to it is over.
            if hb_cas(&ledger.slots[slot].state, state, slot_taken(state, worker)):
                return <int64_t>slot
            continue    # another thread has made progress
        look.digest = (look.digest ^ state) * <uint64_t>0x9E3779B97F4A7C15
        look.in_hands = look.in_hands or not slot_is_final(state)
        slot += 1
    return -1


cdef inline bint has_grown(Ledger *ledger, uint64_t open_count) noexcept nogil:
    # Return whether there are more slots than the `open_count` at the beginning of a look. Slots that were appended,
    # and that a death has kept from being opened, are opened first and count.
    if ledger.grow != NULL:
        ledger.grow(ledger.context)
    return hb_load_acquire(ledger.free_map.open_count) != open_count


cdef int64_t search(Ledger *ledger, uint64_t cursor, uint64_t worker) noexcept nogil:
    # Find a free slot by the long way and take it: search the rest of the cursor's block, its beginning, and then every
    # block that the free map does not call full. Return the slot, or -1: sold out.
    #
    # If every block is full, the load of the root is the moment at which nothing was free. Slots in other hands, and
    # pins, keep their blocks from being full. Then two equal looks in a row show that moment, and it lies between the
    # two: every slot that was seen has the same state in both (no state comes back), and no block that was called full
    # had a release meanwhile. For a release pins the block's word first, which raises its version: that counts in a
    # look that has read the word. And a look that has not, because a word above calls it full, counts the version of
    # the root, which the release raises where the word was full. If two looks differ, another thread got on, so looking
    # again is lock-free. Slots in the hands of the dead are reclaimed after the first look.
    cdef uint64_t block = cursor // BLOCK_SIZE
    cdef uint64_t before = 0
    cdef uint64_t start, next_expiry, open_count, _turn
    cdef int64_t slot
    cdef Look look
    cdef bint may_expire = ledger.hold_ms != 0
    for _turn in range(RETRY_LIMIT):
        # The hint is loaded before the look. Acquire: it pairs with the release in expire_due, so the look sees what
        # other threads gave back before they raised the hint.
        next_expiry = hb_load_acquire(ledger.next_expiry) if may_expire else 0
        open_count = free_map_opened(&ledger.free_map)
        if free_map_none(&ledger.free_map):
            if has_grown(ledger, open_count):
                continue
            if may_expire and expire_due(ledger, worker, next_expiry, &may_expire):
                continue
            return -1
        look.digest = free_map_version(&ledger.free_map) | <uint64_t>1 << 63
        look.in_hands = False
        start = block * BLOCK_SIZE
        slot = take_in(ledger, cursor, min(start + BLOCK_SIZE, open_slots(&ledger.free_map)), worker, &look)
        if slot < 0:
            slot = take_in(ledger, start, cursor, worker, &look)
        if slot >= 0:
            return slot
        free_map_mark(&ledger.free_map, block)
        slot = search_blocks(ledger, block + 1, open_blocks(&ledger.free_map), worker, &look)
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
        candidate = free_map_next(&ledger.free_map, block, &look.digest)
        if candidate < 0 or <uint64_t>candidate >= end:
            return -1
        start = <uint64_t>candidate * BLOCK_SIZE
        slot = take_in(ledger, start, min(start + BLOCK_SIZE, open_slots(&ledger.free_map)), worker, look)
        if slot >= 0:
            return slot
        free_map_mark(&ledger.free_map, <uint64_t>candidate)
        block = <uint64_t>candidate + 1


cdef int64_t begin_block(Ledger *ledger, uint64_t cursor, uint64_t worker) noexcept nogil:
    # Take a slot where no other thread is at work, for a thread that has come to where others have been. If those are
    # still at work there, and it goes on among them, all of them want the same cache line for every packet, and that
    # costs more than the claim. So the rest of the thread's own block comes first, and then the first slot of a block
    # that no thread has begun, if possible of one far away, because processors fetch what comes next before it is
    # wanted. Return the slot, or -1: there may be none left, which only search can tell.
    cdef uint64_t block = cursor // BLOCK_SIZE
    cdef uint64_t block_count = open_blocks(&ledger.free_map)
    cdef uint64_t number = (cursor ^ worker << 32) * <uint64_t>0x9E3779B97F4A7C15
    cdef uint64_t low
    cdef int64_t slot
    cdef uint64_t before, _look
    cdef Look unused
    unused.digest = unused.in_hands = 0
    if block_count <= NEAR_LOOKS:
        return -1       # a small ledger is searched in order, as the reference does it
    if cursor % BLOCK_SIZE != 0:
        slot = take_in(ledger, cursor, min((block + 1) * BLOCK_SIZE, open_slots(&ledger.free_map)), worker, &unused)
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
    # Find the first block from `start` on, or else from the beginning, that may have a free slot, and take its first
    # slot. Return the slot, or -1 if the block has been begun or there is none. *block: the number of the block, or
    # NO_BLOCK.
    cdef Look unused
    cdef uint64_t slot
    cdef int64_t next_block
    unused.digest = unused.in_hands = 0
    next_block = free_map_next(&ledger.free_map, start, &unused.digest)
    if next_block < 0:
        next_block = free_map_next(&ledger.free_map, 0, &unused.digest)
    block[0] = <uint64_t>next_block
    if next_block < 0:
        return -1
    slot = block[0] * BLOCK_SIZE
    return take_in(ledger, slot, slot + 1, worker, &unused)


cdef uint64_t number_view(Ledger *ledger) noexcept nogil:
    global handle_count
    cdef uint64_t handle = hb_fetch_add_relaxed(&handle_count, 1) + 1
    hb_store_relaxed(&ledger.handle, handle)
    return handle


cdef hb_cursor *ledger_cursor(const Ledger *ledger) noexcept nogil:
    # Return this thread's cursor for the ledger, or for another ledger or another worker: the caller looks.
    return hb_cursor_of(hb_load_relaxed(&ledger.handle))


cdef inline int64_t take(Ledger *ledger, uint64_t worker) noexcept nogil:
    # Take a free slot for this worker and return it, or return -1: sold out. Each thread walks blocks of its own
    # choosing, so that two of them seldom want the same cache line. A view is numbered when it first takes a slot:
    # views that only look, which the statistics of a budget make by the dozen, use up no numbers, and the cursors of
    # views that are numbered one after another do not collide.
    cdef uint64_t handle = hb_load_relaxed(&ledger.handle)
    cdef hb_cursor *cursor = hb_cursor_of(handle)
    cdef uint64_t slot, open_count
    cdef Look unused
    cdef int64_t taken
    cdef bint is_new = False
    if cursor.handle != handle or cursor.worker != worker:      # a cursor that was never used has no worker
        if handle == 0:
            # Two threads may do this at once. The number of one of them is then lost, and its place with it, which does
            # no harm: a cursor is only advice.
            handle = number_view(ledger)
            cursor = hb_cursor_of(handle)
        cursor.handle = handle
        cursor.worker = worker
        cursor.slot = first_slot(ledger, worker)
        cursor.late_at = 0
        is_new = True
    slot = cursor.slot
    open_count = open_slots(&ledger.free_map)
    unused.digest = unused.in_hands = 0
    if slot % BLOCK_SIZE == 0:
        # The block that was just left is most likely full. Noting it while it is in the cache keeps the last searches
        # short.
        free_map_mark(&ledger.free_map, ((slot if slot else open_count) - 1) // BLOCK_SIZE)
    taken = take_in(ledger, slot, slot + 1, worker, &unused)
    if taken < 0:
        taken = -1
        # A cursor's first look does not go to begin_block: where each request has a handle of its own, or one thread
        # has more handles than cursors, all requests would look in vain at the same few blocks.
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
    # Return the slot at which a thread begins. Multiples of the golden ratio spread any number of threads evenly over
    # the blocks.
    cdef uint64_t number = (worker & 0xFFF) * 8 + hb_this_thread() - 1
    cdef uint64_t low
    return hb_multiply(number * <uint64_t>0x9E3779B97F4A7C15, open_blocks(&ledger.free_map), &low) * BLOCK_SIZE


# ---- claiming -------------------------------------------------------------------------------------------------------

cdef int ledger_claim(
    Ledger *ledger, uint64_t worker, const UserKey *key, uint64_t now_ms, bint is_closed, Found *found
) noexcept nogil:
    # Claim a slot for the user. Return GRANTED_NOW or REPEATED with the user's slot, SOLD_OUT, CLOSED, NO_MEMORY,
    # NO_SPACE or CORRUPT.
    cdef uint64_t index_state, _attempt, home, position, generation
    cdef uint64_t *table
    cdef Found held             # the slot that this call has taken, and its state; not in the index yet
    cdef bint is_holding = False
    cdef int outcome = PROBE_MOVING
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        index_state = hb_load_acquire(ledger.index.state)
        table = table_at_hand(ledger, index_state)
        if table == NULL:
            if not help_on(ledger, index_state):
                break
            continue
        generation = index_state >> PHASE_BITS
        home = position = home_of(&ledger.index, key)
        while True:     # each turn but the last finds taken a word that was empty before: at most once for every word
            outcome = probe(ledger, key, index_state, table, &position, found)
            if outcome != PROBE_ABSENT:
                break
            if not is_holding:
                answer = hold(ledger, worker, key, is_closed, &held)
                if answer != GRANTED_NOW:
                    # Nothing was free, or the ledger is closed. If the word is still empty, the user had no claim at
                    # that moment. If it is not, another request of the same user may have published there: look again.
                    if answer < 0 or hb_load_acquire(&table[position]) == empty_word(generation):
                        return answer
                    continue
                is_holding = True
            # Where there is no space for the second table, claims go on with the first until no word of it is empty.
            if wants_table(ledger, home, position, now_ms):
                if begin_replacement(ledger, index_state) == 0:
                    outcome = PROBE_MOVING
                    break
                hb_store_private(&ledger.patient_until_ms, now_ms + PATIENCE_MS)
            # Publish: this one CAS is the claim. Release: a thread that reads the word sees key and amount.
            if hb_cas(&table[position], empty_word(generation),
                      entry_prefix(&ledger.index, generation, key) | held.slot):
                # A death here leaves a HELD slot that the index names: a claim. The CAS of make_granted expects the
                # state of this very life of the slot, because by now other threads may have granted it, released it and
                # taken it anew.
                make_granted(ledger, &held, now_ms)
                found[0] = held
                return GRANTED_NOW
            # Somebody published here first: look at what it is.
        if outcome == PROBE_FOUND:
            if slot_kind(found.state) == HELD:
                if ledger.never_was(ledger.file, slot_payload(found.state)):
                    outcome = PROBE_MOVING      # damage
                    break
                make_granted(ledger, found, now_ms)     # before it is answered: ledger_find says why
                if ledger.hold_ms != 0:
                    continue        # another thread may have made it so, and have stood still before that
            elif ledger_is_expired(ledger, found.state):
                if give_back(ledger, worker, key, found) == CORRUPT:
                    outcome = PROBE_MOVING
                    break
                continue
            break
        if outcome == PROBE_CROWDED:
            answer = begin_replacement(ledger, index_state)
            if answer == NO_SPACE and not is_holding:
                # No word is empty, so the user has no claim, and cannot get one before the index is replaced. If
                # nothing is free, or the ledger is closed, the user is told that.
                answer = hold(ledger, worker, key, is_closed, &held)
                is_holding = answer == GRANTED_NOW
                if is_holding:
                    answer = NO_SPACE
                elif answer >= 0 and hb_load_acquire(ledger.index.state) != index_state:
                    continue
            if answer != 0:
                if is_holding:
                    put_back(ledger, &held)
                return answer
        elif hb_load_acquire(ledger.index.state) == index_state:
            break       # words of another generation stand in a table that nobody replaces
    if is_holding:
        put_back(ledger, &held)
    return REPEATED if outcome == PROBE_FOUND else CORRUPT


cdef inline int hold(
    Ledger *ledger, uint64_t worker, const UserKey *key, bint is_closed, Found *held
) noexcept nogil:
    # Take a slot and make it ready to be published. Return GRANTED_NOW, or the reason why not; then nothing is held.
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
    held.state = hb_load_relaxed(&slot.state)   # until it is published no other thread changes it
    answer = ledger.prepare(ledger.context, held.slot, &held.amount)
    if answer != 0:
        put_back(ledger, held)
        return answer
    # A reader that sees the new key also sees the state HELD that came before it: see read_slot.
    hb_fence_release()
    hb_store_relaxed(&slot.user[0], key.low)
    hb_store_relaxed(&slot.user[1], key.high)
    return GRANTED_NOW
