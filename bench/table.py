"""Prints how fast hbcore is, row by row, beside what is asked of it and beside what people use today.

    python bench/table.py [--quick] [--only ROW ...] [--out docs] [--into README.md] [--json]

The table is Markdown. Whatever is compared takes turns in one run; ``measuring.py`` says how, ``claims.py`` what
*fresh* and *touched* mean. One thread is measured by its processor time, processes and servers by the clock on the
wall: for those nothing else should be running. Writes the pictures of what was measured to ``--out``, and puts table
and pictures between the two marks of a document, if it is told to.

Where the kernel lends huge pages to shared memory, what they change is measured again on engines that ask for them.

Exits 1 if a bar is missed on ordinary pages, except with ``--quick``, whose rounds are too short to judge.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import claims
import pages
import peers
import processes
import sizes
from measuring import TIMES, WALL, Finding, Scale, beside, faster, machine
from rich.console import Console

from hbcore.cli.progress import Display


def beside_peers(scale: Scale) -> list[Finding]:
    with ExitStack() as stack:
        try:
            cases = peers.peers(stack, scale.quick)
        except ImportError as error:
            return [Finding("beside a Valkey server", f"not measured: {error}", "at least 300, at least 200")]
        times = scale.take_turns(cases, scale.choose(9, 1), WALL)
    found = []
    for rival, bar, names in (
        (peers.SINGLE, 300, (peers.CLAIM_TOUCHED, peers.CLAIM)),
        (peers.PIPELINED, 200, (peers.MANY_TOUCHED, peers.MANY, peers.SMALL_BATCHES_TOUCHED, peers.SMALL_BATCHES)),
    ):
        found += [faster(f"{name} beside {rival}", times, name, rival, bar) for name in names]
    for rival in (peers.SQLITE, peers.LOCK_AND_DICT, peers.REFERENCE):
        ratio = TIMES.format(times.ratio(rival, peers.CLAIM))
        found.append(Finding(f"{peers.CLAIM} beside {rival}", ratio, figures=beside(times, peers.CLAIM, rival)))
    scale.pictured["peers"] = {name: 1e9 / times.figure(name) for name in cases}
    return found


BUSY_LOAD = 0.5
BEGIN, END = "<!-- bench/table.py --into README.md -->", "<!-- end of the table -->"

SECTIONS: dict[str, Callable[[Scale], list[Finding]]] = {
    "scalar": claims.scalar,
    "batch": claims.batch,
    "large": claims.large_batch,
    "processes": processes.two_beside_one,
    "throughput": processes.throughput,
    "answers": claims.answers,
    "peers": beside_peers,
    "creation": claims.creation,
    "giant": sizes.giant,
    "laws": claims.laws,
    "memory": sizes.memory,
    "curve": sizes.curve,
    "tail": processes.tail,
}
HUGE = ("scalar", "batch", "large", "processes", "peers", "creation", "curve", "tail")
"""The sections that huge pages change."""

Done = dict[str, list[Finding]]


def measured(names: Sequence[str], scale: Scale, display: Display, label: str = "measuring") -> Done:
    """Measure the sections one after the other, and show on a terminal how far that is."""
    done: Done = {}
    now = ""
    draw = display.bar(label, len(names), lambda seconds: (len(done), now))

    def tell(name: str, text: str) -> None:
        nonlocal now
        now = f"{name}: {text}"
        draw(False)

    for name in names:
        scale.tell = partial(tell, name)
        done[name] = SECTIONS[name](scale)
    draw(True)
    return done


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


def put_into(document: Path, text: str) -> None:
    """Replace what stands between the marks."""
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{document} has no lines {BEGIN!r} and {END!r}")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def draw(scale: Scale, folder: Path, facts: dict[str, Any]) -> dict[Path, str]:
    """Draw what can be drawn of what was measured; return the pictures and their titles."""
    try:
        import pictures
    except ImportError as error:
        print(f"table.py: no pictures: {error}; pip install '.[bench]'", file=sys.stderr)
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = pictures.draw(scale.pictured, folder, facts)
    for path in drawn:
        print(f"Wrote {path}.", file=sys.stderr)
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser(description="how fast hbcore is, beside what is asked of it")
    parser.add_argument("--quick", action="store_true", help="short rounds, to see that it runs; judges nothing")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), metavar="ROW", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, help="folder of the pictures (docs; with --quick a temporary one)")
    parser.add_argument("--into", type=Path, help="a document that takes the table between its marks, as README.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    facts, scale = machine(), Scale(arguments.quick)
    terminal = Console(stderr=True)
    with Display(terminal if terminal.is_terminal else None) as display:
        names = arguments.only or list(SECTIONS)
        done, huge = measured(names, scale, display), {}
        if pages.are_lent():
            with pages.on_huge_pages():
                names = [name for name in names if name in HUGE]
                huge = measured(names, Scale(arguments.quick), display, "on huge pages")
    default = tempfile.mkdtemp() if arguments.quick else Path(__file__).parent.parent / "docs"
    drawn = draw(scale, Path(arguments.out or default), facts) if scale.pictured else {}
    said = ", ".join(f"{name} {value}" for name, value in facts.items())
    if not huge:
        said += "; without huge pages, which the kernel does not lend here"
    if facts["load_at_start"] > BUSY_LOAD:
        said += "; other processes were running, so take what it says of absolute times as an upper bound"
    text = "\n".join([said, "", *lines(done, huge, arguments.quick)])
    if arguments.json:
        found, on_huge = (
            {name: [finding._asdict() for finding in findings] for name, findings in part.items()}
            for part in (done, huge)
        )
        print(json.dumps({"machine": facts, "quick": arguments.quick, "rows": found, "huge": on_huge}, indent=2))
    else:
        print(text)
    if arguments.into:
        folder = arguments.into.resolve().parent
        links = [f"\n![{title}]({os.path.relpath(path, folder)})" for path, title in drawn.items()]
        put_into(arguments.into, "\n".join([text, *links]))
    judged = [finding.met for findings in done.values() for finding in findings]
    return 0 if arguments.quick or False not in judged else 1


if __name__ == "__main__":
    sys.exit(main())
