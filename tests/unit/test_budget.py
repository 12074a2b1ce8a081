"""One budget: keyed holds of its money, what becomes of them, and that not one unit is created or lost on the way."""

import copy
import pickle
import re
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hbcore
from hbcore import HOLD_DTYPE, HOLD_SNAPSHOT_DTYPE, BudgetStats, State, Status

KEY = bytes(range(200, 232))
LIMIT = 2**62

keys = st.one_of(
    st.integers(-5, 60),
    st.integers(-(2**63), 2**64 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
    st.binary(min_size=1, max_size=6),
)
amounts = st.one_of(st.integers(1, 30), st.integers(1, LIMIT - 1))


def identity(key: object) -> object:
    """What makes two keys one: the UTF-8 bytes, or the integer."""
    return key.encode() if isinstance(key, str) else key


def check_stats(budget: Any) -> BudgetStats:
    """The parts of ``stats()`` sum up, and those of a budget without children agree with the holds that there are."""
    stats = budget.stats()
    assert isinstance(stats, BudgetStats)
    assert stats.total == stats.available + stats.held + stats.settled
    assert min(stats) >= 0
    rows = budget.holds()
    assert rows.dtype == HOLD_SNAPSHOT_DTYPE
    granted = rows[rows["state"] == State.GRANTED]
    settled = rows[rows["state"] == State.SETTLED]
    assert stats.held == sum(granted["amount"].tolist())
    assert stats.settled == sum(settled["settled"].tolist())
    assert not rows[rows["state"] != State.SETTLED]["settled"].any()
    return stats


def check_last_unit(budget: Any) -> None:
    """Whatever is available can be reserved, to the last unit, and not one unit more."""
    available = budget.stats().available
    if available + 1 < LIMIT:
        assert budget.reserve("one too many", available + 1).status is Status.INSUFFICIENT
    if available:
        assert budget.reserve("the last unit", available).status is Status.GRANTED
    assert budget.stats().available == 0
    assert budget.reserve("one more", 1).status is Status.INSUFFICIENT
    check_stats(budget)


# ---- the rules ------------------------------------------------------------------------------------------------------


class Rules:
    """What every call on a budget must answer, as short as it can be said."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.is_closed = False
        self.holds: dict[object, list[Any]] = {}  # key -> amount, settled, state
        self.top_ups: dict[object, int] = {}

    def stats(self) -> BudgetStats:
        held = sum(amount for amount, _, state in self.holds.values() if state == State.GRANTED)
        settled = sum(settled for _, settled, _ in self.holds.values())
        return BudgetStats(self.total, self.total - held - settled, held, settled)

    def reserve(self, key: object, amount: int) -> object:
        if key in self.holds:
            return (Status.REPEATED, *self.holds[key]) if self.holds[key][0] == amount else hbcore.ConflictError
        if self.is_closed:
            return Status.CLOSED, 0, 0, None
        if amount > self.stats().available:
            return Status.INSUFFICIENT, 0, 0, None
        self.holds[key] = [amount, 0, State.GRANTED]
        return Status.GRANTED, amount, 0, State.GRANTED

    def settle(self, key: object, spent: int | None) -> object:
        if key not in self.holds:
            return None
        amount, settled, state = self.holds[key]
        spent = amount if spent is None else spent
        if state == State.RELEASED:
            return hbcore.ConflictError
        if spent > amount:
            return ValueError
        if state == State.SETTLED and settled != spent:
            return hbcore.ConflictError
        self.holds[key] = [amount, spent, State.SETTLED]
        return Status.REPEATED, amount, spent, State.SETTLED

    def release(self, key: object) -> object:
        if key not in self.holds:
            return None
        amount, _, state = self.holds[key]
        if state == State.SETTLED:
            return hbcore.ConflictError
        self.holds[key] = [amount, 0, State.RELEASED]
        return Status.REPEATED, amount, 0, State.RELEASED

    def find(self, key: object) -> object:
        return (Status.REPEATED, *self.holds[key]) if key in self.holds else None

    def top_up(self, key: object, amount: int) -> object:
        if key in self.top_ups:
            same = self.top_ups[key] == amount
            return (Status.REPEATED, amount, 0, State.GRANTED) if same else hbcore.ConflictError
        if self.is_closed:
            return Status.CLOSED, 0, 0, None
        if self.total + amount >= LIMIT:
            return ValueError
        self.top_ups[key] = amount
        self.total += amount
        return Status.GRANTED, amount, 0, State.GRANTED

    def close(self) -> object:
        self.is_closed = True
        return self.stats().available


def outcome(call: Callable[[], Any]) -> object:
    """The fields of a hold, the type of an error, or the answer as it is."""
    try:
        answer = call()
    except (TypeError, ValueError, hbcore.HbcoreError) as error:
        return type(error)
    return (answer.status, answer.amount, answer.settled, answer.state) if hasattr(answer, "settled") else answer


few = st.integers(0, 4)
sizes = st.one_of(st.integers(1, 12), st.integers(1, LIMIT - 1))
actions = st.one_of(
    st.tuples(st.just("reserve"), few, sizes),
    st.tuples(st.just("reserve"), few, st.just(7)),
    st.tuples(st.just("settle"), few, st.none() | st.integers(0, 12)),
    st.tuples(st.just("release"), few),
    st.tuples(st.just("find"), few),
    st.tuples(st.just("top_up"), few, sizes),
)


@given(
    total=st.one_of(st.integers(1, 40), st.integers(1, LIMIT - 1)),
    program=st.lists(actions, max_size=30),
    after=st.lists(actions, max_size=15),
)
@example(total=5, program=[("reserve", 0, 5), ("settle", 0, 0), ("reserve", 1, 5)], after=[])
@example(total=LIMIT - 1, program=[("reserve", 0, LIMIT - 1), ("top_up", 0, 1)], after=[("release", 0)])
def test_every_answer_is_by_the_rules_and_every_unit_is_somewhere(
    impl: ModuleType, total: int, program: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    engine = impl.Engine()
    budget, rules = engine.budget("b", total), Rules(total)
    for name, *arguments in [*program, ("close",), *after] if after else program:
        expected = getattr(rules, name)(*arguments)
        assert outcome(lambda name=name, arguments=arguments: getattr(budget, name)(*arguments)) == expected
        assert check_stats(budget) == rules.stats()
        assert budget.total == rules.total
        assert budget.closed is rules.is_closed
        assert len(budget.holds()) == len(rules.holds)
    report = engine.audit()
    assert (report.budgets, report.holds) == (1, len(rules.holds))
    assert report[-4:] == rules.stats()
    if not after:
        check_last_unit(budget)
    engine.audit()


@given(total=amounts, requests=st.lists(st.tuples(keys, st.integers(1, 30)), max_size=60))
def test_holds_never_exceed_the_total_and_whoever_fits_in_is_granted(
    impl: ModuleType, total: int, requests: list[tuple[object, int]]
) -> None:
    budget = impl.Engine().budget("b", total)
    granted: dict[object, int] = {}
    for key, amount in requests:
        if granted.get(identity(key), amount) != amount:
            with pytest.raises(hbcore.ConflictError):
                budget.reserve(key, amount)
            continue
        fits = sum(granted.values()) + amount <= total
        hold = budget.reserve(key, amount)
        if identity(key) in granted:
            assert hold.status is Status.REPEATED
        else:
            assert hold.status is (Status.GRANTED if fits else Status.INSUFFICIENT)
        assert bool(hold) is (hold.amount == amount) is (identity(key) in granted or fits)
        if hold:
            granted[identity(key)] = amount
    assert check_stats(budget).held == sum(granted.values()) <= total
    check_last_unit(budget)


@given(total=st.integers(1, 300), requests=st.lists(st.tuples(keys, st.integers(1, 30)), max_size=40))
def test_a_batch_answers_like_its_keys_one_by_one(
    impl: ModuleType, total: int, requests: list[tuple[object, int]]
) -> None:
    engine = impl.Engine()
    together, alone = engine.budget("together", total), engine.budget("alone", total)
    rows = together.reserve_many([key for key, _ in requests], [amount for _, amount in requests])
    assert rows.dtype == HOLD_DTYPE
    assert rows.shape == (len(requests),)
    for row, (key, amount) in zip(rows.tolist(), requests, strict=True):
        try:
            hold = alone.reserve(key, amount)
            assert row == (hold.status, hold.amount)
        except hbcore.ConflictError:
            assert row == (Status.CONFLICT, alone.find(key).amount)
    assert together.stats() == alone.stats()
    assert np.sort(together.holds()["key"]).tolist() == np.sort(alone.holds()["key"]).tolist()


@pytest.mark.parametrize("form", [list, tuple, iter, np.array, lambda numbers: np.array(numbers, object)])
@pytest.mark.parametrize(
    "amounts",
    [
        [5, 4, 3, 2],
        (5, 4, 3, 2),
        range(5, 1, -1),
        np.array([5, 4, 3, 2]),
        np.array([5, 4, 3, 2], "u1"),
        np.array([5, 4, 3, 2], ">i2"),
        np.array([2, 0, 3, 0, 4, 0, 5])[::-2],
        np.array([5, 4, 3, 2], object),
        [np.int8(5), 4, np.uint64(3), 2],
    ],
)
def test_amounts_are_integers_in_any_sequence(impl: ModuleType, form: Callable[[Any], Any], amounts: Any) -> None:
    budget = impl.Engine().budget("b", 13)
    rows = budget.reserve_many(form([1, 2, 3, 4]), amounts)
    assert rows.tolist() == [(Status.GRANTED, 5), (Status.GRANTED, 4), (Status.GRANTED, 3), (Status.INSUFFICIENT, 0)]
    assert budget.find(3).amount == 3


@pytest.mark.parametrize("amount", [5, np.int32(5), np.uint64(5)])
def test_one_amount_stands_for_all_keys(impl: ModuleType, amount: Any) -> None:
    budget = impl.Engine().budget("b", 12)
    rows = budget.reserve_many(np.array(["a", "b", "c"]), amount)
    assert rows.tolist() == [(Status.GRANTED, 5), (Status.GRANTED, 5), (Status.INSUFFICIENT, 0)]
    assert len(budget.reserve_many([], amount)) == 0


def test_a_batch_goes_on_after_what_it_cannot_grant(impl: ModuleType) -> None:
    budget = impl.Engine().budget("b", 10)
    budget.reserve("settled", 4)
    budget.settle("settled", 1)
    budget.reserve("released", 2)
    budget.release("released")
    batch = ["settled", "settled", "released", "large", "last", "more", "last"], [4, 3, 2, 10, 9, 1, 9]
    expected = [
        (Status.REPEATED, 4),
        (Status.CONFLICT, 4),
        (Status.REPEATED, 2),
        (Status.INSUFFICIENT, 0),
        (Status.GRANTED, 9),
        (Status.INSUFFICIENT, 0),
        (Status.REPEATED, 9),
    ]
    assert budget.reserve_many(*batch).tolist() == expected
    budget.close()
    assert budget.reserve_many(*batch).tolist() == [
        (Status.REPEATED, 9) if status == Status.GRANTED else (Status.CLOSED, 0) if amount == 0 else (status, amount)
        for status, amount in expected
    ]


@pytest.mark.full
@given(count=st.integers(0, 3000), amount=st.integers(1, 5), total=st.integers(1, 9000))
@example(count=3000, amount=3, total=9000)
def test_large_batches_hold_what_there_is(impl: ModuleType, count: int, amount: int, total: int) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", total)
    rows = budget.reserve_many(np.arange(count), amount)
    granted = min(count, total // amount)
    assert (rows["status"] == Status.GRANTED).sum() == granted
    assert (rows["status"][:granted] == Status.GRANTED).all()
    assert check_stats(budget).available == total - granted * amount
    assert engine.audit().holds == granted


# ---- a hold is a value ----------------------------------------------------------------------------------------------


def test_a_hold_is_an_immutable_value(impl: ModuleType) -> None:
    budget = impl.Engine().budget("b", 10_000)
    first, second = budget.reserve("a", 5_000), budget.reserve("b", 5_000)
    assert first == second, "the key is not part of the answer"
    assert isinstance(first, impl.Hold)
    assert repr(first) == "Hold(status=Status.GRANTED, amount=5000, settled=0, state=State.GRANTED)"
    again, refused = budget.reserve("a", 5_000), budget.reserve("c", 1)
    assert repr(refused) == "Hold(status=Status.INSUFFICIENT, amount=0, settled=0, state=None)"
    settled, released = budget.settle("a", 4_200), budget.release("b")
    assert repr(settled) == "Hold(status=Status.REPEATED, amount=5000, settled=4200, state=State.SETTLED)"
    assert repr(released) == "Hold(status=Status.REPEATED, amount=5000, settled=0, state=State.RELEASED)"
    holds = [first, again, refused, settled, released]
    assert len(set(holds)) == 5
    assert [bool(hold) for hold in holds] == [True, True, False, True, False]
    assert first != (Status.GRANTED, 5_000, 0, State.GRANTED)
    assert budget.settle("a", 4_200) == settled
    assert hash(budget.settle("a", 4_200)) == hash(settled)
    for hold in holds:
        for field in ("status", "amount", "settled", "state", "note"):
            with pytest.raises(AttributeError):
                setattr(hold, field, 1)
        for duplicate in (pickle.loads(pickle.dumps(hold)), copy.copy(hold), copy.deepcopy(hold)):
            assert duplicate == hold
            assert type(duplicate.status) is Status
    assert type(first.state) is State
    assert refused.state is None


def test_a_str_is_its_bytes_and_an_int_is_a_key_of_its_own(impl: ModuleType) -> None:
    budget = impl.Engine().budget("b", 100)
    assert budget.reserve("七", 3).status is Status.GRANTED
    assert budget.reserve("七".encode(), 3).status is Status.REPEATED
    apart = ["7", 7, -1, 2**64 - 1, "-1", b"\x07", (7).to_bytes(8, "little"), np.int16(8), np.str_("8")]
    assert [budget.reserve(key, 1).status for key in apart] == [Status.GRANTED] * len(apart)


def test_holds_and_top_ups_of_a_key_are_two_things_and_so_are_those_of_two_budgets(impl: ModuleType) -> None:
    engine = impl.Engine()
    one, two = engine.budget("1", 100), engine.budget("2", 100)
    assert one.reserve("k", 5).status is Status.GRANTED
    assert one.top_up("k", 6).status is Status.GRANTED
    assert two.find("k") is None
    assert two.reserve("k", 7).status is Status.GRANTED
    assert (one.find("k").amount, two.find("k").amount) == (5, 7)
    assert (one.total, two.total) == (106, 100)
    assert two.release("k").amount == 7
    assert one.find("k").state is State.GRANTED


def test_what_was_refused_leaves_no_trace(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", 10)
    budget.reserve("a", 8)
    before = budget.stats(), budget.holds().tolist(), engine.audit()
    assert budget.reserve("k", 3).status is Status.INSUFFICIENT
    assert budget.reserve_many(["k", "l"], 4)["status"].tolist() == [Status.INSUFFICIENT] * 2
    assert [call("k") for call in (budget.find, budget.settle, budget.release)] == [None] * 3
    assert (budget.stats(), budget.holds().tolist(), engine.audit()) == before
    assert budget.reserve("k", 2).status is Status.GRANTED, "the key can be tried again with any amount"


# ---- what becomes of a hold -----------------------------------------------------------------------------------------


@given(amount=st.integers(1, LIMIT - 1), data=st.data())
def test_what_is_not_spent_can_be_reserved_again_at_once(impl: ModuleType, amount: int, data: st.DataObject) -> None:
    spent = data.draw(st.integers(0, amount))
    engine = impl.Engine()
    budget = engine.budget("b", amount)
    budget.reserve("k", amount)
    for _ in range(2):
        hold = budget.settle("k", spent)
        assert (hold.status, hold.amount, hold.settled, hold.state) == (Status.REPEATED, amount, spent, State.SETTLED)
        assert check_stats(budget) == BudgetStats(amount, amount - spent, 0, spent)
    assert hold
    if spent < amount:
        assert budget.reserve("rest", amount - spent).status is Status.GRANTED
    assert budget.reserve("more", 1).status is Status.INSUFFICIENT
    engine.audit()


def test_settling_without_an_amount_spends_all_of_it(impl: ModuleType) -> None:
    budget = impl.Engine().budget("b", 10)
    budget.reserve("all", 7)
    assert budget.settle("all").settled == 7
    assert budget.settle("all", 7) == budget.settle("all") == budget.find("all") == budget.reserve("all", 7)
    budget.reserve("part", 3)
    budget.settle("part", 2)
    with pytest.raises(hbcore.ConflictError):
        budget.settle("part")
    assert budget.stats() == BudgetStats(10, 1, 0, 9)


def test_the_end_of_a_hold_is_final_and_conflicts_say_why(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("晚会", 100)
    budget.reserve("spent", 30)
    budget.reserve("back", 20)
    budget.settle("spent", 25)
    budget.release("back")
    before = budget.stats(), np.sort(budget.holds()).tolist(), engine.audit()
    for call, words in (
        (lambda: budget.reserve("spent", 25), "key 'spent' of budget '晚会' was granted 30, not 25"),
        (lambda: budget.reserve("back", 21), "key 'back' of budget '晚会' was granted 20, not 21"),
        (lambda: budget.settle("spent", 24), "key 'spent' of budget '晚会' is settled with 25, not 24"),
        (lambda: budget.settle("spent"), "key 'spent' of budget '晚会' is settled with 25, not 30"),
        (lambda: budget.release("spent"), "key 'spent' of budget '晚会' is settled: final, not to be released"),
        (lambda: budget.settle("back"), "key 'back' of budget '晚会' is released: final, not to be settled"),
        (lambda: budget.settle("back", 0), "key 'back' of budget '晚会' is released: final, not to be settled"),
    ):
        with pytest.raises(hbcore.ConflictError) as caught:
            call()
        assert str(caught.value) == words
    with pytest.raises(ValueError, match=r"^amount must be within 0 \.\. 30, not 31$"):
        budget.settle("spent", 31)
    assert (budget.stats(), np.sort(budget.holds()).tolist(), engine.audit()) == before
    assert budget.settle("spent", 25).settled == 25
    assert budget.release("back").state is State.RELEASED
    assert (budget.reserve("spent", 30).state, budget.reserve("back", 20).state) == (State.SETTLED, State.RELEASED)
    assert not budget.reserve("back", 20)


@given(program=st.lists(st.tuples(keys, st.integers(1, 30), st.sampled_from(["hold", "settle", "release"]))))
def test_holds_lists_every_key_that_was_granted(impl: ModuleType, program: list[tuple[object, int, str]]) -> None:
    engine = impl.Engine(key=KEY)
    budget = engine.budget("b", 500)
    before = time.time()
    expected: dict[bytes, tuple[int, int, State]] = {}
    for key, amount, end in program:
        if budget.find(key) is not None or not budget.reserve(key, amount):
            continue
        expected[engine.user_hash(key)] = (amount, 0, State.GRANTED)
        if end == "settle":
            budget.settle(key, amount // 2)
            expected[engine.user_hash(key)] = (amount, amount // 2, State.SETTLED)
        elif end == "release":
            budget.release(key)
            expected[engine.user_hash(key)] = (amount, 0, State.RELEASED)
    budget.top_up("no hold", 5)
    budget.budget("no hold either", 1)
    budget.envelope("nor this", 1, 1)
    rows = budget.holds()
    assert {row["key"].tobytes(): (row["amount"], row["settled"], row["state"]) for row in rows} == expected
    assert len(rows) == len(expected)
    seconds = rows["granted_at"].astype("i8") / 1000
    # The clock of grants is coarse: up to a tick late. (A second of slack is for machines that set their clock.)
    assert ((before - 1 <= seconds) & (seconds <= time.time() + 1)).all()


def test_a_hold_keeps_the_time_of_its_grant(impl: ModuleType) -> None:
    budget = impl.Engine().budget("b", 10)
    budget.reserve_many(["a", "b"], 2)
    before = np.sort(budget.holds(), order="key")["granted_at"].tolist()
    budget.settle("a")
    budget.release("b")
    assert np.sort(budget.holds(), order="key")["granted_at"].tolist() == before


# ---- closing and topping up a root budget ---------------------------------------------------------------------------


def test_a_closed_root_keeps_its_money_and_reserves_nothing(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", 100)
    budget.reserve_many(["a", "b", "c"], 20)
    assert budget.closed is False
    for _ in range(2):
        assert budget.close() == 40
        assert budget.closed is True
        assert budget.stats() == BudgetStats(100, 40, 60, 0)
    assert budget.reserve("d", 1) == budget.top_up("d", 1)
    assert budget.reserve("d", 1).status is Status.CLOSED
    assert not budget.reserve("d", 1)
    assert budget.reserve("a", 20).status is Status.REPEATED
    with pytest.raises(hbcore.ConflictError):
        budget.reserve("a", 21)
    assert budget.settle("a", 5).settled == 5
    assert budget.release("b").state is State.RELEASED
    assert budget.stats() == BudgetStats(100, 75, 20, 5)
    assert budget.close() == 75
    assert (budget.total, budget.find("d")) == (100, None)
    assert engine.budget("b", 100) == engine.budget("b") == budget
    assert engine.audit()[-6:] == (1, 3, 100, 75, 20, 5)


def test_top_ups_are_keyed_idempotent_and_new_money(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", 10)
    first, again = budget.top_up("t", 5), budget.top_up(b"t", 5)
    assert repr(first) == "Hold(status=Status.GRANTED, amount=5, settled=0, state=State.GRANTED)"
    assert repr(again) == "Hold(status=Status.REPEATED, amount=5, settled=0, state=State.GRANTED)"
    assert (budget.total, budget.stats()) == (15, BudgetStats(15, 15, 0, 0))
    with pytest.raises(hbcore.ConflictError, match=r"^top-up 't' of budget 'b' was 5, not 6$"):
        budget.top_up("t", 6)
    assert budget.top_up(7, 5).status is Status.GRANTED
    assert engine.budget("b", 10) == budget, "what it was made with, not what it has become"
    with pytest.raises(hbcore.ConflictError):
        engine.budget("b", 20)
    assert len(budget.holds()) == 0
    check_last_unit(budget)
    budget.close()
    assert budget.top_up("t", 5).status is Status.REPEATED
    with pytest.raises(hbcore.ConflictError):
        budget.top_up("t", 6)
    assert budget.top_up("late", 5).status is Status.CLOSED
    assert engine.audit().amount_budgeted == 20


def test_a_total_stays_below_its_limit(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", LIMIT - 10)
    budget.reserve("all", LIMIT - 10)
    words = f"the total of budget 'b' must stay below 2**62: it is {LIMIT - 10}, and 10 is too much"
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            budget.top_up("t", 10)
    assert budget.top_up("t", 9).status is Status.GRANTED
    with pytest.raises(ValueError, match=r"2\*\*62"):
        budget.top_up("u", 1)
    assert budget.top_up("t", 9).status is Status.REPEATED
    assert budget.stats() == BudgetStats(LIMIT - 1, 9, LIMIT - 10, 0)
    engine.audit()
