"""Processes that claim from one envelope at once: what two do beside one, and how many more do.

Workers are forked for every slice, as an engine in memory is shared with forked children. They prepare themselves,
meet, and begin together; a slice lasts from the first beginning to the last end by the clock on the wall. One process
and two do the same work: all packets of one envelope. The pages of *touched* envelopes are touched by every worker, so
that its page tables are filled as well.
"""

import gc
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

import hbcore
from bench.measure.findings import TIMES, Finding, at_least
from bench.measure.limit import bare_claims, library, shared_numbers, tables
from bench.measure.operations import FIRST_USER, MEAN, for_each
from bench.measure.pages import new_engine, touch
from bench.measure.turns import Run, Scale, Times

BATCHES = (1, 10, 100, 1_000, 10_000, 100_000)
ONE_BY_ONE = 0  # stands for `claim` where a batch size is asked for
READY, START, END, PROCESSOR, FIELDS = 0, 1, 2, 3, 16  # 128 bytes a worker, so that no two share a cache line
MEETING_SECONDS = 60
OTHER_BATCH = 1_000
AHEAD = 512  # bytes for each hold that are touched beforehand: the next run of holds is twice as long as all before

Prepare = Callable[[], Run]


class Lap(NamedTuple):
    """What one process did: when by a clock that all share, and how much processor time it took, in nanoseconds."""

    start: int
    end: int
    processor: int


def side_by_side(jobs: Sequence[Prepare]) -> list[Lap]:
    """Fork a process for each job; when all are prepared, all begin."""
    board = shared_numbers(len(jobs) * FIELDS).reshape(len(jobs), FIELDS)
    children = []
    for number, prepare in enumerate(jobs):
        child = os.fork()
        if child == 0:
            work(prepare, board, number)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(jobs)} workers have failed")
    return [Lap(*map(int, row[START : PROCESSOR + 1])) for row in board]


def work(prepare: Prepare, board: np.ndarray, number: int) -> None:
    """Do one job in a forked child, and end it."""
    status = 1
    try:
        gc.disable()
        run = prepare()
        board[number, READY] = 1
        deadline = time.monotonic() + MEETING_SECONDS
        while not board[:, READY].all():
            if time.monotonic() > deadline:
                raise TimeoutError("another worker never came")
            os.sched_yield()
        start, processor = time.perf_counter_ns(), time.thread_time_ns()
        run()
        board[number, PROCESSOR] = time.thread_time_ns() - processor
        board[number, START], board[number, END] = start, time.perf_counter_ns()
        status = 0
    finally:
        os._exit(status)


def claimer(engine: hbcore.Engine, users: range, batch: int, touched: bool) -> Prepare:
    """The job of claiming for these users, in batches or one by one."""

    def prepare() -> Run:
        if touched:
            touch(engine)
        envelope = engine.envelope("race")
        # To register as a worker, and to copy what was shared with the parent, is not what is measured.
        warm_up = engine.envelope("warm-up")
        warm_up.claim_many(np.arange(users[0], users[0] + 100))
        for user in users[:100]:
            warm_up.claim(user)
        return calls(envelope.claim if batch == ONE_BY_ONE else envelope.claim_many, users, batch)

    return prepare


def for_all(engine: hbcore.Engine, call: Callable[[Any], object], numbers: range, warm_up: int, batch: int) -> Prepare:
    """The job of calling for these numbers, in batches or one by one, after a first call for ``warm_up``."""

    def prepare() -> Run:
        touch(engine, AHEAD * len(numbers))
        call(np.array([warm_up]) if batch != ONE_BY_ONE else warm_up)
        return calls(call, numbers, batch)

    return prepare


def calls(call: Callable[[Any], object], numbers: range, batch: int) -> Run:
    """Call for these numbers, in batches or one by one."""
    if batch == ONE_BY_ONE:
        return for_each(call, list(numbers))
    keys = np.arange(numbers[0], numbers[-1] + 1)

    def run() -> None:
        for start in range(0, len(keys), batch):
            call(keys[start : start + batch])

    return run


class Slice(NamedTuple):
    """Nanoseconds a claim: of the wall clock, all processes together; and of processor time, in each."""

    wall: float
    processor: float


def race(processes: int, claims: int, batch: int, touched: bool, engines: int = 1) -> Slice:
    """Claim all packets of one new envelope, each process its part; or of one each, in an engine each."""
    made = [new_engine() for _ in range(engines)]
    for engine in made:
        engine.envelope("race", MEAN * claims // engines, claims // engines, "equal" if touched else "double_mean")
        engine.envelope("warm-up", MEAN * 1_000, 1_000)
        if touched:
            touch(engine)
    part = claims // processes
    firsts = range(FIRST_USER, FIRST_USER + part * processes, part)
    return together(
        part * processes,
        [claimer(made[i % engines], range(first, first + part), batch, touched) for i, first in enumerate(firsts)],
    )


def race_for_money(processes: int, holds: int, batch: int) -> Slice:
    """Reserve on one budget, each process under keys of its own; the pages of the holds are touched."""
    engine = new_engine()
    budget = engine.budget("race", MEAN * 4 * holds)
    budget.reserve_many(np.arange(2 * holds) + 2 * FIRST_USER, 1)  # so that the levels of its index are there
    part = holds // processes
    call = (lambda key: budget.reserve(key, 1)) if batch == ONE_BY_ONE else lambda keys: budget.reserve_many(keys, 1)
    return together(
        part * processes,
        [
            for_all(engine, call, range(FIRST_USER + i * part, FIRST_USER + (i + 1) * part), FIRST_USER - 1 - i, batch)
            for i in range(processes)
        ],
    )


def race_to_release(processes: int, claims: int) -> Slice:
    """Release all packets of one envelope, each process those of users of its own."""
    engine = new_engine()
    part = claims // processes
    envelope = engine.envelope("race", MEAN * (claims + processes), claims + processes, "equal")
    envelope.claim_many(np.arange(FIRST_USER - processes, FIRST_USER + part * processes))
    return together(
        part * processes,
        [
            for_all(
                engine,
                envelope.release,
                range(FIRST_USER + i * part, FIRST_USER + (i + 1) * part),
                FIRST_USER - 1 - i,
                ONE_BY_ONE,
            )
            for i in range(processes)
        ],
    )


def together(claims: int, jobs: Sequence[Prepare]) -> Slice:
    laps = side_by_side(jobs)
    wall = max(lap.end for lap in laps) - min(lap.start for lap in laps)
    return Slice(wall / claims, sum(lap.processor for lap in laps) / claims)


def bare_race(processes: int, claims: int) -> Slice:
    """The bare C loop on one index, each process with its part of the users and of the records, and a counter of them.

    On one counter two processes are slower than one: its cache line goes to and fro for every claim.
    """
    part = claims // processes
    shared = tables(part * processes, shared_numbers)
    jobs = []
    for first in range(0, part * processes, part):
        counter = shared_numbers(1)
        counter[0] = first
        jobs.append(partial(bare_claims, shared._replace(counter=counter), FIRST_USER + first, part))
    return together(part * processes, jobs)


def claims_of(scale: Scale, batch: int) -> int:
    """So many claims take some milliseconds: the least slice is one in which nobody else wanted a core."""
    return scale.choose({ONE_BY_ONE: 50_000, 1: 20_000, 10: 100_000}.get(batch, 400_000), 4_000)


def two_beside_one(scale: Scale) -> list[Finding]:
    """The last two rows are what this machine can: processes that share nothing, and the bare loop on one index."""
    if len(os.sched_getaffinity(0)) < 2:
        return [Finding("two processes beside one", "not measured: there is one core", "at least 1.7 times")]
    many = f"claim_many, batches of {OTHER_BATCH:,}"
    scalar_claims, many_claims = claims_of(scale, ONE_BY_ONE), claims_of(scale, OTHER_BATCH)
    races: dict[str, Callable[[int], Slice]] = {
        "claim, touched": lambda processes: race(processes, scalar_claims, ONE_BY_ONE, True),
        "claim, fresh": lambda processes: race(processes, scalar_claims, ONE_BY_ONE, False),
        f"{many}, touched": lambda processes: race(processes, many_claims, OTHER_BATCH, True),
        f"{many}, fresh": lambda processes: race(processes, many_claims, OTHER_BATCH, False),
        f"{many}, touched, an engine each": lambda processes: race(
            processes, many_claims, OTHER_BATCH, True, processes
        ),
    }
    bars: list[float | None] = [1.5, 1.5, 1.7, 1.7, None]
    races |= {
        "reserve on one budget": lambda processes: race_for_money(processes, scalar_claims, ONE_BY_ONE),
        "reserve_many on one budget": lambda processes: race_for_money(processes, many_claims // 4, OTHER_BATCH),
        "release of one envelope": lambda processes: race_to_release(processes, scalar_claims),
    }
    bars += [1.0, 1.1, 1.2]
    if library() is not None:
        races["the bare C loop, on one index, a counter each"] = lambda processes: bare_race(processes, many_claims)
    return [
        two_of(scale, f"two processes beside one, {name}", run, bar)
        for (name, run), bar in zip_longest(races.items(), bars)
    ]


def two_of(scale: Scale, what: str, run: Callable[[int], Slice], bar: float | None) -> Finding:
    slices: dict[str, list[Slice]] = {"one": [], "two": []}
    turns = scale.choose(50, 2)
    for turn in range(turns):
        scale.tell(f"turn {turn + 1} of {turns}: {what}")
        for processes, name in enumerate(slices, 1):
            slices[name].append(run(processes))
    wall = Times({name: [one.wall for one in found] for name, found in slices.items()}, by_wall=True)
    rates = " and ".join(f"{1e3 / wall.figure(name):.1f}" for name in slices)
    # The processor time is that of the very slices that count: it tells two processes that wait for each other's memory
    # from two that wait for a core.
    busy = min(slices["two"]).processor / min(slices["one"]).processor
    figures = f"{rates} million a second; processor time a claim {busy:.2f} times"
    if bar is None:
        return Finding(what, TIMES.format(wall.ratio("one", "two")), figures=figures)
    return at_least(what, wall.ratio("one", "two"), bar, TIMES, figures)


def throughput(scale: Scale) -> list[Finding]:
    """For the picture: claims a second by number of processes and size of the batch; touched."""
    cores = len(os.sched_getaffinity(0))
    sizes = (ONE_BY_ONE, *BATCHES)
    rates: dict[int, list[float]] = {processes: [] for processes in sorted({1, 2, cores, 2 * cores})}
    turns = scale.choose(25, 1)
    for batch in sizes:
        walls: dict[int, list[float]] = {processes: [] for processes in rates}
        for turn in range(turns):
            scale.tell(f"turn {turn + 1} of {turns}: batches of {batch}")
            for processes in rates:
                claims = max(claims_of(scale, batch), scale.choose(2 * batch * processes, 0))  # two batches for each
                walls[processes].append(race(processes, claims, batch, True).wall)
        for processes, times in walls.items():
            rates[processes].append(1e9 / min(times))
    scale.pictured["throughput"] = {"sizes": sizes, "rates": rates, "cores": cores}
    best = max(
        (rate, processes, sizes[i]) for processes, all_rates in rates.items() for i, rate in enumerate(all_rates)
    )
    figures = f"{best[1]} process{'es'[: 2 * (best[1] > 1)]}, batches of {best[2]:,}"
    return [Finding("most claims a second on one envelope, touched", f"{best[0] / 1e6:,.1f} million", figures=figures)]
