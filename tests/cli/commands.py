"""What the tests of ``hbcore inspect`` and ``hbcore audit`` share: files, workers, commands on a terminal or not.

A worker is a process of its own that does what it is told over a pipe, and can be killed.
"""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import running

import hbcore
from hbcore.cli import main

COMMAND = [sys.executable, "-m", "hbcore"]
WIDTHS = ("COLUMNS", "LINES", "NO_COLOR")
TIME_LIMIT_S = 120
SEED = bytes(range(32))
PARTS = ("settled", "granted", "remaining", "refunded")
MONEY = ("settled", "held", "available", "refunded")
INSPECT_KEYS = ["command", "holds", "looked_at", "file", "workers", "budgets", "envelopes", "sums"]
AUDIT_KEYS = ["command", "holds", "failure", "is_readonly", "because", "file", "workers", "audit", *INSPECT_KEYS[-3:]]
HOSTILE = "x\x1b[31m[red]\u202eb[/]\r\n\t\x9b"
CHINESE = "元宵节的红包雨·第一场"

WORKER = """if 1:
    import sys, hbcore
    engine = hbcore.Engine(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:      # NAME FIRST COUNT: so many users claim, one by one, and each is answered for
        name, first, users = line.split()
        envelope = engine.envelope(name)
        for user in range(int(first), int(first) + int(users)):
            claim = envelope.claim(user)
            print(user, claim.amount, claim.packet, flush=True)
"""

HAMMER = """if 1:
    import sys, hbcore
    engine = hbcore.Engine(sys.argv[1])
    grow, churn = engine.envelope("grow"), engine.envelope("churn")
    print("ready", flush=True)
    first = int(sys.argv[2])
    for i in range(1 << 40):
        if i % 8 == 0:
            grow.claim(first + i)
        user = first + i % 512
        if churn.claim(user):
            churn.release(user)
        if i % 1024 == 0:
            churn.claim(first - 1 - i)
            churn.settle(first - 1 - i)
"""


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command: the package under test, and nothing that says how wide a line is."""
    settings = {"PYTHONUTF8": "1", "TERM": "xterm-256color", "TZ": "UTC", **changes}
    return {name: value for name, value in running.environment().items() if name not in WIDTHS} | settings


def run(
    *arguments: object, stdin: bytes = b"", cwd: Path | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(**changes),
        cwd=cwd,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    return subprocess.CompletedProcess(
        result.args, result.returncode, result.stdout.decode(), result.stderr.decode(errors="backslashreplace")
    )


def run_json(*arguments: object, status: int = 0) -> dict[str, Any]:
    """Run a command that says nothing but its JSON object."""
    result = run(*arguments, "--json")
    assert (result.returncode, result.stderr) == (status, "")
    assert result.stdout.count("\n") == 1
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["holds"] == (status == 0)
    assert list(report) == (INSPECT_KEYS if report["command"] == "inspect" else AUDIT_KEYS)
    check_sums(report)
    return report


@contextmanager
def started(*arguments: object, **streams: Any) -> Iterator[subprocess.Popen[Any]]:
    """A command that runs; it is killed at the end, and where it hangs."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment(),
        # As a shell in the foreground has it: in the background Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **streams,
    ) as process:
        guard = threading.Timer(TIME_LIMIT_S, process.kill)
        guard.start()
        try:
            yield process
        finally:
            guard.cancel()
            process.kill()


@contextmanager
def watched(path: Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[], dict[str, Any]]]]:
    """``hbcore inspect --watch --json``, and what reads its next look."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with started("inspect", path, "--watch", "--json", **streams) as process:

        def look() -> dict[str, Any]:
            report: dict[str, Any] = json.loads(process.stdout.readline())
            check_sums(report)
            return report

        yield process, look


def check_sums(report: dict[str, Any]) -> None:
    """Check that parts are parts: none is negative, and all of them together are the total."""
    for budget in report["budgets"]:
        if budget["amounts"] is not None:
            assert tuple(budget["amounts"]) == MONEY
            assert min(budget["amounts"].values()) >= 0
            assert sum(budget["amounts"].values()) == budget["total"]
    for envelope in report["envelopes"]:
        if envelope["counts"] is not None:
            for key, total in (("counts", envelope["packets"]), ("amounts", envelope["total"])):
                assert list(envelope[key]) == list(PARTS)
                assert min(envelope[key].values()) >= 0
                assert sum(envelope[key].values()) == total


def in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process: the same code, without the time that a new interpreter takes."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


class Worker:
    """A process that has the file open and claims when it is told to."""

    def __init__(self, program: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=environment(),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def tell(self, name: str, first: int, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name} {first} {count}\n")
        self.process.stdin.flush()

    def answers(self, count: int) -> list[tuple[int, ...]]:
        assert self.process.stdout is not None
        return [tuple(map(int, self.process.stdout.readline().split())) for _ in range(count)]

    def kill(self) -> list[tuple[int, ...]]:
        """Kill it with SIGKILL; return the answers that it had given and nobody had read."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        with self.process.stdin, self.process.stdout as pipe:
            unread = pipe.read()
        self.process.wait(TIME_LIMIT_S)
        # The last line may be cut, and is no answer then.
        return [tuple(map(int, line.split())) for line in unread.split("\n")[:-1]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.returncode is None:
            self.kill()


def make_gala(path: Path) -> None:
    """Make an envelope in each state. The law `equal` makes every amount known."""
    with hbcore.Engine(path) as engine:
        half = engine.envelope("20:00", total=1000, packets=10, law="equal", min=5, max=500, seed=SEED)
        for user in range(5):
            half.claim(user)
        half.settle(0)
        half.settle(1)
        engine.envelope(CHINESE, total=2**62 - 1, packets=3, law="dirichlet", concentration=7, expires_at=2e9)
        engine.envelope("late", total=50, packets=5, law="equal", expires_at=1000.5)  # nobody has met it since
        closed = engine.envelope("closed", total=400, packets=4, law="equal")
        closed.claim(1)
        closed.settle(1)
        closed.close()
        engine.envelope(HOSTILE, total=7, packets=1).claim(1)


def on_terminal(
    *arguments: object,
    rows: int = 24,
    columns: int = 80,
    act: Callable[[subprocess.Popen[bytes], bytes], bool] | None = None,
) -> str:
    """Run a command on a terminal of its own and return all that was written to it.

    ``act`` sees what was written so far after each piece, until it has returned True.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with started(*arguments, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while select.select([ours], [], [], TIME_LIMIT_S)[0]:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the terminal's other side is closed
                break
            if act is not None and act(process, seen):
                act = None
        os.close(ours)
        process.wait(TIME_LIMIT_S)
    assert process.returncode == 0
    return seen.decode().replace("\r\n", "\n")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
