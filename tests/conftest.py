"""What the tests share: the two implementations, engines, Hypothesis settings that repeat themselves, and processes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings
from running import environment

import hbcore
import hbcore.reference

# Examples are the same on every machine and in every run, and no test judges speed.
settings.register_profile(
    "hbcore", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hbcore")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="also run the tests that are marked as full: minutes, not seconds"
    )


LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that are marked as full to ``--full``; with ``--full -m full`` they run alone."""
    full = [item for item in items if item.get_closest_marker("full")]
    if full and not config.getoption("full"):
        config.stash[LEFT_OUT] = len(full)
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{count} tests were left to the full run: python -m pytest --full")


@pytest.fixture(scope="module", params=[hbcore, hbcore.reference], ids=["native", "reference"])
def impl(request: pytest.FixtureRequest) -> ModuleType:
    """The native core and its twin in plain Python: a test that takes ``impl`` is a promise that both keep."""
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gala.hb"


@pytest.fixture(params=["file", "memory"])
def engine(request: pytest.FixtureRequest, path: Path) -> Iterator[hbcore.Engine]:
    with hbcore.Engine(path if request.param == "file" else None) as engine:
        yield engine


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a process of its own that imports the hbcore under test."""

    def run(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and process.returncode != 0:
            pytest.fail(f"the process ended with {process.returncode}:\n{process.stderr}", pytrace=False)
        return process

    return run
