"""``hbcore inspect``: the contents of the file of an engine, while its workers run or after they have died.

The file is opened for reading only: nothing is written to it, not even an entry among its workers, and no process that
works on it waits. What an envelope or a budget holds is counted from its slots, each slot once, so parts never sum to
more than the total even while they move. The findings are read in ``snapshot``; ``tree`` draws the tree of budgets.
"""

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

import hbcore
from hbcore.cli.options import Parser, UsageError, add_command, add_key, engine_errors, key_of, say
from hbcore.cli.snapshot import (
    AnyEntry,
    BudgetEntry,
    Entry,
    Node,
    Reader,
    alike,
    build_tree,
    chosen,
    flat,
    money_of,
    rate_of,
    sum_of,
)
from hbcore.cli.terminal import (
    Column,
    Page,
    bar,
    column,
    cut,
    escaped,
    fitted,
    new_console,
    percentage,
    plain,
    size,
    text_of,
    when,
)
from hbcore.cli.tree import BAR_LEAST, BAR_WIDTH, NAME_LEAST, NAME_WIDTH, rate_text, state_text, tree_table
from hbcore.errors import CorruptFileError
from hbcore.types import EngineInfo, WorkerInfo

WATCH_SECONDS = 1.0
ROWS = 20
"""Number of budgets, and of envelopes that belong to none, that are shown without ``--all``."""
PID_COUNT = 8
REPLACED = (
    "what stood at this path before was renamed over or removed, and is still open somewhere: its grants are not here"
)

JSON_KEYS = """\
keys of the JSON object (one object on standard output, with --watch one a line; amounts in minor units, times in
seconds since 1970):
  command        "inspect"
  holds          whether every budget and envelope could be read; for a proof see hbcore audit
  looked_at      when this was read
  file           path, size and used and capacity (bytes), version (of the format), engine_id, created_at, keeps_key,
                 is_replaced (another file, or none, stands at the path by now), strays (processes that have a
                 file open that stood at the path before and has no name any more; those that this user may see)
  workers        alive, dead (how many; killed, or just ended), entries, one for each place that was ever taken: number,
                 epoch, pid, registered_at, is_alive
  budgets        all of them, in the order of their making: name, budget (the names of those above it, from the first;
                 null: none), total (with all top-ups), state (open, closed, damaged), holds (keys that were ever
                 granted), amounts, of settled (also in all that is below it), held, available, refunded (to the budget
                 above it), grants_per_second (in the envelopes below; null but with --watch). amounts and total are
                 null if it is damaged; what was settled in a damaged one below counts as held
  envelopes      all of them, in the order of their making: name, budget (as above), law, min, max, concentration,
                 packets and total (with all top-ups), max_packets, per_user, hold_seconds (null: for ever), state
                 (open, sold_out, expired, closed, damaged), expires_at (null: never), counts and amounts, each of
                 settled, granted, remaining, refunded (null if damaged), grants_per_second (null but with --watch)
  sums           of the envelopes that are not damaged: envelopes, packets, total, counts, amounts, grants_per_second;
                 of the budgets: budgets, and of those that belong to no other, budgeted (their totals) and money
                 (settled, held, available)
"""
SUGGESTIONS = 3

INSPECT_STATUS = """\
exit status:
  0    what is in the file was shown; --watch was interrupted
  1    a budget or an envelope is damaged; the others were shown
  2    a bad argument or an unusable file
  130  interrupted
"""


@dataclass(frozen=True)
class View:
    """The choice of what is shown to people."""

    all: bool = False
    largest: bool = False
    workers: bool = False


@dataclass(frozen=True)
class Inspection:
    """The result of one look."""

    info: EngineInfo
    strays: tuple[int, ...]
    roots: list[AnyEntry]
    looked_at: float
    clock: float
    view: View

    @property
    def entries(self) -> list[Entry]:
        """All envelopes, in the order of their making."""
        found = [entry for entry in flat(self.roots) if isinstance(entry, Entry)]
        return sorted(found, key=lambda entry: entry.offset)

    @property
    def budgets(self) -> list[BudgetEntry]:
        """All budgets, in the order of their making."""
        found = [entry for entry in flat(self.roots) if isinstance(entry, BudgetEntry)]
        return sorted(found, key=lambda entry: entry.offset)

    @property
    def trees(self) -> list[BudgetEntry]:
        """The budgets at the top."""
        return [entry for entry in self.roots if isinstance(entry, BudgetEntry)]

    @property
    def alone(self) -> list[Entry]:
        """The envelopes at the top: those of no budget, or the ones that were asked for."""
        return [entry for entry in self.roots if isinstance(entry, Entry)]

    @property
    def damages(self) -> list[str]:
        """The damages for which something could not be read, each once."""
        return list(dict.fromkeys(entry.damage for entry in flat(self.roots) if entry.damage is not None))

    @property
    def holds(self) -> bool:
        """Whether everything could be read."""
        return not self.damages

    @property
    def rate(self) -> float | None:
        """The number of packets given a second, in all envelopes together."""
        return rate_of(self.roots)


# ---- looking ----------------------------------------------------------------------------------------------------


def strays(path: str | None) -> tuple[int, ...]:
    """Return the processes that have another file open, one that stood at ``path`` before and has no name any more.

    Renaming a file over another takes the other away from its workers, and neither they nor a process that opens the
    new one can see that. But the old file is still among the open files of its workers; this user may look at those of
    some processes.
    """
    if path is None:
        return ()
    # The process that has made the file knows it by its first name (opening.pyx, create_file).
    old = re.compile(re.escape(path) + r"(\.new-\d+-[0-9a-f]+)? \(deleted\)")
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            descriptors = os.listdir(f"/proc/{process}/fd")
        except OSError:  # the process has ended, or belongs to another user
            continue
        if any(is_stray(f"/proc/{process}/fd/{descriptor}", old, path) for descriptor in descriptors):
            found.append(int(process))
    return tuple(sorted(found))


def is_stray(link: str, old: re.Pattern[str], path: str) -> bool:
    """Return whether an open file once stood at ``path``; a namesake in another container is on another device."""
    try:
        if not old.fullmatch(os.readlink(link)):
            return False
        file = os.stat(link)
        return file.st_nlink == 0 and file.st_dev == os.stat(path, follow_symlinks=False).st_dev
    except OSError:  # the file is closed by now, or nothing stands at the path
        return False


def checked_info(engine: hbcore.Engine) -> EngineInfo:
    """Return the engine's info. Raise CorruptFileError for a truncated file: nothing beyond its end may be touched."""
    info = engine.info()
    if info.size < info.used:
        raise CorruptFileError(f"{info.path!r} was truncated: it has {info.size} bytes, and {info.used} were used")
    return info


def look(engine: hbcore.Engine, name: str | None, view: View, last: "Inspection | None" = None) -> Inspection:
    """Read all of the engine, or what has that path in it. ``last`` is the look before, for the rates."""
    info = checked_info(engine)
    nodes: list[Node] = chosen(build_tree(engine), name)
    now, clock = time.time(), time.monotonic()
    seconds = None if last is None else max(clock - last.clock, 1e-9)
    before = {} if last is None else {entry.offset: entry.given for entry in last.entries}
    reader = Reader(now, before, seconds)
    found = strays(info.path) if last is None else last.strays
    return Inspection(info, found, [reader.read(node) for node in nodes], now, clock, view)


def watch(engine: hbcore.Engine, name: str | None, view: View) -> Iterator[Inspection]:
    """Look again each second, for ever."""
    last = look(engine, name, view)
    while True:
        yield last
        time.sleep(max(0.0, last.clock + WATCH_SECONDS - time.monotonic()))
        last = look(engine, name, view, last)


# ---- JSON -------------------------------------------------------------------------------------------------------


def file_as_json(info: EngineInfo, found: Sequence[int]) -> dict[str, object]:
    """Return the file of an engine; ``found`` are its strays."""
    return {
        "path": info.path,
        "size": info.size,
        "used": info.used,
        "capacity": info.capacity,
        "version": info.version,
        "engine_id": info.engine_id,
        "created_at": info.created_at,
        "keeps_key": info.keeps_key,
        "is_replaced": info.is_replaced,
        "strays": list(found),
    }


def workers_as_json(workers: Sequence[WorkerInfo]) -> dict[str, object]:
    """Return the workers of an engine."""
    alive = sum(worker.is_alive for worker in workers)
    entries = [worker._asdict() for worker in workers]
    return {"alive": alive, "dead": len(workers) - alive, "entries": entries}


def names_above(entry: AnyEntry) -> list[str] | None:
    """Return the names of the budgets above an entry, from the first."""
    return list(entry.path[:-1]) or None


def rate_as_json(rate: float | None) -> float | None:
    """Return a number of packets given a second."""
    return None if rate is None else round(rate, 1)


def budget_as_json(entry: BudgetEntry) -> dict[str, object]:
    """Return one budget."""
    return {
        "name": entry.name,
        "budget": names_above(entry),
        "total": None if entry.money is None else entry.total,
        "state": entry.state,
        "holds": entry.holds,
        "amounts": None if entry.money is None else entry.money._asdict(),
        "grants_per_second": rate_as_json(entry.rate),
    }


def entry_as_json(entry: Entry) -> dict[str, object]:
    """Return one envelope."""
    terms, counts, amounts = entry.terms, entry.counts, entry.amounts
    return {
        "name": entry.name,
        "budget": names_above(entry),
        "law": None if terms is None else terms.law,
        "min": None if terms is None else terms.min,
        "max": None if terms is None else terms.max,
        "concentration": None if terms is None else terms.concentration,
        "packets": None if terms is None else entry.packets,
        "total": None if terms is None else entry.total,
        "max_packets": None if terms is None else terms.max_packets,
        "per_user": None if terms is None else terms.per_user,
        "hold_seconds": terms.hold_ms / 1000 if terms is not None and terms.hold_ms else None,
        "state": entry.state,
        "expires_at": terms.expires_at_ms / 1000 if terms is not None and terms.expires_at_ms else None,
        "counts": None if counts is None else counts._asdict(),
        "amounts": None if amounts is None else amounts._asdict(),
        "grants_per_second": rate_as_json(entry.rate),
    }


def sums_as_json(inspection: Inspection) -> dict[str, object]:
    """Return the sums of all envelopes and budgets that could be read."""
    entries = inspection.entries
    counts, amounts = sum_of(entry.counts for entry in entries), sum_of(entry.amounts for entry in entries)
    money = money_of(inspection.trees)
    return {
        "envelopes": sum(entry.stats is not None for entry in entries),
        "packets": sum(counts),
        "total": sum(amounts),
        "counts": counts._asdict(),
        "amounts": amounts._asdict(),
        "grants_per_second": rate_as_json(inspection.rate),
        "budgets": sum(entry.money is not None for entry in inspection.budgets),
        "budgeted": sum(money),
        "money": {"settled": money.settled, "held": money.held, "available": money.available},
    }


def as_json(inspection: Inspection) -> dict[str, object]:
    """Return the inspection as one JSON object; its keys are documented in ``JSON_KEYS`` and stay as they are."""
    return {
        "command": "inspect",
        "holds": inspection.holds,
        "looked_at": inspection.looked_at,
        "file": file_as_json(inspection.info, inspection.strays),
        "workers": workers_as_json(inspection.info.workers),
        "budgets": [budget_as_json(entry) for entry in inspection.budgets],
        "envelopes": [entry_as_json(entry) for entry in inspection.entries],
        "sums": sums_as_json(inspection),
    }


# ---- text -------------------------------------------------------------------------------------------------------


def listed(pids: Sequence[int]) -> str:
    """Return process numbers as text: the first few of them, and how many more there are."""
    return ", ".join(map(str, pids[:PID_COUNT])) + f" and {len(pids) - PID_COUNT} more" * (len(pids) > PID_COUNT)


def about(info: EngineInfo, found: Sequence[int]) -> Text:
    """Return the facts about an engine's file and its workers, one on each line. ``found`` are its strays."""
    crews = []
    for title, is_alive in (("alive", True), ("dead", False)):
        crew = [worker.pid for worker in info.workers if worker.is_alive == is_alive]
        crews.append(f"{len(crew)} {title}" + (f" (pid {listed(crew)})" if crew else ""))
    key = "a key of its own, kept in it" if info.keeps_key else "a key that its owner keeps"
    lines = [
        f"engine   {info.engine_id}, format {info.version}",
        f"made     {when(info.created_at)}, with {key}",
        f"space    {size(info.used)} used of {size(info.capacity)}, {size(info.size)} on disk",
        f"workers  {', '.join(crews)}",
    ]
    text = Text("\n".join(lines))
    warnings = []
    if info.is_replaced:
        warnings.append("another file, or none, stands at this path by now: this is the one that stood there before")
    if found:
        warnings.append(f"{REPLACED}: pid {listed(found)}")
    for warning in warnings:
        text.append(f"\nWARNING  {warning}", style="bold red")
    return text


def workers_table(workers: Sequence[WorkerInfo], page: Page) -> Table:
    """Return one row for each entry of the worker table that was ever used."""
    return fitted(
        [
            column("worker", [str(worker.number) for worker in workers], is_number=True),
            column("epoch", [str(worker.epoch) for worker in workers], is_number=True),
            column("pid", [str(worker.pid) for worker in workers], is_number=True),
            column("registered", [when(worker.registered_at) for worker in workers], worth=1),
            column("", ["alive" if worker.is_alive else "dead" for worker in workers]),
        ],
        page,
    )


def entries_table(every: Sequence[Entry], entries: Sequence[Entry], page: Page, now: float) -> Table:
    """Return one row for each of ``entries``, and one for the sum of ``every`` if that is more than one envelope."""
    counts, amounts = sum_of(entry.counts for entry in every), sum_of(entry.amounts for entry in every)
    rate = rate_of(every)
    is_cut = page.width is not None
    rows = []
    for entry in entries:
        name = "/".join(plain(part, page.unicode) for part in entry.path)
        rows.append(
            (
                cut(name, NAME_WIDTH, page.unicode) if is_cut else name,
                str(entry.terms.law) if entry.terms else "?",
                f"{entry.packets:,}" if entry.terms else "?",
                f"{entry.total:,}" if entry.terms else "?",
                entry.amounts,
                rate_text(entry.rate),
                state_text(entry, now),
            )
        )
    if len(every) > 1:
        rows.append((f"all {len(every):,}", "", f"{sum(counts):,}", f"{sum(amounts):,}", amounts, rate_text(rate), ""))
    names, laws, packets, totals, parts, rates, states = zip(*rows, strict=True)

    def bars(width: int) -> list[Text]:
        return [Text("?" * width) if row is None else bar(row.drawn(), width, page) for row in parts]

    def share(i: int) -> Column:
        cells = ["?" if row is None else percentage(row[i], sum(row)) for row in parts]
        return column(amounts.drawn()[i].cell(page), cells, is_number=True, worth=2)

    columns = [
        # Paths are the last to be cut, because the end of a path tells one envelope from another.
        column("envelope", names, least=NAME_WIDTH if any(len(entry.path) > 1 for entry in entries) else NAME_LEAST),
        column("law", laws, worth=1),
        column("packets", packets, is_number=True, worth=5),
        column("total", totals, is_number=True),
        Column("", bars, BAR_WIDTH, BAR_LEAST, worth=4),
        *map(share, range(3)),
        column("state", states, worth=6),
    ]
    if rate is not None:
        columns.insert(-1, column("given/s", rates, is_number=True, worth=7))
    return fitted(columns, page, sums=int(len(every) > 1))


def legend(inspection: Inspection, page: Page) -> Text:
    """Return the legend of the bars: which part of the amount each character stands for."""
    text = Text("of the amount: ", style="dim")
    money, amounts = money_of(flat(inspection.roots)), sum_of(entry.amounts for entry in inspection.alone)
    parts = money.drawn() if inspection.trees else amounts.drawn()
    # One legend serves both: in an envelope, what is granted is held, and what is left is available.
    for part in parts if money.refunded else parts[:-1]:
        text.append(part.cell(page), style=part.style)
        text.append(f" {part.title}  ", style="dim")
    return text


def trees_shown(inspection: Inspection, page: Page, rows: int | None) -> list[RenderableType]:
    """Return the budgets, at most ``rows`` rows of them and of what is below them (None: all)."""
    trees, view = inspection.trees, inspection.view
    if not trees:
        return []
    parts: list[RenderableType] = [tree_table(trees, page, rows, view.largest, inspection.looked_at)]
    count = sum(1 for _ in flat(trees))
    if rows is not None and count > rows:
        which = "the largest" if view.largest else "the latest"
        note = f"of {count:,} budgets and envelopes {which}; --all shows all, --name all below one"
        parts.append(Text(note, style="dim"))
    return parts


def envelopes_shown(inspection: Inspection, page: Page, rows: int | None) -> list[RenderableType]:
    """Return the envelopes that belong to no budget, at most ``rows`` of them (None: all)."""
    entries, view = inspection.alone, inspection.view
    if not entries:
        return []
    latest = entries[::-1]
    shown = sorted(latest, key=lambda entry: -entry.total) if view.largest else latest
    shown = shown[:rows]
    parts: list[RenderableType] = [entries_table(entries, shown, page, inspection.looked_at)]
    if len(shown) < len(entries):
        which = "the largest" if view.largest else "the latest"
        parts.append(Text(f"{len(shown):,} of {len(entries):,} envelopes, {which}; --all shows all", style="dim"))
    return parts


def rendered(inspection: Inspection, page: Page, rows: int | None) -> Group:
    """Return all that people are shown, with at most ``rows`` budgets and as many envelopes (None: all)."""
    info, view = inspection.info, inspection.view
    title = Text(f"hbcore inspect: {escaped(str(info.path))}, {when(inspection.looked_at)}", style="bold")
    parts: list[RenderableType] = [title, about(info, inspection.strays)]
    if view.workers and info.workers:
        parts += [Text(), workers_table(info.workers, page)]
    if not inspection.roots:
        return Group(*parts, Text(), Text("no envelopes"))
    for shown in (trees_shown(inspection, page, rows), envelopes_shown(inspection, page, rows)):
        if shown:
            parts += [Text(), *shown]
    parts.append(legend(inspection, page))
    parts += [Text(f"DAMAGED: {escaped(damage)}", style="bold red") for damage in inspection.damages[:ROWS]]
    return Group(*parts)


def as_text(inspection: Inspection) -> str:
    """Return the inspection as text for standard output."""
    return text_of(lambda page: rendered(inspection, page, None if inspection.view.all else ROWS))


# ---- watching ---------------------------------------------------------------------------------------------------


def fitting_rows(inspection: Inspection, console: Console) -> int:
    """Return how many rows of a table fit on the terminal with all that is around them; at least one is shown."""
    page, fits, too_many = Page.of(console), 1, console.height + 1
    while too_many - fits > 1:
        rows = (fits + too_many) // 2
        if len(console.render_lines(rendered(inspection, page, rows), pad=False)) <= console.height:
            fits = rows
        else:
            too_many = rows
    return fits


def watch_on_terminal(looks: Iterator[Inspection], console: Console) -> Inspection:
    """Redraw the terminal with each look until it is interrupted; return the last look."""
    last = next(looks)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                frame = rendered(last, Page.of(console), fitting_rows(last, console))
                with uninterrupted():
                    live.update(frame, refresh=True)
                last = next(looks)
        except KeyboardInterrupt:
            return last


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals wait until a frame is drawn: half an escape sequence would spoil the terminal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def watch_in_lines(looks: Iterator[Inspection], write: Callable[[Inspection], object]) -> Inspection:
    """Write each look until it is interrupted; return the last look."""
    last = next(looks)
    try:
        while True:
            write(last)
            last = next(looks)
    except KeyboardInterrupt:
        return last


# ---- the command ----------------------------------------------------------------------------------------------------


def add_inspect(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add ``hbcore inspect``."""
    summary = "show what is in the file of an engine: its workers, budgets and envelopes, and what became of the money"
    more = "The file is only read: workers that run on it notice nothing, and you need no right to write to it."
    command = add_command(commands, "inspect", summary, more, INSPECT_STATUS, JSON_KEYS)
    command.add_argument("file", metavar="FILE", help="the file of the engine")
    command.add_argument(
        "--name",
        metavar="PATH",
        help="show one budget with what is below it, or one envelope: its name after those of the budgets above it, as "
        "gala/taobao/20:00",
    )
    command.add_argument(
        "--all",
        action="store_true",
        help=f"show all budgets and envelopes, not some {ROWS} of them with the latest; JSON has all",
    )
    command.add_argument("--largest", action="store_true", help="show the largest first, not the latest")
    command.add_argument(
        "--workers", action="store_true", help="show each worker: the living, and the dead (killed, or just ended)"
    )
    command.add_argument(
        "--watch",
        action="store_true",
        help="look again each second, with the packets given a second, until interrupted (which is then no error)",
    )
    add_key(command)
    command.set_defaults(run=run_inspect)


def run_inspect(arguments: argparse.Namespace) -> bool:
    """Look into the file, once or again and again."""
    if arguments.name == "":
        raise UsageError("--name must be the path of a budget or an envelope, as gala/taobao/20:00, and is empty")
    view = View(all=arguments.all, largest=arguments.largest, workers=arguments.workers)
    with engine_errors():
        engine = hbcore.Engine(arguments.file, readonly=True, key=key_of(arguments))
    say_it = partial(say, arguments, json_of=as_json, text_of=as_text)
    with engine:
        if arguments.name is not None:
            check_name(engine, arguments.name)
        if not arguments.watch:
            return say_it(look(engine, arguments.name, view))
        looks = watch(engine, arguments.name, view)
        if arguments.json or not sys.stdout.isatty():
            return watch_in_lines(looks, say_it).holds
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the terminal must be put back as it was
        return say_it(watch_on_terminal(looks, new_console()))


def check_name(engine: hbcore.Engine, name: str) -> None:
    """Raise UsageError if nothing in the engine has that path."""
    checked_info(engine)
    roots = build_tree(engine)
    if not chosen(roots, name):
        paths = alike(roots, name)
        hint = f"; there is {' and '.join(map(repr, paths[:SUGGESTIONS]))}" if paths else ""
        raise UsageError(f"--name: there is no budget or envelope {name!r} in {engine.path!r}{hint}")
