"""The rows of the table that one thread answers in batches, beside the reference and beside the bare C loop.

``rows/claims.py`` says what *fresh* and *touched* mean.
"""

from typing import Any

import numpy as np

import hbcore
from bench.measure import operations
from bench.measure.findings import Finding, faster, slower
from bench.measure.limit import bare_loop, fresh_bare_loop, library
from bench.measure.operations import FIRST_USER, MEAN
from bench.measure.pages import new_engine, touched_envelope
from bench.measure.turns import Case, Run, Scale
from hbcore import reference

BATCH = 100_000
"""The users of one call of ``claim_many``."""
TOUCHED = "touched, beside the bare C loop"
FRESH = "fresh, law equal, beside the bare C loop on fresh pages"


def claimed_in_batches(envelope: Any, count: int) -> Run:
    users = np.arange(FIRST_USER, FIRST_USER + count)

    def run() -> None:
        for start in range(0, count, BATCH):
            envelope.claim_many(users[start : start + BATCH])

    return run


def touched_batch(count: int) -> Run:
    return claimed_in_batches(touched_envelope(count), count)


def fresh_batch(count: int, law: str = "double_mean") -> Run:
    return claimed_in_batches(operations.new_envelope(hbcore, count, law), count)


def batch(scale: Scale) -> list[Finding]:
    count = scale.choose(100_000, 10_000)
    cases = {
        "touched": Case(lambda: touched_batch(count), count),
        "may lapse": Case(lambda: claimed_in_batches(touched_envelope(count, hold_seconds=3600), count), count),
        "fresh": Case(lambda: fresh_batch(count), count),
        "alone, fresh": Case(lambda: fresh_batch(count, "equal"), count),
        "reference": Case(lambda: operations.claim_many_alone(reference, count), count),
    }
    if library() is not None:
        cases["bare"] = Case(lambda: bare_loop(count), count)
        cases["bare, fresh"] = Case(lambda: fresh_bare_loop(count), count)
    times = scale.take_turns(cases, scale.choose(25, 2))
    what = f"claim_many of {count:,} int64, "
    found = [
        faster(what + "touched, beside the reference, law equal", times, "touched", "reference", 40),
        faster(what + "fresh, beside the reference, law equal", times, "alone, fresh", "reference", 40),
    ]
    found.append(slower(what + "claims that may lapse, beside others, touched", times, "may lapse", "touched", 1.1))
    if "bare" in cases:
        found.append(faster(what + TOUCHED, times, "touched", "bare", 0.5))
        found.append(faster(what + FRESH, times, "alone, fresh", "bare, fresh", 0.6))
    return [*found, *tens(scale)]


def tens(scale: Scale) -> list[Finding]:
    """Envelopes of ten packets, each claimed at once or one by one: the most common in the world, a chat's."""
    count = scale.choose(2_000, 200)
    users = np.arange(FIRST_USER, FIRST_USER + 10)
    numbers = users.tolist()

    def envelopes() -> list[Any]:
        engine = new_engine()
        return [engine.envelope(str(i), total=MEAN * 10, packets=10) for i in range(count)]

    def at_once() -> Run:
        made = envelopes()
        return lambda: [envelope.claim_many(users) for envelope in made]

    def one_by_one() -> Run:
        made = envelopes()

        def run() -> None:
            for envelope in made:
                claim = envelope.claim
                for user in numbers:
                    claim(user)

        return run

    cases = {"claim_many": Case(at_once, 10 * count), "claim": Case(one_by_one, 10 * count)}
    times = scale.take_turns(cases, scale.choose(25, 2))
    what = "claim_many of 10 in a new envelope of 10, beside ten claims"
    return [slower(what, times, "claim_many", "claim", 0.9)]


def large_batch(scale: Scale) -> list[Finding]:
    if library() is None:
        return [Finding("claim_many in memory, beside the bare C loop", "not measured: there is no C compiler")]
    count = scale.choose(5_000_000, 100_000)
    cases = {
        "touched": Case(lambda: touched_batch(count), count),
        "fresh": Case(lambda: fresh_batch(count, "equal"), count),
        "bare": Case(lambda: bare_loop(count), count),
        "bare, fresh": Case(lambda: fresh_bare_loop(count), count),
    }
    times = scale.take_turns(cases, scale.choose(9, 1))
    what = f"claim_many, {count:,} packets, "
    return [
        faster(what + TOUCHED, times, "touched", "bare", 0.5),
        faster(what + FRESH, times, "fresh", "bare, fresh", 0.6),
    ]
