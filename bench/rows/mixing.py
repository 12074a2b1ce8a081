"""How fast ``resplit`` (hbcore/reference/law.py) comes to the capped Dirichlet law, for ``python -m bench mixing``.

The rate comes first: what is left, after one more round, of the slowest deviation in a large envelope, where pairs meet
at random. It is twice the third-largest eigenvalue of the operator "re-split a share with a random other one" (the two
above it are probability and money, which are kept), on a grid of 200 amounts. Then, exactly, the distance in total
variation between the law and what the rounds make of an even split, for envelopes small enough to list every state.
"""

import itertools
from math import comb

import numpy as np

CONCENTRATIONS = (1, 2, 3, 8, 64)
CAPS = (1.02, 1.1, 1.3, 1.5, 2.0, 3.0, 4.0)  # times the mean
GRID = 200
SMALL = ((2, 20), (3, 15), (4, 12), (5, 10))  # packets, units
ROUNDS = (8, 16, 32, 48)


def share_law(concentration: int, cap: float) -> np.ndarray:
    """The chances of a share of mean 1 in a large envelope: ``x**(c - 1) * exp(-tilt * x)`` up to the cap."""
    amounts = (np.arange(GRID) + 0.5) * cap / GRID

    def tilted(tilt: float) -> np.ndarray:
        logarithm = (concentration - 1) * np.log(amounts) - tilt * amounts
        chances = np.exp(logarithm - logarithm.max())
        return chances / chances.sum()

    low, high = -3000.0, 3000.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if tilted(middle) @ amounts > 1 else (low, middle)
    return tilted(low)


def rate(concentration: int, cap: float) -> float:
    chances = share_law(concentration, cap)
    both = np.convolve(chances, chances)
    operator = np.zeros((GRID, GRID))
    for total in range(2 * GRID - 1):
        one = np.arange(max(0, total - GRID + 1), min(GRID - 1, total) + 1)
        other = chances[total - one]
        if both[total] > 0:
            operator[np.ix_(one, one)] += np.outer(other, chances[one] * other / both[total])
    root = np.sqrt(chances)
    symmetric = root[:, None] * operator / root
    return 2 * float(np.linalg.eigvalsh((symmetric + symmetric.T) / 2)[-3])


def distances(packets: int, units: int, cap: int, concentration: int) -> list[float]:
    """The distance from the law after each of ROUNDS, exactly."""
    states = [state for state in itertools.product(range(cap + 1), repeat=packets) if sum(state) == units]
    number = {state: i for i, state in enumerate(states)}

    def ways(amount: int) -> float:
        return float(comb(amount + concentration - 1, concentration - 1))

    law = np.array([np.prod([ways(amount) for amount in state]) for state in states])
    law /= law.sum()

    def pair(a: int, b: int) -> np.ndarray:
        step = np.zeros((len(states), len(states)))
        for state, i in number.items():
            both = state[a] + state[b]
            choices = range(max(0, both - cap), min(both, cap) + 1)
            weights = np.array([ways(amount) * ways(both - amount) for amount in choices])
            for amount, chance in zip(choices, weights / weights.sum(), strict=True):
                after = list(state)
                after[a], after[b] = amount, both - amount
                step[i, number[tuple(after)]] += chance
        return step

    pairs = {(a, b): pair(a, b) for a, b in itertools.combinations(range(packets), 2)}
    one_round = np.zeros((len(states), len(states)))
    for fold in range(packets):
        folded = np.eye(len(states))
        for low, high in ((0, fold), (fold + 1, packets - 1)):
            while low < high:
                folded = folded @ pairs[low, high]
                low, high = low + 1, high - 1
        one_round += folded / packets
    chances = np.zeros(len(states))
    chances[number[tuple(units // packets + (i < units % packets) for i in range(packets))]] = 1
    found = []
    for done in range(1, max(ROUNDS) + 1):
        chances = chances @ one_round
        if done in ROUNDS:
            found.append(abs(chances - law).sum() / 2)
    return found
