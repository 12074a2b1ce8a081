# The specification of the ledger: what each operation must answer, in some order of all of them.
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.slot cimport GRANTED, SETTLED
from hbcore._lib.answers cimport (
    ALREADY_SETTLED, CLOSED, EXPIRED, GRANTED_NOW, NOT_FOUND, NO_SPACE, REPEATED, SOLD_OUT,
)

cdef enum:
    CLAIM = 0
    RELEASE = 1
    SETTLE = 2
    FIND = 3
    CLOSE = 4
    RECLAIM = 5
    EXPIRE = 6
    OPEN = 7
    END = 8             # a close whose refunds are counted for the budget, as Envelope.end does it
    READ = 9            # of one slot, as the statistics do it
    SCAN = 10           # a find past the index, by who may not write
    USER_LIMIT = 8

cdef struct Operation:
    int kind
    int user            # of "open": so many of the further parts; of "read": the slot
    uint64_t worker
    int death           # of an operation of before
    int answer          # of "read": the kind of the slot's state
    int64_t slot        # of "read": the user whose claim it is
    int fiber           # which does it
    int follower        # of a batch: number of the operation that is its second claim; 0: none
    bint is_plain       # a claim of a batch

cdef struct Holding:
    int state           # 0 none, 1 granted, 2 settled
    int64_t slot

cdef struct Book:       # the specification's state
    Holding users[USER_LIMIT]
    int free_count
    int open_count
    int is_closed
    const int *ends     # where the parts of the slots end; the first is open from the beginning
    int has_space       # for the second table of the index


cdef inline void expire(Book *book) noexcept nogil:
    # At this moment every claim of before that is not settled is gone; in no scenario can one be granted in the race
    # and expire too.
    cdef int user
    for user in range(USER_LIMIT):
        if book.users[user].state == 1:
            book.users[user].state = 0
            book.free_count += not book.is_closed


cdef inline void open_to(Book *book, int count) noexcept nogil:
    # More slots, from some moment on.
    if count > book.open_count:
        book.free_count += (count - book.open_count) * (not book.is_closed)
        book.open_count = count


cdef inline bint is_read(const Book *book, const Operation *operation) noexcept nogil:
    # Whether the slot is as it was read.
    cdef int user
    for user in range(USER_LIMIT):
        if book.users[user].state and book.users[user].slot == operation.user:
            return (operation.slot == user
                    and operation.answer == (SETTLED if book.users[user].state == 2 else GRANTED))
    return operation.answer != GRANTED and operation.answer != SETTLED


cdef inline bint apply(Book *book, const Operation *operation, int others, bint beside_close) noexcept nogil:
    # Let the specification do the operation; whether its answer is the one given. others: claims that overlap, which
    # may be holding packets that are not free while they look. beside_close: a claim that began before a close ended
    # may still be granted; its packet is not among those that the close refunded.
    cdef Holding *holding = &book.users[operation.user]
    if operation.kind == CLOSE or operation.kind == END:
        book.is_closed = 1
        book.free_count = 0
        return True
    if operation.kind == READ:
        return is_read(book, operation)
    if operation.kind == RECLAIM:
        return True
    if operation.kind == OPEN:
        open_to(book, book.ends[operation.user])
        return True
    if operation.kind == EXPIRE:
        expire(book)
        return True
    if operation.kind == CLAIM:
        if holding.state:
            return operation.answer == REPEATED and operation.slot == holding.slot
        if operation.answer == NO_SPACE:
            return not book.has_space and not book.is_closed and book.free_count > 0
        if operation.answer == CLOSED:
            return book.is_closed != 0
        if operation.answer == SOLD_OUT:
            return not book.is_closed and book.free_count <= others
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
        return operation.answer == NOT_FOUND or operation.answer == EXPIRED and operation.kind in (FIND, SCAN)
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


cdef inline void apply_dead(Book *book, const Operation *operation, int64_t slot) noexcept nogil:
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
    elif operation.kind == CLOSE or operation.kind == END:
        book.is_closed = 1
        book.free_count = 0
    elif operation.kind == EXPIRE:
        expire(book)
    elif operation.kind == OPEN:
        open_to(book, book.ends[min(slot, <int64_t>operation.user)])     # as far as it has come
