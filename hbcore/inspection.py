"""``hbcore inspect``: what is in the file of an engine, while its workers run or after they have died.

The file is opened for reading only: nothing is written to it, not even an entry among its workers, and nobody who works
on it waits. What an envelope holds is counted from its slots, each slot once, so parts never sum to more than the total
even while they move.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

import hbcore
from hbcore.errors import CorruptFileError
from hbcore.layout import (
    Column,
    Page,
    Part,
    bar,
    column,
    cut,
    escaped,
    fitted,
    percentage,
    plain,
    size,
    text_of,
    when,
    when_shortly,
)
from hbcore.records import EngineInfo, EnvelopeStats, WorkerInfo
from hbcore.terms import LAWS, Terms

WATCH_SECONDS = 1.0
ROWS = 20
"""So many envelopes are shown where nobody asks for all."""
NAME_WIDTH, NAME_LEAST = 40, 12
BAR_WIDTH, BAR_LEAST = 30, 8
PID_COUNT = 8
REPLACED = (
    "what stood at this path before was renamed over or removed, and is still open somewhere: its grants are not here"
)

JSON_KEYS = """\
keys of the JSON object (one object on standard output, with --watch one a line; amounts in minor units, times in
seconds since 1970):
  command        "inspect"
  holds          whether every envelope could be read; for a proof see hbcore audit
  looked_at      when this was read
  file           path, size and used and capacity (bytes), version (of the format), engine_id, created_at, keeps_key,
                 is_replaced (another file, or none, stands at the path by now), strays (processes that have a
                 file open that stood at the path before and has no name any more; those that this user may see)
  workers        alive, dead (how many; killed, or just ended), entries, one for each place that was ever taken: number,
                 epoch, pid, registered_at, is_alive
  envelopes      all of them, in the order of their making: name, law, min, max, concentration, packets, total, state
                 (open, sold_out, expired, closed, damaged), expires_at (null: never), counts and amounts, each of
                 settled, granted, remaining, refunded (null if damaged), grants_per_second (null but with --watch)
  sums           of the envelopes that are not damaged: envelopes, packets, total, counts, amounts, grants_per_second
"""


@dataclass(frozen=True)
class View:
    """What of it people are to see."""

    all: bool = False
    largest: bool = False
    workers: bool = False


class Parts(NamedTuple):
    """What became of an envelope's packets, or of their amounts."""

    settled: int
    granted: int
    remaining: int
    refunded: int

    def drawn(self) -> list[Part]:
        """Return the parts as they are drawn."""
        return [
            Part("settled", self.settled, "█", "#", "green"),
            Part("granted", self.granted, "▓", "=", "yellow"),
            Part("left", self.remaining, "░", ".", "bright_black"),
            Part("refunded", self.refunded, "·", "-", "bright_black"),
        ]


@dataclass(frozen=True)
class Entry:
    """An envelope as it was found; ``stats`` is None and ``damage`` says why if it could not be read."""

    name: str
    terms: Terms
    stats: EnvelopeStats | None
    damage: str | None
    state: str
    rate: float | None

    @property
    def counts(self) -> Parts | None:
        """The packets."""
        if self.stats is None:
            return None
        return parts_of(self.terms.packets, self.stats.settled, self.stats.granted, self.state)

    @property
    def amounts(self) -> Parts | None:
        """Their amounts."""
        if self.stats is None:
            return None
        return parts_of(self.terms.total, self.stats.amounts.settled, self.stats.amounts.granted, self.state)

    @property
    def given(self) -> int:
        """How many packets somebody holds."""
        return 0 if self.stats is None else self.stats.granted + self.stats.settled


@dataclass(frozen=True)
class Inspection:
    """All that one look has found."""

    info: EngineInfo
    strays: tuple[int, ...]
    entries: list[Entry]
    looked_at: float
    clock: float
    view: View

    @property
    def holds(self) -> bool:
        """Whether every envelope could be read."""
        return all(entry.damage is None for entry in self.entries)

    @property
    def rate(self) -> float | None:
        """How many packets are given a second, in all envelopes together."""
        rates = [entry.rate for entry in self.entries if entry.rate is not None]
        return sum(rates) if rates else None


def parts_of(total: int, settled: int, granted: int, state: str) -> Parts:
    """Return the parts of an envelope's packets or amounts. Of a closed one, what was not given is refunded."""
    left = total - settled - granted
    return Parts(settled, granted, *((0, left) if state == "closed" else (left, 0)))


def sum_of(parts: Iterable[Parts | None]) -> Parts:
    """Return the parts of many, those that could be read."""
    rows = [row for row in parts if row is not None]
    return Parts(*(sum(column) for column in zip(*rows, strict=True))) if rows else Parts(0, 0, 0, 0)


# ---- looking ----------------------------------------------------------------------------------------------------


def state_of(terms: Terms, stats: EnvelopeStats, now: float) -> str:
    """Return what a new user's claim would be told, and why."""
    given = stats.granted + stats.settled
    if given == stats.packets:
        return "sold_out"
    if stats.remaining == 0:
        return "closed"
    return "expired" if 0 < terms.expires_at_ms <= now * 1000 else "open"


def entry_of(envelope: hbcore.Envelope, now: float, before: int, seconds: float | None) -> Entry:
    """Count an envelope. ``before``: how many packets were given ``seconds`` ago; None: nobody has looked yet."""
    terms = envelope.terms._replace(seed=None)  # whoever has the seed can compute every amount: it goes no further
    try:
        stats = envelope.stats()
    except CorruptFileError as error:
        return Entry(envelope.name, terms, None, str(error), "damaged", None)
    rate = None if seconds is None else (stats.granted + stats.settled - before) / seconds
    return Entry(envelope.name, terms, stats, None, state_of(terms, stats, now), rate)


def strays(path: str | None) -> tuple[int, ...]:
    """Return the processes that have another file open, one that stood at ``path`` before and has no name any more.

    Who renames a file over another takes it away from its workers, and neither they nor who opens the new one can see
    that. But the old one is still among the open files of its workers, those that this user may look at.
    """
    if path is None:
        return ()
    # Who has made the file knows it by its first name (region.pyx, create_file).
    old = re.compile(re.escape(path) + r"(\.new-\d+-[0-9a-f]+)? \(deleted\)")
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            descriptors = os.listdir(f"/proc/{process}/fd")
        except OSError:  # it has ended, or is somebody else's
            continue
        if any(is_stray(f"/proc/{process}/fd/{descriptor}", old, path) for descriptor in descriptors):
            found.append(int(process))
    return tuple(sorted(found))


def is_stray(link: str, old: re.Pattern[str], path: str) -> bool:
    """Return whether an open file is an old one of ``path``; its namesake in another container is on another device."""
    try:
        if not old.fullmatch(os.readlink(link)):
            return False
        file = os.stat(link)
        return file.st_nlink == 0 and file.st_dev == os.stat(path, follow_symlinks=False).st_dev
    except OSError:  # closed by now; or nothing stands at the path
        return False


def checked_info(engine: hbcore.Engine) -> EngineInfo:
    """Return the engine's info. What lies beyond the end of a truncated file must not be touched."""
    info = engine.info()
    if info.size < info.used:
        raise CorruptFileError(f"{info.path!r} was truncated: it has {info.size} bytes, and {info.used} were used")
    return info


def look(engine: hbcore.Engine, name: str | None, view: View, last: "Inspection | None" = None) -> Inspection:
    """Read what is in the engine, or in its envelope of that name. ``last``: the look before, for the rates."""
    info = checked_info(engine)
    envelopes = engine.envelopes() if name is None else [engine.envelope(name)]
    now, clock = time.time(), time.monotonic()
    seconds = None if last is None else max(clock - last.clock, 1e-9)
    before = {} if last is None else {entry.name: entry.given for entry in last.entries}
    entries = [entry_of(envelope, now, before.get(envelope.name, 0), seconds) for envelope in envelopes]
    found = strays(info.path) if last is None else last.strays
    return Inspection(info, found, entries, now, clock, view)


def watch(engine: hbcore.Engine, name: str | None, view: View) -> Iterator[Inspection]:
    """Look again each second, for ever."""
    last = look(engine, name, view)
    while True:
        yield last
        time.sleep(max(0.0, last.clock + WATCH_SECONDS - time.monotonic()))
        last = look(engine, name, view, last)


# ---- JSON -------------------------------------------------------------------------------------------------------


def file_as_json(info: EngineInfo, found: Sequence[int]) -> dict[str, object]:
    """Return the file of an engine; ``found``: its strays."""
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


def entry_as_json(entry: Entry) -> dict[str, object]:
    """Return one envelope."""
    terms, counts, amounts = entry.terms, entry.counts, entry.amounts
    return {
        "name": entry.name,
        "law": LAWS[terms.law],
        "min": terms.min,
        "max": terms.max,
        "concentration": terms.concentration,
        "packets": terms.packets,
        "total": terms.total,
        "state": entry.state,
        "expires_at": terms.expires_at_ms / 1000 if terms.expires_at_ms else None,
        "counts": None if counts is None else counts._asdict(),
        "amounts": None if amounts is None else amounts._asdict(),
        "grants_per_second": None if entry.rate is None else round(entry.rate, 1),
    }


def sums_as_json(inspection: Inspection) -> dict[str, object]:
    """Return the sums of all envelopes that could be read."""
    entries = inspection.entries
    counts, amounts = sum_of(entry.counts for entry in entries), sum_of(entry.amounts for entry in entries)
    return {
        "envelopes": sum(entry.stats is not None for entry in entries),
        "packets": sum(counts),
        "total": sum(amounts),
        "counts": counts._asdict(),
        "amounts": amounts._asdict(),
        "grants_per_second": None if inspection.rate is None else round(inspection.rate, 1),
    }


def as_json(inspection: Inspection) -> dict[str, object]:
    """Return the inspection as one JSON object; its keys are documented in ``JSON_KEYS`` and stay as they are."""
    return {
        "command": "inspect",
        "holds": inspection.holds,
        "looked_at": inspection.looked_at,
        "file": file_as_json(inspection.info, inspection.strays),
        "workers": workers_as_json(inspection.info.workers),
        "envelopes": [entry_as_json(entry) for entry in inspection.entries],
        "sums": sums_as_json(inspection),
    }


# ---- text -------------------------------------------------------------------------------------------------------


def listed(pids: Sequence[int]) -> str:
    """Return the numbers of some processes, the first few of them."""
    return ", ".join(map(str, pids[:PID_COUNT])) + f" and {len(pids) - PID_COUNT} more" * (len(pids) > PID_COUNT)


def about(info: EngineInfo, found: Sequence[int]) -> Text:
    """Return what is to be said of an engine's file and its workers, a fact a line. ``found``: its strays."""
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


def state_text(entry: Entry, now: float) -> str:
    """Return the state of an envelope, and until when it is that."""
    expires_at = entry.terms.expires_at_ms / 1000
    if expires_at and entry.state in ("open", "expired"):
        return f"{'till' if entry.state == 'open' else 'expired'} {when_shortly(expires_at, now)}"
    return entry.state.replace("_", " ")


def rate_text(rate: float | None) -> str:
    """Return how many packets are given a second."""
    return "" if rate is None else f"{rate:,.0f}"


def entries_table(inspection: Inspection, entries: Sequence[Entry], page: Page) -> Table:
    """Return one row for each entry, and one for the sum of all envelopes if there is more than one."""
    every = inspection.entries
    counts, amounts = sum_of(entry.counts for entry in every), sum_of(entry.amounts for entry in every)
    is_cut = page.width is not None
    rows = [
        (
            cut(plain(entry.name, page.unicode), NAME_WIDTH, page.unicode)
            if is_cut
            else plain(entry.name, page.unicode),
            LAWS[entry.terms.law],
            entry.terms.packets,
            entry.terms.total,
            entry.amounts,
            rate_text(entry.rate),
            state_text(entry, inspection.looked_at),
        )
        for entry in entries
    ]
    if len(every) > 1:
        rows.append((f"all {len(every):,}", "", sum(counts), sum(amounts), amounts, rate_text(inspection.rate), ""))
    names, laws, packets, totals, parts, rates, states = zip(*rows, strict=True)

    def bars(width: int) -> list[Text]:
        return [Text("?" * width) if row is None else bar(row.drawn(), width, page) for row in parts]

    def share(i: int) -> Column:
        cells = ["?" if row is None else percentage(row[i], sum(row)) for row in parts]
        return column(amounts.drawn()[i].cell(page), cells, is_number=True, worth=2)

    columns = [
        column("envelope", names, least=NAME_LEAST),
        column("law", laws, worth=1),
        column("packets", [f"{count:,}" for count in packets], is_number=True, worth=5),
        column("total", [f"{total:,}" for total in totals], is_number=True),
        Column("", bars, BAR_WIDTH, BAR_LEAST, worth=4),
        *map(share, range(3)),
        column("state", states, worth=6),
    ]
    if inspection.rate is not None:
        columns.insert(-1, column("given/s", rates, is_number=True, worth=7))
    return fitted(columns, page, sums=int(len(every) > 1))


def legend(entries: Sequence[Entry], page: Page) -> Text:
    """Say what the characters of the bars are: parts of the amount."""
    text = Text("of the amount: ", style="dim")
    parts = sum_of(entry.amounts for entry in entries).drawn()
    for part in parts if parts[-1].amount else parts[:-1]:
        text.append(part.cell(page), style=part.style)
        text.append(f" {part.title}  ", style="dim")
    return text


def rendered(inspection: Inspection, page: Page, rows: int | None) -> Group:
    """Return all that people are shown, with at most ``rows`` envelopes (None: all)."""
    info, entries, view = inspection.info, inspection.entries, inspection.view
    title = Text(f"hbcore inspect: {escaped(str(info.path))}, {when(inspection.looked_at)}", style="bold")
    parts: list[RenderableType] = [title, about(info, inspection.strays)]
    if view.workers and info.workers:
        parts += [Text(), workers_table(info.workers, page)]
    parts.append(Text())
    if not entries:
        return Group(*parts, Text("no envelopes"))
    latest = entries[::-1]
    chosen = sorted(latest, key=lambda entry: -entry.terms.total) if view.largest else latest
    chosen = chosen[:rows]
    parts += [entries_table(inspection, chosen, page), legend(entries, page)]
    if len(chosen) < len(entries):
        which = "the largest" if view.largest else "the latest"
        parts.append(Text(f"{len(chosen):,} of {len(entries):,} envelopes, {which}; --all shows all", style="dim"))
    damaged = [entry for entry in entries if entry.damage]
    parts += [Text(f"DAMAGED: {escaped(str(entry.damage))}", style="bold red") for entry in damaged[:ROWS]]
    return Group(*parts)


def as_text(inspection: Inspection) -> str:
    """Return the inspection as text for standard output."""
    return text_of(lambda page: rendered(inspection, page, None if inspection.view.all else ROWS))


# ---- watching ---------------------------------------------------------------------------------------------------


def fitting_rows(inspection: Inspection, console: Console) -> int:
    """Return how many envelopes fit on the terminal with all that is around them."""
    around = rendered(inspection, Page.of(console), 1)
    return max(1, console.height - len(console.render_lines(around, pad=False)) + 1)


def watch_on_terminal(looks: Iterator[Inspection], console: Console) -> Inspection:
    """Redraw the terminal with each look until somebody interrupts; return the last one."""
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
    """Write each look down until somebody interrupts; return the last one."""
    last = next(looks)
    try:
        while True:
            write(last)
            last = next(looks)
    except KeyboardInterrupt:
        return last
