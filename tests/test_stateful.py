"""The native core and the reference side by side: Hypothesis chooses what is done, and all answers must be the same."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import hbcore
import hbcore.reference

KEY = bytes(range(50, 82))
SEEDS = [bytes([number]) * 32 for number in range(3)]
NAMES = [f"envelope {number}" for number in range(6)]
# The native core remembers in one of 64 places where a handle looks for free packets; two handles that claim must not
# meet there, or the later one begins anew, which is as good a place as any and not the one that the reference is at.
HANDLE_LIMIT = 60

HASHER = hbcore.Engine(key=KEY)
CROWDS = [range(start, start + 1400) for start in range(10**6, 10**6 + 4000, 1000)]
HOLDERS = {HASHER.user_hash(user): user for user in [*range(31), *range(10**6, 10**6 + 4400)]}

users = st.one_of(
    st.integers(0, 30),
    st.integers(0, 12).map(str),
    st.integers(0, 12).map(lambda number: str(number).encode()),  # the same users as the line before
    st.sampled_from(["张三", "李四", "🧧", -1, 2**64 - 1, -(2**63), 2**63, np.int16(-1), np.uint64(7), np.str_("5")]),
    st.integers(10**6, 10**6 + 400),
)
bad_users = st.sampled_from(["", b"", None, 1.5, True, "\ud800", 2**64, -(2**63) - 1, [1], 10**300])
batches = st.one_of(
    st.lists(users, max_size=12),
    st.lists(users, max_size=6).map(tuple),
    st.tuples(st.integers(0, 10**6), st.integers(0, 150)).map(lambda span: np.arange(span[0], sum(span), dtype="i4")),
    st.tuples(st.integers(10**6, 10**6 + 300), st.integers(0, 150)).map(
        lambda span: np.arange(span[0], sum(span))[::-1]
    ),
    st.lists(st.integers(-128, 127), max_size=20).map(lambda numbers: np.array(numbers, "i1")),
    st.lists(st.integers(0, 30).map(str), min_size=1, max_size=20).map(np.array),
    st.lists(st.integers(0, 30).map(lambda number: str(number).encode()), min_size=1, max_size=20).map(np.array),
    st.lists(users | bad_users, max_size=8),
)


@st.composite
def good_terms(draw: st.DrawFn) -> dict[str, Any]:
    packets = draw(st.one_of(st.integers(1, 5), st.integers(1, 200), st.sampled_from([64, 65, 128, 1300])))
    low = draw(st.sampled_from([1, 1, 7]))
    high = draw(st.sampled_from([None, None, low, low + 1, 3 * low + 40]))
    total = draw(st.integers(packets * low, packets * (high or 500)))
    terms = {"total": total, "packets": packets, "seed": draw(st.sampled_from(SEEDS))}
    optional = {
        "law": draw(st.sampled_from(["equal", "double_mean", "dirichlet"])),
        "min": low,
        "max": high,
        "concentration": draw(st.sampled_from([1, 3, 5])),
        "expires_at": draw(st.sampled_from([None, None, None, None, 4_000_000_000, 1_000_000_000])),
    }
    defaults = {"law": "double_mean", "min": 1, "max": None, "concentration": 3, "expires_at": None}
    return terms | {name: value for name, value in optional.items() if value != defaults[name] or draw(st.booleans())}


changes = st.fixed_dictionaries(
    {},
    optional={
        "total": st.sampled_from([1, 10_000, 0, 2**62, None, 5.0]),
        "packets": st.sampled_from([1, 3, 0, 2**40, None, True]),
        "law": st.sampled_from(["equal", "dirichlet", "none", 3]),
        "min": st.sampled_from([1, 2, 0, 10**9]),
        "max": st.sampled_from([None, 400, 10**12, 2**64, 0]),
        "concentration": st.sampled_from([1, 3, 65]),
        "seed": st.sampled_from([*SEEDS, None, b"short", "text"]),
        "expires_at": st.sampled_from([None, 4_000_000_001, -1, float("nan"), "soon"]),
    },
)


def plain(answer: Any) -> Any:
    """An answer in a form that two implementations can be compared by."""
    if isinstance(answer, (hbcore.Claim, hbcore.reference.Claim)):
        return repr(answer), bool(answer)
    if isinstance(answer, (hbcore.Envelope, hbcore.reference.Envelope)):
        return answer.name, answer.terms, repr(answer)
    if isinstance(answer, np.ndarray):
        assert answer.dtype in (hbcore.CLAIM_DTYPE, hbcore.SNAPSHOT_DTYPE)
        fields = [name for name in answer.dtype.names if name != "granted_at"]
        return str(answer.dtype), [[row[name].item() for name in fields] for row in answer]
    if isinstance(answer, list):
        return [plain(part) for part in answer]
    return answer


class SideBySide(RuleBasedStateMachine):
    """Two engines under one key: every call is made on both, every answer and every error compared."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: tuple[ModuleType, ModuleType] = (hbcore, hbcore.reference)
        self.engines = [module.Engine(key=KEY) for module in self.modules]
        self.terms: dict[str, dict[str, Any]] = {}
        self.handles: dict[str, list[Any]] = {}
        self.handle_count = 0

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

    def made(self, answers: list[Any]) -> bool:
        self.handle_count += 1
        return not isinstance(answers[0], Exception)

    @initialize(terms=good_terms())
    def make_the_first(self, terms: dict[str, Any]) -> None:
        self.make(NAMES[0], terms)

    @rule(name=st.sampled_from(NAMES), terms=good_terms())
    def make(self, name: str, terms: dict[str, Any]) -> None:
        if self.handle_count >= HANDLE_LIMIT and name not in self.terms:
            return
        envelopes = self.both(lambda engine: engine.envelope(name, **terms), self.engines)
        if self.made(envelopes) and name not in self.terms:
            self.terms[name] = terms
            self.handles[name] = envelopes

    @rule(name=st.sampled_from(NAMES), change=changes)
    def make_again(self, name: str, change: dict[str, Any]) -> None:
        """The same terms, or some of them changed: the same envelope, or an error that says what is wrong."""
        if name in self.terms:
            terms = self.terms[name] | change
            self.made(self.both(lambda engine: engine.envelope(name, **terms), self.engines))

    @rule(name=st.sampled_from([*NAMES, "nowhere", "", "a\0b", 7]), change=st.just({}) | changes)
    def look_up(self, name: Any, change: dict[str, Any]) -> None:
        if "total" in change or "packets" in change:
            change = {}
        envelopes = self.both(lambda engine: engine.envelope(name, **change), self.engines)
        if self.made(envelopes):
            self.both(lambda envelope: envelope.stats(), envelopes)
            assert envelopes[0] == self.handles[name][0]

    def on(self, number: int) -> list[Any]:
        """One of the envelopes that there are."""
        return list(self.handles.values())[number % len(self.handles)]

    @rule(number=st.integers(0, 5), user=users)
    def claim(self, number: int, user: Any) -> None:
        self.both(lambda envelope: envelope.claim(user), self.on(number))

    @rule(number=st.integers(0, 5), first=st.integers(0, 10**6), count=st.integers(1, 70))
    def claim_one_by_one(self, number: int, first: int, count: int) -> None:
        for user in range(first, first + count):
            self.both(lambda envelope, user=user: envelope.claim(user), self.on(number))

    @rule(number=st.integers(0, 5), batch=batches)
    def claim_many(self, number: int, batch: Any) -> None:
        self.both(lambda envelope: envelope.claim_many(batch), self.on(number))

    @rule(
        number=st.integers(0, 5),
        method=st.sampled_from(["claim", "find", "settle", "release"]),
        user=bad_users,
    )
    def ask_for_a_bad_user(self, number: int, method: str, user: Any) -> None:
        self.both(lambda envelope: getattr(envelope, method)(user), self.on(number))

    @rule(number=st.integers(0, 5), user=users, method=st.sampled_from(["find", "settle", "release"]))
    def ask(self, number: int, user: Any, method: str) -> None:
        self.both(lambda envelope: getattr(envelope, method)(user), self.on(number))

    @rule(number=st.integers(0, 5), crowd=st.integers(0, 3))
    def claim_until_sold_out(self, number: int, crowd: int) -> None:
        self.both(lambda envelope: envelope.claim_many(np.array(CROWDS[crowd])), self.on(number))

    @rule(
        number=st.integers(0, 5),
        method=st.sampled_from(["settle", "release", "release", "release", "find"]),
        start=st.integers(0, 200),
        step=st.sampled_from([1, 2, 5, 19, 64, 83, 150]),
    )
    def ask_for_many_holders(self, number: int, method: str, start: int, step: int) -> None:
        """Settle or release a share of the packets that are out, all over the envelope."""
        envelopes = self.on(number)
        hashes = [row["user"].tobytes() for row in envelopes[0].claims()]
        holders = [HOLDERS[user_hash] for user_hash in hashes if user_hash in HOLDERS]
        for user in holders[start % (len(holders) + 1) :: step]:
            self.both(lambda envelope, user=user: getattr(envelope, method)(user), envelopes)

    @rule(number=st.integers(0, 5), user=users)
    def come_and_go(self, number: int, user: Any) -> None:
        """Churn: what a user has claimed and released over and over crowds the index with tombstones."""
        for _ in range(20):
            self.both(lambda envelope: envelope.claim(user), self.on(number))
            self.both(lambda envelope: envelope.release(user), self.on(number))

    @rule(number=st.integers(0, 5), is_certain=st.integers(0, 3))
    def close(self, number: int, is_certain: int) -> None:
        if is_certain == 0:
            self.both(lambda envelope: envelope.close(), self.on(number))

    @rule(number=st.integers(0, 5))
    def compare_claims(self, number: int) -> None:
        self.both(lambda envelope: envelope.claims(), self.on(number))

    @rule(user=users | bad_users)
    def user_hash(self, user: Any) -> None:
        self.both(lambda engine: engine.user_hash(user), self.engines)

    @rule(is_certain=st.integers(0, 3))
    def audit(self, is_certain: int) -> None:
        if is_certain == 0:
            self.handle_count += len(self.handles)
            self.both(lambda engine: engine.audit(), self.engines)

    @invariant()
    def stats_are_the_same(self) -> None:
        for envelopes in self.handles.values():
            self.both(lambda envelope: envelope.stats(), envelopes)

    def teardown(self) -> None:
        self.both(lambda engine: engine.envelopes(), self.engines)
        for envelopes in self.handles.values():
            self.both(lambda envelope: envelope.claims(), envelopes)
            # Whoever is next gets the same packets, until none is left: nothing hidden differs either.
            self.both(lambda envelope: envelope.claim_many([f"last {number}" for number in range(80)]), envelopes)
        self.both(lambda engine: engine.audit(), self.engines)
        for envelopes in self.handles.values():
            self.both(lambda envelope: envelope.close(), envelopes)
        self.both(lambda engine: engine.audit(), self.engines)
        self.both(lambda engine: engine.close(), self.engines)
        self.both(lambda engine: engine.audit(), self.engines)


TestShort = SideBySide.TestCase
TestShort.settings = settings(max_examples=80, stateful_step_count=40)


class Long(SideBySide):
    """The same for longer lives."""


TestLong = Long.TestCase
TestLong.settings = settings(max_examples=25, stateful_step_count=250)
