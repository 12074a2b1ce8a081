"""Forged holds that the sums of a budget agree with: the audit names them."""

import random
from pathlib import Path

import pytest
from forgeries import FORGERIES

import hbcore

NAMED = {
    "added by nobody": r"^\d+ were added to budget 'below', and budget 'root' has not paid them$",
    "linked twice": r"^budget '\w+' holds money for the child at byte \d+ under a key that is not that child's$",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound file: holds in every final state and every kind of child, on two levels."""
    path = tmp_path / "e.hb"
    with hbcore.Engine(path) as engine:
        root = engine.budget("root", 10_000)
        root.top_up("from outside", 700)
        below = root.budget("below", 3_000)
        assert below.top_up("paid", 200)
        below.budget("leaf", 90)
        for budget in (root, below):
            budget.envelope("e", total=300, packets=3).claim("u")
            for key in range(9):
                budget.reserve(key, 20 + key)
            for key in range(3):
                budget.settle(key, 7 * key)
                budget.release(key + 3)
        engine.audit()
    return path


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", FORGERIES)
def test_the_audit_names_a_forgery(path: Path, name: str, seed: int) -> None:
    writes = FORGERIES[name](path.read_bytes(), random.Random(seed))
    with path.open("r+b") as file:
        for _, at, data in writes:
            file.seek(at)
            file.write(data)
    for is_readonly in (True, False):
        with hbcore.Engine(path, readonly=is_readonly) as engine, pytest.raises(hbcore.AuditError, match=NAMED[name]):
            engine.audit()
