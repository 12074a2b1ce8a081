"""What holds cost beside claims: the rows of ``python -m bench budgets``.

*Fresh* is with all that a new budget or envelope costs: its memory is touched for the first time, and levels are made
as they fill. *Touched* is without: the pages are there, but nothing was ever written to them.
"""

import mmap
import resource
import statistics
from collections.abc import Callable, Iterator

import numpy as np

import hbcore
from bench.measure import operations
from bench.measure.pages import new_engine, touch, touched_envelope
from bench.measure.turns import Run, timed

RATIO_BAR = 1.5
BATCH_BAR_NS = 100
BATCH = 1_000
RICH = 1 << 61
AHEAD = 400  # bytes of space a hold, at most


def new_budget() -> tuple[hbcore.Engine, hbcore.Budget]:
    engine = new_engine()
    return engine, engine.budget("bench", RICH)


def for_keys(call: Callable[[int, int], object], keys: list[int]) -> Callable[[], None]:
    def run() -> None:
        for key in keys:
            call(key, 100)

    return run


def batches(users: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(users), BATCH):
        yield users[first : first + BATCH]


def reserve_fresh(users: np.ndarray) -> float:
    _, budget = new_budget()
    return timed(for_keys(budget.reserve, users.tolist()), len(users))


def claim_fresh(users: np.ndarray) -> float:
    return timed(operations.claim_alone(hbcore, len(users)), len(users))


def claim_fresh_split(users: np.ndarray) -> float:
    return timed(operations.claim_integer(hbcore, len(users)), len(users))


def reserve_touched(users: np.ndarray) -> float:
    """The median batch: one that makes a level is not it."""
    engine, budget = new_budget()
    touch(engine, AHEAD * len(users))  # once: what goes through the page tables before each batch empties the caches
    times = []
    for part in batches(users):
        times.append(timed(for_keys(budget.reserve, part.tolist()), len(part)))
    return statistics.median(times)


def claim_touched(users: np.ndarray) -> float:
    """The median batch, as of a reserve."""
    envelope = touched_envelope(len(users))
    times = [timed(operations.for_each(envelope.claim, part.tolist()), len(part)) for part in batches(users)]
    return statistics.median(times)


def reserve_many_fresh(users: np.ndarray) -> float:
    _, budget = new_budget()

    def run() -> None:
        for part in batches(users):
            budget.reserve_many(part, 100)

    return timed(run, len(users))


def reserve_many_touched(users: np.ndarray) -> float:
    engine, budget = new_budget()
    touch(engine, AHEAD * len(users))
    times = []
    for part in batches(users):
        times.append(timed(lambda part=part: budget.reserve_many(part, 100), len(part)))
    return statistics.median(times)


def faults_of_reserve_many(users: np.ndarray) -> float:
    """What the kernel alone takes for the memory: as many pages of the same kind, each written to once."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    reserve_many_fresh(users)
    pages = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
    memory = np.frombuffer(mmap.mmap(-1, max(pages, 1) * mmap.PAGESIZE), np.uint8)  # shared, as an engine's

    def write() -> None:
        memory[:: mmap.PAGESIZE] = 1

    return timed(write, len(users))


def claim_many_fresh(users: np.ndarray) -> float:
    return timed(operations.claim_many_alone(hbcore, len(users)), len(users))


def of_operation(operation: Callable[..., Run]) -> Callable[[np.ndarray], float]:
    return lambda users: timed(operation(hbcore, len(users)), len(users))


ROWS: dict[str, tuple[Callable[[np.ndarray], float], str]] = {
    # what it is: how it is measured, and what it is compared with
    "claim, fresh (law equal: the claim alone)": (claim_fresh, ""),
    "claim, fresh, split as well (double_mean)": (claim_fresh_split, ""),
    "reserve, fresh": (reserve_fresh, "claim, fresh (law equal: the claim alone)"),
    "claim, touched": (claim_touched, ""),
    "reserve, touched": (reserve_touched, "claim, touched"),
    "claim_many, fresh (law equal)": (claim_many_fresh, ""),
    "reserve_many, fresh": (reserve_many_fresh, "claim_many, fresh (law equal)"),
    "reserve_many, touched": (reserve_many_touched, ""),
    "reserve_many, fresh: its page faults alone": (faults_of_reserve_many, ""),
    "reserve, repeated": (of_operation(operations.reserve_repeated), ""),
    "reserve, insufficient": (of_operation(operations.reserve_insufficient), ""),
    "settle all of it": (of_operation(operations.settle_hold), ""),
    "settle a part": (of_operation(operations.settle_part), ""),
    "release": (of_operation(operations.release_hold), ""),
    "create a sub-budget": (of_operation(operations.create_sub_budget), ""),
    "create a funded envelope of 10 packets": (of_operation(operations.create_funded), ""),
}
CREATIONS = ("create a sub-budget", "create a funded envelope of 10 packets")
RATIOS = {"reserve, fresh": RATIO_BAR, "reserve, touched": RATIO_BAR}
NANOSECONDS = {"reserve_many, fresh": BATCH_BAR_NS, "reserve_many, touched": BATCH_BAR_NS}


def bytes_of_holds(counts: tuple[int, ...]) -> str:
    """Return what a hold takes of the file, in bytes, at some numbers of holds in one budget."""
    found = []
    for count in counts:
        engine, budget = new_budget()
        before = engine.info().used
        budget.reserve_many(np.arange(count), 1)
        found.append(f"{(engine.info().used - before) / count:,.0f} at {count:,}")
    return ", ".join(found)
