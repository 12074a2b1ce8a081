"""Threads and processes that claim from one envelope: nothing over-issued, nobody twice, the same when retried.

The interleavings that these tests meet are those that the machine happens to produce. ``test_explorer.py`` runs the
same protocol through all of them, in miniature.
"""

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from children import Child, race
from marks import full_but

import hbcore
import hbcore.terms
from hbcore import Status

WORKERS = 4


def run_threads(work: Callable[[int], object]) -> list:
    """Run ``work(i)`` in WORKERS threads that start together; return the results."""
    barrier = threading.Barrier(WORKERS)
    results: list = [None] * WORKERS

    def body(i: int) -> None:
        barrier.wait()
        results[i] = work(i)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def run_processes(work: Callable[[int], np.ndarray], dtype: np.dtype) -> list:
    """Run ``work(i)`` in WORKERS forked children that start together; return the arrays of ``dtype`` they give."""
    results = race(lambda i: np.ascontiguousarray(work(i), dtype).tobytes(), WORKERS)
    return [np.frombuffer(result, dtype) for result in results]


SIZES = [(1, 50), (64, 40), (1000, 1500), (20_000, 30_000), (30_000, 20_000)]
RUNNERS = {
    "threads": lambda work: run_threads(work),
    "processes": lambda work: run_processes(work, ANSWER),
}
ANSWER = np.dtype([("user", "i8"), *[(name, hbcore.CLAIM_DTYPE[name]) for name in hbcore.CLAIM_DTYPE.names]])


def claim_batch(envelope: hbcore.Envelope, users: np.ndarray) -> np.ndarray:
    answers = np.empty(len(users), ANSWER)
    answers["user"] = users
    claims = envelope.claim_many(users)
    for name in claims.dtype.names:
        answers[name] = claims[name]
    return answers


def claim_singly(envelope: hbcore.Envelope, users: np.ndarray) -> np.ndarray:
    answers = np.empty(len(users), ANSWER)
    for i, user in enumerate(users.tolist()):
        claim = envelope.claim(user)
        answers[i] = (user, claim.status, claim.amount, claim.packet)
    return answers


def check_promises(envelope: hbcore.Envelope, engine: hbcore.Engine, answers: np.ndarray) -> None:
    """Check what all workers were answered: once per user, once per packet, exact sums."""
    packets, total = envelope.terms.packets, envelope.terms.total
    granted = answers[answers["status"] == Status.GRANTED]
    holding = answers[answers["packet"] >= 0]
    assert len(np.unique(granted["packet"])) == len(granted), "a packet was granted twice"
    assert len(np.unique(granted["user"])) == len(granted), "a user was granted two packets"
    # Every answer to a user names the same packet and the same amount.
    assert len(np.unique(holding[["user", "packet", "amount"]])) == len(granted)
    terms = envelope.terms
    amounts = hbcore.split(total, packets, terms.law, terms.min, terms.max, terms.concentration, terms.seed)
    assert (holding["amount"] == amounts[holding["packet"]]).all(), "an amount is not what law and seed give"
    if len(np.unique(answers["user"])) >= packets:
        assert len(granted) == packets, "a packet was stranded"
        assert granted["amount"].sum() == total
    stats = envelope.stats()
    assert (stats.granted, stats.amounts.granted) == (len(granted), granted["amount"].sum())
    # The ledger says the same as the answers did.
    claims = envelope.claims()
    order = np.argsort(granted["packet"])
    assert (claims["packet"] == granted["packet"][order]).all()
    assert engine.audit().granted == len(granted)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("claim", [claim_batch, claim_singly])
@pytest.mark.parametrize(
    ("packets", "user_count"),
    [
        (1, 50),
        (64, 40),
        (1000, 1500),
        pytest.param(20_000, 30_000, marks=pytest.mark.full),
        pytest.param(30_000, 20_000, marks=pytest.mark.full),
    ],
)
def test_overlapping_users_race_for_one_envelope(runner: str, claim, packets: int, user_count: int) -> None:
    """Every worker claims for every user, each in an order of its own or all in the same one, and retries a few."""
    for same_order in (True, False):
        with hbcore.Engine() as engine:
            envelope = engine.envelope("e", total=packets * 100, packets=packets)

            def work(i: int, envelope=envelope, same_order=same_order) -> np.ndarray:
                users = np.arange(user_count)
                if not same_order:
                    np.random.default_rng(i).shuffle(users)
                users = np.concatenate([users, users[::7]])
                return claim(envelope, users)

            check_promises(envelope, engine, np.concatenate(RUNNERS[runner](work)))


@pytest.mark.parametrize("runner", RUNNERS)
def test_many_small_envelopes_are_raced_for(runner: str) -> None:
    """The last packets of an envelope are where races are; a thousand envelopes have a thousand last packets."""
    with hbcore.Engine() as engine:
        envelopes = [engine.envelope(f"e{n}", total=70, packets=7) for n in range(1000)]
        users = np.arange(9)

        def work(i: int) -> np.ndarray:
            turned = np.roll(users, 2 * i)
            return np.concatenate([claim_singly(envelope, turned) for envelope in envelopes])

        results = RUNNERS[runner](work)
        for n, envelope in enumerate(envelopes):
            part = np.concatenate([result[9 * n : 9 * n + 9] for result in results])
            granted = part[part["status"] == Status.GRANTED]
            holding = part[part["packet"] >= 0]
            assert len(granted) == 7
            assert granted["amount"].sum() == 70
            assert len(np.unique(granted["packet"])) == len(np.unique(granted["user"])) == 7
            assert len(np.unique(holding[["user", "packet", "amount"]])) == 7
            assert envelope.stats().remaining == 0
        assert engine.audit().granted == 7000


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("packets", [3, 100, 3000])
def test_claims_and_releases_race(runner: str, packets: int) -> None:
    """Users come and go, the index is replaced again and again, and some claims are settled and stay.

    Each worker releases only its own users, so it knows what it must be told at every step.
    """
    rounds = 30_000 if packets < 3000 else 10

    def work(i: int) -> np.ndarray:
        if packets == 3000:
            users = np.arange(i * 1000, i * 1000 + 700)
            for _ in range(rounds):
                granted = claim_batch(envelope, users)
                assert (granted["status"] == Status.GRANTED).all()
                for user in users.tolist():
                    assert envelope.release(user)
                    assert envelope.find(user) is None
        else:
            for turn in range(rounds):
                user = i * 1000 + turn % 5
                claim = envelope.claim(user)
                if claim:
                    assert claim.status == Status.GRANTED
                    assert envelope.claim(user) == hbcore.Claim(Status.REPEATED, claim.amount, claim.packet)
                    assert envelope.release(user) is not None
                    assert envelope.release(user) is None
        stays = 900_000 + i
        last = envelope.claim(stays)
        if last:
            assert envelope.settle(stays) == envelope.find(stays)
            with pytest.raises(hbcore.ConflictError):
                envelope.release(stays)
        return np.array([(stays, last.status, last.amount, last.packet)], ANSWER)

    with hbcore.Engine() as engine:
        envelope = engine.envelope("e", total=packets * 100, packets=packets)
        results = np.concatenate(RUNNERS[runner](work))
        settled = results[results["packet"] >= 0]
        assert len(np.unique(settled["packet"])) == len(settled) == min(WORKERS, packets)
        stats = envelope.stats()
        assert (stats.granted, stats.settled, stats.remaining) == (0, len(settled), packets - len(settled))
        assert engine.audit().settled == len(settled)
        # Whatever was released can be claimed by somebody else, to the last packet.
        rest = envelope.claim_many(np.arange(10_000, 10_000 + packets))
        assert (rest["status"] == Status.GRANTED).sum() == packets - len(settled)
        assert rest["amount"].sum() + settled["amount"].sum() == packets * 100
        engine.audit()


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_same_users_are_claimed_released_and_settled_by_everybody(runner: str) -> None:
    """All workers act on the same few users. Whatever wins, the ledger stays sound, and money is conserved."""

    def work(i: int) -> np.ndarray:
        rng = np.random.default_rng(i)
        rows = []
        for action, user in zip(rng.integers(0, 8, 40_000).tolist(), rng.integers(0, 6, 40_000).tolist(), strict=True):
            if action < 4:
                claim = envelope.claim(user)
                assert claim.status in (Status.GRANTED, Status.REPEATED, Status.SOLD_OUT)
                rows.append((user, claim.status, claim.amount, claim.packet))
            elif action < 7:
                envelope.release(user)
            else:
                envelope.find(user)
        return np.array(rows, ANSWER)

    with hbcore.Engine() as engine:
        envelope = engine.envelope("e", total=500, packets=5)
        answers = np.concatenate(RUNNERS[runner](work))
        amounts = hbcore.split(500, 5, seed=envelope.terms.seed)
        holding = answers[answers["packet"] >= 0]
        assert (holding["amount"] == amounts[holding["packet"]]).all()
        assert engine.audit().granted == envelope.stats().granted
        for user in range(6):
            envelope.release(user)
        assert envelope.stats().remaining == 5
        assert envelope.claim_many(np.arange(100, 105))["amount"].sum() == 500
        engine.audit()


def test_settle_and_release_have_one_winner() -> None:
    """A settle and a release of one claim race: exactly one wins, whichever way it goes."""
    with hbcore.Engine() as engine:
        envelope = engine.envelope("e", total=50_000, packets=5000)
        envelope.claim_many(np.arange(5000))

        def work(i: int) -> list:
            outcomes = []
            for user in range(5000):
                try:
                    claim = envelope.settle(user) if i % 2 else envelope.release(user)
                    outcomes.append(claim is not None)
                except hbcore.ConflictError:
                    outcomes.append(False)
            return outcomes

        results = np.array(run_threads(work))
        released, settled = results[::2].sum(axis=0), results[1::2].max(axis=0)
        assert (released <= 1).all(), "two releases of one claim both won"
        assert (released + settled == 1).all(), "settle and release both won, or neither"
        stats = envelope.stats()
        assert (stats.settled, stats.remaining) == (settled.sum(), released.sum())
        engine.audit()


@pytest.mark.parametrize("runner", full_but(RUNNERS, "threads"))
def test_closing_races_with_claims(runner: str) -> None:
    """What is granted and what is refunded make the total, whatever the moment of the close."""
    for packets in (5, 3000):
        for turn in range(20):
            with hbcore.Engine() as engine:
                envelope = engine.envelope("e", total=packets * 10, packets=packets, law="dirichlet", concentration=64)
                refunds: list = []

                def work(i: int, envelope=envelope, packets=packets, turn=turn, refunds=refunds) -> np.ndarray:
                    if i == 0:
                        envelope.claim_many(np.arange(10_000, 10_000 + turn * packets // 40))
                        refunds.append(envelope.close())
                        return np.empty(0, ANSWER)
                    return claim_batch(envelope, np.arange(i, packets, 2))

                answers = np.concatenate(RUNNERS[runner](work))
                assert set(answers["status"]) <= {0, 1, 2, 3}
                assert envelope.claim("late").status == Status.CLOSED
                granted = envelope.stats().amounts.granted
                report = engine.audit()
                assert envelope.close() == packets * 10 - granted
                assert runner == "processes" or refunds[0] <= packets * 10 - granted, "refunded and granted as well"
                assert report.granted + report.refunded == packets, "a packet is neither granted nor refunded"


def churn(envelope: hbcore.Envelope) -> None:
    """Leave one tombstone after the other: every few claims the index is replaced."""
    for user in range(1000, 2**62, 16):
        envelope.claim_many(np.arange(user, user + 16))
        for i in range(16):
            envelope.release(user + i)


@pytest.mark.full
@pytest.mark.parametrize("readonly", [False, True])
def test_an_audit_names_nothing_while_indexes_are_replaced(tmp_path: Path, readonly: bool) -> None:
    """A replacement that begins when the audit has seen the slots, and not yet the index, is no damage."""
    path = tmp_path / "gala.hb"
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("e", 64, 64)
        envelope.claim_many(np.arange(32))
        churning = Child(lambda say: churn(envelope))
        try:
            with hbcore.Engine(path, readonly=readonly) as other:
                for _ in range(60_000):
                    other.audit()
        finally:
            churning.kill()
        assert 32 <= engine.audit().granted <= 32 + 16


def test_creators_of_one_name_race() -> None:
    """One of many makers of one envelope wins, and all speak of the same envelope."""
    with hbcore.Engine() as engine:
        for n in range(300):
            handles = run_threads(lambda i, n=n: engine.envelope(f"e{n}", total=100 + n, packets=10))
            assert len(set(handles)) == 1
            assert len({handle.terms.seed for handle in handles}) == 1
        assert engine.audit().envelopes == 300


def test_a_forked_child_is_another_worker() -> None:
    """A child registers anew, so that its slots are told from its parent's, and both go on after the fork."""
    with hbcore.Engine() as engine:
        envelope = engine.envelope("e", total=1000, packets=100)
        envelope.claim("parent")

        def work(i: int) -> np.ndarray:
            claim = envelope.claim(i)
            return np.array([(i, claim.status, claim.amount, claim.packet)], ANSWER)

        answers = np.concatenate(run_processes(work, ANSWER))
        assert (answers["status"] == Status.GRANTED).all()
        assert envelope.claim("parent").status == Status.REPEATED
        assert engine.audit().granted == WORKERS + 1


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("is_topped_up", [False, True])
def test_threads_that_meet_part_again(count: int, is_topped_up: bool) -> None:
    """No block of 64 packets has claims of two threads, which would both want its cache lines; not even the last.

    The threads take turns, so that all of them come to where others are or have been.
    """
    blocks, step = 200, 16
    engine = hbcore.Engine()
    envelope = engine.envelope("e", 64 * blocks, 64 * blocks, max_packets=2 * 64 * blocks)
    owners = np.full(2 * 64 * blocks, -1)
    users = itertools.count(step=step)

    def sell_out() -> None:
        is_left = True
        while is_left:
            is_left = False
            for number, thread in enumerate(threads):
                first = next(users)
                packets = thread.submit(envelope.claim_many, np.arange(first, first + step)).result()["packet"]
                packets = packets[packets >= 0]
                owners[packets] = number
                is_left = is_left or len(packets) > 0

    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(count)]
        sell_out()
        if is_topped_up:
            assert envelope.top_up("more", 64 * blocks, 64 * blocks)
            sell_out()
    sold = owners[owners >= 0].reshape(-1, 64)
    assert len(sold) == blocks * (1 + is_topped_up)
    assert (sold.min(axis=1) == sold.max(axis=1)).all()


def reserve_part(engine: hbcore.Engine, budget: hbcore.Budget, keys: list[int]) -> object:
    return budget.reserve_many(keys, 1)


def create_part_of_a_budget(engine: hbcore.Engine, budget: hbcore.Budget, keys: list[int]) -> object:
    return budget.create_many([f"{key}" for key in keys], 10, 1)


def create_part(engine: hbcore.Engine, budget: hbcore.Budget, keys: list[int]) -> object:
    return engine.create_many([f"{key}" for key in keys], 10, 1)


# A name meets another bucket in every engine: the counts are such that all engines need the same levels.
@pytest.mark.full
@pytest.mark.parametrize(
    ("part", "count", "turns"),
    [(reserve_part, 80_000, 20), (create_part_of_a_budget, 4_000, 40), (create_part, 16_000, 60)],
)
def test_threads_that_miss_the_same_level_make_it_once(part: Callable, count: int, turns: int) -> None:
    """The first of them makes it; the others find that it is there, and neither damage nor need of one more."""
    size = count // WORKERS

    def make(work: Callable[[hbcore.Engine, hbcore.Budget], object]) -> int:
        with hbcore.Engine(key=bytes(32)) as engine:
            work(engine, engine.budget("b", 10**9))
            engine.audit()
            return engine.info().used

    def together(engine: hbcore.Engine, budget: hbcore.Budget) -> None:
        parts = run_threads(lambda i: part(engine, budget, list(range(i * size, (i + 1) * size))))
        assert all(statuses is not None for statuses in parts)

    alone = make(lambda engine, budget: part(engine, budget, list(range(count))))
    # Without a GIL several threads may begin to make it; one wins, and the others let go of theirs.
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert max(make(together) for _ in range(turns)) <= alone * (1 if has_gil else WORKERS)


@pytest.mark.full
def test_amounts_that_another_thread_writes_to_are_checked_as_they_are_used() -> None:
    """A batch of reserves takes what it has looked at, or refuses it: no hold is of 0."""
    count = 100_000
    keys, amounts = np.arange(count), np.ones(count, np.int64)
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            amounts[:] = 0
            amounts[:] = 1

    writer = threading.Thread(target=write)
    writer.start()
    taken = turn = 0
    try:
        with hbcore.Engine() as engine:
            while taken < 5 and turn < 10_000:
                budget = engine.budget(f"{turn}", count)
                turn += 1
                with contextlib.suppress(ValueError):
                    assert budget.reserve_many(keys, amounts)["amount"].min() == 1
                    taken += 1
    finally:
        is_over.set()
        writer.join()


def test_threads_make_engines_and_close_them_under_claims() -> None:
    """Closing an engine under running batches refuses what comes later and breaks nothing that is under way."""
    for _ in range(30):
        engine = hbcore.Engine()
        envelope = engine.envelope("e", total=200_000, packets=100_000)

        def work(i: int, engine=engine, envelope=envelope) -> int:
            if i == 0:
                engine.close()
                return 0
            try:
                return int((envelope.claim_many(np.arange(i * 10_000, i * 10_000 + 10_000))["status"] == 0).sum())
            except hbcore.EngineClosedError:
                return 0

        assert set(run_threads(work)) <= {0, 10_000}
        with pytest.raises(hbcore.EngineClosedError):
            envelope.claim(1)
