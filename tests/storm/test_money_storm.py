"""The storm with money in its short form. The long form is ``python tests/money_storm.py --kills 10000``."""

import subprocess
import sys
from pathlib import Path

import pytest
from controlled_clock import COMPILER
from test_storm import command

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
SCRIPT = Path(__file__).parent / "money_storm.py"


@pytest.mark.parametrize("options", [[], ["--memory"]], ids=["file", "memory"])
def test_no_fen_is_lost_or_made_in_a_storm(options: list[str], tmp_path: Path) -> None:
    storm = command(tmp_path, "--kills", "60", "--kills-a-round", "30", "--seed", "1", *options)
    storm["args"][:2] = [sys.executable, str(SCRIPT)]
    result = subprocess.run(**storm, capture_output=True, text=True, check=False, timeout=300)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no promise broken" in result.stdout
    assert not any(tmp_path.iterdir()), "a storm that has broken nothing leaves nothing behind"
