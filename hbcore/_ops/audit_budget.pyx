"""The audit of budgets: proof that their money is all there, and that what they have funded is there as well.

For every budget: each hold stands where its key leads; what is available and what was granted are the total; each child
is one hold of its parent, of its total; what was added to a child is a hold of its parent as well; and what a parent
has got back is what the child has given.

On a quiet engine the audit is exact. While others reserve, it looks again at what is in motion and leaves it out if it
has moved; so a sound engine is never called unsound, and damage is found unless it moves as well.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from hbcore._claims.packets cimport Counts
from hbcore._claims.tranche cimport Tranche, tranche_step
from hbcore._file.directory cimport extent_name, name_hash
from hbcore._file.format cimport (
    HB_KIND_BUDGET, HB_KIND_ENVELOPE, HB_KIND_TOP_UP, HB_KIND_TRANCHE, HB_SEGMENTS, hb_budget, hb_envelope, hb_extent,
    hb_top_up, hb_tranche,
)
from hbcore._file.record cimport TRANCHE_TERMS, record_is_sound
from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport CORRUPT, NOT_FOUND
from hbcore._lib.atomics cimport hb_load_acquire, hb_load_private
from hbcore._money.account cimport MONEY_CLOSED, account_available, account_money
from hbcore._money.account_scan cimport Sums, account_check
from hbcore._money.budget_base cimport Run, Supply
from hbcore._money.funding cimport refund_from, refund_upwards
from hbcore._money.hold cimport ADDED, FUNDED, Standing, hold_kind
from hbcore._money.hold_index cimport segment_first
from hbcore._ops.top_up cimport finish_top_ups, is_appended
from hbcore.budget cimport Budget, budget_at
from hbcore.envelope cimport Envelope

from functools import partial

from hbcore.errors import AuditError
from hbcore._ops.top_up import finish_tranche

cdef enum:
    LOOKS = 4       # limit of the looks at the money of a budget that moves


cdef int audit_places(Budget budget) except -1:
    # Check that every hold stands where its key leads.
    cdef uint64_t place
    cdef Run run
    cdef Supply ask
    cdef int answer
    # A segment is made before the number of the next hold passes its end.
    cdef uint64_t next_hold = hb_load_acquire(budget.account.index.next)
    cdef uint64_t segment = 0
    run.segment = run.end = 0
    budget.attach_levels()
    while segment < HB_SEGMENTS and hb_load_private(&budget.account.index.segments[segment]) != 0:
        segment += 1
    if next_hold > segment_first(segment):
        raise AuditError(f"budget {budget.name!r}: {next_hold} is not where its next hold can be")
    while budget.next_run(&run):
        ask = budget.first_ask()
        while True:
            with nogil:
                answer = account_check(&budget.account, run.first, run.end, &place)
            if answer == 0:
                break
            if answer == CORRUPT:
                raise AuditError(
                    f"budget {budget.name!r}: hold {place} is damaged, or its key does not lead to it"
                )
            ask.turns = 0       # a run is long, and meanwhile others may have made more than one request can need
            budget.supply(answer, &ask)
    return 0


cdef int audit_holds(Budget budget, Sums *sums) except -1:
    # Check that what was granted and what is available are the total together. A budget that moves at every look is
    # left out.
    cdef uint64_t operation, available, again
    cdef Sums second
    cdef int64_t missing
    cdef int _turn
    for _turn in range(LOOKS):
        if not account_money(&budget.account, &operation, &available):
            continue
        budget.count(sums)
        again = available
        if not account_money(&budget.account, &operation, &again) or again != available:
            continue
        budget.count(&second)
        account_money(&budget.account, &operation, &again)
        if again != available or second.digest != sums.digest:
            continue        # the budget moves
        available &= ~MONEY_CLOSED
        if available + sums.taken != budget.base_total + sums.added:
            missing = <int64_t>(budget.base_total + sums.added - available - sums.taken)
            difference = f"{missing:,} are missing" if missing > 0 else f"{-missing:,} are too many"
            raise AuditError(
                f"budget {budget.name!r}: {available} available and {<int64_t>sums.taken} held or spent are not "
                f"{budget.base_total + sums.added} in all: {difference}"
            )
        return 0
    return 0


cdef int audit_child(
    Region region, Budget parent, uint64_t offset, bytes name, uint32_t kind, uint64_t total
) except -1:
    # Check that a child is a hold of its parent, of the child's total.
    cdef UserKey key = name_hash(region, kind, parent.offset, name)
    cdef Standing standing
    what = f"{'budget' if kind == HB_KIND_BUDGET else 'envelope'} {name.decode(errors='backslashreplace')!r}"
    if parent.look_up(&key, &standing) == NOT_FOUND or hold_kind(standing.state) != FUNDED or standing.link != offset:
        raise AuditError(f"budget {parent.name!r} holds nothing for {what}")
    if standing.amount != total:
        raise AuditError(f"budget {parent.name!r} holds {standing.amount} for {what}, whose total is {total}")
    return 0


cdef uint64_t refunded_to(Region region, Budget parent, uint32_t kind, bytes name) except? 0xFFFFFFFFFFFFFFFF:
    # Return what a parent has got back from the child of that kind and name.
    cdef UserKey key = name_hash(region, kind, parent.offset, name)
    cdef Standing standing
    parent.look_up(&key, &standing)
    return standing.value


cdef int audit_refund(Region region, Budget parent, uint32_t kind, str name, object given) except -1:
    # Check that a parent has got back what its child has given. given: returns what the child has given so far.
    cdef bytes encoded = name.encode()
    cdef uint64_t before = given(), present, after
    cdef UserKey key
    present = refunded_to(region, parent, kind, encoded)
    if present < before and not region.is_readonly:
        # The difference is on its way: another process closes the child just now, or has died while closing it. The
        # audit passes it on as well, and it counts once only (funding.pyx).
        key = name_hash(region, kind, parent.offset, encoded)
        refund_from(parent, &key, before)
        present = refunded_to(region, parent, kind, encoded)
    after = given()
    if present > after or (not region.is_readonly and present < before):
        raise AuditError(
            f"budget {parent.name!r} has got back {present} of {'budget' if kind == HB_KIND_BUDGET else 'envelope'} "
            f"{name!r}, which has given {after}"
        )
    return 0


def audit_budgets(budgets, envelopes):
    """Audit budgets and what they have funded; return the sums of ``AuditReport``, the number of budgets first."""
    cdef Budget budget
    cdef Envelope envelope
    cdef Sums sums
    cdef uint64_t holds = 0
    for budget in budgets:
        audit_places(budget)    # first: whatever else goes through the holds cannot say which of them is damaged
    for budget in budgets:
        if not budget.region.is_readonly:
            finish_top_ups(budget)
            refund_upwards(budget)
    for budget in budgets:
        audit_holds(budget, &sums)
        holds += sums.count
        audit_links(budget)
        if budget.parent is not None:
            audit_child(budget.region, budget.parent, budget.offset, budget.name.encode(), HB_KIND_BUDGET,
                        budget.base_total)
            audit_refund(budget.region, budget.parent, HB_KIND_BUDGET, budget.name, partial(given_by_budget, budget))
    for envelope in envelopes:
        if envelope.budget is not None:
            audit_child(envelope.region, envelope.budget, envelope.offset, envelope.name.encode(), HB_KIND_ENVELOPE,
                        envelope.deck.first.terms.total)
            audit_tranches(envelope)
            audit_refund(envelope.region, envelope.budget, HB_KIND_ENVELOPE, envelope.name,
                         partial(given_by_envelope, envelope))
    stats = [budget.stats() for budget in budgets]
    budgeted = sum(money.total for budget, money in zip(budgets, stats) if budget.parent is None)
    available = sum(money.available for money in stats)
    spent = sum(money.settled for budget, money in zip(budgets, stats) if budget.parent is None)
    return [len(stats), holds, budgeted, available, budgeted - available - spent, spent]


def given_by_budget(Budget budget not None):
    """Return all that a budget has given to its parent."""
    cdef bint is_closed
    cdef uint64_t available = account_available(&budget.account, &is_closed)
    return available if is_closed else 0


def given_by_envelope(Envelope envelope not None):
    """Return all that an envelope has given to its budget."""
    cdef Counts counts
    envelope.count(&counts)
    return counts.amount_refunded


cdef int audit_tranches(Envelope envelope) except -1:
    # Check that every top-up of an envelope is a hold of its budget, each for itself.
    cdef Tranche *tranche = &envelope.deck.first
    cdef Tranche *before
    cdef Standing standing
    cdef uint64_t offset
    while True:
        before = tranche
        if tranche_step(envelope.deck.attach, envelope.deck.owner, &tranche) != 0 or tranche == NULL:
            return 0        # a damaged chain is found by the audit of the envelope itself
        # Not loaded before the step: the tranche that the step has met may have been appended since.
        offset = hb_load_acquire(before.following)
        if (envelope.budget.look_up(&tranche.key, &standing) == NOT_FOUND or hold_kind(standing.state) != FUNDED
                or standing.link != offset or standing.amount != tranche.terms.total):
            raise AuditError(
              f"budget {envelope.budget.name!r} holds nothing for top-up {tranche.number} of envelope {envelope.name!r}"
            )
        if standing.value != 0:     # once a tranche is appended, its money comes back only through its envelope
            raise AuditError(
              f"budget {envelope.budget.name!r} has got back {standing.value} for top-up {tranche.number} of envelope "
              f"{envelope.name!r}, whose packets are there"
            )


cdef int audit_links(Budget budget) except -1:
    # Check that whatever was funded is there, was funded once, and names this budget itself; and that the parent has
    # paid whatever was added.
    cdef uint64_t at
    cdef UserKey key
    cdef Standing standing
    cdef Run run
    run.segment = run.end = 0
    budget.attach_levels()
    while budget.next_run(&run):
        for at in range(run.first, run.end):
            if budget.read_at(at, &key, &standing) == NOT_FOUND:
                continue
            if hold_kind(standing.state) == FUNDED:
                audit_link(budget, &standing)
            elif hold_kind(standing.state) == ADDED and budget.parent is not None:
                audit_added(budget, &key, &standing)
    return 0


cdef int audit_link(Budget budget, const Standing *hold) except -1:
    # Check that the child which a hold names exists and was funded by that hold alone. Every child has one key, that of
    # its kind and name or of its top-up, and a key leads to one hold. So if the key of the child that a hold names
    # leads back to that hold, no other hold has money for the same child.
    cdef Region region = budget.region
    cdef hb_extent *extent
    cdef UserKey key
    cdef Standing found
    cdef uint64_t total
    cdef bytes name = None
    extent = region.extent(hold.link, HB_KIND_TOP_UP, sizeof(hb_top_up))
    if extent != NULL:
        audit_top_up(budget, <hb_top_up *>extent)
        key.low = (<hb_top_up *>extent).key[0]
        key.high = (<hb_top_up *>extent).key[1]
        total = (<hb_top_up *>extent).total
    elif region.extent(hold.link, HB_KIND_TRANCHE, sizeof(hb_tranche)) != NULL:
        extent = region.extent(hold.link, HB_KIND_TRANCHE, sizeof(hb_tranche))
        audit_tranche(budget, hold.link)
        key.low = (<hb_tranche *>extent).key[0]
        key.high = (<hb_tranche *>extent).key[1]
        total = (<hb_tranche *>extent).total
    else:
        extent = region.extent(hold.link, HB_KIND_BUDGET, sizeof(hb_budget))
        if extent == NULL:
            extent = region.extent(hold.link, HB_KIND_ENVELOPE, sizeof(hb_envelope))
        if extent != NULL and extent.parent == budget.offset:
            name = extent_name(region, hold.link)
        if name is None:
            raise AuditError(f"budget {budget.name!r} holds money for a child at byte {hold.link}, where none is")
        key = name_hash(region, extent.kind, budget.offset, name)
        total = (<hb_budget *>extent).total     # an envelope has its total at the same place
    if budget.look_up(&key, &found) == NOT_FOUND or found.number != hold.number:
        raise AuditError(
            f"budget {budget.name!r} holds money for the child at byte {hold.link} under a key that is not that child's"
        )
    if hold.amount != total:
        raise AuditError(
            f"budget {budget.name!r} holds {hold.amount} for the child at byte {hold.link}, whose total is {total}"
        )
    return 0


cdef int audit_top_up(Budget budget, hb_top_up *record) except -1:
    # Check that the top-up of a sub-budget that this budget has paid has arrived there.
    cdef Region region = budget.region
    cdef Budget target = budget_at(region, record.extent.parent)
    cdef UserKey key
    cdef Standing standing
    cdef int answer
    key.low = record.key[0]
    key.high = record.key[1]
    answer = target.look_up(&key, &standing)
    if answer == NOT_FOUND:        # on its way: another process tops up just now, or has died while topping up
        if region.is_readonly:
            return 0
        finish_top_ups(budget)
        answer = target.look_up(&key, &standing)
    if answer == NOT_FOUND or hold_kind(standing.state) != ADDED or standing.amount != record.total:
        raise AuditError(f"budget {budget.name!r} has topped up {target.name!r}, which has not got it")
    return 0


cdef int audit_tranche(Budget budget, uint64_t offset) except -1:
    # Check that the top-up of an envelope that this budget has paid has arrived there, or was refused and its money
    # has come back. Where nothing may be written, it may also be on its way.
    cdef Region region = budget.region
    cdef hb_tranche *record = <hb_tranche *>region.extent(offset, HB_KIND_TRANCHE, sizeof(hb_tranche))
    cdef hb_extent *extent = region.extent(record.extent.parent, HB_KIND_ENVELOPE, sizeof(hb_extent))
    cdef Standing standing
    cdef UserKey key
    if (extent == NULL or extent.parent != budget.offset
            or not record_is_sound(region, &record.extent, TRANCHE_TERMS, NULL, 0)):
        raise AuditError(f"budget {budget.name!r} holds money for the damaged top-up at byte {offset}")
    if not region.is_readonly:
        finish_tranche(region, offset)
        if not is_appended(region, offset):
            key.low = record.key[0]
            key.high = record.key[1]
            budget.look_up(&key, &standing)
            if standing.value != record.total:      # it was refused, and its money has not come back
                raise AuditError(
                    f"budget {budget.name!r} holds money for a top-up at byte {offset}, which has not arrived"
                )
    return 0


cdef int audit_added(Budget budget, const UserKey *key, const Standing *hold) except -1:
    # Check that the parent has paid money that was added to a sub-budget. The parent holds it under the same key, from
    # before it is added and for ever. So this is true at every moment, and money that nobody has paid is found out.
    cdef hb_top_up *record = NULL
    cdef Standing paid
    if budget.parent.look_up(key, &paid) != NOT_FOUND and hold_kind(paid.state) == FUNDED:
        record = <hb_top_up *>budget.region.extent(paid.link, HB_KIND_TOP_UP, sizeof(hb_top_up))
    if record == NULL or record.extent.parent != budget.offset or paid.amount != hold.amount:
        raise AuditError(
            f"{hold.amount} were added to budget {budget.name!r}, and budget {budget.parent.name!r} has not paid them"
        )
    return 0
