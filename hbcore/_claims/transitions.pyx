"""How a claim ends, and what becomes of its slot: settled, released, lapsed, refunded, or reclaimed from the dead.

The top of ``ledger.pyx`` says what a death leaves, and which thread may act for which.
"""
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.free_map cimport BLOCK_SIZE, free_map_next, free_map_pin, free_map_unpin, open_slots
from hbcore._claims.index cimport (
    ENTRY, PHASE_BITS, Index, empty_word, entry_prefix, home_of, index_is_crowded, index_start_replacement, is_moving,
    table_of, tombstone_word, word_kind,
)
from hbcore._claims.ledger cimport (
    RETRY_LIMIT, help_on, ledger_find, ledger_is_expired, make_granted, read_slot, table_at_hand, time_of_grant,
)
from hbcore._claims.slot cimport (
    FREE, GRANTED, HELD, REFUNDED, RELEASING, SETTLED, slot_generation, slot_kind, slot_payload, slot_state,
)
from hbcore._file.clock cimport hb_now_ms
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport ALREADY_SETTLED, BUSY, CORRUPT, EXPIRED, NOT_FOUND, REPEATED
from hbcore._lib.atomics cimport hb_cas, hb_fence_full, hb_fetch_add_relaxed, hb_load_acquire, hb_store_release

cdef enum:
    SAMPLED_FROM = 4096     # words of an index in which only some tombstones are counted
    SAMPLE_BITS = 4         # one of 16 is

cdef struct Entry:      # where a claim stands in the index
    uint64_t generation
    uint64_t word
    uint64_t *place


# ---- free again -----------------------------------------------------------------------------------------------------

cdef void put_back(Ledger *ledger, const Found *held) noexcept nogil:
    # Give up a slot that this worker holds and has not published. No bit of the free map was set over it.
    hb_cas(&ledger.slots[held.slot].state, held.state, slot_state(FREE, held.state, 0))
    refund_if_closed(ledger, held.slot)


cdef inline void refund_if_closed(Ledger *ledger, uint64_t slot) noexcept nogil:
    # Refund a slot that was just freed if the ledger is closed. The closer closes first and looks at the slots then.
    # Either it sees the slot free, or this load sees that the ledger is closed: the fence puts the load after the CAS
    # that freed the slot.
    hb_fence_full()
    if hb_load_acquire(ledger.closed) != 0:
        ledger_refund(ledger, slot)
        # Relaxed suffices only because of the fence above: a closer that has read this count sees the slot as it was at
        # the fence, free, or later. So the closer refunds the slot, or sees it refunded (envelope.pyx: Envelope.end).
        hb_fetch_add_relaxed(ledger.late_refunds, 1)


cdef void ledger_refund(Ledger *ledger, uint64_t slot) noexcept nogil:
    # Make a free slot of a closed ledger REFUNDED.
    cdef uint64_t state = hb_load_acquire(&ledger.slots[slot].state)
    while slot_kind(state) == FREE:     # a CAS fails only because another thread has taken or refunded the slot
        if hb_cas(&ledger.slots[slot].state, state, slot_state(REFUNDED, state, 0)):
            return
        state = hb_load_acquire(&ledger.slots[slot].state)


# ---- settling, releasing, lapsing ------------------------------------------------------------------------------------

cdef int ledger_look(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil:
    # Find the user's claim as ledger_find does, but give back what has lapsed before any caller is told that it is
    # gone: a settle that is under way then fails. The answer is never EXPIRED.
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
    # Make the user's claim final. Return REPEATED with the slot, NOT_FOUND or CORRUPT. The time of the grant is kept.
    cdef uint64_t _attempt
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        answer = ledger_look(ledger, worker, key, found)
        if answer != REPEATED or slot_kind(found.state) == SETTLED:
            return answer
        # settle, release and lapse race on this one CAS: exactly one of them wins
        if hb_cas(&ledger.slots[found.slot].state, found.state,
                  slot_state(SETTLED, found.state, slot_payload(found.state))):
            return REPEATED
    return CORRUPT


cdef int ledger_release(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil:
    # Give the user's packet back. Return REPEATED with the slot that was released, NOT_FOUND, ALREADY_SETTLED or
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
    # Take a slot from GRANTED, as found, to FREE. Return REPEATED, BUSY if another thread has changed the slot, or
    # CORRUPT.
    cdef uint64_t releasing = slot_state(RELEASING, found.state, worker)
    # From here on no bit may lie over the slot, so that it can be seen if this worker dies.
    free_map_pin(&ledger.free_map, found.slot // BLOCK_SIZE)
    # settle, release and lapse race on this one CAS: exactly one of them wins
    if hb_cas(&ledger.slots[found.slot].state, found.state, releasing):
        return REPEATED if finish_release(ledger, key, found.slot, releasing) else CORRUPT
    free_map_unpin(&ledger.free_map, found.slot // BLOCK_SIZE)
    return BUSY


cdef bint ledger_expire(Ledger *ledger, uint64_t worker, uint64_t slot, uint64_t *next_expiry) noexcept nogil:
    # Give the slot back if its claim has lapsed, and return whether this call did. If it is granted and has not lapsed,
    # lower *next_expiry to the time at which it will.
    cdef Found found
    cdef UserKey key
    cdef int answer
    if not read_slot(&ledger.slots[slot], &key, &found.state):
        return False
    if slot_kind(found.state) == HELD:
        # If it is published, its time begins now: its thread may stand still before it makes its group GRANTED.
        answer = ledger_find(ledger, &key, &found)
        if answer != REPEATED and answer != EXPIRED or found.slot != slot:
            return False
    if slot_kind(found.state) != GRANTED:
        return False
    if not ledger_is_expired(ledger, found.state):
        next_expiry[0] = min(next_expiry[0], slot_payload(found.state) + ledger.hold_ms + 1)
        return False
    found.slot = slot
    return give_back(ledger, worker, &key, &found) == REPEATED


cdef bint expire_due(Ledger *ledger, uint64_t worker, uint64_t hint, bint *may_expire) noexcept nogil:
    # Give back what has lapsed, where a look found nothing free. hint: the value of next_expiry from before that look.
    # Return False if nothing had lapsed then. True means look again, also if it was other threads that gave something
    # back: one of them may have done so since the look, and a claim must not be told SOLD_OUT over it. The hint keeps
    # this from being done by every claim that is told SOLD_OUT; because of the hint, a claim that was granted while its
    # thread stood still can be found late.
    # *may_expire becomes False where nothing had lapsed: then one more look is enough. Where claims lapse in less time
    # than going through the slots takes, the hint is always in the past, and without this the looking would have no
    # end.
    cdef uint64_t slot, next_expiry
    if time_of_grant(ledger) < hint:
        return False
    may_expire[0] = False
    next_expiry = time_of_grant(ledger) + ledger.hold_ms
    for slot in range(open_slots(&ledger.free_map)):
        may_expire[0] = ledger_expire(ledger, worker, slot, &next_expiry) or may_expire[0]
    hb_store_release(ledger.next_expiry, next_expiry)
    return True


cdef bint finish_release(Ledger *ledger, const UserKey *key, uint64_t slot, uint64_t releasing) noexcept nogil:
    # Take a slot from RELEASING to FREE, in an order that lets any thread go on where a death stopped it: every step
    # may be repeated, by several threads at once. Return False only in a damaged file.
    # 1. No index word may name the slot: a word that outlived its claim would publish the slot's next holder by itself.
    if not bury(ledger, key, slot, releasing):
        return False
    # 2. Make it FREE. Only now can any other thread write to the slot. The thread that frees it takes the releaser's
    # pin away.
    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):
        free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)
        refund_if_closed(ledger, slot)
    # 3. Replace the index table when tombstones crowd it: the thread that notices does the work.
    relieve(ledger)
    return True


cdef int locate(Ledger *ledger, const UserKey *key, uint64_t slot, Entry *entry) noexcept nogil:
    # Find the index word that names this slot for this user. Return REPEATED with the word, NOT_FOUND if at some moment
    # there was none, or CORRUPT.
    cdef Index *index = &ledger.index
    cdef uint64_t _attempt, index_state, position, word, _step
    cdef uint64_t *table
    cdef bint was_moving
    for _attempt in range(RETRY_LIMIT):
        index_state = hb_load_acquire(index.state)
        table = table_at_hand(ledger, index_state)
        if table == NULL:
            if not help_on(ledger, index_state):
                return CORRUPT
            continue
        entry.generation = index_state >> PHASE_BITS
        entry.word = entry_prefix(index, entry.generation, key) | slot
        position = home_of(index, key)
        was_moving = False
        for _step in range(index.word_count):
            word = hb_load_acquire(&table[position])
            if word == entry.word:
                entry.place = &table[position]
                return REPEATED
            if word == empty_word(entry.generation):
                break
            if word_kind(word) != ENTRY and word != tombstone_word(entry.generation):
                was_moving = True
                break
            position += 1
            if position == index.word_count:
                position = 0
        # Until a replacement begins, entries stay where they are. If the state is still the same, this table was the
        # only one all the while.
        if hb_load_acquire(index.state) == index_state:
            return CORRUPT if was_moving else NOT_FOUND
    return CORRUPT


cdef bint bury(Ledger *ledger, const UserKey *key, uint64_t slot, uint64_t releasing) noexcept nogil:
    # Make the index word of a RELEASING slot a tombstone, in whichever table it is. Return False only in a damaged
    # file.
    cdef uint64_t _attempt
    cdef Entry entry
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        answer = locate(ledger, key, slot, &entry)
        if answer != REPEATED:
            return answer == NOT_FOUND      # another thread has buried it
        # A thread that goes on for the dead may have been overtaken: then the word belongs to a later claim of the same
        # user in the same slot. While the slot is still in this state, the word that was just read is this claim's.
        if hb_load_acquire(&ledger.slots[slot].state) != releasing:
            return True
        if hb_cas(entry.place, entry.word, tombstone_word(entry.generation)):
            count_tombstone(&ledger.index, slot, releasing)
            return True
        # The word is frozen, or another thread has buried it.
    return False


cdef inline void count_tombstone(Index *index, uint64_t slot, uint64_t state) noexcept nogil:
    # Count the tombstone of a slot that is being released in this state. In a large index one release in 16 counts for
    # all, drawn by slot and generation: the count is a hint, and every release of every process would want its line.
    if index.word_count < SAMPLED_FROM:
        hb_fetch_add_relaxed(index.tombstones, 1)
    elif (slot << 19 | slot_generation(state)) * <uint64_t>0x9E3779B97F4A7C15 >> (64 - SAMPLE_BITS) == 0:
        hb_fetch_add_relaxed(index.tombstones, 1 << SAMPLE_BITS)


cdef void relieve(Ledger *ledger) noexcept nogil:
    # Replace the index if tombstones crowd it and it has its second table. If it has not, a claim that goes far does
    # it, or one that finds no empty word: a release must not fail for want of space.
    cdef Index *index = &ledger.index
    cdef uint64_t state = hb_load_acquire(index.state)
    cdef uint64_t generation = state >> PHASE_BITS
    if not index_is_crowded(index):
        return
    if table_of(index, 1) == NULL and ledger.meet(ledger.context, False) != 0:
        return
    if not is_moving(state):
        index_start_replacement(index, state)
    state = hb_load_acquire(index.state)
    while state >> PHASE_BITS == generation and is_moving(state):
        if not help_on(ledger, state):
            return      # damage: the next claim will say so
        state = hb_load_acquire(index.state)


# ---- what the dead have left ----------------------------------------------------------------------------------------

cdef void reclaim_all(Ledger *ledger) noexcept nogil:
    # Reclaim every slot of dead workers. None of these slots lies under a bit of the free map.
    cdef uint64_t slot, end
    cdef uint64_t unused = 0
    cdef int64_t block = free_map_next(&ledger.free_map, 0, &unused)
    while block >= 0:       # the block rises with every turn
        slot = <uint64_t>block * BLOCK_SIZE
        end = min(slot + BLOCK_SIZE, open_slots(&ledger.free_map))
        while slot < end:
            ledger_reclaim(ledger, slot)
            slot += 1
        block = free_map_next(&ledger.free_map, <uint64_t>block + 1, &unused)


cdef void ledger_reclaim(Ledger *ledger, uint64_t slot) noexcept nogil:
    # If the slot is in the hands of a dead worker, finish what it has decided and give back what it has not. Any number
    # of threads may do this at once, and die at it: each last step is one CAS from the state that was read.
    cdef uint64_t state = hb_load_acquire(&ledger.slots[slot].state)
    cdef int kind = slot_kind(state)
    cdef UserKey key
    cdef Found found
    cdef Entry entry
    cdef int answer
    if kind != HELD and kind != RELEASING or not ledger.is_dead(ledger.file, slot_payload(state)):
        return
    # The key is read only now that the worker is known to be dead: what it wrote in its last moment is there, and
    # nothing will follow. If the slot is not in this state any more, another thread has reclaimed it.
    if not read_slot(&ledger.slots[slot], &key, &found.state) or found.state != state:
        return
    if kind == RELEASING:
        finish_release(ledger, &key, slot, state)
        return
    # A key that is only half written belongs to no index word. Where no index word names the slot, there is no claim:
    # nobody was answered, and the dead worker cannot publish any more.
    answer = locate(ledger, &key, slot, &entry)
    found.slot = slot
    if answer == REPEATED:
        make_granted(ledger, &found, hb_now_ms())
    elif answer == NOT_FOUND and hb_cas(&ledger.slots[slot].state, state, slot_state(FREE, state, 0)):
        refund_if_closed(ledger, slot)
