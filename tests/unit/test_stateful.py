"""The native core and the reference side by side: Hypothesis chooses what is done, and all answers must be the same."""

import reprlib
from collections.abc import Callable
from itertools import cycle, islice
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import hbcore
import hbcore.reference
from hbcore.terms import LOOKUP

KEY = bytes(range(50, 82))
SEEDS = [bytes([number]) * 32 for number in range(3)]
NAMES = [f"envelope {number}" for number in range(6)]
BUDGETS = ["gala", "party", "20:00"]
# The native core remembers in one of 64 places where a handle looks for free packets; two handles that claim must not
# meet there, or the later one begins anew, which is as good a place as any and not the one that the reference is at.
ENVELOPE_LIMIT = 20
BUDGET_LIMIT = 10
FOREVER = 300 * 24 * 3600  # seconds to settle in: nothing expires while a test runs

HASHER = hbcore.Engine(key=KEY)
CROWDS = [range(start, start + 1400) for start in range(10**6, 10**6 + 4000, 1000)]
HOLDERS = {HASHER.user_hash(user): user for user in [*range(31), *range(10**6, 10**6 + 4400)]}
KEYS = {HASHER.user_hash(key): key for key in range(60)}

# Hypothesis chooses from pools that a fixed seed has filled: a choice costs it one byte, and so its budget of 8 KiB is
# enough for hundreds of steps. What is short comes first, so that it shrinks to that.
random = Random(20_260_217)
POOL = range(400)
ODD_USERS = ["张三", "李四", "🧧", -1, 2**64 - 1, -(2**63), 2**63, np.int16(-1), np.uint64(7), np.str_("5")]
BAD_USERS = ["", b"", None, 1.5, True, "\ud800", 2**64, -(2**63) - 1, [1], 10**300]
BAD_AMOUNTS: list[Any] = [0, -1, 2**62, 10**300, 1.0, None, True, "7", [7], np.float64(7)]


def some_user() -> Any:
    number = random.randint(0, 12)
    return random.choice(
        [
            random.randint(0, 30),
            str(number),
            str(number).encode(),  # the same users as the line before
            random.choice(ODD_USERS),
            random.randint(10**6, 10**6 + 400),
        ]
    )


def some_batch() -> Any:
    few, start = (
        range(random.randint(0, 12)),
        random.choice([random.randint(0, 10**6), random.randint(10**6, 10**6 + 300)]),
    )
    texts = [str(random.randint(0, 30)) for _ in range(random.randint(1, 20))]
    return random.choice(
        [
            [some_user() for _ in few],
            tuple(some_user() for _ in few),
            np.arange(start, start + random.randint(0, 150), dtype="i4"),
            np.arange(start, start + random.randint(0, 150))[::-1],
            np.array([random.randint(-128, 127) for _ in few], "i1"),
            np.array(texts),
            np.array([text.encode() for text in texts]),
            [random.choice([some_user(), some_user(), random.choice(BAD_USERS)]) for _ in few],
        ]
    )


def some_terms() -> dict[str, Any]:
    packets = random.choice([random.randint(1, 5), random.randint(1, 200), random.choice([64, 65, 128, 1300])])
    low = random.choice([1, 1, 7])
    high = random.choice([None, None, low, low + 1, 3 * low + 40])
    terms = {
        "total": random.randint(packets * low, packets * (high or 500)),
        "packets": packets,
        "seed": random.choice(SEEDS),
        "law": random.choice(["equal", "double_mean", "dirichlet"]),
        "min": low,
        "max": high,
        "concentration": random.choice([1, 3, 5]),
        "expires_at": random.choice([None, None, None, None, 4_000_000_000, 1_000_000_000]),
        "per_user": random.choice([1, 1, 1, 2, 3]),
        "hold_seconds": random.choice([None, None, FOREVER, FOREVER + 0.25]),
        "max_packets": random.choice([None, packets, packets + random.randint(1, 100), 2 * packets + 1500]),
    }
    return {
        name: value
        for name, value in terms.items()
        if name not in LOOKUP or value != LOOKUP[name] or random.random() < 0.5
    }


CHANGES: dict[str, list[Any]] = {
    "total": [1, 10_000, 0, 2**62, None, 5.0],
    "packets": [1, 3, 0, 2**40, None, True],
    "law": ["equal", "dirichlet", "none", 3],
    "min": [1, 2, 0, 10**9],
    "max": [None, 400, 10**12, 2**64, 0],
    "concentration": [1, 3, 65],
    "seed": [*SEEDS, None, b"short", "text"],
    "expires_at": [None, 4_000_000_001, -1, float("nan"), "soon"],
    "per_user": [1, 2, 0, 65537, None],
    "hold_seconds": [None, FOREVER, 0, -1.5, "1", 10**10],
    "max_packets": [None, 1, 2000, 0, 2**40, "9"],
}


def some_change() -> dict[str, Any]:
    names = random.sample(list(CHANGES), random.choice([0, 1, 1, 1, 2, 3]))
    return {name: random.choice(CHANGES[name]) for name in names}


def some_top_up() -> tuple[Any, ...]:
    """A key, how much more than the least that is possible, how many packets, and a seed."""
    packets = random.choice([1, 2, random.randint(1, 60), random.randint(1, 60), random.randint(1000, 1500)])
    return (
        random.choice([random.randint(0, 5), random.randint(0, 5), some_user(), random.choice(BAD_USERS)]),
        random.choice([0, 0, 1, random.randint(0, 500), random.randint(0, 500), 2**61, -1]),
        random.choice([packets] * 9 + [0, 2**40, None, 2.0]),
        random.choice(SEEDS),
    )


def some_amount() -> int:
    return random.choice([random.randint(1, 9), random.randint(1, 5_000), 1, 7, 7, 7, 2**61, 2**62 - 1])


def some_amounts() -> Any:
    """Amounts for a batch: one for all, or a few in turn."""
    few = range(random.randint(1, 9))
    return random.choice(
        [
            some_amount(),
            7,
            [some_amount() for _ in few],
            [random.choice([7] * 40 + BAD_AMOUNTS) for _ in few],
            random.choice(BAD_AMOUNTS),
        ]
    )


users = st.sampled_from([*range(31), *(some_user() for _ in POOL)])
top_ups = st.sampled_from(sorted((some_top_up() for _ in POOL), key=lambda top_up: str(top_up[2]).zfill(9)))
bad_users = st.sampled_from(BAD_USERS)
batches = st.sampled_from(
    [*sorted((some_batch() for _ in POOL), key=len), *([np.array(crowd) for crowd in CROWDS] * 20)]
)
good_terms = st.sampled_from(sorted((some_terms() for _ in POOL), key=lambda terms: terms["packets"]))
changes = st.sampled_from(sorted((some_change() for _ in POOL), key=len))
numbers = st.sampled_from([0, 0, 0, 0, 1, 1, 2])  # nth
bad_claims = st.sampled_from(
    [*((user,) for user in BAD_USERS), *((7, nth) for nth in (-1, 3, 65535, 65536, None, 1.0, True, "0", 2**64))]
)
envelope_methods = st.sampled_from(["claim", "claim", "claim", "find", "settle", "release", "release"])
shares = st.sampled_from([1, 2, 5, 19, 64, 83, 150])

keys = st.sampled_from([*range(6), *range(60), *(some_user() for _ in range(60))])
key_batches = st.sampled_from([*(list(range(start, start + 20)) for start in range(40)), *(some_batch() for _ in POOL)])
amounts = st.sampled_from(sorted(some_amount() for _ in POOL))
amounts_of_batches = st.sampled_from([some_amounts() for _ in POOL])
forms = st.sampled_from([list, list, tuple, iter, lambda some: np.array(some, object), lambda some: [*some, 7]])
bad_holds = st.sampled_from([*((key, 5) for key in BAD_USERS), *((7, amount) for amount in BAD_AMOUNTS)])
budget_methods = st.sampled_from(["reserve", "reserve", "reserve", "settle", "settle all", "release", "find", "top_up"])
budget_names = st.sampled_from([*BUDGETS * 4, "nowhere", "", "a\0b", None])
first_totals = st.sampled_from([100, 10**4, 10**6, 10**9, 2**62 - 1])
totals = st.sampled_from(
    [None] * 10
    + list(range(1, 50))
    + [random.randint(1, 200_000) for _ in range(50)]
    + [10**6, 10**9, 2**62 - 1] * 5
    + [0, -1, 2**62, 1.0, True, 10**300]
)


def plain(answer: Any) -> Any:
    """An answer in a form that two implementations can be compared by."""
    name = type(answer).__name__
    if name in ("Claim", "Hold"):
        return repr(answer), bool(answer)
    if name == "Envelope":
        return answer.name, answer.terms, repr(answer), answer.budget and answer.budget.name
    if name == "Budget":
        return answer.name, answer.total, answer.closed, answer.stats(), answer.parent and answer.parent.name
    if isinstance(answer, np.ndarray) and answer.dtype == np.uint8:
        return answer.tolist()
    if isinstance(answer, np.ndarray):
        assert answer.dtype in (
            hbcore.CLAIM_DTYPE,
            hbcore.SNAPSHOT_DTYPE,
            hbcore.HOLD_DTYPE,
            hbcore.HOLD_SNAPSHOT_DTYPE,
        )
        fields = [name for name in answer.dtype.names if name != "granted_at"]
        rows = [[row[name].item() for name in fields] for row in answer]
        return str(answer.dtype), sorted(rows) if answer.dtype == hbcore.HOLD_SNAPSHOT_DTYPE else rows
    if isinstance(answer, list):
        return [plain(part) for part in answer]
    return answer


STEPS: list[st.SearchStrategy[tuple[str, dict[str, Any]]]] = []


def step(times: int = 1, **arguments: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule of the machine, and a step of ``test_long_lives``, there ``times`` as often as others."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        STEPS.extend(st.tuples(st.just(function.__name__), st.fixed_dictionaries(arguments)) for _ in range(times))
        return rule(**arguments)(function)

    return decorate


def made(answers: list[Any]) -> bool:
    return not isinstance(answers[0], Exception)


class SideBySide(RuleBasedStateMachine):
    """Two engines under one key: every call is made on both, every answer and every error compared."""

    modules: tuple[ModuleType, ModuleType] = (hbcore, hbcore.reference)

    def __init__(self) -> None:
        super().__init__()
        self.engines = [module.Engine(key=KEY) for module in self.modules]
        self.terms: dict[tuple[str, ...], dict[str, Any]] = {}  # by the names on the way down
        self.handles: dict[tuple[str, ...], list[Any]] = {}
        self.budgets: dict[tuple[str, ...], list[Any]] = {}

    def both(self, call: Callable[..., Any], *pairs: list[Any]) -> Any:
        """Make the call on both sides; ``pairs`` are its first arguments, native and reference."""
        answers: list[Any] = []
        for arguments in zip(*pairs, strict=True):
            try:
                answers.append(call(*arguments))
            except (TypeError, ValueError, hbcore.HbcoreError) as error:
                answers.append(error)
        native, reference = answers
        if isinstance(native, Exception) or isinstance(reference, Exception):
            assert (type(native), str(native)) == (type(reference), str(reference))
        else:
            assert plain(native) == plain(reference)
        return answers

    @step()
    def rest(self) -> None:
        """Nothing: what a step shrinks to where there must be so many."""

    # ---- making and finding -----------------------------------------------------------------------------------------

    def place(self, where: int) -> tuple[tuple[str, ...], list[Any]]:
        """The engine or one of the budgets that there are, with the names that lead there."""
        places = [((), self.engines), *self.budgets.items()]
        return places[where % len(places)]

    @initialize(terms=good_terms, total=first_totals)
    def make_the_first(self, terms: dict[str, Any], total: int) -> None:
        self.make_budget(0, BUDGETS[0], total)
        self.make_budget(1, BUDGETS[1], 1 + total // 2)
        self.make(0, NAMES[0], terms)
        self.make(2, NAMES[1], terms)

    @step(where=st.integers(0, 8), name=st.sampled_from(NAMES), terms=good_terms)
    def make(self, where: int, name: str, terms: dict[str, Any]) -> None:
        path, makers = self.place(where)
        if len(self.handles) >= ENVELOPE_LIMIT and (*path, name) not in self.handles:
            return
        envelopes = self.both(lambda maker: maker.envelope(name, **terms), makers)
        if made(envelopes):
            self.terms.setdefault((*path, name), terms)
            assert envelopes[0] == self.handles.setdefault((*path, name), envelopes)[0]

    @step(
        where=st.integers(0, 8),
        names=st.lists(st.sampled_from(NAMES), max_size=8),
        terms=good_terms,
        change=changes,
        form=forms,
        is_one_for_all=st.booleans(),
    )
    def make_many(
        self,
        where: int,
        names: list[str],
        terms: dict[str, Any],
        change: dict[str, Any],
        form: Callable[[Any], Any],
        is_one_for_all: bool,
    ) -> None:
        path, makers = self.place(where)
        wanted = terms | change
        if len(self.handles) >= ENVELOPE_LIMIT - len(NAMES) or wanted["seed"] is None:
            names = [name for name in names if (*path, name) in self.handles]
        common = {name: value for name, value in wanted.items() if name not in ("total", "packets", "seed")}
        seed = wanted["seed"]

        def create(maker: Any) -> Any:
            totals, packets = wanted["total"], wanted["packets"]
            if not is_one_for_all:
                totals, packets = form([totals] * len(names)), form([packets] * len(names))
            return maker.create_many(form(names), totals, packets, seeds=seed and form([seed] * len(names)), **common)

        answers = self.both(create, makers)
        if made(answers):
            for name, status in zip(names, answers[0], strict=True):
                if status == hbcore.Status.GRANTED:
                    self.terms[*path, name] = wanted
                    self.handles[*path, name] = self.both(lambda maker, name=name: maker.envelope(name), makers)

    @step(number=st.integers(0, 9), change=changes)
    def make_again(self, number: int, change: dict[str, Any]) -> None:
        """Ask for an envelope with the same terms, or with some of them changed: get it, or an error that says why."""
        *path, name = list(self.terms)[number % len(self.terms)]
        terms = self.terms[*path, name] | change
        makers = self.budgets[tuple(path)] if path else self.engines
        self.both(lambda maker: maker.envelope(name, **terms), makers)

    @step(
        where=st.integers(0, 8),
        name=st.sampled_from([*NAMES, "nowhere", "", "a\0b", 7]),
        change=changes,
    )
    def look_up(self, where: int, name: Any, change: dict[str, Any]) -> None:
        if "total" in change or "packets" in change:
            change = {}
        path, makers = self.place(where)
        envelopes = self.both(lambda maker: maker.envelope(name, **change), makers)
        if made(envelopes):
            self.both(lambda envelope: envelope.stats(), envelopes)
            assert envelopes[0] == self.handles[*path, name][0]

    @step(where=st.integers(0, 8), name=budget_names, total=totals)
    def make_budget(self, where: int, name: Any, total: Any) -> None:
        """Make a budget, or look it up where the total is None."""
        path, makers = self.place(where)
        if len(self.budgets) >= BUDGET_LIMIT and (*path, name) not in self.budgets:
            return
        budgets = self.both(lambda maker: maker.budget(name, total), makers)
        if made(budgets):
            assert budgets[0] == self.budgets.setdefault((*path, name), budgets)[0]

    # ---- envelopes --------------------------------------------------------------------------------------------------

    def on(self, number: int) -> list[Any]:
        """One of the envelopes that there are."""
        handles = list(self.handles.values())
        return handles[number % len(handles)]

    @step(number=st.integers(0, 9), user=users, nth=numbers, method=envelope_methods)
    def ask(self, number: int, user: Any, nth: int, method: str) -> None:
        self.both(lambda envelope: getattr(envelope, method)(user, nth), self.on(number))

    @step(number=st.integers(0, 9), first=st.sampled_from(POOL), count=st.integers(1, 70))
    def claim_one_by_one(self, number: int, first: int, count: int) -> None:
        for user in range(10**6 + first, 10**6 + first + count):
            self.both(lambda envelope, user=user: envelope.claim(user), self.on(number))

    @step(number=st.integers(0, 9), batch=batches, nth=numbers)
    def claim_many(self, number: int, batch: Any, nth: int) -> None:
        self.both(lambda envelope: envelope.claim_many(batch, nth), self.on(number))

    @step(number=st.integers(0, 9), method=envelope_methods, arguments=bad_claims)
    def ask_in_vain(self, number: int, method: str, arguments: tuple[Any, ...]) -> None:
        self.both(lambda envelope: getattr(envelope, method)(*arguments), self.on(number))

    @step(number=st.integers(0, 9), method=envelope_methods, start=st.sampled_from(POOL), step=shares)
    def ask_for_many_holders(self, number: int, method: str, start: int, step: int) -> None:
        """Settle or release a share of the packets that are out, all over the envelope."""
        envelopes = self.on(number)
        hashes = [row["user"].tobytes() for row in envelopes[0].claims()]
        holders = [HOLDERS[user_hash] for user_hash in hashes if user_hash in HOLDERS]
        for user in holders[start % (len(holders) + 1) :: step]:
            self.both(lambda envelope, user=user: getattr(envelope, method)(user), envelopes)

    @step(number=st.integers(0, 9), user=users)
    def come_and_go(self, number: int, user: Any) -> None:
        """Churn: what a user has claimed and released over and over crowds the index with tombstones."""
        for _ in range(20):
            self.both(lambda envelope: envelope.claim(user), self.on(number))
            self.both(lambda envelope: envelope.release(user), self.on(number))

    @step(number=st.integers(0, 9), is_certain=st.integers(0, 7))
    def close(self, number: int, is_certain: int) -> None:
        if is_certain < 2:
            self.both(lambda thing: thing.close(), self.of(number) if is_certain == 0 else self.on(number))

    @step(2, number=st.sampled_from(POOL), top_up=top_ups)
    def top_up_an_envelope(self, number: int, top_up: tuple[Any, ...]) -> None:
        key, more, packets, seed = top_up
        envelopes = self.on(number)
        amount = more + envelopes[1].terms.min * (packets if isinstance(packets, int) else 1)
        self.both(lambda envelope: envelope.top_up(key, amount, packets, seed=seed), envelopes)

    # ---- budgets ----------------------------------------------------------------------------------------------------

    def of(self, number: int) -> list[Any]:
        """One of the budgets that there are."""
        budgets = list(self.budgets.values())
        return budgets[number % len(budgets)]

    @step(2, number=st.integers(0, 7), first=st.integers(0, 40), count=st.integers(1, 20), amount=st.integers(1, 9))
    def reserve_one_by_one(self, number: int, first: int, count: int, amount: int) -> None:
        for key in range(first, first + count):
            self.both(lambda budget, key=key: budget.reserve(key, amount), self.of(number))

    @step(3, number=st.integers(0, 7), key=keys, method=budget_methods, amount=amounts)
    def ask_for_a_hold(self, number: int, key: Any, method: str, amount: int) -> None:
        arguments = (key, amount) if method in ("reserve", "top_up", "settle") else (key,)
        self.both(lambda budget: getattr(budget, method.split()[0])(*arguments), self.of(number))

    @step(
        number=st.integers(0, 7), key=keys, beyond=st.integers(-1, 1), is_top_up=st.sampled_from([False, False, True])
    )
    def go_to_the_limit(self, number: int, key: Any, beyond: int, is_top_up: bool) -> None:
        """Reserve to the last unit or one more; top up to the last total that can be, or one more."""
        budgets = self.of(number)
        if is_top_up:
            amount = 2**62 - 1 - budgets[1].total + beyond
            self.both(lambda budget: budget.top_up(key, amount), budgets)
            return
        amount = budgets[1].stats().available + beyond
        [hold, _] = self.both(lambda budget: budget.reserve(key, amount), budgets)
        if not isinstance(hold, Exception) and hold.status in (hbcore.Status.GRANTED, hbcore.Status.INSUFFICIENT):
            assert bool(hold) is (beyond < 1)

    @step(number=st.integers(0, 7), batch=key_batches, some=amounts_of_batches, form=forms)
    def reserve_many(self, number: int, batch: Any, some: Any, form: Callable[[Any], Any]) -> None:
        def spread() -> Any:
            return form(list(islice(cycle(some), len(batch)))) if isinstance(some, list) else some

        self.both(lambda budget: budget.reserve_many(batch, spread()), self.of(number))

    @step(
        3,
        number=st.integers(0, 7),
        method=st.sampled_from(["settle", "settle", "settle all", "release", "release", "reserve", "top_up", "find"]),
        start=st.sampled_from(POOL),
        step=shares,
        part=st.integers(0, 4),
    )
    def ask_for_many_holds(self, number: int, method: str, start: int, step: int, part: int) -> None:
        """Settle or release a share of the keys that were ever granted; what is settled is settled in part."""
        budgets = self.of(number)
        rows = np.sort(budgets[1].holds(), order="key")
        known = [(KEYS[row["key"].tobytes()], int(row["amount"])) for row in rows if row["key"].tobytes() in KEYS]
        for key, amount in known[start % (len(known) + 1) :: step]:
            with_amount = {"settle": amount * part // 4, "reserve": amount, "top_up": amount}
            arguments = (key, with_amount[method]) if method in with_amount else (key,)
            self.both(lambda budget, a=arguments: getattr(budget, method.split()[0])(*a), budgets)

    @step(number=st.integers(0, 7), method=budget_methods, arguments=bad_holds)
    def reserve_in_vain(self, number: int, method: str, arguments: tuple[Any, ...]) -> None:
        arguments = arguments if method in ("reserve", "top_up", "settle") else arguments[:1]
        self.both(lambda budget: getattr(budget, method.split()[0])(*arguments), self.of(number))

    # ---- engines ----------------------------------------------------------------------------------------------------

    @step(what=st.integers(0, 7), number=st.sampled_from(POOL), user=users | bad_users)
    def look_around(self, what: int, number: int, user: Any) -> None:
        if what < 2:
            self.both(lambda engine: engine.audit() if what == 0 else engine.sweep(), self.engines)
        elif what == 2:
            self.both(lambda engine: engine.user_hash(user), self.engines)
            self.both(lambda engine: engine.user_hash(7, number - 1), self.engines)
        elif what == 3:
            self.both(lambda budget: budget.holds(), self.of(number))
        else:
            self.both(lambda envelope: envelope.claims(), self.on(number))

    @invariant()
    def stats_are_the_same(self) -> None:
        for envelopes in self.handles.values():
            self.both(lambda envelope: envelope.stats(), envelopes)

    @invariant()
    def money_is_the_same_and_all_there(self) -> None:
        for budgets in self.budgets.values():
            [stats, _] = self.both(lambda budget: budget.stats(), budgets)
            assert stats.total == stats.available + stats.held + stats.settled

    def teardown(self) -> None:
        self.both(lambda engine: engine.envelopes(), self.engines)
        self.both(lambda engine: engine.budgets(), self.engines)
        for envelopes in self.handles.values():
            self.both(lambda envelope: envelope.claims(), envelopes)
            # The next users get the same packets on both, until none is left: nothing hidden differs either.
            self.both(lambda envelope: envelope.claim_many([f"last {number}" for number in range(80)]), envelopes)
        self.both(lambda engine: engine.audit(), self.engines)
        for budgets in self.budgets.values():
            self.both(lambda budget: budget.holds(), budgets)
            self.both(lambda budget: budget.close(), budgets)
        for envelopes in self.handles.values():
            self.both(lambda envelope: envelope.close(), envelopes)
        self.both(lambda engine: engine.budgets(), self.engines)
        self.both(lambda engine: engine.audit(), self.engines)
        self.both(lambda engine: engine.close(), self.engines)
        self.both(lambda engine: engine.audit(), self.engines)


class TestFew(SideBySide.TestCase):
    settings = settings(max_examples=5, stateful_step_count=30)


@pytest.mark.full
class TestMany(SideBySide.TestCase):
    settings = settings(max_examples=80, stateful_step_count=40)


class Program:
    """What Hypothesis has chosen to do; shown without the rests."""

    def __init__(self, steps: list[tuple[str, dict[str, Any]]]) -> None:
        self.steps = steps

    def __repr__(self) -> str:
        return "\n".join(f"{name}({reprlib.repr(arguments)})" for name, arguments in self.steps if name != "rest")


@st.composite
def programs(draw: st.DrawFn) -> Program:
    return Program(draw(st.lists(st.one_of(STEPS), min_size=260, max_size=300)))


@pytest.mark.full
@settings(max_examples=30)
@given(terms=good_terms, total=first_totals, program=programs())
def test_long_lives(terms: dict[str, Any], total: int, program: Program) -> None:
    """The rules for 200 steps and more. (Hypothesis's own loop may stop earlier, and often leaves most rules out.)"""
    machine = SideBySide()
    machine.make_the_first(terms, total)
    for name, arguments in program.steps:
        getattr(machine, name)(**arguments)
        machine.stats_are_the_same()
        machine.money_is_the_same_and_all_there()
    machine.teardown()
