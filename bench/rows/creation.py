"""Prints what it costs to make envelopes of 10 packets, one by one and many at once.

    python bench/creating.py [--quick]

Processor time of one thread, in nanoseconds an envelope: the median over the turns, and the least; all rows take turns
in one run. *Fresh* is with all that new space costs: each envelope takes 1,280 bytes that nobody has touched before.
*Touched* is without: the pages are there already. What the pages alone cost, without any envelope on them, is a row of
its own; it belongs to the machine and its kernel. Exits 1 if ``envelope`` makes fewer than 500,000 a second or
``create_many`` fewer than 2,000,000, except with ``--quick``.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import timed
from pages import mappings, populate

import hbcore
from hbcore import reference

PACKETS, TOTAL = 10, 1_000
SPACE = 1_280  # bytes of an envelope of 10 packets
BATCH = 1_000
AHEAD = BATCH * SPACE * 2
RICH = 1 << 61


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


def main() -> int:
    parser = argparse.ArgumentParser(description="what it costs to make envelopes")
    parser.add_argument("--quick", action="store_true", help="short rounds, to see that it runs; judges nothing")
    arguments = parser.parse_args()
    count, turns = (4_000, 2) if arguments.quick else (100_000, 9)
    names = [f"envelope {number}" for number in range(count)]
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(turns):
        for name, (measure, _) in ROWS.items():
            times[name].append(measure(names))
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {count:,} envelopes of {PACKETS} packets, {turns} turns; ns of processor time an envelope")
    print(f"{'operation':40} {'median':>8} {'least':>8} {'a second':>12}")
    missed = 0
    for name, (_, bar) in ROWS.items():
        median = statistics.median(times[name])
        text = "" if bar is None else f"  bar {1e9 / bar:,.0f}" + (": MISSED" if median > bar else "")
        missed += text.endswith("MISSED")
        print(f"{name:40} {median:8,.0f} {min(times[name]):8,.0f} {1e9 / median:12,.0f}{text}")
    fresh, pages = statistics.median(times["create_many, fresh"]), statistics.median(times[next(iter(ROWS))])
    print(f"of create_many on fresh space, pages are {100 * pages / fresh:.0f} %")
    return 1 if missed and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
