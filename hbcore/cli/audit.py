"""``hbcore audit``: the proof of conservation for a file, and what its budgets and envelopes hold.

The proof is the whole of the engine's own audit. The file is opened for writing where that is allowed, so that what
dead workers have left is finished or given back before it is counted; where it is not allowed, the file is only read,
and the report says so. A file that does not exist is not made.
"""

import argparse
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

import hbcore
from hbcore.cli.inspect import (
    REPLACED,
    Inspection,
    View,
    about,
    budget_as_json,
    checked_info,
    entry_as_json,
    file_as_json,
    listed,
    look,
    strays,
    sums_as_json,
    workers_as_json,
)
from hbcore.cli.options import Parser, add_command, add_key, display_console, engine_errors, key_of, say
from hbcore.cli.progress import REFRESH_SECONDS, Display
from hbcore.cli.snapshot import money_of, sum_of
from hbcore.cli.terminal import Page, column, escaped, fitted, percentage, text_of, when
from hbcore.errors import AuditError, CorruptFileError, EngineFullError
from hbcore.types import AuditReport, EngineInfo

BUDGET_FIELDS = ("budgets", "holds", "amount_budgeted", "amount_available", "amount_held", "amount_spent")

JSON_KEYS = """\
keys of the JSON object (one object on standard output; amounts in minor units, times in seconds since 1970):
  command        "audit"
  holds          whether nothing is wrong
  failure        the first thing that is wrong; null if nothing is
  is_readonly    whether the file was only read
  because        why it was only read; null if it was not
  file           as of hbcore inspect
  workers        as of hbcore inspect, before the audit itself became one
  audit          envelopes, packets, granted, settled, refunded, amount_total, amount_granted, amount_settled; budgets,
                 holds (keys that were ever granted), amount_budgeted (in the budgets that belong to no other: all that
                 there is), amount_available (in any budget), amount_held, amount_spent: what the audit has counted;
                 null if anything is wrong
  budgets        as of hbcore inspect, right after the audit; empty if anything is wrong
  envelopes      as of hbcore inspect, right after the audit; empty if anything is wrong
  sums           as of hbcore inspect; null if anything is wrong
"""
AUDIT_STATUS = """\
exit status:
  0    the audit holds
  1    it does not: the report names the first thing that is wrong
  2    a bad argument or an unusable file
  130  interrupted
"""


@dataclass(frozen=True)
class Proof:
    """All that an audit has found; ``readonly_because`` says why the file was only read, or is None if it was not.

    ``report`` and ``after``, a look at the envelopes right after the audit, are None if ``failure`` says what is wrong.
    """

    info: EngineInfo
    strays: tuple[int, ...]
    readonly_because: str | None
    report: AuditReport | None
    after: Inspection | None
    failure: str | None
    ended_at: float

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return self.failure is None


def to_write(path: str, key: bytes | None, info: EngineInfo) -> hbcore.Engine | str:
    """Open the file that ``info`` describes for writing, or say why that cannot be."""
    if key is None and not info.keeps_key:
        return "its owner keeps the key, see --key-file"
    try:
        engine = hbcore.Engine(path, key=key)
    except (OSError, EngineFullError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    if engine.info().engine_id != info.engine_id:
        engine.close()
        raise AuditError(f"{path!r} was replaced by another file while it was being opened")
    return engine


def audited(engine: hbcore.Engine, console: Console | None) -> AuditReport:
    """Audit the engine, in a thread of its own: the bar moves meanwhile, and Ctrl-C does not wait for the end."""
    outcome: list[AuditReport | BaseException] = []

    def work() -> None:
        try:
            outcome.append(engine.audit())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    with Display(console) as display:
        draw = display.bar("auditing", None, lambda elapsed: (0, f"{elapsed:,.0f} s"))
        thread.start()
        while thread.is_alive():
            thread.join(REFRESH_SECONDS)
            draw(False)
    (found,) = outcome
    if isinstance(found, BaseException):
        raise found
    return found


def at_work(info: EngineInfo) -> frozenset[tuple[int, int, bool]]:
    """Return the workers of an engine without this process."""
    entries = info.workers
    return frozenset((entry.number, entry.epoch, entry.is_alive) for entry in entries if entry.pid != os.getpid())


def check_agreement(report: AuditReport, after: Inspection) -> None:
    """Raise AuditError if the budgets and the envelopes, counted one by one, are not what the audit has counted.

    Refunds are left out: the audit does not count those that a dead closer has left undone.
    """
    counts, amounts = sum_of(entry.counts for entry in after.entries), sum_of(entry.amounts for entry in after.entries)
    money, below = money_of(after.trees), [budget for budget in after.budgets if len(budget.path) > 1]
    seen = AuditReport(
        len(after.entries),
        sum(counts),
        counts.granted,
        counts.settled,
        report.refunded,
        sum(amounts),
        amounts.granted,
        amounts.settled,
        len(after.budgets),
        sum(budget.holds for budget in after.budgets),
        sum(money),
        sum(budget.money.available for budget in after.budgets if budget.money is not None),
        money.held - sum(budget.money.available for budget in below if budget.money is not None),
        money.settled,
    )
    for field, of_audit, of_envelopes in zip(AuditReport._fields, report, seen, strict=True):
        if of_audit != of_envelopes:
            ones = "budgets" if field in BUDGET_FIELDS else "envelopes"
            raise AuditError(f"{field} is {of_audit} by the audit, and {of_envelopes} by the {ones} one by one")


def prove(
    engine: hbcore.Engine, info: EngineInfo, found: Sequence[int], console: Console | None
) -> tuple[AuditReport, Inspection]:
    """Audit the engine; raise AuditError or CorruptFileError for the first thing that is wrong."""
    if found:
        raise AuditError(f"{REPLACED}: pid {listed(found)}")
    report = audited(engine, console)
    after = look(engine, None, View())
    is_quiet = not any(worker.is_alive for worker in info.workers)
    if is_quiet and at_work(after.info) <= at_work(info):
        check_agreement(report, after)
    return report, after


def audit(path: str, key: bytes | None, readonly: bool, console: Console | None) -> Proof:
    """Audit the file at ``path``. ``console`` shows the progress; None shows none."""
    with hbcore.Engine(path, readonly=True, key=key) as looking:
        info = checked_info(looking)
        proof = Proof(info, strays(info.path), None, None, None, None, 0.0)
        try:
            writing = "as asked" if readonly else to_write(path, key, info)
            if isinstance(writing, str):
                proof = replace(proof, readonly_because=writing)
            with looking if isinstance(writing, str) else writing as engine:
                report, after = prove(engine, info, proof.strays, console)
                proof = replace(proof, report=report, after=after)
        except (AuditError, CorruptFileError) as error:
            proof = replace(proof, failure=str(error))
    return replace(proof, ended_at=time.time())


# ---- JSON -------------------------------------------------------------------------------------------------------


def as_json(proof: Proof) -> dict[str, object]:
    """Return the proof as one JSON object; its keys are documented in ``JSON_KEYS`` and stay as they are."""
    return {
        "command": "audit",
        "holds": proof.holds,
        "failure": proof.failure,
        "is_readonly": proof.readonly_because is not None,
        "because": proof.readonly_because,
        "file": file_as_json(proof.info, proof.strays),
        "workers": workers_as_json(proof.info.workers),
        "audit": None if proof.report is None else proof.report._asdict(),
        "budgets": [] if proof.after is None else [budget_as_json(entry) for entry in proof.after.budgets],
        "envelopes": [] if proof.after is None else [entry_as_json(entry) for entry in proof.after.entries],
        "sums": None if proof.after is None else sums_as_json(proof.after),
    }


# ---- text -------------------------------------------------------------------------------------------------------


def sums_table(after: Inspection, page: Page) -> Table:
    """Return what became of all packets and of the money, line by line to the sum."""
    counts, amounts = sum_of(entry.counts for entry in after.entries), sum_of(entry.amounts for entry in after.entries)
    packets, money = [*counts, sum(counts)], [*amounts, sum(amounts)]
    return fitted(
        [
            column("envelopes", [*counts._fields, "total"]),
            column("packets", [f"{count:,}" for count in packets], is_number=True),
            column("amount", [f"{amount:,}" for amount in money], is_number=True),
            column("of the total", [percentage(amount, money[-1]) for amount in money], is_number=True, worth=1),
        ],
        page,
        sums=1,
    )


def money_table(report: AuditReport, page: Page) -> Table:
    """Return what became of the money of all budgets, line by line to the sum."""
    amounts = [report.amount_spent, report.amount_held, report.amount_available, report.amount_budgeted]
    return fitted(
        [
            column("budgets", ["settled", "held", "available", "total"]),
            column("amount", [f"{amount:,}" for amount in amounts], is_number=True),
            column("of the total", [percentage(amount, amounts[-1]) for amount in amounts], is_number=True, worth=1),
        ],
        page,
        sums=1,
    )


def proved(report: AuditReport) -> str:
    """Say what was proved, and from what."""
    envelopes = f"{report.envelopes:,} envelope{'s' * (report.envelopes != 1)}"
    if not report.budgets:
        return f"{envelopes}, from their slots"
    budgets = f"{report.budgets:,} budget{'s' * (report.budgets != 1)}"
    return f"{budgets} with {report.holds:,} hold{'s' * (report.holds != 1)} and {envelopes}, from their slots"


def access(proof: Proof) -> str:
    """Say how the file was opened, and what that means for the proof."""
    if proof.readonly_because is None:
        return "to write: what dead workers have left was finished or given back first"
    return f"read only ({proof.readonly_because}): what dead workers have left is where they left it"


def rendered(proof: Proof, page: Page) -> Group:
    """Return all that people are shown."""
    parts: list[RenderableType] = [
        Text(f"hbcore audit: {escaped(str(proof.info.path))}, {when(proof.ended_at)}", style="bold"),
        about(proof.info, proof.strays),
        Text(f"opened   {escaped(access(proof))}"),
    ]
    if proof.report is None or proof.after is None:
        return Group(*parts, Text(), Text(f"FAILED: {escaped(str(proof.failure))}", style="bold red"))
    parts += [Text(f"proved   {proved(proof.report)}"), Text()]
    if proof.report.budgets:
        parts += [money_table(proof.report, page), Text()]
    if proof.report.envelopes or not proof.report.budgets:
        parts += [sums_table(proof.after, page), Text()]
    if any(worker.is_alive for worker in proof.info.workers):
        parts.append(Text("Workers are alive: what they had under way was left out.", style="dim"))
    levels = ", on every level" if proof.report.budgets else ""
    verdict = f"The audit holds: every packet once, every user once, the parts sum to the total{levels}."
    return Group(*parts, Text(verdict, style="bold green"))


def as_text(proof: Proof) -> str:
    """Return the proof as text for standard output."""
    return text_of(lambda page: rendered(proof, page))


# ---- the command ----------------------------------------------------------------------------------------------------


def add_audit(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add ``hbcore audit``."""
    summary = "prove from the slots of a file that nothing was given twice and nothing is missing"
    more = (
        "Exact once no worker is alive; of a file at work, what is under way is left out. The file is opened\n"
        "for writing, and what dead workers have left is finished or given back; where that may not be, it is read."
    )
    command = add_command(commands, "audit", summary, more, AUDIT_STATUS, JSON_KEYS)
    command.add_argument("file", metavar="FILE", help="the file of the engine")
    command.add_argument("--readonly", action="store_true", help="never write to the file")
    add_key(command)
    command.set_defaults(run=run_audit)


def run_audit(arguments: argparse.Namespace) -> bool:
    """Prove the file."""
    key = key_of(arguments)
    with engine_errors():
        found = audit(arguments.file, key, arguments.readonly, display_console(arguments))
    return say(arguments, found, as_json, as_text)
