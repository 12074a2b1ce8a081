"""The figures of a rain or a replay: pure functions of NumPy arrays of answers, and the records that they return.

Nothing here knows of processes, files or terminals; ``report`` puts these figures into words and into JSON.
"""

from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DECILES = 10
BARS = 20
BLOCK_MINIMUM = 2048
"""Packets are split in strata of 1,024, and what lies in one stratum is not independent: good packets come in
clusters, and the sum of a stratum is fixed. Chance is therefore measured between blocks of at least two strata."""
FAIRNESS_MINIMUM = DECILES * BLOCK_MINIMUM
"""Fewer packets than this say nothing about fairness."""


@dataclass(frozen=True)
class Pace:
    """The speed of answers. ``seconds`` is wall clock, from the first request to the last answer."""

    requests: int
    granted: int
    seconds: float

    @property
    def requests_per_second(self) -> float:
        """Requests answered a second; 0 where there was nothing to measure."""
        return self.requests / self.seconds if self.seconds > 0 else 0.0

    @property
    def granted_per_second(self) -> float:
        """Packets given out a second."""
        return self.granted / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Phase:
    """One timed stretch: the pace of all processes together, and of each (none where there was only one process)."""

    key: str
    title: str
    together: Pace
    processes: tuple[Pace, ...] = ()


@dataclass(frozen=True)
class Check:
    """One thing that must be true of the answers, and what was found."""

    key: str
    title: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Lucky:
    """The best packet that was granted; the first of them if several are as good. ``arrival`` counts from 1."""

    amount: int
    packet: int
    user: str | int
    arrival: int


class Bar(NamedTuple):
    """One bar of the histogram: how many amounts lie within ``low .. high``, both included."""

    low: int
    high: int
    packets: int


class Decile(NamedTuple):
    """One tenth of the grants by arrival: their number, their mean, and their part of the best hundredth."""

    packets: int
    mean: float
    best_share: float


class Fairness(NamedTuple):
    """The deciles of arrival, and roughly how far chance alone moves them (two standard deviations)."""

    deciles: tuple[Decile, ...]
    mean_noise: float
    best_noise: float


def round_up(value: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... that is at least ``value``."""
    power = int(10 ** (len(str(value)) - 1))
    for step in (1, 2, 5):
        if step * power >= value:
            return step * power
    return 10 * power


def histogram(amounts: NDArray[np.int64]) -> list[Bar]:
    """Count the amounts in at most 20 bars of one round width (fewer for few amounts); the last takes the long tail.

    The tail (the largest two in a thousand) gets one bar, because a linear scale up to the luckiest packet would
    squeeze everybody else into the first few.
    """
    if len(amounts) == 0:
        return []
    bars = min(BARS, 4 + isqrt(len(amounts)))
    low, high = int(amounts.min()), int(amounts.max())
    tail_rank = len(amounts) - 1 - len(amounts) // 500
    body_high = int(np.partition(amounts, tail_rank)[tail_rank])
    # Bars begin at multiples of the width, so one more may be needed at the start, and one is kept for the tail.
    width = 1 if high - low < bars else round_up(-(-(body_high - low + 1) // max(1, bars - 2)))
    start = low // width * width
    last = min((body_high - start) // width + 1, (high - start) // width)
    counts = np.bincount(np.minimum((amounts - start) // width, last), minlength=last + 1)
    result = []
    for i in range(last + 1):
        first = max(low, start + i * width)
        end = start + (i + 1) * width - 1 if i < last else high
        result.append(Bar(first, end, int(counts[i])))
    return result


def fairness(amounts: NDArray[np.int64]) -> Fairness | None:
    """Compare the deciles of arrival: mean amount, and part of the best hundredth of all packets.

    ``amounts`` are the granted ones in order of arrival; None if there are fewer than ``FAIRNESS_MINIMUM``. Amounts
    that tie at the border of the best hundredth share the places left there: to pick any of them would favour a
    position.
    """
    count = len(amounts)
    if count < FAIRNESS_MINIMUM:
        return None
    best = count // 100
    border = np.partition(amounts, count - best)[count - best]
    above = int(np.count_nonzero(amounts > border))
    tie_part = (best - above) / int(np.count_nonzero(amounts == border))
    worth = (amounts > border) + tie_part * (amounts == border)
    deciles = tuple(
        Decile(len(part), float(part.mean()), float(won.sum() / best))
        for part, won in zip(np.array_split(amounts, DECILES), np.array_split(worth, DECILES), strict=True)
    )
    blocks = DECILES * min(10, count // FAIRNESS_MINIMUM)
    # A decile is a mean over this many blocks, drawn without replacement from all of them: hence the 1 - 1 / DECILES.
    scale = 2 * ((1 - 1 / DECILES) / (blocks / DECILES)) ** 0.5
    means = [part.mean() for part in np.array_split(amounts, blocks)]
    shares = [won.sum() / best * blocks / DECILES for won in np.array_split(worth, blocks)]
    return Fairness(deciles, scale * float(np.std(means, ddof=1)), scale * float(np.std(shares, ddof=1)))
