"""The kernels: what each says about itself, and what GenMC finds in it.

    python tests/weak/kernels.py [NAME ...]

needs ``genmc`` on the PATH. It runs each kernel in each of its configurations under both memory models, sound and with
each of its plants, and prints a table. Exits 1 if a sound program breaks its assertion or a plant goes unseen.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ATOMICS = ROOT / "hbcore" / "_lib"

MODELS = ("rc11", "imm")
LOOP_LIMIT = 7  # turns that GenMC tries of a loop; no loop of a kernel needs more
SECONDS_LIMIT = 300
GENMC_FOUND = 42  # the exit code of GenMC for an error in the program that it looks at
ERRORS = ("Safety violation!", "Non-atomic race!")  # those that a plant may bring about


class Plant(NamedTuple):
    """A bug that a kernel can have planted, and the configurations in which it must be found."""

    number: int
    configurations: tuple[str, ...]
    what: str


class Kernel(NamedTuple):
    """What the comment at the top of a kernel says. transcribes: pairs of a file below the root and a function."""

    path: Path
    transcribes: tuple[tuple[str, str], ...]
    asserts: str
    configurations: dict[str, str]
    plants: tuple[Plant, ...]


class Verdict(NamedTuple):
    """What GenMC has said of one program: whether it found an error, and how many executions it went through."""

    found: bool
    executions: int
    seconds: float
    output: str


class NoVerdictError(Exception):
    """GenMC has neither found an error nor gone through all executions: the kernel did not compile, or all blocked."""


def sections(path: Path) -> dict[str, list[str]]:
    """Return the sections of a kernel's comment by their titles. An indented line goes on with the one before it."""
    comment = path.read_text().split("*/", 1)[0]
    found: dict[str, list[str]] = {}
    title = ""
    for line in comment.splitlines():
        line = line.removeprefix("/*").removeprefix(" *").removeprefix(" ")
        if match := re.match(r"(Transcribes|Asserts|Configurations|Plants):(.*)", line):
            title = match[1]
            found[title] = [match[2].strip()] if match[2].strip() else []
        elif title and line.startswith("   ") and found[title]:
            found[title][-1] += " " + line.strip()
        elif title and line.strip():
            found[title].append(line.strip())
    return found


def read_kernel(path: Path) -> Kernel:
    said = sections(path)
    transcribes = []
    for line in said["Transcribes"]:
        file, functions = line.split(": ")
        transcribes += [(file, function.strip()) for function in functions.split(",")]
    configurations = dict(line.split(": ", 1) for line in said["Configurations"])
    plants = []
    for line in said["Plants"]:
        match = re.fullmatch(r"(\d+) \(([A-Z_ +,]+)\): (.+)", line)
        if match is None:
            raise ValueError(f"{path.name}: this is no plant: {line!r}")
        plants.append(Plant(int(match[1]), tuple(name.strip() for name in match[2].split(",")), match[3]))
    return Kernel(path, tuple(transcribes), " ".join(said["Asserts"]), configurations, tuple(plants))


@cache
def kernels() -> dict[str, Kernel]:
    """Return all kernels by their names."""
    return {path.stem: read_kernel(path) for path in sorted(HERE.glob("*.c"))}


def compiler_flags(configuration: str, plant: int) -> list[str]:
    defines = [f"-D{name.strip()}" for name in configuration.split("+")]
    return [f"-I{ATOMICS}", f"-I{HERE}", f"-DPLANT={plant}", *defines]


def examine(path: Path, configuration: str, plant: int, model: str) -> Verdict:
    """Let GenMC go through all executions of a kernel. plant: 0 for the sound program."""
    flags = [*compiler_flags(configuration, plant), "-mcx16"]
    command = ["genmc", f"--{model}", "--disable-mm-detector", "--disable-estimation", f"--unroll={LOOP_LIMIT}", "--"]
    started = time.monotonic()
    result = subprocess.run(
        [*command, *flags, str(path)], capture_output=True, text=True, check=False, timeout=SECONDS_LIMIT
    )
    seconds = time.monotonic() - started
    output = result.stdout + result.stderr
    count = re.search(r"^Number of complete executions explored: (\d+)$", output, re.MULTILINE)
    errors = re.findall(r"^Error: (.+)$", output, re.MULTILINE)
    if result.returncode == GENMC_FOUND and count and errors and errors[0] in ERRORS:
        return Verdict(True, int(count[1]), seconds, output)
    # An execution that is given up at an `assume` shows nothing: at least one must have come to its end.
    if result.returncode == 0 and "\nNo errors were detected.\n" in output and count and int(count[1]) > 0:
        return Verdict(False, int(count[1]), seconds, output)
    raise NoVerdictError(f"genmc ended with {result.returncode}:\n{output[-3000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernels to run; all of them by default")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(kernels()):
        parser.error(f"there is no kernel {', '.join(sorted(unknown))}")
    if shutil.which("genmc") is None:
        parser.error("genmc is not on the PATH; tests/README.md says where it comes from")
    started = time.monotonic()
    chosen = {name: kernel for name, kernel in kernels().items() if not arguments.names or name in arguments.names}
    width = max(map(len, chosen))
    planted = found = broken = 0
    print(f"{'kernel':{width}}  {'configuration':20}  model  executions  plants found")
    for name, kernel in chosen.items():
        for configuration in kernel.configurations:
            plants = [plant for plant in kernel.plants if configuration in plant.configurations]
            for model in MODELS:
                sound = examine(kernel.path, configuration, 0, model)
                seen = sum(examine(kernel.path, configuration, plant.number, model).found for plant in plants)
                planted += len(plants)
                found += seen
                broken += sound.found
                note = "  THE SOUND PROGRAM BREAKS ITS ASSERTION" if sound.found else ""
                print(
                    f"{name:{width}}  {configuration:20}  {model:5}  {sound.executions:10,}"
                    f"  {seen} of {len(plants)}{note}",
                    flush=True,
                )
    print(
        f"{len(chosen)} kernels, {sum(len(kernel.plants) for kernel in chosen.values())} plants; over all "
        f"configurations and models {found} of {planted} found, {broken} sound programs broken, "
        f"{time.monotonic() - started:.0f} s"
    )
    return int(found != planted or broken != 0)


if __name__ == "__main__":
    sys.exit(main())
