"""Prints what a claim costs in a file beside one in memory, once the pages are touched.

Both take turns in one run, on an engine each. Before it is measured every packet is claimed and released once, so that
neither pays for pages or for splitting; the ratio is the median over the turns of file / memory. Exits 1 if a claim in
a file costs more than 1.10 times one in memory, except with --quick.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

import hbcore
from bench.measure.operations import integers
from bench.measure.progress import progress
from bench.rows.files import BAR, FORMS, measure


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help="where the file is made (default: a temporary folder)")


def run(options: argparse.Namespace) -> int:
    users = np.array(integers(5_000 if options.quick else 100_000))
    turns = 3 if options.quick else 21
    met = True
    print(f"{len(os.sched_getaffinity(0))} cores, {len(users):,} packets, median of {turns} turns, ns a claim")
    for form in FORMS:
        ratios, memory, file = [], [], []
        with tempfile.TemporaryDirectory(dir=options.folder) as folder, progress("measuring", turns) as bar:
            for turn in range(turns):
                bar.next(form.__name__)
                with hbcore.Engine() as first, hbcore.Engine(Path(folder) / f"{turn}.hb") as second:
                    memory.append(measure(first, "bench", users, form))
                    file.append(measure(second, "bench", users, form))
                    ratios.append(file[-1] / memory[-1])
        ratio = statistics.median(ratios)
        met = met and ratio <= BAR
        print(
            f"{form.__name__:8} memory {statistics.median(memory):6.1f}  file {statistics.median(file):6.1f}  "
            f"ratio {ratio:.3f} (of single turns {min(ratios):.2f} .. {max(ratios):.2f}), bar {BAR}"
        )
    return 0 if met or options.quick else 1
