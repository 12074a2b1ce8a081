"""Measures what three pictures show, and draws them: throughput.png, cost.png and latency.png.

They are drawn of four sections of the table: throughput, peers, curve and tail. `python -m bench table` measures those
as well and draws the same pictures; `python -m bench fairness` draws the two of the laws. Nothing else should be
running. With --quick the figures are rough, and so are the pictures.
"""

import argparse
import sys

from bench.drawing import add_out, draw_measured
from bench.measure.machine import machine
from bench.measure.turns import Scale
from bench.rows.sections import measured

SECTIONS = {"throughput.png": ("throughput", "peers"), "cost.png": ("curve",), "latency.png": ("tail",)}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="PICTURE", help=f"of {', '.join(SECTIONS)}")
    add_out(parser)


def run(options: argparse.Namespace) -> int:
    wanted = options.only or SECTIONS
    facts, scale = machine(), Scale(options.quick)
    measured([section for picture in wanted for section in SECTIONS[picture]], scale)
    drawn = draw_measured(scale.pictured, options, facts)
    missing = {*wanted} - {path.name for path in drawn}
    if missing:
        print(f"bench pictures: not drawn: {', '.join(sorted(missing))}", file=sys.stderr)
    return 2 if missing else 0
