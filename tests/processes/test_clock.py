"""Nothing expires early, whatever the clock does: in a process whose clocks are set from outside, through LD_PRELOAD.

CLOCK_REALTIME is stepped back and forth by a day, the machine is suspended (CLOCK_BOOTTIME goes on, CLOCK_MONOTONIC
stands), or rebooted (CLOCK_BOOTTIME begins anew, under another boot id).
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from controlled_clock import COMPILER, Clock, build
from engine_files import reboot
from running import environment

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")

DAY_S = 86_400
HOLD_S = 3_600
STEADY_S = 60
"""No test takes so long, so that this much of real time may pass between any two lines of one."""

SERVER = """if 1:
    import json, sys, time, hbcore
    engine = hbcore.Engine(sys.argv[1])
    def envelope(name, **terms):
        budget = engine.budget("b", 10_000)
        return budget.envelope(name, **({"total": 100, "packets": 10, **terms} if terms else {}))
    def answer(call, name="", *arguments, **terms):
        if call == "make":
            return envelope(name, **terms).name
        if call == "times":
            return [time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic()]
        if call in ("sweep", "audit"):
            return int(getattr(engine, call)() is not None) if call == "audit" else engine.sweep()
        if call == "held":
            return engine.budget("b").stats().held
        if call == "claims":
            return len(envelope(name).claims())
        claim = getattr(envelope(name), call)(*arguments)
        return claim if isinstance(claim, int) or claim is None else claim.status.name
    for line in sys.stdin:
        arguments, terms = json.loads(line)
        print(json.dumps(answer(*arguments, **terms)), flush=True)
"""


class Machine:
    """A process on a machine whose clocks this one sets."""

    def __init__(self, folder: Path, library: Path, prefix: Sequence[str] = ()) -> None:
        self.prefix = prefix
        self.path, self.clock_path, self.library = folder / "clock.hb", folder / "clock", library
        self.clock = Clock(os.open(self.clock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC))
        self.move, self.tick = self.clock.move, self.clock.tick
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-c", SERVER, str(self.path)],
            env=environment(LD_PRELOAD=str(self.library), CLOCK_FILE=str(self.clock_path)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *arguments: Any, **terms: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([arguments, terms]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the process has died of {arguments}"
        return json.loads(line)

    def reboot(self) -> None:
        """Start again under another boot id, with a clock that has begun anew."""
        self.stop()
        reboot(self.path)
        self.clock.reset_boot(1)
        self.start()

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(30) == 0

    def end(self) -> None:
        os.close(self.clock.fd)
        if self.process.poll() is None:
            self.stop()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("clock") / "clock.so")


@pytest.fixture
def machine(tmp_path: Path, library: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, library)
    yield machine
    machine.end()


def test_the_clocks_are_moved(machine: Machine) -> None:
    before = machine.ask("times")
    machine.move(real_s=-DAY_S, boot_s=2 * DAY_S)
    after = machine.ask("times")
    moved = [round((now - then) / STEADY_S) * STEADY_S for then, now in zip(before, after, strict=True)]
    assert moved == [-DAY_S, 2 * DAY_S, 0]


MOVES: dict[str, Callable[[Machine], None]] = {
    "nothing": lambda machine: None,
    "a day back": lambda machine: machine.move(real_s=-DAY_S),
    "a day on": lambda machine: machine.move(real_s=DAY_S),
    "back and forth": lambda machine: [machine.move(real_s=step * DAY_S) for step in (1, -2, 3, -1, -30)] and None,
    "to 1971": lambda machine: machine.move(real_s=-50 * 365 * DAY_S),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_claim_expires_when_and_only_when_its_time_has_passed(machine: Machine, name: str) -> None:
    machine.ask("make", "e", hold_seconds=HOLD_S)
    for user in range(10):
        assert machine.ask("claim", "e", user) == "GRANTED"
    assert machine.ask("settle", "e", 0) == "REPEATED"
    MOVES[name](machine)
    for _ in range(3):
        machine.move(boot_s=(HOLD_S - STEADY_S) / 3)  # also asleep the machine's time goes on
        assert machine.ask("sweep") == 0
        assert machine.ask("audit") == 1
        assert [machine.ask("find", "e", user) for user in range(10)] == ["REPEATED"] * 10
        assert machine.ask("claim", "e", "late") == "SOLD_OUT"
    assert machine.ask("settle", "e", 1) == "REPEATED"
    MOVES[name](machine)
    machine.move(boot_s=STEADY_S + 0.002)
    assert machine.ask("settle", "e", 2) is None, "confirm after expiry"
    assert machine.ask("release", "e", 3) is None
    assert machine.ask("find", "e", 4) is None
    assert machine.ask("settle", "e", 0) == "REPEATED"
    assert machine.ask("find", "e", 1) == "REPEATED"
    assert machine.ask("claim", "e", 2) == "GRANTED", "anew"
    assert [machine.ask("claim", "e", user) for user in range(20, 27)] == ["GRANTED"] * 7
    assert machine.ask("claim", "e", 27) == "SOLD_OUT"
    assert machine.ask("sweep") == 0
    assert machine.ask("audit") == 1


@pytest.mark.parametrize("call", ["audit", "sweep", "claims"])
def test_a_claim_may_expire_between_any_two_looks_at_it(machine: Machine, call: str) -> None:
    """An audit that has read a claim and then finds it expired must not say that the index does not lead to it."""
    machine.ask("make", "e", hold_seconds=HOLD_S)
    for reading in range(60):
        users = [f"{reading} {number}" for number in range(10)]
        assert [machine.ask("claim", "e", user) for user in users] == ["GRANTED"] * len(users)
        machine.move(boot_s=HOLD_S - STEADY_S * (reading + 0.5))
        machine.tick(STEADY_S)
        machine.ask(call, "e")  # the time runs out at about that reading of the clock
        machine.tick(0)
        machine.move(boot_s=HOLD_S + 1)
    assert machine.ask("audit") == 1


def test_after_a_reboot_a_claim_has_its_whole_time_again(machine: Machine) -> None:
    machine.ask("make", "e", hold_seconds=HOLD_S)
    machine.move(boot_s=400 * DAY_S)
    assert machine.ask("claim", "e", 1) == "GRANTED"
    machine.move(boot_s=HOLD_S - STEADY_S)
    machine.reboot()
    for _ in range(2):
        assert machine.ask("find", "e", 1) == "REPEATED"
        machine.move(boot_s=(HOLD_S - STEADY_S) / 2, real_s=DAY_S)
    assert machine.ask("find", "e", 1) == "REPEATED"
    assert machine.ask("claim", "e", 2) == "GRANTED"
    machine.move(boot_s=STEADY_S + 0.002)
    assert machine.ask("find", "e", 1) is None
    assert machine.ask("find", "e", 2) == "REPEATED"
    machine.reboot()
    assert machine.ask("find", "e", 2) == "REPEATED"
    machine.move(boot_s=HOLD_S + 1)
    assert machine.ask("sweep") == 1
    assert machine.ask("claims", "e") == 0


def test_an_envelope_expires_by_the_clock_on_the_wall(machine: Machine) -> None:
    real_s = machine.ask("times")[0]
    machine.ask("make", "e", law="equal", expires_at=real_s + DAY_S)
    assert machine.ask("claim", "e", 1) == "GRANTED"
    machine.move(boot_s=30 * DAY_S)
    assert machine.ask("claim", "e", 2) == "GRANTED"
    machine.move(real_s=DAY_S - STEADY_S)
    assert machine.ask("claim", "e", 3) == "GRANTED"
    assert machine.ask("sweep") == 0
    assert machine.ask("held") == 100
    machine.move(real_s=STEADY_S + 1)  # the coarse clock of the core may lag behind by a tick
    assert machine.ask("claim", "e", 4) == "CLOSED"
    assert machine.ask("claim", "e", 1) == "REPEATED"
    assert machine.ask("held") == 30, "the first claim that met it has refunded what nobody claimed"
    machine.move(real_s=-3 * DAY_S)
    assert machine.ask("claim", "e", 5) == "CLOSED", "what is refunded stays so"
    assert machine.ask("audit") == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_claim_expires_by_the_rules_on_any_walk_of_the_clocks(machine: Machine, seed: int) -> None:
    """Claims at random moments, while the clocks go where they like: each is held for its hour of CLOCK_BOOTTIME."""
    rng = random.Random(seed)
    machine.ask("make", "e", packets=50, total=500, hold_seconds=HOLD_S)
    boot_s, granted_s, known = 0.0, {}, 0
    for step in range(150):
        machine.move(real_s=rng.choice((0, DAY_S, -DAY_S, rng.uniform(-9, 9))))
        ahead_s = rng.choice((0, 1, 300, 300, HOLD_S - 2 * STEADY_S, 2 * HOLD_S))
        machine.move(boot_s=ahead_s)
        boot_s += ahead_s
        user = rng.randrange(12)
        age_s = boot_s - granted_s.get(user, -(10**9))
        call = rng.choice(("claim", "find", "settle", "release") if step % 5 == 0 else ("claim", "find"))
        if call == "settle":
            call = "find"
        if abs(age_s - HOLD_S) < STEADY_S:
            continue  # real time passes as well
        is_held = age_s < HOLD_S
        known += is_held
        answer = machine.ask(call, "e", user)
        if call == "claim":
            assert answer == ("REPEATED" if is_held else "GRANTED")
            if not is_held:
                granted_s[user] = boot_s
        else:
            assert answer == ("REPEATED" if is_held else None)
            if call == "release":
                granted_s.pop(user, None)
        if rng.random() < 0.1:
            machine.ask(rng.choice(("sweep", "audit")))
    assert known >= 5
