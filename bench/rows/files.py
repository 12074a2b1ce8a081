"""Prints what a claim costs in a file beside one in memory, once the pages are touched.

    python bench/files.py [--quick] [--folder PATH]

Both take turns in one run, on an engine each. Before it is measured every packet is claimed and released once, so that
neither pays for pages or for splitting; the ratio is the median over the turns of file / memory. Exits 1 if a claim in
a file costs more than 1.10 times one in memory, except with ``--quick``.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hbcore

BAR = 1.10


def scalar(envelope: hbcore.Envelope, users: np.ndarray) -> Callable[[], object]:
    claim, numbers = envelope.claim, users.tolist()

    def run() -> None:
        for number in numbers:
            claim(number)

    return run


def batch(envelope: hbcore.Envelope, users: np.ndarray) -> Callable[[], object]:
    return lambda: envelope.claim_many(users)


def measure(engine: hbcore.Engine, name: str, users: np.ndarray, form: Callable[..., Any]) -> float:
    """Return nanoseconds a claim, of packets that were all claimed and released before."""
    envelope = engine.envelope(name, total=100 * len(users), packets=len(users))
    envelope.claim_many(users)
    for user in users.tolist():
        envelope.release(user)
    run = form(envelope, users)
    start = time.thread_time_ns()
    run()
    return (time.thread_time_ns() - start) / len(users)


def main() -> int:
    parser = argparse.ArgumentParser(description="a claim in a file beside a claim in memory")
    parser.add_argument("--quick", action="store_true", help="short rounds, to see that it runs; judges nothing")
    parser.add_argument("--folder", type=Path, help="where the file is made (default: a temporary folder)")
    arguments = parser.parse_args()
    users = np.arange(10_000_000_000, 10_000_000_000 + (5_000 if arguments.quick else 100_000))
    turns = 3 if arguments.quick else 21
    met = True
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(f"{len(os.sched_getaffinity(0))} cores, {len(users):,} packets, median of {turns} turns, ns a claim")
        for form in (scalar, batch):
            ratios, memory, file = [], [], []
            for turn in range(turns):
                with hbcore.Engine() as first, hbcore.Engine(Path(folder) / f"{form.__name__} {turn}.hb") as second:
                    memory.append(measure(first, "bench", users, form))
                    file.append(measure(second, "bench", users, form))
                    ratios.append(file[-1] / memory[-1])
            ratio = statistics.median(ratios)
            met = met and ratio <= BAR
            print(
                f"{form.__name__:8} memory {statistics.median(memory):6.1f}  file {statistics.median(file):6.1f}  "
                f"ratio {ratio:.3f} (of single turns {min(ratios):.2f} .. {max(ratios):.2f}), bar {BAR}"
            )
    return 0 if met or arguments.quick else 1


if __name__ == "__main__":
    sys.exit(main())
