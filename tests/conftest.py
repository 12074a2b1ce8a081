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

# The same examples on every machine and in every run; speed is none of a test's business.
settings.register_profile(
    "hbcore", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hbcore")


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
