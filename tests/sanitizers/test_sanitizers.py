"""The sanitizers in their short form: every operation beside every other under each, and whether they see faults.

The long form is ``tests/sanitizers/sanitize.py thread --seconds 600 --suite``, the same with ``address``, and
``tests/sanitizers/planted.py``.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SANITIZERS = Path(__file__).parent
SOURCES = Path(__file__).resolve().parents[2] / "hbcore" / "_claims/ledger.pyx"
CANNOT = 77  # build.py: the compiler or the machine has no such sanitizer

pytestmark = [pytest.mark.full, pytest.mark.skipif(not SOURCES.exists(), reason="the sanitizers need a source tree")]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SANITIZERS / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def build(sanitizer: str) -> Path:
        if sanitizer not in folders:
            folder = tmp_path_factory.mktemp("sanitizers") / sanitizer
            result = run("build.py", sanitizer, folder)
            if result.returncode == CANNOT:
                pytest.skip(result.stdout.strip())
            assert result.returncode == 0, result.stdout + result.stderr
            folders[sanitizer] = folder
        return folders[sanitizer]

    return build


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_everything_at_once_gives_no_report(built: Callable[[str], Path], sanitizer: str) -> None:
    result = run("sanitize.py", sanitizer, built(sanitizer), "--seconds", 12)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{sanitizer}: races: 0 reports" in result.stdout


@pytest.mark.parametrize(
    ("sanitizer", "fault"),
    [
        ("thread", "a plain store of the user's key"),
        ("thread", "two holders of one slot"),
        ("address", "a slot beyond the last"),
        ("address", "a shift by more than a word"),
    ],
)
def test_a_planted_fault_is_reported(built: Callable[[str], Path], sanitizer: str, fault: str) -> None:
    result = run("planted.py", fault, f"--{sanitizer}", built(sanitizer))
    print(result.stdout)
    assert "1 of 1 planted faults reported" in result.stdout, result.stdout + result.stderr
