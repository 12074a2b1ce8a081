"""Funding: how money comes to the children of a budget, and back.

A child (a sub-budget, an envelope, a top-up of a sub-budget) is a hold of its parent: the money word of the parent
decides whether it is made. Its extent is written whole before that, so that any process can finish what a death leaves.
What a closed child gives back is told to the parent as a sum of all refunds so far, so that none can be lost or counted
twice.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from hbcore._file.clock cimport hb_now_ms
from hbcore._file.directory cimport (
    Name, directory_allocate, directory_find, directory_insert, directory_name, directory_set_funded, extent_name,
    name_set, publish_extent, retire_extent,
)
from hbcore._file.format cimport (
    HB_KIND_BUDGET, HB_KIND_ENVELOPE, HB_KIND_TOP_UP, HB_KIND_TRANCHE, hb_extent, hb_top_up, hb_tranche,
)
from hbcore._file.record cimport TOP_UP_TERMS, TRANCHE_TERMS, record_copy, record_is_sound, record_seal
from hbcore._file.region cimport Heading, Region, heading_of
from hbcore._keys.user cimport UserKey, siphash128
from hbcore._lib.answers cimport CLOSED, GRANTED_NOW, INSUFFICIENT, LACKING, NOT_FOUND, REPEATED
from hbcore._lib.atomics cimport hb_cas, hb_fence_acquire, hb_load_acquire
from hbcore._lib.limits cimport TOTAL_LIMIT
from hbcore._money.account cimport account_available, account_decide, account_find, account_refund, account_reserve
from hbcore._money.budget_base cimport BudgetBase, Supply, budget_base_at
from hbcore._money.hold cimport FUNDED, FUNDING, Standing, hold_kind

from hbcore.errors import InsufficientBudgetError

# ---- children -------------------------------------------------------------------------------------------------------

cdef int64_t child_find(Region region, BudgetBase parent, const Name *name) except -1 nogil:
    # Return the offset of the child of that name, or 0. A child that its maker did not live to name is named now.
    cdef int64_t offset = directory_find(region, name)
    cdef Standing standing
    if offset != 0 or parent is None:
        return offset
    if parent.look_up(&name.key, &standing) == NOT_FOUND:
        return 0
    if hold_kind(standing.state) != FUNDED:
        with gil:
            parent.raise_corrupt()
    if not region.is_readonly:
        directory_name(region, name, standing.link)
    return <int64_t>standing.link


cdef object insufficient(BudgetBase parent, str what, uint64_t total, int refusal, uint64_t available):
    if refusal == CHILD_CLOSED:
        return InsufficientBudgetError(f"budget {parent.name!r} is closed")
    return InsufficientBudgetError(f"budget {parent.name!r} has {available} available, not the {total} for {what}")


cdef int64_t child_afford(
    Region region, BudgetBase parent, const Name *name, uint64_t total, uint64_t *available
) except -1 nogil:
    # Say whether a child could be funded, before space is taken for it, so that a refusal leaves none behind. Return 0
    # if it could, the offset of what another thread has just made of that name, or a refusal.
    cdef bint is_closed
    cdef int64_t offset
    if parent is None:
        return 0
    available[0] = account_available(&parent.account, &is_closed)
    if not is_closed and available[0] >= total:
        return 0
    # The look at the money comes first: if the child is not there now, it was not there then.
    offset = child_find(region, parent, name)
    if offset == 0:
        return CHILD_CLOSED if is_closed else CHILD_INSUFFICIENT
    return offset


cdef int64_t child_insert(
    Region region, BudgetBase parent, const Name *name, uint64_t offset, uint64_t total, uint64_t *available
) except -1 nogil:
    # Make the object at `offset`, which is whole: have the parent fund it, and name it. Return the offset of the object
    # that has the name then, or a refusal; an object that has lost is retired.
    cdef Standing standing
    cdef bint is_closed
    cdef int answer
    if parent is None:
        return directory_insert(region, name, offset)
    answer = child_fund(region, parent, name, offset, total, &standing)
    if answer == REPEATED or answer == GRANTED_NOW:     # standing.link: this one, or one that another thread has made
        if standing.link != offset:
            retire_extent(region, offset)
        directory_name(region, name, standing.link)
        return <int64_t>standing.link
    retire_extent(region, offset)
    available[0] = account_available(&parent.account, &is_closed)
    return CHILD_CLOSED if answer == CLOSED else CHILD_INSUFFICIENT


cdef int child_fund(
    Region region, BudgetBase parent, const Name *name, uint64_t offset, uint64_t total, Standing *standing
) except -1 nogil:
    # Have the parent fund the object. Return GRANTED_NOW, REPEATED, INSUFFICIENT or CLOSED, as BudgetBase.put does.
    cdef Supply ask = parent.first_ask()
    cdef int answer
    standing.announced = 0
    while True:
        answer = account_reserve(&parent.account, &name.key, FUNDING, offset, total, hb_now_ms(), standing)
        if 0 <= answer < LACKING:
            return answer
        child_supply(region, parent, offset, answer, standing.announced, &ask)


cdef int child_supply(
    Region region, BudgetBase parent, uint64_t offset, int answer, uint64_t announced, Supply *ask
) except -1 with gil:
    try:
        parent.supply(answer, ask)
    except BaseException:
        # The request was cut short. If it stands in a hold, the child can be funded, and the process that needs the
        # space finds out whether it was (child_is_funded).
        if announced == 0:
            retire_extent(region, offset)
        raise
    return 0


cdef bint child_is_funded(Region region, uint64_t offset) except -1:
    # Return for the directory whether the object at `offset`, which nothing names, was funded. Where it may write, this
    # call decides a request that is still undecided. Another process may take the space over at any moment, so all is
    # copied first and checked then; the caller's compare-and-swap of the extent's state fails in that case.
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    cdef uint64_t state = hb_load_acquire(&extent.state)
    cdef Heading heading = heading_of(extent)
    cdef uint32_t kind = heading.kind
    cdef hb_top_up record
    cdef hb_tranche tranche
    cdef BudgetBase parent
    cdef UserKey key
    cdef Standing standing
    cdef Name place
    cdef Supply ask
    cdef int answer
    cdef bytes name
    hb_fence_acquire()
    if hb_load_acquire(&extent.state) != state:
        return False        # the two words of the heading may be of two objects
    if kind == HB_KIND_TOP_UP:
        if region.extent(offset, HB_KIND_TOP_UP, sizeof(hb_top_up)) == NULL:
            return False
        record_copy(&record.extent, extent, TOP_UP_TERMS)
        if not record_is_sound(region, &record.extent, TOP_UP_TERMS, NULL, 0):
            return False        # half made, or damaged
        parent = budget_base_at(region, record.extent.parent).parent
        if parent is None:
            return False
        key.low = record.key[0]
        key.high = record.key[1]
    elif kind == HB_KIND_TRANCHE:
        if region.extent(offset, HB_KIND_TRANCHE, sizeof(hb_tranche)) == NULL:
            return False
        record_copy(&tranche.extent, extent, TRANCHE_TERMS)
        if not record_is_sound(region, &tranche.extent, TRANCHE_TERMS, NULL, 0):
            return False
        extent = region.extent(tranche.extent.parent, HB_KIND_ENVELOPE, sizeof(hb_extent))
        if extent == NULL or extent.parent == 0:
            return False
        parent = budget_base_at(region, extent.parent)
        key.low = tranche.key[0]
        key.high = tranche.key[1]
    elif kind == HB_KIND_BUDGET or kind == HB_KIND_ENVELOPE:
        name = extent_name(region, offset)
        parent = None if heading.parent == 0 else budget_base_at(region, heading.parent)
        if name is None or parent is None:
            return False
        name_set(region, kind, parent.offset, name, <uint64_t>len(name), &place)
        key = place.key
    else:
        return False
    ask = parent.first_ask()
    while True:
        if region.is_readonly:
            answer = account_find(&parent.account, &key, &standing)
        else:
            answer = account_decide(&parent.account, &key, &standing)
        if answer == NOT_FOUND:
            return False
        if answer == REPEATED:
            if hold_kind(standing.state) != FUNDED or standing.link != offset:
                return False
            if not region.is_readonly and (kind == HB_KIND_BUDGET or kind == HB_KIND_ENVELOPE):
                directory_name(region, &place, offset)
            return True
        parent.supply(answer, &ask)

directory_set_funded(child_is_funded)


# ---- refunds --------------------------------------------------------------------------------------------------------

cdef int refund_from(BudgetBase parent, const UserKey *key, uint64_t target) except -1:
    # Let what a closed child has given back, `target` in all, arrive at its parent, and go on upwards if the parent is
    # closed as well.
    cdef Supply ask = parent.first_ask()
    cdef int answer
    while True:
        answer = account_refund(&parent.account, key, target)
        if answer == REPEATED:
            return refund_upwards(parent)
        if answer == NOT_FOUND:
            parent.raise_corrupt()
        parent.supply(answer, &ask)


cdef int refund_upwards(BudgetBase budget) except -1:
    # Give what is available in a closed budget to its parent, to which it belongs. It only grows, so it is the sum of
    # all refunds.
    cdef bint is_closed
    cdef uint64_t available
    if budget.parent is None:
        return 0
    available = account_available(&budget.account, &is_closed)
    return refund_from(budget.parent, &budget.funding_key, available) if is_closed and available != 0 else 0


# ---- top-ups --------------------------------------------------------------------------------------------------------

cdef UserKey top_up_key(BudgetBase budget, const UserKey *key):
    # Return the key of a top-up in a name space of its own: it is hashed under another key than those of all holds, and
    # with the budget in it.
    cdef unsigned char[32] message
    cdef UserKey out
    memcpy(message, b"top-up: ", 8)
    memcpy(message + 8, &budget.offset, 8)
    memcpy(message + 16, key, 16)
    siphash128(budget.region.header.directory_key, message, 32, &out)
    return out


cdef str top_up_conflict(BudgetBase budget, object key, uint64_t present, uint64_t wanted):
    return f"top-up {key!r} of budget {budget.name!r} was {present}, not {wanted}"


cdef int pledge(BudgetBase budget, uint64_t amount) except -1:
    # Pledge an amount of a budget without a parent: keep its total below 2**62, whichever other threads top it up now.
    # (What a child gets is a part of what its parent has, so its total stays below that.) A death after this leaves the
    # limit lower by the amount, and no money anywhere. It is O(1), where the sum of all top-ups is O(holds).
    cdef uint64_t pledged = hb_load_acquire(budget.pledged)
    while pledged < <uint64_t>TOTAL_LIMIT and budget.base_total + pledged + amount < <uint64_t>TOTAL_LIMIT:
        if hb_cas(budget.pledged, pledged, pledged + amount):
            return 0
        pledged = hb_load_acquire(budget.pledged)
    raise_limit(budget, budget.sum_of_all(), amount)


cdef int check_limit(BudgetBase budget, uint64_t amount) except -1:
    # Raise ValueError if the amount, which the parent of a sub-budget has refused, would bring its total to 2**62 or
    # more: to ask for that much was an error from the beginning. A sub-budget has no more than the root, so all top-ups
    # need to be summed only for amounts that nobody has.
    cdef BudgetBase root = budget
    while root.parent is not None:
        root = root.parent
    if root.base_total + hb_load_acquire(root.pledged) + amount >= <uint64_t>TOTAL_LIMIT:
        total = budget.sum_of_all()
        if total + amount >= TOTAL_LIMIT:
            raise_limit(budget, total, amount)
    return 0


cdef object raise_limit(BudgetBase budget, object total, uint64_t amount):
    raise ValueError(
        f"the total of budget {budget.name!r} must stay below 2**62: it is {total}, and {amount} is too much"
    )


cdef int fund_top_up(BudgetBase budget, const UserKey *key, uint64_t amount) except -1:
    # Make a record of a top-up and have the parent fund it. A top-up that is refused takes no space, if the refusal can
    # be seen at once. Return GRANTED_NOW, REPEATED, INSUFFICIENT or CLOSED.
    cdef hb_top_up *record
    cdef Standing standing
    cdef int64_t offset
    cdef int answer
    cdef bint is_closed
    cdef uint64_t available = account_available(&budget.parent.account, &is_closed)
    if (is_closed or available < amount) and budget.parent.look_up(key, &standing) == NOT_FOUND:
        return CLOSED if is_closed else INSUFFICIENT
    offset = directory_allocate(budget.region, sizeof(hb_top_up))
    record = <hb_top_up *>(budget.region.base + offset)
    record.extent.kind = HB_KIND_TOP_UP
    record.extent.parent = budget.offset
    record.extent.created_at_ms = hb_now_ms()
    record.total = amount
    record.key[0] = key.low
    record.key[1] = key.high
    record_seal(budget.region, &record.extent, TOP_UP_TERMS, NULL, 0)
    try:
        answer = budget.parent.put(key, FUNDING, <uint64_t>offset, amount, &standing)
    except BaseException:
        # Once it is announced, it may be funded by now, or never: a process that needs the space will find out.
        if standing.announced == 0:
            retire_extent(budget.region, <uint64_t>offset)
        raise
    if answer == GRANTED_NOW:
        publish_extent(budget.region, <uint64_t>offset)
    else:
        retire_extent(budget.region, <uint64_t>offset)
    return answer
