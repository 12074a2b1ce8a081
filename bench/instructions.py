"""Counts the instructions of a claim with callgrind: a figure that does not depend on what else the machine does.

Runs itself once under `valgrind --tool=callgrind`, and divides what was executed inside a method, callees included, by
the calls, or by the users of a batch. Exits 1 if one of the figures has grown by more than a tenth over
`bench/instructions.json`; --record writes that file anew. The figures belong to one version of Python and of the
compiler: of another, they are printed and not judged. --quick changes nothing: it is short.
"""

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import hbcore
from bench.installed import environment_of_a_bench
from bench.measure.operations import for_each, for_each_hold, integers, texts
from bench.measure.progress import progress

RECORD = Path(__file__).with_name("instructions.json")
GROWTH = 1.10
LOOK_SECONDS = 0.2
SCALAR, BATCH, FEW = 2_000, 20_000, 200


class Phase(NamedTuple):
    """One kind of call: the method that is counted, how many operations they are, and the calls."""

    method: str  # as in `Engine.envelope`
    count: int
    run: Callable[[], object]


def phases() -> dict[str, Phase]:
    """Prepare what is counted, in the order in which it is to be done. Every page is touched before."""
    # Valgrind has little address space; and a key of its own puts the users where they are in every run.
    engine = hbcore.Engine(capacity=1 << 28, key=bytes(range(32)))

    def used(name: str, users: list[int] | list[str]) -> hbcore.Envelope:
        envelope = engine.envelope(name, total=100 * len(users), packets=len(users))
        envelope.claim_many(users)
        for user in users:
            envelope.release(user)
        for user in users:  # until the index that all this has crowded is replaced
            envelope.claim(user)
            envelope.release(user)
        return envelope

    numbers, names = integers(SCALAR), texts(SCALAR)
    batch = np.array(integers(BATCH))
    first, second, third = used("numbers", numbers), used("names", names), used("batch", batch.tolist())
    budget = engine.budget("budget", total=100 * (SCALAR + BATCH))
    budget.reserve_many(batch + BATCH, 1)  # its levels are there from now on
    others = [number + BATCH for number in numbers]
    made = [f"envelope {number}" for number in range(FEW)]
    first.find(0)
    return {
        "claim": Phase("Envelope.claim", SCALAR, for_each(first.claim, numbers)),
        "claim of a str": Phase("Envelope.claim", SCALAR, for_each(second.claim, names)),
        "claim, repeated": Phase("Envelope.claim", SCALAR, for_each(first.claim, numbers)),
        "claim, sold out": Phase("Envelope.claim", SCALAR, for_each(first.claim, others)),
        "claim_many": Phase("Envelope.claim_many", BATCH, lambda: third.claim_many(batch)),
        "claim_many, repeated": Phase("Envelope.claim_many", BATCH, lambda: third.claim_many(batch)),
        "claim_many, sold out": Phase("Envelope.claim_many", BATCH, lambda: third.claim_many(batch + BATCH)),
        "find": Phase("Envelope.find", SCALAR, for_each(first.find, numbers)),
        "settle": Phase("Envelope.settle", SCALAR, for_each(first.settle, numbers)),
        "release": Phase("Envelope.release", SCALAR, for_each(second.release, names)),
        "reserve": Phase("Budget.reserve", SCALAR, for_each_hold(budget.reserve, numbers)),
        "reserve_many": Phase("Budget.reserve_many", BATCH, lambda: budget.reserve_many(batch + 2 * BATCH, 1)),
        "envelope of 10 packets": Phase(
            "Engine.envelope", FEW, lambda: [engine.envelope(name, 1_000, 10) for name in made]
        ),
    }


def control(*arguments: str) -> None:
    subprocess.run(["callgrind_control", *arguments, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


def work() -> None:
    """Do everything under callgrind, with a dump of the counters after each phase; print what each has done."""
    prepared = phases()
    gc.disable()
    control("-i", "on")
    for phase in prepared.values():
        control("-z")
        phase.run()
        control("-d")
    print(json.dumps({name: [phase.method, phase.count] for name, phase in prepared.items()}))


def inclusive(annotated: str, method: str) -> int:
    """Return what callgrind_annotate says of a method of a class of hbcore, callees included.

    Cython names its function after package, module and class, each behind its length: the module may be any.
    """
    owner, name = method.split(".")
    symbol = rf"__pyx_pw_6hbcore_(?:\w+_)?{len(owner)}{owner}_\d+{name}"
    for line in annotated.splitlines():
        found = re.match(rf"\s*([\d,]+) .*\b{symbol}(?!\w)", line)
        if found:
            return int(found[1].replace(",", ""))
    raise SystemExit(f"bench instructions: callgrind has not seen {method}")


def annotated(dump: Path) -> str:
    command = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(dump)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run_in_callgrind(out: Path) -> dict[str, tuple[str, int]]:
    """Count everything, with a dump of each phase beside ``out``; return the phases, their methods and operations."""
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--instr-atstart=no"]
    command += [sys.executable, "-m", "bench", "instructions", "--work"]
    environment = {**environment_of_a_bench(), "OPENBLAS_NUM_THREADS": "1"}
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process,
        progress("under callgrind", None) as bar,
    ):
        while True:
            try:
                output, errors = process.communicate(timeout=LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                bar.tell(f"{len(list(out.parent.glob(f'{out.name}.*')))} phases counted")
    if process.returncode:
        raise SystemExit(f"bench instructions: the run under valgrind has failed:\n{errors[-2000:]}")
    phases: dict[str, tuple[str, int]] = json.loads(output)
    return phases


def count() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        counted, figures = run_in_callgrind(out), {}
        with progress("reading", len(counted)) as bar:
            for number, (name, (method, operations)) in enumerate(counted.items(), 1):
                bar.next(name)
                figures[name] = round(inclusive(annotated(Path(f"{out}.{number}")), method) / operations, 1)
        return figures


def where() -> str:
    compiler = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    return f"{platform.machine()}, CPython {platform.python_version()}, gcc {compiler}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--record", action="store_true", help="write the figures down as what they should be")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    if options.work:
        work()
        return 0
    if not shutil.which("valgrind"):
        print("bench instructions: valgrind is not installed: nothing counted")
        return 0
    figures, here = count(), where()
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if options.record:
        RECORD.write_text(json.dumps({**records, here: figures}, indent=2) + "\n")
    known = records.get(here, {})
    print(f"instructions an operation, callees included ({here})")
    grown = False
    for name, figure in figures.items():
        before = known.get(name)
        is_worse = before is not None and figure > before * GROWTH
        grown = grown or is_worse
        said = "not judged here" if before is None else f"recorded {before:,.1f}" + (": GROWN" if is_worse else "")
        print(f"  {name:<24}{figure:>10,.1f}   {said}")
    return 1 if grown and not options.record else 0
