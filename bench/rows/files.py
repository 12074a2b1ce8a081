"""A claim in an engine of which every packet was claimed and released before: the rows of ``python -m bench files``.

So neither a file nor memory pays for pages or for splitting.
"""

from collections.abc import Callable

import numpy as np

import hbcore
from bench.measure.operations import for_each
from bench.measure.turns import Run, timed

BAR = 1.10


def scalar(envelope: hbcore.Envelope, users: np.ndarray) -> Run:
    return for_each(envelope.claim, users.tolist())


def batch(envelope: hbcore.Envelope, users: np.ndarray) -> Run:
    return lambda: envelope.claim_many(users)


def measure(
    engine: hbcore.Engine, name: str, users: np.ndarray, form: Callable[[hbcore.Envelope, np.ndarray], Run]
) -> float:
    """Return nanoseconds a claim, of packets that were all claimed and released before."""
    envelope = engine.envelope(name, total=100 * len(users), packets=len(users))
    envelope.claim_many(users)
    for user in users.tolist():
        envelope.release(user)
    return timed(form(envelope, users), len(users))


FORMS = (scalar, batch)
