"""What the command line checks and counts: each broken promise is seen, and the figures are what they say."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

import hbcore
from hbcore.cli.checker import cross_check
from hbcore.cli.summary import BARS, FAIRNESS_MINIMUM, fairness, histogram
from hbcore.terms import envelope_terms
from hbcore.types import Status

SEED = "5eed" * 16


def broken(change: Callable[[np.ndarray, np.ndarray], None], remaining: int = 0, seconds_each: int = 1) -> set[str]:
    """Answer 300 requests for 200 packets truly, falsify the answers, and return which checks fail.

    Request i is sent at second i and takes ``seconds_each``; every request has a process of its own.
    """
    terms = envelope_terms(20_000, 200, seed=bytes.fromhex(SEED))
    users = np.concatenate([np.arange(250), np.arange(50)])
    with hbcore.Engine() as engine:
        answers = engine.envelope("e", total=20_000, packets=200, seed=terms.seed).claim_many(users)
    change(users, answers)
    checks = cross_check(terms, 250, remaining, users, answers, lambda rows: (rows, rows, rows + seconds_each))
    return {check.key for check in checks if not check.holds}


def swap(name: str, a: int, b: int) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(users: np.ndarray, answers: np.ndarray) -> None:
        assert answers[name][a] != answers[name][b]
        answers[name][[a, b]] = answers[name][[b, a]]

    return change


def put(name: str, row: int, value: int) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(users: np.ndarray, answers: np.ndarray) -> None:
        assert answers[name][row] != value
        answers[name][row] = value

    return change


def grant_twice(users: np.ndarray, answers: np.ndarray) -> None:
    answers[1] = answers[0]


def one_user_twice(users: np.ndarray, answers: np.ndarray) -> None:
    users[1] = users[0]


def turn_away(users: np.ndarray, answers: np.ndarray) -> None:
    """The last who got a packet is told SOLD_OUT, although it is free."""
    answers[199] = (Status.SOLD_OUT, 0, -1)


def turn_away_first(users: np.ndarray, answers: np.ndarray) -> None:
    """User 150 is told SOLD_OUT, and then gets a packet; that of user 60 goes to user 220."""
    users[60] = users[150]
    answers[220], answers[60] = answers[60], (Status.SOLD_OUT, 0, -1)


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (lambda users, answers: None, set()),
        (put("status", 3, 255), {"answers"}),
        (put("packet", 3, 200), {"answers"}),
        (put("packet", 3, -1), {"answers"}),
        (put("amount", 3, 0), {"answers"}),
        (put("packet", 220, 5), {"answers"}),
        (grant_twice, {"packets", "sum", "repeated"}),
        (one_user_twice, {"users", "repeated"}),
        (swap("packet", 250, 251), {"repeated"}),
        (swap("amount", 250, 251), {"repeated"}),
        (swap("amount", 60, 61), {"seed"}),
        (swap("packet", 60, 61), {"seed"}),
        (turn_away, {"sold_out", "sum"}),
        (lambda users, answers: users.__setitem__(220, 60), {"sold_out"}),
        (turn_away_first, {"sold_out"}),
    ],
)
def test_cross_check_sees(change: Callable[[np.ndarray, np.ndarray], None], failing: set[str]) -> None:
    assert broken(change) == failing


def test_one_user_may_get_both_answers_only_at_the_same_time() -> None:
    def turn_away_a_holder(users: np.ndarray, answers: np.ndarray) -> None:
        users[220] = users[180]

    assert broken(turn_away_a_holder, seconds_each=40) == {"sold_out"}
    assert broken(turn_away_a_holder, seconds_each=41) == set()


def test_cross_check_sees_money_that_is_not_there() -> None:
    assert broken(lambda users, answers: None, remaining=1) == {"sum"}


@pytest.mark.parametrize("law", ["equal", "double_mean", "dirichlet"])
@pytest.mark.parametrize(("total", "packets"), [(1, 1), (2, 2), (500, 100), (123_456, 1_000), ((1 << 62) - 1, 3_000)])
def test_histogram_holds_every_amount_once(law: str, total: int, packets: int) -> None:
    amounts = hbcore.split(total, packets, law, seed=bytes.fromhex(SEED))
    bars = histogram(amounts)
    assert 1 <= len(bars) <= BARS
    assert (bars[0].low, bars[-1].high) == (amounts.min(), amounts.max())
    assert all(one.high + 1 == other.low for one, other in pairwise(bars))
    for bar in bars:
        assert bar.packets == np.count_nonzero((amounts >= bar.low) & (amounts <= bar.high))


def test_fairness_would_show_an_advantage() -> None:
    amounts = np.sort(hbcore.split(10_000_000, 100_000, seed=bytes.fromhex(SEED)))[::-1]
    found = fairness(amounts)
    assert found is not None
    assert found.deciles[0].best_share == pytest.approx(1)
    assert found.deciles[0].mean - found.deciles[-1].mean > 100
    assert fairness(amounts[: FAIRNESS_MINIMUM - 1]) is None


def test_fairness_does_not_see_an_advantage_where_there_is_none() -> None:
    """Ties at the border of the best hundredth are shared, not given to whoever comes first."""
    found = fairness(np.full(100_000, 7))
    assert found is not None
    assert {(tenth.mean, round(tenth.best_share, 9)) for tenth in found.deciles} == {(7.0, 0.1)}
    assert (found.mean_noise, round(found.best_noise, 9)) == (0, 0)
