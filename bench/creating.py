"""Prints what it costs to make envelopes of 10 packets, one by one and many at once.

Processor time of one thread, in nanoseconds an envelope: the median over the turns, and the least; all rows take turns
in one run. *Fresh* is with all that new space costs: each envelope takes 768 bytes that nobody has touched before.
*Touched* is without: the pages are there already. What the pages alone cost, without any envelope on them, is a row of
its own; it belongs to the machine and its kernel. Exits 1 if `envelope` makes fewer than 500,000 a second or
`create_many` fewer than 2,000,000, except with --quick.
"""

import argparse
import os
import statistics

from bench.measure.progress import progress
from bench.rows.creation import PACKETS, ROWS


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has no options of its own."""


def run(options: argparse.Namespace) -> int:
    count, turns = (4_000, 2) if options.quick else (100_000, 9)
    names = [f"envelope {number}" for number in range(count)]
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    with progress("measuring", turns * len(ROWS)) as bar:
        for _ in range(turns):
            for name, (measure, _) in ROWS.items():
                bar.next(name)
                times[name].append(measure(names))
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {count:,} envelopes of {PACKETS} packets, {turns} turns; ns of processor time an envelope")
    print(f"{'operation':40} {'median':>8} {'least':>8} {'a second':>12}")
    missed = 0
    for name, (_, bar_ns) in ROWS.items():
        median = statistics.median(times[name])
        text = "" if bar_ns is None else f"  bar {1e9 / bar_ns:,.0f}" + (": MISSED" if median > bar_ns else "")
        missed += text.endswith("MISSED")
        print(f"{name:40} {median:8,.0f} {min(times[name]):8,.0f} {1e9 / median:12,.0f}{text}")
    fresh, pages = statistics.median(times["create_many, fresh"]), statistics.median(times[next(iter(ROWS))])
    print(f"of create_many on fresh space, pages are {100 * pages / fresh:.0f} %")
    return 1 if missed and not options.quick else 0
