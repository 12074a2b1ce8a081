"""Prints how fast hbcore is, row by row, beside what is asked of it and beside what people use today.

The table is Markdown. Whatever is compared takes turns in one run; `bench/measure/turns.py` says how, and
`bench/rows/claims.py` what *fresh* and *touched* mean. One thread is measured by its processor time, processes and
servers by the clock on the wall: for those nothing else should be running. Writes the pictures of what was measured to
--out, and puts table and pictures between the two marks of a document, if it is told to.

Where the kernel lends huge pages to shared memory, what they change is measured again on engines that ask for them.

Exits 1 if a bar is missed on ordinary pages, except with --quick, whose rounds are too short to judge.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from bench.drawing import add_out, draw_measured
from bench.measure import pages
from bench.measure.findings import Finding
from bench.measure.machine import machine
from bench.measure.turns import Scale
from bench.rows.sections import HUGE, SECTIONS, Done, measured

BUSY_LOAD = 0.5
BEGIN, END = "<!-- python -m bench table --into docs/performance.md -->", "<!-- end of the table -->"


def lines(done: Done, huge: Done, quick: bool) -> list[str]:
    """Return the table in Markdown, aligned for those who read it as it is; ``huge``: of huge pages."""
    verdicts = {None: "", True: "yes", False: "**no**"} if not quick else dict.fromkeys((None, True, False), "")
    again = {found.what: found for findings in huge.values() for found in findings}
    rows = [("what", "measured", "bar", "met", *(("huge pages", "met") if huge else ()), "figures")]
    for found in (found for findings in done.values() for found in findings):
        other = again.get(found.what, Finding(found.what, ""))
        rows.append((
            found.what, found.measured, found.bar, verdicts[found.met],
            *((other.measured, verdicts[other.met]) if huge else ()), found.figures,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]]


def split_at_marks(document: Path) -> tuple[str, str]:
    """Return what stands before the marks and what stands behind them."""
    try:
        before, begin, rest = document.read_text().partition(BEGIN)
    except OSError as error:
        raise SystemExit(f"bench table: the document cannot be read: {error}") from None
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(
            f"bench table: {document} has no lines {BEGIN!r} and, below it, {END!r}: the table goes between them"
        )
    return before, after


def put_into(document: Path, text: str) -> None:
    """Replace what stands between the marks."""
    before, after = split_at_marks(document)
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def heading(facts: dict[str, Any]) -> str:
    """Return the line above the table: the machine, and what it means for the figures."""
    said = ", ".join(f"{name} {value}" for name, value in facts.items())
    if not pages.are_lent():
        said += "; without huge pages, which the kernel does not lend here"
    if facts["load_at_start"] > BUSY_LOAD:
        said += "; other processes were running, so take what it says of absolute times as an upper bound"
    return said


def as_json(facts: dict[str, Any], quick: bool, done: Done, huge: Done) -> str:
    found, on_huge = (
        {name: [finding._asdict() for finding in findings] for name, findings in part.items()} for part in (done, huge)
    )
    return json.dumps({"machine": facts, "quick": quick, "rows": found, "huge": on_huge}, indent=2)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), metavar="ROW", help=f"of {', '.join(SECTIONS)}")
    add_out(parser)
    parser.add_argument(
        "--into", type=Path, help="a document that takes the table between its marks: docs/performance.md"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def run(options: argparse.Namespace) -> int:
    if options.into:
        split_at_marks(options.into)  # before the minutes of measuring, not after them
    facts, scale = machine(), Scale(options.quick)
    names, huge = options.only or list(SECTIONS), {}
    done = measured(names, scale)
    again = [name for name in names if name in HUGE]
    if again and pages.are_lent():
        with pages.on_huge_pages():
            huge = measured(again, Scale(options.quick), "on huge pages")
    drawn = draw_measured(scale.pictured, options, facts) if scale.pictured else {}
    text = "\n".join([heading(facts), "", *lines(done, huge, options.quick)])
    print(as_json(facts, options.quick, done, huge) if options.json else text)
    if options.into:
        folder = options.into.resolve().parent
        links = [f"\n![{title}]({os.path.relpath(path.resolve(), folder)})" for path, title in drawn.items()]
        put_into(options.into, "\n".join([text, *links]))
    judged = [finding.met for findings in done.values() for finding in findings]
    return 0 if options.quick or False not in judged else 1
