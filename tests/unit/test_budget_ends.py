"""What ends half-way, or nearly: refusals, full engines, closers that die, audits of what is just moving, damage."""

import os
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from children import Child, Say
from engine_files import FIRST_EXTENT

import hbcore
from hbcore import Status

ENVELOPE = 2  # of format.h: the kind of an extent
TOTAL = 64  # and where its total stands
NEXT = 528  # where the number of the next hold stands in a budget
CLOSED = 192  # and where the time of closing stands in an envelope


def test_a_refusal_takes_no_space(tmp_path: Path) -> None:
    engine = hbcore.Engine(tmp_path / "e.hb")
    root = engine.budget("root", 100)
    below = root.budget("below", 60)
    used = engine.info().used
    for number in range(10):
        with pytest.raises(hbcore.InsufficientBudgetError):
            root.budget("more", 41)
        with pytest.raises(hbcore.InsufficientBudgetError):
            root.envelope("more", total=100_000, packets=100_000)
        assert below.top_up(number, 41).status is Status.INSUFFICIENT
    root.close()
    with pytest.raises(hbcore.InsufficientBudgetError, match=r"^budget 'root' is closed$"):
        root.envelope("more", total=40, packets=4)
    assert engine.info().used == used
    assert root.stats() == (100, 40, 60, 0)


def test_a_child_is_used_also_where_the_directory_has_no_room_for_its_name(tmp_path: Path) -> None:
    """A bucket of the directory is full, and there is no space for its next level: the money is not stranded."""
    engine = hbcore.Engine(tmp_path / "e.hb", capacity=2**20 + 2**18)
    root = engine.budget("root", 10**6)
    for number in range(4000):
        try:
            engine.envelope(f"{number}", total=10, packets=1)
        except hbcore.EngineFullError as error:
            break_at, words = number, str(error)
            break
    # what made that one impossible makes no child impossible, until there is no space at all
    made = 0
    for number in range(4000):
        try:
            root.envelope(f"below {number}", total=10, packets=1)
        except hbcore.EngineFullError:
            break
        made += 1
    assert root.stats() == (10**6, 10**6 - 10 * made, 10 * made, 0), (break_at, words)
    assert all(root.envelope(f"below {number}").claim("u") for number in range(made))
    assert len(engine.envelopes()) == break_at + made
    assert engine.audit().granted == made
    assert engine.sweep() == 0


def test_the_space_of_a_child_whose_hold_has_no_room_can_be_used_again() -> None:
    engine = hbcore.Engine(capacity=2**20)
    root = engine.budget("root", 10**6)
    for key in range(20_000):  # one key finds no room in a crowded part of the index where another still does
        with suppress(hbcore.EngineFullError):
            root.reserve(key, 1)
    left = root.stats().available
    for number in range(1000):
        with pytest.raises(hbcore.EngineFullError):
            root.envelope(f"{number}", total=10, packets=1)
    assert root.stats().available == left
    assert engine.envelope("e", total=10, packets=1).claim("u")


def offset_of_the_envelope(path: Path) -> int:
    data = path.read_bytes()
    kinds = [(offset, struct.unpack_from("<I", data, offset + 8)[0]) for offset in range(0, len(data), 64)]
    (offset,) = [
        offset for offset, kind in kinds if kind == ENVELOPE and data[offset + 256 : offset + 262] == b"20:00\0"
    ]
    return offset


@pytest.mark.parametrize("way", ["sweep", "audit", "close"])
def test_what_a_closer_has_left_is_refunded(tmp_path: Path, way: str) -> None:
    """Killed right after its first step, by which it is closed. Nobody calls close() for one that has expired."""
    path = tmp_path / "e.hb"
    engine = hbcore.Engine(path)
    root = engine.budget("root", 10_000)
    envelope = root.envelope("20:00", total=10_000, packets=5_000)
    amount = envelope.claim("u").amount
    with path.open("r+b") as file:
        file.seek(offset_of_the_envelope(path) + CLOSED)
        file.write(struct.pack("<Q", 1))
    assert envelope.claim("v").status is Status.CLOSED
    getattr(engine if way != "close" else envelope, way)()
    assert root.stats() == (10_000, 10_000 - amount, amount, 0)
    assert envelope.close() == 10_000 - amount


def test_an_audit_is_content_while_others_give_back_to_the_closed() -> None:
    """A release in a closed envelope is on its way to the budget for a while: that is nothing wrong."""
    engine = hbcore.Engine()
    root = engine.budget("root", 100_000)
    below = root.budget("below", 50_000)
    envelope = below.envelope("e", total=30_000, packets=3_000)
    envelope.claim_many(range(3_000))
    below.reserve_many(range(10_000), 1)
    envelope.close()
    below.close()

    def give_back(say: Say) -> None:
        for user in range(3_000):
            envelope.release(user)
            below.release(user)

    def top_up(say: Say) -> None:
        other = root.budget("other", 1)
        for key in range(3_000):
            other.top_up(key, 1)

    children = [Child(give_back), Child(top_up)]
    while envelope.stats().granted:
        engine.audit()
    for child in children:
        child.end()
    assert engine.audit().refunded == 3_000
    assert below.close() == 50_000 - 7_000
    assert root.stats() == (100_000, 100_000 - 7_000 - 3_001, 7_000 + 3_001, 0)


def test_sold_out_is_said_also_where_looking_for_the_expired_takes_longer_than_they_live() -> None:
    packets = 200_000
    envelope = hbcore.Engine().envelope("e", packets, packets, law="equal", hold_seconds=0.001)
    while envelope.stats().remaining:
        for first in range(0, packets, 64):
            users = range(first, first + 64)
            envelope.claim_many(users)
            for user in users:
                envelope.settle(user)
    started = time.monotonic()
    assert envelope.claim("late").status is Status.SOLD_OUT
    assert time.monotonic() - started < 10


def test_statistics_of_damaged_holds_are_an_error_at_once(tmp_path: Path) -> None:
    path = tmp_path / "e.hb"
    engine = hbcore.Engine(path)
    budgets = [engine.budget("root", 1_000)]
    for depth in range(20):
        budgets.append(budgets[-1].budget(f"{depth}", 1_000 - depth - 1))
    budgets[-1].reserve("k", 77)
    budgets[-1].settle("k", 7)
    data = path.read_bytes()
    (hold,) = [
        offset
        for offset in range(0, len(data), 64)
        if data[offset + 23] >> 4 == 3 and struct.unpack_from("<2Q", data, offset + 24) == (70, 77)
    ]
    with path.open("r+b") as file:
        file.seek(hold + 24)
        file.write(struct.pack("<Q", 70 + 2**40))  # more has come back than there was
    for budget in budgets:
        with pytest.raises(hbcore.CorruptFileError, match=r"^budget '19' of the engine"):
            budget.stats()
    with pytest.raises(hbcore.CorruptFileError):
        budgets[-1].find("k")
    with pytest.raises(hbcore.AuditError, match=r"^budget '19': hold 0 is damaged"):
        engine.audit()


def test_statistics_name_the_envelope_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "e.hb"
    root = hbcore.Engine(path).budget("root", 1_000)
    root.envelope("20:00", total=500, packets=5)
    with path.open("r+b") as file:
        file.seek(offset_of_the_envelope(path) + TOTAL)
        file.write(struct.pack("<Q", 499))
    with pytest.raises(hbcore.CorruptFileError, match=r"^envelope '20:00' of the engine"):
        root.stats()


@pytest.mark.parametrize("number", [65, 128, 1_000, 64 << 20, 64 << 40, 2**64 - 1])
def test_a_damaged_hint_of_the_next_hold_takes_no_space(tmp_path: Path, number: int) -> None:
    """A number far beyond all holds asked for one segment after another, up to the capacity."""
    path = tmp_path / "e.hb"
    engine = hbcore.Engine(path)
    root = engine.budget("root", 1_000)
    assert root.reserve("before", 10)
    used = engine.info().used
    with path.open("r+b") as file:
        file.seek(FIRST_EXTENT + NEXT)
        assert file.read(8) == struct.pack("<Q", 1)
        file.seek(FIRST_EXTENT + NEXT)
        file.write(struct.pack("<Q", number))
    for key in range(3):
        with pytest.raises(hbcore.CorruptFileError, match=r"^budget 'root' of the engine"):
            root.reserve(key, 10)
    assert engine.info().used == used
    assert root.find("before")
    assert root.settle("before", 7)
    assert root.stats() == (1_000, 993, 0, 7)
    with pytest.raises(hbcore.AuditError, match=rf"^budget 'root': {number} is not where its next hold can be$"):
        engine.audit()


def test_the_next_hold_may_be_where_a_segment_is_still_to_be_made(tmp_path: Path) -> None:
    root = hbcore.Engine(tmp_path / "e.hb").budget("root", 1_000)
    for key in range(200):
        assert root.reserve(key, 1)
        if key in (62, 63, 64, 127, 128):
            with hbcore.Engine(tmp_path / "e.hb") as other:
                assert other.audit().holds == key + 1


def test_a_sweep_ends_what_is_due_beside_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "e.hb"
    engine = hbcore.Engine(path)
    root = engine.budget("root", 1_000)
    root.envelope("20:00", total=500, packets=5, expires_at=1_000_000_000)
    root.envelope("later", total=500, packets=5, expires_at=1_000_000_000)
    with path.open("r+b") as file:
        file.seek(offset_of_the_envelope(path) + TOTAL)
        file.write(struct.pack("<Q", 499))
    with pytest.raises(hbcore.CorruptFileError, match=r"^envelope '20:00'"):
        engine.sweep()
    assert root.reserve("what came back", 500)


@pytest.mark.full
def test_two_top_ups_at_once_stay_below_the_limit() -> None:
    """Each alone would, and both together would make money that can never come back."""
    for _ in range(50):
        root = hbcore.Engine().budget("root", 2**62 - 1_000)
        barrier, others = os.pipe()

        def top_up(say: Say, root: hbcore.Budget = root, barrier: int = barrier, others: int = others) -> None:
            os.close(others)
            os.read(barrier, 1)
            try:
                say(bool(root.top_up(os.getpid(), 999)))
            except ValueError:
                say(False)

        children = [Child(top_up), Child(top_up)]
        os.close(barrier)
        os.close(others)
        assert sum(child.end()[0] for child in children) == 1
        assert root.total == 2**62 - 1
        with pytest.raises(ValueError, match=r"must stay below 2\*\*62: it is 4611686018427387903, and 1 is too much$"):
            root.top_up("more", 1)


@pytest.mark.parametrize(
    ("call", "comes_back"),
    {
        "find": False, "settle": False, "release": False, "stats": False, "reserve": False,
        "claim": True, "claim_many": True, "close": True, "sweep": True, "audit": True,
    }.items(),
)  # fmt: skip
def test_the_money_of_an_expired_envelope_comes_back_with_whom_the_readme_says(call: str, comes_back: bool) -> None:
    engine = hbcore.Engine()
    root = engine.budget("root", 1_000)
    envelope = root.envelope("e", total=900, packets=3, expires_at=1_000_000_000)
    if call == "reserve":
        assert root.reserve("k", 500).status is Status.INSUFFICIENT
    elif call in ("sweep", "audit"):
        getattr(engine, call)()
    elif call == "claim_many":
        envelope.claim_many(["u"])
    else:
        getattr(envelope, call)(*(["u"] if call not in ("stats", "close") else []))
    assert root.stats().available == (1_000 if comes_back else 100)
    assert root.reserve("k", 500).status is (Status.GRANTED if comes_back else Status.INSUFFICIENT)


def test_held_has_in_it_what_is_available_below_and_the_audits_has_not() -> None:
    engine = hbcore.Engine()
    root = engine.budget("root", 1_000)
    root.budget("below", 500).reserve("k", 100)
    assert root.stats() == (1_000, 500, 500, 0)
    report = engine.audit()
    assert (report.amount_available, report.amount_held, report.amount_spent) == (900, 100, 0)


def test_a_row_of_a_conflict_has_the_amount_that_was_granted() -> None:
    root = hbcore.Engine().budget("root", 1_000)
    for key in ("held", "settled", "released"):
        root.reserve(key, 10)
    root.settle("settled", 4)
    root.release("released")
    assert root.reserve_many(["held", "settled", "released"], 20).tolist() == [(Status.CONFLICT, 10)] * 3


def test_a_closed_engine_is_a_worker_until_its_last_handle_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "e.hb"
    with hbcore.Engine(path) as other:

        def living() -> int:
            return sum(worker.is_alive for worker in other.info().workers)

        engine = hbcore.Engine(path)
        budget = engine.budget("root", 1_000)
        engine.close()
        assert living() == 2
        del engine
        assert living() == 2
        del budget
        assert living() == 1
