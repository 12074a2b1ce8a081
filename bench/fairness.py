"""Draws what the laws do to the amounts, and what a packet's number does to its luck: docs/laws.png, docs/fairness.png.

Both pictures are of envelopes of 10,000 over 10 packets. The figures behind them are printed as tables. The seeds are
fixed, so that every run draws the same pictures. Beside hbcore's laws stands the classic that most services use: the
double mean as it is drawn, packet by packet, without a shuffle.
"""

import argparse
import math
import sys

import numpy as np

from bench.drawing import add_out, folder_of
from bench.measure.progress import progress
from bench.rows.fairness import (
    CLASSIC,
    FAIR,
    LAWS,
    PACKETS,
    TOTAL,
    best_chance,
    classic_envelopes,
    native_envelopes,
    spread,
)


def print_tables(rows: dict[str, np.ndarray]) -> None:
    print(f"{TOTAL:,} over {PACKETS} packets, {len(next(iter(rows.values()))):,} envelopes a law\n")
    for title, measure, form in (
        ("mean amount, by packet", lambda amounts: amounts.mean(axis=0), "{:8.1f}"),
        ("standard deviation of the amount, by packet", spread, "{:8.1f}"),
        ("chance of the best packet, by packet", best_chance, "{:8.4f}"),
    ):
        print(f"{title}\n{'':26}" + "".join(f"{number:8}" for number in range(1, PACKETS + 1)))
        for name, amounts in rows.items():
            print(f"{name:26}" + "".join(form.format(value) for value in measure(amounts)))
        print()
    count = len(next(iter(rows.values())))
    print(f"One standard error of a chance of 0.1 is {math.sqrt(0.09 / count):.4f}.")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    help = "envelopes a law (400,000; quick: 2,000)"
    parser.add_argument("--envelopes", type=positive, metavar="COUNT", help=help)
    add_out(parser)


def run(options: argparse.Namespace) -> int:
    count = options.envelopes or (2_000 if options.quick else 400_000)
    rows = {}
    with progress("splitting", len(LAWS) + 1) as bar:
        bar.next(CLASSIC)
        rows[CLASSIC] = classic_envelopes(count)
        for family, name in enumerate(LAWS):
            bar.next(name)
            rows[name] = native_envelopes(count, family, LAWS[name])
    print_tables(rows)
    try:
        from bench.drawing import fairness
    except ImportError as error:
        print(f"bench fairness: no pictures: {error}; pip install '.[bench]'", file=sys.stderr)
        return 2
    folder = folder_of(options)
    fairness.draw_laws({name: rows[name] for name in LAWS}, folder / "laws.png")
    fairness.draw_fairness({name: rows[name] for name in (CLASSIC, *FAIR)}, folder / "fairness.png")
    print(f"Wrote {folder / 'laws.png'} and {folder / 'fairness.png'}.")
    return 0
