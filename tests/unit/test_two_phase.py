"""Claims in two phases: several packets for one user, each with its own number; claims that are not settled in time.

Nobody can set the clock of the native core from Python; here a test either needs no waiting, and takes ``impl``, or
puts clocks of its own into the reference.
"""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hbcore
import hbcore.reference
from hbcore import BudgetStats, State, Status

KEY = bytes(range(32))
SEED = bytes(range(1, 33))
LONG = 10 * 366 * 24 * 3600

users = st.integers(0, 6) | st.integers(0, 3).map(str) | st.integers(0, 3).map(lambda number: str(number).encode())


def identity(user: object) -> object:
    """What makes two users one: the UTF-8 bytes, or the integer."""
    return user.encode() if isinstance(user, str) else user


# ---- several packets for one user -----------------------------------------------------------------------------------


@given(
    packets=st.integers(1, 20),
    per_user=st.integers(1, 5),
    program=st.lists(
        st.tuples(st.sampled_from(["claim", "claim", "claim", "settle", "release", "find"]), users, st.integers(0, 4)),
        max_size=60,
    ),
)
def test_each_packet_of_a_user_has_an_answer_of_its_own(
    impl: ModuleType, packets: int, per_user: int, program: list[tuple[str, object, int]]
) -> None:
    engine = impl.Engine(key=KEY)
    envelope = engine.envelope("e", packets * 5, packets, per_user=per_user)
    held: dict[tuple[object, int], Any] = {}
    settled: set[tuple[object, int]] = set()
    for action, user, nth in program:
        claimant = identity(user), nth
        call = getattr(envelope, action)
        if nth >= per_user:
            with pytest.raises(ValueError, match=rf"^nth must be within 0 \.\. {per_user - 1}, not {nth}$"):
                call(user, nth)
        elif action == "release" and claimant in settled:
            with pytest.raises(hbcore.ConflictError):
                call(user, nth)
        elif claimant in held:
            claim = call(user, nth=nth)
            assert (claim.status, claim.packet) == (Status.REPEATED, held[claimant].packet)
            if action == "settle":
                settled.add(claimant)
            elif action == "release":
                del held[claimant]
        elif action == "claim":
            claim = call(user, nth)
            assert claim.status is (Status.GRANTED if len(held) < packets else Status.SOLD_OUT)
            if claim:
                held[claimant] = claim
        else:
            assert call(user, nth) is None
    assert len({claim.packet for claim in held.values()}) == len(held)
    rows = envelope.claims()
    of_whom = {engine.user_hash(user, nth): held[user, nth].packet for user, nth in held}
    assert {row["user"].tobytes(): row["packet"] for row in rows} == of_whom
    assert len(rows) == len(of_whom)
    states = {row["user"].tobytes() for row in rows if row["state"] == State.SETTLED}
    assert states == {engine.user_hash(user, nth) for user, nth in settled}
    engine.audit()


def test_a_user_has_its_number_of_packets_and_no_more(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 1000, 10, per_user=3)
    claims = [envelope.claim("u", nth) for nth in range(3)]
    assert [claim.status for claim in claims] == [Status.GRANTED] * 3
    assert len({claim.packet for claim in claims}) == 3
    assert envelope.claim("u").packet == claims[0].packet, "nth is 0 where it is not given"
    assert envelope.find("u", nth=1).packet == claims[1].packet
    for call in (envelope.claim, envelope.find, envelope.settle, envelope.release):
        with pytest.raises(ValueError, match=r"^nth must be within 0 \.\. 2, not 3$"):
            call("u", 3)
    assert envelope.release("u", 1).packet == claims[1].packet
    assert [envelope.find("u", nth) is None for nth in range(3)] == [False, True, False]
    assert envelope.claim("v").packet == claims[1].packet or envelope.stats().granted == 3


def test_batches_claim_the_nth_packet_of_every_user(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope, alone = (engine.envelope(name, 5000, 50, seed=SEED, per_user=2) for name in ("together", "alone"))
    for users, nth in ((range(20), 0), (np.arange(10, 30), 1), (["a", b"b"], 1), (np.array(["a", "b", "c"]), 0)):
        rows = envelope.claim_many(users, nth)
        claims = [alone.claim(user, nth) for user in users]
        assert rows.tolist() == [(claim.status, claim.amount, claim.packet) for claim in claims]
        assert envelope.claim_many(users, nth=nth)["status"].tolist() == [
            Status.REPEATED if claim else Status.SOLD_OUT for claim in claims
        ]
    assert envelope.stats() == alone.stats()


@given(user=users, nth=st.integers(0, 65535))
def test_the_hash_of_the_nth_packet_is_a_hash_of_the_users(impl: ModuleType, user: object, nth: int) -> None:
    engine = impl.Engine(key=KEY)
    first = engine.user_hash(user)
    assert engine.user_hash(user, 0) == first
    expected = hbcore.reference.siphash128(KEY[16:], first + nth.to_bytes(8, "little")) if nth else first
    assert engine.user_hash(user, nth=nth) == expected


def test_nobody_can_name_himself_another_users_second_claim(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 1000, 10, per_user=2)
    alias = engine.user_hash("victim") + (1).to_bytes(8, "little")
    assert envelope.claim(alias).status is Status.GRANTED
    assert envelope.claim("victim", nth=1).status is Status.GRANTED
    assert envelope.find(alias) != envelope.find("victim", nth=1)


def test_hashes_of_all_numbers_are_different_users(impl: ModuleType) -> None:
    engine = impl.Engine()
    hashes = {engine.user_hash(user, nth) for user in ("7", 7, "u") for nth in range(200)}
    assert len(hashes) == 600
    for nth in (-1, 65536, 2**64):
        with pytest.raises(ValueError, match=rf"^nth must be within 0 \.\. 65535, not {nth}$"):
            engine.user_hash("u", nth)


def test_the_largest_number_of_packets_for_a_user(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 100, 10, per_user=65536)
    assert envelope.terms.per_user == 65536
    assert envelope.claim("u", 65535).status is Status.GRANTED
    assert envelope.claim("u", 65535).status is Status.REPEATED
    assert envelope.claim("u", 0).status is Status.GRANTED


# ---- settle and release under a budget ------------------------------------------------------------------------------


def test_a_payout_that_fails_goes_back_and_to_the_budget_in_the_end(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    envelope = gala.envelope("e", 100, 2, law="equal", hold_seconds=3600)
    assert [envelope.claim(user).status for user in "ab"] == [Status.GRANTED] * 2
    envelope.settle("a")
    envelope.release("b")
    assert gala.stats() == BudgetStats(100, 0, 50, 50)
    assert envelope.claim("c").status is Status.GRANTED
    envelope.release("c")
    assert envelope.close() == 50
    assert gala.stats() == BudgetStats(100, 50, 0, 50)
    assert engine.sweep() == 0
    engine.audit()


# ---- claims that expire: what needs no waiting ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hold_seconds", "hold_ms"),
    [(None, 0), (1, 1000), (0.5, 500), (1.0001, 1001), (1e-9, 1), (0.0010000001, 2), (LONG, LONG * 1000)],
)
def test_hold_seconds_are_kept_as_milliseconds_rounded_up(
    impl: ModuleType, hold_seconds: float | None, hold_ms: int
) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 10, 2, hold_seconds=hold_seconds)
    assert envelope.terms.hold_ms == hold_ms
    assert envelope.terms.per_user == 1
    assert engine.envelope("e", 10, 2, hold_seconds=hold_seconds) == engine.envelope("e") == envelope
    other = None if hold_seconds else 7
    with pytest.raises(hbcore.ConflictError, match=rf"^envelope 'e' exists with hold_ms = {hold_ms}, not "):
        engine.envelope("e", 10, 2, hold_seconds=other)


def test_within_its_time_a_claim_is_like_any_other(impl: ModuleType) -> None:
    engine = impl.Engine()
    timed, plain = engine.envelope("t", 500, 5, seed=SEED, hold_seconds=LONG), engine.envelope("p", 500, 5, seed=SEED)
    for action, user in zip(
        ["claim"] * 7 + ["settle", "release", "find", "claim", "settle", "claim"], "abcdefgabbfbg", strict=True
    ):
        answers = [getattr(envelope, action)(user) for envelope in (timed, plain)]
        assert answers[0] == answers[1]
    assert engine.sweep() == 0
    assert timed.stats() == plain.stats()
    assert timed.close() == plain.close()
    engine.audit()


# ---- claims that expire: under clocks of our own --------------------------------------------------------------------

reference_only = pytest.mark.parametrize("impl", [hbcore.reference], ids=["reference"])


class Clocks:
    """The clock that nobody can set, in milliseconds since the start, and the one that anybody can."""

    def __init__(self, engine: Any) -> None:
        self.boot_ms = 5_000
        self.now_ms = 1_700_000_000_000
        engine._boot_ms = lambda: self.boot_ms
        engine._now_ms = lambda: self.now_ms


class Turn:
    """One claim as the rules see it."""

    def __init__(self, packet: int, at_ms: int) -> None:
        self.packet = packet
        self.at_ms = at_ms
        self.is_settled = False


steps = st.one_of(
    st.tuples(st.sampled_from(["claim", "claim", "claim", "find", "settle", "release"]), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 1, 500, 999, 1000, 1001, 5000])),
    st.tuples(st.just("set the clock"), st.sampled_from([-86_400_000, -1, 86_400_000, 10**11])),
    st.tuples(st.sampled_from(["sweep", "audit", "close"]), st.integers(0, 3)),
)


@pytest.mark.full
@reference_only
@settings(max_examples=400)
@given(packets=st.integers(1, 4), program=st.lists(steps, max_size=60))
def test_claims_that_expire_by_the_rules(impl: ModuleType, packets: int, program: list[tuple[str, int]]) -> None:
    engine = impl.Engine()
    clocks = Clocks(engine)
    gala = engine.budget("gala", 400)
    envelope = gala.envelope("e", 400, packets, seed=SEED, hold_seconds=1)
    amounts = impl.split(400, packets, seed=SEED).tolist()
    turns: dict[int, Turn] = {}
    is_closed = False

    def live(user: int) -> Turn | None:
        turn = turns.get(user)
        if turn is None or turn.is_settled or clocks.boot_ms - turn.at_ms <= 1000:
            return turn
        return None

    for action, number in program:
        turn = live(number)
        if action == "wait":
            clocks.boot_ms += number
        elif action == "set the clock":
            clocks.now_ms += number
        elif action == "sweep":
            gone = [user for user in turns if live(user) is None]
            assert engine.sweep() == len(gone)
            turns = {user: turns[user] for user in turns if user not in gone}
        elif action == "audit":
            engine.audit()
        elif action == "close":
            if number == 0:
                is_closed = True
                turns = {user: turns[user] for user in turns if live(user)}
                assert envelope.close() == 400 - sum(amounts[turn.packet] for turn in turns.values())
        elif turn is not None:
            if action == "release" and turn.is_settled:
                with pytest.raises(hbcore.ConflictError):
                    envelope.release(number)
                continue
            claim = getattr(envelope, action)(number)
            assert (claim.status, claim.packet, claim.amount) == (Status.REPEATED, turn.packet, amounts[turn.packet])
            turn.is_settled = turn.is_settled or action == "settle"
            if action == "release":
                del turns[number]
        elif action == "claim":
            claim = envelope.claim(number)
            turns.pop(number, None)
            if not is_closed and len(turns) == packets:  # none is free: all that are gone go back
                turns = {user: turns[user] for user in turns if live(user)}
            if is_closed:
                assert claim.status is Status.CLOSED
            elif len(turns) == packets:
                assert claim.status is Status.SOLD_OUT
            else:
                assert claim.status is Status.GRANTED
                assert claim.packet not in {turn.packet for turn in turns.values()}
                turns[number] = Turn(claim.packet, clocks.boot_ms)
        else:
            assert getattr(envelope, action)(number) is None
            if action != "find":
                turns.pop(number, None)
        standing = sorted(turns[user].packet for user in turns if live(user))
        assert envelope.claims()["packet"].tolist() == standing
        assert envelope.stats().remaining == (0 if is_closed else packets - len(standing))
        stats = gala.stats()
        assert stats.total == 400 == stats.available + stats.held + stats.settled
        assert stats.settled == sum(amounts[turn.packet] for turn in turns.values() if turn.is_settled)
        kept = sum(amounts[turn.packet] for turn in turns.values())
        assert stats.available == (400 - kept if is_closed else 0), "what is gone is refunded once it goes back"
    engine.audit()


@reference_only
@given(hold_ms=st.integers(1, 10**12), fraction=st.integers(0, 999_999), late_ns=st.integers(-(10**6), 3 * 10**6))
def test_nothing_expires_early_by_any_fraction_of_a_millisecond(
    impl: ModuleType, hold_ms: int, fraction: int, late_ns: int
) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 10, 1, hold_seconds=min(hold_ms / 1000, LONG))
    hold_ms = envelope.terms.hold_ms
    granted_ns = 7_000_000_000 + fraction
    asked_ns = granted_ns + hold_ms * 10**6 + late_ns
    clock_ns = granted_ns
    engine._boot_ms = lambda: clock_ns // 10**6
    envelope.claim("u")
    clock_ns = asked_ns
    if late_ns < 0:
        assert envelope.find("u") is not None
        assert engine.sweep() == 0
    if late_ns >= 2 * 10**6:  # a clock of whole milliseconds: two of them late at most
        assert envelope.find("u") is None
        assert engine.sweep() == 1


@reference_only
def test_after_its_time_a_claim_is_gone_for_everybody_and_a_late_confirmation_gets_none(impl: ModuleType) -> None:
    engine = impl.Engine()
    clocks = Clocks(engine)
    envelope = engine.envelope("e", 100, 2, law="equal", hold_seconds=2.5)
    for user in "abc":
        envelope.claim(user)
    clocks.boot_ms += 2500
    assert envelope.find("a").status is Status.REPEATED, "not before its time is over"
    assert envelope.settle("b").status is Status.REPEATED
    clocks.boot_ms += 1
    assert envelope.find("a") is None
    assert envelope.find("b").packet == 1
    assert envelope.claims()["packet"].tolist() == [1]
    assert (envelope.stats().granted, envelope.stats().remaining) == (0, 1)
    assert envelope.settle("a") is None
    assert envelope.release("a") is None
    assert [envelope.claim(user).status for user in "cad"] == [Status.GRANTED, Status.SOLD_OUT, Status.SOLD_OUT]
    clocks.boot_ms += 10**12
    assert envelope.find("b").packet == 1, "settled is final"
    assert envelope.claim("b").status is Status.REPEATED


@reference_only
def test_free_packets_go_first_and_expired_claims_only_when_they_are_needed(impl: ModuleType) -> None:
    engine = impl.Engine()
    clocks = Clocks(engine)
    envelope = engine.envelope("e", 400, 4, law="equal", hold_seconds=1)
    first = [envelope.claim(user).packet for user in "ab"]
    clocks.boot_ms += 1001
    others = [envelope.claim(user).packet for user in "cd"]
    assert set(others).isdisjoint(first)
    assert envelope.claims()["packet"].tolist() == sorted(others)
    assert [envelope.stats().granted, envelope.stats().remaining] == [2, 2]
    again = [envelope.claim(user).packet for user in "ef"]
    assert set(again) == set(first)
    assert envelope.claim("a").status is Status.SOLD_OUT
    assert engine.sweep() == 0


@reference_only
def test_claiming_anew_after_expiry_takes_any_packet_and_has_its_whole_time(impl: ModuleType) -> None:
    engine = impl.Engine()
    clocks = Clocks(engine)
    envelope = engine.envelope("e", 40, 4, hold_seconds=1)
    packet = envelope.claim("u").packet
    clocks.boot_ms += 1001
    clocks.now_ms += 77
    claim = envelope.claim("u")
    assert claim.status is Status.GRANTED
    assert claim.packet != packet, "the place to look is further on by now"
    assert envelope.claims()["granted_at"].astype("i8").tolist() == [clocks.now_ms]
    clocks.boot_ms += 1000
    assert envelope.claim("u").packet == claim.packet
    assert engine.sweep() == 0


@reference_only
def test_each_packet_of_a_user_expires_for_itself(impl: ModuleType) -> None:
    engine = impl.Engine()
    clocks = Clocks(engine)
    envelope = engine.envelope("e", 40, 4, hold_seconds=1, per_user=3)
    for nth in range(3):
        envelope.claim("u", nth)
        clocks.boot_ms += 500
    envelope.settle("u", 2)
    assert [envelope.find("u", nth) is None for nth in range(3)] == [True, False, False]
    clocks.boot_ms += 1000
    assert [envelope.find("u", nth) is None for nth in range(3)] == [True, True, False]
    assert engine.sweep() == 2


@reference_only
@pytest.mark.parametrize("how", ["sweep", "close", "settle", "release", "claim", "expiry"])
def test_a_claim_that_expires_in_a_closed_envelope_is_refunded(impl: ModuleType, how: str) -> None:
    engine = impl.Engine()
    clocks = Clocks(engine)
    gala = engine.budget("gala", 300)
    app = gala.budget("app", 200)
    expires_at = clocks.now_ms / 1000 + 100 if how == "expiry" else None
    envelope = app.envelope("e", 200, 2, law="equal", hold_seconds=1, expires_at=expires_at)
    envelope.claim("a")
    envelope.claim("b")
    envelope.settle("b")
    app.close()
    if how != "expiry":
        assert envelope.close() == 0
    clocks.boot_ms += 1001
    assert gala.stats() == BudgetStats(300, 100, 100, 100), "nobody has needed it yet"
    if how == "sweep":
        assert engine.sweep() == 1
    elif how == "close":
        assert envelope.close() == 100
    elif how == "claim":
        assert envelope.claim("a").status is Status.CLOSED
    elif how == "expiry":
        clocks.now_ms += 100_000
        assert engine.sweep() == 2, "a claim that goes back, and an envelope that is closed"
    else:
        assert getattr(envelope, how)("a") is None
    assert gala.stats() == BudgetStats(300, 200, 0, 100)
    assert envelope.close() == 100
    assert engine.sweep() == 0
    engine.audit()


@reference_only
def test_an_expiry_is_met_by_whoever_claims(impl: ModuleType) -> None:
    engine = impl.Engine()
    clocks = Clocks(engine)
    gala = engine.budget("gala", 100)
    envelope = gala.envelope("e", 100, 4, law="equal", expires_at=clocks.now_ms / 1000 + 60)
    assert [envelope.claim(user).status for user in "abc"] == [Status.GRANTED] * 3
    clocks.now_ms += 59_999
    assert envelope.claim("d").status is Status.GRANTED
    envelope.release("d")
    clocks.now_ms += 1
    envelope.release("b")
    assert gala.stats().available == 0, "nobody has met the expiry"
    clocks.now_ms -= 1
    assert envelope.claim("b").status is Status.GRANTED, "the time of day went back before anybody did"
    clocks.now_ms += 1
    assert envelope.claim("a").status is Status.REPEATED
    assert gala.stats() == BudgetStats(100, 25, 75, 0)
    assert envelope.claim("e").status is Status.CLOSED
    clocks.now_ms -= 10**9
    assert envelope.claim("e").status is Status.CLOSED, "closed is closed, whatever the clock says"
    envelope.release("a")
    assert gala.stats() == BudgetStats(100, 50, 50, 0)
    engine.audit()
