"""Top-ups of a live envelope: more packets for the same users, exact to the unit, whoever races, dies or closes."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hbcore
from hbcore import State, Status

SEED, OTHER_SEED = bytes(range(32)), bytes(range(32, 64))
LIMIT = 2**62


def refuses(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == words


# ---- what comes of it -----------------------------------------------------------------------------------------------

laws = st.sampled_from(["equal", "double_mean", "dirichlet"])
sizes = st.one_of(st.integers(1, 5), st.integers(60, 70), st.integers(1020, 1030), st.just(2100))


@st.composite
def growing(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Draw the terms of an envelope, and the amounts and packets of its top-ups."""
    least, most = draw(st.sampled_from([(1, None), (3, None), (3, 3), (2, 90)]))
    packets = draw(sizes)

    def amount(count: int) -> int:
        return draw(st.integers(count * least, count * (most or 400)))

    terms = {"total": amount(packets), "packets": packets, "law": draw(laws), "min": least, "seed": SEED}
    if most is not None and most < terms["total"]:  # else it bounds nothing
        terms["max"] = most
    top_ups = [(amount(count), count) for count in draw(st.lists(sizes, min_size=1, max_size=4))]
    terms["max_packets"] = packets + sum(count for _, count in top_ups) + draw(st.integers(0, 99))
    return terms, top_ups


@pytest.mark.full
@settings(max_examples=40)
@given(growing())
def test_every_part_is_split_by_its_own_seed_and_numbered_on(impl: ModuleType, drawn: tuple) -> None:
    terms, top_ups = drawn
    reference = hbcore.reference
    engine = impl.Engine()
    envelope = engine.envelope("e", **terms)
    bound = {name: terms[name] for name in ("law", "min", "max") if name in terms}
    parts = [reference.split(terms["total"], terms["packets"], **bound, seed=SEED)]
    for number, (amount, packets) in enumerate(top_ups):
        seed = bytes([number]) * 32
        hold = envelope.top_up(number, amount, packets, seed=seed)
        assert (hold.status, hold.amount, hold.settled, hold.state) == (Status.GRANTED, amount, 0, State.GRANTED)
        parts.append(reference.split(amount, packets, **bound, seed=seed))
    expected = np.concatenate(parts).tolist()
    total = sum(expected)
    assert envelope.stats() == (len(expected), 0, 0, len(expected), (total, 0, 0, total))
    rows = envelope.claim_many(np.arange(len(expected) + 3))
    assert [int(status) for status in rows["status"][-3:]] == [Status.SOLD_OUT] * 3
    assert sorted(rows["packet"][:-3].tolist()) == list(range(len(expected)))
    assert rows["amount"][:-3].tolist() == [expected[packet] for packet in rows["packet"][:-3]]
    assert rows["amount"].sum() == total == engine.audit().amount_granted
    assert envelope.claims()["amount"].tolist() == expected


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 70)), max_size=12))
def test_a_user_has_one_packet_and_a_free_one_is_found_whatever_was_added_when(
    impl: ModuleType, steps: list[tuple[int, int]]
) -> None:
    envelope = impl.Engine().envelope("e", total=3, packets=3, law="equal", max_packets=3 + 70 * 12)
    free, users, answers = 3, 0, {}
    for number, (claims, packets) in enumerate(steps):
        for user in range(users, users + claims):
            claim = envelope.claim(user)
            assert bool(claim) is (free > 0)
            if claim:
                free -= 1
                answers[user] = claim
        users += claims
        if packets:
            envelope.top_up(number, packets, packets)
            free += packets
    for user, claim in answers.items():
        again = envelope.claim(user)
        assert (again.status, again.packet, again.amount) == (Status.REPEATED, claim.packet, claim.amount)
    assert len({claim.packet for claim in answers.values()}) == len(answers)
    assert envelope.stats().remaining == free


def test_what_is_added_can_be_released_settled_and_found(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", total=1, packets=1, max_packets=5, per_user=2)
    assert envelope.claim("a")
    envelope.top_up("more", 30, 3, seed=SEED)
    claim = envelope.claim("a", nth=1)
    assert claim.packet > 0
    assert envelope.find("a", nth=1) == envelope.claim("a", nth=1)
    assert envelope.release("a", nth=1).packet == claim.packet
    assert envelope.find("a", nth=1) is None
    assert envelope.claim("b")
    assert envelope.settle("b")
    assert envelope.stats()[:4] == (4, 1, 1, 2)


# ---- keys, room and errors ------------------------------------------------------------------------------------------


def test_a_top_up_is_made_once_for_a_key(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", 1000)
    envelope, other = (budget.envelope(name, 10, 2, max_packets=20) for name in "eo")
    assert envelope.top_up("k", 50, 5, seed=SEED).status == Status.GRANTED
    for again in (envelope.top_up("k", 50, 5), envelope.top_up(b"k", 50, 5, seed=SEED)):
        assert (again.status, again.amount) == (Status.REPEATED, 50)
    what = "top-up 'k' of envelope 'e' was 50 in 5 packets"
    refuses(lambda: envelope.top_up("k", 51, 5), hbcore.ConflictError, f"{what}, not 51 in 5")
    refuses(lambda: envelope.top_up("k", 50, 6), hbcore.ConflictError, f"{what}, not 50 in 6")
    refuses(lambda: envelope.top_up("k", 50, 5, seed=OTHER_SEED), hbcore.ConflictError, f"{what}, with another seed")
    assert other.top_up("k", 7, 3).status == Status.GRANTED  # every envelope has a name space of its own
    assert budget.reserve("k", 1).status == Status.GRANTED  # and so have the holds
    assert envelope.stats().packets == 7
    assert budget.stats() == (1000, 1000 - 78, 78, 0)
    assert envelope.close() == 60
    assert envelope.top_up("k", 50, 5).status == Status.REPEATED
    engine.audit()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("k", 0, 1), ValueError, f"amount must be within 1 .. {LIMIT - 1}, not 0"),
        (("k", 1.0, 1), TypeError, "amount must be an integer, not 1.0 (float)"),
        (("k", 1, 0), ValueError, f"packets must be within 1 .. {2**40 - 1}, not 0"),
        (("k", 1, "1"), TypeError, "packets must be an integer, not '1' (str)"),
        (
            ("k", 5, 2),
            ValueError,
            "amount must be at least packets * min = 6, not 5: ",
        ),
        (
            ("k", 81, 2),
            ValueError,
            "amount must be at most packets * max = 80, not 81: ",
        ),
        ((None, 6, 2), TypeError, "key must be a str, bytes or int, not None (NoneType)"),
        (("", 6, 2), ValueError, "key must be 1 .. 65536 bytes long, not 0"),
        (
            ("k", 90, 9),
            ValueError,
            "packets must be at most 8, not 9: envelope 'e' has 2 packets and was made with max_packets = 10",
        ),
    ],
)
def test_bad_top_ups_change_nothing(
    impl: ModuleType, arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", 1000)
    for envelope in (engine.envelope("e", 70, 2, min=3, max=40, max_packets=10),
                     budget.envelope("e", 70, 2, min=3, max=40, max_packets=10)):  # fmt: skip
        with pytest.raises(error) as caught:
            envelope.top_up(*arguments)
        assert str(caught.value).startswith(words)
        assert envelope.stats().packets == 2
    with pytest.raises(ValueError, match="seed must be 32 bytes, not 1"):
        envelope.top_up("k", 6, 2, seed=b"x")
    assert budget.stats() == (1000, 930, 70, 0)
    assert envelope.top_up("k", 240, 8)


def test_room_is_part_of_the_terms(impl: ModuleType) -> None:
    engine = impl.Engine()
    envelope = engine.envelope("e", 10, 2, max_packets=5)
    assert envelope.terms.max_packets == 5
    assert engine.envelope("plain", 10, 2).terms.max_packets == 2
    envelope.top_up("k", 10, 3)
    assert engine.envelope("e", 10, 2, max_packets=5).stats().packets == 5  # the terms it was made with, all the same
    refuses(
        lambda: engine.envelope("e", 10, 2), hbcore.ConflictError, "envelope 'e' exists with max_packets = 5, not 2"
    )
    for bad, error in ((1, ValueError), (2**40, ValueError), ("5", TypeError), (True, TypeError)):
        with pytest.raises(error, match="max_packets must be"):
            engine.envelope("new", 10, 2, max_packets=bad)
    with pytest.raises(TypeError, match="max_packets is; without them"):
        engine.envelope("e", max_packets=5)
    full = engine.envelope("plain")
    refuses(
        lambda: full.top_up("k", 1, 1),
        ValueError,
        "packets must be at most 0, not 1: envelope 'plain' has 2 packets and was made with max_packets = 2",
    )


def test_the_total_stays_below_the_limit(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", LIMIT - 10, 2, max_packets=9)
    refuses(
        lambda: envelope.top_up("k", 10, 2),
        ValueError,
        f"the total of envelope 'e' must stay below 2**62: it is {LIMIT - 10}, and 10 is too much",
    )
    assert envelope.top_up("k", 9, 2)
    assert envelope.stats().amounts.total == LIMIT - 1


def test_a_max_that_bounds_nothing_bounds_no_top_up_either(impl: ModuleType) -> None:
    engine = impl.Engine()
    for name, most in (("none", None), ("total", 10)):
        envelope = engine.envelope(name, 10, 2, max=most, max_packets=3)
        assert envelope.top_up("k", 500, 1).amount == 500
        assert sorted(envelope.claim(user).amount for user in range(3))[-1] == 500


# ---- the budget -----------------------------------------------------------------------------------------------------


def test_a_top_up_is_a_hold_of_the_budget(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 1000)
    app = gala.budget("app", 300)
    envelope = app.envelope("e", 100, 5, max_packets=50)
    assert envelope.top_up("much", 201, 5).status == Status.INSUFFICIENT
    assert not envelope.top_up("much", 201, 5)
    assert envelope.top_up("k", 200, 5).status == Status.GRANTED
    assert (app.stats(), gala.stats()) == ((300, 0, 300, 0), (1000, 700, 300, 0))
    assert envelope.top_up("one", 1, 1).status == Status.INSUFFICIENT
    app.top_up("t", 1)
    assert envelope.top_up("one", 1, 1).status == Status.GRANTED
    claims = [envelope.claim(user) for user in range(6)]
    envelope.settle(0)
    envelope.release(1)
    kept = sum(claim.amount for claim in claims) - claims[1].amount
    report = engine.audit()
    assert (report.packets, report.amount_total, report.amount_settled) == (11, 301, claims[0].amount)
    assert envelope.close() == 301 - kept
    assert app.stats() == (301, 301 - kept, kept - claims[0].amount, claims[0].amount)
    assert envelope.release(2)
    assert envelope.close() == 301 - kept + claims[2].amount
    engine.audit()


def test_a_closed_or_expired_envelope_and_one_of_a_closed_budget_are_not_topped_up(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", 1000)
    closed = budget.envelope("closed", 10, 2, max_packets=9)
    closed.close()
    expired = budget.envelope("expired", 10, 2, max_packets=9, expires_at=1_000_000_000)
    live = budget.envelope("live", 10, 2, max_packets=9)
    for envelope in (closed, expired):
        hold = envelope.top_up("k", 10, 2)
        assert (hold.status, hold.amount, hold.state, bool(hold)) == (Status.CLOSED, 0, None, False)
        assert envelope.top_up("k", 200, 200).status == Status.CLOSED
    assert budget.stats().available == 990  # whoever meets one that has expired closes it
    budget.close()
    assert live.top_up("k", 10, 2).status == Status.CLOSED
    assert budget.stats().available == 990
    engine.audit()


# ---- races ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_funded", [False, True])
def test_top_ups_race_with_claims_and_each_other(engine: hbcore.Engine, is_funded: bool) -> None:
    """Two threads top up under the same keys while two claim until everything is gone: each packet goes once."""
    maker = engine.budget("b", 10**6) if is_funded else engine
    envelope = maker.envelope("e", 10, 10, "equal", max_packets=10 + 40 * 50)
    granted: list[int] = []
    taken: list[list[int]] = [[], []]
    done = threading.Event()

    def top_up() -> None:
        for number in range(40):
            granted.append(envelope.top_up(number, 100, 50).status == Status.GRANTED)

    def claim(mine: list[int]) -> None:
        user = 10**9 * (mine is taken[0])
        while True:
            was_done = done.is_set()
            user += 1
            claim = engine.envelopes()[0].claim(user)  # a handle of its own now and then
            if claim:
                mine.append(claim.packet)
            elif was_done:
                return

    claimers = [threading.Thread(target=claim, args=(mine,)) for mine in taken]
    makers = [threading.Thread(target=top_up) for _ in range(2)]
    for thread in claimers + makers:
        thread.start()
    for thread in makers:
        thread.join()
    done.set()
    for thread in claimers:
        thread.join()
    assert sum(granted) == 40
    assert sorted(taken[0] + taken[1]) == list(range(10 + 40 * 50))
    assert engine.audit().amount_granted == 10 + 40 * 100


@pytest.mark.full
@pytest.mark.parametrize("is_funded", [False, True])
def test_what_finds_no_room_in_a_race_gives_its_money_back(path: Path, is_funded: bool) -> None:
    """Four processes top up where there is room for one of two: the others are refused, now and whenever they ask."""
    with hbcore.Engine(path) as engine:
        for turn in range(20):
            maker = engine.budget(f"b{turn}", 1000) if is_funded else engine
            envelope = maker.envelope(f"e{turn}", 10, 10, max_packets=25)
            ready, go = os.pipe()
            children = []
            for number in range(4):
                pid = os.fork()
                if pid == 0:
                    status = 1
                    try:
                        os.read(ready, 1)
                        status = 10 + envelope.top_up(number, 20, 8).status
                    except ValueError:
                        status = 20
                    finally:
                        os._exit(status)
                children.append(pid)
            os.write(go, b"....")
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
            os.close(ready)
            os.close(go)
            assert sorted(codes) == [10, 20, 20, 20]
            for number, code in enumerate(codes):
                if code == 20:
                    with pytest.raises(ValueError, match="packets must be at most 7, not 8"):
                        envelope.top_up(number, 20, 8)
            assert envelope.stats().packets == 18
            if is_funded:
                assert maker.stats() == (1000, 970, 30, 0)
        engine.audit()


def test_processes_that_top_up_with_one_key_add_once(path: Path, run_python: Callable[..., Any]) -> None:
    with hbcore.Engine(path) as engine:
        engine.budget("b", 10**6).envelope("e", 10, 10, max_packets=1000)
        children = []
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    envelope = engine.budget("b").envelope("e")
                    got = [envelope.top_up(key, 300, 30).status == Status.GRANTED for key in range(30)]
                    status = 100 + sum(got)
                finally:
                    os._exit(status)
            children.append(pid)
        counts = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) - 100 for pid in children]
        assert sum(counts) == 30
        assert engine.envelopes()[0].stats().packets == 910
        assert engine.budget("b").stats().held == 10 + 30 * 300
        engine.audit()
    program = "import hbcore, sys; e = hbcore.Engine(sys.argv[1]).budget('b').envelope('e')"
    program += "\nprint(sum(bool(e.claim(i)) for i in range(1000)))"
    assert run_python(program, path).stdout == "910\n"


def test_a_close_beside_top_ups_refunds_all_of_them(engine: hbcore.Engine) -> None:
    budget = engine.budget("b", 10**6)
    for turn in range(30):
        envelope = budget.envelope(f"e{turn}", 10, 10, max_packets=1000)
        start = threading.Barrier(2)

        def top_up(envelope: hbcore.Envelope = envelope, start: threading.Barrier = start) -> None:
            start.wait()
            for number in range(20):
                envelope.top_up(number, 30, 3)

        thread = threading.Thread(target=top_up)
        thread.start()
        start.wait()
        envelope.close()
        thread.join()
        # If the money of a top-up was held before the close, the process that appends it gives the money back.
        assert budget.stats() == (10**6, 10**6, 0, 0)
    assert engine.audit().amount_available == 10**6
