"""The end of an engine: what it still says when it is closed, and what becomes of pickled envelopes."""

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hbcore
from hbcore import AuditReport, Status

# ---- the audit and the end of an engine -----------------------------------------------------------------------------


def test_the_audit_counts_all_envelopes(impl: ModuleType) -> None:
    engine = impl.Engine()
    assert engine.audit() == AuditReport(0, 0, 0, 0, 0, 0, 0, 0)
    for name, packets in (("a", 10), ("b", 2000), ("c", 64)):
        engine.envelope(name, packets * 3, packets).claim_many(range(10))
    b = engine.envelope("b")
    settled = sum(b.settle(user).amount for user in range(4))
    b.release(9)
    refund = b.close()
    report = engine.audit()
    assert isinstance(report, AuditReport)
    assert report[:6] == (3, 2074, 25, 4, 1991, 6222)
    assert report.amount_settled == settled
    assert report.amount_granted == sum(engine.envelope(name).stats().amounts.granted for name in "abc")
    assert engine.envelope("b").close() == refund


CALLS: dict[str, Callable[[Any, Any], object]] = {
    "envelope": lambda engine, envelope: engine.envelope("e"),
    "envelope made": lambda engine, envelope: engine.envelope("f", 10, 1),
    "envelopes": lambda engine, envelope: engine.envelopes(),
    "user_hash": lambda engine, envelope: engine.user_hash("u"),
    "audit": lambda engine, envelope: engine.audit(),
    "claim": lambda engine, envelope: envelope.claim("u"),
    "claim_many": lambda engine, envelope: envelope.claim_many(["u"]),
    "claim_many of nobody": lambda engine, envelope: envelope.claim_many([]),
    "find": lambda engine, envelope: envelope.find("u"),
    "settle": lambda engine, envelope: envelope.settle("u"),
    "release": lambda engine, envelope: envelope.release("u"),
    "claims": lambda engine, envelope: envelope.claims(),
    "stats": lambda engine, envelope: envelope.stats(),
    "close": lambda engine, envelope: envelope.close(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_closed_engine_refuses_everything(impl: ModuleType, call: Callable[[Any, Any], object]) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 1000, 10)
    envelope.claim("u")
    assert engine.closed is False
    for _ in range(2):
        engine.close()
        assert engine.closed is True
        with pytest.raises(
            hbcore.EngineClosedError, match=r"^the engine is closed; open it anew with hbcore.Engine\(...\)$"
        ):
            call(engine, envelope)
    assert envelope.name == "e"


def test_an_engine_closes_at_the_end_of_its_with_block(impl: ModuleType) -> None:
    with impl.Engine() as engine:
        envelope = engine.envelope("e", 10, 1)
        assert envelope.claim("u")
    with pytest.raises(hbcore.EngineClosedError):
        envelope.claim("u")
    with pytest.raises(ZeroDivisionError), impl.Engine() as engine:
        raise ZeroDivisionError
    assert engine.closed


def test_closing_one_engine_leaves_the_others_alone(impl: ModuleType) -> None:
    one, two = impl.Engine(), impl.Engine()
    envelope = two.envelope("e", 10, 1)
    one.close()
    assert envelope.claim("u")


def test_an_envelope_outlives_the_name_of_its_engine(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 10, 1)
    assert envelope.claim("u")
    assert envelope.stats().granted == 1


def test_envelopes_are_made_by_engines_only() -> None:
    with pytest.raises(TypeError, match=r"Engine\.envelope"):
        hbcore.Envelope()


def test_objects_that_were_never_initialised_raise_and_do_not_crash() -> None:
    engine, envelope = hbcore.Engine.__new__(hbcore.Engine), hbcore.Envelope.__new__(hbcore.Envelope)
    for call in CALLS.values():
        with pytest.raises(hbcore.EngineClosedError):
            call(engine, envelope)


# ---- pickling -------------------------------------------------------------------------------------------------------


def test_what_lives_in_memory_cannot_be_pickled(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 10, 1)
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"^envelope 'e' lives in a memory engine, .* use a file"):
            duplicate(envelope)
        with pytest.raises(TypeError, match="pickle"):
            duplicate(engine)


def claim_elsewhere(envelope: hbcore.Envelope, user: str) -> tuple[hbcore.Claim, hbcore.Envelope]:
    """Run in a process of its own: ``envelope`` has come through a pickle and goes back through one."""
    return envelope.claim(user), envelope


def test_an_envelope_of_a_file_is_pickled_to_other_processes(tmp_path: Path) -> None:
    engine = hbcore.Engine(tmp_path / "gala.hb")
    envelope = engine.envelope("20:00", 1000, 10)
    mine = envelope.claim("here")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        answers = pool.starmap(claim_elsewhere, [(envelope, "here"), (envelope, "there"), (envelope, "there")])
    assert [back == envelope for _, back in answers] == [True] * 3, "it finds the engine that this process has open"
    assert (answers[0][0].status, answers[0][0].packet) == (Status.REPEATED, mine.packet)
    assert {answers[1][0].status, answers[2][0].status} == {Status.GRANTED, Status.REPEATED}
    assert envelope.find("there").packet == answers[1][0].packet == answers[2][0].packet
    engine.audit()


def test_a_pickled_envelope_opens_its_file_again(tmp_path: Path) -> None:
    path = tmp_path / "gala.hb"
    with hbcore.Engine(path) as engine:
        data = pickle.dumps(engine.envelope("e", 1000, 10))
        packet = engine.envelope("e").claim("u").packet
    envelope = pickle.loads(data)
    assert envelope.find("u").packet == packet
    assert pickle.loads(data) == envelope
    del envelope, engine
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)
    assert list(tmp_path.iterdir()) == [], "to look for an envelope makes no file"
    with hbcore.Engine(path) as another:
        other = another.envelope("e", 1000, 10)
        with pytest.raises(
            hbcore.ConflictError, match="another engine than the one that envelope 'e' was pickled from"
        ):
            pickle.loads(data)
        assert pickle.loads(pickle.dumps(other)) == other
