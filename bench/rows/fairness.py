"""Envelopes by each law, and by the classic that most services use: the figures of ``python -m bench fairness``."""

from typing import Any

import numpy as np

from hbcore import law

TOTAL, PACKETS = 10_000, 10
LAWS: dict[str, dict[str, Any]] = {
    "equal": {"law": "equal"},
    "dirichlet, c = 10": {"law": "dirichlet", "concentration": 10},
    "dirichlet, c = 3": {"law": "dirichlet", "concentration": 3},
    "double_mean": {"law": "double_mean"},
    "dirichlet, c = 1": {"law": "dirichlet", "concentration": 1},
}
CLASSIC = "double mean, not shuffled"
FAIR = ("double_mean", "dirichlet, c = 3")


def native_envelopes(count: int, family: int, arguments: dict[str, Any]) -> np.ndarray:
    """``count`` envelopes, one a row, by the amounts of their packets."""
    rows = np.empty((count, PACKETS), np.int64)
    for number in range(count):
        seed = (family << 64 | number).to_bytes(32, "little")
        rows[number] = law.split(TOTAL, PACKETS, seed=seed, **arguments)
    return rows


def classic_envelopes(count: int) -> np.ndarray:
    """Envelopes by the classic: uniform between one unit and twice the mean of what remains, in the order of claims."""
    random = np.random.default_rng(8)
    rows = np.empty((count, PACKETS), np.int64)
    rest = np.full(count, TOTAL - PACKETS)
    for packet in range(PACKETS - 1):
        share = random.integers(0, 2 * rest // (PACKETS - packet), endpoint=True)
        rows[:, packet] = share + 1
        rest -= share
    rows[:, -1] = rest + 1
    return rows


def spread(rows: np.ndarray) -> np.ndarray:
    """The standard deviation of the amount, by packet."""
    return rows.std(axis=0)


def best_chance(rows: np.ndarray) -> np.ndarray:
    """The chance of the best packet of the envelope, by packet; equals share it."""
    best = rows == rows.max(axis=1)[:, None]
    return (best / best.sum(axis=1)[:, None]).mean(axis=0)
