"""Containers with time namespaces of their own on one file: a claim expires for all of them at the same moment."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from controlled_clock import COMPILER
from engine_files import reboot
from running import environment
from test_clock import HOLD_S, STEADY_S, Machine, library

from hbcore._file.namespace import INITIAL, boot_offset_ms, time_namespace

__all__ = ["library"]  # a fixture
AHEAD_S = 1_000_000
UNSHARE = ["unshare", "--time", "--fork", "--boottime", str(AHEAD_S)]


def why_not() -> str:
    """Return why no time namespace can be made here, or nothing."""
    if COMPILER is None:
        return "there is no C compiler"
    if shutil.which("unshare") is None:
        return "there is no unshare of util-linux"
    result = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else f"no time namespaces here: {result.stderr.strip()}"


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it can be done")


@pytest.fixture
def start(tmp_path: Path, library: Path) -> Iterator[Callable[[bool], Machine]]:
    """Start processes on one file, in a namespace of their own or not; all their clocks are moved together."""
    with ExitStack() as stack:

        def start(is_apart: bool) -> Machine:
            machine = Machine(tmp_path, library, UNSHARE if is_apart else ())
            stack.callback(machine.end)
            return machine

        yield start


def test_the_clocks_differ(start: Callable[[bool], Machine]) -> None:
    ahead_s = start(True).ask("times")[1] - start(False).ask("times")[1]
    assert round(ahead_s / STEADY_S) == round(AHEAD_S / STEADY_S)


def test_the_offset_is_told() -> None:
    source = "from hbcore._file.namespace import *; print(time_namespace(), boot_offset_ms())"
    command = [*UNSHARE, sys.executable, "-c", source]
    inside = subprocess.run(command, env=environment(), capture_output=True, check=True)
    number, ahead_ms = map(int, inside.stdout.split())
    assert number not in (0, INITIAL, time_namespace())
    assert ahead_ms - boot_offset_ms() == AHEAD_S * 1000


@pytest.mark.parametrize("is_apart", [False, True], ids=["made outside", "made inside"])
def test_a_claim_expires_at_the_same_moment_for_all(start: Callable[[bool], Machine], is_apart: bool) -> None:
    machines = [start(is_apart), start(not is_apart), start(True)]
    first, *others = machines
    first.ask("make", "e", hold_seconds=HOLD_S)
    users = range(len(machines))
    for user, machine in enumerate(machines):
        assert machine.ask("claim", "e", user) == "GRANTED"
    first.move(boot_s=HOLD_S - STEADY_S)
    for machine in machines:
        assert machine.ask("sweep") == 0
        assert [machine.ask("find", "e", user) for user in users] == ["REPEATED"] * len(users)
    first.move(boot_s=STEADY_S + 0.002)
    for machine in machines:
        assert [machine.ask("find", "e", user) for user in users] == [None] * len(users)
        assert machine.ask("audit") == 1
    for machine, user in zip(others, ("a", "b"), strict=True):
        assert machine.ask("claim", "e", user) == "GRANTED"
        assert [machine.ask("find", "e", user) for machine in machines] == ["REPEATED"] * len(machines)


@pytest.mark.parametrize("is_apart", [False, True], ids=["outside", "inside"])
def test_after_a_reboot_who_opens_the_file_first_sets_the_clock_for_all(
    start: Callable[[bool], Machine], is_apart: bool
) -> None:
    before = start(not is_apart)
    before.ask("make", "e", hold_seconds=HOLD_S)
    assert before.ask("claim", "e", 1) == "GRANTED"
    before.move(boot_s=HOLD_S - STEADY_S)
    before.stop()
    reboot(before.path)
    machines = [start(is_apart), start(not is_apart)]
    for _ in range(2):
        assert [machine.ask("find", "e", 1) for machine in machines] == ["REPEATED", "REPEATED"]
        before.move(boot_s=(HOLD_S - STEADY_S) / 2)
    assert [machine.ask("find", "e", 1) for machine in machines] == ["REPEATED", "REPEATED"]
    before.move(boot_s=STEADY_S + 0.002)
    assert [machine.ask("find", "e", 1) for machine in machines] == [None, None]


UNSHARED = """if 1:
    import ctypes, os, sys, hbcore
    NEW_TIME = 0x80
    libc = ctypes.CDLL(None, use_errno=True)
    engine = hbcore.Engine(sys.argv[1])
    assert libc.unshare(NEW_TIME) == 0, os.strerror(ctypes.get_errno())
    hbcore.Engine(sys.argv[1]).envelope("e", total=10, packets=1, hold_seconds=9)  # this process is where it was
    pid = os.fork()
    if pid == 0:
        try:
            engine.envelope("e")
        except hbcore.HbcoreError as error:
            assert "another time namespace" in str(error), error
            assert hbcore.Engine(sys.argv[1]).envelope("e").claim("u")
            assert libc.unshare(NEW_TIME) == 0
            try:
                hbcore.Engine(sys.argv[1])
            except hbcore.HbcoreError as error:
                assert "CLONE_NEWTIME" in str(error), error
                os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_who_is_forked_into_another_namespace_must_open_the_engine_anew(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", UNSHARED, tmp_path / "e.hb"], env=environment(), check=True)
