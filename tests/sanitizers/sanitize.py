"""Run the races, and if asked the test suite, under a sanitizer: no report, and no wrong answer.

    python tests/sanitizers/sanitize.py thread [FOLDER] [--seconds 600] [--seed 1] [--only NAME ...] [--suite]

FOLDER is one that ``build.py`` has filled for the same sanitizer; without it, or where it is missing, it is built.
Prints what the scenarios of races.py have done and every report; exits 1 if there was one.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).parent))
from build import HERE, SANITIZERS, TIME_LIMIT_S, build, missing, run_python

ROOT = HERE.parent.parent
FILES = [
    "processes/test_concurrency.py",
    "unit/test_file.py",
    "unit/test_refused_file.py",
    "unit/test_full_file.py",
    "hostile/test_file_damage.py",
]
SUITE = {
    "thread": FILES,
    "address": [
        *FILES,
        "hostile/test_damage.py",
        "unit/test_api.py",
        "unit/test_engine_ends.py",
        "unit/test_input.py",
        "unit/test_user.py",
        "unit/test_stream.py",
        "unit/test_law.py",
        "unit/test_law_distribution.py",
        "unit/test_stateful.py",
    ],
}


def run_with_a_bar(title: str, name: str, folder: Path, arguments: Sequence[object], seconds: float) -> bool:
    """Run Python under a sanitizer; print what it says. Return whether all is well."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(title, total=seconds or None)
        outcome = run_python(
            name,
            folder,
            arguments,
            lambda: progress.update(task, completed=progress.tasks[task].elapsed),
            TIME_LIMIT_S + 2 * seconds,
        )
    print(outcome.output + outcome.report, end="", flush=True)
    is_well = outcome.status == 0 and outcome.count == 0
    print(f"{title}: {outcome.count} reports, exit status {outcome.status}", flush=True)
    return is_well


def run_suite(name: str, folder: Path) -> bool:
    """Run the tests of the tree against the folder's hbcore."""
    for room in ("tests", "bench"):  # conftest.py asks the benches which hbcore to take
        shutil.copytree(ROOT / room, folder / room, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / file, folder)
    tests = [f"tests/{file}" for file in SUITE[name]]
    command = ["-m", "pytest", "--full", "-p", "no:cacheprovider", *tests]
    return run_with_a_bar(f"{name}: suite", name, folder, command, 3600)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sanitizer", choices=SANITIZERS)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=0, help="race for so long; 0: every scenario once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="names of scenarios")
    parser.add_argument("--suite", action="store_true", help="run the tests as well; takes a quarter of an hour")
    options = parser.parse_args()
    name = options.sanitizer
    if reason := missing(name):
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary) / name).resolve()
        if not folder.exists():
            build(name, folder)
        only = ["--only", *options.only] if options.only else []
        arguments = ["races.py", "--seconds", options.seconds, "--seed", options.seed, *only]
        is_well = run_with_a_bar(f"{name}: races", name, folder, arguments, options.seconds)
        if options.suite:
            is_well = run_suite(name, folder) and is_well
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
