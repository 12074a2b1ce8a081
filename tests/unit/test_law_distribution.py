"""The distribution of every law: that of what people expect, counted here, and no luck in a packet's number.

Hundreds of thousands of envelopes are compared with chances that are counted in integers of any size, by ways that the
laws themselves do not use. They run on the native twin; the reference gives the same amounts bit for bit, which
``test_law.py`` shows.

Every statistical test uses fixed seeds. A family of ``n`` tests fails a correct law with a probability of at most
1e-6: each test alone is allowed 1e-6 / n (Bonferroni).
"""

from collections import Counter
from fractions import Fraction
from itertools import pairwise, permutations
from math import comb, factorial, sqrt

import numpy as np
import pytest
from marks import full_but
from scipy.stats import chi2, norm

from hbcore import law as native
from hbcore import reference

pytestmark = pytest.mark.full

FALSE_ALARM = 1e-6


def seed_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


# ---- the distribution of every split of small envelopes ---------------------------------------------------------


def envelopes(count: int, packets: int, family: int, **case) -> np.ndarray:
    """``count`` envelopes of the same terms, one a row, with seeds of their own."""
    rows = np.empty((count, packets), np.int64)
    for number in range(count):
        rows[number] = native.split(packets=packets, seed=seed_of(family << 64 | number), **case)
    return rows


def every_split(total: int, packets: int, low: int, high: int) -> list[tuple[int, ...]]:
    """All lists of ``packets`` amounts within ``low .. high`` that sum to ``total``."""
    if not packets * low <= total <= packets * high:
        return []
    if packets == 0:
        return [()]
    return [
        (amount, *rest)
        for amount in range(low, min(high, total) + 1)
        for rest in every_split(total - amount, packets - 1, low, high)
    ]


def check_every_split(rows: np.ndarray, weights: dict[tuple[int, ...], Fraction], tests: int) -> None:
    """Chi-square of how often each split was drawn against its weight; those of the least weights count together."""
    counts = Counter(map(tuple, rows.tolist()))
    assert set(counts) <= set(weights)
    scale = Fraction(len(rows)) / sum(weights.values())
    statistic, cells, rare, rare_expected = 0.0, 0, 0, 0.0
    for split, weight in weights.items():
        expected = float(weight * scale)
        if expected < 20:
            rare, rare_expected = rare + counts[split], rare_expected + expected
        else:
            statistic, cells = statistic + (counts[split] - expected) ** 2 / expected, cells + 1
    if rare_expected >= 20:
        statistic, cells = statistic + (rare - rare_expected) ** 2 / rare_expected, cells + 1
    assert cells > 1
    assert chi2.sf(statistic, cells - 1) > FALSE_ALARM / tests


UNIFORM = {
    # total, packets, min, max
    "no bound binds": (12, 4, 1, None),
    "a minimum": (23, 4, 4, None),
    "a maximum": (14, 4, 1, 6),
    "a maximum, mirrored": (20, 4, 1, 6),
    "both": (30, 5, 4, 8),
    "both, mirrored": (33, 5, 4, 8),
    "fewer units than packets": (9, 6, 1, None),
    "fewer units than packets, a maximum": (12, 8, 1, 2),
    "two packets": (100, 2, 1, None),
    "three packets, sorted places": (84, 3, 1, None),
    "one below the maxima": (199, 50, 2, 4),
}


@pytest.mark.parametrize("name", full_but(UNIFORM, "both"))
def test_dirichlet_with_concentration_one_is_uniform_over_every_split(name):
    total, packets, low, high = UNIFORM[name]
    splits = every_split(total, packets, low, high or total)
    rows = envelopes(200_000, packets, 1, total=total, law="dirichlet", concentration=1, min=low, max=high)
    check_every_split(rows, dict.fromkeys(splits, Fraction(1)), len(UNIFORM))


WEIGHTED = {
    # total, packets, min, max, concentration
    "no bound binds": (12, 4, 1, None, 3),
    "a minimum": (23, 4, 4, None, 2),
    "a maximum": (14, 4, 1, 6, 3),
    "both": (30, 5, 4, 8, 8),
    "fewer units than cells": (10, 6, 1, None, 64),
    "three packets": (31, 3, 1, 15, 3),
    # Rejection fails here: a deficit of four units below four maxima of 101.
    "a tight maximum": (404, 4, 1, 102, 3),
    "a tight maximum, odd sums": (407, 4, 1, 103, 2),
    "a tight maximum, gentle": (204, 4, 1, 52, 8),
}


@pytest.mark.parametrize("name", full_but(WEIGHTED, "both"))
def test_dirichlet_gives_every_split_its_weight(name):
    # A share of x units (above the minimum) can be cut into c cells in comb(x + c - 1, c - 1) ways.
    total, packets, low, high, cells = WEIGHTED[name]
    weights = {}
    for split in every_split(total, packets, low if total < 100 else total // packets - 10, high or total):
        weights[split] = Fraction(1)
        for amount in split:
            weights[split] *= comb(amount - low + cells - 1, cells - 1)
    rows = envelopes(100_000, packets, 2, total=total, law="dirichlet", concentration=cells, min=low, max=high)
    check_every_split(rows, weights, len(WEIGHTED))


def double_mean_chance(draws: tuple[int, ...], low: int, high: int) -> Fraction:
    """The chance that the classic draws just these amounts, in this order."""
    chance, rest = Fraction(1), sum(draws)
    for i, amount in enumerate(draws[:-1]):
        left = len(draws) - i
        least = max(low, rest - (left - 1) * high)
        most = min(high, low + 2 * (rest - left * low) // left)
        if not least <= amount <= most:
            return Fraction(0)
        chance /= most - least + 1
        rest -= amount
    return chance


DOUBLE_MEAN = {
    # total, packets, min, max
    "no bound binds": (16, 4, 1, None),
    "a minimum": (26, 4, 4, None),
    "a maximum": (18, 4, 1, 6),
    "a tight maximum": (22, 4, 2, 6),
    "two packets": (50, 2, 1, None),
    "five packets": (15, 5, 1, 5),
}


@pytest.mark.parametrize("name", full_but(DOUBLE_MEAN, "a maximum"))
def test_double_mean_is_the_classic_shuffled(name):
    total, packets, low, high = DOUBLE_MEAN[name]
    weights = {
        split: sum(double_mean_chance(order, low, high or total) for order in permutations(split))
        for split in every_split(total, packets, low, high or total)
    }
    assert sum(weights.values()) == factorial(packets)
    weights = {split: weight for split, weight in weights.items() if weight}
    rows = envelopes(100_000, packets, 3, total=total, law="double_mean", min=low, max=high)
    check_every_split(rows, weights, len(DOUBLE_MEAN))


EQUAL = [(13, 6), (50, 7), (9, 2), (41, 8)]


@pytest.mark.full
@pytest.mark.parametrize(("total", "packets"), EQUAL)
def test_equal_gives_the_odd_units_to_every_set_of_packets_alike(total, packets):
    base = total // packets
    splits = every_split(total, packets, base, base + 1)
    assert len(splits) == comb(packets, total % packets)
    rows = envelopes(100_000, packets, 4, total=total, law="equal")
    check_every_split(rows, dict.fromkeys(splits, Fraction(1)), len(EQUAL))


# ---- the Dirichlet law in larger envelopes ----------------------------------------------------------------------


def check_histogram(values: np.ndarray, ways: list[int], tests: int) -> None:
    """Chi-square of values against the number of ways to each, in groups of neighbours of about 50 expected each."""
    every = sum(ways)
    expected = np.array([way / every for way in ways]) * len(values)
    counts = np.bincount(values, minlength=len(ways))
    assert len(counts) == len(ways)
    groups = (np.cumsum(expected) / 50).astype(int)
    groups = np.unique(np.minimum(groups, groups[-1] - 1), return_inverse=True)[1]
    expected, counts = np.bincount(groups, expected), np.bincount(groups, counts)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, len(expected) - 1) > FALSE_ALARM / tests


def check_one_and_half(rows: np.ndarray, ways_of_one: list[int], ways_of_half: list[int], tests: int) -> None:
    """What one packet holds, and what half of them hold together.

    The packets of an envelope are independent but for their sum, which makes their counts vary less than independent
    ones: the chi-square of all packets together is on the safe side.
    """
    packets = rows.shape[1]
    check_histogram(rows.ravel(), ways_of_one, 3 * tests)
    check_histogram(rows[:, : packets // 2].sum(axis=1), ways_of_half, 3 * tests)
    check_histogram(rows[:, ::2].sum(axis=1), ways_of_half, 3 * tests)


def ways_to_fill(cells: int, units: int) -> list[int]:
    """In how many ways so many cells can hold 0, 1, .. ``units`` units."""
    ways = [1]
    for held in range(1, units + 1):
        ways.append(ways[-1] * (held + cells - 1) // held)
    return ways


# Concentration and mean: more cells than units, a map of the places, places that are sorted.
LOOSE = [(1, 20), (1, 100), (3, 2), (3, 20), (3, 150), (8, 100)]


@pytest.mark.full
@pytest.mark.parametrize(("cells", "mean"), LOOSE)
def test_without_a_maximum_the_law_is_the_one_that_counting_gives(cells, mean):
    packets, count = 64, 20_000
    excess = packets * mean
    rows = envelopes(count, packets, 10, total=excess + packets, law="dirichlet", concentration=cells) - 1
    one, half, others = (ways_to_fill(cells * number, excess) for number in (1, packets // 2, packets - 1))
    ways_of_one = [a * b for a, b in zip(one, reversed(others), strict=True)]
    check_one_and_half(rows, ways_of_one, [a * b for a, b in zip(half, reversed(half), strict=True)], len(LOOSE))


def power(base: int, exponent: int, mask: int) -> int:
    result = 1
    for bit in bin(exponent)[2:]:
        result = result * result & mask
        if bit == "1":
            result = result * base & mask
    return result


def capped_ways(excess: int, packets: int, cap: int, cells: int) -> list[list[int]]:
    """In how many ways one, half of the and all but one of the packets can hold 0, 1, .. ``excess`` units.

    The coefficients of powers of one polynomial, worked out in one huge integer (Kronecker substitution).
    """
    bits = comb(excess + packets * cells - 1, excess).bit_length() + 1
    mask = (1 << bits * (excess + 1)) - 1
    one = sum(comb(amount + cells - 1, cells - 1) << bits * amount for amount in range(cap + 1))
    digit = (1 << bits) - 1
    return [
        [polynomial >> bits * units & digit for units in range(excess + 1)]
        for polynomial in (one, power(one, packets // 2, mask), power(one, packets - 1, mask))
    ]


TIGHT = [  # concentration, mean, cap
    (1, 20, 30),
    (1, 20, 40),
    (1, 20, 60),
    (3, 3, 5),
    (3, 20, 24),
    (3, 20, 30),
    (3, 20, 40),
    (3, 20, 60),
    (8, 20, 24),
]


@pytest.mark.full
@pytest.mark.parametrize(("cells", "mean", "cap"), TIGHT)
def test_a_tight_maximum_gives_the_law_that_counting_gives(cells, mean, cap):
    # In all of these rejection fails nearly always, and the shares are brought to the law by resplit.
    packets, count = 64, 20_000
    excess = packets * mean
    rows = envelopes(count, packets, 5, total=excess + packets, law="dirichlet", concentration=cells, max=cap + 1) - 1
    one, half, others = capped_ways(excess, packets, cap, cells)
    ways_of_one = [a * b for a, b in zip(one, reversed(others), strict=True)]
    check_one_and_half(rows, ways_of_one, [a * b for a, b in zip(half, reversed(half), strict=True)], len(TIGHT))


# ---- position is no advantage -----------------------------------------------------------------------------------


def shared_indicator(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """1 for the packet whose amount is the chosen one; packets with the same amount share it."""
    equal = rows == chosen[:, None]
    return equal / equal.sum(axis=1)[:, None]


def views(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What must not depend on the packet's number: by mean, the mean, the variance and the two chances."""
    deviations = rows - rows.sum(axis=1)[:, None] / rows.shape[1]
    return {
        "mean": deviations,
        "variance": deviations**2,
        "best": shared_indicator(rows, rows.max(axis=1)),
        "worst": shared_indicator(rows, rows.min(axis=1)),
    }


def position_chance(values: np.ndarray) -> float:
    """The p-value of means by position that differ, for values that are exchangeable within each row.

    The spread of the means around their mean, over the variance within rows, is chi-square distributed with one degree
    of freedom less than there are positions, however the values of a row depend on each other.
    """
    count, positions = values.shape
    within = values.var(axis=1, ddof=1).mean()
    if within == 0:
        return 1.0
    means = values.mean(axis=0)
    return float(chi2.sf(count * ((means - means.mean()) ** 2).sum() / within, positions - 1))


def mean_chance(values: np.ndarray) -> float:
    """The p-value of independent values whose mean should be zero."""
    error = values.std() / sqrt(len(values))
    if error == 0:
        return 1.0 if abs(values.mean()) < 1e-9 else 0.0
    return float(2 * norm.sf(abs(values.mean()) / error))


EXCHANGEABLE = {
    "equal": {"law": "equal", "total": 10_003},
    "equal, many odd": {"law": "equal", "total": 10_007, "max": 1_001},
    "double_mean": {"law": "double_mean", "total": 10_000},
    "double_mean, minimum": {"law": "double_mean", "total": 10_000, "min": 700},
    "double_mean, maximum": {"law": "double_mean", "total": 10_000, "max": 1_300},
    "double_mean, both": {"law": "double_mean", "total": 10_000, "min": 500, "max": 1_800},
    "dirichlet 1": {"law": "dirichlet", "total": 10_000, "concentration": 1},
    "dirichlet 1, minimum": {"law": "dirichlet", "total": 10_000, "concentration": 1, "min": 700},
    "dirichlet 1, maximum": {"law": "dirichlet", "total": 10_000, "concentration": 1, "max": 2_500},
    "dirichlet 1, mirrored": {"law": "dirichlet", "total": 10_000, "concentration": 1, "max": 1_500},
    "dirichlet 1, few units": {"law": "dirichlet", "total": 16, "concentration": 1},
    "dirichlet 3": {"law": "dirichlet", "total": 10_000, "concentration": 3},
    "dirichlet 3, both": {"law": "dirichlet", "total": 10_000, "concentration": 3, "min": 500, "max": 1_800},
    "dirichlet 3, tight": {"law": "dirichlet", "total": 10_000, "concentration": 3, "max": 1_040},
    "dirichlet 8": {"law": "dirichlet", "total": 10_000, "concentration": 8},
}


@pytest.mark.parametrize("name", full_but(EXCHANGEABLE, "double_mean"))
def test_no_packet_of_a_small_envelope_is_better(name):
    rows = envelopes(60_000, 10, 6, **EXCHANGEABLE[name])
    tests = 7 * len(EXCHANGEABLE)
    for view, values in views(rows).items():
        assert position_chance(values) > FALSE_ALARM / tests, view
    # Two neighbours vary together as any two packets do. Over all pairs of a row the mean product of deviations is
    # -(sum of squares) / (n * (n - 1)), because the deviations sum to zero.
    deviations = rows - rows.sum(axis=1)[:, None] / 10
    any_two = -(deviations**2).sum(axis=1) / (10 * 9)
    for distance in (1, 2, 5):
        neighbours = (deviations * np.roll(deviations, distance, axis=1)).mean(axis=1)
        assert mean_chance(neighbours - any_two) > FALSE_ALARM / tests, distance


LARGER = {
    "equal": {"law": "equal", "total": 64 * 20 + 31},
    "double_mean": {"law": "double_mean", "total": 64 * 20},
    "dirichlet 1, tight": {"law": "dirichlet", "total": 64 * 20, "concentration": 1, "max": 41},
    "dirichlet 3, tight": {"law": "dirichlet", "total": 64 * 20, "concentration": 3, "max": 25},
}


@pytest.mark.parametrize("name", full_but(LARGER, "double_mean"))
def test_no_packet_of_a_larger_envelope_is_better(name):
    rows = envelopes(40_000, 64, 7, **LARGER[name])
    for view, values in views(rows).items():
        assert position_chance(values) > FALSE_ALARM / (4 * len(LARGER)), view


STRATA = {
    # Strata of 513 and 512 packets, of 834, 833 and 833, and so on; totals that do not divide by them.
    "equal, one odd unit": (1_025, {"law": "equal", "total": 1_026}),
    "equal": (2_500, {"law": "equal", "total": 6_251}),
    "double_mean": (1_025, {"law": "double_mean", "total": 3_000}),
    "double_mean, maximum": (2_049, {"law": "double_mean", "total": 5_001, "max": 4}),
    "dirichlet 1": (1_500, {"law": "dirichlet", "total": 4_001, "concentration": 1}),
    "dirichlet 1, few units": (1_025, {"law": "dirichlet", "total": 1_028, "concentration": 1}),
    "dirichlet 3": (2_500, {"law": "dirichlet", "total": 12_502, "concentration": 3}),
    "dirichlet 3, minimum": (1_031, {"law": "dirichlet", "total": 5_000, "concentration": 3, "min": 4}),
}


@pytest.mark.parametrize("name", full_but(STRATA, "double_mean"))
def test_no_packet_of_several_strata_is_better(name):
    packets, case = STRATA[name]
    starts = [reference.stratum_start(packets, stratum) for stratum in range(reference.stratum_count(packets) + 1)]
    ends = [0, 1, packets - 2, packets - 1]
    borders = [border + side for border in starts[1:-1] for side in (-1, 0)]
    differences: dict[str, list[np.ndarray]] = {view: [] for view in ("mean", "variance", "best", "worst")}
    for chunk in range(20):  # of 500 envelopes: the rows of all would not fit
        rows = envelopes(500, packets, 8 << 32 | chunk, **case)
        for view, values in views(rows).items():
            everywhere = values.mean(axis=1)
            places = [values[:, place] for place in ends + borders]
            # The packets that would make up each stratum if they were not put at a random position.
            places += [values[:, start:end].mean(axis=1) for start, end in pairwise(starts)]
            differences[view].append(np.array(places) - everywhere)
    for view, found in differences.items():
        for number, values in enumerate(np.concatenate(found, axis=1)):
            assert mean_chance(values) > FALSE_ALARM / (4 * 12 * len(STRATA)), (view, number)


@pytest.mark.parametrize("packets", [1_025, 2_500])
def test_the_odd_unit_of_several_strata_can_be_anywhere(packets):
    # Without the rotation it would always be in the last stratum.
    found = [native.split(packets + 1, packets, "equal", seed=seed_of(9 << 64 | n)).argmax() for n in range(40_000)]
    counts = np.bincount(np.array(found) // 25, minlength=packets // 25)
    statistic = ((counts - counts.mean()) ** 2).sum() / counts.mean()
    assert chi2.sf(statistic, packets // 25 - 1) > FALSE_ALARM / 2
