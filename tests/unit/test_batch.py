"""A batch is its claims one after another, whatever its size and its form, and sees what each of them would see."""

import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine_files import word, write_word
from hypothesis import given
from hypothesis import strategies as st

import hbcore
import hbcore.reference
from hbcore import Status

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
SIZES = st.one_of(st.integers(0, 6), st.sampled_from([15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100]))
GROUP = 32  # users that the native core takes together


@given(data=st.data())
def test_batches_are_claims_one_after_another(data: st.DataObject) -> None:
    packets = data.draw(st.integers(1, 150), "packets")
    has_room = data.draw(st.booleans(), "room for a top-up")
    terms: dict[str, Any] = {
        "total": packets * 10, "packets": packets, "seed": SEED, "max_packets": packets + 40 * has_room,
        "hold_seconds": data.draw(st.sampled_from([None, 3600]), "hold_seconds"),
        "per_user": data.draw(st.integers(1, 2), "per_user"),
    }  # fmt: skip
    batched, single, reference = envelopes = [
        impl.Engine(key=KEY, capacity=1 << 24).envelope("e", **terms) for impl in (hbcore, hbcore, hbcore.reference)
    ]
    for turn in range(data.draw(st.integers(1, 5), "turns")):
        users = data.draw(st.lists(st.integers(-60, 120), min_size=(size := data.draw(SIZES)), max_size=size), "users")
        nth = data.draw(st.integers(0, terms["per_user"] - 1), "nth")
        form = data.draw(st.sampled_from([list, np.array, lambda users: np.array(users, np.int16)]), "form")
        rows = batched.claim_many(form(users) if users else [], nth)
        for other in (single, reference):
            claims = [other.claim(user, nth) for user in users]
            assert [(claim.status, claim.amount, -1 if claim.packet is None else claim.packet) for claim in claims] == [
                (Status(status), amount, packet) for status, amount, packet in rows.tolist()
            ]
        for user in data.draw(st.lists(st.sampled_from(users), max_size=10), "given back") if users else ():
            assert len({repr(envelope.release(user)) for envelope in envelopes}) == 1
        if turn == 0 and has_room and data.draw(st.booleans(), "a top-up"):
            for envelope in envelopes:
                envelope.top_up("more", 100, 10, seed=SEED)
    assert len({tuple(envelope.claims()["packet"].tolist()) for envelope in envelopes}) == 1


@pytest.mark.parametrize("packets", [1, 40, 64, 65, 3_000])
@pytest.mark.parametrize("terms", [{}, {"hold_seconds": 3600}, {"max_packets": 4_000}])
def test_a_batch_that_finds_nothing_left(impl: ModuleType, packets: int, terms: dict[str, Any]) -> None:
    envelope = impl.Engine().envelope("e", packets * 10, packets, "equal", **terms)
    first = envelope.claim_many(np.arange(packets + 100))
    assert first["status"].tolist() == [Status.GRANTED] * packets + [Status.SOLD_OUT] * 100
    later = envelope.claim_many(np.arange(packets - 1, packets + 200))
    assert later.tolist()[1:] == [(Status.SOLD_OUT, 0, -1)] * 200
    assert later[0].tolist() == (Status.REPEATED, 10, first["packet"][packets - 1])
    envelope.release(0)
    again = envelope.claim_many(np.arange(packets + 50, packets + 150))
    assert again["status"].tolist() == [Status.GRANTED] + [Status.SOLD_OUT] * 99
    envelope.close()
    assert (envelope.claim_many(np.arange(-100, 0))["status"] == Status.CLOSED).all()


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint8])
@pytest.mark.parametrize("count", [1, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP])
def test_a_user_of_a_batch_is_the_user_of_a_claim(dtype: type, count: int) -> None:
    low, high = max(-60, int(np.iinfo(dtype).min)), int(np.iinfo(dtype).max)
    users = np.array([*range(low, low + count - 1), high], dtype)
    envelope = hbcore.Engine().envelope("e", 1000, 200)
    rows = envelope.claim_many(users)
    assert (rows["status"] == Status.GRANTED).all()
    assert [envelope.find(int(user)).packet for user in users] == rows["packet"].tolist()
    assert (envelope.claim_many(users.tolist())["packet"] == rows["packet"]).all()


@pytest.mark.parametrize("count", [1, 5, 100])
def test_nobody_of_a_batch_is_granted_after_the_expiry(impl: ModuleType, count: int) -> None:
    envelope = impl.Engine().envelope("e", 1000, 200, expires_at=time.time() + 0.02)
    envelope.claim("early")  # the thread knows its place from here on
    while not envelope.closed:
        pass
    assert (envelope.claim_many(np.arange(count))["status"] == Status.CLOSED).all()
    assert envelope.claim("late").status is Status.CLOSED


@pytest.mark.parametrize("is_claimed", [False, True], ids=["to be granted", "repeated"])
@pytest.mark.parametrize("bit", [3, 9, 40, 63])
def test_a_damaged_amount_is_told_to_nobody_of_a_batch(path: Path, is_claimed: bool, bit: int) -> None:
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("e", 100_000, 100, seed=SEED)
        assert envelope.claim("first").packet == 0
        if is_claimed:
            envelope.claim_many(np.arange(40))
        first = path.read_bytes().index(engine.user_hash("first")) - 8
        for packet in (20, 21):
            amount = first + 32 * packet + 24
            write_word(path, amount, word(path, amount) ^ 1 << bit)
        with pytest.raises(hbcore.CorruptFileError, match="'e'"):
            envelope.claim_many(np.arange(40))
        found = sum(envelope.find(user) is not None for user in range(19))
        assert found == 19, "what came before the damage was granted"
        for user in (19, 20):
            if is_claimed:
                with pytest.raises(hbcore.CorruptFileError):
                    envelope.find(user)
            else:
                assert envelope.find(user) is None
