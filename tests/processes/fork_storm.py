"""Forks under load: servers whose threads claim fork children that claim as well, and all of them are killed.

    python tests/processes/fork_storm.py [--kills 300] [--memory] [--children 4] [--seed N]

A controller makes an engine and forks a server. The server's threads claim and release, one by one and in batches
without the GIL, while it forks children and replaces those that die; children use the engine they inherited, open the
file anew, start threads, fork again and go away, or never touch the engine at all. The controller sends SIGKILL to any
of them, servers included: their children live on as orphans, and a new server is forked.

A round ends with everybody killed but the idle, and a few claimers, stopped wherever they were. Then every packet must
be free or known: what the dead held can be claimed again, what the stopped hold cannot. They go on and end their calls;
every claim that anybody was told of is there, none twice, and the rest can be claimed to the last packet.

Exits 1 at the first promise that is broken, and says which seed and round to repeat.
"""

import argparse
import contextlib
import os
import random
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))
import numpy as np
import numpy.random  # now: a child that is forked while another thread imports it could never import it
from children import adopt_orphans, distinct_users, living, send, shared_byte
from rich.console import Console
from rich.progress import Progress

import hbcore
import hbcore.terms
from hbcore import Status

# One row for each claim that somebody keeps; a packet of -1 only says that its sender is there. Rows are written in
# one piece: a write of at most PIPE_BUF bytes is atomic, whoever is killed.
ROW = np.dtype([("pid", "i4"), ("kind", "i4"), ("user", "i8"), ("packet", "i8"), ("amount", "i8")])
ROWS_LIMIT = select.PIPE_BUF // ROW.itemsize
KINDS = ("server", "inherits", "reopens", "threads", "grandchild", "leaves", "idle", "failed")
SERVER, INHERITS, REOPENS, THREADS, GRANDCHILD, LEAVES, IDLE, FAILED = range(len(KINDS))
SERVER_THREADS = 2
CHILD_THREADS = 3
STOPPED_LIMIT = 3
IDLE_LIMIT = 2  # idle children of one server
BATCH = 512
SINGLES = 64
COMMON_LIMIT = 256  # users for whom everybody claims, and whom nobody releases
KEPT_OF = 32  # of so many other claims about one is kept, if it is of the first half of the packets: some stay free
LEAVES_AFTER = 20  # batches
HANG_SECONDS = 60  # nobody says anything for so long: something hangs
LIFE_SECONDS = 300  # then the kernel ends whatever was left behind
KILLS_A_ROUND = 20
SIZES = (64, 1000, 30_000, 200_000)  # packets of an envelope


class PromiseBrokenError(Exception):
    """What happened is not what hbcore promises."""


def demand(truth: Any, promise: str) -> None:
    if not truth:
        raise PromiseBrokenError(promise)


# ---- what the processes below the controller do ---------------------------------------------------------------------


class World:
    """What all processes of a round share: the engine, where to tell what was kept, and when to stop."""

    def __init__(self, engine: hbcore.Engine, packets: int) -> None:
        self.engine = engine
        self.envelope = engine.envelope("storm", total=packets * 37, packets=packets)
        self.packets = packets
        self.common_users = min(COMMON_LIMIT, packets // 4)
        self.stop = shared_byte()
        self.read, self.write = os.pipe()
        self.life_read, self.life_write = os.pipe()  # at its end the idle go

    def close(self) -> None:
        for fd in (self.read, self.write, self.life_read, self.life_write):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.engine.close()


def claim_on(world: World, envelope: hbcore.Envelope, kind: int, claimer: int, turns: int | None = None) -> None:
    """Claim and tell what is kept, give the rest back, until it is over.

    Only this thread claims for its own users. Every other batch is claimed one by one, with the GIL.
    """
    chance = np.random.default_rng(claimer)
    pid = os.getpid()
    first_user = claimer << 32
    turn = 0
    while not world.stop[0] and turn != turns:
        users = np.arange(first_user, first_user + (BATCH if turn % 2 else SINGLES))
        first_user += len(users)
        keeps = chance.integers(0, KEPT_OF, len(users)) == 0
        common = np.s_[:: len(users) // 4]
        users[common] = chance.integers(0, world.common_users, 4)
        if turn % 2:
            answers = envelope.claim_many(users)
            packets, amounts = answers["packet"], answers["amount"]
        else:
            claims = list(map(envelope.claim, users.tolist()))
            packets = np.array([claim.packet for claim in claims])
            amounts = np.array([claim.amount for claim in claims])
        keeps &= packets < world.packets // 2
        keeps[common] = True
        for user in users[~keeps & (packets >= 0)].tolist():
            envelope.release(user)
        keeps &= packets >= 0
        rows = np.full(max(1, keeps.sum()), np.array((pid, kind, 0, -1, 0), ROW))
        if keeps.any():
            rows["user"], rows["packet"], rows["amount"] = users[keeps], packets[keeps], amounts[keeps]
        for first in range(0, len(rows), ROWS_LIMIT):
            os.write(world.write, rows[first : first + ROWS_LIMIT].tobytes())
        turn += 1


def in_threads(world: World, envelope: hbcore.Envelope, kind: int, claimer: int, count: int) -> list[threading.Thread]:
    def body(own_claimer: int) -> None:
        try:
            claim_on(world, envelope, kind, own_claimer)
        except BaseException as error:
            fail(world, error)

    threads = [threading.Thread(target=body, args=(claimer + i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads


def fail(world: World, error: BaseException) -> NoReturn:
    if not isinstance(error, BrokenPipeError):  # of a controller that was killed itself
        traceback.print_exception(error)
        os.write(world.write, np.array([(os.getpid(), FAILED, 0, -1, 0)], ROW).tobytes())
    os._exit(1)


def child(world: World, kind: int, claimer: int) -> None:
    if kind == IDLE:
        os.setpgid(0, 0)  # out of the way of those who kill the group
        os.write(world.write, np.array([(os.getpid(), IDLE, 0, -1, 0)], ROW).tobytes())
        os.read(world.life_read, 1)
    elif kind == REOPENS and world.engine.path is not None:
        with hbcore.Engine(world.engine.path) as engine:
            claim_on(world, engine.envelope("storm"), kind, claimer)
    elif kind == THREADS:
        for thread in in_threads(world, world.envelope, kind, claimer, CHILD_THREADS):
            thread.join()
    elif kind == GRANDCHILD:
        if claimer % 20:
            claim_on(world, world.envelope, kind, claimer, turns=1)  # registered before it forks; or not
        pid = os.fork()
        if pid == 0:
            signal.alarm(LIFE_SECONDS)
            claim_on(world, world.envelope, kind, claimer + 1)
        elif claimer % 40:
            os.waitpid(pid, 0)
    elif kind == LEAVES:
        claim_on(world, world.envelope, kind, claimer, turns=LEAVES_AFTER)
        world.engine.close()
    else:
        claim_on(world, world.envelope, kind, claimer)


def serve(world: World, number: int, seed: int, children_count: int) -> None:
    """Claim in threads, and keep so many children alive, until it is over."""
    chance = random.Random(seed * 1_000_003 + number)
    claimer = 1 + number * 100_000
    threads = in_threads(world, world.envelope, SERVER, claimer, SERVER_THREADS)
    children: set[int] = set()
    idle_count = 0
    while not world.stop[0]:
        if len(children) >= children_count:
            children.discard(os.waitpid(-1, 0)[0])
            continue
        claimer += 10
        kind = chance.choice((INHERITS, REOPENS, THREADS, GRANDCHILD, LEAVES, IDLE))
        idle_count += kind == IDLE
        if kind == IDLE and idle_count > IDLE_LIMIT:
            kind = INHERITS
        pid = os.fork()
        if pid == 0:
            run_and_exit(world, child, world, kind, claimer)
        if kind != IDLE:
            children.add(pid)
    for thread in threads:
        thread.join()


def run_and_exit(world: World, work: Any, *arguments: Any) -> NoReturn:
    signal.alarm(LIFE_SECONDS)
    try:
        work(*arguments)
    except BaseException as error:
        fail(world, error)
    os._exit(0)


# ---- the controller -------------------------------------------------------------------------------------------------


class Controller:
    """One round: forks the servers, listens, kills, and checks in the end."""

    def __init__(self, world: World, seed: int, children_count: int, figures: Counter[str]) -> None:
        self.world = world
        self.seed = seed
        self.children_count = children_count
        self.figures = figures
        self.chance = random.Random(seed)
        self.servers: list[int] = []  # their process groups; not waited for until the end, so no number is used twice
        self.heard: dict[int, int] = {}  # pid -> kind, of those that have spoken and were not killed
        self.idle: set[int] = set()
        self.rows: list[np.ndarray] = []

    def start_server(self) -> None:
        number = len(self.servers)
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            # A process that writes after the controller's death must learn of it.
            os.close(self.world.read)
            os.close(self.world.life_write)
            run_and_exit(self.world, serve, self.world, number, self.seed, self.children_count)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # here as well: it must have its group before it can be looked for
        self.servers.append(pid)

    def listen(self, block: bool) -> int:
        """Take what has been told. Returns the pid of one that has just spoken, or 0."""
        if not select.select([self.world.read], [], [], HANG_SECONDS if block else 0)[0]:
            demand(not block, f"nothing hangs: nobody has said anything for {HANG_SECONDS} seconds")
            return 0
        rows = np.frombuffer(os.read(self.world.read, ROW.itemsize * 2048), ROW)
        demand(not (rows["kind"] == FAILED).any(), "no process meets an error")
        self.rows.append(rows[rows["packet"] >= 0])
        for pid, kind in set(rows[["pid", "kind"]].tolist()):
            if kind == IDLE:
                self.idle.add(pid)
            else:
                self.heard[pid] = kind
        return int(rows["pid"][-1])

    def members(self) -> dict[int, int]:
        """Return pid -> parent of all living processes of the servers' groups."""
        return {pid: parent for pid, parent, group in living() if group in self.servers}

    def send(self, pid: int, signal_number: int) -> bool:
        return send(pid, signal_number, self.servers)

    def kill(self, pid: int) -> None:
        kind = self.heard.pop(pid, None)
        if kind is None or not self.send(pid, signal.SIGKILL):
            return
        self.figures["kills"] += 1
        self.figures[f"kills of {KINDS[kind]}"] += 1
        if kind == SERVER:
            self.start_server()

    def kill_all_but(self, spared: set[int]) -> None:
        """Kill all that claim, and wait until they are dead."""
        while True:
            others = [pid for pid in self.members() if pid not in spared]
            if not others:
                return
            for pid in others:
                self.send(pid, signal.SIGKILL)
            # Servers stay to be waited for, so that their group's number is not used again.
            for pid in others:
                if pid not in self.servers:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def storm(self, kills: int) -> None:
        self.start_server()
        patience = self.chance.randrange(1, 60)
        until = self.figures["kills"] + kills
        while self.figures["kills"] < until:
            speaker = self.listen(block=True)
            patience -= 1
            if patience > 0 or not self.heard:
                continue
            patience = self.chance.randrange(1, 60)
            # Mostly it is not the process that has just spoken, which is not claiming at the moment.
            victim = self.chance.choice([speaker, *self.heard])
            # A server is killed now and then, when its children have had some time.
            if self.heard.get(victim) != SERVER or self.chance.random() < 0.3:
                self.kill(victim)

    def stop_some(self) -> set[int]:
        """Stop up to STOPPED_LIMIT that claim; return their pids."""
        stopped: set[int] = set()
        for _ in range(self.chance.randrange(STOPPED_LIMIT + 1)):
            # It is not the process that has just spoken, which is not claiming at the moment.
            speaker = self.listen(block=True)
            others = [pid for pid in self.heard if pid != speaker and pid not in stopped]
            if others:
                pid = self.chance.choice(others)
                if self.send(pid, signal.SIGSTOP):
                    stopped.add(pid)
        return stopped

    def claim_the_rest(self, first_user: int) -> int:
        """Claim until nothing is left; return how many packets somebody holds then."""
        answers = self.world.envelope.claim_many(np.arange(first_user, first_user + self.world.packets + 1))
        self.figures["packets claimed after the storms"] += int((answers["status"] == Status.GRANTED).sum())
        demand(answers["status"][-1] == Status.SOLD_OUT, "an envelope is sold out when its packets are taken")
        return len(self.world.envelope.claims())

    def settle_the_storm(self) -> None:
        packets = self.world.packets
        stopped = self.stop_some()
        self.kill_all_but(stopped)
        while self.listen(block=False):
            pass
        in_hands = packets - self.claim_the_rest(1 << 61)
        threads = {SERVER: SERVER_THREADS, THREADS: CHILD_THREADS}
        hands = sum(threads.get(self.heard[pid], 1) for pid in stopped)
        demand(
            0 <= in_hands <= hands, f"{in_hands} packets are in the hands of {hands} living threads: none is stranded"
        )
        self.world.stop[0] = 1
        self.figures["claimers stopped"] += len(stopped)
        self.figures["packets in the hands of the stopped"] += in_hands
        for pid in stopped:
            self.send(pid, signal.SIGCONT)
        give_up_at = time.monotonic() + HANG_SECONDS
        while stopped & self.members().keys():
            self.listen(block=False)
            demand(time.monotonic() < give_up_at, "who was stopped goes on and ends: nothing hangs")
        while self.listen(block=False):
            pass
        held = self.claim_the_rest(1 << 62)
        demand(held == packets, f"{held} of {packets} packets can be claimed: none is stranded")
        self.check_the_books()

    def check_the_books(self) -> None:
        engine, envelope, terms = self.world.engine, self.world.envelope, self.world.envelope.terms
        claims = envelope.claims()
        demand(len(np.unique(claims["packet"])) == len(claims), "no packet is given twice")
        demand(len(distinct_users(claims)) == len(claims), "no user has two packets")
        amounts = hbcore.split(
            terms.total, terms.packets, terms.law, terms.min, terms.max, terms.concentration, terms.seed
        )
        demand((claims["amount"] == amounts[claims["packet"]]).all(), "every amount is what law and seed give")
        demand(claims["amount"].sum() == terms.total, "the packets sum to the total")
        told = np.concatenate(self.rows) if self.rows else np.empty(0, ROW)
        told = np.unique(told[["user", "packet", "amount"]])
        demand(len(np.unique(told["user"])) == len(told), "every answer to a user names the same packet")
        answers = envelope.claim_many(np.ascontiguousarray(told["user"]))
        demand((answers["status"] == Status.REPEATED).all(), "no claim that somebody was told of is lost")
        same = (answers["packet"] == told["packet"]) & (answers["amount"] == told["amount"])
        demand(same.all(), "what somebody was told stays as it was")
        report = engine.audit()
        demand(report.amount_granted == terms.total, "the audit finds every packet granted")
        self.figures["claims that were told of"] += len(told)

    def end(self) -> None:
        """Leave no process behind."""
        self.world.stop[0] = 1
        for pid in self.members():
            self.send(pid, signal.SIGCONT)
        self.kill_all_but(set())
        os.close(self.world.life_write)
        idle_failed = False
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            idle_failed |= pid in self.idle and status != 0
        self.figures["idle children that lived on"] += len(self.idle)
        demand(not idle_failed, "a child that never touches the engine ends as it likes")


def run_round(folder: Path, seed: int, number: int, memory: bool, kills: int, children_count: int) -> Counter[str]:
    figures: Counter[str] = Counter()
    round_seed = seed * 1_000_003 + number
    path = None if memory else folder / f"{number}.hb"
    world = World(hbcore.Engine(path), SIZES[number % len(SIZES)])
    controller = Controller(world, round_seed, children_count, figures)
    try:
        controller.storm(kills)
        controller.settle_the_storm()
    finally:
        controller.end()
        world.close()
    if path is not None:
        path.unlink()
    figures["rounds"] += 1
    figures["servers"] += len(controller.servers)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--memory", action="store_true", help="an engine in memory instead of a file")
    parser.add_argument("--children", type=int, default=4, help="of each server, besides the idle (default 4)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--round", type=int, default=0, help="the first round, to repeat what failed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    adopt_orphans()
    sys.setswitchinterval(0.0005)  # so that a thread which claims leaves the one that forks its turn
    totals: Counter[str] = Counter()
    number = options.round
    folder = Path(tempfile.mkdtemp(prefix="fork-storm-"))
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("kills", total=options.kills)
            while totals["kills"] < options.kills:
                kills = min(KILLS_A_ROUND, options.kills - totals["kills"])
                totals += run_round(folder, options.seed, number, options.memory, kills, options.children)
                progress.update(task, completed=totals["kills"])
                number += 1
    except PromiseBrokenError as error:
        print(f"a promise is broken: {error}")
        memory = " --memory" if options.memory else f", file kept in {folder}"
        print(f"seed {options.seed}, round {number}: --seed {options.seed} --round {number}{memory}")
        return 1
    folder.rmdir()
    print(f"seed: {options.seed}")
    print(f"engine: {'memory' if options.memory else 'file'}")
    for name in sorted(totals):
        print(f"{name}: {totals[name]:,}")
    print("every promise held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
