"""What the benches measure: every operation once, written against the public API, for every implementation.

An operation takes an implementation and a count, makes everything afresh, and returns a call without arguments that
does the operation ``count`` times and nothing else. Loops run in Python, as in a service: each turn costs the loop as
well (``python -m bench compare`` prints how much). Users are integers and texts as they come from a database: 64-bit
ids in order, and 16-character strings.
"""

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import hbcore
from bench.measure import pages
from bench.measure.turns import Run
from hbcore import law, reference

FIRST_USER = 10_000_000_000
MEAN = 100  # minor units a packet


class LockAndDict:
    """A lock and a dictionary, as people write it: the split at creation, the claim under the lock, no checks."""

    class Envelope:
        def __init__(self, total: int, packets: int) -> None:
            self.lock = threading.Lock()
            self.claims: dict[int | str, int] = {}
            self.free = []
            for left in range(packets, 1, -1):
                self.free.append(random.randint(1, max(1, 2 * (total - left) // left)))
                total -= self.free[-1]
            self.free.append(total)

        def claim(self, user: int | str) -> int | None:
            with self.lock:
                amount = self.claims.get(user)
                if amount is None and self.free:
                    amount = self.claims[user] = self.free.pop()
                return amount

        def claim_many(self, users: np.ndarray) -> list[int | None]:
            return [self.claim(user) for user in users.tolist()]

        def find(self, user: int | str) -> int | None:
            return self.claims.get(user)

        def release(self, user: int | str) -> None:
            with self.lock:
                self.free.append(self.claims.pop(user))

    class Engine:
        def __init__(self) -> None:
            self.envelopes: dict[str, LockAndDict.Envelope] = {}

        def envelope(self, name: str, total: int, packets: int, law: str = "double_mean") -> "LockAndDict.Envelope":
            if name not in self.envelopes:
                self.envelopes[name] = LockAndDict.Envelope(total, packets)
            return self.envelopes[name]


IMPLEMENTATIONS: dict[str, Any] = {"native": hbcore, "reference": reference, "lock and dict": LockAndDict}


def integers(count: int) -> list[int]:
    return list(range(FIRST_USER, FIRST_USER + count))


def texts(count: int) -> list[str]:
    return [f"u-{number:014d}" for number in range(count)]


def new_engine(impl: Any) -> Any:
    return pages.new_engine() if impl is hbcore else impl.Engine()


def new_envelope(impl: Any, packets: int, law: str = "double_mean") -> Any:
    """An envelope of an engine of its own. Its packets are split at the first claims, also by the reference; a lock and
    a dict splits at creation, which is not measured."""
    return new_engine(impl).envelope("bench", total=MEAN * packets, packets=packets, law=law)


def for_each(call: Callable[[Any], object], users: list[Any]) -> Run:
    def run() -> None:
        for user in users:
            call(user)

    return run


def claim_integer(impl: Any, count: int) -> Run:
    return for_each(new_envelope(impl, count).claim, integers(count))


def claim_text(impl: Any, count: int) -> Run:
    return for_each(new_envelope(impl, count).claim, texts(count))


def claim_many(impl: Any, count: int) -> Run:
    envelope, users = new_envelope(impl, count), np.array(integers(count))
    return lambda: envelope.claim_many(users)


def claim_alone(impl: Any, count: int) -> Run:
    """``equal`` costs the reference next to nothing, so this compares claims without the laws."""
    return for_each(new_envelope(impl, count, "equal").claim, integers(count))


def claim_many_alone(impl: Any, count: int) -> Run:
    envelope, users = new_envelope(impl, count, "equal"), np.array(integers(count))
    return lambda: envelope.claim_many(users)


def repeated(impl: Any, count: int) -> Run:
    envelope, users = new_envelope(impl, count), integers(count)
    for_each(envelope.claim, users)()
    return for_each(envelope.claim, users)


def repeated_many(impl: Any, count: int) -> Run:
    envelope, users = new_envelope(impl, count), np.array(integers(count))
    envelope.claim_many(users)
    return lambda: envelope.claim_many(users)


def sold_out_envelope(impl: Any) -> Any:
    envelope = new_envelope(impl, 10_000)
    envelope.claim_many(np.arange(10_000))
    return envelope


def sold_out(impl: Any, count: int) -> Run:
    return for_each(sold_out_envelope(impl).claim, integers(count))


def sold_out_many(impl: Any, count: int) -> Run:
    envelope, users = sold_out_envelope(impl), np.array(integers(count))
    return lambda: envelope.claim_many(users)


def find(impl: Any, count: int) -> Run:
    envelope, users = new_envelope(impl, count), integers(count)
    for_each(envelope.claim, users)()
    return for_each(envelope.find, users)


def release_and_claim(impl: Any, count: int) -> Run:
    """Every user of a sold-out envelope gives the packet back and takes one again: two calls a turn."""
    envelope, users = new_envelope(impl, count), integers(count)
    for_each(envelope.claim, users)()
    release, claim = envelope.release, envelope.claim

    def run() -> None:
        for user in users:
            release(user)
            claim(user)

    return run


def create_small(impl: Any, count: int) -> Run:
    engine, names = new_engine(impl), [f"envelope {number}" for number in range(count)]

    def run() -> None:
        for name in names:
            engine.envelope(name, total=10 * MEAN, packets=10)

    return run


def create_many(impl: Any, count: int) -> Run:
    engine, names = new_engine(impl), [f"envelope {number}" for number in range(count)]
    return lambda: engine.create_many(names, 10 * MEAN, 10)


def create_huge(impl: Any, count: int) -> Run:
    engines = [new_engine(impl) for _ in range(count)]

    def run() -> None:
        for engine in engines:
            engine.envelope("bench", total=10**9 * MEAN, packets=10**9)

    return run


def new_budget(impl: Any, count: int) -> Any:
    """A budget of an engine of its own, with money for so many holds."""
    return new_engine(impl).budget("bench", total=MEAN * count)


def for_each_hold(call: Callable[[Any, int], object], keys: list[Any], amount: int = MEAN) -> Run:
    def run() -> None:
        for key in keys:
            call(key, amount)

    return run


def reserve(impl: Any, count: int) -> Run:
    return for_each_hold(new_budget(impl, count).reserve, integers(count))


def reserve_many(impl: Any, count: int) -> Run:
    budget, keys = new_budget(impl, count), np.array(integers(count))
    return lambda: budget.reserve_many(keys, MEAN)


def held_budget(impl: Any, count: int) -> Any:
    budget = new_budget(impl, count)
    budget.reserve_many(np.array(integers(count)), MEAN)
    return budget


def reserve_repeated(impl: Any, count: int) -> Run:
    return for_each_hold(held_budget(impl, count).reserve, integers(count))


def reserve_insufficient(impl: Any, count: int) -> Run:
    """Nothing is left: one that has to be told so."""
    return for_each_hold(held_budget(impl, 10_000).reserve, integers(10_000 + count)[10_000:])


def settle_hold(impl: Any, count: int) -> Run:
    return for_each(held_budget(impl, count).settle, integers(count))


def settle_part(impl: Any, count: int) -> Run:
    return for_each_hold(held_budget(impl, count).settle, integers(count), MEAN // 2)


def release_hold(impl: Any, count: int) -> Run:
    return for_each(held_budget(impl, count).release, integers(count))


def create_sub_budget(impl: Any, count: int) -> Run:
    budget, names = new_budget(impl, 10 * count), [f"budget {number}" for number in range(count)]
    return for_each_hold(budget.budget, names, 10 * MEAN)


def create_funded(impl: Any, count: int) -> Run:
    budget, names = new_budget(impl, 10 * count), [f"envelope {number}" for number in range(count)]

    def run() -> None:
        for name in names:
            budget.envelope(name, total=10 * MEAN, packets=10)

    return run


def split(impl: Any, count: int, name: str) -> Run:
    laws = law if impl is hbcore else impl
    return lambda: laws.split(MEAN * count, count, law=name, seed=bytes(32))


def split_equal(impl: Any, count: int) -> Run:
    return split(impl, count, "equal")


def split_double_mean(impl: Any, count: int) -> Run:
    return split(impl, count, "double_mean")


def split_dirichlet(impl: Any, count: int) -> Run:
    return split(impl, count, "dirichlet")


def builtin_call(impl: Any, count: int) -> Run:
    """The cheapest call of a built-in method with one argument: what a Python loop costs without hbcore."""
    return for_each(().count, integers(count))
