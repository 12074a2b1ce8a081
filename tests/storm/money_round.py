"""One round of a storm with money: what its workers ask of budgets, and the reckoning.

A worker writes what it is about to ask into its pipe, asks, and writes the answers: each write is at most PIPE_BUF
bytes and arrives whole. What a key may get is fixed by its number, so that every answer can be judged alone; when it
was given says what no later answer may contradict.
"""

import os
import pickle
import random
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from mmap import mmap

import numpy as np
from controlled_clock import clock_of_this_script
from storm_crew import LONGEST_NS, STOPPING, Crew, Fuse, WorkerFault, clock
from storm_model import Broken
from storm_round import WEATHER_IS_OVER, Outcome, Settings, Weather

import hbcore
from hbcore import State, Status

RECORD = np.dtype(
    [("kind", "u1"), ("place", "u1"), ("answer", "u1"), ("state", "u1"), ("key", "i4"), ("amount", "i8"), ("at", "i8"),
     ("unused", "V8")]
)  # fmt: skip
HISTORY = np.dtype([*((name, RECORD[name]) for name in RECORD.names[:6]), ("began", "i8"), ("ended", "i8"),
                    ("worker", "i4")])  # fmt: skip
PACK = struct.Struct("=BBBBiqq8x").pack
KINDS = range(100, 117)
(RESERVE, RESERVE_MANY, SETTLE, RELEASE, FIND, TOP_UP, MAKE_BUDGET, MAKE_ENVELOPE, CLOSE_BUDGET, CLOSE_ENVELOPE, CLAIM,
 SETTLE_CLAIM, RELEASE_CLAIM, SWEEP, STATS, AUDIT, ADD_PACKETS) = KINDS  # fmt: skip
NAMES = dict(zip(KINDS, (
    "reserve", "reserve_many", "settle", "release", "find", "top_up", "budget", "envelope", "close of a budget",
    "close of an envelope", "claim", "settle of a claim", "release of a claim", "sweep", "stats", "audit",
    "top_up of an envelope",
), strict=True))  # fmt: skip
LONGEST_NS.update({**dict.fromkeys(KINDS, 4_000), CLOSE_BUDGET: 8_000, CLOSE_ENVELOPE: 20_000, MAKE_BUDGET: 15_000})
LONGEST_NS.update(
    {MAKE_ENVELOPE: 20_000, SWEEP: 400_000, STATS: 30_000, AUDIT: 800_000, TOP_UP: 15_000, ADD_PACKETS: 15_000}
)

# Answers: a Status, or one of these.
CONFLICT, DONE, NONE, REFUSED, INTENT = 5, 10, 11, 12, 20
AT_ONCE = 60  # calls between two writes
SHARED_KEYS, OWN_KEYS = 24, 400
MADE, MADE_ENVELOPES = 40, 100  # the first numbers of what workers make, as places; a place is a byte
MADE_COUNT = 50

# The budgets that are there from the beginning: the place of the parent, the name, the total, the largest amount.
PLACES = (
    (None, "campaign", 10_000_000, 400),
    (0, "rich", 2_000_000, 300),
    (0, "poor", 3_000, 90),
    (2, "poorest", 700, 40),
    (None, "another", 5_000, 60),
)
# Envelopes that are there from the beginning: the place of the budget, the name, the terms.
ENVELOPES = (
    (1, "rain", {"total": 30_000, "packets": 300, "max_packets": 500}),
    (2, "quick", {"total": 500, "packets": 25, "hold_seconds": 0.02, "max_packets": 100}),
)
USERS = 40


def amount_of(place: int, key: int) -> int:
    """Return what a key reserves, or tops up."""
    most = PLACES[place][3] if place < MADE else 20
    return 1 + (key * 7919 + place * 31) % most


def spent_of(place: int, key: int) -> int:
    """Return what of it is settled: nothing, a half or all."""
    return amount_of(place, key) * (key % 3) // 2


def added_of(place: int, key: int) -> tuple[int, int]:
    """Return the amount and the packets of a top-up of an envelope."""
    packets = 1 + (key + place) % 7
    return packets * (1 + key % 5), packets


class World:
    """The budgets and envelopes of one engine, opened or made as they are needed."""

    def __init__(self, engine: hbcore.Engine) -> None:
        self.engine = engine
        self.budgets: dict[int, hbcore.Budget] = {}
        self.envelopes: dict[int, hbcore.Envelope] = {}
        for place in range(len(PLACES)):
            self.budget(place)
        for number in range(len(ENVELOPES)):
            self.envelope(number)

    def budget(self, place: int) -> hbcore.Budget:
        if place not in self.budgets:
            if place < MADE:
                parent, name, total, _ = PLACES[place]
                above = self.engine if parent is None else self.budgets[parent]
            else:
                above, name, total = self.budgets[place % 3], f"made {place}", 30 + place
            self.budgets[place] = above.budget(name, total)
        return self.budgets[place]

    def envelope(self, place: int) -> hbcore.Envelope:
        if place not in self.envelopes:
            self.envelopes[place] = self.made(place) if place >= MADE_ENVELOPES else self.given(place)
        return self.envelopes[place]

    def given(self, place: int) -> hbcore.Envelope:
        above, name, terms = ENVELOPES[place]
        return self.budgets[above].envelope(name, **terms)

    def made(self, place: int) -> hbcore.Envelope:
        """Every third gives unsettled claims back, every fourth expires: each at a time that its first maker chose."""
        above, name = self.budgets[place % 3], f"made {place}"
        try:
            return above.envelope(name)
        except hbcore.NotFoundError:
            pass
        try:
            return above.envelope(
                name, 40 + place % 7, 5 + place % 4, hold_seconds=0.01 if place % 3 == 0 else None,
                expires_at=time.time() + 0.1 if place % 4 == 0 else None, max_packets=20,
            )  # fmt: skip
        except hbcore.ConflictError:  # somebody was faster, with another time
            return above.envelope(name)


# ---- a worker ---------------------------------------------------------------------------------------------------

Call = tuple[int, int, list[int]]  # kind, place, keys


class Asker:
    """A worker: draws calls, announces them, makes them, tells the answers."""

    def __init__(self, seed: int, slot: int, number: int, engine: hbcore.Engine, fd: int, fuse: Fuse) -> None:
        self.rng = random.Random(f"asker {seed} {slot} {number}")
        self.number = number
        self.world = World(engine)
        self.fd = fd
        self.fuse = fuse
        self.methods: dict[int, Callable[[int, int], tuple[int, int, int]]] = {
            RESERVE: self.reserve, SETTLE: self.settle, RELEASE: self.release, FIND: self.find, TOP_UP: self.top_up,
            MAKE_BUDGET: self.make, MAKE_ENVELOPE: self.make, CLOSE_BUDGET: self.close, CLOSE_ENVELOPE: self.close,
            CLAIM: self.claim, SETTLE_CLAIM: self.settle_claim, RELEASE_CLAIM: self.release_claim, SWEEP: self.sweep,
            STATS: self.stats, AUDIT: self.audit, ADD_PACKETS: self.add_packets,
        }  # fmt: skip

    def key(self) -> int:
        draw = self.rng.random()
        if draw < 0.3:
            return self.rng.randrange(SHARED_KEYS)
        owner = max(0, self.number - self.rng.choice((0, 0, 0, 1, 8)))
        return 1000 * (owner + 1) + self.rng.randrange(OWN_KEYS)

    def calls(self) -> Iterator[Call]:
        """Draw a few calls about one budget or envelope."""
        rng = self.rng
        draw = rng.random()
        if draw < 0.5:
            place = rng.choice((0, 1, 2, 2, 3, 4))
            for kind in rng.choices((RESERVE, SETTLE, RELEASE, FIND), (50, 25, 20, 5), k=rng.randint(1, 12)):
                yield kind, place, [self.key()]
        elif draw < 0.62:
            start = 1000 * (self.number + 1) + rng.randrange(OWN_KEYS)
            yield RESERVE_MANY, rng.choice((0, 1, 2, 4)), list(range(start, start + rng.randint(1, 40)))
        elif draw < 0.68:
            yield TOP_UP, rng.choice((1, 2, 3, 4)), [self.key()]
        elif draw < 0.80:
            yield from self.made_budget(MADE + rng.randrange(MADE_COUNT))
        elif draw < 0.90:
            yield from self.made_envelope(MADE_ENVELOPES + rng.randrange(MADE_COUNT))
        elif draw < 0.97:
            place = rng.randrange(len(ENVELOPES))
            for kind in rng.choices(
                (CLAIM, SETTLE_CLAIM, RELEASE_CLAIM, ADD_PACKETS), (9, 2, 3, 1), k=rng.randint(1, 10)
            ):
                yield kind, place, [rng.randrange(USERS)]
        else:
            yield rng.choice((SWEEP, STATS, STATS, AUDIT)), rng.randrange(len(PLACES)), [0]

    def made_budget(self, place: int) -> Iterator[Call]:
        yield MAKE_BUDGET, place, [0]
        for kind in self.rng.choices((RESERVE, SETTLE, RELEASE, TOP_UP), (5, 2, 3, 1), k=self.rng.randint(0, 6)):
            yield kind, place, [self.rng.randrange(12)]
        if self.rng.random() < 0.15:
            yield CLOSE_BUDGET, place, [0]

    def made_envelope(self, place: int) -> Iterator[Call]:
        yield MAKE_ENVELOPE, place, [0]
        kinds = (CLAIM, SETTLE_CLAIM, RELEASE_CLAIM, ADD_PACKETS)
        for kind in self.rng.choices(kinds, (6, 1, 3, 2), k=self.rng.randint(0, 8)):
            yield kind, place, [self.rng.randrange(12)]
        if self.rng.random() < 0.15:
            yield CLOSE_ENVELOPE, place, [0]

    def group(self) -> list[Call]:
        calls: list[Call] = []
        count = 0
        for call in self.calls():
            calls.append(call)
            count += len(call[2])
        assert count <= AT_ONCE
        return calls

    def follow(self, calls: list[Call]) -> None:
        began = clock()
        os.write(
            self.fd,
            b"".join(PACK(kind, place, INTENT, 0, key, 0, began) for kind, place, keys in calls for key in keys),
        )
        told = []
        for kind, place, keys in calls:
            self.fuse.light(kind, len(keys))
            # What its maker was refused is not there to be asked.
            if kind == RESERVE_MANY:
                amounts = [amount_of(place, key) for key in keys]
                rows = self.world.budget(place).reserve_many(np.array(keys), amounts)
                answers = [(status, amount, 0) for status, amount in rows.tolist()]
            else:
                try:
                    answers = [self.methods[kind](place, keys[0])]
                except hbcore.InsufficientBudgetError:
                    answers = [(REFUSED, 0, 0)]
                except hbcore.ConflictError:
                    answers = [(CONFLICT, 0, 0)]
            ended = clock()
            told += [
                PACK(kind, place, answer, state, key, amount, ended)
                for key, (answer, amount, state) in zip(keys, answers, strict=True)
            ]
        os.write(self.fd, b"".join(told))

    def reserve(self, place: int, key: int) -> tuple[int, int, int]:
        hold = self.world.budget(place).reserve(key, amount_of(place, key))
        return hold.status, hold.amount, hold.state or 0

    def settle(self, place: int, key: int) -> tuple[int, int, int]:
        hold = self.world.budget(place).settle(key, spent_of(place, key))
        return (NONE, 0, 0) if hold is None else (DONE, hold.settled, hold.state)

    def release(self, place: int, key: int) -> tuple[int, int, int]:
        hold = self.world.budget(place).release(key)
        return (NONE, 0, 0) if hold is None else (DONE, hold.amount, hold.state)

    def find(self, place: int, key: int) -> tuple[int, int, int]:
        hold = self.world.budget(place).find(key)
        return (NONE, 0, 0) if hold is None else (DONE, hold.amount, hold.state)

    def top_up(self, place: int, key: int) -> tuple[int, int, int]:
        hold = self.world.budget(place).top_up(key, amount_of(place, key))
        return hold.status, hold.amount, 0

    def make(self, place: int, key: int) -> tuple[int, int, int]:
        if place >= MADE_ENVELOPES:
            self.world.envelope(place)
        else:
            self.world.budget(place)
        return DONE, 0, 0

    def close(self, place: int, key: int) -> tuple[int, int, int]:
        one = self.world.envelope(place) if place >= MADE_ENVELOPES else self.world.budget(place)
        return DONE, one.close(), 0

    def claim(self, place: int, user: int) -> tuple[int, int, int]:
        claim = self.world.envelope(place).claim(user)
        return claim.status, claim.amount, 0

    def settle_claim(self, place: int, user: int) -> tuple[int, int, int]:
        claim = self.world.envelope(place).settle(user)
        return (NONE, 0, 0) if claim is None else (DONE, claim.amount, 0)

    def release_claim(self, place: int, user: int) -> tuple[int, int, int]:
        claim = self.world.envelope(place).release(user)
        return (NONE, 0, 0) if claim is None else (DONE, claim.amount, 0)

    def add_packets(self, place: int, key: int) -> tuple[int, int, int]:
        try:
            hold = self.world.envelope(place).top_up(key, *added_of(place, key))
        except ValueError:  # no room for so many
            return REFUSED, 0, 0
        return hold.status, hold.amount, 0

    def sweep(self, place: int, key: int) -> tuple[int, int, int]:
        return DONE, self.world.engine.sweep(), 0

    def stats(self, place: int, key: int) -> tuple[int, int, int]:
        total, available, held, settled = self.world.budget(place).stats()
        assert total == available + held + settled
        assert min(available, settled) >= 0, (total, available, held, settled)
        return DONE, settled, 0

    def audit(self, place: int, key: int) -> tuple[int, int, int]:
        report = self.world.engine.audit()
        return DONE, report.amount_budgeted, 0


def work(
    seed: int, number: int, offset: int, engine: hbcore.Engine | str, fd: int, orders: memoryview, measures_cpu: bool
) -> None:
    """Run a worker until it is told to end; what a crew calls a plan is the seed and the slot."""
    slot = seed & 0xFF
    opened = hbcore.Engine(engine) if isinstance(engine, str) else engine
    asker = Asker(seed, slot, number, opened, fd, Fuse(orders, slot))
    while not orders[STOPPING]:
        asker.follow(asker.group())


# ---- the reckoning ----------------------------------------------------------------------------------------------


NEVER = np.iinfo(np.int64).max


def history_of(worker: int, raw: bytes) -> np.ndarray:
    """Return the calls of one worker: those that were answered, and those that its death has cut off."""
    records = np.frombuffer(raw, RECORD)
    is_intent = records["answer"] == INTENT
    intents, answers = records[is_intent], records[~is_intent]
    rows = np.zeros(len(intents), HISTORY)
    for name in RECORD.names[:6]:
        rows[name] = intents[name]
    rows["began"], rows["ended"], rows["worker"] = intents["at"], NEVER, worker
    done = rows[: len(answers)]
    if len(done) < len(answers) or any((done[name] != answers[name]).any() for name in ("kind", "place", "key")):
        raise Broken(f"worker {worker} has answered what it was not asked")
    for name in ("answer", "state", "amount"):
        done[name] = answers[name]
    done["ended"] = answers["at"]
    return rows


def describe(row: np.void) -> str:
    names = {INTENT: "cut off", CONFLICT: "CONFLICT", DONE: "done", NONE: "None", REFUSED: "refused"}
    answer = names.get(int(row["answer"])) or Status(int(row["answer"])).name
    return (
        f"{NAMES[int(row['kind'])]} at place {row['place']}, key {row['key']}, by worker {row['worker']} from "
        f"{row['began']} to {row['ended']}: {answer}, amount {row['amount']}, state {row['state']}"
    )


def refuse(rows: np.ndarray, words: str) -> None:
    """Raise if there are any such rows."""
    if len(rows):
        raise Broken(f"{words}\n    " + "\n    ".join(describe(row) for row in rows[:5]))


def check_key(rows: np.ndarray) -> tuple[bool, int]:
    """Check all calls about one key of one budget; return whether it was granted for sure, and its final state or 0."""
    place, key = int(rows["place"][0]), int(rows["key"][0])
    kind, answer = rows["kind"], rows["answer"]
    asks = (kind == RESERVE) | (kind == RESERVE_MANY)
    has = asks & (answer <= Status.REPEATED) | (kind == FIND) & (answer == DONE)
    granted = asks & (answer == Status.GRANTED)
    refuse(rows[granted] if granted.sum() > 1 else rows[:0], "granted twice")
    refuse(rows[has & (rows["amount"] != amount_of(place, key))], "a wrong amount")
    refuse(rows[asks & (answer == CONFLICT)], "a conflict of the same amount")
    settled = (kind == SETTLE) & (answer == DONE) | (kind == RELEASE) & (answer == CONFLICT)
    released = (kind == RELEASE) & (answer == DONE) | (kind == SETTLE) & (answer == CONFLICT)
    refuse(rows[(kind == SETTLE) & (answer == DONE) & (rows["amount"] != spent_of(place, key))], "settled otherwise")
    if settled.any() and released.any():
        refuse(rows[settled | released], "both settled and released")
    since = rows["ended"][has | settled | released].min(initial=NEVER)
    absent = np.isin(answer, (NONE, Status.INSUFFICIENT, Status.CLOSED, Status.GRANTED))
    refuse(rows[absent & (rows["began"] > since) & (kind != TOP_UP)], "what was granted is gone")
    final = State.SETTLED if settled.any() else State.RELEASED if released.any() else 0
    decided = rows["ended"][settled | released].min(initial=NEVER)
    looks = has & (rows["state"] != 0)
    refuse(rows[looks & (rows["began"] > decided) & (rows["state"] != final)], "what was final has changed")
    for state, asked in ((State.SETTLED, SETTLE), (State.RELEASED, RELEASE)):
        asked_at = rows["began"][kind == asked].min(initial=NEVER)
        refuse(rows[looks & (rows["state"] == state) & (rows["ended"] < asked_at)], "nobody has asked for that")
    return bool((has | settled | released).any()), int(final)


class Examiner:
    """One living process that asks an engine for everything that it owes."""

    def __init__(self, engine: hbcore.Engine, history: np.ndarray) -> None:
        self.engine = engine
        self.world = World(engine)
        self.history = history
        self.own: set[bytes] = set()  # the keys that it has reserved itself

    def acknowledged(self, kind: int, *answers: int) -> np.ndarray:
        rows = self.history[self.history["kind"] == kind]
        return rows[np.isin(rows["answer"], answers)]

    def examine_all(self) -> int:
        """Check everything; return how many keys that was."""
        there = {one.name for one in (*self.engine.budgets(), *self.engine.envelopes())}
        for kind in (MAKE_BUDGET, MAKE_ENVELOPE):
            for place in np.unique(self.acknowledged(kind, DONE)["place"]).tolist():
                if f"made {place}" not in there:
                    raise Broken(f"place {place} was made and is not there")
        count = sum(self.examine_keys(place) for place in self.places())
        self.examine_claims()
        for envelope in self.engine.envelopes():
            self.examine_added_packets(envelope)
        self.check_closed()
        self.let_expire()
        for budget in self.engine.budgets():
            self.check_books(budget)
        return count

    def places(self) -> list[int]:
        there = {budget.name for budget in self.engine.budgets()}
        return [*range(len(PLACES)), *(p for p in range(MADE, MADE + MADE_COUNT) if f"made {p}" in there)]

    def examine_keys(self, place: int) -> int:
        """Every key that was asked for has what it was told, and no other key has anything."""
        budget = self.world.budget(place)
        mine = self.history[self.history["place"] == place]
        calls = mine[np.isin(mine["kind"], (RESERVE, RESERVE_MANY, SETTLE, RELEASE, FIND))]
        calls = calls[np.argsort(calls["key"], kind="stable")]
        starts = np.flatnonzero(np.append(True, np.diff(calls["key"]) != 0)) if len(calls) else []
        holds = {bytes(row["key"]): row for row in budget.holds()}
        if len(holds) != len(budget.holds()):
            raise Broken(f"{budget!r} has two holds of one key")
        for rows in np.split(calls, starts[1:]) if len(calls) else []:
            key = int(rows["key"][0])
            must, final = check_key(rows)
            hold = holds.pop(self.engine.user_hash(key), None)
            found = budget.find(key)
            if (hold is None) != (found is None) or (must and found is None):
                raise Broken(f"key {key} of {budget!r} is {found}, in the snapshot {hold}; {describe(rows[0])}")
            if found is None:
                continue
            if (found.amount, found.settled, found.state) != (hold["amount"], hold["settled"], hold["state"]):
                raise Broken(f"key {key} of {budget!r} is {found}, and in the snapshot {hold}")
            if found.amount != amount_of(place, key) or (final and found.state != final):
                raise Broken(f"key {key} of {budget!r} is {found}; it was told {amount_of(place, key)}, {final}")
            if found.settled != (spent_of(place, key) if found.state is State.SETTLED else 0):
                raise Broken(f"key {key} of {budget!r} is {found}; it was to spend {spent_of(place, key)}")
        if holds.keys() - self.own:
            raise Broken(f"{budget!r} has holds that nobody has asked for: {holds}")
        self.examine_top_ups(place, budget)
        return len(starts)

    def examine_top_ups(self, place: int, budget: hbcore.Budget) -> None:
        """Each is counted once, and none that nobody has asked for."""
        rows = self.history[(self.history["place"] == place) & (self.history["kind"] == TOP_UP)]
        added = 0
        for key in np.unique(rows["key"]).tolist():
            answers = rows["answer"][rows["key"] == key]
            granted = int((answers == Status.GRANTED).sum())
            again = budget.top_up(key, amount_of(place, key))
            if granted > 1 or ((granted or (answers == Status.REPEATED).any()) and again.status != Status.REPEATED):
                raise Broken(f"top-up {key} of {budget!r} was granted {granted} times, and is now {again}")
            added += again.amount
        base = PLACES[place][2] if place < MADE else 30 + place
        if budget.total != base + added:
            raise Broken(f"{budget!r} has the total {budget.total}, not {base} + {added}")

    def examine_added_packets(self, envelope: hbcore.Envelope) -> None:
        """Check that an envelope has its first packets, those of its top-ups, and no others."""
        names = [name for _, name, _ in ENVELOPES]
        place = names.index(envelope.name) if envelope.name in names else int(envelope.name.removeprefix("made "))
        rows = self.history[(self.history["place"] == place) & (self.history["kind"] == ADD_PACKETS)]
        total, packets = envelope.terms.total, envelope.terms.packets
        for key in np.unique(rows["key"]).tolist():
            answers = rows["answer"][rows["key"] == key]
            granted = int((answers == Status.GRANTED).sum())
            try:
                status = envelope.top_up(key, *added_of(place, key)).status
            except ValueError:
                status = REFUSED
            if granted > 1 or ((granted or (answers == Status.REPEATED).any()) and status != Status.REPEATED):
                raise Broken(f"top-up {key} of {envelope!r} was granted {granted} times, and is now {status}")
            if status in (Status.GRANTED, Status.REPEATED):
                total += added_of(place, key)[0]
                packets += added_of(place, key)[1]
        stats = envelope.stats()
        if (stats.packets, stats.amounts.total) != (packets, total):
            raise Broken(f"{envelope!r} has {stats}, not {total} in {packets} packets")

    def examine_claims(self) -> None:
        """What was settled stays so, and no user is granted more often than others have given back."""
        for kind, name in ((CLAIM, "claim"), (SETTLE_CLAIM, "settle")):
            for row in self.acknowledged(kind, *((DONE,) if kind == SETTLE_CLAIM else (Status.GRANTED,))):
                place, user = int(row["place"]), int(row["key"])
                envelope = self.world.envelope(place)
                mine = self.history[(self.history["place"] == place) & (self.history["key"] == user)]
                if kind == SETTLE_CLAIM:
                    found = envelope.find(user)
                    if found is None or found.amount != row["amount"]:
                        raise Broken(f"{name} of user {user} of {envelope!r} was {row['amount']}, and is {found}")
                elif not envelope.terms.hold_ms:
                    grants = ((mine["kind"] == CLAIM) & (mine["answer"] == Status.GRANTED)).sum()
                    if grants > 1 + (mine["kind"] == RELEASE_CLAIM).sum():
                        refuse(mine, f"{grants} grants")

    def check_closed(self) -> None:
        """What was closed is closed, and has given back at least what it said."""
        for kind in (CLOSE_BUDGET, CLOSE_ENVELOPE):
            for row in self.acknowledged(kind, DONE):
                place = int(row["place"])
                one = self.world.budget(place) if kind == CLOSE_BUDGET else self.world.envelope(place)
                if not (one.closed if kind == CLOSE_BUDGET else one.claim("nobody").status == Status.CLOSED):
                    raise Broken(f"{one!r} was closed, and is open")
                if one.close() < row["amount"]:
                    raise Broken(f"{one!r} has given back {one.close()}, and it was {row['amount']}")

    def let_expire(self) -> None:
        """Let the time of all claims run out: none that can expire is left."""
        envelopes = [envelope for envelope in self.engine.envelopes() if envelope.terms.hold_ms]
        hold_ms = max((envelope.terms.hold_ms for envelope in envelopes), default=0)
        clock_of_this_script().move(boot_s=(hold_ms + 2) / 1000)
        for envelope in envelopes:
            if (envelope.claims()["state"] == State.GRANTED).any():
                raise Broken(f"the claims of {envelope!r} do not expire")
        self.engine.sweep()

    def check_books(self, budget: hbcore.Budget) -> None:
        """What is available, held and settled follows from the holds and the children."""
        holds = budget.holds()
        held = int(holds["amount"][holds["state"] == State.GRANTED].sum())
        settled = int(holds["settled"].sum())
        for child in self.engine.budgets():
            if child.parent == budget:
                stats = child.stats()
                if stats.total != child.total - (child.close() if child.closed else 0):
                    raise Broken(f"{child!r} has {stats}, of {child.total}")
                settled += stats.settled
                held += stats.available + stats.held
        for envelope in self.engine.envelopes():
            if envelope.budget == budget:
                amounts = envelope.stats().amounts
                settled += amounts.settled
                is_closed = not amounts.remaining and envelope.claim("nobody").status == Status.CLOSED
                held += amounts.total - amounts.settled - (envelope.close() if is_closed else 0)
        stats = budget.stats()
        is_given = budget.closed and budget.parent is not None
        expected = budget.total - held - settled
        if (is_given and budget.close() != expected) or (not is_given and stats.available != expected):
            raise Broken(f"{budget!r} has {stats}; its children and holds leave {expected} of {budget.total}")
        if (stats.held, stats.settled) != (held, settled) or stats.total != sum(stats[1:]):
            raise Broken(f"{budget!r} has {stats}; its children and holds have {held} held, {settled} settled")

    def drain(self, budgets: list[hbcore.Budget]) -> None:
        """The living get whatever is available, to the last unit."""
        for budget in budgets:
            if budget.closed:
                if budget.reserve("late", 1).status != Status.CLOSED:
                    raise Broken(f"{budget!r} is closed and grants")
                continue
            available = budget.stats().available
            if available:
                key = f"all that is left {len(self.own)}"
                self.own.add(self.engine.user_hash(key))
                hold = budget.reserve(key, available)
                if hold.status != Status.GRANTED:
                    raise Broken(f"{budget!r} has {available} available, and does not grant it: {hold}")
            hold = budget.reserve("one more", 1)
            if hold.status != Status.INSUFFICIENT:
                raise Broken(f"{budget!r} has nothing left, and grants: {hold}")


def play(settings: Settings, plans: list[int], weather_is_over: Callable[[], object]) -> Outcome:
    """Play one round in this process, which has opened no engine, and its children."""
    outcome = Outcome()
    rng = random.Random(f"round {settings.seed} {settings.number}")
    path = str(settings.folder / f"round-{settings.number}.hb")
    engine = hbcore.Engine(None if settings.is_memory else path) if settings.is_preloaded else None
    orders = mmap(-1, 4096)
    crew_plans = [(settings.seed * 10_007 + settings.number) << 8 | plan for plan in plans]
    with Crew(crew_plans, engine or path, memoryview(orders), rng, work) as crew:
        weather = Weather(settings, crew, orders, rng, outcome)
        try:
            weather.blow()
            held = weather.end()
            opened = engine or hbcore.Engine(path)
            examiner = Examiner(opened, np.zeros(0, HISTORY))
            if held:
                # Those who stand still live, and must be let be: everything else goes on.
                opened.audit()
                examiner.drain([opened.budget("another"), opened.budget("campaign")])
                weather.release(held)
            weather_is_over()
            examiner.history = np.concatenate(
                [history_of(worker.number, b"".join(worker.told)) for worker in crew.dead]
            )
            if not settings.takes_first:
                opened.audit()
            outcome.counted["keys"] = examiner.examine_all()
            examiner.drain(opened.budgets())
            report = opened.audit()
            roots = sum(budget.total for budget in opened.budgets() if budget.parent is None)
            if report.amount_budgeted != roots or report.amount_available != 0:
                raise Broken(f"the audit counts {report}, and the roots have {roots}, all of it taken")
            count(outcome, examiner.history)
        except Exception as error:
            is_expected = isinstance(error, Broken | WorkerFault)
            outcome.broken = str(error) if is_expected else traceback.format_exc()
        outcome.counted["kills"] = crew.kills
        outcome.counted["stops"] = crew.stops
        outcome.counted["workers"] = crew.born
    if not outcome.broken and not settings.is_memory:
        os.unlink(path)
    outcome.counted["rounds"] = 1
    return outcome


def count(outcome: Outcome, history: np.ndarray) -> None:
    """Count the answers of a round by what was asked and what was said."""
    is_answer = history["answer"] != INTENT
    outcome.counted["answers"] = int(is_answer.sum())
    outcome.counted["calls cut off"] = int((~is_answer).sum())
    for kind in KINDS:
        mine = history[(history["kind"] == kind) & is_answer]
        outcome.counted[NAMES[kind]] = len(mine)
    for status in (Status.GRANTED, Status.REPEATED, Status.INSUFFICIENT, Status.CLOSED, CONFLICT, REFUSED):
        words = "conflict" if status == CONFLICT else "refused to make" if status == REFUSED else status.name.lower()
        outcome.counted[words] = int((history["answer"] == status).sum())


def play_apart(settings: Settings, plans: list[int], fd: int) -> None:
    """Play a round in a child of the storm; write when the weather is over, and then what came of it."""
    outcome = play(settings, plans, lambda: os.write(fd, WEATHER_IS_OVER))
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(pickle.dumps(outcome))
