"""The account: the money of a budget and the keyed holds on it; reserve, settle, release, refund, close.

Everything that is decided is decided on one pair of words, the account's money: (the last operation, what is
available), changed by a compare-and-swap of 16 bytes. An operation names a hold and its generation. A thread that asks
for something first writes into the hold what it is about (an *undecided* state); from then on any thread can do the
rest:

1. Read the money. Write into the hold that its last operation names that it has happened (``complete``).
2. Read the hold. If it is not undecided any more, all is done.
3. Change the money: take or give the amount, and name the hold. Or, if there is not enough, leave what is available,
   and name the hold with FAIL. Then complete it.

Each operation moves money exactly once, because the money names every operation in turn, and no thread changes it
before the last one was completed. So when step 2 finds the hold undecided, this operation is none of those that led to
the pair that was read in step 1; and the CAS of step 3 succeeds only on that very pair. The pair never comes back,
because no (hold, generation) is decided twice. This is the old method of universal helping (Herlihy, 1991) with one
word of memory.

A death leaves an undecided hold. If the account's money names it, its amount has moved, or with FAIL it was refused;
otherwise its amount has not moved. A thread that needs to know, or wants to change the money, finishes a hold of the
first kind. No thread needs to finish one of the second kind, whose money is still where it was. No worker is asked
whether it lives, so nothing here depends on which of them are dead.

The states of a hold, and the steps between them, stand in ``hold.pxd``; ``hold_index.pxd`` says how a key leads to its
hold.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from hbcore._file.format cimport (
    HB_KIND_BUDGET, HB_KIND_ENVELOPE, HB_KIND_TOP_UP, HB_KIND_TRANCHE, hb_budget, hb_extent, hb_hold, hb_top_up,
)
from hbcore._file.region cimport heading_of
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport (
    AGAIN, ALREADY_HELD, CLOSED, CORRUPT, CROWDED, EXCESSIVE, GRANTED_NOW, HAPPENED, INSUFFICIENT, LACKING, NOT_FOUND,
    REPEATED, UNSEEN,
)
from hbcore._lib.atomics cimport (
    hb_cas_pair, hb_fence_acquire, hb_load_acquire, hb_load_once, hb_load_private, hb_load_relaxed, hb_store_relaxed,
    hb_store_release,
)
from hbcore._lib.limits cimport TOTAL_LIMIT
from hbcore._money.hold cimport (
    ADDED, ADDING, FUNDED, FUNDING, GRANTED, PENDING, READ_LIMIT, REFUNDING, RELEASED, RELEASING, SETTLED, SETTLING,
    UNUSED, Standing, hold_generation, hold_kind, hold_state, hold_time, is_undecided, read_pair, with_kind,
)
from hbcore._money.hold_index cimport (
    NUMBER_BITS, Spare, give_number_back, hold_at, hold_index_locate, hold_index_prefetch, no_spare, occupy, proper,
)

cdef enum:
    RETRY_LIMIT = 1 << 20       # every retry means that another thread has made progress; only damage brings so many
    # An operation, from its lowest bit: generation (18 bits) | number of the hold (36) | 0 (4) | OPERATION | FAIL
    NUMBER_SHIFT = 18

cdef uint64_t OPERATION = <uint64_t>1 << 58
cdef uint64_t FAIL = <uint64_t>1 << 59


cdef void account_attach(
    Account *account, uint64_t *money, uint64_t *completed, uint64_t *next, uint64_t *level_offsets,
    uint64_t *segment_offsets, char *level, char *segment, char *base, const uint64_t *known_size,
    const uint64_t *secret, bint is_readonly
) noexcept nogil:
    memset(account, 0, sizeof(Account))
    account.money = money
    account.completed = completed
    account.index.next = next
    account.index.level_offsets = level_offsets
    account.index.segment_offsets = segment_offsets
    account.index.levels[0] = <uint64_t>level
    account.index.segments[0] = <uint64_t>segment
    account.base = base
    account.known_size = known_size
    account.seal[0] = secret[0]
    account.seal[1] = secret[1]
    account.is_readonly = is_readonly


cdef void account_prefetch(const Account *account, const UserKey *key) noexcept nogil:
    hold_index_prefetch(&account.index, key)


# ---- words ----------------------------------------------------------------------------------------------------------

cdef inline uint64_t operation_of(const Standing *standing) noexcept nogil:
    return OPERATION | standing.number << NUMBER_SHIFT | hold_generation(standing.state)


cdef inline uint64_t sealed_amount(const Account *account, const UserKey *key, uint64_t amount) noexcept nogil:
    # Return a check sum of an amount and its key, so that damage is not paid out.
    cdef uint64_t hash = (amount ^ account.seal[0]) * <uint64_t>0x9E3779B97F4A7C15
    hash = ((hash ^ hash >> 32) + (key.low ^ account.seal[1])) * <uint64_t>0xC2B2AE3D27D4EB4F
    hash = ((hash ^ hash >> 32) + key.high) * <uint64_t>0x9E3779B97F4A7C15
    return hash ^ hash >> 32


# ---- the money ------------------------------------------------------------------------------------------------------

cdef uint64_t account_available(const Account *account, bint *is_closed) noexcept nogil:
    cdef uint64_t available = hb_load_acquire(&account.money[1])
    is_closed[0] = available & MONEY_CLOSED != 0
    return available & ~MONEY_CLOSED


cdef inline int shortage(const Account *account, uint64_t amount) noexcept nogil:
    # Return GRANTED_NOW if the amount is available, INSUFFICIENT or CLOSED, as it was at the moment of this one load.
    cdef bint is_closed
    cdef uint64_t available = account_available(account, &is_closed)
    if is_closed:
        return CLOSED
    return INSUFFICIENT if available < amount else GRANTED_NOW


cdef inline int child_total(const Account *account, uint64_t offset, uint64_t *total) noexcept nogil:
    # Read what a child asks for: its total, which stands at the same place in every kind. Return 0, UNSEEN or CORRUPT.
    # A child that was refused has been retired, and its space may be taken over while this call reads it: fulfil.
    cdef const hb_extent *extent = <const hb_extent *>(account.base + offset)
    if offset % 64 != 0 or offset == 0 or offset >= <uint64_t>1 << 42:
        return CORRUPT
    if offset + sizeof(hb_top_up) > hb_load_private(account.known_size):      # a top-up is the smallest of them
        return UNSEEN
    if heading_of(extent).kind not in (HB_KIND_BUDGET, HB_KIND_ENVELOPE, HB_KIND_TOP_UP, HB_KIND_TRANCHE):
        return CORRUPT
    total[0] = hb_load_once(&(<const hb_budget *>extent).total)
    return 0 if 0 < total[0] < <uint64_t>TOTAL_LIMIT else CORRUPT


cdef inline int refund_of(const Account *account, uint64_t offset, uint64_t **refund) noexcept nogil:
    # Find where what has come back from the child at an offset is kept. Return 0, UNSEEN or CORRUPT.
    cdef uint64_t total
    cdef int status = child_total(account, offset, &total)
    refund[0] = (<hb_extent *>(account.base + offset)).refund
    return status


cdef inline void grant(Account *account, hb_hold *hold, uint64_t state, uint64_t value) noexcept nogil:
    # Write GRANTED or ADDED into a hold that was PENDING or ADDING, and that the money has named since.
    cdef UserKey key
    key.low = hb_load_relaxed(&hold.key[0])
    key.high = hb_load_relaxed(&hold.key[1])
    hb_store_relaxed(&hold.amount, value)
    hb_store_relaxed(&hold.link, sealed_amount(account, &key, value))
    hb_cas_pair(
        &hold.state, state, value, with_kind(state, GRANTED if hold_kind(state) == PENDING else ADDED), 0
    )


cdef int complete(Account *account, uint64_t operation) noexcept nogil:
    # Write into the hold that an operation of the money names what has become of it. Any number of threads may do this
    # at once, and late: every CAS expects the undecided state, and what is stored before it is the same whichever
    # thread stores it. Return 0, LACKING, UNSEEN or CORRUPT.
    cdef uint64_t number = operation >> NUMBER_SHIFT & ((<uint64_t>1 << NUMBER_BITS) - 1)
    cdef uint64_t state, value, amount, generation, refunded
    cdef hb_hold *hold
    cdef uint64_t *refund
    cdef int kind, status
    # The word beside the money spares a thread the look at a hold that lies in the cache of another processor. Acquire:
    # it pairs with the store of `fulfil`, so the hold is seen as it was written.
    if operation == 0 or operation == hb_load_acquire(account.completed):
        return 0
    status = hold_at(&account.index, number, &hold)
    if status != 0:
        return LACKING if status == LACKING else CORRUPT
    if not read_pair(&hold.state, &state, &value):
        return CORRUPT
    if hold_generation(state) != operation & ((1 << 18) - 1):
        return 0
    kind = hold_kind(state)
    if not is_undecided(kind):
        return 0
    if operation & FAIL:
        if kind != PENDING and kind != FUNDING:
            return CORRUPT
        hb_cas_pair(&hold.state, state, value, with_kind(state, UNUSED), 0)
    elif kind == PENDING or kind == ADDING:
        grant(account, hold, state, value)
    elif kind == FUNDING:
        status = child_total(account, value, &amount)
        if status != 0:
            return status
        hb_store_relaxed(&hold.amount, amount)
        hb_store_relaxed(&hold.link, value)
        hb_cas_pair(&hold.state, state, value, with_kind(state, FUNDED), 0)
    elif kind == REFUNDING:
        # First the base of the next refund is written. It carries the generation, so a thread that comes late changes
        # nothing.
        status = refund_of(account, hb_load_relaxed(&hold.link), &refund)
        if status != 0:
            return status
        if not read_pair(refund, &generation, &refunded):
            return CORRUPT
        # While the hold is in this state, the pair changes once: from what the refund before has left to what this one
        # leaves. So if the hold is still in this state now, after the pair was read, the CAS below succeeds only from
        # the former. Without this look, a thread that comes late would put back the sum of a refund long past, and the
        # next refund would count again what has come since.
        if hb_load_acquire(&hold.state) != state:
            return 0
        if generation != hold_generation(state):
            hb_cas_pair(refund, generation, refunded, hold_generation(state), value)
        hb_cas_pair(&hold.state, state, value, with_kind(state, FUNDED), value)
    else:
        hb_cas_pair(&hold.state, state, value, with_kind(state, SETTLED if kind == SETTLING else RELEASED), value)
    return 0


cdef inline int decide(Account *account, const Standing *standing) noexcept nogil:
    # Bring a hold out of the undecided state that is in `standing`, as the top of this file says. Return what complete
    # does.
    cdef int answer = fulfil(account, standing)
    return 0 if answer == HAPPENED else answer


cdef int fulfil(Account *account, const Standing *standing) noexcept nogil:
    # Do what decide does, but return HAPPENED if the hold was PENDING and it is by this call that its amount was taken.
    cdef hb_hold *hold = standing.hold
    cdef int kind = hold_kind(standing.state)
    cdef uint64_t own = operation_of(standing)
    cdef uint64_t operation, available, state, value, amount, generation, refunded, _attempt
    cdef uint64_t *refund
    cdef int status
    for _attempt in range(RETRY_LIMIT):
        if not read_pair(account.money, &operation, &available):
            continue        # others are very busy
        status = complete(account, operation)
        if status != 0:
            return status
        if not read_pair(&hold.state, &state, &value):
            return CORRUPT
        if state != standing.state:
            return 0
        amount = value
        if kind == PENDING or kind == FUNDING:
            if kind == FUNDING:
                status = child_total(account, value, &amount)
                if status != 0:
                    # A child that was refused meanwhile has been retired, and its space may be anything by now. (What
                    # is read of it then is never taken: the child was refused by a change of the money, so the CAS
                    # fails.) The fence keeps the look at the hold behind the reading of the child. It pairs with the
                    # fence of directory_allocate: a thread that has read what was written there sees the refusal.
                    hb_fence_acquire()
                    return 0 if hb_load_acquire(&hold.state) != state else status
            # A closed account has the highest bit in what is available; nothing is taken from it.
            if available & MONEY_CLOSED or available < amount:
                if hb_cas_pair(account.money, operation, available, own | FAIL, available):
                    return complete(account, own | FAIL)
            elif hb_cas_pair(account.money, operation, available, own, available - amount):
                if kind == FUNDING:
                    return complete(account, own)
                # This is what complete would do, without reading the hold again: it was undecided when the money
                # changed.
                grant(account, hold, state, value)
                # No operation like this one comes back, because a hold is granted once: a thread that stands still
                # here and stores this late says nothing of the operation that the money names by then.
                hb_store_release(account.completed, own)
                return HAPPENED
            continue
        if kind == REFUNDING:
            status = refund_of(account, hb_load_relaxed(&hold.link), &refund)
            if status != 0:
                return status
            if not read_pair(refund, &generation, &refunded):
                return CORRUPT
            if generation == hold_generation(state) or refunded > value:
                if hb_load_acquire(&hold.state) != state:
                    return 0
                # Another thread has put this refund into the money since that was read, and is about to complete it, or
                # has died before that: the next turn completes it.
                if hb_load_acquire(&account.money[0]) != operation:
                    continue
                return CORRUPT
            amount = value - refunded
        if (kind == SETTLING or kind == RELEASING) and amount > hb_load_relaxed(&hold.amount):
            return CORRUPT      # more than was ever taken
        # The sum stays below the bit of a closed account: totals end at 2**62, and top-ups that race for the last of it
        # can pass that.
        if amount >= <uint64_t>TOTAL_LIMIT or (available & ~MONEY_CLOSED) + amount >= MONEY_CLOSED:
            return CORRUPT
        if hb_cas_pair(account.money, operation, available, own, available + amount):
            return complete(account, own)
    return CORRUPT


# ---- reserving ------------------------------------------------------------------------------------------------------

cdef inline bint read_hold(const hb_hold *hold, Standing *standing) noexcept nogil:
    if not read_pair(&hold.state, &standing.state, &standing.value):
        return False
    standing.amount = hb_load_relaxed(&hold.amount)
    standing.link = hb_load_relaxed(&hold.link)
    return True


cdef inline bint is_granted(uint64_t state, uint64_t generation) noexcept nogil:
    # Return whether it was the request of that generation that was granted, whatever has become of it.
    cdef int kind = hold_kind(state)
    if kind == GRANTED or kind == ADDED:
        return hold_generation(state) == generation
    return (kind in (SETTLING, SETTLED, RELEASING, RELEASED)
            and hold_generation(state) == (generation + 1) & ((1 << 18) - 1))


cdef inline bint is_fulfilled(const Standing *standing, int kind, uint64_t value) noexcept nogil:
    # Return whether the hold is what this call has requested, be it before it was asked again. Nothing is granted
    # twice: a child's hold is known by its link, every other by the generation of its grant.
    if kind == FUNDING:
        return standing.link == value and hold_kind(standing.state) in (FUNDED, REFUNDING)
    return standing.announced != 0 and is_granted(standing.state, hold_generation(standing.announced))


cdef inline bint is_sound(const Account *account, const UserKey *key, const Standing *standing) noexcept nogil:
    # Return whether a hold that was granted is sound: its amount is what it was, and no more has come back than that.
    # Without the latter a damaged value would be spent or given back as money that nobody ever took, and all sums would
    # agree with it.
    cdef int kind = hold_kind(standing.state)
    if standing.amount >= <uint64_t>TOTAL_LIMIT or standing.link != sealed_amount(account, key, standing.amount):
        return False
    if kind == GRANTED or kind == ADDED:
        return standing.value == 0
    if kind == RELEASED or kind == RELEASING:
        return standing.value == standing.amount
    return standing.value <= standing.amount


cdef int account_reserve(
    Account *account, const UserKey *wanted, int kind, uint64_t value, uint64_t amount, uint64_t now_ms,
    Standing *standing
) noexcept nogil:
    cdef Spare spare = no_spare()
    cdef UserKey key = proper(wanted)
    cdef int answer = reserve(account, &key, kind, value, amount, now_ms, standing, &spare)
    give_number_back(&account.index, &spare)
    return answer


cdef inline int announce_again(
    Account *account, const UserKey *key, int kind, uint64_t value, uint64_t amount, uint64_t now_ms,
    Standing *standing
) noexcept nogil:
    # Write this call's request into the hold that its key has already. Return 0 if the request stands in it now;
    # ALREADY_HELD with what was granted before; INSUFFICIENT, CLOSED, AGAIN, LACKING, UNSEEN or CORRUPT.
    cdef uint64_t next_state
    cdef int answer
    if not read_hold(standing.hold, standing):
        return CORRUPT
    if is_undecided(hold_kind(standing.state)):
        answer = decide(account, standing)
        return answer if answer != 0 else AGAIN
    if hold_kind(standing.state) != UNUSED:
        if hold_kind(standing.state) != FUNDED and not is_sound(account, key, standing):
            return CORRUPT
        return ALREADY_HELD
    if kind != ADDING:
        answer = shortage(account, amount)
        if answer != GRANTED_NOW:
            return answer if hb_load_acquire(&standing.hold.state) == standing.state else AGAIN
    # A death right after this leaves a request that any thread may fulfil, or refuse.
    next_state = hold_state(kind, hold_generation(standing.state) + 1, now_ms)
    if not hb_cas_pair(&standing.hold.state, standing.state, standing.value, next_state, value):
        return AGAIN
    standing.state = standing.announced = next_state
    standing.value = value
    return 0


cdef inline int reserve(
    Account *account, const UserKey *key, int kind, uint64_t value, uint64_t amount, uint64_t now_ms,
    Standing *standing, Spare *spare
) noexcept nogil:
    # Ask for an amount under a key. kind and value: PENDING and the amount, FUNDING and the offset of the child, ADDING
    # and the amount. Return GRANTED_NOW or REPEATED with the hold (REPEATED whatever its amount is), INSUFFICIENT,
    # CLOSED, CORRUPT, or the answer that says what is to be done before the account is asked again.
    # standing.announced must be 0 at the first call, and be left alone when the account is asked again: so the call
    # knows what it has done.
    cdef uint64_t _attempt
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        answer = hold_index_locate(&account.index, key, standing)
        if answer == NOT_FOUND:
            if kind != ADDING:
                # Without enough money nothing is written, so that refusing costs no memory. If the key is not there
                # now, it was not there at the moment of this look at the money.
                answer = shortage(account, amount)
                if answer != GRANTED_NOW:
                    if hb_load_acquire(standing.word) == 0:
                        return answer
                    continue
            answer = occupy(&account.index, key, kind, value, now_ms, standing, spare)
        elif answer == REPEATED:
            answer = announce_again(account, key, kind, value, amount, now_ms, standing)
        if answer == AGAIN:
            continue
        if answer != 0:
            if answer == ALREADY_HELD:
                answer = GRANTED_NOW if is_fulfilled(standing, kind, value) else REPEATED
            return answer
        answer = fulfil(account, standing)
        if answer == HAPPENED:
            standing.state = with_kind(standing.state, GRANTED)
            standing.amount = value
            standing.value = 0
            return GRANTED_NOW
        if answer != 0:
            return answer
        if not read_hold(standing.hold, standing):
            return CORRUPT
        if is_fulfilled(standing, kind, value):
            return GRANTED_NOW
        if hold_kind(standing.state) == UNUSED:
            # The request was refused, at the moment when the money named it with FAIL. If that was for want of money,
            # and other threads have had the key granted and closed the account since, the answer is theirs, not CLOSED.
            if shortage(account, 0) != CLOSED:
                return INSUFFICIENT
            if hb_load_acquire(&standing.hold.state) == standing.state:
                return CLOSED
            continue
        # The request was refused, and another thread has asked since then: look at what came of that.
    return CORRUPT


cdef int account_reserve_located(
    Account *account, const UserKey *wanted, uint64_t amount, uint64_t now_ms, Standing *standing
) noexcept nogil:
    # Do what account_reserve does for an amount that is to be held, for a key that was looked up before: `standing` has
    # its hold and the state in which that was. A key never gets another hold, so only the state can have changed. The
    # usual course is taken here: the hold is UNUSED, the money was enough a moment ago, and nobody interferes. In all
    # other cases the call begins anew, and standing.announced tells account_reserve what was requested here.
    cdef UserKey key
    cdef uint64_t next_state
    cdef int answer
    if hold_kind(standing.state) != UNUSED:
        key = proper(wanted)
        answer = announce_again(account, &key, PENDING, amount, amount, now_ms, standing)
        if answer == ALREADY_HELD:
            return REPEATED
    else:
        next_state = hold_state(PENDING, hold_generation(standing.state) + 1, now_ms)
        # A death right after this leaves a request that any thread may fulfil, or refuse. No value stands in an UNUSED
        # hold.
        if hb_cas_pair(&standing.hold.state, standing.state, 0, next_state, amount):
            standing.state = standing.announced = next_state
            standing.value = amount
            answer = fulfil(account, standing)
            if answer == HAPPENED:
                standing.state = with_kind(next_state, GRANTED)
                standing.amount = amount
                standing.value = 0
                return GRANTED_NOW
            if answer != 0:
                return answer
    return account_reserve(account, wanted, PENDING, amount, amount, now_ms, standing)


# ---- finding, settling, releasing -----------------------------------------------------------------------------------

cdef inline int settle_down(Account *account, const UserKey *key, Standing *standing) noexcept nogil:
    # Read a hold, and decide what is undecided about it. Return REPEATED, NOT_FOUND (nothing was granted to the key so
    # far), LACKING, UNSEEN or CORRUPT. A request that no thread has fulfilled yet stays one.
    cdef uint64_t operation, available, _attempt
    cdef int answer, kind
    for _attempt in range(RETRY_LIMIT):
        if not read_hold(standing.hold, standing):
            return CORRUPT
        kind = hold_kind(standing.state)
        if kind == UNUSED:
            return NOT_FOUND
        if is_undecided(kind):
            if account.is_readonly:
                answer = look_only(account, standing)
                if answer == AGAIN:
                    continue
                return answer
            if kind == PENDING or kind == FUNDING or kind == ADDING:
                # The money of a request is taken only if the last operation names it; otherwise it has not happened, at
                # this moment.
                if not read_pair(account.money, &operation, &available):
                    continue
                if operation != operation_of(standing):
                    if hb_load_acquire(&standing.hold.state) == standing.state:
                        return NOT_FOUND
                    continue
                answer = complete(account, operation)
            else:
                answer = decide(account, standing)
            if answer != 0:
                return answer
            continue
        if kind > ADDED:
            return CORRUPT
        if kind != FUNDED and not is_sound(account, key, standing):
            return CORRUPT
        return REPEATED
    return CORRUPT


cdef int look_only(const Account *account, Standing *standing) noexcept nogil:
    # Say what an undecided hold is, for a process that may not write: it is what the last operation of the money says.
    # A hold that this operation does not name has not happened yet, whatever it is, so all that is held and what is
    # available make the total here too. Return REPEATED, NOT_FOUND, AGAIN if the hold is decided by now, UNSEEN or
    # CORRUPT.
    cdef uint64_t operation, available, refunded
    cdef uint64_t *refund
    cdef bint is_done
    cdef int status, kind = hold_kind(standing.state)
    if not read_pair(account.money, &operation, &available):
        return AGAIN
    refunded = 0
    if kind == REFUNDING:
        status = refund_of(account, standing.link, &refund)
        if status != 0:
            return status
        refunded = hb_load_acquire(&refund[1])
    elif kind == FUNDING:
        status = child_total(account, standing.value, &standing.amount)
        if status == UNSEEN:
            return status
    # Only while the hold is undecided does the money that was just read say whether it has happened: afterwards another
    # operation may be the last.
    if hb_load_acquire(&standing.hold.state) != standing.state:
        return AGAIN
    is_done = operation == operation_of(standing)
    if kind == PENDING or kind == ADDING or kind == FUNDING:
        if not is_done:
            return NOT_FOUND
        if kind == FUNDING:
            if status != 0:
                return status
            standing.link = standing.value
            standing.state = with_kind(standing.state, FUNDED)
        else:
            standing.amount = standing.value
            standing.state = with_kind(standing.state, GRANTED if kind == PENDING else ADDED)
        standing.value = 0
    elif kind == REFUNDING:
        standing.state = with_kind(standing.state, FUNDED)
        if not is_done:
            standing.value = refunded
    elif is_done:
        standing.state = with_kind(standing.state, SETTLED if kind == SETTLING else RELEASED)
    else:
        standing.state = with_kind(standing.state, GRANTED)
        standing.value = 0
    return REPEATED


cdef int account_find(Account *account, const UserKey *wanted, Standing *standing) noexcept nogil:
    # Find the hold of a key. Return REPEATED with the hold, NOT_FOUND, LACKING, UNSEEN or CORRUPT.
    cdef UserKey key = proper(wanted)
    cdef int answer = hold_index_locate(&account.index, &key, standing)
    if answer == CROWDED:
        return NOT_FOUND
    return answer if answer != REPEATED else settle_down(account, &key, standing)


cdef int account_decide(Account *account, const UserKey *wanted, Standing *standing) noexcept nogil:
    # Find the hold of a key as account_find does, but fulfil or refuse a request that no thread has fulfilled:
    # NOT_FOUND is for good.
    cdef UserKey key = proper(wanted)
    cdef int answer = hold_index_locate(&account.index, &key, standing)
    if answer == REPEATED:
        if not read_hold(standing.hold, standing):
            return CORRUPT
        if is_undecided(hold_kind(standing.state)):
            answer = decide(account, standing)
            if answer != 0:
                return answer
    return account_find(account, wanted, standing)


cdef int account_finish(
    Account *account, const UserKey *wanted, int kind, uint64_t spent, Standing *standing
) noexcept nogil:
    # End a hold that is GRANTED. kind: SETTLING (spent: at most the amount; -1 means all of it) or RELEASING. Return
    # GRANTED_NOW with the hold as it is then; REPEATED with the hold if an earlier call has ended it, in whichever way;
    # EXCESSIVE if the amount is less than what is to be spent; NOT_FOUND, LACKING, UNSEEN or CORRUPT.
    # standing.announced is used as account_reserve uses it.
    cdef uint64_t _attempt, returned, next_state
    cdef int answer, final = SETTLED if kind == SETTLING else RELEASED
    for _attempt in range(RETRY_LIMIT):
        answer = account_find(account, wanted, standing)
        if answer == REPEATED and standing.announced != 0 and standing.state == with_kind(standing.announced, final):
            return GRANTED_NOW      # by this call, before it was asked again
        if answer != REPEATED or hold_kind(standing.state) != GRANTED:
            return answer
        if kind == SETTLING and spent != <uint64_t>-1 and spent > standing.amount:
            return EXCESSIVE
        returned = standing.amount
        if kind == SETTLING:
            returned = 0 if spent == <uint64_t>-1 else standing.amount - spent
        next_state = hold_state(
            final if returned == 0 else kind, hold_generation(standing.state) + 1, hold_time(standing.state)
        )
        # settle and release race on this one CAS: exactly one of them wins
        if not hb_cas_pair(&standing.hold.state, standing.state, standing.value, next_state, returned):
            continue
        standing.state = standing.announced = next_state
        standing.value = returned
        if returned != 0:
            answer = decide(account, standing)
            if answer != 0:
                return answer
            standing.state = with_kind(next_state, final)
        return GRANTED_NOW
    return CORRUPT


cdef int account_refund(Account *account, const UserKey *wanted, uint64_t target) noexcept nogil:
    # Take what a closed child has given back, as far as it has not arrived yet; all that it has given back is at least
    # `target`. Return REPEATED, NOT_FOUND, LACKING, UNSEEN or CORRUPT.
    cdef uint64_t _attempt, next_state
    cdef Standing standing
    cdef int answer
    for _attempt in range(RETRY_LIMIT):
        answer = account_find(account, wanted, &standing)
        if answer != REPEATED:
            return answer
        if hold_kind(standing.state) != FUNDED or target >= <uint64_t>TOTAL_LIMIT:
            return CORRUPT
        if standing.value >= target:
            return REPEATED
        # Refunds of one child follow each other. Each says what all of them come to, so that none counts twice.
        next_state = hold_state(REFUNDING, hold_generation(standing.state) + 1, hold_time(standing.state))
        if not hb_cas_pair(&standing.hold.state, standing.state, standing.value, next_state, target):
            continue
        standing.state = next_state
        standing.value = target
        answer = decide(account, &standing)
        if answer != 0:
            return answer
    return CORRUPT


cdef int account_close(Account *account) noexcept nogil:
    # Close the account: nothing is taken from its money any more. This is idempotent. Return GRANTED_NOW, REPEATED or
    # CORRUPT.
    cdef uint64_t operation, available, _attempt
    for _attempt in range(RETRY_LIMIT):
        if not read_pair(account.money, &operation, &available):
            continue
        if available & MONEY_CLOSED:
            return REPEATED
        # The operation stays in the pair, so that it is still to be completed.
        if hb_cas_pair(account.money, operation, available, operation, available | MONEY_CLOSED):
            return GRANTED_NOW
    return CORRUPT


# ---- reading all of it ----------------------------------------------------------------------------------------------

cdef int account_read(Account *account, uint64_t number, UserKey *key, Standing *standing) noexcept nogil:
    # Read the hold of a number whose segment is attached. Return REPEATED with key and hold, NOT_FOUND if nothing was
    # ever granted there, LACKING, UNSEEN or CORRUPT.
    # A hold that no word names yet may be given back, and then be another key's. But the key of what was granted stays:
    # if it is the same before and after, what was read in between belongs to it.
    cdef uint64_t _turn
    cdef int answer
    standing.number = number
    if hold_at(&account.index, number, &standing.hold) != 0:
        return CORRUPT
    for _turn in range(READ_LIMIT):
        if hb_load_acquire(&standing.hold.state) == 0:
            key.low = key.high = 0
            return NOT_FOUND
        # Acquire: the loads below must not be ahead of this one, or the state could be the next key's and the key
        # still the one before, seen twice. It pairs with the store of occupy.
        key.low = hb_load_acquire(&standing.hold.key[0])
        key.high = hb_load_relaxed(&standing.hold.key[1])
        answer = settle_down(account, key, standing)
        if answer != REPEATED and answer != CORRUPT:
            return answer
        if (hb_load_acquire(&standing.hold.key[0]) == key.low
                and hb_load_acquire(&standing.hold.key[1]) == key.high):
            return answer
    return CORRUPT


cdef bint account_money(const Account *account, uint64_t *operation, uint64_t *available) noexcept nogil:
    # Read the last operation, and what is available with the bit of a closed account. Return False if others changed
    # them at each look.
    return read_pair(account.money, operation, available)
