"""The racer of accounts: threads that reserve, settle, release, fund, refund, top up, close at once, without the GIL.

It does for accounts what ``racer.pyx`` does for ledgers. The account stands in memory of its own; its levels and
segments are made and attached by the threads, each of which sees it through an ``Account`` of its own, as a process
does. A child is written by plain stores before it is asked for, and read by every thread that is told of it: nothing
but the protocol orders these accesses.

An operation may also die, at any atomic step. Nobody has to know: what it has left undecided, others decide.

Three groups of keys race: a thread's *own*, whose outcome it knows; *common* ones, whose outcome must never change once
it was answered; and *children*.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from hbcore._file.format cimport HB_KIND_TOP_UP, HB_LEVELS, HB_SEGMENTS, hb_hold, hb_top_up
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport CLOSED, CROWDED, FULL, GRANTED_NOW, INSUFFICIENT, LACKING, NOT_FOUND, REPEATED
from hbcore._lib.atomics cimport hb_cas, hb_fetch_add_relaxed, hb_load_acquire, hb_load_relaxed, hb_store_relaxed
from hbcore._money.account cimport (
    Account, account_attach, account_available, account_close, account_decide, account_find, account_finish,
    account_refund, account_reserve,
)
from hbcore._money.account_scan cimport Sums, account_check, account_count
from hbcore._money.hold cimport (
    ADDING, FUNDING, GRANTED, PENDING, RELEASED, RELEASING, SETTLED, SETTLING, Standing, hold_kind,
)
from hbcore._money.hold_index cimport level_size, segment_first, segment_size

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

cdef extern from "noise.h" nogil:
    int noise_run(void (*operation)(void *) noexcept nogil, void *argument, unsigned int odds)

cdef enum:
    THREAD_LIMIT = 16
    BLOCK_SIZE = 8 << 20
    MONEY = 128             # offsets in the block
    LEVEL_OFFSETS = 256
    SEGMENT_OFFSETS = 512
    FIRST_WORDS = 1024
    FIRST_HOLDS = 2048
    FRONTIER = 8192
    COMMON = 1 << 20        # the numbers at which the groups of keys begin; a thread's own begin at 0
    CHILD = 2 << 20
    TOP_UP = 3 << 20
    LATE = 4 << 20
    OWN_LIMIT = 1 << 14
    SUPPLY_LIMIT = 64

cdef struct Shared:
    char *block
    uint64_t block_size
    uint64_t frontier       # [relaxed] of the block
    uint64_t total
    uint64_t *outcomes      # [relaxed] state of each common key that is settled or released, when somebody was told
    int common_count
    int child_count
    unsigned int odds

cdef struct Racer:
    Shared *shared
    Account account
    uint64_t number
    uint64_t random
    int *own                # kind of each own key, 0 if nothing was granted
    int own_count
    int at_work             # the own key of the operation under way; -1: another's
    uint64_t granted
    uint64_t returned
    uint64_t deaths
    const char *wrong


cdef inline uint64_t draw(Racer *racer, uint64_t bound) noexcept nogil:
    # splitmix64 (Steele, Lea and Flood, 2014)
    cdef uint64_t z
    racer.random += <uint64_t>0x9E3779B97F4A7C15
    z = racer.random
    z = (z ^ z >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ z >> 27) * <uint64_t>0x94D049BB133111EB
    return (z ^ z >> 31) % bound


cdef UserKey key_of(uint64_t key) noexcept nogil:
    cdef UserKey out
    out.low = (key + 1) * <uint64_t>0x9E3779B97F4A7C15
    out.high = (key + 1) * <uint64_t>0xC2B2AE3D27D4EB4F
    return out


cdef inline uint64_t amount_of(uint64_t key) noexcept nogil:
    return 1 + key % 50


cdef void fail(Racer *racer, const char *what) noexcept nogil:
    if racer.wrong == NULL:
        racer.wrong = what


cdef uint64_t take_space(Shared *shared, uint64_t size) noexcept nogil:
    # An offset in the block; 0 if it is full.
    cdef uint64_t offset = hb_fetch_add_relaxed(&shared.frontier, (size + 63) // 64 * 64)
    return offset if offset + size <= BLOCK_SIZE else 0


cdef bint supply(Racer *racer, int answer) noexcept nogil:
    # What Budget.supply does.
    cdef Account *account = &racer.account
    cdef uint64_t next = 1
    if answer == CROWDED:
        while account.index.levels[next] != 0:
            next += 1
        if next == HB_LEVELS or not make_next(
            racer.shared, &account.index.level_offsets[next], 8 * level_size(next)
        ):
            return False
    elif answer == FULL:
        while account.index.segments[next] != 0:
            next += 1
        if next == HB_SEGMENTS or not make_next(
                racer.shared, &account.index.segment_offsets[next], segment_size(next) * sizeof(hb_hold)):
            return False
    elif answer != LACKING:
        return False
    return (
        attach(racer.shared, account.index.level_offsets, account.index.levels, HB_LEVELS)
        + attach(racer.shared, account.index.segment_offsets, account.index.segments, HB_SEGMENTS) > 0
    )


cdef bint make_next(Shared *shared, uint64_t *place, uint64_t size) noexcept nogil:
    cdef uint64_t offset
    if hb_load_acquire(place) == 0:
        offset = take_space(shared, size)
        if offset == 0:
            return False
        hb_cas(place, 0, offset)
    return True


cdef int attach(Shared *shared, uint64_t *offsets, uint64_t *addresses, uint64_t count) noexcept nogil:
    cdef uint64_t i, offset
    cdef int new = 0
    for i in range(1, count):
        offset = hb_load_acquire(&offsets[i])
        if offset != 0 and addresses[i] == 0:
            addresses[i] = <uint64_t>(shared.block + offset)
            new += 1
    return new


# ---- the operations -----------------------------------------------------------------------------------------------

cdef int put(Racer *racer, uint64_t key, int kind, uint64_t value, uint64_t amount, Standing *standing) noexcept nogil:
    cdef UserKey name = key_of(key)
    cdef int answer, _turn
    standing.announced = 0
    for _turn in range(SUPPLY_LIMIT):
        answer = account_reserve(&racer.account, &name, kind, value, amount, 5, standing)
        if 0 <= answer < LACKING:
            racer.granted += answer == GRANTED_NOW
            return answer
        if not supply(racer, answer):
            break
    fail(racer, b"a reserve calls the account damaged")
    return answer


cdef int finish(Racer *racer, uint64_t key, int kind, uint64_t spent, Standing *standing) noexcept nogil:
    cdef UserKey name = key_of(key)
    cdef int answer, _turn
    standing.announced = 0
    for _turn in range(SUPPLY_LIMIT):
        answer = account_finish(&racer.account, &name, kind, spent, standing)
        if 0 <= answer < LACKING:
            racer.returned += answer == GRANTED_NOW
            return answer
        if not supply(racer, answer):
            break
    fail(racer, b"a settle or release calls the account damaged")
    return answer


cdef int find(Racer *racer, uint64_t key, bint decides, Standing *standing) noexcept nogil:
    cdef UserKey name = key_of(key)
    cdef int answer, _turn
    for _turn in range(SUPPLY_LIMIT):
        if decides:
            answer = account_decide(&racer.account, &name, standing)
        else:
            answer = account_find(&racer.account, &name, standing)
        if answer == REPEATED or answer == NOT_FOUND:
            return answer
        if not supply(racer, answer):
            break
    fail(racer, b"a find calls the account damaged")
    return answer


cdef void race_own(Racer *racer) noexcept nogil:
    # The newest three: they live through a reserve and a settle or release, and then the next one comes.
    cdef int i = <int>draw(racer, 3)
    cdef uint64_t key, spent
    cdef int answer, kind
    cdef Standing standing
    if racer.own_count < 3 or racer.own_count < OWN_LIMIT and draw(racer, 4) == 0:
        racer.own_count += 1
    i = racer.own_count - 1 - i if racer.own_count > i else 0
    key = racer.number * OWN_LIMIT + <uint64_t>i
    racer.at_work = i
    if racer.own[i] == 0:
        answer = put(racer, key, PENDING, amount_of(key), amount_of(key), &standing)
        if answer == REPEATED:
            fail(racer, b"a key's first reserve was told REPEATED")
        elif answer == GRANTED_NOW:
            racer.own[i] = GRANTED
    elif racer.own[i] == GRANTED and draw(racer, 2):
        kind = SETTLING if draw(racer, 2) else RELEASING
        spent = draw(racer, amount_of(key) + 1)
        answer = finish(racer, key, kind, spent, &standing)
        if answer != GRANTED_NOW:
            fail(racer, b"a hold cannot be settled or released")
        racer.own[i] = SETTLED if kind == SETTLING else RELEASED
        if standing.value != (amount_of(key) - spent if kind == SETTLING else amount_of(key)):
            fail(racer, b"not what was to come back has come back")
    else:
        answer = find(racer, key, False, &standing)
        if answer != REPEATED or hold_kind(standing.state) != racer.own[i] or standing.amount != amount_of(key):
            fail(racer, b"a hold is not found as it was left")


cdef void learn_own(Racer *racer) noexcept nogil:
    # After a death: whether the operation under way has come to anything.
    cdef int *own = &racer.own[racer.at_work]
    cdef Standing standing
    cdef int answer = find(racer, racer.number * OWN_LIMIT + <uint64_t>racer.at_work, True, &standing)
    if answer == REPEATED:
        if own[0] > GRANTED and own[0] != hold_kind(standing.state):
            fail(racer, b"an outcome has changed at a death")
        own[0] = hold_kind(standing.state)
    elif own[0]:
        fail(racer, b"a hold is lost by a death")


cdef void race_common(Racer *racer) noexcept nogil:
    cdef uint64_t i = draw(racer, racer.shared.common_count)
    cdef uint64_t action = draw(racer, 8)
    cdef uint64_t before = hb_load_relaxed(&racer.shared.outcomes[i])
    cdef uint64_t amount = amount_of(i)
    cdef Standing standing
    cdef int answer
    if action < 4:
        answer = put(racer, COMMON + i, PENDING, amount, amount, &standing)
    elif action == 4 and i % 3 == 0:
        answer = finish(racer, COMMON + i, SETTLING, draw(racer, amount + 1), &standing)
    elif action == 5 and i % 3 == 0:
        answer = finish(racer, COMMON + i, RELEASING, 0, &standing)
    else:
        answer = find(racer, COMMON + i, action == 6, &standing)
    if answer == REPEATED or answer == GRANTED_NOW:
        if standing.amount != amount:
            fail(racer, b"a hold has another amount")
        if before and (standing.state != before or answer == GRANTED_NOW):
            fail(racer, b"an outcome that was answered has changed")
        if hold_kind(standing.state) in (SETTLED, RELEASED):
            hb_store_relaxed(&racer.shared.outcomes[i], standing.state)
    elif before:
        fail(racer, b"an outcome that was answered is gone")


cdef void race_child(Racer *racer) noexcept nogil:
    cdef uint64_t i = draw(racer, racer.shared.child_count)
    cdef UserKey name = key_of(CHILD + i)
    cdef uint64_t offset, target
    cdef hb_top_up *child
    cdef Standing standing
    cdef int answer = find(racer, CHILD + i, False, &standing)
    if answer == NOT_FOUND:
        offset = take_space(racer.shared, sizeof(hb_top_up))
        if offset == 0:
            return
        child = <hb_top_up *>(racer.shared.block + offset)
        child.extent.kind = HB_KIND_TOP_UP
        child.total = 20 + amount_of(i)
        child.key[0] = i
        answer = put(racer, CHILD + i, FUNDING, offset, child.total, &standing)
    if answer != REPEATED and answer != GRANTED_NOW:
        return
    child = <hb_top_up *>(racer.shared.block + standing.link)
    if child.key[0] != i or child.total != standing.amount:
        fail(racer, b"a child is not whole")
    target = min(standing.value + draw(racer, 3), standing.amount)
    answer = LACKING
    while answer == LACKING:
        answer = account_refund(&racer.account, &name, target)
        if answer == LACKING and not supply(racer, answer):
            break
    if answer != REPEATED:
        fail(racer, b"a refund calls the account damaged")
    elif find(racer, CHILD + i, False, &standing) != REPEATED or standing.value < target:
        fail(racer, b"a refund has not arrived")


cdef void race_once(void *argument) noexcept nogil:
    cdef Racer *racer = <Racer *>argument
    cdef uint64_t action = draw(racer, 16)
    cdef uint64_t i
    cdef Standing standing
    racer.at_work = -1
    if action < 6:
        race_own(racer)
    elif action < 12:
        race_common(racer)
    elif action < 15:
        race_child(racer)
    else:
        i = draw(racer, 20)
        put(racer, TOP_UP + i, ADDING, amount_of(i), amount_of(i), &standing)


cdef void close(void *argument) noexcept nogil:
    account_close(&(<Racer *>argument).account)


cdef void race(Racer *racer, uint64_t operations, bint closes) noexcept nogil:
    cdef uint64_t done
    for done in range(operations):
        if racer.wrong != NULL:
            return
        if closes and done == operations // 2:
            while not noise_run(close, racer, racer.shared.odds):
                racer.deaths += 1
        if not noise_run(race_once, racer, racer.shared.odds):
            racer.deaths += 1
            if racer.at_work >= 0:
                learn_own(racer)


# ---- when all is over ---------------------------------------------------------------------------------------------

cdef int count_all(Racer *racer, Sums *sums) noexcept nogil:
    cdef uint64_t segment, first, end, number
    cdef int answer = 0
    memset(sums, 0, sizeof(Sums))
    supply(racer, LACKING)
    for segment in range(HB_SEGMENTS):
        if racer.account.index.segments[segment] == 0:
            break
        first = segment_first(segment)
        end = first + segment_size(segment)
        answer = account_count(&racer.account, first, end, sums)
        if answer == 0:
            answer = account_check(&racer.account, first, end, &number)
        if answer == LACKING and supply(racer, answer):
            return count_all(racer, sums)
        if answer != 0:
            break
    return answer


cdef const char *check_money(Racer *racer) noexcept nogil:
    # What is wrong with the money when all threads have ended, or NULL.
    cdef Sums sums
    cdef Standing standing
    cdef bint is_closed
    cdef uint64_t available
    if count_all(racer, &sums) != 0:
        return b"the holds cannot be counted"
    available = account_available(&racer.account, &is_closed)
    if available + sums.taken != racer.shared.total + sums.added:
        return b"what is available and what is held do not make the total"
    if is_closed:
        if put(racer, LATE, PENDING, 1, 1, &standing) != CLOSED:
            return b"money is taken from a closed account"
        return racer.wrong
    if put(racer, LATE, PENDING, available + 1, available + 1, &standing) != INSUFFICIENT:
        return b"more can be reserved than is available"
    if available and put(racer, LATE, PENDING, available, available, &standing) != GRANTED_NOW:
        return b"not all that is available can be reserved"
    if account_available(&racer.account, &is_closed) != 0:
        return b"something is left of the last unit"
    return racer.wrong


cdef class AccountRace:
    """One account and the threads that race in it; each thread is to call ``run`` once, with a number of its own."""
    cdef Shared shared
    cdef Racer *racers
    cdef int thread_count

    def __cinit__(self, uint64_t total, int keys, int threads, uint64_t seed, unsigned int odds):
        cdef Shared *shared = &self.shared
        cdef uint64_t[2] secret
        cdef int i
        if threads > THREAD_LIMIT:
            raise ValueError(f"threads must be at most {THREAD_LIMIT}")
        secret[0], secret[1] = 0x0123456789ABCDEF, 0xFEDCBA9876543210
        self.thread_count = threads
        shared.total = total
        shared.common_count = keys
        shared.child_count = 1 + keys // 4
        shared.odds = odds
        shared.block_size = BLOCK_SIZE
        shared.frontier = FRONTIER
        shared.outcomes = <uint64_t *>calloc(keys, 8)
        self.racers = <Racer *>calloc(threads, sizeof(Racer))
        if not shared.outcomes or not self.racers or posix_memalign(<void **>&shared.block, 64, BLOCK_SIZE):
            raise MemoryError
        memset(shared.block, 0, BLOCK_SIZE)
        (<uint64_t *>(shared.block + MONEY))[1] = total
        for i in range(threads):
            self.racers[i].shared = shared
            self.racers[i].number = i
            self.racers[i].random = seed * 1000 + i
            self.racers[i].own = <int *>calloc(OWN_LIMIT, sizeof(int))
            if not self.racers[i].own:
                raise MemoryError
            account_attach(
                &self.racers[i].account, <uint64_t *>(shared.block + MONEY), <uint64_t *>(shared.block + MONEY + 24),
                <uint64_t *>(shared.block + MONEY + 16),
                <uint64_t *>(shared.block + LEVEL_OFFSETS), <uint64_t *>(shared.block + SEGMENT_OFFSETS),
                shared.block + FIRST_WORDS, shared.block + FIRST_HOLDS, shared.block, &shared.block_size, secret, False
            )

    def __dealloc__(self):
        cdef int i
        if self.racers != NULL:
            for i in range(self.thread_count):
                free(self.racers[i].own)
        free(self.racers)
        free(self.shared.block)
        free(self.shared.outcomes)

    def run(self, int number, uint64_t operations, bint closes):
        """Race as thread ``number`` for so many operations; close the account after half of them if so asked."""
        with nogil:
            race(&self.racers[number], operations, closes)

    def check(self):
        """Check what is known when all threads have ended. Returns (grants, settles and releases, deaths, levels)."""
        cdef const char *wrong = NULL
        cdef int i, levels = 1
        for i in range(self.thread_count):
            if wrong == NULL:
                wrong = self.racers[i].wrong
        if wrong == NULL:
            wrong = check_money(&self.racers[0])
        if wrong != NULL:
            raise AssertionError(wrong.decode())
        while self.racers[0].account.index.levels[levels]:
            levels += 1
        return (
            sum([self.racers[i].granted for i in range(self.thread_count)]),
            sum([self.racers[i].returned for i in range(self.thread_count)]),
            sum([self.racers[i].deaths for i in range(self.thread_count)]),
            levels,
        )
