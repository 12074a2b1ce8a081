"""The storm with money in its short form. The long form is ``python tests/storm/money_storm.py --kills 10000``."""

from pathlib import Path

import pytest
from controlled_clock import COMPILER
from marks import full_but
from running import run_script

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
SCRIPT = Path(__file__).parent / "money_storm.py"


@pytest.mark.parametrize("kills", full_but([10, 60], 10))
@pytest.mark.parametrize("options", full_but([[], ["--memory"]], []), ids=["file", "memory"])
def test_no_fen_is_lost_or_made_in_a_storm(options: list[str], kills: int, tmp_path: Path) -> None:
    arguments = ("--folder", tmp_path, "--kills", kills, "--kills-a-round", 30, "--seed", 1, *options)
    assert "no promise broken" in run_script(SCRIPT, *arguments, timeout=300)
    assert not any(tmp_path.iterdir()), "a storm that has broken nothing leaves nothing behind"
