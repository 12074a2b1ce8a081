"""What DESIGN.md, section 2, says of engines, envelopes and claims, on the native core and on the reference."""

import copy
import itertools
import pickle
import time
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hbcore
from hbcore import CLAIM_DTYPE, SNAPSHOT_DTYPE, Amounts, AuditReport, EnvelopeStats, State, Status

SEED = bytes(range(32))
KEY = bytes(range(100, 132))
LAWS = ("equal", "double_mean", "dirichlet")

users = st.one_of(
    st.integers(-5, 60),
    st.integers(-(2**63), 2**64 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
    st.binary(min_size=1, max_size=6),
)


@st.composite
def terms(draw: st.DrawFn, max_packets: int = 200) -> dict[str, Any]:
    """The arguments of an envelope that can be: some with bounds that bind."""
    packets = draw(st.integers(1, max_packets))
    low = draw(st.integers(1, 20))
    high = draw(st.none() | st.integers(low, 60))
    total = draw(st.integers(packets * low, packets * (high or 1000)))
    return {
        "total": total,
        "packets": packets,
        "law": draw(st.sampled_from(LAWS)),
        "min": low,
        "max": high,
        "concentration": draw(st.integers(1, 5)),
        "seed": draw(st.binary(min_size=32, max_size=32)),
    }


def identity(user: object) -> object:
    """What makes two users one: the UTF-8 bytes, or the integer."""
    return user.encode() if isinstance(user, str) else user


def check_stats(envelope: Any, is_closed: bool = False) -> EnvelopeStats:
    """The parts of ``stats()`` sum up, and agree with the claims that there are."""
    stats = envelope.stats()
    live = envelope.claims()
    granted, settled = live[live["state"] == State.GRANTED], live[live["state"] == State.SETTLED]
    assert (stats.granted, stats.settled) == (len(granted), len(settled))
    assert (stats.amounts.granted, stats.amounts.settled) == (granted["amount"].sum(), settled["amount"].sum())
    assert stats.amounts.total == envelope.terms.total
    assert stats.packets == envelope.terms.packets
    if is_closed:
        assert (stats.remaining, stats.amounts.remaining) == (0, 0)
    else:
        assert stats.granted + stats.settled + stats.remaining == stats.packets
        assert sum(stats.amounts[1:]) == stats.amounts.total
    return stats


# ---- claims ---------------------------------------------------------------------------------------------------------


@given(terms=terms(), requests=st.lists(users, max_size=80))
def test_every_user_gets_one_packet_and_the_same_answer_again_until_it_is_sold_out(
    impl: ModuleType, terms: dict[str, Any], requests: list[object]
) -> None:
    amounts = impl.split(**terms)
    assert amounts.sum() == terms["total"]
    engine = impl.Engine()
    envelope = engine.envelope("e", **terms)
    answers: dict[object, Any] = {}
    for user in requests:
        claim = envelope.claim(user)
        first = answers.get(identity(user))
        if first is not None:
            assert claim.status is Status.REPEATED
            assert (claim.amount, claim.packet) == (first.amount, first.packet)
        elif len(answers) < terms["packets"]:
            assert claim.status is Status.GRANTED
            assert claim.amount == amounts[claim.packet]
            answers[identity(user)] = claim
        else:
            assert claim.status is Status.SOLD_OUT
            assert (claim.amount, claim.packet) == (0, -1)
        assert bool(claim) is (identity(user) in answers)
    assert len({claim.packet for claim in answers.values()}) == len(answers)
    check_stats(envelope)
    engine.audit()


@pytest.mark.full
@given(terms=terms(), requests=st.lists(users, max_size=60))
def test_a_batch_answers_like_its_users_one_by_one(
    impl: ModuleType, terms: dict[str, Any], requests: list[object]
) -> None:
    engine = impl.Engine()
    together, alone = engine.envelope("together", **terms), engine.envelope("alone", **terms)
    rows = together.claim_many(requests)
    assert rows.dtype == CLAIM_DTYPE
    assert rows.shape == (len(requests),)
    claims = [alone.claim(user) for user in requests]
    assert rows.tolist() == [(claim.status, claim.amount, claim.packet) for claim in claims]


def test_a_claim_is_an_immutable_value(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 100, 2, seed=SEED)
    first, second = envelope.claim("a"), envelope.claim("b")
    again = envelope.claim("a")
    assert again == envelope.claim("a")
    assert hash(again) == hash(envelope.claim("a"))
    assert len({again, envelope.claim("a"), first, second}) == 3
    assert first != again, "GRANTED is not REPEATED"
    assert first != second
    assert first != (Status.GRANTED, first.amount, first.packet)
    assert repr(first) == f"Claim(status=Status.GRANTED, amount={first.amount}, packet={first.packet})"
    for field in ("status", "amount", "packet", "note"):
        with pytest.raises(AttributeError):
            setattr(first, field, 1)
    assert pickle.loads(pickle.dumps(first)) == first
    assert copy.copy(first) == first


def test_a_claim_is_truthy_if_the_user_holds_a_packet(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 1, 1)
    answers = [envelope.claim("a"), envelope.claim("a"), envelope.claim("b")]
    envelope.close()
    answers += [envelope.claim("a"), envelope.claim("b")]
    assert [(claim.status.name, bool(claim)) for claim in answers] == [
        ("GRANTED", True),
        ("REPEATED", True),
        ("SOLD_OUT", False),
        ("REPEATED", True),
        ("CLOSED", False),
    ]


def test_a_str_is_its_bytes_and_an_int_is_a_user_of_its_own(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 100, 10)
    assert envelope.claim("七").packet == envelope.claim("七".encode()).packet
    apart = ["7", 7, -1, 2**64 - 1, "-1", b"\x07", (7).to_bytes(8, "little")]
    assert [envelope.claim(user).status for user in apart] == [Status.GRANTED] * len(apart)


def test_envelopes_of_one_engine_do_not_know_each_others_users(impl: ModuleType) -> None:
    engine = impl.Engine()
    one, two = engine.envelope("1", 100, 3), engine.envelope("2", 100, 3)
    assert one.claim("u").status is Status.GRANTED
    assert two.find("u") is None
    assert two.claim("u").status is Status.GRANTED
    one.close()
    assert two.claim("v").status is Status.GRANTED


# ---- find, settle, release ------------------------------------------------------------------------------------------


@given(requests=st.lists(users, min_size=1, max_size=20), strangers=st.lists(users, max_size=20))
def test_find_shows_claims_and_never_grants(impl: ModuleType, requests: list[object], strangers: list[object]) -> None:
    envelope = impl.Engine().envelope("e", 1000, 10)
    claims = {identity(user): envelope.claim(user) for user in requests}
    before = envelope.stats()
    for user in strangers + requests:
        found = envelope.find(user)
        claim = claims.get(identity(user))
        if claim:
            assert (found.status, found.amount, found.packet) == (Status.REPEATED, claim.amount, claim.packet)
        else:
            assert found is None
    assert envelope.stats() == before


def test_settle_is_final_and_idempotent(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("宴", 1000, 5)
    assert envelope.settle("nobody") is None
    claim = envelope.claim("u")
    for _ in range(2):
        settled = envelope.settle("u")
        assert (settled.status, settled.amount, settled.packet) == (Status.REPEATED, claim.amount, claim.packet)
        stats = check_stats(envelope)
        assert (stats.granted, stats.settled, stats.amounts.settled) == (0, 1, claim.amount)
    before = envelope.claims()
    with pytest.raises(
        hbcore.ConflictError, match=f"^packet {claim.packet} of envelope '宴' is settled: final, not to be released$"
    ):
        envelope.release("u")
    assert (envelope.claims() == before).all()
    assert envelope.claim("u") == settled
    engine.audit()


def test_settle_keeps_the_time_of_the_grant(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 1000, 5)
    envelope.claim("u")
    granted_at = envelope.claims()["granted_at"][0]
    envelope.settle("u")
    assert envelope.claims()["granted_at"][0] == granted_at


def test_release_gives_the_packet_back_for_others_and_for_the_same_user(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 1000, 2)
    assert envelope.release("nobody") is None
    a, b = envelope.claim("a"), envelope.claim("b")
    assert envelope.claim("c").status is Status.SOLD_OUT
    released = envelope.release("a")
    assert (released.status, released.amount, released.packet) == (Status.REPEATED, a.amount, a.packet)
    assert envelope.release("a") is None
    assert envelope.find("a") is None
    assert envelope.settle("a") is None
    assert check_stats(envelope).remaining == 1
    c = envelope.claim("c")
    assert (c.status, c.amount, c.packet) == (Status.GRANTED, a.amount, a.packet)
    assert envelope.claim("a").status is Status.SOLD_OUT
    envelope.release("b")
    again = envelope.claim("a")
    assert (again.status, again.amount, again.packet) == (Status.GRANTED, b.amount, b.packet)
    engine.audit()


@given(
    packets=st.integers(1, 90),
    actions=st.lists(st.tuples(st.sampled_from(["claim", "release", "settle"]), st.integers(0, 99)), max_size=150),
)
def test_whatever_is_released_can_be_claimed_and_nothing_else(
    impl: ModuleType, packets: int, actions: list[tuple[str, int]]
) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", packets * 7, packets)
    held: dict[int, int] = {}
    settled: set[int] = set()
    for action, user in actions:
        if action == "claim":
            claim = envelope.claim(user)
            assert bool(claim) is (user in held or len(held) < packets)
            if claim:
                assert held.setdefault(user, claim.packet) == claim.packet
        elif action == "settle":
            assert (envelope.settle(user) is not None) is (user in held)
            settled |= {user} & held.keys()
        elif user not in settled:
            assert (envelope.release(user) is not None) is (user in held)
            held.pop(user, None)
        assert len(set(held.values())) == len(held)
    stats = check_stats(envelope)
    assert (stats.granted, stats.settled) == (len(held) - len(settled), len(settled))
    assert {int(row["packet"]) for row in envelope.claims()} == set(held.values())
    engine.audit()


# ---- getting and creating -------------------------------------------------------------------------------------------

FULL_TERMS = {
    "total": 1000,
    "packets": 10,
    "law": "dirichlet",
    "min": 2,
    "max": 500,
    "concentration": 4,
    "seed": SEED,
    "expires_at": 4_000_000_000,
}


def test_get_or_create_is_idempotent(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", **FULL_TERMS)
    claim = envelope.claim("u")
    same = [engine.envelope("e", **FULL_TERMS), engine.envelope("e"), engine.envelope(name="e", total=None)]
    same += [engine.envelope("e", **{**FULL_TERMS, "seed": None})]  # whoever made it has chosen the seed
    for other in same:
        assert other == envelope
        assert hash(other) == hash(envelope)
        assert other.name == "e"
        assert other.find("u").packet == claim.packet
        assert other.terms == envelope.terms
    assert engine.audit().envelopes == 1
    assert engine.envelopes() == [envelope]


def test_max_beyond_the_total_is_the_same_as_none(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 1000, 10)
    assert engine.envelope("e", 1000, 10, max=1000) == envelope
    assert engine.envelope("e", 1000, 10, max=2**64 - 1) == envelope


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("total", 1001, "total = 1000, not 1001"),
        ("packets", 11, "packets = 10, not 11"),
        ("law", "equal", "law = dirichlet, not equal"),
        ("min", 1, "min = 2, not 1"),
        ("max", 501, "max = 500, not 501"),
        ("concentration", 3, "concentration = 4, not 3"),
        ("seed", bytes(32), "another seed"),
        ("expires_at", None, "expires_at_ms = 4000000000000, not 0"),
    ],
)
def test_other_parameters_are_a_conflict_that_names_the_field_and_changes_nothing(
    impl: ModuleType, field: str, value: object, words: str
) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("gala", **FULL_TERMS)
    envelope.claim("u")
    before = (envelope.terms, envelope.stats(), engine.audit())
    with pytest.raises(hbcore.ConflictError, match=f"^envelope 'gala' exists with {words}$"):
        engine.envelope("gala", **{**FULL_TERMS, field: value})
    assert (envelope.terms, envelope.stats(), engine.audit()) == before


def test_a_conflict_of_seeds_does_not_tell_the_seed(impl: ModuleType) -> None:
    engine = impl.Engine()
    engine.envelope("e", 100, 10, seed=SEED)
    with pytest.raises(hbcore.ConflictError) as caught:
        engine.envelope("e", 100, 10, seed=bytes(32))
    assert repr(SEED) not in str(caught.value)
    assert SEED.hex() not in str(caught.value)


def test_what_is_not_there_is_not_found_and_not_made(impl: ModuleType) -> None:
    engine = impl.Engine()
    for _ in range(2):
        with pytest.raises(
            hbcore.NotFoundError, match=r"^there is no envelope '春'; give total and packets to create it$"
        ):
            engine.envelope("春")
    assert engine.envelopes() == []


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60))
)
def test_every_name_is_an_envelope_of_its_own(impl: ModuleType, names: list[str]) -> None:
    engine = impl.Engine(capacity=1 << 30)
    totals: dict[str, int] = {}
    for total, name in enumerate(names, 1):
        totals.setdefault(name, total)
        engine.envelope(name, totals[name], 1)
    for name, total in totals.items():
        envelope = engine.envelope(name)
        assert (envelope.name, envelope.terms.total) == (name, total)
    assert [envelope.name for envelope in engine.envelopes()] == list(totals)


def test_handles_are_equal_if_they_speak_of_the_same_envelope(impl: ModuleType) -> None:
    one, other = impl.Engine(), impl.Engine()
    envelope = one.envelope("e", 10, 1)
    assert envelope == one.envelope("e")
    assert {envelope: "found"}[one.envelope("e")] == "found"
    assert envelope != one.envelope("f", 10, 1)
    assert envelope != other.envelope("e", 10, 1)
    assert envelope != "e"


def test_representations_say_what_and_where(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("晚宴", 1000, 10)
    assert repr(engine) == "<Engine in memory>"
    assert repr(envelope) == "<Envelope '晚宴': 1000 in 10 packets, engine in memory>"
    assert engine.path is None
    engine.close()
    assert repr(engine) == "<closed Engine in memory>"


# ---- amounts --------------------------------------------------------------------------------------------------------


@given(terms=terms())
def test_the_seed_fixes_every_amount(impl: ModuleType, terms: dict[str, Any]) -> None:
    envelope = impl.Engine().envelope("e", **terms)
    rows = envelope.claim_many(np.arange(terms["packets"]))
    expected = hbcore.split(**terms)
    assert (rows["amount"] == expected[rows["packet"]]).all()
    assert rows["amount"].min() >= terms["min"]
    assert rows["amount"].max() <= (terms["max"] or terms["total"])


def test_without_a_seed_no_two_envelopes_are_alike(impl: ModuleType) -> None:
    engine = impl.Engine()
    splits = [impl.split(10**9, 20).tolist() for _ in range(3)]
    for name in "ab":
        rows = engine.envelope(name, 10**9, 20).claim_many(range(20))
        splits.append(rows["amount"][np.argsort(rows["packet"])].tolist())
    assert len({tuple(amounts) for amounts in splits}) == len(splits)
    assert engine.envelope("a").terms.seed != engine.envelope("b").terms.seed


# ---- snapshots, closing, expiring -----------------------------------------------------------------------------------


@given(requests=st.lists(users, max_size=40, unique_by=identity), settled=st.sets(st.integers(0, 39)))
def test_claims_lists_every_live_claim(impl: ModuleType, requests: list[object], settled: set[int]) -> None:
    engine = impl.Engine(key=KEY)
    envelope = engine.envelope("e", 4000, 40, seed=SEED)
    before = time.time()
    expected = {}
    for i, user in enumerate(requests):
        claim = envelope.claim(user)
        state = State.GRANTED
        if i in settled:
            envelope.settle(user)
            state = State.SETTLED
        expected[claim.packet] = (engine.user_hash(user), claim.amount, state)
    rows = envelope.claims()
    assert rows.dtype == SNAPSHOT_DTYPE
    assert rows["packet"].tolist() == sorted(expected)
    for row in rows:
        assert (row["user"].tobytes(), row["amount"], row["state"]) == expected[row["packet"]]
    seconds = rows["granted_at"].astype("i8") / 1000
    # The clock of grants is coarse: up to a tick late. (A second of slack is for machines that set their clock.)
    assert ((before - 1 <= seconds) & (seconds <= time.time() + 1)).all()


def test_claims_are_in_the_order_of_their_packets(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 9000, 3000, law="equal")
    envelope.claim_many(range(2500))
    for user in range(0, 2500, 3):
        envelope.release(user)
    assert (np.diff(envelope.claims()["packet"]) > 0).all()
    assert len(envelope.claims()) == 1666


def test_claims_of_an_envelope_that_nobody_has_asked_is_empty(impl: ModuleType) -> None:
    rows = impl.Engine().envelope("e", 10**9, 10**6).claims()
    assert rows.dtype == SNAPSHOT_DTYPE
    assert len(rows) == 0


def test_stats_are_named(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 1000, 10)
    stats = envelope.stats()
    assert isinstance(stats, EnvelopeStats)
    assert isinstance(stats.amounts, Amounts)
    assert stats == EnvelopeStats(
        packets=10,
        granted=0,
        settled=0,
        remaining=10,
        amounts=Amounts(total=1000, granted=0, settled=0, remaining=1000),
    )


@given(terms=terms(), claimed=st.integers(0, 60), released=st.integers(0, 20), settled=st.integers(0, 20))
def test_close_refunds_what_is_unclaimed(
    impl: ModuleType, terms: dict[str, Any], claimed: int, released: int, settled: int
) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", **terms)
    held = {user: claim for user in range(claimed) if (claim := envelope.claim(user))}
    for user in range(released):
        envelope.release(user)
        held.pop(user, None)
    for user in range(released, released + settled):
        envelope.settle(user)
    given_out = sum(claim.amount for claim in held.values())
    for _ in range(2):
        assert envelope.close() == terms["total"] - given_out
        check_stats(envelope, is_closed=True)
        report = engine.audit()
        assert report.refunded == terms["packets"] - len(held)
        assert (report.granted + report.settled, report.amount_granted + report.amount_settled) == (
            len(held),
            given_out,
        )
    assert envelope.claim("newcomer").status is Status.CLOSED
    for user, claim in held.items():
        assert (envelope.claim(user).status, envelope.find(user).packet) == (Status.REPEATED, claim.packet)
    rows = envelope.claim_many(range(claimed + 1))
    assert [Status(status) for status in rows["status"]] == [
        Status.REPEATED if user in held else Status.CLOSED for user in range(claimed + 1)
    ]


def test_claims_of_a_closed_envelope_can_still_be_settled_and_released(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 5000, 3000)
    a, b = envelope.claim("a"), envelope.claim("b")
    refund = envelope.close()
    assert refund == 5000 - a.amount - b.amount
    assert envelope.settle("a").packet == a.packet
    assert envelope.release("b").packet == b.packet
    assert engine.audit() == AuditReport(1, 3000, 0, 1, 2999, 5000, 0, a.amount)
    assert envelope.close() == refund + b.amount
    assert envelope.claim("b").status is Status.CLOSED, "the packet has been refunded"
    assert envelope.claim("a").status is Status.REPEATED
    with pytest.raises(hbcore.ConflictError, match="final"):
        envelope.release("a")
    check_stats(envelope, is_closed=True)
    assert engine.audit() == AuditReport(1, 3000, 0, 1, 2999, 5000, 0, a.amount)


PAST = [1, 0.5, 1_500_000_000, datetime(2020, 1, 1, tzinfo=UTC), np.float64(1e9), np.int64(10**9)]
FUTURE = [
    4_000_000_000,
    4e9,
    datetime(2100, 1, 1, tzinfo=timezone(timedelta(hours=8))),
    np.float64(4e9),
    np.uint32(4e9),
]


@pytest.mark.parametrize("expires_at", PAST, ids=repr)
def test_what_has_expired_is_closed_to_newcomers(impl: ModuleType, expires_at: object) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 1000, 10, expires_at=expires_at)
    assert envelope.closed is True
    assert envelope.stats().remaining == 10, "the look has closed it"
    assert envelope.claim("u").status is Status.CLOSED
    assert (envelope.claim_many(["u", "v"])["status"] == Status.CLOSED).all()
    assert envelope.find("u") is None
    assert envelope.stats().granted == 0
    assert envelope.close() == 1000
    engine.audit()


@pytest.mark.parametrize("expires_at", FUTURE, ids=repr)
def test_what_expires_later_is_open(impl: ModuleType, expires_at: object) -> None:
    envelope = impl.Engine().envelope("e", 1000, 10, expires_at=expires_at)
    assert envelope.closed is False
    assert envelope.claim("u").status is Status.GRANTED
    assert 3_999_999_999_000 < envelope.terms.expires_at_ms < 4_200_000_000_000


def test_a_datetime_and_its_timestamp_are_one_expiry(impl: ModuleType) -> None:
    engine = impl.Engine()
    moment = datetime(2077, 7, 7, 7, 7, 7, 123000, tzinfo=UTC)
    envelope = engine.envelope("e", 10, 1, expires_at=moment)
    assert engine.envelope("e", 10, 1, expires_at=moment.timestamp()) == envelope
    assert engine.envelope("e", 10, 1, expires_at=moment.astimezone(timezone(timedelta(hours=8)))) == envelope


def test_holders_keep_their_packets_when_an_envelope_expires(impl: ModuleType) -> None:
    engine = impl.Engine()
    for attempt in itertools.count(1):  # a machine that stalls for long enough misses the first expiries
        envelope = engine.envelope(f"e{attempt}", 3, 2, expires_at=time.time() + 0.05 * attempt)
        if envelope.claim("a") and envelope.claim("b"):
            break
    give_up_at = time.monotonic() + 60
    while envelope.claim("late").status is Status.SOLD_OUT and time.monotonic() < give_up_at:
        pass
    assert envelope.claim("late").status is Status.CLOSED
    assert envelope.claim("a").status is Status.REPEATED
    assert envelope.settle("a") is not None
    assert envelope.release("b") is not None
    assert envelope.claim("b").status is Status.CLOSED, "the packet has been refunded, not freed"
    assert envelope.stats().remaining == 0, "the first claim that came too late has closed the envelope"
    engine.audit()


def test_closed_says_the_same_of_an_engine_a_budget_and_an_envelope(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", 1000)
    envelope = budget.envelope("e", 20, 1, max_packets=2)
    for thing in (envelope, budget, engine):
        assert thing.closed is False
    envelope.claim("u")
    assert envelope.claim("v").status is Status.SOLD_OUT
    assert envelope.closed is False, "sold out is not closed: a release or a top-up opens it again"
    for thing in (envelope, budget):
        thing.close()
        assert thing.closed is True
        assert engine.envelopes()[0].closed is True, "another handle says something else"
        assert engine.closed is False
    engine.close()
    assert engine.closed is True
    for thing in (envelope, budget):
        with pytest.raises(hbcore.EngineClosedError):
            thing.closed  # noqa: B018


def test_the_name_of_its_law_is_among_the_terms_of_an_envelope(impl: ModuleType) -> None:
    engine = impl.Engine()
    for law in LAWS:
        assert engine.envelope(law, 100, 10, law).terms.law == law
        engine.create_many([f"{law} too"], 100, 10, law=law)
        assert engine.envelope(f"{law} too").terms.law == law


@pytest.mark.parametrize("count", [1, 30, 1000])
def test_records_show_nothing_of_the_memory_that_they_stand_in(impl: ModuleType, count: int) -> None:
    """Records are aligned, and what lies between their fields is zero: other objects may have been there before."""
    engine = impl.Engine()
    envelope, budget = engine.envelope("20:00", total=60_000, packets=600), engine.budget("gala", total=10_000)
    calls = (
        lambda: envelope.claim_many(np.arange(count)),
        envelope.claims,
        lambda: budget.reserve_many(np.arange(count), np.ones(count, np.int64)),
        budget.holds,
    )
    for call in calls:
        for _ in range(10):
            rows = call()
            for size in {rows.nbytes, count * rows.itemsize}:  # the allocator likes to hand out what was just freed
                leftover = [np.full(size, 0xAB, np.uint8) for _ in range(3)]
                del leftover
            rows = call()
            between = np.ones(rows.itemsize, bool)
            for field, offset in (rows.dtype.fields[name][:2] for name in rows.dtype.names):
                between[offset : offset + field.itemsize] = False
            assert between.any()
            assert not np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), -1)[:, between].any()
