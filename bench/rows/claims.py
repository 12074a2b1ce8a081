"""The rows of the table that one thread answers one by one: claims, and the answers that grant nothing.

*Fresh* is a claim with all that a new envelope costs: its memory is touched for the first time, its packets are split
by ``double_mean``. *Touched* is the claim alone: pages that are there, and the law ``equal``, which splits for next to
nothing. Both are measured, and both are held against the bar.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import hbcore
from bench.measure import operations
from bench.measure.findings import NANOSECONDS, Finding, at_most, faster, slower
from bench.measure.limit import in_envelopes, stub, stub_claims
from bench.measure.operations import FIRST_USER, MEAN, for_each, integers, texts
from bench.measure.pages import new_engine, survives_without_writing, touch, touched_envelope
from bench.measure.turns import Case, Run, Scale
from bench.rows.batches import touched_batch
from hbcore import reference


def touched_scalar(users: list[Any]) -> Run:
    return for_each(touched_envelope(len(users)).claim, users)


def kept(call: Callable[[Any], object], users: list[Any]) -> Run:
    """Claims whose answers are kept, so that each is a new object in new memory."""
    return lambda: [call(user) for user in users]


def touched_envelopes(count: int, packets: int) -> Run:
    """Claims in envelopes of so many packets whose pages are touched."""
    engine = new_engine()
    envelopes = [
        engine.envelope(str(number), total=MEAN * packets, packets=packets, law="equal")
        for number in range(count // packets)
    ]
    touch(engine)
    return in_envelopes([envelope.claim for envelope in envelopes], packets)


def beside_the_stub(scale: Scale) -> list[Finding]:
    if stub() is None:
        return [Finding("claim of an int, touched, beside the stub", "not measured: it needs Cython and a C compiler")]
    count, found = scale.choose(100_000, 5_000), []
    for packets in scale.choose((1_000, 100_000), (1_000, 5_000)):
        cases = {
            "touched": Case(partial(touched_envelopes, count, packets), count),
            "stub": Case(partial(stub_claims, count, packets), count),
        }
        times = scale.take_turns(cases, scale.choose(25, 2))
        what = f"claim of an int, touched, {packets:,} packets, beside a stub with its memory work"
        found.append(slower(what, times, "touched", "stub", 1.35))
    return found


def scalar(scale: Scale) -> list[Finding]:
    count = scale.choose(100_000, 5_000)
    cases = {
        "touched": Case(lambda: touched_scalar(integers(count)), count),
        "text, touched": Case(lambda: touched_scalar(texts(count)), count),
        "fresh": Case(lambda: operations.claim_integer(hbcore, count), count),
        "alone, fresh": Case(lambda: operations.claim_alone(hbcore, count), count),
        "kept": Case(lambda: kept(touched_envelope(count).claim, integers(count)), count),
        "reference": Case(lambda: operations.claim_alone(reference, count), count),
    }
    times = scale.take_turns(cases, scale.choose(25, 2))
    return [
        at_most("claim of an int, touched", times.figure("touched"), 150, NANOSECONDS),
        at_most("claim of an int, fresh", times.figure("fresh"), 150, NANOSECONDS),
        Finding("the same, and all answers are kept", NANOSECONDS.format(times.figure("kept"))),
        faster("claim of an int, fresh, beside the reference, law equal", times, "alone, fresh", "reference", 8),
        slower("claim of a 16-character str, touched, beside an int", times, "text, touched", "touched", 1.25),
        *beside_the_stub(scale),
    ]


def answered_again(count: int, form: str, sold_out: bool) -> Run:
    """Claims of a touched envelope that is sold out: by those who have a packet, or by others."""
    envelope = touched_envelope(count)
    envelope.claim_many(np.array(integers(count)))
    first = FIRST_USER + (count if sold_out else 0)
    users = np.arange(first, first + count)
    return for_each(envelope.claim, users.tolist()) if form == "claim" else lambda: envelope.claim_many(users)


def answers(scale: Scale) -> list[Finding]:
    count = scale.choose(100_000, 5_000)
    grants = {"claim": lambda: touched_scalar(integers(count)), "claim_many": lambda: touched_batch(count)}
    found = []
    for form, grant in grants.items():
        cases = {
            "grant": Case(grant, count),
            "repeated": Case(partial(answered_again, count, form, False), count),
            "sold out": Case(partial(answered_again, count, form, True), count),
        }
        times = scale.take_turns(cases, scale.choose(15, 2))
        for name in ("repeated", "sold out"):
            found.append(slower(f"{form}, {name}, beside a touched grant", times, name, "grant", 1))
    return [*found, writes_nothing(scale)]


def writes_nothing(scale: Scale) -> Finding:
    """Answer SOLD_OUT where every write to the engine is a fault; and see that a grant is one there."""
    count = scale.choose(10_000, 1_000)
    engine = hbcore.Engine()
    sold = engine.envelope("sold", total=MEAN * count, packets=count)
    left = engine.envelope("left", total=MEAN * count, packets=count)
    users = np.arange(FIRST_USER, FIRST_USER + count)
    sold.claim_many(users)

    def register() -> None:
        left.claim(FIRST_USER)
        sold.claim(FIRST_USER - 1)  # the first to be told so notes it for all others

    def ask() -> None:
        for user in integers(count):
            assert sold.claim(user + count).status is hbcore.Status.SOLD_OUT
        assert (sold.claim_many(users + count)["status"] == hbcore.Status.SOLD_OUT).all()

    if survives_without_writing(register, lambda: left.claim(FIRST_USER + 1)):
        raise RuntimeError("a grant is no fault in memory that is read-only: this check proves nothing here")
    survived = survives_without_writing(register, ask)
    what = f"{2 * count:,} answers SOLD_OUT where a write to the engine is a fault"
    return Finding(what, "no fault" if survived else "a fault", "writes nothing shared", survived)
