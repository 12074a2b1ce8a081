"""Build hbcore's own sources, and the racer beside them, with a sanitizer of the compiler; run Python under it.

    python tests/sanitizers/build.py thread FOLDER

copies the sources into the missing FOLDER and compiles them there, apart from any installed hbcore. ``thread`` is
ThreadSanitizer; ``address`` is AddressSanitizer and UndefinedBehaviorSanitizer together. Where the compiler or the
machine does not have it, the exit status is 77, and the reason is printed.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent.parent / "hbcore"
SUFFIXES = (".py", ".pyx", ".pxd", ".h")


class Sanitizer(NamedTuple):
    """How to build for a sanitizer, how to run under it, and what its reports begin with."""

    flags: tuple[str, ...]
    libraries: tuple[str, ...]  # its run-time, which must be there before Python's first allocation
    options: dict[str, str]
    reports: tuple[str, ...]


SANITIZERS = {
    # TSan does not know fences, of which its compiler warns. hbcore orders no plain access by a fence: one stands only
    # between atomic operations, and no two of these can be a data race.
    "thread": Sanitizer(
        ("-fsanitize=thread", "-Wno-tsan"),
        ("libtsan.so",),
        {"TSAN_OPTIONS": "exitcode=66:history_size=4"},
        ("WARNING: ThreadSanitizer", "FATAL: ThreadSanitizer", "ERROR: ThreadSanitizer"),
    ),
    # What CPython itself never frees is no leak of ours; whether handles leak is seen by a scenario of races.py.
    "address": Sanitizer(
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
        ("libasan.so", "libubsan.so"),
        {
            "ASAN_OPTIONS": "exitcode=66:detect_leaks=0:detect_stack_use_after_return=1",
            "UBSAN_OPTIONS": "exitcode=66:print_stacktrace=1",
        },
        ("ERROR: AddressSanitizer", "runtime error:"),
    ),
}

SETUP = """
import platform

from Cython.Build import cythonize
from setuptools import Extension, setup

flags = ["-O1", "-g", "-fno-strict-aliasing", "-DHBCORE_SCHEDULE", *%r]
flags += ["-mcx16"] if platform.machine() == "x86_64" else []
sources = ["hbcore/**/*.pyx", "*.pyx"]
modules = [Extension("*", [source], extra_compile_args=flags, extra_link_args=flags) for source in sources]
setup(name="sanitized", packages=[], ext_modules=cythonize(modules, quiet=True, compiler_directives={
    "language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True, "initializedcheck": False,
    "freethreading_compatible": True, "autotestdict": False}))
"""

# This does what `setarch -R` does: the shadow memory of ThreadSanitizer does not fit every layout of the address space.
WITHOUT_ASLR = """
import ctypes, os, sys
ctypes.CDLL(None).personality(0x0040000)
libraries, *command = sys.argv[1:]
os.execve(command[0], command, {**os.environ, "LD_PRELOAD": libraries})
"""
NOISE = "libnoise.so"
TIME_LIMIT_S = 1200  # a guard against a hang: nothing takes a tenth of it unless it is asked to
CANNOT = 77  # the exit status of build.py where the sanitizer cannot be used


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def library(name: str) -> str | None:
    """Return the path of one of the compiler's libraries, or None."""
    result = subprocess.run([*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    path = result.stdout.strip()
    return path if result.returncode == 0 and os.path.isabs(path) else None


def missing(name: str) -> str | None:
    """Say why a sanitizer cannot be used here, or None if it can: build a program with it, and start a Python."""
    sanitizer = SANITIZERS[name]
    if shutil.which(compiler()[0]) is None:
        return f"there is no compiler {compiler()[0]!r}"
    for each in sanitizer.libraries:
        if library(each) is None:
            return f"{compiler()[0]} has no {each}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text("int main(void) { return 0; }\n")
        command = [*compiler(), *sanitizer.flags, str(source), "-o", str(source.with_suffix(""))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            return f"{compiler()[0]} cannot build with {sanitizer.flags[0]}: {result.stderr.strip()[-300:]}"
        outcome = run_python(name, Path(folder), ["-c", "print('started')"])
        if outcome.output.strip() != "started":
            return f"Python does not start with {sanitizer.libraries[0]}: {(outcome.output + outcome.report)[-300:]}"
    return None


class Outcome(NamedTuple):
    """How a run under a sanitizer has ended: what it printed, and what the sanitizer wrote about all its processes."""

    status: int
    output: str
    report: str
    count: int  # of reports


def run_python(
    name: str,
    folder: Path,
    arguments: Sequence[object],
    tick: Callable[[], None] = lambda: None,
    limit_s: float = TIME_LIMIT_S,
) -> Outcome:
    """Run Python in a folder under a sanitizer, with that folder's hbcore; call ``tick`` now and then meanwhile."""
    sanitizer = SANITIZERS[name]
    libraries = [library(each) for each in sanitizer.libraries]
    noise = folder.resolve() / NOISE
    preloaded = ":".join(filter(None, [*libraries, str(noise) if noise.exists() else None]))
    command = [sys.executable, "-c", WITHOUT_ASLR, preloaded, sys.executable, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as logs, tempfile.TemporaryFile("w+", errors="replace") as output:
        options = {key: f"{value}:log_path={logs}/log" for key, value in sanitizer.options.items()}
        environment = {
            **{key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "PYTHONSAFEPATH")},
            **options,
            "PYTHONPATH": str(folder.resolve()),
            "PYTHONMALLOC": "malloc",  # Python's own allocator would hide where one object ends and the next begins
            "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads are none of ours
        }
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        status = None
        ends_at = time.monotonic() + limit_s
        while status is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(0.2)
            if time.monotonic() > ends_at:
                process.kill()
            tick()
        output.seek(0)
        printed = output.read()
        # A process that cannot write its log reports to stderr.
        report = "".join(path.read_text(errors="replace") for path in sorted(Path(logs).iterdir()))
    count = sum((report + printed).count(beginning) for beginning in sanitizer.reports)
    return Outcome(status, printed, report, count)


# The levels are made smaller, so that a few thousand keys need more than two of them.
SMALLER_LEVELS = (
    "_money/hold_index.pxd",
    "(6 * level if level < 3 else 2 * level + 8)",
    "(4 * level if level < 4 else 2 * level + 6)",
)


def build(name: str, folder: Path) -> None:
    """Build in a missing folder, ready for races.py."""
    package = folder / "hbcore"
    for path in PACKAGE.rglob("*"):
        if path.suffix in SUFFIXES:
            place = package / path.relative_to(PACKAGE)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    for file in ("racer.pyx", "account_racer.pyx", "races.py", "noise.c", "noise.h"):
        shutil.copy(HERE / file, folder)
    edit(package, *SMALLER_LEVELS)
    (folder / "setup.py").write_text(SETUP % (SANITIZERS[name].flags,))
    run([*compiler(), "-O2", "-shared", "-fPIC", "noise.c", "-o", NOISE], folder)
    compile_modules(folder)


def build_planted(folder: Path, original: Path, edits: Sequence[tuple[str, str, str]]) -> None:
    """Build in a missing folder what differs from an original by edits: (file, old text, new text)."""
    shutil.copytree(original, folder)
    for each in edits:
        edit(folder / "hbcore", *each)
    compile_modules(folder)


def edit(package: Path, file: str, old: str, new: str) -> None:
    """Replace a text that must stand in the file exactly once."""
    path = package / file
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{file}: {text.count(old)} times instead of once:\n{old}")
    path.write_text(text.replace(old, new))


def compile_modules(folder: Path) -> None:
    run([sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", str(os.cpu_count() or 1)], folder)


def run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}\n{result.stdout[-3000:]}{result.stderr[-5000:]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sanitizer", choices=SANITIZERS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if reason := missing(options.sanitizer):
        print(reason)
        sys.exit(CANNOT)
    build(options.sanitizer, options.folder)
