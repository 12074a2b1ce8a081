"""Prints hbcore beside what people use today, on the same machine in the same run: claims a second, and ratios.

The peers are a Valkey server with the claim as people write it in Lua, one by one and in pipelines of 100; SQLite in
WAL mode; a lock and a dictionary; the reference in plain Python; and, as the limit, a bare loop in C.

All take turns; a figure is the most claims a second in any of them, by the clock on the wall, as a server works beside
its client. Nothing else should be running. hbcore's own figures contain all that a fresh envelope costs; *touched* is
with the law `equal` in memory whose pages were touched: the claims alone, as with the list that was filled for the
server, and the tables of the bare loop.
"""

import argparse
import sys
from contextlib import ExitStack

from bench.measure.machine import machine
from bench.measure.progress import progress
from bench.measure.turns import WALL, Scale, Times
from bench.rows.peers import CLAIM, MANY, peers


def print_rates(times: Times, turns: int) -> None:
    print(f"best of {turns} turns\n\n{'':<44}{'claims/s':>12}{'claim is':>12}{'claim_many is':>16}")
    for name in times.turns:
        single, many = times.ratio(name, CLAIM), times.ratio(name, MANY)
        print(f"{name:<44}{1e9 / times.figure(name):>12,.0f}{single:>10,.1f} x{many:>14,.1f} x")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, help="turns of each peer (7; quick: 2)")


def run(options: argparse.Namespace) -> int:
    turns = options.turns or (2 if options.quick else 7)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    with ExitStack() as stack:
        try:
            cases = peers(stack, options.quick)
        except ImportError as error:
            print(f"bench peers: {error}; pip install '.[bench]'", file=sys.stderr)
            return 2
        bar = stack.enter_context(progress("measuring", turns * len(cases)))
        times = Scale(options.quick, bar.next).take_turns(cases, turns, WALL)
    print_rates(times, turns)
    return 0
