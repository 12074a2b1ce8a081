"""Recorded histories of real threads and processes, in short: each is checked for linearizability.

The long forms are ``python tests/histories/histories.py`` and ``money_histories.py``, which say what a history is.
"""

import re
from pathlib import Path

import pytest
from marks import full_but
from running import run_script

HERE = Path(__file__).parent


@pytest.mark.parametrize("histories", full_but([40, 400], 40))
@pytest.mark.parametrize("script", ["histories.py", "money_histories.py"])
def test_recorded_histories_are_linearizable(script: str, histories: int) -> None:
    """Threads and processes on files and in memory, some of them stopped or killed in the middle of a call."""
    printed = run_script(HERE / script, "--histories", histories, "--seed", 7, timeout=500)
    assert "no promise broken" in printed
    assert float(re.search(r"([\d.]+)% had overlapping calls", printed)[1]) > 0
    assert int(re.search(r"(\d+) clients died in the middle of a call", printed)[1]) > 0
