"""Recorded histories of real threads and processes on small envelopes, each checked for linearizability.

    python tests/histories/histories.py [--histories 10000] [--seed 1] [--kills 0.2] [--first 0]

Two to four clients, threads of one to four processes, run short random programs of claim, find, settle, release and
close on one small envelope of a file or a memory engine. Each call is recorded in shared memory before it begins and
after it has ended, with a clock common to all, so that what a client did before a SIGKILL is known; the call that it
died in is pending: it may have taken effect or not. Then a survivor looks at what is left, call by call, and claims it
to the last packet: its calls are the end of the history.

``linearizability.py`` says when a history is right. Exits 1 if one is found that no order of its calls explains, and
prints it.
"""

import argparse
import ctypes
import gc
import mmap
import multiprocessing.connection
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import chain, combinations
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from linearizability import FINAL, FOREVER, NOBODY, NOTHING, Checker, History, Operation
from rich.console import Console

import hbcore
import hbcore.reference
from hbcore import State, Status
from hbcore.cli.progress import Display

HANG_SECONDS = 120
LIBC = ctypes.CDLL(None, use_errno=True)
TIMER_ABSTIME, PR_SET_PDEATHSIG = 1, 1


def contention(history: History, finals: int) -> tuple[int, int]:
    """Return how many pairs of calls of different clients overlap, and the most calls at one moment.

    ``finals``: the client that looked at what was left, whose calls are not counted.
    """
    times: dict[tuple[int, int], int] = {}
    for client, calls in enumerate(history.clients):
        if client != finals:
            times |= {(client, call.invoked): call.invoked if call.is_pending else call.returned for call in calls}
    spans = sorted((begin, end, client) for (client, begin), end in times.items())
    pairs = most = 0
    under_way: list[tuple[int, int]] = []
    for begin, end, client in spans:
        under_way = [(other_end, other) for other_end, other in under_way if other_end >= begin and other != client]
        pairs += len(under_way)
        under_way.append((end, client))
        most = max(most, len(under_way))
    return pairs, most


# ---- what is to be done -----------------------------------------------------------------------------------------

TOPOLOGIES = ((1, 1), (1, 1, 1), (2,), (2, 1), (1, 1), (1, 1, 1, 1), (1, 2), (2, 2), (1, 1), (4,))  # threads by process
CLIENT_LIMIT = max(map(sum, TOPOLOGIES))
PACKET_LIMIT = 4
WORLD_SIZE = 100  # histories of one engine
ROUND_SIZE = 25  # histories that the clients run without hearing from anybody; a kill ends a round
VARIANTS = 8  # of terms, for each number of packets
CLOSES = 0.15  # share of histories in which somebody closes the envelope
STOPS = 0.7  # of those without deaths: in which processes are stopped for a while
MIXES = (
    {"claim": 2, "release": 3, "settle": 1, "claim_many": 4},
    {"claim": 5, "release": 4, "find": 1},
    {"claim": 4, "release": 2, "settle": 1, "find": 1, "claim_many": 2},
    {"claim": 3, "release": 2, "settle": 2, "find": 2},
)


class Step(NamedTuple):
    """One step of a program. ``claim_many`` claims for each user ``repeats`` times."""

    kind: str
    users: tuple[int, ...] = ()
    repeats: int = 1


class Plan(NamedTuple):
    """One history, before it happens.

    Processes are killed while they run the first of two programs; the second begins when they are dead. Processes are
    stopped while they run their last program; the others run theirs while these stand still, and then continue them.
    """

    terms: dict[str, Any]
    amounts: tuple[int, ...]
    users: int
    programs: list[list[list[Step]]]  # by client, one or two
    finals: list[Step]  # what a survivor does at last
    killed: tuple[int, ...]
    stopped: tuple[int, ...]
    is_waiting: bool  # whether the others begin only when those are stopped
    after_ns: int  # from the beginning of a program to when the timer of the signal is set
    delays_ns: list[int]  # by client, before its first call
    is_text: bool

    def releases(self, user: int) -> int:
        return sum(
            step == Step("release", (user,)) for client in self.programs for program in client for step in program
        )


@cache
def terms_of(packets: int, variant: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Terms of an envelope whose packets are told by their sums, and the amounts as the reference splits them."""
    for attempt in range(100):
        terms = {
            "total": 1000 * packets,
            "packets": packets,
            "law": ("dirichlet", "double_mean")[variant % 2],
            "seed": bytes([packets, variant, attempt]) + bytes(29),
        }
        amounts = tuple(hbcore.reference.split(**terms).tolist())
        sums = {sum(chosen) for size in range(packets + 1) for chosen in combinations(amounts, size)}
        if len(sums) == 1 << packets:
            return terms, amounts
    raise AssertionError(f"no seed splits {packets} packets so that sums tell them")


def random_program(random: Random, mix: dict[str, int], users: int, size: int, repeats: tuple[int, ...]) -> list[Step]:
    program = []
    for kind in random.choices(list(mix), list(mix.values()), k=size):
        if kind == "claim_many":
            some = tuple(random.sample(range(users), random.randint(1, users)))
            program.append(Step(kind, some, random.choice(repeats)))
        else:
            program.append(Step(kind, (random.randrange(users),)))
    return program


def draw_victims(random: Random, topology: tuple[int, ...], kills: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw the processes that are to be killed, and those that are to be stopped."""
    processes = range(len(topology))
    killed: tuple[int, ...] = ()
    if random.random() < kills:
        killed = tuple(random.sample(processes, min(random.choice((1, 1, 1, 2)), len(topology))))
    living = [process for process in processes if process not in killed]
    stopped: tuple[int, ...] = ()
    if len(living) > 1 and random.random() < STOPS:
        stopped = tuple(random.sample(living, random.randint(1, len(living) - 1)))
    return killed, stopped


def draw_moments(
    random: Random, killed: tuple[int, ...], stopped: tuple[int, ...], clients: int, latest_ns: int = 40_000
) -> dict[str, Any]:
    """Draw when that happens, as fields of a plan."""
    return {
        "killed": killed,
        "stopped": stopped,
        "is_waiting": bool(stopped) and random.random() < 0.7,
        "after_ns": random.randint(4_000, latest_ns) if killed else random.randint(1_000, 9_000),
        "delays_ns": [random.choice((0, 0, 300, 1000, 3000)) for _ in range(clients)],
    }


def plan_history(seed: int, number: int, topology: tuple[int, ...], kills: float) -> Plan:
    """The same programs for the same arguments, in whichever process."""
    random = Random(f"{seed}/{number}")
    packets, users = random.randint(1, PACKET_LIMIT), random.randint(1, 4)
    terms, amounts = terms_of(packets, random.randrange(VARIANTS))
    processes = range(len(topology))
    killed, stopped = draw_victims(random, topology, kills)
    # Threads of one process overlap only where the GIL is released, for long enough that another gets it.
    mix = random.choice(MIXES if len(topology) > 1 else MIXES[:1])
    repeats = (1, 2, 40, 800) if len(topology) > 1 else (500, 5000)
    programs = [
        [
            random_program(random, mix, users, random.randint(2, 9 if process in killed + stopped else 6), repeats)
            for _ in range(2 if killed else 1)
        ]
        for process in processes
        for _ in range(topology[process])
    ]
    if random.random() < CLOSES:
        program = random.choice(random.choice(programs))
        program.insert(random.randint(0, len(program)), Step("close"))
    everybody = list(range(users + packets + 1))  # the users, and strangers who take what is free
    random.shuffle(everybody)
    finals = [*(Step("find", (user,)) for user in range(users)), Step("snapshot")]
    if random.random() < 0.5:
        finals += [Step("close"), Step("snapshot")]
    finals += [*(Step("claim", (user,)) for user in everybody), Step("snapshot"), Step("close")]
    return Plan(
        terms=terms,
        amounts=amounts,
        users=users,
        programs=programs,
        finals=finals,
        **draw_moments(random, killed, stopped, len(programs)),
        is_text=random.random() < 0.3,
    )


# ---- recording --------------------------------------------------------------------------------------------------

TAPE_WORDS = 2048  # of one client in one history
LINE_WORDS = 16  # 128 bytes between words that several processes write
# Lines of the board: three barriers of one line for each client and one more, what clients have to say, process ids.
BEGIN, BEGIN_AGAIN, BEGIN_BESIDE, DONE, PIDS = (CLIENT_LIMIT * i + i for i in range(5))
START_NS = 1500  # from the moment at which all are there to the first call
ARM_NS = 250_000  # the same, if timers have to be set before
PULSE_NS = 1500  # who has shown a pulse so lately is on a core
CO_SCHEDULE_NS = 200_000

# A call is recorded as [invoked, returned, number of answers, then for each answer the user, status, packet, amount];
# a zero is a time that never came. `returned` is written last.


def run_program(calls: list[tuple[Callable[..., Any], tuple[Any, ...], Callable[..., int]]], tape: Any, at: int) -> int:
    """Make the calls one after the other, and leave on the tape what a death at any moment must not take along.

    Returns where the tape goes on.
    """
    clock = time.monotonic_ns
    for call, arguments, note in calls:
        tape[at] = clock()
        try:
            answer = call(*arguments)
        except hbcore.ConflictError:
            answer = FINAL
        returned = clock()
        end = note(tape, at + 3, answer)
        tape[at + 2] = (end - at - 3) // 4
        tape[at + 1] = returned
        at = end
    return at


def note_sum(tape: Any, at: int, answer: int) -> int:
    tape[at] = tape[at + 1] = tape[at + 2] = 0
    tape[at + 3] = answer
    return at + 4


def note_claim(tape: Any, at: int, answer: Any) -> int:
    """A Claim, None, or FINAL."""
    tape[at] = 0
    if answer is None or answer == FINAL:
        tape[at + 1], tape[at + 2], tape[at + 3] = NOTHING if answer is None else FINAL, -1, 0
    else:
        tape[at + 1], tape[at + 2], tape[at + 3] = answer.status, answer.packet, answer.amount
    return at + 4


def note_rows(tape: Any, at: int, answer: list[tuple[int, int, int, int]]) -> int:
    for row in answer:
        for word in row:
            tape[at] = word
            at += 1
    return at


def note_batch(tape: Any, at: int, answer: tuple[int, np.ndarray]) -> int:
    """Of several equal answers in a row to one user, other than GRANTED, only the first.

    They change nothing, so a moment that is right for one of them is right for all.
    """
    repeats, rows = answer
    places = np.arange(len(rows)) // repeats
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (rows["packet"][1:] != rows["packet"][:-1]) | (rows["status"][1:] != rows["status"][:-1])
    is_new |= (np.arange(len(rows)) % repeats == 0) | (rows["status"] == Status.GRANTED)
    kept = rows[is_new]
    answers = zip(
        places[is_new].tolist(), kept["status"].tolist(), kept["packet"].tolist(), kept["amount"].tolist(), strict=True
    )
    return note_rows(tape, at, list(answers))


class Names:
    """The users of one history: each history has its own, so that they meet in other places of the index."""

    def __init__(self, engine: hbcore.Engine, plan: Plan, number: int) -> None:
        self.engine, self.plan = engine, plan
        count = plan.users + len(plan.amounts) + 1
        self.names: list[Any] = [number * 16 + user for user in range(count)]
        if plan.is_text:
            self.names = [f"user {name}" for name in self.names]

    def batch(self, step: Step) -> Any:
        names = [self.names[user] for user in step.users for _ in range(step.repeats)]
        return names if self.plan.is_text else np.array(names)

    def snapshot(self, envelope: hbcore.Envelope) -> list[tuple[int, int, int, int]]:
        numbers = {self.engine.user_hash(name): number for number, name in enumerate(self.names)}
        return [
            (numbers.get(row["user"].tobytes(), NOBODY), int(row["state"]), int(row["packet"]), int(row["amount"]))
            for row in envelope.claims()
        ]


def bind(envelope: hbcore.Envelope, names: Names, program: list[Step]) -> list:
    """The calls of a program, each with its arguments and what writes down its answer, ready to run."""
    scalars = {"claim": envelope.claim, "find": envelope.find, "settle": envelope.settle, "release": envelope.release}
    calls: list = []
    for step in program:
        if step.kind in scalars:
            calls.append((scalars[step.kind], (names.names[step.users[0]],), note_claim))
        elif step.kind == "claim_many":
            batch = names.batch(step)
            calls.append((lambda users, step=step: (step.repeats, envelope.claim_many(users)), (batch,), note_batch))
        elif step.kind == "snapshot":
            calls.append((names.snapshot, (envelope,), note_rows))
        else:
            calls.append((envelope.close, (), note_sum))
    return calls


def read_tape(plan: Plan, program: list[Step], tape: Any) -> list[Operation]:
    """The operations that a client has recorded."""
    operations: list[Operation] = []
    at = 0
    for step in program:
        invoked, returned, count = tape[at : at + 3]
        if not invoked:
            break
        rows = [tuple(tape[at + 3 + 4 * i : at + 7 + 4 * i]) for i in range(count)] if returned else []
        at += 3 + 4 * count
        times = {"invoked": invoked, "returned": returned or FOREVER}
        if step.kind == "snapshot":
            held = tuple(sorted((user, packet, int(state == State.SETTLED)) for user, state, packet, _ in rows))
            right = all(amount == plan.amounts[packet] for _, _, packet, amount in rows)
            operations.append(Operation("snapshot", rows=held if right else ((-1, -1, -1),), **times))
        elif step.kind == "close":
            operations.append(Operation("close", **times))
            operations += [Operation("refund", amount=row[3], **times) for row in rows]
        elif returned:
            kind = "claim" if step.kind == "claim_many" else step.kind
            operations += [Operation(kind, step.users[row[0]], row[1], row[2], amount=row[3], **times) for row in rows]
        elif step.kind == "claim_many":
            for user in step.users:  # each may have been granted once, and again after each release
                operations += [Operation("claim", user, **times)] * min(step.repeats, 1 + plan.releases(user))
        else:
            operations.append(Operation(step.kind, step.users[0], **times))
        if not returned:
            break
    return operations


# ---- clients and their processes --------------------------------------------------------------------------------


class Broken(Exception):
    """The world came to an end that no promise allows: a hang, a crash, or an exception."""


class Board:
    """The memory that the coordinator and all clients share: barriers, process ids, tapes."""

    def __init__(self) -> None:
        fixed = (PIDS + CLIENT_LIMIT) * LINE_WORDS
        self.words = memoryview(mmap.mmap(-1, 8 * (fixed + ROUND_SIZE * CLIENT_LIMIT * TAPE_WORDS))).cast("q")
        self.tapes = self.words[fixed:]
        self.owner: list[int] = []  # the process of each client

    def line(self, number: int) -> memoryview:
        return self.words[number * LINE_WORDS : (number + 1) * LINE_WORDS]

    def tape(self, turn: int, client: int) -> memoryview:
        start = (turn * CLIENT_LIMIT + client) * TAPE_WORDS
        return self.tapes[start : start + TAPE_WORDS]

    def clear(self, turns: int) -> None:
        size = self.words.nbytes // 8 - self.tapes.nbytes // 8 + turns * CLIENT_LIMIT * TAPE_WORDS
        self.words[:size] = array("q", bytes(8 * size))

    def meet(self, lines: int, client: int, members: Sequence[int], turn: int, margin_ns: int) -> int:
        """Wait until all members are here, and two of them on two cores; return the moment at which to begin.

        The last to come would find the others off their cores, and nothing would overlap. So everybody shows a pulse,
        and who sees another's beat says when to start. If that never happens they start all the same.
        """
        clock = time.monotonic_ns
        own, start = self.line(lines + client), self.line(lines + CLIENT_LIMIT)
        arrived = [self.line(lines + member) for member in members]
        pulses = [
            line for line, member in zip(arrived, members, strict=True) if self.owner[member] != self.owner[client]
        ]
        own[0] = turn
        give_up = 0
        while start[0] < turn:
            own[1] = now = clock()
            if any(line[0] < turn for line in arrived):
                os.sched_yield()
                continue
            give_up = give_up or now + CO_SCHEDULE_NS
            if now >= give_up or not pulses or any(now - line[1] < PULSE_NS for line in pulses):
                start[1] = now + margin_ns
                start[0] = turn
            elif now & 63 == 0:
                os.sched_yield()
        return start[1]

    def pid(self, process: int) -> int:
        return self.line(PIDS + process)[0]

    def await_deaths(self, processes: tuple[int, ...]) -> None:
        """Wait until they are dead and the kernel has dropped their locks."""
        for process in processes:
            descriptor = os.pidfd_open(self.pid(process))  # nobody has waited for it: its pid is still its own
            select.select([descriptor], [], [], HANG_SECONDS)
            os.close(descriptor)

    def await_stops(self, processes: tuple[int, ...], turn: int) -> None:
        """Wait until each is stopped, or all its clients have come to the end of their programs."""
        for process in processes:
            clients = [client for client, owner in enumerate(self.owner) if owner == process]
            with open(f"/proc/{self.pid(process)}/stat", "rb", buffering=0) as file:
                while any(self.line(DONE + client)[0] < turn for client in clients):
                    if os.pread(file.fileno(), 512, 0).rpartition(b") ")[2].startswith(b"T"):
                        break
                    os.sched_yield()


class Timer:
    """A kernel timer that sends this process a signal, at whatever instruction it then is (timer_create(2))."""

    class Event(ctypes.Structure):
        _fields_ = (
            ("value", ctypes.c_void_p),
            ("signal", ctypes.c_int),
            ("notify", ctypes.c_int),
            ("rest", ctypes.c_char * 48),
        )

    class Interval(ctypes.Structure):
        _fields_ = (("again", ctypes.c_long * 2), ("after", ctypes.c_long * 2))

    def __init__(self, signal_number: int) -> None:
        self.number = ctypes.c_void_p()
        event = self.Event(signal=signal_number)
        if LIBC.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self.number)) != 0:
            raise OSError(ctypes.get_errno(), "timer_create")
        self.arm(0)  # the first call is slow

    def arm(self, moment_ns: int) -> None:
        """Send the signal at this moment of the common clock; 0: not at all."""
        interval = self.Interval(after=divmod(moment_ns, 10**9))
        if LIBC.timer_settime(self.number, TIMER_ABSTIME, ctypes.byref(interval), None) != 0:
            raise OSError(ctypes.get_errno(), "timer_settime")


def await_moment(moment_ns: int) -> None:
    while time.monotonic_ns() < moment_ns:
        pass


class World:
    """One engine, and the processes whose clients make histories on it: of envelopes, and of else in a subclass."""

    def __init__(self, options: argparse.Namespace, number: int, board: Board, folder: Path) -> None:
        self.options, self.board = options, board
        self.topology = TOPOLOGIES[number % len(TOPOLOGIES)]
        self.owner = [process for process, threads in enumerate(self.topology) for _ in range(threads)]
        board.owner = self.owner
        is_file = (number + number // len(TOPOLOGIES)) % 2 == 0
        self.engine = hbcore.Engine(folder / f"{number}.hb") if is_file else hbcore.Engine()
        self.pids: dict[int, int] = {}
        self.pipes: dict[int, multiprocessing.connection.Connection] = {}
        self.held = 0
        for process in range(len(self.topology)):
            self.fork(process)

    def plan(self, number: int) -> Any:
        return plan_history(self.options.seed, number, self.topology, self.options.kills)

    def make(self, number: int, plan: Any) -> None:
        """Make what a history is about."""
        self.engine.envelope(str(number), **plan.terms)

    def bind(self, engine: hbcore.Engine, number: int, plan: Any, programs: list[list[Any]]) -> list[list]:
        """The calls of programs in this process."""
        envelope, names = engine.envelope(str(number)), Names(engine, plan, number)
        return [bind(envelope, names, program) for program in programs]

    def read(self, plan: Any, program: list[Any], tape: Any) -> list[Any]:
        return read_tape(plan, program, tape)

    def history(self, plan: Any, clients: list[list[Any]], died: dict[int, int]) -> Any:
        self.held += len([call for call in clients[-1] if call.kind == "snapshot"][-1].rows)
        return History(plan.amounts, clients, died)

    def check_audit(self, report: hbcore.AuditReport) -> None:
        if report.granted + report.settled != self.held:
            raise Broken(f"the audit counts {report.granted + report.settled} held packets, the histories {self.held}")

    def fork(self, process: int) -> None:
        here, there = multiprocessing.Pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                LIBC.prctl(
                    PR_SET_PDEATHSIG, signal.SIGKILL
                )  # whoever waits for others does not outlive the coordinator
                for pipe in [here, *self.pipes.values()]:
                    pipe.close()
                self.serve(process, there)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        there.close()
        self.pids[process], self.pipes[process] = pid, here

    def serve(self, process: int, pipe: multiprocessing.connection.Connection) -> None:
        """Run rounds as they are asked for, until the coordinator closes its end."""
        sys.setswitchinterval(1e-6)
        gc.disable()  # it would touch, and so copy, all that was inherited
        engine = self.engine
        if engine.path is not None and process % 2 == 0:
            engine = hbcore.Engine(engine.path)  # the others go on with what they have inherited
        self.timers = {number: Timer(number) for number in (signal.SIGSTOP, signal.SIGKILL)}
        mine = [client for client, owner in enumerate(self.owner) if owner == process]
        while True:
            try:
                first, last = pipe.recv()
            except EOFError:
                return
            plans = {number: self.plan(number) for number in range(first, last)}
            bound = {
                (number, client): self.bind(engine, number, plan, plan.programs[client])
                for number, plan in plans.items()
                for client in mine
            }
            threads = [
                threading.Thread(target=self.run_client, args=(client, first, last, plans, bound))
                for client in mine[1:]
            ]
            for thread in threads:
                thread.start()
            self.run_client(mine[0], first, last, plans, bound)
            for thread in threads:
                thread.join()
            pipe.send((first, last))

    def run_client(self, client: int, first: int, last: int, plans: dict, bound: dict) -> None:
        board, process = self.board, self.owner[client]
        everybody = range(len(self.owner))
        number = first
        try:
            for number in range(first, last):
                plan, turn = plans[number], number - first + 1
                tape = board.tape(number - first, client)
                programs = bound[number, client]
                margin_ns = ARM_NS if plan.killed or plan.stopped else START_NS
                moment = board.meet(BEGIN, client, everybody, turn, margin_ns)
                if not plan.killed:
                    run = partial(run_program, programs[0], tape, 0)
                    self.run_beside_stops(plan, client, everybody, turn, moment, run)
                    continue
                if process in plan.killed and client == self.owner.index(process):
                    moment = self.arm_timer(signal.SIGKILL, moment, plan)
                await_moment(moment + plan.delays_ns[client])
                at = run_program(programs[0], tape, 0)
                if process not in plan.killed:
                    board.await_deaths(plan.killed)
                    board.line(DONE + client)[1] = time.monotonic_ns()
                    living = [other for other in everybody if self.owner[other] not in plan.killed]
                    moment = board.meet(BEGIN_AGAIN, client, living, turn, ARM_NS if plan.stopped else START_NS)
                    run = partial(run_program, programs[1], tape, at)
                    self.run_beside_stops(plan, client, living, turn, moment, run)
        except BaseException:
            os.write(2, f"history {number}, client {client}:\n{traceback.format_exc()}".encode())
            os._exit(1)

    def arm_timer(self, number: int, moment: int, plan: Plan) -> int:
        """Set the timer that this process is to be hit by in the middle of its program; return when to begin that."""
        moment = max(moment, time.monotonic_ns() + ARM_NS)  # a busy machine may have passed the common moment by
        self.timers[number].arm(moment + plan.after_ns)
        return moment

    def run_beside_stops(
        self, plan: Plan, client: int, members: Sequence[int], turn: int, moment: int, run: Callable[[], object]
    ) -> None:
        """Run a program and be stopped in the middle, or run it while those stand still who are to be stopped."""
        board, process = self.board, self.owner[client]
        awake = [member for member in members if self.owner[member] not in plan.stopped]
        if process in plan.stopped:
            leads = client == self.owner.index(process)
            if leads:
                moment = self.arm_timer(signal.SIGSTOP, moment, plan)
            await_moment(moment + plan.delays_ns[client])
            run()
            if leads:
                self.timers[signal.SIGSTOP].arm(0)
        else:
            if plan.is_waiting:
                board.await_stops(plan.stopped, turn)
                moment = board.meet(BEGIN_BESIDE, client, awake, turn, START_NS)
            await_moment(moment + plan.delays_ns[client])
            run()
        board.line(DONE + client)[0] = turn
        if process not in plan.stopped and all(board.line(DONE + member)[0] >= turn for member in awake):
            board.await_stops(plan.stopped, turn)
            for stopped in plan.stopped:
                os.kill(board.pid(stopped), signal.SIGCONT)

    def run_round(self, first: int, last: int) -> list[tuple[int, Any, Any]]:
        """Let the clients make these histories, the last of which may have deaths; look at what each has left."""
        plans = {number: self.plan(number) for number in range(first, last)}
        for number, plan in plans.items():
            self.make(number, plan)
        killed = plans[last - 1].killed
        self.board.clear(last - first)
        for process, pid in self.pids.items():
            self.board.line(PIDS + process)[0] = pid
        for pipe in self.pipes.values():
            pipe.send((first, last))
        self.await_processes(killed, f"histories {first} .. {last - 1}")
        for process in killed:
            os.waitpid(self.pids.pop(process), 0)
        seen = [self.board.line(DONE + client)[1] for client in range(len(self.owner))]
        died_at = min(filter(None, seen), default=time.monotonic_ns())
        histories = []
        for number, plan in reversed(plans.items()):  # first that with deaths: nobody has put anything right before
            clients = [
                self.read(plan, [*chain(*programs)], self.board.tape(number - first, client))
                for client, programs in enumerate(plan.programs)
            ]
            tape = memoryview(array("q", bytes(8 * TAPE_WORDS)))
            run_program(self.bind(self.engine, number, plan, [plan.finals])[0], tape, 0)
            clients.append(self.read(plan, plan.finals, tape))
            died = {client: died_at for client, process in enumerate(self.owner) if process in plan.killed}
            histories.append((number, plan, self.history(plan, clients, died)))
        for process in killed:
            self.fork(process)
        return histories

    def await_processes(self, killed: tuple[int, ...], what: str) -> None:
        """Wait until all processes have answered, and those that are to be killed are dead."""
        waiting = {pipe: process for process, pipe in self.pipes.items()}
        while waiting:
            ready = multiprocessing.connection.wait(list(waiting), HANG_SECONDS)
            if not ready:
                raise Broken(f"{what}: processes {sorted(waiting.values())} hang")
            for pipe in ready:
                process = waiting[pipe]
                try:
                    pipe.recv()
                    if process not in killed:  # else it was done before its time came
                        del waiting[pipe]
                except (EOFError, ConnectionResetError):
                    del waiting[pipe]
                    self.pipes.pop(process).close()
                    end = os.waitid(
                        os.P_PID, self.pids[process], os.WEXITED | os.WNOWAIT
                    )  # others may still look at it
                    if process not in killed or (end.si_code, end.si_status) != (os.CLD_KILLED, signal.SIGKILL):
                        raise Broken(f"{what}: process {process} ended by itself, {end}") from None

    def close(self) -> None:
        """Audit what all histories have left, and let the processes go."""
        self.check_audit(self.engine.audit())
        self.end()

    def end(self) -> None:
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for pipe in self.pipes.values():
            pipe.close()
        self.pids, self.pipes = {}, {}
        self.engine.close()


# ---- the script -------------------------------------------------------------------------------------------------


def described(number: int, plan: Any, history: Any, subject: str) -> str:
    begin = min(call.invoked for client in history.clients for call in client)
    lines = [f"history {number}: no order explains these calls on {subject} (from ns, to ns)"]
    for client, calls in enumerate(history.clients):
        name = f"client {client}" if client < len(plan.programs) else "at last"
        seen = f", dead by {history.died[client] - begin}" if client in history.died else ""
        lines.append(f"  {name}{seen}")
        for call in calls:
            end = "" if call.is_pending else call.returned - begin
            lines.append(f"    {call.invoked - begin:>12} {end:>12}  {call}")
    return "\n".join(lines)


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the programs; when a call runs is the machine's choice")
    parser.add_argument("--first", type=int, default=0, help="number of the first history")
    parser.add_argument("--kills", type=float, default=0.2, help="share of histories in which processes are killed")
    return parser.parse_args()


def main() -> int:
    options = arguments(__doc__ or "")
    for packets in range(1, PACKET_LIMIT + 1):  # before the forks, which inherit them
        for variant in range(VARIANTS):
            terms_of(packets, variant)
    return run(options, World, Checker, lambda plan: f"{len(plan.amounts)} packets")


def run(
    options: argparse.Namespace, make_world: type[World], make_checker: Callable, subject: Callable[[Any], str]
) -> int:
    """Make the histories and check each; return the exit status. ``subject``: what a plan is about, in words."""
    counts: Counter[str] = Counter()
    board = Board()
    last = options.first + options.histories
    started_at = time.monotonic()
    console = Console(stderr=True) if sys.stderr.isatty() else None
    with tempfile.TemporaryDirectory() as folder, Display(console) as display:
        draw = display.bar("histories", options.histories, lambda _: (counts["histories"], f"{counts['wrong']} wrong"))
        number = options.first
        while number < last:
            world = make_world(options, number // WORLD_SIZE, board, Path(folder))
            try:
                end_of_world = min(last, (number // WORLD_SIZE + 1) * WORLD_SIZE)
                while number < end_of_world:
                    end = number + 1
                    while end < min(end_of_world, number + ROUND_SIZE) and not world.plan(end - 1).killed:
                        end += 1
                    for made in world.run_round(number, end):
                        check(options, counts, made, make_checker(made[2]), subject)
                        draw(False)
                    number = end
                world.close()
            except (Broken, hbcore.HbcoreError) as error:
                print(f"BROKEN: {type(error).__name__}: {error}")
                return 1
            finally:
                world.end()
    report(options, counts, time.monotonic() - started_at)
    return 1 if counts["wrong"] else 0


def check(
    options: argparse.Namespace,
    counts: Counter[str],
    made: tuple[int, Any, Any],
    checker: Any,
    subject: Callable[[Any], str],
) -> None:
    number, plan, history = made
    counts["histories"] += 1
    if not checker.is_linearizable():
        counts["wrong"] += 1
        if counts["wrong"] <= 3:
            print(described(number, plan, history, subject(plan)))
            print(f"again: --seed {options.seed} --kills {options.kills} --first {number} --histories 1", flush=True)
    pairs, most = contention(history, len(plan.programs))
    counts["overlapping"] += pairs > 0
    counts["pairs"] += pairs
    counts["three"] += most > 2
    counts["backtracked"] += checker.backtracked
    counts["configurations"] += len(checker.visited)
    counts["operations"] += sum(map(len, history.clients))
    counts["with stops"] += bool(plan.stopped)
    counts["with deaths"] += bool(plan.killed)
    counts["deaths"] += len(plan.killed)
    for client in history.died:
        calls = history.clients[client]
        counts["dead"] += 1
        counts["pending"] += bool(calls) and calls[-1].is_pending


def report(options: argparse.Namespace, counts: Counter[str], seconds: float) -> None:
    number = counts["histories"]
    share = {name: f"{counts[name] / number:.1%}" for name in ("overlapping", "three", "backtracked")}
    print(f"seed {options.seed}, {seconds:.1f} s: {number / seconds:.0f} histories a second")
    print(f"{number:,} histories of {counts['operations']:,} calls")
    print(f"{share['overlapping']} had overlapping calls, {share['three']} three or more at once")
    print(f"{counts['pairs'] / number:.1f} overlapping pairs of calls a history")
    print(f"{counts['configurations'] / number:.0f} configurations searched a history")
    print(f"{share['backtracked']} were not explained by the first order tried")
    print(f"{counts['with stops']:,} had processes stopped for a while")
    print(f"{counts['with deaths']:,} had processes killed: {counts['deaths']:,} with {counts['dead']:,} clients")
    print(f"{counts['pending']:,} clients died in the middle of a call")
    print(f"{counts['wrong']:,} histories that no order explains" if counts["wrong"] else "no promise broken")


if __name__ == "__main__":
    sys.exit(main())
