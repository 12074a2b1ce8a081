# An account: a budget's money and its holds, as pointers and counts, without Python.
from libc.stdint cimport uint64_t

from hbcore.atomics cimport hb_load_acquire, hb_load_private
from hbcore.format cimport HB_LEVELS, hb_hold
from hbcore.user cimport UserKey

cdef enum:
    # What stands in the state of a hold; account.pyx has the transitions.
    UNUSED = 0          # of a key that nothing was ever granted to
    PENDING = 1         # value: the amount that is asked for
    GRANTED = 2
    SETTLED = 3         # value: what came back of the amount
    SETTLING = 4        # value: what comes back of the amount
    RELEASING = 5       # value: the amount
    RELEASED = 6        # value: the amount
    FUNDING = 7         # value: offset of the child that is to be funded
    FUNDED = 8          # value: all that came back from the child so far
    REFUNDING = 9       # value: all that came back from the child, this refund with it
    ADDING = 10         # value: the amount that is added to the account
    ADDED = 11

    FIRST_LEVEL = 64    # words in level 0, holds in segment 0
    TOTAL_BITS = 62

    # Answers beside GRANTED_NOW, REPEATED and CLOSED of ledger.pxd; INSUFFICIENT is hbcore.Status
    INSUFFICIENT = 4
    ABSENT = 6          # nothing was ever granted to the key
    EXCESSIVE = 8       # less is held than is to be spent
    # ... and what the caller must do before it asks again
    LACKING = 16        # attach a level or a segment that somebody has made
    CROWDED = 17        # make the next level
    FULL = 18           # make the next segment
    UNSEEN = 19         # look how large the file has become

cdef enum:
    DAMAGED = -2

cdef extern from *:
    # Of the available money, its highest bit: the account is closed.
    """
    #define HB_MONEY_CLOSED (UINT64_C(1) << 63)
    """
    uint64_t MONEY_CLOSED "HB_MONEY_CLOSED"


cdef struct Account:
    uint64_t *money             # [shared pair] the last operation, what is available
    uint64_t *next              # [shared] hint: the number of the next hold to be used
    uint64_t *level_offsets     # [shared] HB_LEVELS of them
    uint64_t *segment_offsets   # [shared] HB_SEGMENTS of them
    uint64_t levels[16]         # [private] addresses of the levels that this process has attached; 0: not yet
    uint64_t segments[32]       # [private] of the segments
    char *base            # of the mapping, where children are
    const uint64_t *known_size
    uint64_t seal[2]
    bint is_readonly


cdef struct Standing:       # a hold as it was found
    hb_hold *hold
    uint64_t number         # of the hold
    uint64_t *word          # where the path has ended
    uint64_t level          # of the word
    uint64_t distance       # of the word from the first of the path in its level
    uint64_t state
    uint64_t value
    uint64_t amount
    uint64_t link
    uint64_t wish           # of account_reserve and account_finish: the state that this call has written; 0: none yet


cdef struct Sums:
    uint64_t count          # keys that were ever granted, children and top-ups not among them
    uint64_t taken          # all amounts that were ever granted, less what came back
    uint64_t added
    uint64_t settled        # spent by holds of the account itself
    uint64_t digest         # of all states: the same twice means that nothing happened in between


cdef void account_attach(
    Account *account, uint64_t *money, uint64_t *next, uint64_t *level_offsets, uint64_t *segment_offsets, char *level,
    char *segment, char *base, const uint64_t *known_size, const uint64_t *secret, bint is_readonly
) noexcept nogil
cdef void account_prefetch(const Account *account, const UserKey *key) noexcept nogil
cdef int account_reserve(
    Account *account, const UserKey *key, int kind, uint64_t value, uint64_t amount, uint64_t now_ms,
    Standing *standing
) noexcept nogil
cdef int account_decide(Account *account, const UserKey *key, Standing *standing) noexcept nogil
cdef int account_find(Account *account, const UserKey *key, Standing *standing) noexcept nogil
cdef int account_finish(
    Account *account, const UserKey *key, int kind, uint64_t spent, Standing *standing
) noexcept nogil
cdef int account_refund(Account *account, const UserKey *key, uint64_t target) noexcept nogil
cdef int account_close(Account *account) noexcept nogil
cdef uint64_t account_available(const Account *account, bint *is_closed) noexcept nogil
cdef int account_read(Account *account, uint64_t number, UserKey *key, Standing *standing) noexcept nogil
cdef int account_count(Account *account, uint64_t first, uint64_t end, Sums *sums) noexcept nogil
cdef int account_check(Account *account, uint64_t first, uint64_t end, uint64_t *number) noexcept nogil
cdef bint account_money(const Account *account, uint64_t *operation, uint64_t *available) noexcept nogil
cdef int account_locate(const Account *account, const UserKey *key, Standing *standing) noexcept nogil


cdef inline uint64_t level_size(uint64_t level) noexcept nogil:
    # Growing by 16 while a level is small, so that there are few, and then by 4, so that little space lies idle.
    return <uint64_t>FIRST_LEVEL << (4 * level if level < 4 else 2 * level + 6)


cdef inline uint64_t segment_first(uint64_t segment) noexcept nogil:
    # The number of its first hold.
    return 0 if segment == 0 else <uint64_t>FIRST_LEVEL << (segment - 1)


cdef inline uint64_t segment_size(uint64_t segment) noexcept nogil:
    return <uint64_t>FIRST_LEVEL << (segment - (segment != 0))


cdef inline int hold_kind(uint64_t state) noexcept nogil:
    return <int>(state >> 60)


cdef inline uint64_t hold_generation(uint64_t state) noexcept nogil:
    return state >> 42 & ((1 << 18) - 1)


cdef inline uint64_t hold_time(uint64_t state) noexcept nogil:
    return state & ((<uint64_t>1 << 42) - 1)
