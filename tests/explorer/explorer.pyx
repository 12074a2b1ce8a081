"""The explorer: every interleaving and every death of a few ledger operations, in miniature.

It is compiled against an instrumented build of hbcore's own sources (see ``build.py``). After each schedule the answers
must be those of some order of the operations that respects what ended before what began (linearizability, Herlihy and
Wing 1990), the final state must be that of the same order, and the ledger's own invariants must hold. What each
operation must answer stands in ``ledger_book.pxd``.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from common cimport (
    OPERATION_LIMIT, Search, explore_alone, explore_began, explore_clock_ms, explore_died, explore_died_at,
    explore_ended, explore_run, explore_set_clock, explore_set_sizes, explore_steps, explore_watch, hb_schedule,
    search_begin, search_goes_on, search_result,
)
from hbcore._claims.claim cimport hb_cursor, ledger_claim, ledger_cursor
from hbcore._claims.free_map cimport BLOCK_SIZE, FAN_OUT, free_map_hides, free_map_open, free_map_opened, open_slots
from hbcore._claims.group cimport ClaimRow, Plain, ledger_claim_plain
from hbcore._claims.index cimport ENTRY, PHASE_BITS, index_table_size, slot_mask, table_of, word_kind
from hbcore._claims.ledger cimport (
    Found, Ledger, ledger_attach, ledger_find, ledger_is_expired, ledger_read, ledger_scan, ledger_size,
)
from hbcore._claims.slot cimport FREE, GRANTED, HELD, REFUNDED, RELEASING, SETTLED, slot_kind, slot_payload
from hbcore._claims.transitions cimport ledger_reclaim, ledger_refund, ledger_release, ledger_settle
from hbcore._file.process cimport hb_file
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport CLOSED, CORRUPT, GRANTED_NOW, NOT_FOUND, NO_SPACE, REPEATED, SOLD_OUT
from hbcore._lib.atomics cimport hb_cas, hb_load_acquire, hb_store_private, hb_store_release
from ledger_book cimport (
    CLAIM, CLOSE, END, EXPIRE, FIND, OPEN, READ, RECLAIM, RELEASE, SCAN, SETTLE, USER_LIMIT, Book, Operation, apply,
    apply_dead,
)

cdef enum:
    SLOT_LIMIT = 8
    BEFORE_LIMIT = 16
    START_MS = 1000
    HOLD_MS = 10
    NOBODY = 98         # the worker that is dead from the beginning
    PIN_SHIFT = 32      # as in free_map.pyx
    PIN_LIMIT = 255

    # When an operation of before dies: never, or as soon as ...
    LIVES = 0
    HOLDING = 1         # ... it holds a slot
    PINNING = 2         # ... it has pinned a block
    LEAVING = 3         # ... its slot is RELEASING
    APPENDING = 4       # ... a part is appended

    MADE = 0            # the second table is there from the beginning
    TO_MAKE = 1         # a claim makes it
    NO_ROOM = 2         # there is no space for it, until all is over

    MAP_SIZE = 64       # bytes of the free map, with what is left of its line

# "claims" is a batch of two claims, of the user and of the next; "plain" a batch of one.
KINDS = {"claim": CLAIM, "claims": CLAIM, "plain": CLAIM, "release": RELEASE, "settle": SETTLE, "find": FIND,
         "close": CLOSE, "reclaim": RECLAIM, "expire": EXPIRE, "open": OPEN, "end": END, "read": READ, "scan": SCAN}
TABLES = {"made": MADE, "to make": TO_MAKE, "no room": NO_ROOM}
DEATHS = {"holding": HOLDING, "pinning": PINNING, "leaving": LEAVING, "appending": APPENDING}

cdef Ledger ledger
cdef char *memory = NULL        # free map, first table, slots, second table
cdef uint64_t memory_size = 0
# Closed, index state, tombstones, next expiry, late refunds, open and cleared count; the late refunds that the budget
# knows of, plus 1; and whether the second table of the index was made.
cdef uint64_t shared[9]
cdef int table_is               # where it is now, as TABLES has it
cdef uint64_t told              # refunded slots that the budget knows of
cdef int ends[4]                # where the parts of the slots end
cdef uint64_t hold_ms
cdef uint64_t slot_count
cdef bint is_colliding
cdef bint is_refusing
cdef bint is_growing
cdef uint64_t appended          # in a growing ledger, so many of the further parts are there
cdef Operation operations[2 * OPERATION_LIMIT]     # the first of each fiber, and then the second claims of batches
cdef int operation_count        # with them
cdef int fiber_count
cdef uint64_t view              # handles are numbered anew for each schedule
cdef Book opening
cdef uint64_t opening_pins[SLOT_LIMIT]      # of each word of blocks, those that nobody will take away
cdef int opening_deaths
cdef uint64_t pins_wanted                   # of the search's arguments
cdef int table_before                       # ... likewise
cdef Operation *dying                       # the operation of before that is to die
cdef uint64_t free_at_death[SLOT_LIMIT]     # the slots that were FREE when an operation died; 0: not
cdef bint had_refund_at_death
cdef bint had_no_reason                     # a claim was told SOLD_OUT while something was free all the time
cdef long nothing_free_at                   # the last step at which no slot was free; 0: none yet
# Where claims lapse: the state in which each slot was HELD and named by an index word, and the time then.
cdef uint64_t named_state[SLOT_LIMIT]
cdef uint64_t named_ms[SLOT_LIMIT]


cdef int prepare(void *context, uint64_t slot, int64_t *amount) noexcept nogil:
    # In a refusing ledger what is taken after the close is not made fit to be granted, as a stratum that was refunded.
    return CLOSED if is_refusing and hb_load_acquire(&shared[0]) else 0


cdef bint is_dead(const hb_file *file, uint64_t worker) noexcept nogil:
    # The worker of fiber i is i + 1; others did what was before, or look afterwards.
    return worker == NOBODY or 1 <= worker <= <uint64_t>fiber_count and explore_died(<int>worker - 1)


cdef void died(int fiber) noexcept nogil:
    # What was free at this moment, or refunded, may be so by the one that dies, and nobody else has to know of it.
    global had_refund_at_death
    cdef uint64_t i, state
    for i in range(slot_count):
        state = ledger.slots[i].state
        if slot_kind(state) == FREE:
            free_at_death[i] = state | <uint64_t>1 << 63        # a bit that FREE does not have
        had_refund_at_death = had_refund_at_death or slot_kind(state) == REFUNDED


cdef void stepped() noexcept nogil:
    # Note a moment at which SOLD_OUT is true: no slot is free, has expired, or is in the hands of the dead.
    global nothing_free_at
    cdef uint64_t i, state
    cdef int kind
    if hold_ms:
        note_names()
    for i in range(shared[5]):
        state = ledger.slots[i].state
        kind = slot_kind(state)
        if (kind == FREE or (kind == HELD or kind == RELEASING) and is_dead(NULL, slot_payload(state))
                or hold_ms and kind == GRANTED and explore_clock_ms > slot_payload(state) + hold_ms):
            return
    nothing_free_at = explore_steps()


cdef void note_names() noexcept nogil:
    # Note each slot that is HELD and named by now. It is a claim, and its time must not begin before this.
    cdef uint64_t i, slot, word
    for i in range(ledger.index.word_count):
        word = table_of(&ledger.index, shared[1] >> PHASE_BITS)[i]
        slot = word & slot_mask(&ledger.index)
        if (word_kind(word) == ENTRY and slot_kind(ledger.slots[slot].state) == HELD
                and ledger.slots[slot].state != named_state[slot]):
            named_state[slot] = ledger.slots[slot].state
            named_ms[slot] = explore_clock_ms


cdef bint is_cut_short(uint64_t slot) noexcept nogil:
    # Whether the claim of the slot was granted with a time before it was published.
    cdef uint64_t state = ledger.slots[slot].state
    return (slot_kind(state) == GRANTED and named_state[slot] >> 42 << 45 == state >> 42 << 45
            and slot_payload(state) < named_ms[slot])


cdef uint64_t pins_of(uint64_t word) noexcept nogil:
    return word >> PIN_SHIFT & PIN_LIMIT


cdef uint64_t block_words() noexcept nogil:
    # How many words there are whose bits are blocks.
    return (slot_count - 1) // (BLOCK_SIZE * FAN_OUT) + 1


cdef bint is_time() noexcept nogil:
    # Whether the dying operation of before has come to where it dies.
    cdef uint64_t i
    cdef int kind
    for i in range(slot_count):
        kind = slot_kind(ledger.slots[i].state)
        if slot_payload(ledger.slots[i].state) == NOBODY:
            if dying.death == HOLDING and kind == HELD or dying.death == LEAVING and kind == RELEASING:
                return True
    if dying.death == APPENDING and appended:
        return True
    for i in range(block_words()):
        if dying.death == PINNING and pins_of(ledger.free_map.levels[0][i]) > opening_pins[i]:
            return True
    return False


cdef int meet(void *context, bint may_make) noexcept nogil:
    # What an envelope does: make the second table if it must, and let the view know it.
    if hb_load_acquire(&shared[8]) == 0:
        if not may_make:
            return NOT_FOUND
        if table_is == NO_ROOM:
            return NO_SPACE
        hb_cas(&shared[8], 0, 1)
    hb_store_private(&ledger.index.tables[1], <uint64_t>(memory + MAP_SIZE + ledger_size(slot_count)))
    return 0


cdef bint never_was(const hb_file *file, uint64_t worker) noexcept nogil:
    return False


cdef UserKey key_of(int user) noexcept nogil:
    cdef UserKey key
    if is_colliding:    # one path and one tag for all
        key.low = 1 << 20 ^ user
        key.high = <uint64_t>user << 32
    else:
        key.low = <uint64_t>(user + 1) * <uint64_t>0x9E3779B97F4A7C15
        key.high = <uint64_t>(user + 1) * <uint64_t>0xC2B2AE3D27D4EB4F
    return key


cdef void operate(void *argument) noexcept nogil:
    cdef Operation *operation = <Operation *>argument
    cdef UserKey key = key_of(operation.user)
    cdef UserKey slot_key
    cdef Found found
    cdef uint64_t i
    found.slot = <uint64_t>-1
    if operation.kind == CLAIM and operation.is_plain:
        claim_batch(operation)
        return
    if operation.kind == CLAIM:
        operation.answer = ledger_claim(&ledger, operation.worker, &key, 5, shared[0] != 0, &found)
    elif operation.kind == RELEASE:
        operation.answer = ledger_release(&ledger, operation.worker, &key, &found)
    elif operation.kind == SETTLE:
        operation.answer = ledger_settle(&ledger, operation.worker, &key, &found)
    elif operation.kind == FIND:
        operation.answer = ledger_find(&ledger, &key, &found)
    elif operation.kind == SCAN:
        operation.answer = ledger_scan(&ledger, &key, &found)
    elif operation.kind == RECLAIM:
        for i in range(slot_count):
            ledger_reclaim(&ledger, i)
        operation.answer = 0
    elif operation.kind == OPEN:
        if is_growing:
            hb_cas(&appended, <uint64_t>operation.user - 1, <uint64_t>operation.user)
            grow(NULL)
        else:
            for i in range(<uint64_t>operation.user):
                free_map_open(&ledger.free_map, ends[i], ends[i + 1])
        operation.answer = 0
    elif operation.kind == EXPIRE:
        # The clock moves on at any step of the others.
        hb_schedule("clock", &explore_clock_ms)
        explore_set_clock(START_MS + HOLD_MS + 1)
        operation.answer = 0
    elif operation.kind == END:
        end()
        operation.answer = 0
    elif operation.kind == READ:
        operation.answer = slot_kind(ledger_read(&ledger, <uint64_t>operation.user, 5, &slot_key))
        operation.slot = -1
        for i in range(USER_LIMIT):
            key = key_of(<int>i)
            if key.low == slot_key.low and key.high == slot_key.high:
                operation.slot = <int64_t>i
        return
    else:
        shared[0] = 1
        for i in range(slot_count):
            ledger_reclaim(&ledger, i)
            ledger_refund(&ledger, i)
        operation.answer = 0
    answer_is(operation, found.slot)


cdef void answer_is(Operation *operation, uint64_t slot) noexcept nogil:
    global had_no_reason
    operation.slot = <int64_t>slot if operation.answer in (GRANTED_NOW, REPEATED) else -1
    if operation.answer == SOLD_OUT and 1 <= operation.worker <= <uint64_t>fiber_count:
        stepped()
        had_no_reason = had_no_reason or nothing_free_at < explore_began(<int>operation.worker - 1)


cdef void claim_batch(Operation *operation) noexcept nogil:
    # Do what deck_claim_many does with a batch of one or two. The thread's cursor stands at a slot that was free a
    # moment ago, if any was.
    cdef Operation *second = &operations[operation.follower] if operation.follower else NULL
    cdef Operation *one
    cdef UserKey keys[2]
    cdef ClaimRow rows[2]
    cdef Plain plain
    cdef Found found
    cdef hb_cursor *cursor = ledger_cursor(&ledger)
    cdef Py_ssize_t count = 2 if operation.follower else 1
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t count_plain
    cdef bint is_plain = shared[0] == 0
    memset(&plain, 0, sizeof(plain))
    plain.amounts.mask = <uint64_t>-1       # all amounts are 0, and nothing of their words is a check
    plain.end = slot_count
    keys[0] = key_of(operation.user)
    keys[1] = key_of(operation.user + 1)
    cursor.handle = ledger.handle
    cursor.worker = operation.worker
    cursor.late_at = cursor.slot = 0
    while cursor.slot < slot_count - 1 and slot_kind(ledger.slots[cursor.slot].state) != FREE:
        cursor.slot += 1
    while True:
        if is_plain:
            count_plain = ledger_claim_plain(
                &ledger, &plain, operation.worker, &keys[i], count - i, 5, &rows[i]
            )
            while count_plain:
                one = second if i else operation
                one.answer = <int>rows[i].status
                answer_is(one, <uint64_t>rows[i].packet)
                count_plain -= 1
                i += 1
        if i == count:
            return
        one = second if i else operation
        found.slot = <uint64_t>-1
        one.answer = ledger_claim(&ledger, operation.worker, &keys[i], 5, shared[0] != 0, &found)
        answer_is(one, found.slot)
        is_plain = one.answer == GRANTED_NOW
        i += 1
        if i == count:
            return


cdef void grow(void *context) noexcept nogil:
    # What a deck does: open all parts that there are, also those that a death has kept from being opened.
    cdef uint64_t i
    for i in range(hb_load_acquire(&appended)):
        free_map_open(&ledger.free_map, ends[i], ends[i + 1])


cdef uint64_t all_slots() noexcept nogil:
    # When all is over: so many can be claimed, or have been.
    return <uint64_t>ends[appended] if is_growing else open_slots(&ledger.free_map)


cdef void end() noexcept nogil:
    global told
    cdef uint64_t i
    cdef uint64_t late = hb_load_acquire(&shared[4]) + 1
    cdef uint64_t refunded = 0
    hb_cas(&shared[0], 0, 1)
    for i in range(slot_count):
        ledger_reclaim(&ledger, i)
        ledger_refund(&ledger, i)
    for i in range(slot_count):
        refunded += slot_kind(hb_load_acquire(&ledger.slots[i].state)) == REFUNDED
    hb_schedule("tell", &told)
    told = max(told, refunded)
    hb_store_release(&shared[7], late)


cdef bint overlaps(int i, int j) noexcept nogil:
    # Whether operation j overlaps operation i. One that is dead has ended: what it leaves in hand must not be missed by
    # anybody who comes later.
    cdef long end
    cdef int mine = operations[i].fiber
    cdef int other = operations[j].fiber
    if i == j or explore_began(other) < 0:
        return False
    end = explore_died_at(other) if explore_died(other) else explore_ended(other)
    return not (0 <= end < explore_began(mine)) and explore_began(other) < explore_ended(mine)


cdef bint may_come_next(int i, int placed) noexcept nogil:
    # Whether operation i can be the next in an order: none of those that are not placed yet ended before i began. The
    # two claims of a batch may come in either order.
    cdef int j
    cdef long ended
    for j in range(operation_count):
        ended = explore_ended(operations[j].fiber)
        if (operations[j].fiber != operations[i].fiber and not placed >> j & 1 and ended >= 0
                and ended < explore_began(operations[i].fiber)):
            return False
    return True


cdef bint is_holding(int j, bint is_placed) noexcept nogil:
    # Whether operation j may have had a packet in hand that the book calls free. is_placed: its effect is in the book.
    cdef int kind = operations[j].kind
    if kind == CLAIM:
        if is_placed and (explore_died(operations[j].fiber) or operations[j].answer == GRANTED_NOW):
            return False        # its packet is not free
        return is_refusing or explore_died(operations[j].fiber) or operations[j].answer != SOLD_OUT
    if kind == RELEASE and is_placed:
        return True
    return hold_ms != 0 and kind in (RELEASE, SETTLE)       # they give back what has expired


cdef int holders(int i, int placed) noexcept nogil:
    # How many packets may have been in hands, and free in the book, while operation i looked. placed: the bits of the
    # operations before it.
    cdef int j
    cdef int count = 0
    for j in range(operation_count):
        count += overlaps(i, j) and is_holding(j, placed >> j & 1)
    return count


cdef bint is_beside_close(int i) noexcept nogil:
    cdef int j
    for j in range(operation_count):
        if operations[j].kind in (CLOSE, END) and overlaps(i, j):
            return True
    return False


cdef bint explained(const Book *book, int placed, const Book *final) noexcept nogil:
    # Whether the rest of the operations, in some order, gives all answers and the final state.
    cdef Book next
    cdef int i, user
    cdef int64_t slot
    cdef bint is_done = True
    for i in range(operation_count):
        if placed >> i & 1:
            continue
        if explore_died(operations[i].fiber) or explore_began(operations[i].fiber) < 0:
            # Dead: it took effect at some point, or never.
            if explore_began(operations[i].fiber) >= 0 and may_come_next(i, placed):
                for slot in range(<int64_t>slot_count):
                    next = book[0]
                    apply_dead(&next, &operations[i], slot)
                    if explained(&next, placed | 1 << i, final):
                        return True
                    if operations[i].kind != CLAIM and operations[i].kind != OPEN:
                        break
            continue
        is_done = False
        if may_come_next(i, placed):
            next = book[0]
            if (apply(&next, &operations[i], holders(i, placed), is_beside_close(i))
                    and explained(&next, placed | 1 << i, final)):
                return True
    if not is_done:
        return False
    if book.open_count != final.open_count:
        return False
    for user in range(USER_LIMIT):
        if book.users[user].state != final.users[user].state:
            return False
        if book.users[user].state and book.users[user].slot != final.users[user].slot:
            return False
    return book.free_count == final.free_count


cdef const char *check_refunds() noexcept nogil:
    # Nobody counts again if the number of late refunds is as it was; so nothing was refunded since, but by one that has
    # died before it could raise the number: the next close, sweep or audit counts that.
    cdef uint64_t i
    cdef uint64_t refunded = 0
    for i in range(slot_count):
        refunded += slot_kind(ledger.slots[i].state) == REFUNDED
    if shared[7] == shared[4] + 1 and told != refunded and not had_refund_at_death:
        return b"what was refunded after the close is told to nobody"
    return NULL


cdef const char *check_after_deaths() noexcept nogil:
    # What the dead have left is put right by whoever comes next: a search does it, and then a close.
    cdef Operation after
    cdef const char *wrong
    cdef uint64_t i
    after.kind = RECLAIM
    operate(&after)
    free_map_opened(&ledger.free_map)
    if shared[0] == 0:
        return NULL
    for i in range(open_slots(&ledger.free_map)):
        if (slot_kind(ledger.slots[i].state) == FREE
                and free_at_death[i] != (ledger.slots[i].state | <uint64_t>1 << 63)):
            return b"a slot that was freed after the close was not refunded"
    wrong = check_refunds()
    after.kind = CLOSE
    operate(&after)
    return wrong


cdef const char *check_pins(int deaths) noexcept nogil:
    # A death leaves one pin at most, and nobody takes away the pin of another.
    cdef uint64_t i, count
    cdef uint64_t more = 0
    for i in range(block_words()):
        count = pins_of(ledger.free_map.levels[0][i])
        if count < opening_pins[i]:
            return b"somebody has taken away a pin that was not its own"
        if count != PIN_LIMIT:      # there it stays
            more += count - opening_pins[i]
    if more > <uint64_t>deaths:
        return b"the living have left a pin"
    return NULL


cdef const char *check() noexcept nogil:
    # What is wrong after a run, or NULL.
    cdef Book final
    cdef Found found
    cdef UserKey key
    cdef Operation probe
    cdef const char *wrong
    cdef uint64_t i, generation, word, taken
    cdef int user, kind
    cdef int deaths = opening_deaths
    global table_is
    cdef int named[SLOT_LIMIT]      # index words that name each slot
    memset(named, 0, sizeof(named))
    for i in range(<uint64_t>fiber_count):
        deaths += explore_died(<int>i)
    for i in range(<uint64_t>operation_count):
        if not explore_died(operations[i].fiber) and operations[i].answer == CORRUPT:
            return b"an operation calls the ledger damaged"
    if had_no_reason:
        return b"a claim was told SOLD_OUT, and at every moment a slot was free"
    wrong = NULL
    if deaths:
        wrong = check_after_deaths()
    if wrong == NULL:
        wrong = check_pins(deaths)
    if wrong == NULL and deaths == 0:
        wrong = check_refunds()
    if wrong != NULL:
        return wrong
    final.free_count = 0
    final.open_count = <int>all_slots()
    final.is_closed = shared[0] != 0
    for i in range(all_slots()):
        kind = slot_kind(ledger.slots[i].state)
        if hold_ms and is_cut_short(i):
            return b"the time of a claim was cut short"
        if kind == FREE:
            if final.is_closed:
                return b"a free slot was left when the ledger closed"
            final.free_count += 1
            if i < open_slots(&ledger.free_map) and free_map_hides(&ledger.free_map, i):
                return b"a free slot lies under a set bit of the free map: it is stranded"
        elif ledger_is_expired(&ledger, ledger.slots[i].state):
            final.free_count += not final.is_closed     # for whoever asks for it
        elif kind == HELD or kind == RELEASING:
            return b"a slot was left in somebody's hands"
    if shared[1] & ((1 << PHASE_BITS) - 1) == 0:
        generation = shared[1] >> PHASE_BITS
        for i in range(ledger.index.word_count):
            word = table_of(&ledger.index, generation)[i]
            if word_kind(word) == ENTRY:
                kind = slot_kind(ledger.slots[word & slot_mask(&ledger.index)].state)
                if kind == FREE or kind == REFUNDED:
                    return b"an index word names a slot that nobody holds"
                named[word & slot_mask(&ledger.index)] += 1
        for i in range(slot_count):
            kind = slot_kind(ledger.slots[i].state)
            if named[i] > 1 or (named[i] == 0 and (kind == GRANTED or kind == SETTLED)):
                return b"a claim is not named by exactly one index word"
    for user in range(USER_LIMIT):
        key = key_of(user)
        final.users[user].state = 0
        if ledger_find(&ledger, &key, &found) == REPEATED:
            final.users[user].state = 2 if slot_kind(found.state) == SETTLED else 1
            final.users[user].slot = <int64_t>found.slot
    if not explained(&opening, 0, &final):
        return b"no order of the operations explains the answers and the state"
    # Everything that is free can be claimed, to the last slot; and no user's claim moves.
    table_is = table_is if table_is != NO_ROOM else TO_MAKE
    probe.kind = CLAIM
    probe.is_plain = False
    probe.worker = 77
    taken = 0
    for user in range(100, 100 + <int>slot_count + 1):
        probe.user = user
        operate(&probe)
        if probe.answer != GRANTED_NOW:
            break
        taken += 1
    if not final.is_closed and (probe.answer != SOLD_OUT or taken != <uint64_t>final.free_count):
        return b"not every free slot can be claimed"
    if taken:
        # The last one again, behind the place where its worker would go on.
        probe.user -= 1
        probe.kind = RELEASE
        operate(&probe)
        probe.kind = CLAIM
        operate(&probe)
        if probe.answer != GRANTED_NOW:
            return b"a slot that was just released cannot be claimed"
    for user in range(USER_LIMIT):
        key = key_of(user)
        if (ledger_find(&ledger, &key, &found) == REPEATED) != (final.users[user].state != 0):
            return b"a claim came or went by itself"
        if final.users[user].state and <int64_t>found.slot != final.users[user].slot:
            return b"a claim has moved"
    return NULL


cdef void do_before(Operation *operation) noexcept nogil:
    # Do an operation in the specification and in the ledger, or begin it there and die.
    global dying, opening_deaths
    if operation.death == LIVES:
        operation.worker = 99
        operate(operation)
    else:
        operation.worker = NOBODY
        dying = operation
        if not explore_alone(operate, operation, is_time):
            opening_deaths = 100    # it was not to be: no scenario has so many
        opening_deaths += 1
        operation.answer = REPEATED
        if operation.death == PINNING:
            opening_pins[opening.users[operation.user].slot // (BLOCK_SIZE * FAN_OUT)] += 1
        elif operation.death == LEAVING or operation.death == APPENDING:
            apply_dead(&opening, operation, SLOT_LIMIT)
        return
    if operation.user < USER_LIMIT:
        apply(&opening, operation, 0, False)
    elif operation.kind == CLAIM and operation.answer == GRANTED_NOW:
        opening.free_count -= 1
    elif operation.kind == RELEASE and operation.answer == REPEATED:
        opening.free_count += 1


cdef void reset(const Operation *before, int before_count) noexcept nogil:
    global appended, told, opening_deaths, had_refund_at_death, had_no_reason, nothing_free_at, view, table_is
    cdef Operation operation
    cdef int i, user
    memset(free_at_death, 0, sizeof(free_at_death))
    memset(named_state, 0, sizeof(named_state))
    had_refund_at_death = had_no_reason = False
    nothing_free_at = 0
    appended = told = opening_deaths = 0
    memset(memory, 0, memory_size)
    memset(shared, 0, sizeof(shared))
    shared[5] = shared[6] = ends[0]
    shared[8] = table_before == MADE
    table_is = table_before
    explore_set_clock(START_MS)
    ledger_attach(
        &ledger, <uint64_t *>memory, memory + MAP_SIZE, slot_count, &shared[0], &shared[1], &shared[2]
    )
    for i in range(fiber_count):
        if operations[i].is_plain:
            view += 1
            ledger.handle = <uint64_t>1 << 40 | view
    ledger.free_map.open_count = &shared[5]
    ledger.free_map.cleared_count = &shared[6]
    ledger.prepare = prepare
    ledger.meet = meet
    if is_growing:
        ledger.grow = grow
    ledger.context = NULL
    ledger.is_dead = is_dead
    ledger.never_was = never_was
    ledger.file = NULL
    ledger.is_readonly = ledger.is_stale = False
    ledger.hold_ms = hold_ms
    ledger.clock_offset_ms = 0
    ledger.next_expiry = &shared[3]
    ledger.late_refunds = &shared[4]
    for user in range(USER_LIMIT):
        opening.users[user].state = 0
    opening.free_count = opening.open_count = ends[0]
    opening.is_closed = 0
    opening.has_space = table_is != NO_ROOM
    opening.ends = ends
    for i in range(<int>block_words()):
        opening_pins[i] = pins_wanted
        ledger.free_map.levels[0][i] += pins_wanted << PIN_SHIFT
    for i in range(before_count):
        operation = before[i]
        do_before(&operation)


def explore(int slots, race, before=(), int preemptions=3, int deaths=0, bint colliding=False, bint expiring=False,
            bint refusing=False, int pins=0, parts=(), bint growing=False,
            bint hasty=False, table="made", long limit=0):
    """Run ``race`` (two to four (kind, user) pairs) through every schedule, after ``before`` was done in order.

    An operation of ``before`` may have a third part: where it dies, one of DEATHS.
    ``refusing``: what is taken after a close is not granted. ``pins``: so many were left on every word by the dead.
    ``parts``: so many of the slots, the last ones, are not there before they are opened, in this order.
    ``growing``: whoever finds nothing free opens what was appended. ``hasty``: one tombstone crowds the index.
    ``table``: whether the second table of the index is there, one of TABLES.

    Returns as ``search_result`` of ``common.pxd`` does.
    """
    global slot_count, memory, memory_size, is_colliding, is_refusing, is_growing, operation_count, fiber_count
    global hold_ms, pins_wanted, table_before
    cdef void *arguments[OPERATION_LIMIT]
    cdef Search search
    cdef const char *wrong
    cdef Operation earlier[BEFORE_LIMIT]
    cdef int before_count = len(before)
    cdef int i
    if before_count > BEFORE_LIMIT or slots > SLOT_LIMIT or any(user >= USER_LIMIT for _, user in race):
        raise ValueError("no scenario is so large")
    for i, operation in enumerate(before):
        earlier[i].kind = KINDS[operation[0]]
        earlier[i].user = operation[1]
        earlier[i].is_plain = False
        earlier[i].death = DEATHS[operation[2]] if len(operation) > 2 else LIVES
    slot_count = slots
    ends[0] = slots - sum(parts)
    for i, part in enumerate(parts):
        ends[i + 1] = ends[i] + part
    is_colliding = colliding
    is_refusing = refusing
    is_growing = growing
    explore_set_sizes(1, 8 if hasty else 4, False)
    pins_wanted = pins
    table_before = TABLES[table]
    hold_ms = HOLD_MS if expiring else 0
    operation_count = fiber_count = len(race)
    memory_size = MAP_SIZE + ledger_size(slot_count) + index_table_size(slot_count)
    free(memory)
    memory = <char *>calloc(memory_size, 1)
    search_begin(&search, preemptions, deaths, limit)
    for i in range(fiber_count):
        operations[i].kind = KINDS[race[i][0]]
        operations[i].user = race[i][1]
        operations[i].worker = i + 1
        operations[i].fiber = i
        operations[i].follower = 0
        operations[i].is_plain = race[i][0] in ("claims", "plain")
        arguments[i] = &operations[i]
        if race[i][0] == "claims":
            operations[operation_count] = operations[i]
            operations[operation_count].user += 1
            operations[i].follower = operation_count
            operation_count += 1
    explore_watch(NULL, died, stepped)
    with nogil:
        while True:
            for i in range(operation_count):
                operations[i].answer = -9
                operations[i].slot = -1
            reset(earlier, before_count)
            wrong = b"livelock"
            if explore_run(fiber_count, operate, arguments) == 0:
                wrong = check()
            if not search_goes_on(&search, wrong):
                break
    explore_watch(NULL, NULL, NULL)
    answers = [
        (race[operations[i].fiber], operations[i].answer, operations[i].slot, bool(explore_died(operations[i].fiber)))
        for i in range(operation_count)
    ]
    return search_result(&search, answers)
