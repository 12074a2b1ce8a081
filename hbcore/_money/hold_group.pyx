"""The holds of a group: a batch makes them before it has any of them decided.

The money of an account and the number of its next hold share a cache line. A process that makes a hold and decides it
at once, key after key, loses the line to another process between any two steps. So ``account_reserve_group`` first
prepares a group of keys: it looks all of them up, takes the numbers of the new ones by one CAS, writes their holds, and
names them in the index. Then it decides the keys in a row, and what it needs for that, but for the money, is in its
processor's cache by then.

**The states.** A hold that was prepared is UNUSED, of generation 1: in every respect what a refused request leaves. No
request stands in it, so no thread decides it, and the money does not name it. The next request of the key, be it the
batch's when it is the turn of the key, or another call's, is written into the hold as into any UNUSED one (UNUSED to
PENDING, one CAS of the hold). Only from then on may it be decided, by whichever thread comes. So nothing is promised to
a key by preparing it:

| step | who takes it | what a death right after it leaves |
|---|---|---|
| numbers are taken | the batch | numbers that are lost, 64 bytes each |
| a hold is written, UNUSED | the batch, whose hold it is so far | a hold that is lost |
| a word of the index names it | the batch, by one CAS | a key with a hold, to which nothing was granted |
| UNUSED to PENDING | any request of the key; the batch in its turn | a request, as account_reserve leaves one |

This is why the decisions come in the order of the batch, also where a key comes twice, where money is short, and where
other calls ask for the same keys meanwhile, and why each answer is the one that ``account_reserve`` would give at that
moment. A request that is written ahead of its turn would not do: another call of its key would have it decided before
the keys that stand before it in the batch.

**Memory.** A key that is to be refused must not take a hold. So a new key is prepared only if the money that was
available before the group is enough for it and for all keys before it in the group that may still take some; it is
refused only if others take the money meanwhile. All other new keys are looked up again when it is their turn, and
refused without a trace.
"""
from libc.stdint cimport int64_t, uint64_t

from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport AGAIN, LACKING, NOT_FOUND, REPEATED
from hbcore._lib.atomics cimport hb_load_acquire
from hbcore._money.account cimport Account, account_available, account_reserve, account_reserve_located
from hbcore._money.hold cimport PENDING, UNUSED, Standing, hold_kind
from hbcore._money.hold_index cimport (
    HoldIndex, Spare, give_numbers_back, hold_index_locate, occupy, proper, put_back, take_numbers,
)

cdef enum:
    MAKE_LIMIT = 8      # tries to make a hold; a key that needs more is left to account_reserve


cdef int account_reserve_group(
    Account *account, const UserKey *keys, Py_ssize_t count, const int64_t *amounts, Py_ssize_t stride, uint64_t now_ms,
    uint64_t *announced, Standing *standings, int *answers, Py_ssize_t *done
) noexcept nogil:
    # Reserve for `count` keys in order, GROUP at most. Return 0, or the answer that says what is to be done before the
    # account is asked for the rest; answers and standings of the first *done keys are there. *announced must be 0 at
    # the first call of a batch, and be left alone from then on: so the key that was stopped knows what it has done.
    cdef uint64_t located = 0
    cdef Py_ssize_t i
    cdef int answer
    done[0] = 0
    if announced[0] != 0:
        count = 1       # the others are prepared when this key has its answer
    elif count > 1:
        located = prepare(account, keys, count, amounts, stride, now_ms, standings)
    for i in range(count):
        if located >> i & 1:
            answer = account_reserve_located(account, &keys[i], <uint64_t>amounts[i * stride], now_ms, &standings[i])
        else:
            standings[i].announced = announced[0]
            answer = account_reserve(account, &keys[i], PENDING, <uint64_t>amounts[i * stride],
                                     <uint64_t>amounts[i * stride], now_ms, &standings[i])
        if answer < 0 or answer >= LACKING:
            announced[0] = standings[i].announced
            return answer
        announced[0] = 0
        answers[i] = answer
        done[0] += 1
    return 0


cdef uint64_t prepare(
    Account *account, const UserKey *keys, Py_ssize_t count, const int64_t *amounts, Py_ssize_t stride, uint64_t now_ms,
    Standing *standings
) noexcept nogil:
    # Look up `count` keys, and make holds for the new ones among them, as the top of this file says.
    # Return the bits of those keys whose holds `standings` has now, each as it was found; the others are for
    # account_reserve.
    cdef Spare spare
    cdef UserKey key
    cdef uint64_t located, new
    cdef uint64_t new_count = 0
    cdef bint is_closed
    cdef uint64_t available = account_available(account, &is_closed)
    cdef Py_ssize_t i
    if is_closed or available < <uint64_t>amounts[0]:
        return 0        # most likely nothing of the group is granted
    located = look_up(account, keys, count, amounts, stride, available, standings, &new, &new_count)
    if new == 0:
        return located
    take_numbers(&account.index, new_count, &spare)
    for i in range(count):
        if new >> i & 1:
            key = proper(&keys[i])
            located |= <uint64_t>make(&account.index, &key, now_ms, &standings[i], &spare) << i
    give_numbers_back(&account.index, &spare)
    return located


cdef inline uint64_t look_up(
    Account *account, const UserKey *keys, Py_ssize_t count, const int64_t *amounts, Py_ssize_t stride,
    uint64_t available, Standing *standings, uint64_t *new, uint64_t *new_count
) noexcept nogil:
    # Return the bits of the keys whose holds are there and need no more money than there is. new: the bits of the keys
    # that are to have a hold.
    cdef UserKey key
    cdef uint64_t located = 0
    cdef uint64_t promised = 0      # to the keys so far
    cdef uint64_t seen = 0          # for each key of `new`, the bit that its lowest 6 bits say
    cdef uint64_t like
    cdef bint is_enough = True
    cdef Py_ssize_t i
    cdef int answer, kind
    new[0] = 0
    for i in range(count):
        key = proper(&keys[i])
        standings[i].announced = 0
        answer = hold_index_locate(&account.index, &key, &standings[i])
        if answer == REPEATED:
            standings[i].state = hb_load_acquire(&standings[i].hold.state)
            kind = hold_kind(standings[i].state)
            if kind != UNUSED and kind != PENDING:
                located |= <uint64_t>1 << i     # whatever is to be told of it, it takes no money now
                continue
            is_enough = is_enough and kind != PENDING       # what is requested there may be any amount
        if is_enough:
            promised += <uint64_t>amounts[i * stride]       # stays below 2**63: both are below 2**62
            is_enough = promised <= available
        if not is_enough:
            continue
        if answer == REPEATED:
            located |= <uint64_t>1 << i
        elif answer == NOT_FOUND:
            # A key that comes twice gets one hold. Its second turn finds what came of the first.
            like = <uint64_t>1 << (key.low & 63)
            if not seen & like or not is_among(&keys[i], keys, i):
                new[0] |= <uint64_t>1 << i
                new_count[0] += 1
            seen |= like
    return located


cdef inline bint is_among(const UserKey *key, const UserKey *keys, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        if keys[i].low == key.low and keys[i].high == key.high:
            return True
    return False


cdef inline bint make(
    HoldIndex *index, const UserKey *key, uint64_t now_ms, Standing *standing, Spare *spare
) noexcept nogil:
    # Make the hold of a key whose path ended at standing.word a moment ago. Return whether it is there now, by this
    # call or by another.
    cdef int answer = AGAIN
    cdef int _attempt
    for _attempt in range(MAKE_LIMIT):
        answer = occupy(index, key, UNUSED, 0, now_ms, standing, spare) if spare_is_left(spare) else NOT_FOUND
        if answer != AGAIN:
            break
        # A word was taken since: by an earlier key of the group, or by another process, which may have made this hold.
        answer = hold_index_locate(index, key, standing)
        if answer != NOT_FOUND:
            break
    put_back(spare)
    standing.announced = 0      # occupy has written the state, but nothing is announced by it
    if answer == REPEATED:
        standing.state = hb_load_acquire(&standing.hold.state)
    return answer == 0 or answer == REPEATED


cdef inline bint spare_is_left(const Spare *spare) noexcept nogil:
    # Return whether occupy can do without another number. Where a segment ends, the keys of the next one are left to
    # account_reserve, which says what is lacking.
    return spare.hold != NULL or spare.first != spare.end
