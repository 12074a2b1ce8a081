"""Counts the instructions of a claim with callgrind: a figure that does not depend on what else the machine does.

    python bench/instructions.py [--record]

Runs this script once under ``valgrind --tool=callgrind``, and divides what was executed inside the methods, callees
included, by the calls: a scalar claim of an int and of a str, a batch (per claim), a repeated and a sold-out claim, a
release. Exits 1 if one of them has grown by more than a tenth over ``instructions.json``; ``--record`` writes that file
anew. The figures belong to one version of Python and of the compiler: of another, they are printed and not judged.
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
from pathlib import Path

RECORD = Path(__file__).with_name("instructions.json")
GROWTH = 1.10
SCALAR, BATCH = 2_000, 20_000


def methods() -> dict[str, int]:
    """Do what is counted; return how many operations each method has done. Everything is touched before."""
    import numpy as np

    import hbcore

    engine = hbcore.Engine(capacity=1 << 28)  # valgrind has little address space

    def used(name: str, packets: int, users: list[int | str]) -> hbcore.Envelope:
        envelope = engine.envelope(name, total=100 * packets, packets=packets)
        envelope.claim_many(users)
        for user in users:
            envelope.release(user)
        return envelope

    numbers = list(range(10**10, 10**10 + SCALAR))
    batch = np.arange(10**10, 10**10 + BATCH)
    first, second = used("numbers", SCALAR, numbers), used("batch", BATCH, batch.tolist())
    gc.disable()
    subprocess.run(["callgrind_control", "-i", "on", str(os.getpid())], check=True, stdout=subprocess.DEVNULL)
    # Each method is counted as a whole, so each kind of call has one of its own.
    for number in numbers:
        first.claim(number)
    second.claim_many(batch)
    for number in numbers:
        first.find(number)
    for number in numbers:
        first.settle(number)
    return {"claim": SCALAR, "claim_many": BATCH, "find": SCALAR, "settle": SCALAR}


def inclusive(output: str, method: str) -> int:
    """Return what callgrind_annotate says of a method of Envelope, callees included."""
    for line in output.splitlines():
        found = re.match(rf"\s*([\d,]+) .*__pyx_pw_6hbcore_8envelope_8Envelope_\d+{method}(?: |$|\[)", line)
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
        done = json.loads(result.stdout)
        annotated = subprocess.run(
            ["callgrind_annotate", "--inclusive=yes", "--threshold=100", out],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return {name: round(inclusive(annotated, name) / operations, 1) for name, operations in done.items()}


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
        print(json.dumps(methods()))
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
        print(f"  {name:<12}{figure:>10,.1f}   {said}")
    return 1 if grown and not arguments.record else 0


if __name__ == "__main__":
    sys.exit(main())
