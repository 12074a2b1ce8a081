"""The rows of the table that say what the laws cost: whole envelopes split, nanoseconds a packet."""

from functools import partial

import hbcore
from bench.measure import operations
from bench.measure.findings import NANOSECONDS, Finding, at_most
from bench.measure.turns import Case, Scale


def laws(scale: Scale) -> list[Finding]:
    count = scale.choose(1_024_000, 10_240)
    bars = {"equal": 5, "double_mean": 15, "dirichlet": 40}
    cases = {law: Case(partial(operations.split, hbcore, count, law), count) for law in bars}
    times = scale.take_turns(cases, scale.choose(15, 2))
    notes = {"dirichlet": ", c = 3"}
    return [
        at_most(f"law {law}{notes.get(law, '')}, per packet", times.figure(law), bar, NANOSECONDS)
        for law, bar in bars.items()
    ]
