"""One winner of settle, release and expiry, in the short form; the long form is ``python tests/races.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from controlled_clock import COMPILER

import hbcore

SCRIPT = Path(__file__).parent / "races.py"


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_settle_release_and_expiry_have_one_winner() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(hbcore.__file__).parent.parent)}
    command = [sys.executable, SCRIPT, "--races", "20000"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "every race had one winner" in result.stdout
