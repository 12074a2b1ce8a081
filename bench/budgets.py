"""Prints what holds cost: reserve beside claim, batches, settle and release, and what is below a budget.

Processor time of one thread, so that other load on the machine counts as little as it can, in nanoseconds an operation:
the median over the turns, and the least. *Fresh* is with all that a new budget or envelope costs: its memory is touched
for the first time, and levels are made as they fill. *Touched* is without: the pages are there, but nothing was ever
written to them. A reserve and a claim take turns in one run. Exits 1 if a reserve costs more than 1.5 times a claim, or
a hold of `reserve_many` more than 100 ns, touched or fresh, except with --quick.
"""

import argparse
import os
import statistics
from contextlib import nullcontext

import numpy as np

from bench.measure.operations import integers
from bench.measure.pages import on_huge_pages
from bench.measure.progress import progress
from bench.rows.holds import CREATIONS, NANOSECONDS, RATIOS, ROWS, bytes_of_holds


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--huge-pages", action="store_true", help="ask for huge pages (Engine(huge_pages=True))")


def run(options: argparse.Namespace) -> int:
    with on_huge_pages() if options.huge_pages else nullcontext():
        return report(options.quick)


def report(quick: bool) -> int:
    """Measure and print everything; return the exit status."""
    count, turns = (5_000, 3) if quick else (100_000, 15)
    users = np.array(integers(count))
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    with progress("measuring", turns * len(ROWS)) as steps:
        for _ in range(turns):
            for name, (measure, _) in ROWS.items():
                steps.next(name)
                times[name].append(measure(users[: count // 20] if name in CREATIONS else users))
    print(f"{len(os.sched_getaffinity(0))} cores, {count:,} keys, {turns} turns; ns of processor time an operation")
    print(f"{'operation':42} {'median':>8} {'least':>8}  beside")
    met = True
    for name, (_, other) in ROWS.items():
        text, bar = "", ""
        if other:
            ratio = statistics.median(mine / its for mine, its in zip(times[name], times[other], strict=True))
            text = f"{ratio:.2f} times {other.split(' (')[0]}"
            if name in RATIOS:
                bar, met = f", bar {RATIOS[name]}", met and ratio <= RATIOS[name]
        median = statistics.median(times[name])
        if name in NANOSECONDS:
            text, met = f"{text}{', ' if text else ''}bar {NANOSECONDS[name]} ns", met and median <= NANOSECONDS[name]
        print(f"{name:42} {median:8,.0f} {min(times[name]):8,.0f}  {text}{bar}".rstrip())
    print(f"bytes of space a hold: {bytes_of_holds((100, 1_000, 10_000, count))}")
    return 0 if met or quick else 1
