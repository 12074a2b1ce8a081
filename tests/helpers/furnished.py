"""An engine with envelopes in several states, and everything that can be seen of an engine."""

from typing import Any

import numpy as np

import hbcore

SEED = bytes(range(32))


def seen(engine: hbcore.Engine) -> list[Any]:
    """Everything that can be seen of an engine, in a form that JSON gives back unchanged."""
    return [
        [
            [
                envelope.name,
                [value.hex() if isinstance(value, bytes) else value for value in envelope.terms],
                [*envelope.stats()[:4], list(envelope.stats().amounts)],
                [
                    [row["user"].tobytes().hex(), str(row["granted_at"]), *map(int, row[["packet", "amount", "state"]])]
                    for row in envelope.claims()
                ],
            ]
            for envelope in engine.envelopes()
        ],
        list(engine.audit()),
        engine.user_hash("someone").hex(),
    ]


def furnish(engine: hbcore.Engine) -> None:
    """Make envelopes with claims in every state."""
    for number, law in enumerate(("equal", "double_mean", "dirichlet")):
        envelope = engine.envelope(f"envelope {number} 红包", 30_000, 3000 if number else 5, law, min=2, seed=SEED)
        envelope.claim_many([f"user-{i}" for i in range(1200 if number else 4)])
        envelope.claim_many(np.arange(10**15, 10**15 + 100))
        for i in range(0, 700, 2):
            envelope.release(f"user-{i}")
        for i in range(1, 100, 2):
            envelope.settle(f"user-{i}")
    envelope.close()
