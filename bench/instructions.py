"""Counts the instructions of a claim with callgrind: a figure that does not depend on what else the machine does.

    python bench/instructions.py [--record]

Runs this script once under ``valgrind --tool=callgrind``, and divides what was executed inside a method, callees
included, by the calls, or by the users of a batch. Exits 1 if one of the figures has grown by more than a tenth over
``instructions.json``; ``--record`` writes that file anew. The figures belong to one version of Python and of the
compiler: of another, they are printed and not judged.
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
from operations import for_each, for_each_hold, integers, texts

RECORD = Path(__file__).with_name("instructions.json")
GROWTH = 1.10
SCALAR, BATCH, FEW = 2_000, 20_000, 200


class Phase(NamedTuple):
    """One kind of call: the method that is counted, how many operations they are, and the calls."""

    method: str
    count: int
    run: Callable[[], object]


def phases() -> dict[str, Phase]:
    """Prepare what is counted, in the order in which it is to be done. Every page is touched before."""
    import hbcore

    # Valgrind has little address space; and a key of its own puts the users where they are in every run.
    engine = hbcore.Engine(capacity=1 << 28, key=bytes(range(32)))

    def used(name: str, users: list[int] | list[str]) -> hbcore.Envelope:
        envelope = engine.envelope(name, total=100 * len(users), packets=len(users))
        envelope.claim_many(users)
        for user in users:
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
        "claim": Phase("claim", SCALAR, for_each(first.claim, numbers)),
        "claim of a str": Phase("claim", SCALAR, for_each(second.claim, names)),
        "claim, repeated": Phase("claim", SCALAR, for_each(first.claim, numbers)),
        "claim, sold out": Phase("claim", SCALAR, for_each(first.claim, others)),
        "claim_many": Phase("claim_many", BATCH, lambda: third.claim_many(batch)),
        "claim_many, repeated": Phase("claim_many", BATCH, lambda: third.claim_many(batch)),
        "claim_many, sold out": Phase("claim_many", BATCH, lambda: third.claim_many(batch + BATCH)),
        "find": Phase("find", SCALAR, for_each(first.find, numbers)),
        "settle": Phase("settle", SCALAR, for_each(first.settle, numbers)),
        "release": Phase("release", SCALAR, for_each(second.release, names)),
        "reserve": Phase("reserve", SCALAR, for_each_hold(budget.reserve, numbers)),
        "reserve_many": Phase("reserve_many", BATCH, lambda: budget.reserve_many(batch + 2 * BATCH, 1)),
        "envelope of 10 packets": Phase("envelope", FEW, lambda: [engine.envelope(name, 1_000, 10) for name in made]),
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


def inclusive(dump: Path, method: str) -> int:
    """Return what callgrind_annotate says of a method of a class of hbcore, callees included."""
    command = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", dump]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in output.splitlines():
        found = re.match(rf"\s*([\d,]+) .*__pyx_pw_6hbcore_\d\w*?_\d+{method}(?: |$|\[)", line)
        if found:
            return int(found[1].replace(",", ""))
    raise SystemExit(f"callgrind has not seen {method}")


def count() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--instr-atstart=no"]
        command += [sys.executable, __file__, "--work"]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if result.returncode:
            raise SystemExit(result.stderr[-2000:])
        return {
            name: round(inclusive(Path(f"{out}.{number}"), method) / operations, 1)
            for number, (name, (method, operations)) in enumerate(json.loads(result.stdout).items(), 1)
        }


def where() -> str:
    compiler = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    return f"{platform.machine()}, CPython {platform.python_version()}, gcc {compiler}"


def main() -> int:
    parser = argparse.ArgumentParser(description="instructions of a claim, counted with callgrind")
    parser.add_argument("--record", action="store_true", help="write the figures down as what they should be")
    parser.add_argument("--quick", action="store_true", help="the same: it is short")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return 0
    if not shutil.which("valgrind"):
        print("instructions.py: valgrind is not installed: nothing counted")
        return 0
    figures, here = count(), where()
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if arguments.record:
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
    return 1 if grown and not arguments.record else 0


if __name__ == "__main__":
    sys.exit(main())
