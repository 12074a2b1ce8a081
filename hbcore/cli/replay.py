"""``hbcore replay``: the users of an arrival log claim from one envelope, in order, and every answer is written down.

The log is read once, in chunks of a thousand arrivals: each chunk is claimed with one ``claim_many``, which keeps the
order, and its answers are on disk before the next is read. So a bad line in the middle, a full disk or a Ctrl-C leaves
the answers of all that came before.
"""

import argparse
import csv
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import hbcore
from hbcore.cli.arrivals import EXTENSIONS, FORMATS, Arrival, BadLine, Lines, arrivals
from hbcore.cli.options import Parser, UsageError, add_command, add_terms, display_console, say, terms_of
from hbcore.cli.progress import Display, Draw, State
from hbcore.cli.report import Report, as_json, as_text, audited, described
from hbcore.cli.summary import Check, Lucky, Pace, Phase
from hbcore.errors import NotFoundError
from hbcore.terms import Terms, object_name
from hbcore.types import EnvelopeStats, Status

CHUNK = 1000
OUT_EXTENSIONS = (".csv", ".jsonl")
OUT_FIELDS = ("line", "user", "status", "amount", "packet")
STATUS_NAMES = {int(status): status.name for status in Status}
REPLAY_PACKETS = 10_000


@dataclass(frozen=True)
class Plan:
    """The arguments of a replay, which the command line has checked.

    ``adopt``: if the engine's file has an envelope of that name, it is used as it is, whatever ``terms`` say.
    """

    log: str
    form: str
    column: str | None
    out: str | None
    engine: str | None
    name: str
    terms: Terms
    adopt: bool


@dataclass
class Tally:
    """The figures that are kept of the answers: the grants in order, and counts."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(Status), np.int64))
    packets: list[NDArray[np.int64]] = field(default_factory=list)
    amounts: list[NDArray[np.int64]] = field(default_factory=list)
    granted: int = 0
    lucky: Lucky | None = None
    claiming_seconds: float = 0.0

    def add(self, users: list[str | int], answers: NDArray[np.void]) -> None:
        """Count the answers of one chunk."""
        self.counts += np.bincount(answers["status"], minlength=len(Status))
        rows = np.flatnonzero(answers["status"] == Status.GRANTED)
        if len(rows) == 0:
            return
        amounts, packets = answers["amount"][rows], answers["packet"][rows]
        best = int(amounts.argmax())
        if self.lucky is None or amounts[best] > self.lucky.amount:
            arrival = self.granted + best + 1
            self.lucky = Lucky(int(amounts[best]), int(packets[best]), users[int(rows[best])], arrival)
        self.granted += len(rows)
        self.packets.append(packets)
        self.amounts.append(amounts)


class AnswerFile:
    """The file of answers, one record for each, in the order of the log; it never replaces an existing file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = open(path, "x", encoding="utf-8", newline="")  # noqa: SIM115 (closed by __exit__)
        self.is_csv = path.endswith(".csv")
        # Every text is quoted and no number is, so a user "7" and a user 7 stay two, and a lone CR in a name is safe.
        self.writer = csv.writer(self.file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        if self.is_csv:
            self.writer.writerow(OUT_FIELDS)
            self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.file.close()
        except OSError:
            # Every chunk was flushed, so this error is what a failed write left behind, and that error is on its way.
            if kind is None:
                raise

    def write(self, chunk: list[Arrival], answers: NDArray[np.void]) -> None:
        """Write the answers of one chunk and hand them to the operating system."""
        columns = (answers[name].tolist() for name in ("status", "amount", "packet"))
        rows = [
            (line, user, STATUS_NAMES[status], amount, packet)
            for (line, user), status, amount, packet in zip(chunk, *columns, strict=True)
        ]
        try:
            if self.is_csv:
                self.writer.writerows(rows)
            else:
                self.file.writelines(
                    json.dumps(dict(zip(OUT_FIELDS, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
                )
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None


def chunked(source: Iterator[Arrival]) -> Iterator[tuple[list[Arrival], BadLine | None]]:
    """Yield the arrivals in chunks of a thousand; those before a bad line come with its error, to be answered first."""
    chunk: list[Arrival] = []
    try:
        for arrival in source:
            chunk.append(arrival)
            if len(chunk) == CHUNK:
                yield chunk, None
                chunk = []
    except BadLine as error:
        yield chunk, error
    else:
        if chunk:
            yield chunk, None


# ---- the run ----------------------------------------------------------------------------------------------------


def open_log(path: str) -> BinaryIO:
    """Open the log; ``-`` is standard input."""
    return open(sys.stdin.fileno(), "rb", closefd=False) if path == "-" else open(path, "rb")


def open_envelope(engine: hbcore.Engine, plan: Plan) -> tuple[hbcore.Envelope, dict[str, object]]:
    """Get or create the envelope; return it and what is known of its terms."""
    terms = plan.terms
    if plan.adopt:
        try:
            envelope = engine.envelope(plan.name)
        except NotFoundError:
            pass
        else:
            stats = envelope.stats()
            return envelope, {"name": plan.name, "total": stats.amounts.total, "packets": stats.packets}
    envelope = engine.envelope(
        plan.name,
        terms.total,
        terms.packets,
        terms.law,
        min=terms.min,
        max=terms.max,
        concentration=terms.concentration,
        seed=terms.seed,
    )
    # The seed of a private engine is shown: with it the replay can be repeated. A file's may have claims to come.
    return envelope, described(plan.name, terms, None if plan.engine else terms.seed)


def answer_all(envelope: hbcore.Envelope, lines: Lines, plan: Plan, out: AnswerFile | None, draw: Draw) -> Tally:
    """Claim for every arrival in order and write every answer; raise BadLine once all before it are answered."""
    tally = Tally()
    for chunk, error in chunked(arrivals(lines, plan.form, plan.column)):
        users = [user for _, user in chunk]
        started_at = time.perf_counter()
        answers = envelope.claim_many(users)
        tally.claiming_seconds += time.perf_counter() - started_at
        if out is not None:
            out.write(chunk, answers)
        tally.add(users, answers)
        draw(False)
        if error is not None:
            raise error
    return tally


def bytes_state(lines: Lines) -> State:
    """Return the state of the bar for a replay: how far into the log it is."""

    def state(elapsed: float) -> tuple[int, str]:
        return lines.bytes_read, f"{lines.number:>11,} lines {lines.number / elapsed:>12,.0f} lines/s"

    return state


def log_size(stream: BinaryIO) -> int | None:
    """Return the size of a log in bytes, if it is a file that has one."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def own_checks(plan: Plan, tally: Tally, before: EnvelopeStats, after: EnvelopeStats) -> list[Check]:
    """Check the answers of this replay against each other, and against what the envelope says it gave.

    The second check is made only where no other process can have claimed meanwhile, that is in private memory.
    """
    packets = np.concatenate([np.empty(0, np.int64), *tally.packets])
    twice = len(packets) - len(np.unique(packets))
    detail = f"{twice:,} were given twice or more" if twice else f"{len(packets):,} packets given, none twice"
    checks = [Check("packets", "every packet once", twice == 0, detail)]
    if plan.engine is None:
        given = sum(int(amounts.sum()) for amounts in tally.amounts)
        left, total = after.amounts.remaining, before.amounts.remaining
        sums = f"given {given:,} + left {left:,} {'=' if given + left == total else 'is not'} total {total:,}"
        checks.append(Check("sum", "sum equals total", given + left == total, sums))
    return checks


def replay(plan: Plan, console: Console | None) -> Report:
    """Replay a log and return the report. ``console`` shows the display; None shows none.

    Raises:
        BadLine: a line does not name one user; the answers of all before it are written.
        HbcoreError: the engine refuses the file, or an envelope of that name has other terms.
        OSError: the log cannot be read, or the answers cannot be written.
    """
    name = "<stdin>" if plan.log == "-" else plan.log
    with ExitStack() as stack:
        stream = stack.enter_context(open_log(plan.log))
        engine = stack.enter_context(hbcore.Engine(plan.engine))
        envelope, known = open_envelope(engine, plan)
        out = None if plan.out is None else stack.enter_context(AnswerFile(plan.out))
        lines = Lines(stream, name)
        before = envelope.stats()
        started_at = time.perf_counter()
        with Display(console) as display:
            draw = display.bar("replaying", log_size(stream), bytes_state(lines))
            tally = answer_all(envelope, lines, plan, out, draw)
            draw(True)
        seconds = time.perf_counter() - started_at
        after = envelope.stats()
        audit_check, audit = audited(engine)
    requests = int(tally.counts.sum())
    notes = [f"{lines.number:,} lines of {name}, {plan.form}"]
    if plan.engine is not None:
        notes.append(f"envelope {plan.name!r} of {plan.engine}")
    elif plan.terms.seed is not None:
        notes.append(f"seed {plan.terms.seed.hex()}")
    return Report(
        command="replay",
        run={"log": name, "format": plan.form, "lines": lines.number, "out": plan.out, "engine": plan.engine},
        envelope=known,
        counts={status: int(tally.counts[status]) for status in Status},
        remaining=after.remaining,
        amounts=np.concatenate([np.empty(0, np.int64), *tally.amounts]),
        lucky=tally.lucky,
        phases=[
            Phase("whole", "read, claim and write", Pace(requests, tally.granted, seconds)),
            Phase("claiming", "of it in claim_many", Pace(requests, tally.granted, tally.claiming_seconds)),
        ],
        checks=[*own_checks(plan, tally, before, after), audit_check],
        audit=audit,
        notes=notes,
    )


# ---- the command ----------------------------------------------------------------------------------------------------


def add_replay(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add ``hbcore replay``."""
    summary = "let the users of an arrival log claim in order, and write down every answer"
    more = "The log is UTF-8, one user a line; in a CSV or JSON-lines log --column names the user."
    command = add_command(commands, "replay", summary, more)
    command.add_argument("log", metavar="FILE", help="the arrival log; - is standard input")
    command.add_argument("--format", choices=FORMATS, help="the log's format (default: by extension, else text)")
    command.add_argument(
        "--column", metavar="NAME", help="the column of a CSV, or the key of JSON lines, that is the user"
    )
    extensions = " or ".join(OUT_EXTENSIONS)
    command.add_argument("--out", metavar="FILE", help=f"write every answer to this new file, {extensions}")
    add_terms(command, REPLAY_PACKETS)
    command.add_argument("--engine", metavar="PATH", help="the file of the engine (default: in memory)")
    command.add_argument(
        "--name",
        default="replay",
        help="the envelope's name (default: replay); one that --engine holds already is used as it is where no other "
        "option of the envelope is given",
    )
    command.set_defaults(run=run_replay)


def run_replay(arguments: argparse.Namespace) -> bool:
    """Check the arguments of the replay, then replay."""
    form = arguments.format or EXTENSIONS.get(os.path.splitext(arguments.log)[1].lower(), "text")
    if form == "text" and arguments.column is not None:
        raise UsageError("--column is for a CSV or JSON-lines log: give --format csv or jsonl too, or leave it out")
    if form != "text" and arguments.column is None:
        raise UsageError(f"--column must name the user in a {form} log (or give --format text)")
    if arguments.out is not None:
        if not arguments.out.endswith(OUT_EXTENSIONS):
            raise UsageError(f"--out must end in {' or '.join(OUT_EXTENSIONS)}, not {arguments.out!r}")
        if os.path.lexists(arguments.out):
            raise UsageError(f"--out must be a new file: {arguments.out!r} exists")
    try:
        object_name(arguments.name)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    options = ("packets", "total", "law", "min", "max", "concentration", "seed")
    plan = Plan(
        log=arguments.log,
        form=form,
        column=arguments.column,
        out=arguments.out,
        engine=arguments.engine,
        name=arguments.name,
        terms=terms_of(arguments, REPLAY_PACKETS),
        adopt=all(getattr(arguments, option) is None for option in options),
    )
    return say(arguments, replay(plan, display_console(arguments)), as_json, as_text)
