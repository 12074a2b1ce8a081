"""The tree of budgets and envelopes: funding, refunds up a chain of closed budgets, and conservation on every level."""

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hbcore
from hbcore import BudgetStats, State, Status

SEED = bytes(range(32))
LIMIT = 2**62
LONG_AGO = 1_000_000_000  # an expiry, in 2001


def refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(hbcore.InsufficientBudgetError) as caught:
        call()
    assert str(caught.value) == words


# ---- conservation ---------------------------------------------------------------------------------------------------


def check_levels(engine: Any) -> None:
    """Check that on every level each unit is in one place, and a child has what its parent holds for it."""
    budgets, envelopes = engine.budgets(), engine.envelopes()
    for budget in budgets:
        stats, rows = budget.stats(), budget.holds()
        assert stats.total == stats.available + stats.held + stats.settled
        assert min(stats) >= 0
        held = sum(rows["amount"][rows["state"] == State.GRANTED].tolist())
        settled = sum(rows["settled"].tolist())
        for child in budgets:
            if child.parent == budget:
                below = child.stats()
                held += below.available + below.held
                settled += below.settled
        for envelope in envelopes:
            if envelope.budget == budget:
                amounts = envelope.stats().amounts
                held += amounts.granted + amounts.remaining
                settled += amounts.settled
        assert (stats.held, stats.settled) == (held, settled)
        if budget.parent is None:
            assert stats.total == budget.total
        elif budget.closed:
            assert stats.available == 0
            assert budget.close() == budget.total - stats.total
        else:
            assert stats.total == budget.total


def check_tree(engine: Any) -> None:
    """Check conservation, and that the audit says so too; the audit ends the envelopes that have expired."""
    check_levels(engine)
    report = engine.audit()
    check_levels(engine)
    budgets = engine.budgets()
    roots = [budget.stats() for budget in budgets if budget.parent is None]
    assert (report.budgets, report.envelopes) == (len(budgets), len(engine.envelopes()))
    assert report.holds == sum(len(budget.holds()) for budget in budgets)
    assert report.amount_budgeted == sum(root.total for root in roots)
    assert report.amount_spent == sum(root.settled for root in roots)
    assert report.amount_available == sum(budget.stats().available for budget in budgets)
    assert report.amount_held == report.amount_budgeted - report.amount_available - report.amount_spent


class World:
    """A tree that grows by a program of small numbers; whatever it is asked that cannot be is an error or a value."""

    def __init__(self, impl: ModuleType, total: int) -> None:
        self.engine = impl.Engine()
        self.budgets = [self.engine.budget("root", total)]
        self.envelopes: list[Any] = []
        self.claimed: set[tuple[int, int]] = set()

    def do(self, action: str, where: int, which: int, amount: int) -> None:
        with suppress(hbcore.ConflictError, hbcore.InsufficientBudgetError):
            getattr(self, action)(where, which, amount)

    def budget(self, where: int, which: int, amount: int) -> None:
        made = self.budgets[where % len(self.budgets)].budget(f"b{which}", amount)
        if made not in self.budgets:
            self.budgets.append(made)

    def envelope(self, where: int, which: int, amount: int) -> None:
        terms = {"packets": 1 + which % amount, "seed": SEED, "expires_at": LONG_AGO if which == 0 else None}
        made = self.budgets[where % len(self.budgets)].envelope(f"e{which}", amount, **terms)
        if made not in self.envelopes:
            self.envelopes.append(made)

    def reserve(self, where: int, which: int, amount: int) -> None:
        self.budgets[where % len(self.budgets)].reserve(which, amount)

    def settle(self, where: int, which: int, amount: int) -> None:
        budget = self.budgets[where % len(self.budgets)]
        hold = budget.find(which)
        budget.settle(which, None if hold is None else min(amount - 1, hold.amount))

    def release(self, where: int, which: int, amount: int) -> None:
        self.budgets[where % len(self.budgets)].release(which)

    def top_up(self, where: int, which: int, amount: int) -> None:
        self.budgets[where % len(self.budgets)].top_up(which, amount)

    def close(self, where: int, which: int, amount: int) -> None:
        if which == 0:  # closing is the end of much
            self.budgets[where % len(self.budgets)].close()

    def on_envelope(self, where: int, which: int, amount: int) -> None:
        if self.envelopes:
            number = where % len(self.envelopes)
            envelope = self.envelopes[number]
            if amount == 1 and which == 1:
                envelope.close()
            elif amount % 4 == 0:
                envelope.settle(which)
            elif amount % 4 == 1:
                envelope.release(which)
            else:
                envelope.claim(which)
                self.claimed.add((number, which))

    def sweep(self, where: int, which: int, amount: int) -> None:
        self.engine.sweep()


ACTIONS = ["budget", "budget", "envelope", "envelope", "reserve", "reserve", "settle", "release", "top_up", "close"]
programs = st.lists(
    st.tuples(
        st.sampled_from([*ACTIONS, "on_envelope", "on_envelope", "on_envelope", "sweep"]),
        st.integers(0, 5),
        st.integers(0, 3),
        st.integers(1, 9),
    ),
    max_size=60,
)


@pytest.mark.full
@settings(max_examples=300)
@given(total=st.integers(1, 60), program=programs)
def test_not_one_unit_is_lost_on_any_level_whatever_is_done(
    impl: ModuleType, total: int, program: list[tuple[str, int, int, int]]
) -> None:
    world = World(impl, total)
    for step in program:
        world.do(*step)
        check_levels(world.engine)
    check_tree(world.engine)


@pytest.mark.full
@settings(max_examples=300)
@given(total=st.integers(1, 60), program=programs)
def test_whatever_is_available_can_be_reserved_to_the_last_unit(
    impl: ModuleType, total: int, program: list[tuple[str, int, int, int]]
) -> None:
    world = World(impl, total)
    for step in program:
        world.do(*step)
    for budget in world.budgets:
        available = budget.stats().available
        if budget.closed:
            assert budget.reserve("last", 1).status is Status.CLOSED
            continue
        assert budget.reserve("too much", available + 1).status is Status.INSUFFICIENT
        assert not available or budget.reserve("last", available).status is Status.GRANTED
        assert budget.reserve("more", 1).status is Status.INSUFFICIENT
    check_tree(world.engine)


@pytest.mark.full
@settings(max_examples=300)
@given(total=st.integers(1, 60), program=programs, order=st.randoms(use_true_random=False))
def test_in_the_end_all_that_was_not_spent_is_back_at_the_root(
    impl: ModuleType, total: int, program: list[tuple[str, int, int, int]], order: Any
) -> None:
    world = World(impl, total)
    for step in program:
        world.do(*step)
    root = world.budgets[0]

    def let_go(release: Callable[[object], object], key: object) -> None:
        with suppress(hbcore.ConflictError):  # settled: final
            release(key)

    ends: list[Callable[[], object]] = [budget.close for budget in world.budgets[1:]]
    ends += [envelope.close for envelope in world.envelopes]
    ends += [lambda b=b, key=key: let_go(b.release, key) for b in world.budgets for key in range(4)]
    ends += [lambda e=e, user=user: let_go(world.envelopes[e].release, user) for e, user in world.claimed]
    order.shuffle(ends)
    for end in ends:
        end()
        check_tree(world.engine)
    stats = root.stats()
    assert stats.held == 0
    assert stats.available == root.total - stats.settled
    for budget in world.budgets[1:]:
        below = budget.stats()
        assert below == BudgetStats(below.settled, 0, 0, below.settled)
    assert world.engine.audit().amount_held == 0


# ---- funding --------------------------------------------------------------------------------------------------------


@given(total=st.integers(1, LIMIT - 1), data=st.data())
def test_a_child_is_funded_whole_or_not_at_all(impl: ModuleType, total: int, data: st.DataObject) -> None:
    part = data.draw(st.integers(1, total))
    engine = impl.Engine()
    parent = engine.budget("parent", total)
    makes: list[Callable[[str, int], Any]] = [parent.budget, lambda name, amount: parent.envelope(name, amount, 1)]
    make, other = data.draw(st.permutations(makes))
    child = make("child", part)
    rest = total - part
    assert parent.stats() == BudgetStats(total, rest, part, 0)
    if rest + 1 < LIMIT:
        for again in (make, other):
            with pytest.raises(hbcore.InsufficientBudgetError):
                again("one too many", rest + 1)
    if rest:
        other("rest", rest)
    assert parent.stats() == BudgetStats(total, 0, total, 0)
    assert parent.reserve("k", 1).status is Status.INSUFFICIENT
    assert child.close() == part
    assert parent.stats() == BudgetStats(total, part, rest, 0)
    check_tree(engine)


def test_what_cannot_be_funded_is_not_made_and_its_name_stays_free(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    gala.reserve("k", 30)
    before = gala.stats(), engine.audit()
    refused(lambda: gala.budget("子", 71), "budget 'gala' has 70 available, not the 71 for budget '子'")
    refused(lambda: gala.envelope("红", 80, 8), "budget 'gala' has 70 available, not the 80 for envelope '红'")
    assert (gala.stats(), engine.audit()) == before
    for look in (gala.budget, gala.envelope):
        with pytest.raises(hbcore.NotFoundError):
            look("子")
    assert (engine.budgets(), engine.envelopes()) == ([gala], [])
    assert gala.budget("子", 40).total == 40
    assert gala.envelope("红", 30, 3).terms.total == 30
    assert gala.stats() == BudgetStats(100, 0, 100, 0)


def test_a_closed_budget_funds_nothing_new_and_shows_what_there_is(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    app, envelope = gala.budget("app", 10), gala.envelope("e", 20, 2, seed=SEED)
    gala.close()
    refused(lambda: gala.budget("new", 1), "budget 'gala' is closed")
    refused(lambda: gala.envelope("new", 1, 1), "budget 'gala' is closed")
    refused(lambda: gala.budget("new", 10**6), "budget 'gala' is closed")
    assert gala.budget("app", 10) == gala.budget("app") == app
    assert gala.envelope("e", 20, 2) == gala.envelope("e") == envelope
    with pytest.raises(hbcore.ConflictError, match=r"^budget 'app' exists with total = 10, not 11$"):
        gala.budget("app", 11)
    with pytest.raises(hbcore.NotFoundError):
        gala.budget("new")
    # Children go on with what they have.
    assert app.reserve("k", 10).status is Status.GRANTED
    assert envelope.claim("u").status is Status.GRANTED
    check_tree(engine)


def test_the_envelope_of_a_budget_is_like_any_other(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 10_000)
    terms = {"total": 5_000, "packets": 30, "law": "dirichlet", "min": 2, "max": 900, "concentration": 2, "seed": SEED}
    alone, funded = engine.envelope("e", **terms), gala.envelope("e", **terms, expires_at=4e9, per_user=3)
    assert funded.terms == alone.terms._replace(expires_at_ms=4_000_000_000_000, per_user=3)
    assert funded.claim_many(range(31)).tolist() == alone.claim_many(range(31)).tolist()
    assert funded.stats() == alone.stats()
    assert gala.stats().held == 5_000
    check_tree(engine)


# ---- refunds --------------------------------------------------------------------------------------------------------


@pytest.mark.full
@given(packets=st.integers(1, 30), claimed=st.integers(0, 30), data=st.data())
def test_a_closed_envelope_refunds_what_nobody_claimed_exactly_once(
    impl: ModuleType, packets: int, claimed: int, data: st.DataObject
) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 1000)
    envelope = gala.envelope("e", 900, packets)
    claims = {user: claim.amount for user in range(claimed) if (claim := envelope.claim(user))}
    ends = data.draw(st.lists(st.sampled_from(["settle", "release", "keep"]), min_size=claimed, max_size=claimed))
    is_late = data.draw(st.booleans())
    if is_late:
        envelope.close()
        assert gala.stats() == BudgetStats(1000, 1000 - sum(claims.values()), sum(claims.values()), 0)
    spent = kept = 0
    for user, end in zip(claims, ends, strict=False):
        if end == "settle":
            spent += envelope.settle(user).amount
        elif end == "release":
            envelope.release(user)
        else:
            kept += claims[user]
        if is_late:
            check_tree(engine)
    assert gala.stats().settled == spent
    for _ in range(2):
        assert envelope.close() == 900 - spent - kept
        assert gala.stats() == BudgetStats(1000, 1000 - spent - kept, kept, spent)
        check_tree(engine)


@pytest.mark.parametrize("how", ["claim", "claim_many", "sweep", "audit"])
def test_an_expired_envelope_is_closed_by_who_meets_it_first(impl: ModuleType, how: str) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    envelope = gala.envelope("e", 60, 6, expires_at=LONG_AGO)
    still = gala.envelope("still", 20, 2, expires_at=4e9)
    assert gala.stats() == BudgetStats(100, 20, 80, 0)
    assert envelope.stats().remaining == 6
    if how == "claim":
        assert envelope.claim("u").status is Status.CLOSED
    elif how == "claim_many":
        assert (envelope.claim_many(["u", "v"])["status"] == Status.CLOSED).all()
    elif how == "sweep":
        assert engine.sweep() == 1
    else:
        report = engine.audit()
        assert (report.refunded, report.amount_available, report.amount_held) == (6, 80, 20)
    assert gala.stats() == BudgetStats(100, 80, 20, 0)
    assert envelope.stats().remaining == 0
    assert envelope.close() == 60
    assert engine.sweep() == 0
    assert still.claim("u").status is Status.GRANTED
    check_tree(engine)


def test_finding_and_looking_do_not_end_an_expired_envelope(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    envelope = gala.envelope("e", 60, 6, expires_at=LONG_AGO)
    assert [call("u") for call in (envelope.find, envelope.settle, envelope.release)] == [None] * 3
    assert len(envelope.claims()) == 0
    assert gala.envelope("e") == envelope
    assert (envelope.stats().remaining, gala.stats().held) == (6, 60)
    assert engine.sweep() == 1


def test_a_sweep_counts_what_it_ends(impl: ModuleType) -> None:
    engine = impl.Engine()
    assert engine.sweep() == 0
    gala = engine.budget("gala", 100)
    for number in range(5):
        gala.envelope(f"e{number}", 10, 2, expires_at=LONG_AGO)
    engine.envelope("of no budget", 10, 2, expires_at=LONG_AGO)
    engine.envelope("open", 10, 2)
    gala.envelope("e0").claim("u")
    gala.envelope("e1").close()
    assert engine.sweep() == 4
    assert engine.sweep() == 0
    assert gala.stats().available == 100
    assert engine.audit().refunded == 12


def test_a_closed_sub_budget_refunds_now_and_later(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    app = gala.budget("app", 60)
    app.reserve_many(["a", "b", "c"], 10)
    envelope = app.envelope("e", 20, 2, law="equal")
    envelope.claim("u")
    for _ in range(2):
        assert app.close() == 10
        assert app.stats() == BudgetStats(50, 0, 50, 0)
        assert gala.stats() == BudgetStats(100, 50, 50, 0)
    assert (app.total, app.closed, gala.closed) == (60, True, False)
    steps: list[tuple[Callable[[], Any], BudgetStats, BudgetStats]] = [
        (lambda: app.settle("a", 4), BudgetStats(44, 0, 40, 4), BudgetStats(100, 56, 40, 4)),
        (lambda: app.release("b"), BudgetStats(34, 0, 30, 4), BudgetStats(100, 66, 30, 4)),
        (lambda: envelope.release("u"), BudgetStats(34, 0, 30, 4), BudgetStats(100, 66, 30, 4)),
        (lambda: envelope.claim("v"), BudgetStats(34, 0, 30, 4), BudgetStats(100, 66, 30, 4)),
        (lambda: envelope.close(), BudgetStats(24, 0, 20, 4), BudgetStats(100, 76, 20, 4)),
        (lambda: envelope.release("v"), BudgetStats(14, 0, 10, 4), BudgetStats(100, 86, 10, 4)),
        (lambda: app.settle("c"), BudgetStats(14, 0, 0, 14), BudgetStats(100, 86, 0, 14)),
    ]
    for step, of_app, of_gala in steps:
        step()
        assert (app.stats(), gala.stats()) == (of_app, of_gala)
        check_tree(engine)
    assert app.close() == 46
    assert app.reserve("late", 1).status is Status.CLOSED
    assert app.reserve("a", 10).state is State.SETTLED
    assert gala.reserve("again", 86).status is Status.GRANTED


@pytest.mark.full
@given(depth=st.integers(1, 6), is_open=st.integers(0, 6), data=st.data())
@example(depth=6, is_open=6, data=None)
def test_refunds_climb_a_chain_of_closed_budgets_to_the_first_open_one(
    impl: ModuleType, depth: int, is_open: int, data: st.DataObject | None
) -> None:
    engine = impl.Engine()
    chain = [engine.budget("0", 100)]
    for level in range(1, depth + 1):
        chain.append(chain[-1].budget(str(level), 100 - level))
    envelope = chain[-1].envelope("e", 50, 5, law="equal")
    envelope.claim("u")
    chain[-1].reserve("k", 20)
    closing = [budget for level, budget in enumerate(chain) if level != is_open]
    for budget in closing if data is None else data.draw(st.permutations(closing)):
        budget.close()
        check_tree(engine)
    # The first open one on the way up, or the root, which keeps what it cannot pass on.
    target = chain[is_open] if is_open <= depth else chain[0]
    before = target.stats()
    for call, amount in (
        (lambda: chain[-1].release("k"), 20),
        (lambda: envelope.close(), 40),
        (lambda: envelope.release("u"), 10),
    ):
        call()
        now = target.stats()
        assert now.available == before.available + amount
        assert now.held == before.held - amount
        before = now
        check_tree(engine)
    assert sum(budget.stats().available for budget in chain) == 100
    if target != chain[0]:
        target.close()
    assert chain[0].stats() == BudgetStats(100, 100, 0, 0)
    check_tree(engine)


# ---- topping up below -----------------------------------------------------------------------------------------------


def test_a_top_up_below_is_the_parents_money(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    app = gala.budget("app", 60)
    app.reserve("all", 60)
    assert app.top_up("t", 41).status is Status.INSUFFICIENT
    assert not app.top_up("t", 41)
    assert (app.total, gala.stats().available, len(gala.holds())) == (60, 40, 0)
    first, again = app.top_up("t", 30), app.top_up("t", 30)
    assert (first.status, first.amount, again.status, again.amount) == (Status.GRANTED, 30, Status.REPEATED, 30)
    with pytest.raises(hbcore.ConflictError, match=r"^top-up 't' of budget 'app' was 30, not 41$"):
        app.top_up("t", 41)
    assert (app.total, app.stats(), gala.stats()) == (90, BudgetStats(90, 30, 60, 0), BudgetStats(100, 10, 90, 0))
    assert len(gala.holds()) == 0
    assert gala.find("t") is None
    assert gala.reserve("t", 10).status is Status.GRANTED
    assert app.top_up("u", 1).status is Status.INSUFFICIENT
    gala.top_up("more", 5)
    assert app.top_up("u", 5).status is Status.GRANTED
    assert app.reserve("more", 35).status is Status.GRANTED
    check_tree(engine)
    assert app.close() == 0
    app.release("all")
    assert app.close() == 60
    assert app.top_up("t", 30).status is Status.REPEATED
    assert app.top_up("v", 1).status is Status.CLOSED
    assert gala.budget("app", 60) == app
    check_tree(engine)


def test_a_closed_parent_tops_up_nobody(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    app = gala.budget("app", 10)
    app.top_up("t", 1)
    gala.close()
    for amount in (1, 1000):
        assert app.top_up("u", amount).status is Status.CLOSED
    assert app.top_up("t", 1).status is Status.REPEATED
    assert app.reserve("k", 11).status is Status.GRANTED
    check_tree(engine)


def test_a_top_up_below_stays_below_the_limit_as_well(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", LIMIT - 1)
    app = gala.budget("app", LIMIT - 5)
    with pytest.raises(ValueError, match=r"^the total of budget 'app' must stay below 2\*\*62: it is \d+, and 5 is"):
        app.top_up("t", 5)
    assert app.top_up("t", 4).status is Status.GRANTED
    assert gala.stats().available == 0
    check_tree(engine)


# ---- audit ----------------------------------------------------------------------------------------------------------


def test_the_audit_counts_the_money_of_all_levels(impl: ModuleType) -> None:
    engine = impl.Engine()
    engine.envelope("of no budget", 500, 5).claim("u")
    gala, party = engine.budget("gala", 1000), engine.budget("party", 300)
    app = gala.budget("app", 400)
    envelope = app.envelope("e", 100, 10, law="equal")
    envelope.claim_many(range(4))
    envelope.settle(0)
    envelope.release(1)
    gala.reserve_many(["a", "b", "c"], 50)
    gala.settle("a", 20)
    gala.release("b")
    party.top_up("t", 7)
    party.reserve("a", 100)
    report = engine.audit()
    assert report == hbcore.AuditReport(
        envelopes=2,
        packets=15,
        granted=3,
        settled=1,
        refunded=0,
        amount_total=600,
        amount_granted=report.amount_granted,
        amount_settled=10,
        budgets=3,
        holds=4,
        amount_budgeted=1307,
        amount_available=530 + 300 + 207,
        amount_held=90 + 50 + 100,
        amount_spent=30,
    )
