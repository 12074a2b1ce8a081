"""Forks, and everything else that makes processes: each of them is a worker of its own, and its death nobody else's.

A process that is killed leaves packets in its hands. Whoever is alive can have them, however the dead one was related
to the living; and nobody can have what a living process holds, stopped or not, whoever its parent was.
``fork_storm.py`` mixes all of it at random; here each relation stands alone.
"""

import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import (
    HANG_SECONDS,
    PACKETS,
    Child,
    RunPython,
    Say,
    adopt_orphans,
    check_granted,
    check_sold_out,
    claim_for_ever,
    claim_in_threads,
    claim_some,
    claim_the_rest,
    claiming,
    make_slow_envelope,
    run_as_child,
    shared_byte,
    wait,
    wait_for_claims,
)
from marks import full_but
from running import run_script

import hbcore

SCRIPT = Path(__file__).parent / "fork_storm.py"


@pytest.fixture(autouse=True)
def short_turns() -> Iterator[None]:
    """Threads that claim with the GIL leave the one that forks its turn."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def orphans() -> Iterator[None]:
    """Orphans of this process's children become its own children."""
    adopt_orphans()
    yield
    adopt_orphans(False)


@pytest.fixture
def life() -> Iterator[tuple[int, int, list[int]]]:
    """A pipe at whose end bystanders go, and a list for their pids: all of them are gone in the end."""
    read, write = os.pipe()
    pids: list[int] = []
    yield read, write, pids
    os.close(read)
    os.close(write)
    assert [wait(pid) for pid in pids] == [0] * len(pids)


# ---- parents that die first -----------------------------------------------------------------------------------------


def fork_and_claim(envelope: hbcore.Envelope, say: Say, ended: mmap.mmap) -> None:
    """Fork, tell who the child is, and claim; the child claims as well and tells in the end what it was granted."""
    pid = os.fork()
    if pid:
        say(pid)
        claim_in_threads(envelope)
        signal.pause()
    signal.alarm(HANG_SECONDS)
    granted = []
    user = 1 << 55
    while not ended[0]:
        packets = envelope.claim_many(np.arange(user, user + 5000))["packet"]
        granted += [(user + i, int(packets[i])) for i in np.flatnonzero(packets >= 0).tolist()]
        user += 5000
    say(granted)


def fork_within_a_claim(envelope: hbcore.Envelope, say: Say, ended: mmap.mmap) -> None:
    """The reading of users forks here: parent and child go on in one and the same call."""
    pids = []

    class First:
        def __index__(self) -> int:
            if not pids:
                pids.append(os.fork())
                if pids[0]:
                    say(pids[0])
            return 1 << 55

    users = range(1 << 55, (1 << 55) + PACKETS)
    packets = envelope.claim_many([First(), *users[1:]])["packet"].tolist()
    if pids[0]:
        signal.pause()
    say([(user, packet) for user, packet in zip(users, packets, strict=True) if packet >= 0])


@pytest.mark.full
@pytest.mark.usefixtures("orphans")
@pytest.mark.parametrize("parent_work", full_but([fork_and_claim, fork_within_a_claim], fork_and_claim))
def test_an_orphan_keeps_what_it_holds_and_its_dead_parent_does_not(
    engine: hbcore.Engine, parent_work: Callable[[hbcore.Envelope, Say, mmap.mmap], None]
) -> None:
    """Parent and child both claim; the child is stopped and the parent killed, each wherever it happens to be."""
    rounds_with_a_hold = 0
    for number in range(100):
        envelope = make_slow_envelope(engine, f"e{number}")
        ended = shared_byte()
        parent = Child(lambda say, envelope=envelope, ended=ended: parent_work(envelope, say, ended))
        orphan = parent.hear()
        wait_for_claims(envelope)
        os.kill(orphan, signal.SIGSTOP)
        try:
            os.kill(parent.pid, signal.SIGKILL)
            assert wait(parent.pid) == -signal.SIGKILL
            assert os.WIFSTOPPED(os.waitpid(orphan, os.WUNTRACED)[1]), "the orphan is this process's child by now"
            in_hands = PACKETS - claim_the_rest(envelope)
            assert in_hands <= 1, f"{in_hands - 1} packets that the dead parent held are stranded"
            rounds_with_a_hold += in_hands
        finally:
            ended[0] = 1
            os.kill(orphan, signal.SIGCONT)
            with parent.pipe:
                granted = [tuple(row) for row in parent.hear()]
            assert wait(orphan) == 0
        check_sold_out(envelope)
        check_granted(envelope, granted)
        engine.audit()
        if number >= 3 and rounds_with_a_hold:
            return
    pytest.fail("in a hundred rounds the orphan was never stopped while it held a packet")


def by_fork(life: int) -> int:
    pid = os.fork()
    if pid == 0:
        run_as_child(lambda: os.read(life, 1))
    return pid


def by_fork_of_a_thread(life: int) -> int:
    pids: list[int] = []
    thread = threading.Thread(target=lambda: pids.append(by_fork(life)))
    thread.start()
    thread.join()
    return pids[0]


def by_double_fork(life: int) -> int:
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        pid = by_fork(life)
        os.write(write, str(pid).encode())
        os._exit(0)
    os.waitpid(middle, 0)
    return int(os.read(read, 100))


def by_forkpty(life: int) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the child's terminal goes with the parent
    pid, _ = os.forkpty()
    if pid == 0:
        run_as_child(lambda: os.read(life, 1))
    return pid


def by_subprocess(life: int, **options: Any) -> int:
    return subprocess.Popen(["cat"], stdin=life, stdout=subprocess.DEVNULL, **options).pid


def by_posix_spawn(life: int) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, life, 0)]
    return os.posix_spawnp("cat", ["cat"], os.environ, file_actions=actions)


def by_multiprocessing(life: int) -> int:
    process = multiprocessing.get_context("fork").Process(target=os.read, args=(life, 1))
    process.start()
    assert process.pid is not None
    return process.pid


BYSTANDERS = {
    "fork": by_fork,
    "fork of a thread": by_fork_of_a_thread,
    "double fork": by_double_fork,
    "forkpty": by_forkpty,
    "subprocess": by_subprocess,
    "subprocess that keeps descriptors": lambda life: by_subprocess(life, close_fds=False),
    "subprocess with preexec_fn": lambda life: by_subprocess(life, preexec_fn=os.getpid),
    "posix_spawn": by_posix_spawn,
    "multiprocessing": by_multiprocessing,
}


@pytest.mark.full
@pytest.mark.usefixtures("orphans")
@pytest.mark.parametrize("bystander", full_but(BYSTANDERS, "fork", "fork of a thread"))
def test_a_child_that_never_touches_the_engine_does_not_keep_its_dead_parent_alive(
    engine: hbcore.Engine, life: tuple[int, int, list[int]], bystander: str
) -> None:
    start = BYSTANDERS[bystander]
    life_read, life_write, pids = life
    for number in range(3):
        envelope = make_slow_envelope(engine, f"e{number}")

        def parent_work(say: Say, envelope: hbcore.Envelope = envelope) -> None:
            os.close(life_write)
            before = start(life_read)
            claim_in_threads(envelope)
            say([before, start(life_read)])
            signal.pause()

        parent = Child(parent_work)
        pids += parent.hear()
        wait_for_claims(envelope)
        parent.kill()
        claim_the_rest(envelope)
        assert [os.waitpid(pid, os.WNOHANG) for pid in pids] == [(0, 0)] * len(pids), "they live on"
        check_sold_out(envelope)
    engine.audit()


@pytest.mark.full
def test_what_a_killed_child_held_can_be_claimed_by_its_parent(engine: hbcore.Engine) -> None:
    for number in range(8):
        envelope = make_slow_envelope(engine, f"e{number}")

        def work(_: Say, envelope: hbcore.Envelope = envelope) -> None:
            claim_in_threads(envelope)
            signal.pause()

        child = Child(work)
        wait_for_claims(envelope)
        child.kill()
        claim_the_rest(envelope)
        check_sold_out(envelope)
    engine.audit()


# ---- forks while others claim ---------------------------------------------------------------------------------------


@pytest.mark.full
def test_children_are_forked_while_threads_claim(engine: hbcore.Engine) -> None:
    """Of twelve children every third is killed; the others claim, one by one, in batches and in threads."""
    envelope = engine.envelope("e", PACKETS * 10, PACKETS)

    def work(say: Say, number: int) -> None:
        first = (number + 100) << 40
        if number % 3 == 0:
            say([])
            claim_for_ever(envelope, first)
        elif number % 3 == 1:
            say(claim_some(envelope, first))
        else:
            results: list[tuple[int, int]] = []
            threads = [
                threading.Thread(target=lambda i=i: results.extend(claim_some(envelope, first + i * 1000)))
                for i in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            say(results)

    with claiming(envelope) as granted:
        children = [Child(lambda say, number=number: work(say, number)) for number in range(12)]
        said = [child.hear() for child in children]
        for number, child in enumerate(children):
            if number % 3 == 0:
                child.kill()
            else:
                child.end()
                granted.extend(map(tuple, said[number]))
    check_granted(envelope, granted)
    claim_the_rest(envelope)
    check_sold_out(envelope)
    engine.audit()


SPAWNERS: dict[str, Callable[[], int]] = {
    "subprocess": lambda: subprocess.run(["true"], check=False).returncode,
    "subprocess that keeps descriptors": lambda: subprocess.run(["true"], close_fds=False, check=False).returncode,
    "subprocess with preexec_fn": lambda: subprocess.run(["true"], preexec_fn=os.getpid, check=False).returncode,
    "posix_spawn": lambda: wait(os.posix_spawnp("true", ["true"], os.environ)),
    "system": lambda: os.system("true"),
    "vfork that cannot exec": lambda: not_found(),
}


def not_found() -> int:
    with pytest.raises(FileNotFoundError):
        subprocess.run(["/nowhere/at/all"], check=False)
    return 0


@pytest.mark.parametrize("spawner", full_but(SPAWNERS, "subprocess", "posix_spawn"))
def test_programs_are_started_while_threads_claim(engine: hbcore.Engine, spawner: str) -> None:
    envelope = engine.envelope("e", PACKETS * 10, PACKETS)
    with claiming(envelope) as granted:
        assert [SPAWNERS[spawner]() for _ in range(8)] == [0] * 8
    check_granted(envelope, granted)
    claim_the_rest(envelope)
    check_sold_out(envelope)
    engine.audit()


@pytest.mark.full
def test_children_are_forked_while_threads_open_and_close_engines(path: Path) -> None:
    """A child opens engines as well: no lock that another thread of its parent held may be in its way."""
    ended = threading.Event()

    def open_and_close() -> None:
        while not ended.is_set():
            with hbcore.Engine(path) as engine, hbcore.Engine():
                engine.envelope("e", 10**6, 10**5)

    def work(say: Say) -> None:
        with hbcore.Engine(path) as engine, hbcore.Engine() as memory:
            say([engine.envelope("e", 10**6, 10**5).claim(os.getpid()).packet, memory.audit().packets])

    threads = [threading.Thread(target=open_and_close) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        said = [Child(work).end() for _ in range(60)]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert all(answer[0][1] == 0 for answer in said)
    with hbcore.Engine(path) as engine:
        assert engine.audit().granted == len({answer[0][0] for answer in said}) == 60


def test_no_call_imports_anything(run_python: RunPython, path: Path) -> None:
    """A child that is forked while another thread is in the middle of an import can never do that import itself."""
    program = """if 1:
        import pickle, sys, numpy as np, hbcore
        before = set(sys.modules)
        for path in (None, sys.argv[1]):
            engine = hbcore.Engine(path)
            envelope = engine.envelope("e", 1000, 100)
            users = [["a", b"b", 3], np.arange(9), np.array(["u"]), np.array([b"v"]), np.array([1, "x"], object)]
            for some in users:
                envelope.claim_many(some)
            envelope.claim("a"), envelope.find("a"), envelope.settle("a"), envelope.release("u")
            envelope.claims(), envelope.stats(), envelope.close(), envelope.terms, engine.envelopes(), engine.audit()
            path and pickle.loads(pickle.dumps(envelope))
        print(sorted(set(sys.modules) - before))
    """
    assert run_python(program, path).stdout == "[]\n"


@pytest.mark.full
@pytest.mark.parametrize("options", [(), ("--memory",)], ids=["file", "memory"])
def test_forks_under_load(options: tuple[str, ...]) -> None:
    """The short form of fork_storm.py."""
    run_script(SCRIPT, "--kills", 120, "--seed", 20, *options, timeout=300)
