"""What it costs to make envelopes: two rows of the table, and all those of ``python -m bench creating``.

*Fresh* is with all that new space costs: each envelope takes 768 bytes that nobody has touched before. *Touched* is
without: the pages are there already. What the pages alone cost is a row of its own.
"""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

import hbcore
from bench.measure import operations
from bench.measure.findings import Finding, at_least
from bench.measure.operations import MEAN
from bench.measure.pages import mappings, new_engine, populate
from bench.measure.turns import Case, Run, Scale, timed
from hbcore import reference

PACKETS, TOTAL = 10, 1_000
SPACE = 768  # bytes of an envelope of 10 packets
BATCH = 1_000
AHEAD = BATCH * SPACE * 2
RICH = 1 << 61
RATE = "{:,.0f} a second"


def create_many(count: int) -> Run:
    engine: Any = new_engine()
    names = [f"envelope {number}" for number in range(count)]
    totals, packets = np.full(count, 10 * MEAN), np.full(count, 10)
    return lambda: engine.create_many(names, totals, packets)


def creation(scale: Scale) -> list[Finding]:
    count = scale.choose(10_000, 1_000)
    cases = {
        "envelope": Case(lambda: operations.create_small(hbcore, count), count),
        "create_many": Case(lambda: create_many(10 * count), 10 * count),
    }
    times = scale.take_turns(cases, scale.choose(15, 2))
    return [
        at_least("engine.envelope(...) of 10 packets", 1e9 / times.figure("envelope"), 500_000, RATE),
        at_least("engine.create_many(...), 10 packets each", 1e9 / times.figure("create_many"), 2_000_000, RATE),
    ]


def touch(engine: hbcore.Engine, first: int, size: int) -> None:
    """Touch the pages of the only engine in memory from byte ``first`` on."""
    ((start, _),) = mappings()
    populate(start + first, size)


def in_batches(
    make: Callable[[Any, Any], object],
    names: list[str],
    is_touched: bool,
    maker: Callable[[hbcore.Engine], Any] = lambda engine: engine,
    form: Callable[[list[str]], Any] = list,
) -> float:
    """Return the median batch of an engine of its own: one that makes a level of the directory is not it."""
    times = []
    with hbcore.Engine() as engine:
        made_by = maker(engine)
        for first in range(0, len(names), BATCH):
            part = form(names[first : first + BATCH])
            if is_touched:
                touch(engine, engine.info().used, AHEAD)
            times.append(timed(lambda part=part: make(made_by, part), min(BATCH, len(names) - first)))
    return statistics.median(times)


def one_by_one(maker: Any, names: list[str]) -> None:
    for name in names:
        maker.envelope(name, total=TOTAL, packets=PACKETS)


def get(maker: Any, names: list[str]) -> None:
    for name in names:
        maker.envelope(name)


def at_once(maker: Any, names: list[str]) -> None:
    maker.create_many(names, TOTAL, PACKETS)


def arrays(names: list[str]) -> tuple[np.ndarray, ...]:
    return np.array(names), np.full(len(names), TOTAL), np.full(len(names), PACKETS)


def from_arrays(maker: Any, columns: tuple[np.ndarray, ...]) -> None:
    maker.create_many(*columns)


def of_budget(engine: hbcore.Engine) -> hbcore.Budget:
    return engine.budget("bench", RICH)


def again(make: Callable[[Any, list[str]], object], names: list[str]) -> float:
    with hbcore.Engine() as engine:
        at_once(engine, names)
        return timed(lambda: make(engine, names), len(names))


def pages_alone(names: list[str]) -> float:
    with hbcore.Engine() as engine:
        return timed(lambda: touch(engine, 1 << 20, len(names) * SPACE), len(names))


def by_reference(make: Callable[[Any, list[str]], object], names: list[str]) -> float:
    return timed(lambda: make(reference.Engine(), names[:2_000]), 2_000)


ROWS: dict[str, tuple[Callable[[list[str]], float], float | None]] = {
    # what it is: how it is measured, and the bar in nanoseconds
    "the pages of an envelope, nothing else": (pages_alone, None),
    "envelope, new, fresh": (lambda names: in_batches(one_by_one, names, False), 2_000),
    "envelope, new, touched": (lambda names: in_batches(one_by_one, names, True), 2_000),
    "envelope, existing": (lambda names: again(one_by_one, names), 2_000),
    "envelope, got by its name": (lambda names: again(get, names), 2_000),
    "envelope of a budget, new, touched": (lambda names: in_batches(one_by_one, names, True, of_budget), None),
    "create_many, fresh": (lambda names: in_batches(at_once, names, False), 500),
    "create_many, touched": (lambda names: in_batches(at_once, names, True), 500),
    "create_many from arrays, touched": (lambda names: in_batches(from_arrays, names, True, form=arrays), None),
    "create_many, all existing": (lambda names: again(at_once, names), None),
    "create_many of a budget, touched": (lambda names: in_batches(at_once, names, True, of_budget), None),
    "envelope by the reference": (lambda names: by_reference(one_by_one, names), None),
    "create_many by the reference": (lambda names: by_reference(at_once, names), None),
}
