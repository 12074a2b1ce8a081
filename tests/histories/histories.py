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
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from history_plans import (
    CLIENT_LIMIT,
    PACKET_LIMIT,
    ROUND_SIZE,
    TOPOLOGIES,
    VARIANTS,
    WORLD_SIZE,
    Plan,
    plan_history,
    terms_of,
)
from history_tapes import TAPE_WORDS, Names, bind, read_tape, run_program
from linearizability import Checker, History
from rich.console import Console

import hbcore
import hbcore.reference
from hbcore.cli.progress import Display

HANG_SECONDS = 120
LIBC = ctypes.CDLL(None, use_errno=True)
TIMER_ABSTIME, PR_SET_PDEATHSIG = 1, 1
LINE_WORDS = 16  # 128 bytes between words that several processes write
# Lines of the board: three barriers of one line for each client and one more, what clients have to say, process ids.
BEGIN, BEGIN_AGAIN, BEGIN_BESIDE, DONE, PIDS = (CLIENT_LIMIT * i + i for i in range(5))
START_NS = 1500  # from the moment at which all are there to the first call
ARM_NS = 250_000  # the same, if timers have to be set before
PULSE_NS = 1500  # who has shown a pulse so lately is on a core
CO_SCHEDULE_NS = 200_000


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
