"""The explorer in its short form: every schedule of a few operations, and whether it sees planted bugs.

The long form is ``tests/explorer/explore.py --preemptions 5`` and ``tests/explorer/mutants.py``; see the README.
"""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXPLORER = Path(__file__).parent
SOURCES = Path(__file__).resolve().parents[2] / "hbcore"

pytestmark = pytest.mark.skipif(not SOURCES.exists(), reason="the explorer is built from a source tree")


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, EXPLORER / script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explorer") / "original"
    run("build.py", folder)
    return folder


@pytest.mark.full
def test_every_schedule_with_three_preemptions_keeps_the_promises(built: Path) -> None:
    output = run("explore.py", built, "--preemptions", 3)
    print(output)
    assert "no promise broken" in output


@pytest.mark.full
def test_a_death_at_every_step_breaks_nothing_for_the_living(built: Path) -> None:
    output = run("explore.py", built, "--preemptions", 2, "--deaths", 1)
    print(output)
    assert "no promise broken" in output


@pytest.mark.full
@pytest.mark.parametrize(
    "mutant",
    [
        "no second look at the index word",
        "free before tombstone",
        "sold out without another look",
        "the free map is cleared without a version",
        "the free map is cleared when it is too late",
        "reclaiming without looking at the index",
        "a later claim is buried for the dead",
        "what the dead held is not refunded after the close",
        "the pin of a release is taken away by everybody who finishes it",
        "space of a living maker is taken over",
        "entries are copied without being frozen",
        "sold out over what others gave back",
        "a settle keeps the generation of the grant",
        "a path goes on without being closed",
        "a late helper puts the base of refunds back",
        "a close by a plain store",
    ],
)
def test_the_explorer_sees_a_planted_bug(built: Path, mutant: str) -> None:
    assert "1 of 1 planted bugs found" in run("mutants.py", mutant, "--original", built)


def test_every_planted_bug_still_applies() -> None:
    sources = {str(path.relative_to(SOURCES)): path.read_text() for path in SOURCES.rglob("*.p*")}
    for name, edits in runpy.run_path(str(EXPLORER / "mutants.py"))["MUTANTS"].items():
        for file, old, _ in edits:
            assert sources[file].count(old) == 1, f"{name}: in {file} {sources[file].count(old)} times: {old}"
