"""The report at the end of ``hbcore rain`` and ``hbcore replay``: the same figures as text for people and as JSON.

Text that came from a log (a user's name) is printed through ``shown``, never as markup and never raw: a name may
contain brackets that rich would read as style, or escape codes that the terminal would obey.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import hbcore
from hbcore.cli.summary import DECILES, Check, Fairness, Lucky, Pace, Phase, fairness, histogram
from hbcore.errors import AuditError
from hbcore.terms import Terms
from hbcore.types import AuditReport, Status

USER_WIDTH = 48
PROCESS_ROWS = 8
BAR_WIDTH = 36
EIGHTHS = " ▏▎▍▌▋▊▉█"
FAIRNESS_MEANING = (
    "If position is no advantage, each tenth expects 10 % of the best packets; chance alone moves it by up to "
    "the last row, nineteen times in twenty."
)
ANSWERS = (Status.GRANTED, Status.REPEATED, Status.SOLD_OUT, Status.CLOSED)
ANSWER_MEANINGS = ("got a packet", "had one already", "came too late", "the envelope was closed")


@dataclass(frozen=True)
class Report:
    """Everything that is reported at the end. ``amounts`` are the granted ones, in order of arrival."""

    command: str
    run: dict[str, object]
    envelope: dict[str, object]
    counts: dict[Status, int]
    remaining: int
    amounts: NDArray[np.int64]
    lucky: Lucky | None
    phases: list[Phase]
    checks: list[Check]
    audit: AuditReport | None
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the audit and every check hold."""
        return all(check.holds for check in self.checks)


def shown(user: str | int) -> str:
    """Return a user in a form that may be printed: quoted, cut to a line's length, with control characters escaped."""
    text = repr(user)
    return text if len(text) <= USER_WIDTH else text[: USER_WIDTH - 1] + "…"


def described(name: str, terms: Terms, seed: bytes | None) -> dict[str, object]:
    """Return the terms of an envelope under the names of the options that set them."""
    return {
        "name": name,
        "total": terms.total,
        "packets": terms.packets,
        "law": terms.law,
        "min": terms.min,
        "max": terms.max,
        "concentration": terms.concentration,
        "seed": None if seed is None else seed.hex(),
    }


def audited(engine: hbcore.Engine) -> tuple[Check, AuditReport | None]:
    """Audit the engine and put the verdict into words."""
    title = "the engine's audit"
    try:
        audit = engine.audit()
    except AuditError as error:
        return Check("audit", title, False, str(error)), None
    given, paid = audit.granted + audit.settled, audit.amount_granted + audit.amount_settled
    free = audit.packets - given - audit.refunded
    detail = f"{given:,} packets given, {free:,} free; {paid:,} of {audit.amount_total:,} paid"
    return Check("audit", title, True, detail), audit


# ---- JSON -------------------------------------------------------------------------------------------------------


def pace_as_json(pace: Pace) -> dict[str, object]:
    """Return a pace with its rates, rounded to a meaningful precision."""
    return {
        "requests": pace.requests,
        "granted": pace.granted,
        "seconds": round(pace.seconds, 6),
        "requests_per_second": round(pace.requests_per_second),
        "granted_per_second": round(pace.granted_per_second),
    }


def as_json(report: Report) -> dict[str, object]:
    """Return the report as one JSON object; its keys are documented in ``options.JSON_KEYS`` and stay as they are."""
    amounts, lucky, found = report.amounts, report.lucky, fairness(report.amounts)
    count = len(amounts)
    return {
        "command": report.command,
        "holds": report.holds,
        "run": report.run,
        "envelope": report.envelope,
        "answers": {
            "requests": sum(report.counts.values()),
            **{status.name.lower(): report.counts[status] for status in ANSWERS},
            "remaining_packets": report.remaining,
        },
        "speed": {
            phase.key: {**pace_as_json(phase.together), "processes": [pace_as_json(pace) for pace in phase.processes]}
            for phase in report.phases
        },
        "amounts": {
            "count": count,
            "total": int(amounts.sum()),
            "mean": float(amounts.mean()) if count else None,
            "min": int(amounts.min()) if count else None,
            "max": int(amounts.max()) if count else None,
            "histogram": [bar._asdict() for bar in histogram(amounts)],
        },
        "luckiest": None if lucky is None else {**vars(lucky)},
        "arrival": [] if found is None else [decile._asdict() for decile in found.deciles],
        "checks": {check.key: {"holds": check.holds, "detail": check.detail} for check in report.checks},
        "audit": None if report.audit is None else report.audit._asdict(),
    }


# ---- text -------------------------------------------------------------------------------------------------------


def new_table(*columns: str) -> Table:
    """Return an empty table with its first column to the left and the others, numbers, to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def heading(text: str) -> Text:
    """Return the title of a section, with an empty line before it."""
    return Text("\n" + text, style="bold cyan")


def speed_table(phases: Iterable[Phase]) -> Table:
    """Return requests and packets per second: each phase, all processes together and each on its own."""
    table = new_table("speed", "requests", "seconds", "requests/s", "packets/s")

    def add(title: str, pace: Pace, style: str | None = None) -> None:
        rates = f"{pace.requests_per_second:,.0f}", f"{pace.granted_per_second:,.0f}"
        table.add_row(title, f"{pace.requests:,}", f"{pace.seconds:.3f}", *rates, style=style)

    for phase in phases:
        add(phase.title, phase.together, "bold" if phase.processes else None)
        paces = list(enumerate(phase.processes, 1))
        if len(paces) > PROCESS_ROWS:
            paces.sort(key=lambda numbered: numbered[1].requests_per_second)
            add(f"  slowest: process {paces[0][0]}", paces[0][1])
            add(f"  fastest: process {paces[-1][0]}", paces[-1][1])
            continue
        for number, pace in paces:
            add(f"  process {number}", pace)
    return table


def answers_table(counts: dict[Status, int]) -> Table:
    """Return how many requests got which answer; CLOSED is shown only where it happened."""
    table = new_table("answers", "requests", "share", "")
    table.columns[-1].justify = "left"
    requests = sum(counts.values())
    for status, meaning in zip(ANSWERS, ANSWER_MEANINGS, strict=True):
        if counts[status] or status != Status.CLOSED:
            share = counts[status] / requests if requests else 0.0
            table.add_row(status.name, f"{counts[status]:,}", f"{share:.1%}", meaning)
    table.add_row("all", f"{requests:,}", "", "", style="bold")
    return table


def bar_text(part: float, width: int, unicode: bool) -> str:
    """Return a bar of ``part`` of ``width`` cells; a part that is not 0 shows at least a sliver."""
    if not unicode:
        return "#" * max(round(part * width), 1 if part > 0 else 0)
    eighths = max(round(part * width * 8), 1 if part > 0 else 0)
    return EIGHTHS[8] * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def histogram_table(amounts: NDArray[np.int64], unicode: bool) -> Table:
    """Return the amounts as horizontal bars."""
    table = new_table("amount", "packets", "share", "")
    table.columns[0].justify = "right"
    table.columns[-1].justify = "left"
    table.columns[-1].style = "yellow"
    bars = histogram(amounts)
    highest = max((bar.packets for bar in bars), default=0)
    for bar in bars:
        label = f"{bar.low:,}" if bar.low == bar.high else f"{bar.low:,} .. {bar.high:,}"
        part = bar.packets / highest
        table.add_row(
            label, f"{bar.packets:,}", f"{bar.packets / len(amounts):.1%}", bar_text(part, BAR_WIDTH, unicode)
        )
    return table


def fairness_table(found: Fairness) -> Table:
    """Return mean amount and part of the best packets by arrival."""
    table = new_table("arrived", "packets", "mean amount", "of the best 1 %")
    ordinals = ("first", "2nd", "3rd", *(f"{i}th" for i in range(4, DECILES)), "last")
    for ordinal, decile in zip(ordinals, found.deciles, strict=True):
        table.add_row(f"{ordinal} tenth", f"{decile.packets:,}", f"{decile.mean:,.2f}", f"{decile.best_share:.2%}")
    noise = f"± {found.mean_noise:,.2f}", f"± {found.best_noise:.2%}"
    table.add_row("chance alone", "", *noise, style="dim")
    return table


def checks_table(checks: Iterable[Check], unicode: bool) -> Table:
    """Return one row for each check: whether it holds, what it says, and what was found."""
    yes, no = ("✓", "✗") if unicode else ("ok", "FAILED")
    table = Table.grid(padding=(0, 1))
    for check in checks:
        mark = Text(yes, style="bold green") if check.holds else Text(no, style="bold red")
        table.add_row(mark, Text.assemble((check.title, "bold"), f": {check.detail}"))
    return table


def as_text(report: Report) -> str:
    """Return the report as text for standard output, in colour if that is a terminal."""
    console = Console(markup=False, emoji=False, highlight=False)  # names of users are no markup
    with console.capture() as captured:
        show(report, console)
    return "".join(f"{line.rstrip(' ')}\n" for line in captured.get().split("\n")[:-1])


def show(report: Report, console: Console) -> None:
    """Print the report, section by section."""
    unicode = console.encoding.lower().startswith("utf")
    envelope, count = report.envelope, len(report.amounts)
    title = f"{envelope['packets']:,} packets, {envelope['total']:,} in all"
    if "law" in envelope:
        title += f", law {envelope['law']}"
    console.print(Text(f"hbcore {report.command}: {title}", style="bold"))
    for note in report.notes:
        console.print(Text(note, style="dim"))
    console.print()
    console.print(speed_table(report.phases))
    console.print()
    console.print(answers_table(report.counts))
    if count:
        console.print(heading(f"the amounts: mean {report.amounts.mean():,.2f}, minor units"))
        console.print(histogram_table(report.amounts, unicode))
    if report.lucky is not None:
        lucky = report.lucky
        console.print(heading(f"the luckiest packet: {lucky.amount:,}"))
        place = f"number {lucky.arrival:,} of {count:,} who got one"
        console.print(Text(f"packet {lucky.packet:,}, user {shown(lucky.user)}, {place}"))
    found = fairness(report.amounts)
    if found is not None:
        console.print(heading("does it pay to come first?"))
        console.print(fairness_table(found))
        console.print(Text(FAIRNESS_MEANING, style="dim"))
    console.print(heading("is it all true?"))
    console.print(checks_table(report.checks, unicode))
    console.print()
    console.print(verdict(report))


def verdict(report: Report) -> Text:
    """Return the last line: what the run has shown, or the first thing that is wrong."""
    failed = [check for check in report.checks if not check.holds]
    if failed:
        return Text(f"FAILED: {failed[0].title}: {failed[0].detail}", style="bold red")
    left = report.remaining
    ending = "sum equals total" if left == 0 else f"what was given and the {left:,} packets left sum to the total"
    return Text(f"The audit holds: every packet once, every user once, {ending}.", style="bold green")
