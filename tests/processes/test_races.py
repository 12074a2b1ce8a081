"""One winner of settle, release and expiry, in the short form; the long form is ``python tests/processes/races.py``."""

from pathlib import Path

import pytest
from controlled_clock import COMPILER
from marks import full_but
from running import run_script

SCRIPT = Path(__file__).parent / "races.py"


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
@pytest.mark.parametrize("races", full_but([2_000, 20_000], 2_000))
def test_settle_release_and_expiry_have_one_winner(races: int) -> None:
    assert "every race had one winner" in run_script(SCRIPT, "--races", races, timeout=120)
