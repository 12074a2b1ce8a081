"""The races that the sanitizers watch: threads that do everything at once to engines in memory and in a file.

    python races.py [--seconds 60] [--seed 1] [--only NAME ...]

is run by ``sanitize.py`` in a folder that ``build.py`` has filled. Every scenario checks its answers; exits 1 if one
was wrong. What a sanitizer sees, it reports by itself. The plan of every thread is drawn from the seed; how the threads
interleave is the machine's choice.
"""

import argparse
import contextlib
import gc
import itertools
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import account_racer
import numpy as np
import racer

import hbcore
from hbcore import State, Status

THREADS = 4
CAPACITY = 1 << 28
SWITCH_INTERVAL_S = 1e-5  # whoever wants the GIL gets it soon: more interleavings of what needs it


def run_threads(work: Callable[[int], object]) -> list:
    """Run ``work(i)`` in THREADS threads that start together; return the results, or raise the first error."""
    barrier = threading.Barrier(THREADS)
    results: list = [None] * THREADS
    errors: list[BaseException] = []

    def body(i: int) -> None:
        try:
            barrier.wait()
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


# ---- without Python in between ----------------------------------------------------------------------------------


LEDGERS = (
    (1, False),
    (2, True),
    (5, False),
    (64, False),
    (200, False),
    (5000, False),
)  # slots, and whether tags collide
OPERATIONS = 20_000  # of each thread in each ledger
DEATH_ODDS = 2000  # about one operation in a hundred dies


def race_in_ledgers(rng: random.Random, odds: int) -> int:
    deaths_in_all = replacements_in_all = 0
    for slots, colliding in LEDGERS:
        for closes in (False, True):
            race = racer.Race(slots, THREADS, rng.getrandbits(40), colliding, odds)

            def work(i: int, race: racer.Race = race, closes: bool = closes) -> None:
                race.run(i, OPERATIONS, closes and i == 0)

            run_threads(work)
            granted, released, deaths, replacements = race.check()
            assert min(granted, released) > 0
            deaths_in_all += deaths
            replacements_in_all += replacements
    assert replacements_in_all > 100, "the index is hardly ever replaced"
    assert (deaths_in_all > 100) == (odds > 0)
    return 2 * len(LEDGERS) * THREADS * OPERATIONS


def race_with_the_living(rng: random.Random, folder: Path) -> int:
    """Every operation of the ledger beside every other, without the GIL; see racer.pyx."""
    return race_in_ledgers(rng, 0)


def race_with_the_dead(rng: random.Random, folder: Path) -> int:
    """Every operation of the ledger, some of which die at any step while others finish what they leave."""
    return race_in_ledgers(rng, DEATH_ODDS)


ACCOUNTS = ((300, 4), (2000, 60), (100_000, 1000))  # money, and keys that all threads want
ACCOUNT_OPERATIONS = 5_000  # of each thread in each account


def race_in_accounts(rng: random.Random, odds: int) -> int:
    deaths_in_all = most_levels = 0
    for total, keys in ACCOUNTS:
        for closes in (False, True):
            race = account_racer.AccountRace(total, keys, THREADS, rng.getrandbits(40), odds)

            def work(i: int, race: account_racer.AccountRace = race, closes: bool = closes) -> None:
                race.run(i, ACCOUNT_OPERATIONS, closes and i == 0)

            run_threads(work)
            granted, returned, deaths, levels = race.check()
            assert min(granted, returned) > 0
            deaths_in_all += deaths
            most_levels = max(most_levels, levels)
    assert most_levels > 2, "hardly any level is ever made"
    assert (deaths_in_all > 100) == (odds > 0)
    return 2 * len(ACCOUNTS) * THREADS * ACCOUNT_OPERATIONS


def race_for_money(rng: random.Random, folder: Path) -> int:
    """Every operation of an account beside every other, without the GIL; see account_racer.pyx."""
    return race_in_accounts(rng, 0)


def race_for_money_with_the_dead(rng: random.Random, folder: Path) -> int:
    """Every operation of an account, some of which die at any step."""
    return race_in_accounts(rng, DEATH_ODDS)


def race_for_space(rng: random.Random, folder: Path) -> int:
    """Threads take space without the GIL: no byte is handed out twice, and the file grows under all of them."""
    unit = 64
    with hbcore.Engine(folder / "space.hb", capacity=CAPACITY) as engine:
        # The largest are more than what the file grows by on its own: each of them makes it longer.
        sizes = [[unit * rng.choice((1, 2, 30, 1000, 17_001)) for _ in range(150)] for _ in range(THREADS)]
        offsets = run_threads(lambda i: racer.allocate(engine, sizes[i]))
    extents = sorted((offset, size) for i in range(THREADS) for offset, size in zip(offsets[i], sizes[i], strict=True))
    assert extents[0][0] > 0, f"no space: {extents[0][0]}, see SPACE_ in region.pxd"
    for (offset, size), (following, _) in itertools.pairwise(extents):
        assert offset + size <= following, "two extents overlap"
    return len(extents)


# ---- the public API ---------------------------------------------------------------------------------------------


class World:
    """An engine, its envelopes, and what each thread knows of its own users."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.engine = hbcore.Engine(path, capacity=CAPACITY)
        laws = ("equal", "double_mean", "dirichlet")
        self.envelopes = [
            self.engine.envelope(f"e{n}", total=100 * packets, packets=packets, law=laws[n % 3])
            for n, packets in enumerate((1, 5, 64, 700, 1500, 2500))
        ]
        self.amounts = []
        for envelope in self.envelopes:
            terms = envelope.terms
            self.amounts.append(hbcore.split(terms.total, terms.packets, laws[len(self.amounts) % 3], seed=terms.seed))
        self.settled: list[list[tuple[int, str, int]]] = [[] for _ in range(THREADS)]
        self.own: list[dict[tuple[int, str], int]] = [{} for _ in range(THREADS)]  # the packet that a user must hold


class Hand(NamedTuple):
    """One thread in a world."""

    world: World
    number: int
    rng: random.Random

    def choose(self) -> int:
        return self.rng.randrange(len(self.world.envelopes))

    def check(self, n: int, claim: hbcore.Claim | None) -> None:
        if claim:
            assert claim.amount == self.world.amounts[n][claim.packet], "an amount is not what law and seed give"


def batch_of_users(rng: random.Random) -> object:
    """Users of a small world, so that threads meet, in one of the forms that claim_many takes."""
    first, count = rng.randrange(0, 2000), rng.choice((1, 17, 300, 1000))
    numbers = np.arange(first, first + count) % 1800
    form = rng.randrange(6)
    if form == 0:
        return numbers.astype(rng.choice((np.int8, np.int16, np.uint32, np.int64, np.uint64)))
    if form == 1:
        return np.repeat(numbers, 2)[::2]
    if form == 2:  # unaligned
        return np.frombuffer(b"\0" + numbers.astype(np.int32).tobytes(), np.uint8)[1:].view(np.int32)
    if form == 3:
        return numbers.astype("S")
    if form == 4:
        return numbers.astype("U")
    return [f"user-{number}" for number in numbers.tolist()]


def claim_a_batch(hand: Hand) -> None:
    n = hand.choose()
    rows = hand.world.envelopes[n].claim_many(batch_of_users(hand.rng))
    holding = rows[rows["packet"] >= 0]
    assert (holding["amount"] == hand.world.amounts[n][holding["packet"]]).all()


def claim_one(hand: Hand) -> None:
    n = hand.choose()
    hand.check(n, hand.world.envelopes[n].claim(hand.rng.randrange(40)))


def find_one(hand: Hand) -> None:
    n = hand.choose()
    hand.check(n, hand.world.envelopes[n].find(hand.rng.randrange(40)))


def release_some(hand: Hand) -> None:
    n, first = hand.choose(), hand.rng.randrange(1800)
    for user in range(first, first + 40):
        hand.check(n, hand.world.envelopes[n].release(user))  # nobody settles numbers


def settle_one(hand: Hand) -> None:
    n, user = hand.choose(), f"user-{hand.rng.randrange(10)}"
    if n < 2:
        return  # these would soon be settled to the last packet, and nothing would move any more
    claim = hand.world.envelopes[n].settle(user)
    hand.check(n, claim)
    if claim:
        hand.world.settled[hand.number].append((n, user, claim.packet))


def release_or_conflict(hand: Hand) -> None:
    n, user = hand.choose(), f"user-{hand.rng.randrange(20)}"
    try:
        hand.check(n, hand.world.envelopes[n].release(user))
    except hbcore.ConflictError:
        assert hand.world.envelopes[n].find(user), "a settled claim is gone"


def handle_own(hand: Hand) -> None:
    n, user = hand.choose(), f"own-{hand.number}-{hand.rng.randrange(10)}"
    own, envelope = hand.world.own[hand.number], hand.world.envelopes[n]
    if (n, user) not in own:
        claim = envelope.claim(user)
        assert claim.status in (Status.GRANTED, Status.SOLD_OUT, Status.CLOSED)
        if claim:
            own[n, user] = claim.packet
    elif hand.rng.random() < 0.5:
        claim = envelope.claim(user)
        assert (claim.status, claim.packet) == (Status.REPEATED, own[n, user])
    else:
        claim = envelope.release(user)
        assert claim is not None
        assert claim.packet == own.pop((n, user))
        assert envelope.find(user) is None


def keep_the_books(hand: Hand) -> None:
    envelope = hand.world.envelopes[hand.choose()]
    rows = envelope.claims()
    assert len(np.unique(rows["packet"])) == len(rows)
    stats = envelope.stats()
    assert stats.granted + stats.settled + stats.remaining in (stats.packets, stats.granted + stats.settled)
    repr(envelope)


def audit(hand: Hand) -> None:
    hand.world.engine.audit()
    assert set(hand.world.envelopes) <= set(hand.world.engine.envelopes())


def make_an_envelope(hand: Hand) -> None:
    n = hand.rng.randrange(300)
    envelope = hand.world.engine.envelope(f"new-{n}", total=1000 + n, packets=10)
    assert envelope.claim(n).status in (Status.GRANTED, Status.REPEATED, Status.CLOSED)
    try:
        hand.world.engine.envelope(f"new-{n}", total=5, packets=1)
        raise AssertionError("two envelopes of one name")
    except hbcore.ConflictError:
        pass
    if hand.rng.random() < 0.1:
        envelope.close()


def close_one(hand: Hand) -> None:
    if hand.rng.random() < 0.1:
        hand.world.envelopes[hand.rng.choice((1, 3, 4))].close()


def open_another(hand: Hand) -> None:
    if hand.world.path is None:
        return
    n, readonly = hand.choose(), hand.rng.random() < 0.5
    with hbcore.Engine(hand.world.path, readonly=readonly) as engine:
        envelope = engine.envelope(f"e{n}")
        rows = envelope.claims() if readonly else envelope.claim_many(np.arange(200))
        holding = rows[rows["packet"] >= 0]
        assert (holding["amount"] == hand.world.amounts[n][holding["packet"]]).all()
        engine.audit()
        assert any(worker.is_alive for worker in engine.info().workers)


ACTIONS = {
    claim_a_batch: 30,
    claim_one: 10,
    find_one: 5,
    release_some: 15,
    settle_one: 2,
    release_or_conflict: 10,
    handle_own: 15,
    keep_the_books: 4,
    audit: 2,
    make_an_envelope: 8,
    close_one: 1,
    open_another: 1,
}


def act(hand: Hand, count: int) -> int:
    for action in hand.rng.choices(list(ACTIONS), list(ACTIONS.values()), k=count):
        action(hand)
    return count


def check_world(world: World) -> None:
    """Check what the threads know, when all have ended."""
    world.engine.audit()
    for n, envelope in enumerate(world.envelopes):
        rows = envelope.claims()
        assert len(np.unique(rows["packet"])) == len(rows), "a packet was granted twice"
        assert len(np.unique(rows["user"])) == len(rows), "a user holds two packets"
        assert (rows["amount"] == world.amounts[n][rows["packet"]]).all()
        held = {row["user"].tobytes(): (int(row["packet"]), int(row["state"])) for row in rows}
        for i in range(THREADS):
            for (m, user), packet in world.own[i].items():
                if m == n:
                    assert held[world.engine.user_hash(user)] == (packet, State.GRANTED), "a claim is lost"
            for m, user, packet in world.settled[i]:
                if m == n:
                    assert held[world.engine.user_hash(user)] == (packet, State.SETTLED), "a settled claim is lost"
        stats = envelope.stats()
        assert stats.granted + stats.settled == len(rows)
        late = envelope.claim_many([f"late-{i}" for i in range(stats.remaining + 1)])
        assert (late["status"] == Status.GRANTED).sum() == stats.remaining, "a packet is stranded"
    world.engine.audit()


def race_in_a_world(rng: random.Random, path: Path | None) -> int:
    world = World(path)
    with world.engine:
        seeds = [rng.getrandbits(64) for _ in range(THREADS)]
        actions = sum(run_threads(lambda i: act(Hand(world, i, random.Random(seeds[i])), 600)))
        check_world(world)
    return actions


def race_in_memory(rng: random.Random, folder: Path) -> int:
    """Every public method beside every other, on an engine in memory."""
    return race_in_a_world(rng, None)


def race_in_a_file(rng: random.Random, folder: Path) -> int:
    """Every public method beside every other, on a file that is opened again and again."""
    return race_in_a_world(rng, folder / "world.hb")


def close_engines_under_calls(rng: random.Random, folder: Path) -> int:
    """Calls that are under way when their engine is closed end in an answer or in EngineClosedError."""
    for turn in range(15):
        world = World(folder / f"closed-{turn}.hb" if turn % 2 else None)
        seeds = [rng.getrandbits(64) for _ in range(THREADS)]

        def work(i: int, world: World = world, seeds: list[int] = seeds, turn: int = turn) -> None:
            hand = Hand(world, i, random.Random(seeds[i]))
            try:
                act(hand, 2 * turn if i == 0 else 60)
                if i == 0:
                    world.engine.close()
            except hbcore.EngineClosedError:
                assert world.engine.closed

        run_threads(work)
        assert world.engine.closed
    for _ in range(100):
        engine = hbcore.Engine(capacity=CAPACITY)
        envelope = engine.envelope("e", total=10, packets=10)

        def look(i: int, engine: hbcore.Engine = engine, envelope: hbcore.Envelope = envelope) -> None:
            if i == 0:
                engine.close()
            with contextlib.suppress(hbcore.EngineClosedError):
                while True:  # the close ends it
                    envelope.find(i)

        run_threads(look)
    return 115


def make_one_name(rng: random.Random, folder: Path) -> int:
    """One of several makers of one envelope wins, and all claim from the same envelope."""
    with hbcore.Engine(capacity=CAPACITY) as engine:

        def work(i: int) -> list:
            handles = [engine.envelope(f"e{n}", total=100 + n, packets=10) for n in range(100)]
            for handle in handles:
                handle.claim_many(np.arange(i, i + 10))
            return handles

        for handles in zip(*run_threads(work), strict=True):
            assert len(set(handles)) == 1
            assert len({handle.terms.seed for handle in handles}) == 1
            assert handles[0].stats().granted == 10
        assert engine.audit().envelopes == 100
    return 100 * THREADS


def close_envelopes_under_claims(rng: random.Random, folder: Path) -> int:
    """What was granted and what is refunded make the total, whatever the moment of the close."""
    packets = 4000  # in several strata, which claims open and a close refunds whole
    with hbcore.Engine(capacity=CAPACITY) as engine:
        for turn in range(10):
            envelope = engine.envelope(f"e{turn}", total=100 * packets, packets=packets)
            before = rng.randrange(packets // 20)

            def work(i: int, envelope: hbcore.Envelope = envelope, before: int = before) -> int:
                if i == 0:
                    envelope.claim_many(np.arange(before))
                    return envelope.close()
                envelope.claim_many(np.arange(i * 200, i * 200 + 400))
                return envelope.stats().amounts.granted

            refunded = run_threads(work)[0]
            granted = envelope.stats().amounts.granted
            assert refunded <= envelope.close() == 100 * packets - granted, "refunded and granted as well"
            assert envelope.claim("late").status == Status.CLOSED
        report = engine.audit()
        assert report.granted + report.refunded == report.packets, "a packet is neither granted nor refunded"
    return 10


def handles_of(folder: Path) -> tuple[int, int]:
    """Count this process's mappings and descriptors of files in the folder and of engines in memory."""
    names = (str(folder.resolve()), "memfd:hbcore")
    mappings = Path("/proc/self/maps").read_text().splitlines()
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except FileNotFoundError:  # the one that lists them
            continue
    return tuple(sum(any(name in line for name in names) for line in lines) for lines in (mappings, links))


def open_and_close(rng: random.Random, folder: Path) -> int:
    """Engines that are let go leave neither a mapping nor a descriptor behind, whoever held them last."""
    gc.collect()
    before = handles_of(folder)

    def work(i: int) -> None:
        kept = []
        for n in range(20):
            path = None if n % 2 else folder / f"handles-{n % 4}.hb"
            with hbcore.Engine(path, capacity=CAPACITY) as engine:
                envelope = engine.envelope("e", total=1000, packets=10)
                envelope.claim_many(np.arange(i, i + 5))
                if n == 10:
                    kept.append(envelope)
                    assert handles_of(folder)[0] > before[0], "an envelope holds its mapping"

    run_threads(work)
    gc.collect()
    assert handles_of(folder) == before, f"(mappings, descriptors): {handles_of(folder)}, and {before} before"
    return 20 * THREADS


SCENARIOS = {
    "ledger": race_with_the_living,
    "deaths": race_with_the_dead,
    "money": race_for_money,
    "requests": race_for_money_with_the_dead,
    "space": race_for_space,
    "memory": race_in_memory,
    "file": race_in_a_file,
    "makers": make_one_name,
    "refunds": close_envelopes_under_claims,
    "handles": open_and_close,
    "closing": close_engines_under_calls,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=0, help="go on with other plans for so long; 0: once each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, help="names of scenarios")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    names = options.only or list(SCENARIOS)
    done, spent = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    began = time.monotonic()
    turn = 0
    while turn == 0 or time.monotonic() - began < options.seconds:
        for name in names:
            at = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    done[name] += SCENARIOS[name](random.Random(f"{options.seed} {name} {turn}"), Path(folder))
                except Exception as error:
                    error.add_note(f"scenario {name}, seed {options.seed}, turn {turn}")
                    raise
            spent[name] += time.monotonic() - at
        turn += 1
    for name in names:
        print(f"{name:8} {done[name]:>12,} operations in {spent[name]:,.1f} s")
    print(f"{turn} turns with seed {options.seed}, no answer wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
