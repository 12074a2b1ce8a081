"""``hbcore rain``: forked processes race for the packets of one shared envelope, and every answer is checked.

The parent makes the engine and the envelope, then forks the workers; an engine is shared with forked children, so
they claim from the same slots with nothing in between. Requests and answers lie in a log in shared memory, one row for
each request: each worker fills the rows that are its own and no others, and the parent reads them to draw the progress
and, when all have finished, to check every answer against every other (``cross_check``). That check trusts neither the
engine's counters nor its audit.

The parent notices that a worker has died by the end of its pipe. Nothing here waits for a lock or a barrier that a dead
process could hold.
"""

import argparse
import gc
import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import hbcore
from hbcore.cli.checker import cross_check
from hbcore.cli.options import (
    DUPLICATES_LIMIT,
    Parser,
    UsageError,
    add_command,
    add_terms,
    display_console,
    grouped_integer,
    say,
    share,
    terms_of,
    within,
)
from hbcore.cli.progress import REFRESH_SECONDS, Display, State
from hbcore.cli.report import Report, as_json, as_text, audited, described
from hbcore.cli.summary import Lucky, Pace, Phase
from hbcore.errors import ConflictError, NotFoundError
from hbcore.terms import Terms
from hbcore.types import CLAIM_DTYPE, Status

ENVELOPE_NAME = "rain"
SINGLE_SHARE = 0.2
"""The part of each worker's requests that is sent one by one, with ``claim``; the rest goes through ``claim_many``."""
SINGLE_STEP = 1000
"""Number of single claims after which a worker tells how far it is."""
NEARBY = 1000
"""Limit of the distance of a duplicate from the other worker's own position: near enough that two processes really race
for a user."""
PREPARE_ROWS = 1 << 16
UNANSWERED = 255
COUNTER_STRIDE = 16
"""Counters of two workers are 128 bytes apart, so that a worker that tells its progress slows down no other."""
RAIN_PACKETS = 3_000_000
USERS_PER_PACKET = 1.25
BATCH = 1000
DUPLICATES = 0.2
USER_LIMIT = 1 << 40
PROCESS_LIMIT = 256
BATCH_LIMIT = 1_000_000


@dataclass(frozen=True)
class Plan:
    """The arguments of a rain, which the command line has checked. ``terms.seed`` is set."""

    users: int
    terms: Terms
    processes: int
    batch: int
    duplicates: float
    file: str | None

    def own_users(self, number: int) -> int:
        """Return the number of users that worker ``number`` asks for first: number, number + processes, ..."""
        return len(range(number, self.users, self.processes))

    def rows(self, number: int) -> int:
        """Return the number of requests that worker ``number`` sends: its own users, and more that repeat a user."""
        return round(self.own_users(number) / (1 - self.duplicates))

    def single_rows(self, number: int) -> int:
        """Return the number of requests that worker ``number`` sends one by one."""
        return round(self.rows(number) * SINGLE_SHARE)

    def first_row(self, number: int) -> int:
        """Return the row of the log where the requests of worker ``number`` begin."""
        return sum(self.rows(other) for other in range(number))


class WorkerError(Exception):
    """A worker died or raised an error: the rain proves nothing then."""


class Log:
    """Every request and its answer, in memory that the parent and the workers share.

    ``users`` and ``answers`` have a row for each request; ``asked_at`` tells for every batch (and every step of single
    claims) when it was sent, by the clock that all processes share, so that arrivals can be ordered afterwards. Its
    last entry is the time when the worker's last batch was answered; every other batch was answered before the next was
    sent.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.first_rows = [plan.first_row(number) for number in range(plan.processes + 1)]
        rows = self.first_rows[-1]
        self.users = shared_array(rows, np.dtype(np.int64))
        self.answers = shared_array(rows, CLAIM_DTYPE)
        self.done = shared_array(plan.processes * COUNTER_STRIDE, np.dtype(np.int64))[::COUNTER_STRIDE]
        self.chunks = [chunk_bounds(plan, number) for number in range(plan.processes)]
        self.asked_at = [shared_array(len(bounds) + 1, np.dtype(np.int64)) for bounds in self.chunks]

    def spans(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the worker of each row, when it was sent, and a time by which it was answered; in any order."""
        worker, sent_at, answered_by = np.empty_like(rows), np.empty_like(rows), np.empty_like(rows)
        for number, (asked_at, bounds) in enumerate(zip(self.asked_at, self.chunks, strict=True)):
            own = np.flatnonzero((rows >= self.first_rows[number]) & (rows < self.first_rows[number + 1]))
            chunk = np.searchsorted(bounds, rows[own] - self.first_rows[number], side="right")
            worker[own], sent_at[own], answered_by[own] = number, asked_at[chunk - 1], asked_at[chunk]
        return worker, sent_at, answered_by

    def arrival(self) -> NDArray[np.int64]:
        """Return the rows of all granted requests, in the order in which they were sent."""
        granted = np.flatnonzero(self.answers["status"] == Status.GRANTED)
        _, sent_at, _ = self.spans(granted)
        # The sort is stable: rows of one batch have one time, and stay in their order.
        return granted[np.argsort(sent_at, kind="stable")]


def shared_array(length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a zeroed array in anonymous memory that forked children share."""
    return np.frombuffer(mmap.mmap(-1, max(1, length * dtype.itemsize)), dtype, length)


def chunk_bounds(plan: Plan, number: int) -> NDArray[np.int64]:
    """Return the rows where the steps and batches of one worker begin, counted from its first row."""
    rows, single = plan.rows(number), plan.single_rows(number)
    return np.concatenate([np.arange(0, single, SINGLE_STEP), np.arange(single, rows, plan.batch)])


def memory_needed(plan: Plan) -> int:
    """Return roughly the bytes that a rain takes: the log, the envelope if it is in memory, and the final check."""
    rows = plan.first_row(plan.processes)
    envelope = 64 * plan.terms.packets if plan.file is None else 0
    return rows * (8 + CLAIM_DTYPE.itemsize) + rows * 17 + envelope + 32 * plan.terms.packets + 16 * plan.users


# ---- the workers ------------------------------------------------------------------------------------------------


def prepare(plan: Plan, number: int, users: NDArray[np.int64], generator: np.random.Generator) -> None:
    """Fill in the users that worker ``number`` asks for: its own users in order, and among them those who come again.

    Half of the repeats are retries (a user that this worker has asked for before), half are duplicates (a user of
    another worker, near the place where that one is now). They are filled in block by block, so that no second copy is
    needed.
    """
    rows, processes = len(users), plan.processes
    repeats = rows - plan.own_users(number)
    asked = 0
    for start in range(0, rows, PREPARE_ROWS):
        stop = min(start + PREPARE_ROWS, rows)
        again = np.zeros(stop - start, bool)
        again[: stop * repeats // rows - start * repeats // rows] = True
        generator.shuffle(again)
        position = asked + np.cumsum(~again)
        asked = int(position[-1])
        users[start:stop] = (position - 1) * processes + number
        where = np.flatnonzero(again)
        index = (generator.random(len(where)) * np.maximum(position[where], 1)).astype(np.int64)
        owner = np.full(len(where), number)
        if processes > 1:
            is_duplicate = generator.random(len(where)) < 0.5
            nearby = position[where] + generator.integers(-NEARBY, NEARBY, len(where))
            index = np.where(is_duplicate, np.maximum(nearby, 0), index)
            other = (number + generator.integers(1, processes, len(where))) % processes
            owner = np.where(is_duplicate, other, number)
        users[start + where] = np.minimum(index * processes + owner, plan.users - 1)


def claim_singly(envelope: hbcore.Envelope, log: Log, number: int) -> tuple[int, int]:
    """Send the single requests of one worker; return when the first was sent and the last answered.

    The answers are kept, and are written to the log when the clock has stopped: a service would hand them on, and the
    time to take them apart is not part of the time to claim.
    """
    first, count = log.first_rows[number], log.plan.single_rows(number)
    steps = [log.users[first + i : first + min(i + SINGLE_STEP, count)].tolist() for i in range(0, count, SINGLE_STEP)]
    claim, asked_at = envelope.claim, log.asked_at[number]
    answers: list[hbcore.Claim] = []
    started_at = time.monotonic_ns()
    for i, step in enumerate(steps):
        asked_at[i] = time.monotonic_ns()
        answers.extend(map(claim, step))
        log.done[number] = len(answers)
    ended_at = time.monotonic_ns()
    rows = log.answers[first : first + count]
    rows["amount"] = [answer.amount for answer in answers]
    rows["packet"] = [answer.packet for answer in answers]
    rows["status"] = [answer.status for answer in answers]
    return started_at, ended_at


def claim_in_batches(envelope: hbcore.Envelope, log: Log, number: int) -> tuple[int, int]:
    """Send the other requests of one worker in batches; return when the first was sent and the last answered."""
    first, last, batch = log.first_rows[number], log.first_rows[number + 1], log.plan.batch
    single = log.plan.single_rows(number)
    users, answers, asked_at, done = log.users, log.answers, log.asked_at[number], log.done
    chunk = -(-single // SINGLE_STEP)
    started_at = time.monotonic_ns()
    for i, start in enumerate(range(first + single, last, batch), chunk):
        stop = min(start + batch, last)
        asked_at[i] = time.monotonic_ns()
        answers[start:stop] = envelope.claim_many(users[start:stop])
        done[number] = stop - first
    asked_at[-1] = time.monotonic_ns()
    return started_at, int(asked_at[-1])


PHASES: dict[str, Callable[[hbcore.Envelope, Log, int], tuple[int, int]]] = {
    "single": claim_singly,
    "batch": claim_in_batches,
}


def work(envelope: hbcore.Envelope, log: Log, number: int, pipe: Connection) -> None:
    """Run worker ``number``: prepare the requests, then run each phase when the parent says its name.

    The worker answers a phase with its start and end, or with the text of an exception. It ends when the pipe ends, so
    at the latest when the parent ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # No reference cycles are made here, and a collection would walk the kept answers again and again while the clock
    # runs.
    gc.disable()
    try:
        first, last = log.first_rows[number], log.first_rows[number + 1]
        seed = log.plan.terms.seed or b""
        prepare(log.plan, number, log.users[first:last], np.random.default_rng([number, *seed]))
        log.answers["status"][first:last] = UNANSWERED  # this also touches the pages before the clock runs
        pipe.send("ready")
        while (phase := pipe.recv()) is not None:
            pipe.send(PHASES[phase](envelope, log, number))
    except (EOFError, BrokenPipeError):
        pass
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


class Crew:
    """The forked workers; leaving the context ends all of them, whatever has happened."""

    def __init__(self, envelope: hbcore.Envelope, log: Log) -> None:
        self.pipes: list[Connection] = []
        self.workers: list[ForkProcess] = []
        context = multiprocessing.get_context("fork")
        # A worker inherits the blocked signal and unblocks it once it ignores it, so no Ctrl-C reaches it in between.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number in range(log.plan.processes):
                here, there = context.Pipe()
                worker = context.Process(target=work, args=(envelope, log, number, there), daemon=True)
                worker.start()
                there.close()  # otherwise the pipe would not end with the worker
                self.pipes.append(here)
                self.workers.append(worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.kill()  # not terminate: a stopped worker would never see it, and there is nothing to clean up
        for worker in self.workers:
            worker.join()

    def replies(self, watch: Callable[[], None]) -> list[object]:
        """Wait until every worker has answered, calling ``watch`` now and then; raise WorkerError if one cannot."""
        replies: dict[Connection, object] = {}
        while len(replies) < len(self.pipes):
            for pipe in wait([pipe for pipe in self.pipes if pipe not in replies], REFRESH_SECONDS):
                assert isinstance(pipe, Connection)
                number = self.pipes.index(pipe)
                try:
                    reply = pipe.recv()
                except (EOFError, ConnectionResetError):
                    raise WorkerError(f"process {number + 1} {self.ending(number)}") from None
                if isinstance(reply, str) and reply != "ready":
                    raise WorkerError(f"process {number + 1} failed: {reply}")
                replies[pipe] = reply
            watch()
        return [replies[pipe] for pipe in self.pipes]

    def ending(self, number: int) -> str:
        """Return how a worker whose pipe has ended came to its end, in words."""
        self.workers[number].join()
        code = self.workers[number].exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended early with exit status {code}"

    def run(self, phase: str, watch: Callable[[], None]) -> list[tuple[int, int]]:
        """Start a phase in all workers at once; return the start and end of each in nanoseconds."""
        for number, pipe in enumerate(self.pipes):
            try:
                pipe.send(phase)
            except BrokenPipeError:
                raise WorkerError(f"process {number + 1} {self.ending(number)}") from None
        return [reply for reply in self.replies(watch) if isinstance(reply, tuple)]


# ---- the parent -------------------------------------------------------------------------------------------------


def requests_state(log: Log) -> State:
    """Return the state of the bar for single claims: how many were answered."""
    done, seconds = 0, 1.0

    def state(elapsed: float) -> tuple[int, str]:
        nonlocal done, seconds
        now_done = int(log.done.sum())
        if now_done > done:  # when all is done the clock stops too: the workers are writing their answers to the log
            done, seconds = now_done, elapsed
        return done, f"{done:>11,} requests {done / seconds:>12,.0f} requests/s"

    return state


def packets_state(log: Log) -> State:
    """Return the state of the bar for batches: how many packets are gone, counted from the rows written so far."""
    plan = log.plan
    counted, granted = [0] * plan.processes, 0
    single = sum(map(plan.single_rows, range(plan.processes)))

    def state(elapsed: float) -> tuple[int, str]:
        nonlocal granted
        for number, done in enumerate(log.done.tolist()):
            first = log.first_rows[number]
            rows = log.answers["status"][first + counted[number] : first + done]
            granted += int(np.count_nonzero(rows == Status.GRANTED))
            counted[number] = done
        return granted, f"{granted:>11,} packets  {(sum(counted) - single) / elapsed:>12,.0f} requests/s"

    return state


def pour(envelope: hbcore.Envelope, log: Log, display: Display) -> dict[str, list[tuple[int, int]]]:
    """Run both phases of the rain in forked workers; return the start and end of each worker in each phase."""
    plan = log.plan
    single = sum(map(plan.single_rows, range(plan.processes)))
    bars = {
        "single": ("one by one", single, requests_state(log)),
        "batch": (batch_title(plan), min(plan.terms.packets, plan.users), packets_state(log)),
    }
    times = {}
    with Crew(envelope, log) as crew:
        crew.replies(lambda: None)  # wait until all are ready
        for phase, bar in bars.items():
            draw = display.bar(*bar)
            times[phase] = crew.run(phase, partial(draw, False))
            draw(True)
    return times


def batch_title(plan: Plan) -> str:
    """Return the name of the phase that claims in batches."""
    return f"in batches of {plan.batch:,}"


def phases(log: Log, times: dict[str, list[tuple[int, int]]]) -> list[Phase]:
    """Return the speed of each phase: by the wall clock of each worker, and from the first start to the last end."""
    plan = log.plan
    granted = log.answers["status"] == Status.GRANTED
    result = []
    for key, title in (("single", "one by one"), ("batch", batch_title(plan))):
        paces = []
        for number, (start, end) in enumerate(times[key]):
            first, last = log.first_rows[number], log.first_rows[number + 1]
            border = first + plan.single_rows(number)
            first, last = (first, border) if key == "single" else (border, last)
            paces.append(Pace(last - first, int(np.count_nonzero(granted[first:last])), (end - start) / 1e9))
        seconds = (max(end for _, end in times[key]) - min(start for start, _ in times[key])) / 1e9
        together = Pace(sum(pace.requests for pace in paces), sum(pace.granted for pace in paces), seconds)
        if together.requests:
            result.append(Phase(key, title, together, tuple(paces)))
    return result


def new_envelope(engine: hbcore.Engine, plan: Plan) -> hbcore.Envelope:
    """Create the envelope; refuse a file that has one from an earlier rain, whose grants this rain cannot check."""
    try:
        engine.envelope(ENVELOPE_NAME)
    except NotFoundError:
        terms = plan.terms
        return engine.envelope(
            ENVELOPE_NAME,
            terms.total,
            terms.packets,
            terms.law,
            min=terms.min,
            max=terms.max,
            concentration=terms.concentration,
            seed=terms.seed,
        )
    raise ConflictError(f"{plan.file} holds an envelope {ENVELOPE_NAME!r} already: give --file a new name")


def rain(plan: Plan, console: Console | None) -> Report:
    """Run a rain into a new envelope and return its report. ``console`` shows the display; None shows none.

    Raises:
        WorkerError: a worker died or raised.
        HbcoreError: the engine refuses the file or the envelope.
    """
    with hbcore.Engine(plan.file) as engine, Display(console) as display:
        envelope = new_envelope(engine, plan)
        log = Log(plan)
        times = pour(envelope, log, display)
        display.bar("checking", None, lambda _: (0, "every answer, every slot"))
        audit_check, audit = audited(engine)
        stats = envelope.stats()
        answers = log.answers
        checks = cross_check(plan.terms, plan.users, stats.amounts.remaining, log.users, answers, log.spans)
    arrival = log.arrival()
    amounts = answers["amount"][arrival]
    lucky = None
    if len(amounts):
        best = int(amounts.argmax())
        row = arrival[best]
        lucky = Lucky(int(amounts[best]), int(answers["packet"][row]), int(log.users[row]), best + 1)
    run = {"users": plan.users, "processes": plan.processes, "batch": plan.batch, "duplicates": plan.duplicates}
    assert plan.terms.seed is not None
    # The seed of a private engine is shown: with it the rain can be repeated. A file's may have claims to come.
    seed = plan.terms.seed if plan.file is None else None
    notes = [
        f"{plan.users:,} users in {plan.processes} process{'es' * (plan.processes > 1)}, "
        f"{plan.duplicates:.0%} of the requests come again"
    ]
    return Report(
        command="rain",
        run={**run, "file": plan.file},
        envelope=described(ENVELOPE_NAME, plan.terms, seed),
        counts={status: int(np.count_nonzero(answers["status"] == status)) for status in Status},
        remaining=stats.remaining,
        amounts=amounts,
        lucky=lucky,
        phases=phases(log, times),
        checks=[*checks, audit_check],
        audit=audit,
        notes=notes if seed is None else [*notes, f"seed {seed.hex()}"],
    )


# ---- the command ----------------------------------------------------------------------------------------------------


def add_rain(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add ``hbcore rain``."""
    summary = "let processes race for the packets of one shared envelope, and prove that nothing was given twice"
    more = "A fifth of the requests goes one by one, the rest in batches; some users come again."
    command = add_command(commands, "rain", summary, more)
    add_terms(command, RAIN_PACKETS)
    command.add_argument(
        "--users", type=grouped_integer, metavar="N", help=f"users (default: {USERS_PER_PACKET} times the packets)"
    )
    command.add_argument(
        "--processes", type=grouped_integer, metavar="N", help="processes (default: one a core, at least 2)"
    )
    command.add_argument(
        "--batch", type=grouped_integer, default=BATCH, metavar="N", help=f"users a batch (default: {BATCH:,})"
    )
    command.add_argument(
        "--duplicates",
        type=share,
        default=DUPLICATES,
        metavar="SHARE",
        help=f"the share of requests that come again, 0 .. {DUPLICATES_LIMIT} (default: {DUPLICATES})",
    )
    command.add_argument("--file", metavar="PATH", help="rain into a new envelope of this file (default: in memory)")
    command.set_defaults(run=run_rain)


def run_rain(arguments: argparse.Namespace) -> bool:
    """Check the arguments of the rain, then run it."""
    users = arguments.users
    if users is not None:
        within("--users", users, 1, USER_LIMIT)
    default_packets = RAIN_PACKETS if users is None else max(1, round(users / USERS_PER_PACKET))
    terms = terms_of(arguments, default_packets)
    cores = len(os.sched_getaffinity(0))
    plan = Plan(
        users=max(1, round(terms.packets * USERS_PER_PACKET)) if users is None else users,
        terms=terms,
        processes=max(2, cores)
        if arguments.processes is None
        else within("--processes", arguments.processes, 1, PROCESS_LIMIT),
        batch=within("--batch", arguments.batch, 1, BATCH_LIMIT),
        duplicates=arguments.duplicates,
        file=arguments.file,
    )
    needed, memory = memory_needed(plan), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UsageError(
            f"--users and --packets must be smaller: {plan.users:,} users and {terms.packets:,} packets need about "
            f"{needed / 1e9:,.0f} GB of memory, and this machine has {memory / 1e9:,.0f}"
        )
    return say(arguments, rain(plan, display_console(arguments)), as_json, as_text)
