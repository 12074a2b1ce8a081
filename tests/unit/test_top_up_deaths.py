"""Top-ups that are cut off: a death at any instruction, a reboot, damage, and keys that overtake one another."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from stepping import Stepped, can_trace, instructions_of, states

import hbcore
from hbcore import Status

SEED = bytes(range(32))


def crash_states(path: Path, is_funded: bool) -> Iterator[bytes]:
    with hbcore.Engine(path, capacity=1 << 20) as engine:
        maker = engine.budget("b", 1000) if is_funded else engine
        envelope = maker.envelope("e", 40, 4, "equal", max_packets=80)
        for user in range(5):
            envelope.claim(user)

    def work(engine: hbcore.Engine) -> Callable[[], object]:
        envelope = engine.envelopes()[0]
        return lambda: envelope.top_up("k", 300, 70, seed=SEED)

    yield from states(path, work)


@pytest.mark.full
@pytest.mark.skipif(not can_trace(), reason="ptrace is not allowed here")
@pytest.mark.parametrize("is_funded", [False, True])
def test_a_death_at_any_instruction_of_a_top_up_is_made_good(tmp_path: Path, is_funded: bool) -> None:
    path = tmp_path / "gala.hb"
    kept = {"begun": 0, "done": 0}
    for number, content in enumerate(crash_states(path, is_funded)):
        copy = tmp_path / "copy.hb"
        copy.write_bytes(content)
        with hbcore.Engine(copy) as engine:
            envelope = engine.envelopes()[0]
            before = envelope.stats().packets
            kept["done" if before == 74 else "begun"] += 1
            how = number % 3  # claims first, or the same again, or an audit
            if how == 0:
                # Either all of it is there or nothing, and what is there goes to whoever asks, opened or not.
                assert sum(bool(envelope.claim(user)) for user in range(10, 100)) == before - 4
            elif how == 1:
                assert envelope.top_up("k", 300, 70, seed=SEED)
            engine.audit()
            hold = envelope.top_up("k", 300, 70, seed=SEED)
            assert hold.amount == 300
            engine.audit()
            for user in range(200):
                envelope.claim(user)
            stats = envelope.stats()
            assert (stats.packets, stats.granted, stats.amounts.granted) == (74, 74, 340)
            if is_funded:
                assert engine.budget("b").stats() == (1000, 660, 340, 0)
            engine.audit()
    assert min(kept.values()) > 2, kept
    print(kept)


@pytest.mark.full
@pytest.mark.skipif(not can_trace(), reason="ptrace is not allowed here")
def test_a_key_that_was_refused_after_a_death_is_a_conflict_with_any_other_top_up(tmp_path: Path) -> None:
    """Its maker dies once it is funded; others take the room: the key keeps that outcome, and the money comes back."""
    copy = tmp_path / "copy.hb"
    refused = 0
    for content in crash_states(tmp_path / "gala.hb", True):
        copy.write_bytes(content)
        with hbcore.Engine(copy) as engine:
            envelope = engine.envelopes()[0]
            if engine.budget("b").stats().available == 960 or envelope.stats().packets == 74:
                continue
            refused += 1
            assert envelope.top_up("other", 20, 20)
            no_room = "packets must be at most 56, not 70: envelope 'e' has 24 packets and was made with"
            what = "top-up 'k' of envelope 'e' was 300 in 70 packets"
            for _ in range(2):
                with pytest.raises(ValueError, match=no_room):
                    envelope.top_up("k", 300, 70)
                for amount, packets in ((3, 1), (999, 9)):
                    with pytest.raises(hbcore.ConflictError, match=f"{what}, not {amount} in {packets}"):
                        envelope.top_up("k", amount, packets)
                assert engine.budget("b").stats() == (1000, 940, 60, 0)
                engine.audit()
            assert envelope.close() == 20
            assert engine.budget("b").stats() == (1000, 960, 40, 0)
            engine.audit()
    assert refused > 2


@pytest.mark.full
@pytest.mark.skipif(not can_trace(), reason="ptrace is not allowed here")
@pytest.mark.parametrize("then", ["full", "closed"])
@pytest.mark.parametrize("is_funded", [False, True])
def test_who_is_overtaken_by_its_own_key_is_told_so(path: Path, is_funded: bool, then: str) -> None:
    """It is found too where the room is gone by then, taken by that very top-up, or where the envelope is closed."""
    with hbcore.Engine(path, capacity=1 << 20) as engine:
        maker = engine.budget("b", 1000) if is_funded else engine
        maker.envelope("e", 40, 4, "equal", max_packets=74 if then == "full" else 200)
    before = path.read_bytes()

    def work(engine: hbcore.Engine) -> Callable[[], object]:
        envelope = engine.envelopes()[0]

        def operation() -> None:
            assert envelope.top_up("k", 300, 70)

        return operation

    instructions = instructions_of(path, work, "top_up")
    stopped = 0
    for address, time in instructions[:: len(instructions) // 20]:
        path.write_bytes(before)
        stepped = Stepped(path, work)
        try:
            if not stepped.run_to([address], time):  # it did not come there as often this time
                continue
            stopped += 1
            with hbcore.Engine(path) as engine:
                envelope = engine.envelopes()[0]
                assert envelope.top_up("k", 300, 70)
                if then == "closed":
                    envelope.close()
            stepped.go_on()
        finally:
            stepped.kill()
        with hbcore.Engine(path) as engine:
            assert engine.envelopes()[0].stats().packets == 74
            engine.audit()
    assert stopped > 5


def test_the_part_of_a_packet_is_found_among_many(engine: hbcore.Engine) -> None:
    envelope = engine.envelope("e", 3, 1, max_packets=3000)
    sizes = [1 + number * 7 % 5 for number in range(900)]
    for number, size in enumerate(sizes):
        envelope.top_up(number, size * (number + 2), size, seed=SEED)
    starts = np.cumsum([1, *sizes])
    for handle in (envelope, engine.envelopes()[0]):
        order = np.random.default_rng(7).permutation(int(starts[-1]))
        claims = {user: handle.claim(int(user)) for user in order}
        assert sorted(claim.packet for claim in claims.values()) == list(range(int(starts[-1])))
        parts = np.zeros(len(sizes) + 1, int)
        for claim in claims.values():
            parts[np.searchsorted(starts, claim.packet, side="right")] += claim.amount
        assert parts.tolist() == [3, *(size * (number + 2) for number, size in enumerate(sizes))]
    engine.audit()


def topped_up(path: Path) -> list[hbcore.Claim]:
    """Make a file with an envelope that was topped up, and return 100 answers; no handle of it is left."""
    with hbcore.Engine(path) as engine:
        envelope = engine.budget("b", 1000).envelope("e", 10, 10, max_packets=200)
        envelope.top_up("k", 190, 150, seed=SEED)
        answers = [envelope.claim(user) for user in range(100)]
        engine.audit()
    return answers


def test_a_file_that_was_topped_up_lives_through_a_reboot(path: Path) -> None:
    answers = topped_up(path)
    with path.open("r+b") as file:
        file.seek(56)
        file.write(b"another boot id!")
    with hbcore.Engine(path) as engine:
        envelope = engine.budget("b").envelope("e")
        for user, answer in enumerate(answers):
            again = envelope.claim(user)
            assert (again.status, again.packet, again.amount) == (Status.REPEATED, answer.packet, answer.amount)
        assert sum(bool(envelope.claim(user)) for user in range(1000)) == 160
        engine.audit()
    with hbcore.Engine(path, readonly=True) as engine:
        assert engine.audit().amount_granted == 200
        assert engine.envelopes()[0].find(5).amount == answers[5].amount


FIELDS = {"open_count": 208, "cleared_count": 216, "following": 224}


@pytest.mark.parametrize("value", [0, 1, 4, 11, 12, 13, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", FIELDS)
def test_a_damaged_count_or_chain_is_named(path: Path, tmp_path: Path, field: str, value: int) -> None:
    with hbcore.Engine(path) as engine:
        envelope = engine.budget("b", 1000).envelope("e", 40, 4, max_packets=20)
        envelope.top_up("k", 100, 8)
        claims = [envelope.claim(user) for user in range(6)]
        engine.audit()
    content = bytearray(path.read_bytes())
    at = content.index((40).to_bytes(8, "little") + (4).to_bytes(8, "little")) - 64 + FIELDS[field]
    is_right = value == int.from_bytes(content[at : at + 8], "little")
    content[at : at + 8] = value.to_bytes(8, "little")
    copy = tmp_path / "copy.hb"
    copy.write_bytes(content)
    # A tranche that is still to be opened, or whose opening is to be finished, is put right.
    is_harmless = is_right or field == "cleared_count" or (field, value) == ("open_count", 4)
    try:
        with hbcore.Engine(copy) as engine:
            envelope = engine.budget("b").envelope("e")
            for user, claim in enumerate(claims):
                assert envelope.find(user).packet == claim.packet
            got = [envelope.claim(user) for user in range(30)]
            assert len({claim.packet for claim in got if claim}) == sum(map(bool, got)) <= 12
            engine.audit()
        assert is_harmless
    except (hbcore.CorruptFileError, hbcore.AuditError):
        assert not is_harmless


def fill(engine: hbcore.Engine, packets: int) -> int:
    """Make envelopes until there is no room for another; return how many."""
    for number in range(10**6):
        try:
            engine.envelope(f"{packets} packets, number {number}", packets, packets)
        except hbcore.EngineFullError:
            return number
    raise AssertionError("the engine is too large")


@pytest.mark.full
def test_an_abandoned_part_gives_its_space_back(tmp_path: Path) -> None:
    """A maker that dies before anything leads to its tranche leaves nothing that keeps a full engine full."""
    path, copy = tmp_path / "gala.hb", tmp_path / "copy.hb"
    sizes = set()
    for content in crash_states(path, False):
        copy.write_bytes(content)
        with hbcore.Engine(copy) as engine:
            envelope = engine.envelopes()[0]
            if envelope.stats().packets == 74:
                break
            sizes.add((fill(engine, 1000), fill(engine, 1)))
            engine.audit()
    assert len(sizes) <= 2  # with the tranche's 256 bytes or, once they were taken over, without
    shutil.rmtree(tmp_path, ignore_errors=True)
