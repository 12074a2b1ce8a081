"""The workers of a storm, and the hand that kills, stops and continues them.

A worker follows a plan that was drawn from the seed. It writes what it is about to do into its pipe, does it, and
writes the answers together with its next intent; the intent is out before the call begins, and a write of up to
PIPE_BUF bytes arrives whole or not at all. So after a death it is known what was under way, and everything else was
answered.
"""

import contextlib
import ctypes
import fcntl
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import NamedTuple, Self

import numpy as np
import numpy.ma  # the first claim_many of an array imports it: once here, and not in every worker
from storm_model import RECORD, RECORD_FORMAT, RECORDS_AT_ONCE, Answer, Kind, Terms

import hbcore

clock = time.monotonic_ns
libc = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Place(NamedTuple):
    """An envelope that is there from the beginning, and who claims it: users of all workers, and of each its own.

    Where ``crowded`` is False the users and the calls that can be under way are fewer than the packets, and nobody may
    ever be told SOLD_OUT.
    """

    terms: Terms
    shared_users: int
    own_users: int
    own_users_crowded: int


PLACES = (
    Place(Terms("one", 100, 1), 2, 1, 1),
    Place(Terms("three", 300, 3, "equal"), 2, 1, 1),
    Place(Terms("a block", 6_400, 64), 7, 6, 12),
    Place(Terms("two hundred", 20_000, 200, "equal"), 14, 22, 44),
    Place(Terms("many", 300_000, 3000, "dirichlet"), 100, 300, 450),
)
MADE = len(PLACES)
"""From this number on envelopes are made by workers in the storm: number MADE + n is called ``made n``."""
MADE_SHARED_USERS = 4
MADE_PER_WORKER = 4
"""A worker makes envelopes from its own number * 4 on, so that those who live at one time make the same ones."""
MADE_SPAN = 16
OWN_USERS = 1000
"""Users of slot s of the crew begin at (s + 1) * 1000. A worker that was killed is replaced in the same slot."""
METHODS = {
    int(Kind.CLAIM): "claim",
    int(Kind.CLAIM_MANY): "claim_many",
    int(Kind.FIND): "find",
    int(Kind.SETTLE): "settle",
    int(Kind.RELEASE): "release",
    int(Kind.CLOSE): "close",
    int(Kind.STATS): "stats",
}
GROUPS = 600


def terms_of(number: int) -> Terms:
    """Return what envelope ``number`` is made with."""
    if number < MADE:
        return PLACES[number].terms
    packets = 1 + number % 5
    return Terms(f"made {number - MADE}", 100 * packets, packets)


def user_name(number: int, user: int) -> int | str:
    """Return how a user is called: by an int in every other envelope, by a str in the others."""
    return user if number % 2 == 0 else f"user {user}"


def users_of(number: int, crowded: bool, slots: int) -> list[int]:
    """Return all users that workers may claim for."""
    if number >= MADE:
        shared, own = MADE_SHARED_USERS, 1
    else:
        place = PLACES[number]
        shared, own = place.shared_users, place.own_users_crowded if crowded else place.own_users
    return [*range(shared), *(OWN_USERS * (slot + 1) + i for slot in range(slots) for i in range(own))]


def open_envelope(engine: hbcore.Engine, number: int) -> hbcore.Envelope:
    """Get or create envelope ``number``."""
    terms = terms_of(number)
    return engine.envelope(terms.name, total=terms.total, packets=terms.packets, law=terms.law)


# ---- what to ask ------------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Calls that are announced together, ``count`` steps of the plan: kind, envelope, step and users of each call."""

    first: int
    count: int
    calls: list


class Plan:
    """What a slot of the crew asks, group after group; each worker begins somewhere and goes round.

    ``kinds``, ``envelopes`` and ``users`` have a row for each step. The first steps close one of PLACES each, and are
    taken on demand only.
    """

    def __init__(self, seed: int, slot: int, crowded: bool) -> None:
        self.rng = random.Random(f"plan {seed} {slot} {crowded}")
        self.slot = slot
        self.crowded = crowded
        self.steps: list[tuple[int, int, int]] = []
        self.closing = [self.group([(Kind.CLOSE, number, None)]) for number in range(MADE)]
        writers = [self.single, self.batch, self.sweep, self.made, self.reading]
        drawn = self.rng.choices(writers, (20, 30, 35, 13, 2), k=GROUPS)
        self.groups = [self.group(writer()) for writer in drawn]
        self.kinds, self.envelopes, self.users = (
            np.array(column, np.int32) for column in zip(*self.steps, strict=True)
        )
        del self.steps

    def group(self, wanted: list[tuple[Kind, int, int | list[int] | None]]) -> Group:
        first = len(self.steps)
        calls = []
        for kind, number, who in wanted:
            users = who if isinstance(who, list) else [who]
            named: object = None
            if who is not None:
                named = [user_name(number, user) for user in users]
                if kind == Kind.CLAIM_MANY and number % 2 == 0:
                    named = np.array(users)
            # A plain int: the comparisons of an IntEnum would take longer than a claim.
            calls.append((int(kind), number, len(self.steps), named))
            self.steps += [(kind, number, -1 if user is None else user) for user in users]
        count = len(self.steps) - first
        assert count < RECORDS_AT_ONCE
        return Group(first, count, calls)

    def own(self, number: int) -> list[int]:
        place = PLACES[number]
        count = place.own_users_crowded if self.crowded else place.own_users
        return [OWN_USERS * (self.slot + 1) + i for i in range(count)]

    def single(self) -> list:
        """A few calls, one by one, here and there."""
        calls = []
        for number in self.rng.choices(range(MADE), (15, 15, 30, 20, 20), k=self.rng.randint(1, 12)):
            is_shared = self.rng.random() < 0.4
            user = self.rng.randrange(PLACES[number].shared_users) if is_shared else self.rng.choice(self.own(number))
            kind = self.rng.choices((Kind.CLAIM, Kind.RELEASE, Kind.FIND, Kind.SETTLE), (50, 33, 12, 5))[0]
            if kind == Kind.SETTLE and not self.may_settle(number, user):
                kind = Kind.FIND
            calls.append((kind, number, user))
        return calls

    def some(self, number: int, most: int) -> list[int]:
        """Neighbouring users of this worker's own."""
        own = self.own(number)
        start, count = self.rng.randrange(len(own)), self.rng.randint(2, min(most, len(own)))
        users = [own[(start + i) % len(own)] for i in range(count)]
        return [user for user in users if not self.may_settle(number, user)]

    def may_settle(self, number: int, user: int) -> bool:
        """What is settled is gone for good: only a few users of the larger envelopes ever are."""
        return PLACES[number].terms.packets >= 64 and user % OWN_USERS == 0 and self.slot % 2 == 0

    def batch(self) -> list:
        """Many users in one call, sometimes with users of everybody among them."""
        number = self.rng.choice((2, 3, 4, 4))
        users = self.some(number, 100)
        if self.rng.random() < 0.4:
            # Not user 0, who may be settled.
            shared = PLACES[number].shared_users
            users += self.rng.sample(range(1, shared), self.rng.randint(1, min(20, shared - 1)))
            self.rng.shuffle(users)
        return [(Kind.CLAIM_MANY, number, users)]

    def sweep(self) -> list:
        """Make one call for many users, one by one: mostly those claimed for in a batch give their packets back."""
        number = self.rng.choice((2, 3, 4, 4))
        users = self.some(number, 120)
        if self.rng.random() < 0.2:
            number, users = self.rng.choice((0, 1)), [OWN_USERS * (self.slot + 1), 0, 1]
            self.rng.shuffle(users)
            return [(kind, number, users) for kind in (Kind.RELEASE, Kind.CLAIM) * self.rng.randint(1, 15)]
        return [(self.rng.choices((Kind.RELEASE, Kind.CLAIM, Kind.FIND), (70, 20, 10))[0], number, users)]

    def made(self) -> list:
        """An envelope that may be new: made, claimed from, sometimes closed."""
        number = MADE + self.rng.randrange(MADE_SPAN)
        calls = [(Kind.CREATE, number, None)]
        for kind in self.rng.choices((Kind.CLAIM, Kind.RELEASE, Kind.FIND), (6, 3, 1), k=self.rng.randint(2, 8)):
            is_shared = self.rng.random() < 0.6
            user = self.rng.randrange(MADE_SHARED_USERS) if is_shared else OWN_USERS * (self.slot + 1)
            calls.append((kind, number, user))
        if self.rng.random() < 0.12:
            calls.append((Kind.CLOSE, number, None))
        return calls

    def reading(self) -> list:
        """Counts and proofs, while others go on."""
        return [(self.rng.choice((Kind.STATS, Kind.STATS, Kind.AUDIT)), self.rng.randrange(MADE), None)]


# ---- a worker ---------------------------------------------------------------------------------------------------

# Plain ints, because looking at an Enum takes as long as a claim.
CLAIM, CLAIM_MANY, RELEASE, CREATE, CLOSE, AUDIT = map(
    int, (Kind.CLAIM, Kind.CLAIM_MANY, Kind.RELEASE, Kind.CREATE, Kind.CLOSE, Kind.AUDIT)
)
HELD, RELEASED, NONE, CONFLICT = map(int, (Answer.HELD, Answer.RELEASED, Answer.NONE, Answer.CONFLICT))

STOPPING, CLOSING, DELAY, FUSES = range(4)
"""Bytes that a crew shares: not 0 when the workers are to end; 1 + the number of an envelope that all are to close; how
long it takes to set a timer, in units of 250 ns; from FUSES on one for each slot, whose worker is to stop itself in the
middle of its next call."""

LONGEST_NS = {
    **dict.fromkeys(METHODS, 1_500),
    CLAIM_MANY: 1_000,
    CLOSE: 30_000,
    int(Kind.STATS): 30_000,
    CREATE: 25_000,
    AUDIT: 300_000,
}
"""About how long a call takes at most, besides the time for each user; a fuse burns for a part of that."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that comes about."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Fuse:
    """A timer that stops this process in the middle of a call: to the microsecond, wherever it then stands."""

    def __init__(self, orders: memoryview, slot: int) -> None:
        self.orders = orders
        self.place = FUSES + slot
        self.rng = random.Random(os.getpid())
        self.timer = ctypes.c_void_p()
        event = struct.pack("=qii48x", 0, signal.SIGSTOP, 0)  # a struct sigevent: SIGEV_SIGNAL is 0
        if libc.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(self.timer)) != 0:
            raise OSError("cannot make a timer")

    def light(self, kind: int, count: int) -> None:
        """Stop this process in the call that comes now, of so many users, if that was ordered."""
        # Rather a long call, which is inside hbcore for most of its time.
        if self.orders[self.place] and (count > 10 or kind == CLOSE or self.rng.random() < 0.05):
            self.orders[self.place] = 0
            # The call begins when the timer has been set, which takes microseconds, on some machines many.
            after = self.orders[DELAY] * 250 + self.rng.randrange(
                1, LONGEST_NS[kind] + (100 if kind == CLAIM_MANY else 250) * count
            )
            libc.timer_settime(self.timer, 0, struct.pack("=qqqq", 0, 0, 0, after), None)


class Voice:
    """A worker's end of its pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.buffer = bytearray(RECORDS_AT_ONCE * RECORD.itemsize)
        self.view = memoryview(self.buffer)
        self.pack = struct.Struct(RECORD_FORMAT).pack_into
        self.size = 0

    def add(self, began: int, ended: int, step: int, packet: int, amount: int, answer: int, cpu_us: int = 0) -> None:
        self.pack(self.buffer, self.size, began, ended, step, packet, amount, answer, 0, min(cpu_us, 65_535))
        self.size += 32

    def add_batch(self, began: int, ended: int, step: int, claims: np.ndarray) -> None:
        """Add the answers of a ``claim_many``."""
        rows = np.zeros(len(claims), RECORD)
        rows["began"], rows["ended"], rows["step"] = began, ended, np.arange(step, step + len(claims))
        rows["packet"], rows["amount"], rows["answer"] = claims["packet"], claims["amount"], claims["status"]
        raw = rows.tobytes()
        self.buffer[self.size : self.size + len(raw)] = raw
        self.size += len(raw)

    def say(self) -> None:
        """Write all of it at once: it is at most PIPE_BUF bytes."""
        os.write(self.fd, self.view[: self.size])
        self.size = 0


class Asker:
    """A worker at work: its engine, and the envelopes that it has opened."""

    def __init__(self, engine: hbcore.Engine, number: int, fuse: Fuse, measures_cpu: bool) -> None:
        self.engine = engine
        self.fuse = fuse
        self.made_base = MADE_PER_WORKER * number
        self.measures_cpu = measures_cpu
        self.methods: dict[tuple[int, int], object] = {}
        self.envelopes: dict[int, hbcore.Envelope] = {}
        for place in range(MADE):
            self.open(place)

    def open(self, number: int) -> None:
        envelope = self.envelopes[number] = open_envelope(self.engine, number)
        for kind, name in METHODS.items():
            self.methods[kind, number] = getattr(envelope, name)

    def follow(self, group: Group, voice: Voice) -> None:
        """Make the calls of a group and keep their answers in ``voice``."""
        for kind, place, step, users in group.calls:
            number = place if place < MADE else place + self.made_base
            self.fuse.light(kind, 1 if users is None else len(users))
            if kind == CLAIM_MANY:
                method = self.methods[kind, number]
                began = clock()
                claims = method(users)
                voice.add_batch(began, clock(), step, claims)
            elif users is None:
                began = clock()
                if kind == CREATE:
                    self.open(number)
                elif kind == AUDIT:
                    self.engine.audit()
                else:
                    self.methods[kind, number]()
                voice.add(began, clock(), step, -1, 0, Answer.DONE)
            elif len(users) == 1:
                self.ask(kind, number, step, users[0], voice)
            else:
                self.ask_each(kind, number, step, users, voice)

    def ask(self, kind: int, number: int, step: int, user: int | str, voice: Voice) -> None:
        """Make one call about one user, with its times."""
        method = self.methods[kind, number]
        if kind == CLAIM:
            used = time.thread_time_ns() if self.measures_cpu else 0
            began = clock()
            claim = method(user)
            ended = clock()
            cpu_us = (time.thread_time_ns() - used) // 1000 if used else 0
            voice.add(began, ended, step, claim.packet, claim.amount, claim.status, cpu_us)
            return
        answer = RELEASED if kind == RELEASE else HELD
        began = clock()
        try:
            claim = method(user)
        except hbcore.ConflictError:
            claim = self.envelopes[number].find(user)
            answer = CONFLICT
        ended = clock()
        if claim is None:
            voice.add(began, ended, step, -1, 0, NONE if answer != CONFLICT else answer)
        else:
            voice.add(began, ended, step, claim.packet, claim.amount, answer)

    def ask_each(self, kind: int, number: int, step: int, users: list, voice: Voice) -> None:
        """Make the same call for many users, one by one and with as little as possible in between.

        The answers are taken apart when all calls are made, and have the times of all of them together.
        """
        began = clock()
        claims = list(map(self.methods[kind, number], users))
        ended = clock()
        pack, buffer, size = voice.pack, voice.buffer, voice.size
        answer = RELEASED if kind == RELEASE else HELD
        for claim in claims:
            if claim is None:
                pack(buffer, size, began, ended, step, -1, 0, NONE, 0, 0)
            else:
                says = claim.status if kind == CLAIM else answer
                pack(buffer, size, began, ended, step, claim.packet, claim.amount, says, 0, 0)
            step += 1
            size += 32
        voice.size = size


def work(
    plan: Plan, number: int, offset: int, engine: hbcore.Engine | str, fd: int, orders: memoryview, measures_cpu: bool
) -> None:
    """Run a worker until it is told to end; ``engine`` is one that the parent has opened, or the path of its file."""
    voice = Voice(fd)
    fuse = Fuse(orders, plan.slot)
    asker = Asker(hbcore.Engine(engine) if isinstance(engine, str) else engine, number, fuse, measures_cpu)
    has_closed = False
    for group in islice(cycle(plan.groups), offset, None):
        if orders[STOPPING]:
            break
        if orders[CLOSING] and not has_closed:
            group = plan.closing[orders[CLOSING] - 1]
            has_closed = True
        voice.add(clock(), 0, group.first, group.count, 0, Answer.INTENT)
        voice.say()
        asker.follow(group, voice)
    if voice.size:
        voice.say()
    if number % 2:
        asker.engine.close()


class Worker:
    """A worker as its parent knows it."""

    def __init__(self, slot: int, number: int, pid: int, fd: int) -> None:
        self.slot = slot
        self.number = number  # in the order of birth
        self.pid = pid
        self.fd = fd
        self.told: list[bytes] = []
        self.is_stopped = False
        self.is_doomed = False
        self.asked_to_stop = False
        self.lit = 0  # when its fuse was lit
        self.stops: list[list[int]] = []  # [asked to stop, continued]
        self.died = 0
        try:
            self.syscall_fd = os.open(f"/proc/{pid}/syscall", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.syscall_fd = -1  # not every kernel tells where a process stands

    def hear(self) -> int:
        """Read what the worker has told; return how many bytes that were."""
        heard = 0
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self.fd, 1 << 20):
                self.told.append(said)
                heard += len(said)
        return heard

    def records(self) -> np.ndarray:
        return np.frombuffer(b"".join(self.told), RECORD)


class WorkerFault(Exception):
    """A worker ended without having been killed or told to."""


class Crew:
    """Workers in numbered slots, all children of this process. Whatever happens, leaving the context ends them all."""

    def __init__(
        self, plans: list, engine: hbcore.Engine | str, orders: memoryview, rng: random.Random, work: Callable = work
    ) -> None:
        self.plans = plans
        self.work = work
        self.engine = engine
        self.orders = orders
        self.rng = rng
        self.living: dict[int, Worker] = {}  # by process id
        self.dead: list[Worker] = []
        self.born = 0
        self.stops = 0
        self.kills = 0
        self.fault_read, self.fault_write = os.pipe()
        orders[DELAY] = 32

    def __enter__(self) -> Self:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.living.values():
            os.kill(worker.pid, signal.SIGKILL)
        for worker in self.living.values():
            os.waitpid(worker.pid, 0)

    def bear(self, slot: int) -> Worker:
        """Fork a worker into a slot that is empty."""
        number = self.born
        offset = self.rng.randrange(GROUPS)
        read, write = os.pipe()
        # Small, so that a crew cannot be far ahead of whoever listens to it.
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 4 * 4096)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                die_with_parent(parent)
                os.nice(5)  # who has to kill in time goes first
                self.work(self.plans[slot], number, offset, self.engine, write, self.orders, measures_cpu=slot == 0)
                status = 0
            except BaseException:
                lines = traceback.format_exc().splitlines()
                os.write(self.fault_write, "\n".join([lines[-1], *lines])[:4000].encode())
            finally:
                os._exit(status)
        os.close(write)
        os.set_blocking(read, False)
        self.born += 1
        self.living[pid] = worker = Worker(slot, number, pid, read)
        return worker

    def fault(self) -> str:
        """Return what a worker that failed has written."""
        os.set_blocking(self.fault_read, False)
        with contextlib.suppress(BlockingIOError):
            return os.read(self.fault_read, 1 << 16).decode()
        return "it said nothing"

    def kill(self, worker: Worker) -> None:
        if not worker.is_doomed:
            os.kill(worker.pid, signal.SIGKILL)
            worker.is_doomed = True
            self.kills += 1

    def stop(self, worker: Worker) -> None:
        worker.stops.append([clock(), sys.maxsize])
        worker.asked_to_stop = True
        os.kill(worker.pid, signal.SIGSTOP)
        self.stops += 1

    def light(self, worker: Worker) -> None:
        """Have a worker stop itself in the middle of its next call."""
        worker.lit = clock()
        self.orders[FUSES + worker.slot] = 1

    def correct_delay(self, was_early: bool) -> None:
        """Learn from where a fuse has stopped a worker: one in five shall stop it too early, before its call begins."""
        self.orders[DELAY] = min(255, max(0, self.orders[DELAY] + (4 if was_early else -1)))

    def go_on(self, worker: Worker) -> None:
        worker.is_stopped = worker.asked_to_stop = False
        worker.stops[-1][1] = clock()
        os.kill(worker.pid, signal.SIGCONT)

    def wait_for(self, seconds: float) -> None:
        """Let a random time pass, or less if a child dies or stops meanwhile."""
        signal.sigtimedwait({signal.SIGCHLD}, seconds)

    def news(self, pid: int = -1, flags: int = os.WNOHANG) -> Iterator[Worker]:
        """Yield the children that have died or have just been stopped; the dead are no longer among the living."""
        while self.living:
            found, status = os.waitpid(pid, flags | os.WUNTRACED)
            if found == 0:
                return
            worker = self.living[found]
            if os.WIFSTOPPED(status):
                worker.is_stopped = True
                if not worker.asked_to_stop:
                    worker.asked_to_stop = True
                    worker.stops.append([worker.lit, sys.maxsize])
                    worker.lit = 0
                    self.stops += 1
            else:
                worker.died = clock()
                worker.hear()
                os.close(worker.fd)
                if worker.syscall_fd >= 0:
                    os.close(worker.syscall_fd)
                del self.living[found]
                self.dead.append(worker)
                was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and worker.is_doomed
                if not was_killed and not (status == 0 and self.orders[STOPPING]):
                    raise WorkerFault(f"worker {worker.number} ended with wait status {status}: {self.fault()}")
            yield worker
            if pid != -1:
                return
