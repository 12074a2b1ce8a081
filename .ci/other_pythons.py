"""Run the quick tests on other Pythons than that of the README's line, and print a table of what passed.

    python .ci/other_pythons.py --find --lowest    # each CPython of this machine, and the lowest versions: as CI does
    python .ci/other_pythons.py PYTHON ...         # these, free-threaded ones for example
    python .ci/other_pythons.py --aarch64 --mirror ADDRESS -- -k "not reference" tests/unit/test_api.py

Every run has a copy of HEAD, a virtual environment and `pip install '.[test]'`. What stands after `--` goes to pytest.

--aarch64 emulates 64-bit Arm. It needs qemu-aarch64 (10.0 is good; 7.2 takes 14 GiB for an engine's address space),
aarch64-linux-gnu-gcc, apt-get and Debian's keyring, and this Python must be of the version that Debian has. Nothing is
installed and nobody need be root: Debian's packages are unpacked, the wheels are those of the index, and hbcore is
compiled by the cross compiler. The reference is plain Python and takes long there: leave it out as above.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("cli", "examples", "test")
PROBE = """
import ensurepip, json, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
fit = sys.implementation.name == "cpython" and sys.version_info >= (3, 11) and os.path.exists(header)
print(json.dumps([fit, f"{sys.version_info.major}.{sys.version_info.minor}{free}", sys.version.split()[0] + free]))
"""
DEBIAN = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n"
PLATFORMS = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 26, 27, 28)), "any"]


class Python(NamedTuple):
    program: str
    series: str  # "3.13t"
    version: str  # "3.13.5t"


class Outcome(NamedTuple):
    name: str
    summary: str  # pytest's last line, or what failed
    seconds: float
    passed: bool


class Failure(Exception):
    """A command failed; its output is in the log."""


def probe(program: str | Path) -> Python | None:
    """Return what a Python is, or None if it is none, too old, or has no headers or no venv."""
    try:
        done = subprocess.run([program, "-c", PROBE], capture_output=True, text=True, check=True, timeout=60)
        fit, series, version = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Python(str(program), series, version) if fit else None


def find() -> list[Python]:
    """Return a Python of each version that is found on the PATH or under pyenv, the oldest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    programs: list[str | Path] = [sys.executable, *sorted(pyenv.glob("3.*/bin/python"), reverse=True)]
    programs += [f"python3.{minor}{free}" for minor in range(11, 20) for free in ("", "t")]
    found: dict[str, Python] = {}
    for program in programs:
        python = probe(program)
        if python is not None:
            found.setdefault(python.series, python)
    return sorted(found.values(), key=lambda python: int(re.findall(r"\d+", python.series)[1]))


def lowest_versions() -> list[str]:
    """Return the lowest version of everything that the library and its extras for tests allow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["dependencies"] + [each for extra in EXTRAS for each in project["optional-dependencies"][extra]]
    return sorted({re.sub(r">=\s*([\w.]+)[^;]*", r"==\1", each) for each in named if ">=" in each})


class Run:
    """One run of the tests: its folder, its copy of the tree and its log."""

    def __init__(self, name: str, folder: Path, arguments: list[str]) -> None:
        self.name, self.arguments = name, arguments
        self.folder = folder / name.replace(" ", "-")
        self.tree = self.folder / "tree"
        self.log = self.folder / "log"

    def call(self, *command: object, **more: str) -> None:
        """Run a command in the copy of the tree; its output goes to the log."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        with self.log.open("a") as log:
            arguments = [str(argument) for argument in command]
            print("$", *arguments, file=log, flush=True)
            done = subprocess.run(
                arguments,
                cwd=self.tree,
                env=plain | more,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0:
            raise Failure(f"{Path(arguments[0]).name} {' '.join(arguments[1:4])} ... ended with {done.returncode}")

    def copy_tree(self) -> None:
        self.tree.mkdir(parents=True)
        git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
        archive = subprocess.run([*git, "archive", "HEAD"], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", self.tree], input=archive, check=True)

    def install(self, python: Python, lowest: bool) -> object:
        """Make an environment, and return its Python."""
        self.call(python.program, "-m", "venv", self.folder / "venv")
        inside = self.folder / "venv" / "bin" / "python"
        pip = (inside, "-m", "pip", "install", "--quiet", "--prefer-binary")
        if not lowest:
            self.call(*pip, ".[test]")
            return inside
        pins = self.folder / "lowest.txt"
        pins.write_text("\n".join(lowest_versions()))
        self.call(*pip, "--requirement", pins)
        self.call(*pip, "--no-build-isolation", "--constraint", pins, ".[test]")  # built by the lowest Cython as well
        return inside

    def emulate(self, python: Python, mirror: str, suite: str) -> object:
        """Unpack a Python for aarch64 and compile hbcore for it; return a program that runs it under emulation."""
        qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
        if qemu is None or shutil.which("aarch64-linux-gnu-gcc") is None:
            raise Failure("there is no qemu-aarch64 or no aarch64-linux-gnu-gcc on the PATH")
        root, site, wheels = self.folder / "root", self.folder / "site", self.folder / "wheels"
        self.unpack_debian(root, mirror, suite)
        series = f"python{python.series}"
        if not (root / "usr" / "bin" / series).exists():
            raise Failure(f"Debian's {suite} has no {series}: run this with the version that it has")
        pip = (python.program, "-m", "pip", "--disable-pip-version-check")
        target = (
            "--target",
            site,
            "--only-binary",
            ":all:",
            "--python-version",
            python.series,
            "--implementation",
            "cp",
        )
        tags = [f"--platform={name}" for name in PLATFORMS]
        tags += [f"--abi={abi}" for abi in (f"cp{python.series.replace('.', '')}", "abi3", "none")]
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        named = project["dependencies"] + [each for extra in EXTRAS for each in project["optional-dependencies"][extra]]
        self.call(
            *pip, "install", "--quiet", *target, *tags, *(each for each in named if not each.startswith("hbcore"))
        )
        suffix = f".cpython-{python.series.replace('.', '')}-aarch64-linux-gnu.so"
        self.call(
            *(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, "."),
            CC="aarch64-linux-gnu-gcc",
            _PYTHON_HOST_PLATFORM="linux-aarch64",
            SETUPTOOLS_EXT_SUFFIX=suffix,
        )
        shutil.rmtree(self.tree / "build")
        (wheel,) = wheels.iterdir()
        shutil.unpack_archive(wheel, site, "zip")
        # What a test starts is this program again, because -0 makes it sys.executable.
        program = self.folder / "python"
        program.write_text(
            f"#!/bin/sh\nexport PYTHONHOME={root}/usr PYTHONPATH={site}${{PYTHONPATH:+:$PYTHONPATH}}\n"
            f'exec {qemu} -0 "$0" -L {root} {root}/usr/bin/{series} "$@"\n'
        )
        program.chmod(0o755)
        return program

    def unpack_debian(self, root: Path, mirror: str, suite: str) -> None:
        """Unpack Debian's Python for arm64 with what it needs, by an apt that knows of nothing else."""
        apt = self.folder / "apt"
        for name in ("lists/partial", "archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(DEBIAN.format(mirror=mirror, suite=suite))
        options = [
            *("APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Install-Recommends=0"),
            *(f"Dir::State={apt}", f"Dir::State::status={apt}/status", f"Dir::Cache={apt}", "Dir::Etc::sourceparts=-"),
            *(f"Dir::Etc::sourcelist={apt}/sources.list", "Debug::NoLocking=1", "APT::Sandbox::User=root"),
        ]
        get = ("apt-get", "-q", "-y", *(f"--option={option}" for option in options))
        self.call(*get, "update")
        self.call(*get, "install", "--download-only", "python3", "libstdc++6")
        for package in sorted((apt / "archives").glob("*.deb")):
            self.call("dpkg-deb", "--extract", package, root)
        for name in ("dev", "proc", "run", "sys", "tmp", "var"):  # the emulator looks here first
            shutil.rmtree(root / name, ignore_errors=True)

    def outcome(self, prepare: str, *arguments: object) -> Outcome:
        """Prepare the environment, run the tests and say how it went."""
        self.copy_tree()
        started_at = time.monotonic()
        try:
            python = getattr(self, prepare)(*arguments)
            prepared_at = time.monotonic()
            try:
                self.call(python, "-m", "pytest", "-p", "no:cacheprovider", *self.arguments)
            finally:
                lines = re.findall(r"^.*\b\d+ (?:passed|failed|error).*$", self.log.read_text(), re.MULTILINE)
            summary, passed = lines[-1] if lines else "no test ran", bool(lines)
            print(f"{self.name}: prepared in {prepared_at - started_at:.0f} s", flush=True)
        except Failure as failure:
            lines = self.log.read_text().splitlines() if self.log.exists() else []
            print(f"---- {self.name}: {failure}", *lines[-300:], sep="\n", flush=True)
            summary, passed = (
                next((line for line in lines[::-1] if re.search(r"\d+ passed", line)), str(failure)),
                False,
            )
        return Outcome(self.name, summary.strip("= "), time.monotonic() - started_at, passed)


def main() -> int:
    given, tests = sys.argv[1:], list[str]()
    if "--" in given:
        given, tests = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="a program")
    parser.add_argument("--find", action="store_true", help="every CPython of this machine but the one that runs this")
    parser.add_argument("--lowest", action="store_true", help="CPython 3.11 with the lowest versions that are allowed")
    parser.add_argument("--aarch64", action="store_true", help="64-bit Arm under emulation")
    parser.add_argument("--mirror", help="where --aarch64 finds Debian: the address of a mirror")
    parser.add_argument("--suite", default="bookworm", help="which Debian, %(default)s if absent: it has CPython 3.11")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, %(default)s if absent")
    options = parser.parse_args(given)
    if options.aarch64 and options.mirror is None:
        parser.error("--aarch64 needs --mirror")
    found = find()
    itself = probe(sys.executable)
    chosen = [(program, probe(program)) for program in options.pythons]
    for program, python in chosen:
        if python is None:
            parser.error(f"{program} is no CPython >= 3.11 with headers and venv")
    pythons = [python for _, python in chosen if python is not None]
    if options.find:
        pythons += [python for python in found if itself is None or python.series != itself.series]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        folder = Path(name)
        futures = []
        if options.lowest:
            oldest = next((python for python in found if python.series == "3.11"), None)
            if oldest is None:
                print("there is no CPython 3.11 here: the lowest versions are not tried")
            else:
                run = Run(f"{oldest.version} lowest", folder, tests)
                futures.append(pool.submit(run.outcome, "install", oldest, True))
        for python in pythons:
            futures.append(pool.submit(Run(python.version, folder, tests).outcome, "install", python, False))
        if options.aarch64:
            emulated = Run("aarch64", folder, tests)
            futures.append(pool.submit(emulated.outcome, "emulate", itself, options.mirror, options.suite))
        outcomes = [future.result() for future in futures]
    for outcome in outcomes:
        print(f"{outcome.name:16} {outcome.seconds:6.0f} s   {outcome.summary}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
