"""The explorer of accounts: every interleaving and every death of a few operations on one account, in miniature.

The account lies in a plain block of memory: its money, a first level of two words, a first segment of two holds, and
the children that are to be funded. A key whose word is taken needs the next level, a third hold the next segment; each
operation is a process of its own that makes or attaches them when the account asks for that, as ``Budget.supply`` does.
A batch is two reserves of one process; the second takes effect after the first, and never without it.

After each schedule the answers and the final state must be those of some order of the operations that respects what
ended before what began; a request of the dead may be fulfilled later, or never. And the money is counted: what is
available and what the holds say make the total, to the last unit.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from common cimport (
    OPERATION_LIMIT, Search, explore_began, explore_died, explore_died_at, explore_ended, explore_run,
    explore_set_sizes, hb_schedule, search_begin, search_goes_on, search_result,
)
from hbcore._file.format cimport HB_KIND_TOP_UP, hb_hold, hb_top_up
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport (
    CLOSED, CORRUPT, CROWDED, EXCESSIVE, FULL, GRANTED_NOW, INSUFFICIENT, LACKING, NOT_FOUND, REPEATED,
)
from hbcore._lib.atomics cimport hb_cas
from hbcore._money.account cimport (
    Account, account_attach, account_available, account_close, account_decide, account_find, account_finish,
    account_read, account_refund, account_reserve,
)
from hbcore._money.hold cimport (
    ADDED, ADDING, FUNDED, FUNDING, GRANTED, PENDING, RELEASED, RELEASING, SETTLED, SETTLING, Standing, hold_kind,
)
from hbcore._money.hold_group cimport account_reserve_group
from hbcore._money.hold_index cimport level_size, segment_first, segment_size

cdef enum:
    RESERVE = 0
    FUND = 1
    ADD = 2
    SETTLE = 3
    RELEASE = 4
    REFUND = 5
    CLOSE = 6
    FIND = 7
    DECIDE = 8
    LOOK = 9            # a find that may not write
    READ = 10           # of all holds, by their numbers
    SCAN = 11           # the same, by who may not write
    LAST_KEY = 6        # with which the rest is reserved when all is over; scenarios have 1 .. 5
    KEY_LIMIT = 7
    ALL_OF_IT = 1 << 20     # more than any amount here
    SUPPLY_LIMIT = 8

    # The block of memory: one unit of nothing, the money, where the levels and the segments are, the first of both, the
    # children, and a second level and three segments for each who may make them.
    MONEY = 128
    LEVEL_OFFSETS = 256
    SEGMENT_OFFSETS = 384
    FIRST_WORDS = 640
    FIRST_HOLDS = 704
    CHILDREN = 1024
    CHILD_SIZE = 128
    CHILD_LIMIT = 8
    ROOMS = 2048
    ROOM_SIZE = 1536
    SEGMENT_LIMIT = 4
    MAKER_LIMIT = OPERATION_LIMIT + 2   # the operations, who was before and comes after, and a reader
    BLOCK_SIZE = 11264

if (FIRST_HOLDS + segment_size(0) * sizeof(hb_hold) > CHILDREN or sizeof(hb_top_up) > CHILD_SIZE
        or 8 * level_size(1) + segment_first(SEGMENT_LIMIT) * sizeof(hb_hold) > ROOM_SIZE):
    raise ImportError("the block of memory has no room for its parts")

KINDS = {"reserve": RESERVE, "fund": FUND, "add": ADD, "settle": SETTLE, "release": RELEASE, "refund": REFUND,
         "close": CLOSE, "find": FIND, "decide": DECIDE, "look": LOOK, "read": READ, "scan": SCAN, "batch": RESERVE}

cdef struct Operation:
    int kind
    int key
    uint64_t amount     # to reserve, fund, add or spend; the target of a refund
    int process         # which account it sees, and which child it funds: the fiber that does it
    int before          # the operation that comes before it in a batch; -1: none
    int after           # the one that comes after it in a batch; -1: none
    int answer
    int state           # of the hold that was answered
    uint64_t held
    uint64_t value
    uint64_t read[KEY_LIMIT]    # the amount that READ or SCAN has found for each key; 0: none

cdef struct Holding:
    int state           # 0: nothing was granted
    uint64_t amount
    uint64_t value      # what came back
    int child

cdef struct Book:       # the specification's state
    Holding keys[KEY_LIMIT]
    uint64_t available
    int is_closed

cdef extern from *:
    "static _Alignas(64) char block[11264];"
    char block[BLOCK_SIZE]

cdef uint64_t block_size = BLOCK_SIZE
cdef uint64_t secret[2]
cdef Account accounts[MAKER_LIMIT]
cdef Operation operations[2 * OPERATION_LIMIT]     # the first of each fiber, and then the second reserves of batches
cdef int operation_count        # with them
cdef int fiber_count
cdef bint is_crowded
cdef bint is_alike
cdef Book opening
cdef uint64_t opening_total


cdef UserKey key_of(int key) noexcept nogil:
    # Odd keys have the first half of the hashes of level 0, even ones the other; if crowded, all have the first. Alike:
    # the words of all keys differ by their numbers alone.
    cdef UserKey out
    out.low = <uint64_t>(key + 1) << 40
    if not (key & 1 or is_crowded):
        out.low |= <uint64_t>1 << 63
    out.high = <uint64_t>(key + 1) * (<uint64_t>1 if is_alike else <uint64_t>0xC2B2AE3D27D4EB4F)
    return out


cdef hb_top_up *child_at(uint64_t offset) noexcept nogil:
    return <hb_top_up *>(<char *>block + offset)


cdef bint supply(int process, int answer) noexcept nogil:
    # What Budget.supply does.
    cdef Account *account = &accounts[process]
    cdef uint64_t offset = ROOMS + <uint64_t>process * ROOM_SIZE
    cdef uint64_t i = 1
    cdef bint is_any = False
    if answer == CROWDED and account.index.levels[1] == 0:
        hb_cas(&account.index.level_offsets[1], 0, offset)
    elif answer == FULL:
        while account.index.segments[i] != 0:
            i += 1
        if i == SEGMENT_LIMIT:
            return False
        hb_cas(&account.index.segment_offsets[i], 0, offset + 8 * level_size(1) + segment_first(i) * sizeof(hb_hold))
    elif answer != LACKING:
        return False
    if account.index.levels[1] == 0 and account.index.level_offsets[1] != 0:
        account.index.levels[1] = <uint64_t>(<char *>block + account.index.level_offsets[1])
        is_any = True
    for i in range(1, SEGMENT_LIMIT):
        if account.index.segments[i] == 0 and account.index.segment_offsets[i] != 0:
            account.index.segments[i] = <uint64_t>(<char *>block + account.index.segment_offsets[i])
            is_any = True
    return is_any


cdef int read_all(Operation *operation) noexcept nogil:
    # What account_scan.pyx does.
    cdef Account *account = &accounts[operation.process]
    cdef uint64_t number = 0
    cdef uint64_t segment
    cdef Standing standing
    cdef UserKey key
    cdef int answer, i, found
    supply(operation.process, LACKING)
    for segment in range(SEGMENT_LIMIT):
        if account.index.segments[segment] == 0:
            break
        for number in range(segment_first(segment), segment_first(segment) + segment_size(segment)):
            answer = account_read(account, number, &key, &standing)
            if answer == NOT_FOUND:
                continue
            if answer != REPEATED:
                return answer
            found = 0
            for i in range(1, KEY_LIMIT):
                if key_of(i).low == key.low and key_of(i).high == key.high:
                    found = i
            if found == 0 or operation.read[found] != 0:
                return CORRUPT
            operation.read[found] = standing.amount
    return REPEATED


cdef int ask(Operation *operation, const UserKey *key, Standing *standing) noexcept nogil:
    cdef Account *account = &accounts[operation.process]
    cdef uint64_t child = CHILDREN + <uint64_t>operation.process * CHILD_SIZE
    cdef int kind = operation.kind
    if kind == RESERVE:
        return account_reserve(account, key, PENDING, operation.amount, operation.amount, 5, standing)
    if kind == ADD:
        return account_reserve(account, key, ADDING, operation.amount, operation.amount, 5, standing)
    if kind == FUND:
        return account_reserve(account, key, FUNDING, child, operation.amount, 5, standing)
    if kind == SETTLE:
        return account_finish(
            account, key, SETTLING, <uint64_t>-1 if operation.amount == ALL_OF_IT else operation.amount, standing
        )
    if kind == RELEASE:
        return account_finish(account, key, RELEASING, 0, standing)
    if kind == REFUND:
        return account_refund(account, key, operation.amount)
    if kind == CLOSE:
        return account_close(account)
    if kind == READ or kind == SCAN:
        memset(operation.read, 0, sizeof(operation.read))
        return read_all(operation)
    if kind == DECIDE:
        return account_decide(account, key, standing)
    return account_find(account, key, standing)


cdef void note(Operation *operation, int answer, const Standing *standing) noexcept nogil:
    operation.state = hold_kind(standing.state)
    operation.held = standing.amount
    operation.value = standing.value
    operation.answer = answer


cdef void operate_batch(Operation *first, Operation *second) noexcept nogil:
    # What reserve_rows of budget.pyx does with a batch of two.
    cdef UserKey keys[2]
    cdef int64_t amounts[2]
    cdef Standing standings[2]
    cdef int answers[2]
    cdef uint64_t announced = 0
    cdef Py_ssize_t done = 0
    cdef Py_ssize_t i, part
    cdef int answer, _turn
    keys[0] = key_of(first.key)
    keys[1] = key_of(second.key)
    amounts[0] = <int64_t>first.amount
    amounts[1] = <int64_t>second.amount
    memset(standings, 0, sizeof(standings))
    for _turn in range(2 * SUPPLY_LIMIT):
        answer = account_reserve_group(
            &accounts[first.process], &keys[done], 2 - done, &amounts[done], 1, 5, &announced, standings, answers, &part
        )
        for i in range(part):
            note(second if done + i else first, answers[i], &standings[i])
        done += part
        if done == 2:
            return
        if answer != 0 and not supply(first.process, answer):
            note(second if done else first, answer, &standings[part])
            return


cdef void operate(void *argument) noexcept nogil:
    cdef Operation *operation = <Operation *>argument
    cdef UserKey key = key_of(operation.key)
    cdef Standing standing
    cdef hb_top_up *child = child_at(CHILDREN + <uint64_t>operation.process * CHILD_SIZE)
    cdef int answer = CORRUPT
    cdef int _turn
    if operation.after >= 0:
        operate_batch(operation, &operations[operation.after])
        return
    memset(&standing, 0, sizeof(standing))
    if operation.kind == FUND:      # written whole before it is asked for
        child.extent.kind = HB_KIND_TOP_UP
        child.total = operation.amount
    for _turn in range(SUPPLY_LIMIT):
        answer = ask(operation, &key, &standing)
        if 0 <= answer < LACKING or not supply(operation.process, answer):
            break
    if operation.kind == FUND and answer != GRANTED_NOW:
        # Nobody will ever fund it, and its space is somebody else's from now on.
        hb_schedule("retire", child)
        memset(child, 0, sizeof(hb_top_up))
    note(operation, answer, &standing)


# ---- the specification --------------------------------------------------------------------------------------------

cdef void take_effect(Book *book, const Operation *operation) noexcept nogil:
    cdef Holding *holding = &book.keys[operation.key]
    cdef uint64_t returned
    cdef int kind = operation.kind
    if kind == CLOSE:
        book.is_closed = 1
    elif kind == ADD and holding.state == 0:
        holding.state = ADDED
        holding.amount = operation.amount
        book.available += operation.amount
    elif kind in (RESERVE, FUND) and holding.state == 0:
        if not book.is_closed and operation.amount <= book.available:
            holding.state = GRANTED if kind == RESERVE else FUNDED
            holding.amount = operation.amount
            holding.child = operation.process
            book.available -= operation.amount
    elif kind in (SETTLE, RELEASE) and holding.state == GRANTED:
        returned = holding.amount
        if kind == SETTLE:
            if operation.amount != ALL_OF_IT and operation.amount > holding.amount:
                return
            returned = 0 if operation.amount == ALL_OF_IT else holding.amount - operation.amount
        holding.state = SETTLED if kind == SETTLE else RELEASED
        holding.value = returned
        book.available += returned
    elif kind == REFUND and holding.state == FUNDED and operation.amount > holding.value:
        book.available += operation.amount - holding.value
        holding.value = operation.amount


cdef int expected(const Book *book, const Operation *operation) noexcept nogil:
    # The answer of the specification.
    cdef const Holding *holding = &book.keys[operation.key]
    cdef int kind = operation.kind
    if kind == CLOSE:
        return REPEATED if book.is_closed else GRANTED_NOW
    if kind == READ or kind == SCAN:
        return REPEATED
    if kind in (RESERVE, FUND, ADD):
        if holding.state:
            return REPEATED
        if kind == ADD:
            return GRANTED_NOW
        if book.is_closed:
            return CLOSED
        return GRANTED_NOW if operation.amount <= book.available else INSUFFICIENT
    if holding.state == 0:
        return NOT_FOUND
    if kind in (SETTLE, RELEASE) and holding.state == GRANTED:
        if kind == SETTLE and operation.amount != ALL_OF_IT and operation.amount > holding.amount:
            return EXCESSIVE
        return GRANTED_NOW
    return REPEATED


cdef bint apply(Book *book, const Operation *operation) noexcept nogil:
    # Let the specification do the operation; whether its answer is the one given.
    cdef const Holding *holding = &book.keys[operation.key]
    if operation.answer != expected(book, operation):
        return False
    take_effect(book, operation)
    if operation.kind in (CLOSE, REFUND, READ, SCAN) or operation.answer not in (GRANTED_NOW, REPEATED):
        return True
    if operation.held != holding.amount:
        return False
    # Who is told of a new hold may be told what has become of it since.
    if operation.answer == GRANTED_NOW and operation.kind in (RESERVE, FUND, ADD):
        return True
    return operation.state == holding.state and operation.value == holding.value


cdef bint has_died(int i) noexcept nogil:
    return explore_died(operations[i].process)


cdef bint is_ruled_out(int i, int placed) noexcept nogil:
    # Whether somebody has been told, after operation i had died, that nothing will ever come of it.
    cdef int j
    for j in range(operation_count):
        if (placed >> j & 1 and operations[j].kind == DECIDE and operations[j].key == operations[i].key
                and operations[j].answer == NOT_FOUND
                and explore_died_at(operations[i].process) < explore_began(operations[j].process)):
            return True
    return False


cdef bint may_come_next(int i, int placed) noexcept nogil:
    # Whether operation i can be the next in an order: the one before it in its batch is placed, and none of those that
    # are not placed yet ended before i began.
    cdef int j, other
    cdef int mine = operations[i].process
    if operations[i].before >= 0 and not placed >> operations[i].before & 1:
        return False
    for j in range(operation_count):
        other = operations[j].process
        if (other != mine and not placed >> j & 1 and explore_ended(other) >= 0
                and explore_ended(other) < explore_began(mine)):
            return False
    return True


cdef bint explained(const Book *book, int placed, const Book *final) noexcept nogil:
    # Whether the rest of the operations, in some order, gives all answers and the final state.
    cdef Book next
    cdef int i
    cdef bint is_done = True
    for i in range(operation_count):
        if placed >> i & 1:
            continue
        if has_died(i):
            # It took effect at some point since it began, also long after its death, or never.
            if explore_began(operations[i].process) >= 0 and may_come_next(i, placed) and not is_ruled_out(i, placed):
                next = book[0]
                take_effect(&next, &operations[i])
                if explained(&next, placed | 1 << i, final):
                    return True
            continue
        is_done = False
        if may_come_next(i, placed):
            next = book[0]
            if apply(&next, &operations[i]) and explained(&next, placed | 1 << i, final):
                return True
    if not is_done or book.available != final.available or book.is_closed != final.is_closed:
        return False
    for i in range(1, KEY_LIMIT):
        if book.keys[i].state != final.keys[i].state:
            return False
        if book.keys[i].state and (book.keys[i].amount != final.keys[i].amount
                                   or book.keys[i].value != final.keys[i].value
                                   or book.keys[i].state == FUNDED and book.keys[i].child != final.keys[i].child):
            return False
    return True


# ---- when all is over ---------------------------------------------------------------------------------------------

cdef int ask_of(int kind, int key, uint64_t amount, Operation *operation) noexcept nogil:
    # An operation when all is over.
    operation.kind = kind
    operation.key = key
    operation.amount = amount
    operation.process = OPERATION_LIMIT
    operation.before = operation.after = -1
    operate(operation)
    return operation.answer


cdef const char *read_book(int kind, Book *book) noexcept nogil:
    # All keys, by FIND, DECIDE or LOOK. What is wrong, or NULL.
    cdef Operation operation
    cdef bint is_closed
    cdef int key, answer
    cdef uint64_t money
    cdef Standing standing
    cdef UserKey name
    memset(book, 0, sizeof(Book))
    for key in range(1, KEY_LIMIT):
        answer = ask_of(kind, key, 0, &operation)
        if answer == NOT_FOUND:
            continue
        if answer != REPEATED:
            return b"a hold cannot be read when all is over"
        book.keys[key].state = operation.state
        book.keys[key].amount = operation.held
        book.keys[key].value = operation.value
        if operation.state == FUNDED:
            name = key_of(key)
            account_find(&accounts[OPERATION_LIMIT], &name, &standing)
            book.keys[key].child = <int>((standing.link - CHILDREN) // CHILD_SIZE)
    book.available = account_available(&accounts[OPERATION_LIMIT], &is_closed)
    book.is_closed = is_closed
    money = book.available
    for key in range(1, KEY_LIMIT):
        if book.keys[key].state == ADDED:
            money -= book.keys[key].amount
        elif book.keys[key].state:
            money += book.keys[key].amount - book.keys[key].value
    if money != opening_total:
        return b"what is available and what is held do not make the total"
    return NULL


cdef const char *check_keys(bint has_deaths) noexcept nogil:
    # No key stands twice, and the living leave nothing undecided.
    cdef Account *account = &accounts[OPERATION_LIMIT]
    cdef uint64_t level, at, word, segment
    cdef uint64_t *words
    cdef hb_hold *holds
    cdef hb_hold *all[16]
    cdef int count[KEY_LIMIT]
    cdef int key, kind
    memset(count, 0, sizeof(count))
    supply(OPERATION_LIMIT, LACKING)
    supply(OPERATION_LIMIT + 1, LACKING)
    for segment in range(SEGMENT_LIMIT):
        holds = <hb_hold *>account.index.segments[segment]
        if holds == NULL:
            break
        for at in range(segment_size(segment)):
            all[segment_first(segment) + at] = &holds[at]
            kind = hold_kind(holds[at].state)
            if not has_deaths and kind not in (0, GRANTED, SETTLED, RELEASED, FUNDED, ADDED):
                return b"the living have left a hold undecided"
    for level in range(2):
        words = <uint64_t *>account.index.levels[level]
        if words == NULL:
            break
        for at in range(level_size(level)):
            word = words[at] & ((<uint64_t>1 << 36) - 1)
            if words[at] <= 1:
                continue
            for key in range(1, KEY_LIMIT):
                count[key] += all[word].key[0] == key_of(key).low and all[word].key[1] == key_of(key).high
    for key in range(1, KEY_LIMIT):
        if count[key] > 1:
            return b"a key stands twice"
    return NULL


cdef const char *check_rest(const Book *final) noexcept nogil:
    # What is available can be reserved to the last unit; what can come back comes back, once.
    cdef Operation operation
    cdef Book book
    cdef const char *wrong
    cdef uint64_t target
    cdef int key
    for key in range(1, LAST_KEY):
        if final.keys[key].state != FUNDED:
            continue
        # Twice: the base of the next refund is right, and the one that follows from it.
        for target in range(final.keys[key].value + 1, final.keys[key].value + 3):
            if ask_of(REFUND, key, target, &operation) != REPEATED:
                return b"a child cannot refund any more"
            wrong = read_book(FIND, &book)
            if wrong != NULL:
                return wrong
            if book.keys[key].value != target:
                return b"a refund has not arrived"
    for key in range(1, LAST_KEY):
        if final.keys[key].state == GRANTED and ask_of(RELEASE, key, 0, &operation) != GRANTED_NOW:
            return b"a hold cannot be released when all is over"
    wrong = read_book(FIND, &book)
    if wrong != NULL:
        return wrong
    if book.is_closed:
        if ask_of(RESERVE, LAST_KEY, 1, &operation) != CLOSED:
            return b"money is taken from a closed account"
        return NULL
    if ask_of(RESERVE, LAST_KEY, book.available + 1, &operation) != INSUFFICIENT:
        return b"more can be reserved than is available"
    if book.available and ask_of(RESERVE, LAST_KEY, book.available, &operation) != GRANTED_NOW:
        return b"not all that is available can be reserved"
    wrong = read_book(FIND, &book)
    if wrong == NULL and book.available:
        return b"something is left of the last unit"
    return wrong


cdef const char *check() noexcept nogil:
    # What is wrong after a run, or NULL.
    cdef Book seen, found, final
    cdef const char *wrong
    cdef bint has_deaths = False
    cdef int i, key
    for i in range(operation_count):
        has_deaths = has_deaths or has_died(i)
        if not has_died(i) and (operations[i].answer < 0 or operations[i].answer >= LACKING):
            return b"an operation calls the account damaged"
    wrong = check_keys(has_deaths)
    # A reader counts the same as who may write, before anybody has put anything right.
    accounts[OPERATION_LIMIT].is_readonly = True
    if wrong == NULL:
        wrong = read_book(LOOK, &seen)
    accounts[OPERATION_LIMIT].is_readonly = False
    if wrong == NULL:
        wrong = read_book(FIND, &found)
    if wrong == NULL:
        wrong = read_book(DECIDE, &final)
    if wrong != NULL:
        return wrong
    if not explained(&opening, 0, &final):
        return b"no order of the operations explains the answers and the state"
    for i in range(operation_count):
        for key in range(1, KEY_LIMIT):
            if (operations[i].kind in (READ, SCAN) and not has_died(i) and operations[i].read[key] != 0
                    and (final.keys[key].state == 0 or operations[i].read[key] != final.keys[key].amount)):
                return b"a hold was read that never was"
    return check_rest(&final)


cdef void reset(const Operation *before, int before_count) noexcept nogil:
    cdef Operation operation
    cdef int i
    memset(block, 0, BLOCK_SIZE)
    for i in range(MAKER_LIMIT):
        account_attach(
            &accounts[i], <uint64_t *>(<char *>block + MONEY), <uint64_t *>(<char *>block + MONEY + 24),
            <uint64_t *>(<char *>block + MONEY + 16),
            <uint64_t *>(<char *>block + LEVEL_OFFSETS), <uint64_t *>(<char *>block + SEGMENT_OFFSETS),
            <char *>block + FIRST_WORDS, <char *>block + FIRST_HOLDS, block, &block_size, secret, False,
        )
    (<uint64_t *>(<char *>block + MONEY))[1] = opening_total
    memset(&opening, 0, sizeof(Book))
    opening.available = opening_total
    for i in range(before_count):
        operation = before[i]
        operate(&operation)
        take_effect(&opening, &operation)
    for i in range(fiber_count):
        accounts[i].is_readonly = operations[i].kind == LOOK or operations[i].kind == SCAN


cdef fill(Operation *operation, request, int process):
    operation.kind = KINDS[request[0]]
    operation.key = request[1] if len(request) > 1 else 0
    operation.amount = request[2] if len(request) > 2 else ALL_OF_IT
    operation.process = process
    operation.before = operation.after = -1


cdef fill_race(race):
    # A batch, ("batch", key, amount, key, amount), is two operations of one fiber.
    global operation_count, fiber_count
    cdef int i
    operation_count = fiber_count = len(race)
    for i in range(fiber_count):
        fill(&operations[i], race[i], i)
        if race[i][0] == "batch":
            fill(&operations[operation_count], ("reserve", *race[i][3:]), i)
            operations[operation_count].before = i
            operations[i].after = operation_count
            operation_count += 1


def explore_account(uint64_t total, race, before=(), int preemptions=3, int deaths=0, bint crowded=False,
                    bint roomy=False, bint alike=False, bint watching=False, long limit=0):
    """Run ``race`` (two to four (kind, key, amount)) on an account of so much money, after ``before`` was done.

    ("batch", key, amount, key, amount) is a batch of two reserves.

    ``crowded``: the paths of all keys are the same. ``roomy``: both words of a line are taken before there is a second
    level. ``alike``: the keys cannot be told by their words. ``watching``: others may go on before a child is read.

    Returns as ``search_result`` of ``common.pxd`` does.
    """
    global is_crowded, is_alike, opening_total
    cdef void *arguments[OPERATION_LIMIT]
    cdef Operation earlier[KEY_LIMIT]
    cdef Search search
    cdef const char *wrong
    cdef int i
    cdef int before_count = len(before)
    secret[0], secret[1] = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    opening_total = total
    is_crowded = crowded
    is_alike = alike
    explore_set_sizes(2 if roomy else 1, 4, watching)
    fill_race(race)
    for i in range(fiber_count):
        arguments[i] = &operations[i]
    for i in range(before_count):
        fill(&earlier[i], before[i], OPERATION_LIMIT + 1)
    search_begin(&search, preemptions, deaths, limit)
    with nogil:
        while True:
            for i in range(operation_count):
                operations[i].answer = -9
            reset(earlier, before_count)
            wrong = b"livelock"
            if explore_run(fiber_count, operate, arguments) == 0:
                wrong = check()
            if not search_goes_on(&search, wrong):
                break
    answers = [
        (race[operations[i].process], operations[i].answer, operations[i].state, bool(has_died(i)))
        for i in range(operation_count)
    ]
    return search_result(&search, answers)
