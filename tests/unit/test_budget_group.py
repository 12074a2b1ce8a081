"""Batches of holds: the keys of a group are prepared together, and decided as if each had been asked for alone."""

import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine_files import FIRST_EXTENT
from hypothesis import example, given
from hypothesis import strategies as st

import hbcore
from hbcore import Status, reference

GROUP = 32  # keys that are prepared together
NEXT = 528  # of hb_budget: the number of the next hold

requests = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), max_size=3 * GROUP)


def one_by_one(budget: Any, asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the rows that a batch of these keys and amounts must have."""
    rows = []
    for key, amount in asked:
        try:
            hold = budget.reserve(key, amount)
            rows.append((int(hold.status), hold.amount))
        except hbcore.ConflictError:
            hold = budget.find(key)
            assert hold is not None
            rows.append((int(Status.CONFLICT), hold.amount))
    return rows


def in_a_batch(budget: Any, asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    rows: list[tuple[int, int]] = budget.reserve_many(
        [key for key, _ in asked], [amount for _, amount in asked]
    ).tolist()
    return rows


def holds_taken(path: Path) -> int:
    """Return how many holds of the first budget of a file have been taken, whether or not a key has them."""
    with path.open("rb") as file:
        file.seek(FIRST_EXTENT + NEXT)
        number: int = struct.unpack("<Q", file.read(8))[0]
        return number


@given(total=st.integers(1, 400), before=requests, asked=requests, ends=st.lists(st.integers(0, 20), max_size=5))
@example(total=100, before=[], asked=[(1, 60), (1, 60), (2, 60), (3, 40), (1, 50), (4, 1)], ends=[])
@example(total=30, before=[], asked=[(key, 1) for key in range(20)] * 3, ends=[])
@example(total=90, before=[(1, 91)], asked=[(1, 60), (2, 31), (3, 30)], ends=[])
def test_a_batch_answers_as_the_reference_does_one_by_one(
    total: int, before: list[tuple[int, int]], asked: list[tuple[int, int]], ends: list[int]
) -> None:
    budget = hbcore.Engine().budget("b", total)
    expected = reference.Engine().budget("b", total)
    assert in_a_batch(budget, before) == one_by_one(expected, before)
    for key in ends:
        for one in (budget, expected):
            if one.find(key):
                one.release(key)
    assert in_a_batch(budget, asked) == one_by_one(expected, asked)
    assert budget.stats() == expected.stats()
    assert in_a_batch(budget, asked) == one_by_one(expected, asked)


@pytest.mark.parametrize("count", [1, 2, GROUP - 1, GROUP, GROUP + 1, 63, 64, 65, 127, 128, 129, 300, 5000])
@pytest.mark.parametrize("first", [0, 1, 40])
def test_a_batch_goes_over_the_ends_of_segments_and_levels(impl: ModuleType, first: int, count: int) -> None:
    """Segments end at 64, 128 and 256 holds; level 0 has 64 words."""
    engine = impl.Engine()
    budget = engine.budget("b", 10_000)
    for key in range(first):
        budget.reserve(-1 - key, 1)
    rows = budget.reserve_many(np.arange(count), 1)
    assert rows.tolist() == [(Status.GRANTED, 1)] * count
    assert budget.reserve_many(np.arange(count), 1).tolist() == [(Status.REPEATED, 1)] * count
    assert budget.stats().held == first + count
    assert engine.audit().holds == first + count


@pytest.mark.parametrize("repeats", [1, 2, 5])
@pytest.mark.parametrize("step", [1, 7])
def test_a_batch_takes_one_hold_for_each_key_that_is_granted_and_none_for_another(
    tmp_path: Path, repeats: int, step: int
) -> None:
    """Keys that come several times, and such as are refused first, last, or between others."""
    path = tmp_path / "b.hb"
    asked = [(key, 1000 if key % step == 0 and step > 1 else 3) for key in range(200) for _ in range(repeats)]
    with hbcore.Engine(path) as engine:
        budget = engine.budget("b", 301)
        in_a_batch(budget, asked)
        in_a_batch(budget, asked[::-1])
        in_a_batch(budget, [(key, 2) for key in range(1000, 2000)])
        assert budget.stats().available == 1
        assert holds_taken(path) == len(budget.holds()) == 100


def test_refusing_a_key_that_needs_what_earlier_keys_take_costs_no_hold(tmp_path: Path) -> None:
    path = tmp_path / "b.hb"
    with hbcore.Engine(path) as engine:
        budget = engine.budget("b", 100)
        assert in_a_batch(budget, [(1, 40), (2, 40), (3, 40), (4, 20)]) == [
            (Status.GRANTED, 40),
            (Status.GRANTED, 40),
            (Status.INSUFFICIENT, 0),
            (Status.GRANTED, 20),
        ]
        assert holds_taken(path) == 3
        for key in (1, 2, 4):
            budget.release(key)
        # A key that was granted and released takes no money again, so the others can have all of it.
        assert in_a_batch(budget, [(1, 40), (5, 100), (6, 1)]) == [
            (Status.REPEATED, 40),
            (Status.GRANTED, 100),
            (Status.INSUFFICIENT, 0),
        ]
        assert holds_taken(path) == 4


def test_amounts_whose_sum_is_more_than_a_word_holds(tmp_path: Path) -> None:
    path = tmp_path / "b.hb"
    with hbcore.Engine(path) as engine:
        budget = engine.budget("b", 2**62 - 1)
        rows = budget.reserve_many(range(30), 2**62 - 1)
        assert rows.tolist() == [(Status.GRANTED, 2**62 - 1)] + [(Status.INSUFFICIENT, 0)] * 29
        assert holds_taken(path) == 1


def test_a_closed_budget_prepares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b.hb"
    with hbcore.Engine(path) as engine:
        budget = engine.budget("b", 100)
        budget.close()
        assert set(budget.reserve_many(range(50), 1)["status"].tolist()) == {Status.CLOSED}
        assert holds_taken(path) == 0
