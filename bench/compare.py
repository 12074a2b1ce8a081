"""Prints hbcore beside its reference in plain Python, and beside a lock and a dictionary: nanoseconds and ratios.

All implementations take turns in one run, on a fresh engine each time; every figure is the median over the turns and
includes what is paid once for an envelope: its memory is touched for the first time, its packets are split. With the
law `equal` the split costs next to nothing in Python as well, so those rows compare the claims alone. Times are those
of the thread: nothing here waits, and what other processes take from it is not counted.

Exits 1 if a bar is missed, except with --quick, whose rounds are too short to judge.
"""

import argparse
import json
import statistics
from typing import Any, NamedTuple

from bench.measure import operations
from bench.measure.machine import machine
from bench.measure.operations import IMPLEMENTATIONS
from bench.measure.progress import progress
from bench.measure.turns import timed, without_garbage

ALL = tuple(IMPLEMENTATIONS)
PAIR = ALL[:2]  # what a lock and a dict has no equivalent of


class Row(NamedTuple):
    name: str
    operation: Any
    count: int  # operations in one round
    reference_count: int  # the same for the slow implementations
    implementations: tuple[str, ...] = ALL
    bar: float | None = None  # times the reference at least


ROWS = (
    Row("claim of an int", operations.claim_integer, 100_000, 100_000, bar=5),
    Row("claim of a 16-character str", operations.claim_text, 100_000, 100_000),
    Row("claim_many of int64, per claim", operations.claim_many, 100_000, 100_000, bar=30),
    Row("claim of an int, law equal", operations.claim_alone, 100_000, 100_000),
    Row("claim_many, law equal, per claim", operations.claim_many_alone, 100_000, 100_000),
    Row("claim, repeated", operations.repeated, 100_000, 100_000),
    Row("claim_many, repeated, per claim", operations.repeated_many, 100_000, 100_000),
    Row("claim, sold out", operations.sold_out, 100_000, 1_000),
    Row("claim_many, sold out, per claim", operations.sold_out_many, 100_000, 1_000),
    Row("find", operations.find, 100_000, 100_000),
    Row("release and claim again", operations.release_and_claim, 100_000, 100_000),
    Row("create an envelope of 10 packets", operations.create_small, 10_000, 10_000),
    Row("create_many, of 10 packets", operations.create_many, 10_000, 10_000, PAIR),
    Row("create an envelope of 10**9 packets", operations.create_huge, 10, 10, PAIR),
    Row("split, equal, per packet", operations.split_equal, 1_024_000, 102_400, PAIR),
    Row("split, double_mean, per packet", operations.split_double_mean, 1_024_000, 4_096, PAIR),
    Row("split, dirichlet c=3, per packet", operations.split_dirichlet, 1_024_000, 4_096, PAIR),
    Row("a built-in method, for scale", operations.builtin_call, 100_000, 100_000, ALL[:1]),
)


def measure(operation: Any, implementation: str, count: int) -> float:
    """Return nanoseconds an operation, in one round that is prepared afresh."""
    run = operation(IMPLEMENTATIONS[implementation], count)
    with without_garbage():
        return timed(run, count)


def measure_row(row: Row, turns: int, shrink: int) -> dict[str, list[float]]:
    """Let the implementations take turns, so that what else the machine does meets them all."""
    figures: dict[str, list[float]] = {name: [] for name in row.implementations}
    with progress(row.name, turns * len(row.implementations)) as bar:
        for _ in range(turns):
            for name in row.implementations:
                bar.next(name)
                count = row.count if name == "native" else row.reference_count
                figures[name].append(measure(row.operation, name, max(1, count // shrink)))
    return figures


def nanoseconds(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def result(row: Row, figures: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return {
        "operation": row.name,
        "nanoseconds": medians,
        "lowest": {name: min(values) for name, values in figures.items()},
        "highest": {name: max(values) for name, values in figures.items()},
        "times_native": {name: median / medians["native"] for name, median in medians.items() if name != "native"},
        "bar": row.bar,
    }


def line(answer: dict[str, Any]) -> str:
    medians, ratios = answer["nanoseconds"], answer["times_native"]
    cells = [f"{answer['operation']:<38}"]
    cells += [f"{nanoseconds(medians[name]) if name in medians else '-':>14}" for name in ALL]
    cells += [f"{ratios[name]:>13,.1f} x" if name in ratios else f"{'-':>15}" for name in ALL[1:]]
    return "".join(cells)


def judge(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is asked of hbcore beside what this run has measured."""
    return [
        {
            "operation": answer["operation"],
            "bar": answer["bar"],
            "measured": answer["times_native"]["reference"],
            "met": answer["times_native"]["reference"] >= answer["bar"],
        }
        for answer in answers
        if answer["bar"]
    ]


def print_head(facts: dict[str, Any], turns: int) -> None:
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"median of {turns} turns, nanoseconds an operation with its loop; then how many times as much as native\n")
    print(f"{'':<38}" + "".join(f"{name:>14}" for name in ALL) + "".join(f"{name:>15}" for name in ALL[1:]))


def print_verdicts(verdicts: list[dict[str, Any]], quick: bool) -> None:
    print()
    for verdict in verdicts:
        said = "not judged" if quick else "met" if verdict["met"] else "MISSED"
        print(f"{verdict['operation']}: the reference costs {verdict['measured']:.1f} times as much; ", end="")
        print(f"at least {verdict['bar']} are asked for: {said}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--turns", type=int, help="rounds of each implementation (5; quick: 2)")


def run(options: argparse.Namespace) -> int:
    turns = options.turns or (2 if options.quick else 5)
    facts = machine()
    if not options.json:
        print_head(facts, turns)
    answers = []
    for row in ROWS:
        answers.append(result(row, measure_row(row, turns, 20 if options.quick else 1)))
        if not options.json:
            print(line(answers[-1]), flush=True)
    verdicts = judge(answers)
    if options.json:
        report = {"machine": facts, "turns": turns, "quick": options.quick, "rows": answers, "bars": verdicts}
        print(json.dumps(report, indent=2))
    else:
        print_verdicts(verdicts, options.quick)
    return 0 if options.quick or all(verdict["met"] for verdict in verdicts) else 1
