"""Sizes: every packet once whatever their number, memory per packet, and claims and releases without end."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import full_but

import hbcore
from hbcore import Status

SEED = bytes(range(32))
LAWS = ("equal", "double_mean", "dirichlet")

BORDERS = (1, 2, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2047, 2048, 2049, 4097, 65535, 65536, 65537, 70000)


@pytest.mark.parametrize("packets", full_but(BORDERS, 1, 65, 1025, 2049))
@pytest.mark.parametrize("way", ["batch", "one by one"])
def test_every_packet_is_given_exactly_once(impl: ModuleType, packets: int, way: str) -> None:
    if impl is not hbcore and packets > 5000 and packets != 70000:
        pytest.skip("one large size will do for the reference")
    engine = impl.Engine()
    total = packets * 100 + 17
    law = LAWS[packets % 3] if packets < 5000 else "equal"
    envelope = engine.envelope("e", total, packets, law, seed=SEED)
    if way == "batch":
        rows = envelope.claim_many(np.arange(packets))
        assert (rows["status"] == Status.GRANTED).all()
        given_packets, amounts = rows["packet"], rows["amount"]
    else:
        claims = [envelope.claim(user) for user in range(packets)]
        assert all(claim.status is Status.GRANTED for claim in claims)
        given_packets = np.array([claim.packet for claim in claims])
        amounts = np.array([claim.amount for claim in claims])
    assert (np.sort(given_packets) == np.arange(packets)).all()
    assert amounts.sum() == total
    assert (amounts == hbcore.split(total, packets, law, seed=SEED)[given_packets]).all()
    assert envelope.claim(-1).status is Status.SOLD_OUT
    assert (envelope.claim_many(range(packets, packets + 100))["status"] == Status.SOLD_OUT).all()
    assert envelope.stats() == (packets, packets, 0, 0, (total, total, 0, 0))
    engine.audit()


@pytest.mark.parametrize("packets", [1, 64, 65, 2049, 70000])
def test_the_last_free_packet_is_found_wherever_it_is(packets: int) -> None:
    envelope = hbcore.Engine().envelope("e", packets, packets)
    rows = envelope.claim_many(np.arange(packets))
    holder = np.argsort(rows["packet"])
    for packet in sorted({0, 1 % packets, 63 % packets, 64 % packets, packets // 2, packets - 1}):
        assert envelope.claim("next").status is Status.SOLD_OUT
        assert envelope.release(int(holder[packet])).packet == packet
        assert envelope.claim("next").packet == packet
        envelope.release("next")
        assert envelope.claim(int(holder[packet])).packet == packet


def test_twenty_thousand_envelopes_are_all_found_again() -> None:
    engine = hbcore.Engine(capacity=1 << 30)
    for i in range(20_000):
        engine.envelope(f"gala/{i}", i + 1, 1)
    for i in range(20_000):
        assert engine.envelope(f"gala/{i}").terms.total == i + 1
    assert len(engine.envelopes()) == 20_000
    assert engine.audit()[:2] == (20_000, 20_000)


# ---- memory ---------------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """The memory of this process that is in RAM, the touched pages of engines included."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE))
    return int(fields["VmRSS"]) * 1024


def memory_files() -> Iterator[int]:
    """The descriptors of the memory engines of this process."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        if target.startswith("/memfd:hbcore"):
            yield int(entry)


class Memory:
    """What the kernel has allocated to the memory engine that is opened inside the block."""

    def __enter__(self) -> Self:
        self.before = set(memory_files())
        return self

    def __exit__(self, *exc: object) -> None: ...

    def allocated_bytes(self) -> int:
        inodes = {os.fstat(fd).st_ino: os.fstat(fd).st_blocks * 512 for fd in set(memory_files()) - self.before}
        assert len(inodes) == 1
        return sum(inodes.values())


def test_a_giant_envelope_costs_nothing_before_it_is_claimed() -> None:
    packets = 10**9
    with Memory() as memory:
        engine = hbcore.Engine()
        empty, resident = memory.allocated_bytes(), resident_bytes()
        envelope = engine.envelope("everybody", packets * 100, packets, seed=SEED)
        assert memory.allocated_bytes() - empty <= 64 << 10
        assert resident_bytes() - resident <= 1 << 20
        claims = [envelope.claim(user) for user in range(10)]
        assert [claim.status for claim in claims] == [Status.GRANTED] * 10
        # The amounts of one stratum, and a page of the index for each user.
        assert memory.allocated_bytes() - empty <= 512 << 10
        assert envelope.claim(3) == envelope.find(3)
        assert envelope.release(4).packet == claims[4].packet
        envelope.settle(5)
        amount = sum(claim.amount for claim in claims) - claims[4].amount
        stats = envelope.stats()
        assert stats[:4] == (packets, 8, 1, packets - 9)
        assert stats.amounts.remaining == packets * 100 - amount
        assert len(envelope.claims()) == 9
        assert engine.audit()[:8] == (1, packets, 8, 1, 0, packets * 100, amount - claims[5].amount, claims[5].amount)
        assert envelope.close() == packets * 100 - amount
        assert engine.audit().refunded == packets - 9
        # To count and to close reads or writes 8 bytes for each stratum of 1,024 packets.
        assert memory.allocated_bytes() - empty <= packets // 1024 * 8 + (1 << 20)
        assert resident_bytes() - resident <= packets // 1024 * 8 + (16 << 20)


def test_giant_envelopes_are_made_by_the_reference_as_well(impl: ModuleType) -> None:
    packets = 10**9
    envelope = impl.Engine().envelope("everybody", packets * 100, packets, seed=SEED)
    claims = [envelope.claim(user) for user in range(3)]
    assert [claim.packet for claim in claims] == [0, 1, 2]
    assert [claim.amount for claim in claims] == [
        hbcore.law.packet_amount(packet, packets * 100, packets, seed=SEED) for packet in range(3)
    ]


def test_a_packet_costs_at_most_64_bytes_in_all() -> None:
    packets = 1 << 20
    with Memory() as memory:
        engine = hbcore.Engine()
        empty = memory.allocated_bytes()
        envelope = engine.envelope("e", packets, packets)
        envelope.claim_many(np.arange(packets))
        first = memory.allocated_bytes() - empty
        assert 32 * packets < first <= 64 * packets
        # So many releases replace the index by its second table: now everything that a packet can touch is touched.
        for user in range(0, packets, 2):
            envelope.release(user)
        envelope.claim_many(np.arange(0, packets, 2))
        assert first < memory.allocated_bytes() - empty <= 64 * packets
        assert envelope.stats().granted == packets
        engine.audit()


def test_the_memory_of_an_engine_goes_back_with_it() -> None:
    before = set(memory_files())
    with Memory() as memory:
        engine = hbcore.Engine()
        engine.envelope("e", 10**6, 10**6).claim_many(np.arange(10**6))
        assert memory.allocated_bytes() > 32 * 10**6
        resident = resident_bytes()
        del engine
    assert set(memory_files()) == before
    assert resident - resident_bytes() > 32 * 10**6


# ---- churn ----------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(
    ("packets", "residents", "turns"),
    [
        (1, 0, 600_000),  # more than a slot has generations (2**19)
        (2, 1, 200_000),
        (3, 0, 100_000),
        (64, 63, 200_000),
        (65, 30, 200_000),
        (1024, 1023, 100_000),
        (5000, 2500, 200_000),
        (70_000, 69_000, 200_000),
    ],
)
def test_claims_and_releases_can_go_on_for_ever(impl: ModuleType, packets: int, residents: int, turns: int) -> None:
    if impl is not hbcore:
        turns //= 100
        packets, residents = min(packets, 5000), min(residents, 4900)
    engine = impl.Engine()
    envelope = engine.envelope("e", packets * 10, packets, law="equal")
    homes = envelope.claim_many(range(residents))["packet"].tolist()
    free = packets - residents
    window = min(free, 50)
    guests = [-1 - i for i in range(window)]
    assert all(envelope.claim(guest) for guest in guests)
    for turn in range(turns):
        i = turn % window
        assert envelope.release(guests[i])
        guests[i] = 10**9 + turn
        assert envelope.claim(guests[i]).status is Status.GRANTED
        if turn % (turns // 4) == 0:
            engine.audit()
            resident_users = range(0, residents, max(1, residents // 50))
            assert [envelope.find(user).packet for user in resident_users] == [homes[user] for user in resident_users]
    assert envelope.find(-1) is None
    assert envelope.stats()[:4] == (packets, residents + window, 0, free - window)
    assert engine.audit().granted == residents + window
    newcomers = envelope.claim_many([f"new{i}" for i in range(free - window + 1)])
    assert (newcomers["status"][:-1] == Status.GRANTED).all()
    assert newcomers["status"][-1] == Status.SOLD_OUT


def test_users_that_come_and_go_are_never_lost(impl: ModuleType) -> None:
    """All users of an envelope leave and come back, in another order, many times over."""
    engine = impl.Engine()
    packets = 500
    rounds = 200 if impl is hbcore else 5
    envelope = engine.envelope("e", packets, packets)
    order = np.random.default_rng(7)
    for _ in range(rounds):
        assert (envelope.claim_many(order.permutation(packets))["status"] == Status.GRANTED).all()
        assert (envelope.claim_many(order.permutation(packets))["status"] == Status.REPEATED).all()
        for user in order.permutation(packets).tolist():
            assert envelope.release(user)
        assert envelope.find(0) is None
    engine.audit()


@settings(max_examples=30)
@given(packets=st.integers(1, 2100), seed=st.integers(0, 2**32 - 1))
def test_full_and_emptied_again_in_any_order_every_packet_is_still_there(packets: int, seed: int) -> None:
    engine = hbcore.Engine()
    envelope = engine.envelope("e", packets, packets)
    random = np.random.default_rng(seed)
    for round_number in range(3):
        guests = random.integers(0, 2**63, packets) * 4 + round_number
        assert (envelope.claim_many(guests)["status"] == Status.GRANTED).all()
        assert envelope.claim(-1).status is Status.SOLD_OUT
        leaving = random.permutation(guests.view(np.int64))[: random.integers(1, packets + 1)].tolist()
        for user in leaving:
            assert envelope.release(user)
        rows = envelope.claim_many([f"{round_number}/{user}" for user in leaving])
        assert (rows["status"] == Status.GRANTED).all()
        assert np.unique(envelope.claims()["packet"]).size == packets
        for user in envelope.claim_many(guests)["status"].nonzero()[0].tolist():
            if envelope.find(int(guests[user])):
                envelope.release(int(guests[user]))
        for user in leaving:
            envelope.release(f"{round_number}/{user}")
        assert envelope.stats().granted == 0
    engine.audit()
