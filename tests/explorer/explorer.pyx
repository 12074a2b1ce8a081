"""The explorer: every interleaving and every death of a few ledger operations, in miniature.

It is compiled against an instrumented build of hbcore's own sources (see ``build.py``). After each schedule the answers
must be those of some order of the operations that respects what ended before what began (linearizability, Herlihy and
Wing 1990), the final state must be that of the same order, and the ledger's own invariants must hold.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from common cimport (
    OPERATION_LIMIT, Search, explore_began, explore_clock_ms, explore_died, explore_died_at, explore_ended, explore_run,
    hb_schedule, may_be_next, search_begin, search_goes_on, search_result,
)
from hbcore._claims.claim cimport ledger_claim
from hbcore._claims.free_map cimport BLOCK_SIZE, FAN_OUT, free_map_open, free_map_opened, open_slots
from hbcore._claims.index cimport ENTRY, PHASE_BITS, slot_mask, word_kind
from hbcore._claims.ledger cimport Found, Ledger, ledger_attach, ledger_find, ledger_is_expired, ledger_size
from hbcore._claims.slot cimport FREE, GRANTED, HELD, REFUNDED, RELEASING, SETTLED, slot_kind
from hbcore._claims.transitions cimport ledger_reclaim, ledger_refund, ledger_release, ledger_settle
from hbcore._file.process cimport hb_file
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport ALREADY_SETTLED, CLOSED, CORRUPT, EXPIRED, GRANTED_NOW, NOT_FOUND, REPEATED, SOLD_OUT

cdef enum:
    CLAIM = 0
    RELEASE = 1
    SETTLE = 2
    FIND = 3
    CLOSE = 4
    RECLAIM = 5
    EXPIRE = 6
    OPEN = 7
    USER_LIMIT = 8
    START_MS = 1000
    HOLD_MS = 10

KINDS = {"claim": CLAIM, "release": RELEASE, "settle": SETTLE, "find": FIND, "close": CLOSE, "reclaim": RECLAIM,
         "expire": EXPIRE, "open": OPEN}

cdef struct Operation:
    int kind
    int user            # of "open": so many of the further parts
    uint64_t worker
    int answer
    int64_t slot

cdef struct Holding:
    int state           # 0 none, 1 granted, 2 settled
    int64_t slot

cdef struct Book:       # the specification's state
    Holding users[USER_LIMIT]
    int free_count
    int open_count
    int is_closed

cdef Ledger ledger
cdef char *memory = NULL
cdef uint64_t memory_size = 0
cdef uint64_t shared[7]         # closed, index state, tombstones, next expiry, late refunds, open and cleared count
cdef int ends[4]                # where the parts of the slots end; the first is open from the beginning
cdef uint64_t hold_ms
cdef uint64_t slot_count
cdef bint is_colliding
cdef Operation operations[OPERATION_LIMIT]
cdef int operation_count
cdef Book opening


cdef int prepare(void *context, uint64_t slot, int64_t *amount) noexcept nogil:
    return 0


cdef bint is_dead(const hb_file *file, uint64_t worker) noexcept nogil:
    # The worker of operation i is i + 1; others did what was before, or look afterwards.
    return 1 <= worker <= <uint64_t>operation_count and explore_died(<int>worker - 1)


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
    global explore_clock_ms
    cdef Operation *operation = <Operation *>argument
    cdef UserKey key = key_of(operation.user)
    cdef Found found
    cdef uint64_t i
    found.slot = <uint64_t>-1
    if operation.kind == CLAIM:
        operation.answer = ledger_claim(&ledger, operation.worker, &key, 5, shared[0] != 0, &found)
    elif operation.kind == RELEASE:
        operation.answer = ledger_release(&ledger, operation.worker, &key, &found)
    elif operation.kind == SETTLE:
        operation.answer = ledger_settle(&ledger, operation.worker, &key, &found)
    elif operation.kind == FIND:
        operation.answer = ledger_find(&ledger, &key, &found)
    elif operation.kind == RECLAIM:
        for i in range(slot_count):
            ledger_reclaim(&ledger, i)
        operation.answer = 0
    elif operation.kind == OPEN:
        for i in range(<uint64_t>operation.user):
            free_map_open(&ledger.free_map, ends[i], ends[i + 1])
        operation.answer = 0
    elif operation.kind == EXPIRE:
        # The clock moves on at any step of the others.
        hb_schedule("clock", &explore_clock_ms)
        explore_clock_ms = START_MS + HOLD_MS + 1
        operation.answer = 0
    else:
        shared[0] = 1
        for i in range(slot_count):
            ledger_reclaim(&ledger, i)
            ledger_refund(&ledger, i)
        operation.answer = 0
    operation.slot = <int64_t>found.slot if operation.answer in (GRANTED_NOW, REPEATED) else -1


cdef void expire(Book *book) noexcept nogil:
    # At this moment every claim of before that is not settled is gone; in no scenario can one be granted in the race
    # and expire too.
    cdef int user
    for user in range(USER_LIMIT):
        if book.users[user].state == 1:
            book.users[user].state = 0
            book.free_count += not book.is_closed


cdef void open_to(Book *book, int count) noexcept nogil:
    # More slots, from some moment on.
    if count > book.open_count:
        book.free_count += (count - book.open_count) * (not book.is_closed)
        book.open_count = count


cdef bint apply(Book *book, const Operation *operation, int others, bint beside_close) noexcept nogil:
    # Let the specification do the operation; whether its answer is the one given. others: claims that overlap, which
    # may be holding packets that are not free while they look. beside_close: a claim that began before a close ended
    # may still be granted; its packet is not among those that the close refunded.
    cdef Holding *holding = &book.users[operation.user]
    if operation.kind == CLOSE:
        book.is_closed = 1
        book.free_count = 0
        return True
    if operation.kind == RECLAIM:
        return True
    if operation.kind == OPEN:
        open_to(book, ends[operation.user])
        return True
    if operation.kind == EXPIRE:
        expire(book)
        return True
    if operation.kind == CLAIM:
        if holding.state:
            return operation.answer == REPEATED and operation.slot == holding.slot
        if operation.answer == CLOSED:
            return book.is_closed != 0
        if operation.answer == SOLD_OUT:
            return book.free_count <= others
        if operation.answer != GRANTED_NOW:
            return False
        if not book.is_closed and book.free_count > 0:
            book.free_count -= 1
        elif not (book.is_closed and beside_close):
            return False
        holding.state = 1
        holding.slot = operation.slot
        return True
    if holding.state == 0:
        return operation.answer == NOT_FOUND or operation.answer == EXPIRED and operation.kind == FIND
    if operation.kind == RELEASE and holding.state == 2:
        return operation.answer == ALREADY_SETTLED
    if operation.answer != REPEATED or operation.slot != holding.slot:
        return False
    if operation.kind == RELEASE:
        holding.state = 0
        book.free_count += not book.is_closed
    elif operation.kind == SETTLE:
        holding.state = 2
    return True


cdef void apply_dead(Book *book, const Operation *operation, int64_t slot) noexcept nogil:
    # A dead operation that took effect: a claim of whatever slot the ledger shows.
    cdef Holding *holding = &book.users[operation.user]
    if operation.kind == CLAIM and holding.state == 0:
        holding.state = 1
        holding.slot = slot
        book.free_count -= not book.is_closed
    elif operation.kind == RELEASE and holding.state == 1:
        holding.state = 0
        book.free_count += not book.is_closed
    elif operation.kind == SETTLE and holding.state:
        holding.state = 2
    elif operation.kind == CLOSE:
        book.is_closed = 1
        book.free_count = 0
    elif operation.kind == EXPIRE:
        expire(book)
    elif operation.kind == OPEN:
        open_to(book, ends[min(slot, <int64_t>operation.user)])     # as far as it has come


cdef int overlapping(int i, int first_kind, int last_kind) noexcept nogil:
    # How many other operations of these kinds overlap operation i. One that is dead has ended: what it leaves in hand
    # must not be missed by anybody who comes later.
    cdef int j
    cdef long end
    cdef int count = 0
    for j in range(operation_count):
        if j != i and first_kind <= operations[j].kind <= last_kind and explore_began(j) >= 0:
            end = explore_died_at(j) if explore_died(j) else explore_ended(j)
            if not (0 <= end < explore_began(i)) and explore_began(j) < explore_ended(i):
                count += 1
    return count


cdef int holders(int i) noexcept nogil:
    # Who may have had a packet in hand while operation i looked: also a settle that gives back what has expired.
    return overlapping(i, CLAIM, SETTLE if hold_ms else RELEASE)


cdef bint explained(const Book *book, int placed, const Book *final, bint has_deaths) noexcept nogil:
    # Whether the rest of the operations, in some order, gives all answers and the final state.
    cdef Book next
    cdef int i, user
    cdef int64_t slot
    cdef bint is_done = True
    for i in range(operation_count):
        if placed >> i & 1:
            continue
        if explore_died(i) or explore_began(i) < 0:
            # Dead: it took effect at some point, or never.
            if explore_began(i) >= 0 and may_be_next(i, placed, operation_count):
                for slot in range(<int64_t>slot_count):
                    next = book[0]
                    apply_dead(&next, &operations[i], slot)
                    if explained(&next, placed | 1 << i, final, has_deaths):
                        return True
                    if operations[i].kind != CLAIM and operations[i].kind != OPEN:
                        break
            continue
        is_done = False
        if may_be_next(i, placed, operation_count):
            next = book[0]
            if (apply(&next, &operations[i], holders(i), overlapping(i, CLOSE, CLOSE) > 0)
                    and explained(&next, placed | 1 << i, final, has_deaths)):
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


cdef bint is_under_a_bit(uint64_t slot) noexcept nogil:
    cdef uint64_t child = slot // BLOCK_SIZE
    cdef int level
    for level in range(ledger.free_map.level_count):
        if ledger.free_map.levels[level][child // FAN_OUT] >> (child % FAN_OUT) & 1:
            return True
        child = child // FAN_OUT
    return False


cdef const char *check() noexcept nogil:
    # What is wrong after a run, or NULL.
    cdef Book final
    cdef Found found
    cdef UserKey key
    cdef Operation probe, after
    cdef uint64_t i, generation, word, taken
    cdef int user, kind
    cdef bint has_deaths = False
    cdef int named[USER_LIMIT]      # index words that name each slot; no scenario has more slots
    memset(named, 0, sizeof(named))
    for i in range(<uint64_t>operation_count):
        has_deaths = has_deaths or explore_died(<int>i)
        if not explore_died(<int>i) and operations[i].answer == CORRUPT:
            return b"an operation calls the ledger damaged"
    if has_deaths:
        # What the dead have left is put right by whoever comes next: a search does it, or a close.
        after.kind = CLOSE if shared[0] else RECLAIM
        operate(&after)
        free_map_opened(&ledger.free_map)
    final.free_count = 0
    final.open_count = <int>open_slots(&ledger.free_map)
    final.is_closed = shared[0] != 0
    for i in range(open_slots(&ledger.free_map)):
        kind = slot_kind(ledger.slots[i].state)
        if kind == FREE:
            if final.is_closed:
                return b"a free slot was left when the ledger closed"
            final.free_count += 1
            if is_under_a_bit(i):
                return b"a free slot lies under a set bit of the free map: it is stranded"
        elif ledger_is_expired(&ledger, ledger.slots[i].state):
            final.free_count += not final.is_closed     # for whoever asks for it
        elif kind == HELD or kind == RELEASING:
            return b"a slot was left in somebody's hands"
    if shared[1] & ((1 << PHASE_BITS) - 1) == 0:
        generation = shared[1] >> PHASE_BITS
        for i in range(ledger.index.word_count):
            word = ledger.index.tables[generation & 1][i]
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
    if not explained(&opening, 0, &final, has_deaths):
        return b"no order of the operations explains the answers and the state"
    # Everything that is free can be claimed, to the last slot; and no user's claim moves.
    probe.kind = CLAIM
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
    for user in range(USER_LIMIT):
        key = key_of(user)
        if (ledger_find(&ledger, &key, &found) == REPEATED) != (final.users[user].state != 0):
            return b"a claim came or went by itself"
        if final.users[user].state and <int64_t>found.slot != final.users[user].slot:
            return b"a claim has moved"
    return NULL


cdef void reset(int[:] before_kinds, int[:] before_users) noexcept nogil:
    global explore_clock_ms
    cdef Operation operation
    cdef Py_ssize_t i
    cdef int user
    memset(memory, 0, memory_size)
    memset(shared, 0, sizeof(shared))
    shared[5] = shared[6] = ends[0]
    explore_clock_ms = START_MS
    ledger_attach(&ledger, memory, slot_count, &shared[0], &shared[1], &shared[2])
    ledger.free_map.open_count = &shared[5]
    ledger.free_map.cleared_count = &shared[6]
    ledger.prepare = prepare
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
    for i in range(before_kinds.shape[0]):
        operation.kind = before_kinds[i]
        operation.user = before_users[i]
        operation.worker = 99
        operate(&operation)
        if operation.user < USER_LIMIT:
            apply(&opening, &operation, 0, False)
        elif operation.kind == CLAIM and operation.answer == GRANTED_NOW:
            opening.free_count -= 1
        elif operation.kind == RELEASE and operation.answer == REPEATED:
            opening.free_count += 1


def explore(int slots, race, before=(), int preemptions=3, int deaths=0, bint colliding=False, bint expiring=False,
            parts=(), long limit=0):
    """Run ``race`` (two to four (kind, user) pairs) through every schedule, after ``before`` was done in order.

    ``parts``: so many of the slots, the last ones, are not there before they are opened, in this order.

    Returns as ``search_result`` of ``common.pxd`` does.
    """
    global slot_count, memory, memory_size, is_colliding, operation_count, hold_ms
    import numpy as np
    cdef void *arguments[OPERATION_LIMIT]
    cdef Search search
    cdef const char *wrong
    cdef int i
    cdef int[:] kinds = np.array([KINDS[kind] for kind, _ in before], np.intc)
    cdef int[:] users = np.array([user for _, user in before], np.intc)
    slot_count = slots
    ends[0] = slots - sum(parts)
    for i, part in enumerate(parts):
        ends[i + 1] = ends[i] + part
    is_colliding = colliding
    hold_ms = HOLD_MS if expiring else 0
    operation_count = len(race)
    memory_size = ledger_size(slot_count)
    free(memory)
    memory = <char *>calloc(memory_size, 1)
    search_begin(&search, preemptions, deaths, limit)
    for i in range(operation_count):
        operations[i].kind = KINDS[race[i][0]]
        operations[i].user = race[i][1]
        operations[i].worker = i + 1
        arguments[i] = &operations[i]
    with nogil:
        while True:
            for i in range(operation_count):
                operations[i].answer = -9
                operations[i].slot = -1
            reset(kinds, users)
            wrong = b"livelock"
            if explore_run(operation_count, operate, arguments) == 0:
                wrong = check()
            if not search_goes_on(&search, wrong):
                break
    answers = [
        (race[i], operations[i].answer, operations[i].slot, bool(explore_died(i))) for i in range(operation_count)
    ]
    return search_result(&search, answers)
