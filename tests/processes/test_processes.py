"""Processes as deployments make them: multiprocessing, daemons, dropped privileges, a full worker table, and ends."""

import contextlib
import fcntl
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import pytest
from children import (
    HANG_SECONDS,
    PACKETS,
    Child,
    Granted,
    RunPython,
    Say,
    check_granted,
    check_sold_out,
    claim_and_tell,
    claim_the_rest,
    claiming,
    wait,
)
from marks import full_but

import hbcore
from hbcore import Status

HERE = Path(__file__).resolve().parent

# ---- multiprocessing ------------------------------------------------------------------------------------------------


def use_multiprocessing(method: str, path: str | None) -> None:
    """Claim in four processes, every other of which is killed; run in a process of its own."""
    signal.alarm(HANG_SECONDS)
    context = multiprocessing.get_context(method.split()[0])
    if method.endswith("preload"):
        os.environ["PYTHONPATH"] += os.pathsep + str(HERE)
        os.environ |= {"HBCORE_FILE": str(path), "HBCORE_PACKETS": str(PACKETS)}
        context.set_forkserver_preload(["server_app"])
    engine = hbcore.Engine(path)
    envelope = engine.envelope("20:00", PACKETS * 10, PACKETS)
    given = None if method.endswith("preload") else envelope
    processes = []
    granted: Granted = []
    with claiming(envelope) as granted_here:
        for number in range(4):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=claim_and_tell, args=(given, number, there), daemon=True)
            process.start()
            there.close()
            processes.append((process, here))
        for number, (process, here) in enumerate(processes):
            granted += here.recv()
            if number % 2 == 0:
                process.kill()
        for number, (process, _) in enumerate(processes):
            process.join()
            assert process.exitcode == (0 if number % 2 else -signal.SIGKILL)
    granted += granted_here
    check_granted(envelope, [(user, packet) for user, packet in granted if packet >= 0])
    claim_the_rest(envelope)
    check_sold_out(envelope)
    engine.audit()


@pytest.mark.full
@pytest.mark.parametrize(
    "method", full_but(["fork", "fork in memory", "spawn", "forkserver", "forkserver with preload"], "fork", "spawn")
)
def test_multiprocessing(run_python: RunPython, path: Path, method: str) -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_processes; test_processes.use_multiprocessing"
    where = None if method == "fork in memory" else str(path)
    run_python(f"{program}({method!r}, {where!r})", HERE)


# ---- beginnings and ends --------------------------------------------------------------------------------------------


def test_a_child_that_ends_like_any_program_leaves_the_engine_as_it_is(run_python: RunPython, path: Path) -> None:
    """Both unwind their stacks, run their exit handlers and free what they have: the child frees its own only."""
    program = r"""if 1:
        import os, sys, hbcore
        for path in (None, sys.argv[1]):
            with hbcore.Engine(path) as engine:
                envelope = engine.envelope("e", 1000, 100)
                envelope.claim("parent")
                pid = os.fork()
                os.write(1, envelope.claim("child" if pid == 0 else "later").status.name.encode() + b"\n")
                if pid == 0:
                    break
                assert os.waitpid(pid, 0)[1] == 0
                os.write(1, f"{envelope.claim('at last').status.name} {engine.audit().granted}\n".encode())
        else:
            sys.exit(0)
        del envelope, engine
        os.write(1, b"the child ends\n")
    """
    lines = run_python(program, path).stdout.splitlines()
    assert sorted(lines) == sorted(2 * ["GRANTED", "GRANTED", "the child ends", "GRANTED 4"])


def test_an_engine_that_was_closed_before_the_fork_stays_closed(engine: hbcore.Engine) -> None:
    envelope = engine.envelope("e", 100, 10)
    engine.close()

    def work(say: Say) -> None:
        for call in (lambda: envelope.claim(1), lambda: envelope.claim_many([1]), engine.audit, envelope.stats):
            with pytest.raises(hbcore.EngineClosedError):
                call()
        with hbcore.Engine(engine.path) as anew:
            say(anew.envelope("e", 100, 10).claim("u").status)

    assert Child(work).end() == [Status.GRANTED]


def test_closing_is_each_process_s_own(engine: hbcore.Engine) -> None:
    envelope = engine.envelope("e", 100, 10)
    read, write = os.pipe()

    def work(say: Say) -> None:
        os.close(write)
        say(envelope.claim("child").status)
        os.read(read, 1)
        say(envelope.claim("after the parent's close").status)
        engine.close()
        with pytest.raises(hbcore.EngineClosedError):
            envelope.claim("after its own")
        say("closed")

    def close_at_once(say: Say) -> None:
        os.close(write)
        engine.close()
        say("closed")

    assert Child(close_at_once).end() == ["closed"]
    child = Child(work)
    assert child.hear() == Status.GRANTED
    assert envelope.claim("parent").status is Status.GRANTED
    engine.close()
    os.close(write)
    os.close(read)
    assert child.end() == [Status.GRANTED, "closed"]


def test_an_envelope_finds_its_engine_again_in_a_child(path: Path) -> None:
    """A pickled envelope uses the engine that the child inherited, and another mapping where there is none."""
    engine = hbcore.Engine(path)
    envelope = engine.envelope("e", 100, 10)
    pickled = pickle.dumps(envelope)

    def work(say: Say) -> None:
        maps = Path("/proc/self/maps").read_text().count(str(path))
        say(pickle.loads(pickled).claim("u").status)
        assert Path("/proc/self/maps").read_text().count(str(path)) == maps
        engine.close()
        say(pickle.loads(pickled).claim("u").status)

    assert Child(work).end() == [Status.GRANTED, Status.REPEATED]


# ---- what deployments do --------------------------------------------------------------------------------------------


def test_a_daemon_that_closes_all_descriptors_touches_no_file_but_the_engine_s(
    engine: hbcore.Engine, path: Path
) -> None:
    """Daemons fork twice, close whatever is open and open files of their own, which get the same numbers.

    The engine may go on, or say what is wrong; it must not take a stranger's file for its own.
    """
    envelope = engine.envelope("e", 100, 100)
    envelope.claim("parent")

    def work(_: Say) -> None:
        os.setsid()
        pid = os.fork()
        if pid:
            os._exit(wait(pid))
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        logs = [path.with_name(f"log {i}") for i in range(20)]
        files = [open(log, "w+") for log in logs]  # noqa: SIM115
        calls = (lambda: envelope.claim("child"), lambda: engine.envelope("f", 10**6, 10**5).claim("child"))
        for call in calls:
            with contextlib.suppress(OSError, hbcore.HbcoreError):
                assert call().status is Status.GRANTED
        assert [os.fstat(file.fileno()).st_size for file in files] == [0] * 20, "the engine has grown another's file"
        for log in logs:
            with open(log, "r+") as again:
                fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if the engine has locked a part of it

    assert Child(work).end() == []
    assert engine.audit().envelopes <= 2


def test_a_child_that_drops_its_privileges(engine: hbcore.Engine) -> None:
    """It may not become a worker of a 0600 file any more. It says so; and it goes on if it was one before."""
    if os.geteuid() != 0:
        pytest.skip("only root can drop privileges")
    envelope = engine.envelope("e", 100, 100)

    def drop() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    def registers_late(say: Say) -> None:
        drop()
        if engine.path is not None:
            with pytest.raises(PermissionError) as caught:
                envelope.claim("late")
            say(str(caught.value))
        else:
            say(envelope.claim("late").status)

    def registers_first(say: Say) -> None:
        envelope.find("anybody")
        drop()
        say([envelope.claim("first").status, engine.envelope("f", 10**7, 10**5).claim(1).status])

    (said,) = Child(registers_late).end()
    if engine.path is not None:
        assert engine.path in said, "the message names the file that may not be opened"
    assert (envelope.find("late") is None) == (engine.path is not None)
    assert Child(registers_first).end() == [[Status.GRANTED, Status.GRANTED]]
    engine.audit()


@pytest.mark.full
def test_a_full_worker_table_has_room_again_when_a_process_is_killed(path: Path) -> None:
    """Eight processes hold the 1,024 entries. A forked child is told; the others go on; a death makes room."""
    with hbcore.Engine(path, capacity=1 << 20) as engine:  # the first entry
        envelope = engine.envelope("e", 10_000, 1000)

        def hold(say: Say, count: int) -> None:
            engines = [hbcore.Engine(path) for _ in range(count)]
            say(len(engines))
            signal.pause()

        holders = [Child(lambda say, count=127 if number else 134: hold(say, count)) for number in range(8)]
        assert [holder.hear() for holder in holders] == [134] + [127] * 7
        go_read, go_write = os.pipe()

        def work(say: Say) -> None:
            for call in (lambda: envelope.claim("late"), lambda: envelope.claim_many(["late"]), engine.audit):
                with pytest.raises(hbcore.EngineFullError, match="all 1024 entries of the engine's worker table"):
                    call()
            with pytest.raises(hbcore.EngineFullError):
                hbcore.Engine(path)
            say("full")
            os.read(go_read, 1)
            say(envelope.claim("late").status)

        late = Child(work)
        assert late.hear() == "full"
        assert envelope.claim("parent").status is Status.GRANTED
        holders.pop().kill()
        os.write(go_write, b"!")
        assert late.end() == [Status.GRANTED]
        for holder in holders:
            holder.kill()
        assert engine.audit().granted == 2
        os.close(go_read)
        os.close(go_write)
