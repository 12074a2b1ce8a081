"""What a storm may ask, and what it may be answered: the calls of the workers, and the check of a round's history.

A history has a row for every call and user: when it was begun and ended by the clock that all processes share, and its
answer. A call that a death has cut off has no answer: it may have happened at any moment before the death, or not at
all. The check allows exactly that, and needs no knowledge of how hbcore works:

- For each user of an envelope there is an order of the calls, within their times, in which every answer is right
  (Herlihy and Wing, "Linearizability", 1990; searched forward from event to event as in Lowe, "Testing for
  Linearizability", 2017). So no acknowledged claim goes missing or changes, and nobody has two packets.
- The times in which users certainly held a packet do not overlap. So no packet has two users.
- Whoever was told SOLD_OUT was told so at a moment when every packet may have been in somebody's hands. So nothing that
  the dead have left stays stranded, not even for a while.
- Every amount is what law and seed give for the packet; settled stays settled; nothing is granted after a close.
- What a dead worker was about to do happened in order, up to some point.

Budgets will bring calls of their own (reserve, settle and release of holds): a kind, its rows in ``SELECTING`` and
``next_states``, and an amount where a claim has a packet.
"""

import select
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np

import hbcore
from hbcore import Status


class Kind(IntEnum):
    """What a worker may ask of an envelope."""

    CLAIM = 0
    CLAIM_MANY = 1  # a row for each user
    FIND = 2
    SETTLE = 3
    RELEASE = 4
    CREATE = 5  # get or create
    CLOSE = 6
    STATS = 7
    AUDIT = 8


class Answer(IntEnum):
    """What it was answered; the first are those of ``hbcore.Status``."""

    GRANTED = Status.GRANTED
    REPEATED = Status.REPEATED
    SOLD_OUT = Status.SOLD_OUT
    CLOSED = Status.CLOSED
    HELD = 10  # find, settle: the user's claim
    RELEASED = 11
    NONE = 12  # find, settle, release: the user holds nothing
    CONFLICT = 13  # release: settled, and so it stays; with the packet that a find gave then
    DONE = 14  # a call without a user
    CUT_OFF = 15  # none: the worker died
    INTENT = 16  # not an answer: what the worker is about to do, from this step on, so many steps


RECORD = np.dtype(
    [
        ("began", "i8"),  # CLOCK_MONOTONIC, in nanoseconds
        ("ended", "i8"),
        ("step", "i4"),  # of the worker's plan
        ("packet", "i4"),  # of an INTENT: how many steps
        ("amount", "i4"),
        ("answer", "u1"),
        ("unused", "u1"),
        ("cpu_us", "u2"),  # processor time of the call, where it was measured
    ]
)
"""What a worker tells through its pipe. Written together, up to PIPE_BUF bytes of them arrive whole or not at all."""
RECORD_FORMAT = "=qqiiiBBH"
RECORDS_AT_ONCE = select.PIPE_BUF // RECORD.itemsize

HISTORY = np.dtype(
    [
        ("began", "i8"),
        ("ended", "i8"),
        ("worker", "i4"),
        ("envelope", "i4"),
        ("user", "i4"),
        ("packet", "i4"),
        ("amount", "i4"),
        ("kind", "u1"),
        ("answer", "u1"),
        ("cpu_us", "u2"),
    ]
)

NOBODY = -1  # the state of a user without a packet
SOME = -2  # holds a packet that nobody has been told
UNKNOWN = -3
CONFIGURATION_LIMIT = 20_000


class Broken(Exception):
    """A promise was broken; the message says which and how."""


class Terms(NamedTuple):
    """What an envelope of the storm is made with."""

    name: str
    total: int
    packets: int
    law: str = "double_mean"


# ---- one user of one envelope -----------------------------------------------------------------------------------


def next_states(kind: int, answer: int, packet: int, state: tuple[int, bool]) -> list[tuple[int, bool]]:
    """Return what a call with this answer may make of ``state``: a packet, and whether it is settled."""
    held, settled = state
    if answer == Answer.CUT_OFF:
        if kind in (Kind.CLAIM, Kind.CLAIM_MANY) and held == NOBODY:
            return [state, (SOME, False)]
        if kind == Kind.RELEASE and held != NOBODY and not settled:
            return [(NOBODY, False)]
        if kind == Kind.SETTLE and held != NOBODY:
            return [(held, True)]
        return [state]
    if answer in (Answer.SOLD_OUT, Answer.CLOSED, Answer.NONE):
        return [state] if held == NOBODY else []
    if answer == Answer.GRANTED:
        return [(packet, False)] if held == NOBODY else []
    if held not in (packet, SOME) or packet < 0:
        return []
    if answer == Answer.RELEASED:
        return [] if settled else [(NOBODY, False)]
    if answer == Answer.CONFLICT:
        return [(packet, True)] if settled else []
    return [(packet, settled or kind == Kind.SETTLE)]


COUNT_BITS = 6
GUARD = 1 << COUNT_BITS - 1
"""Counts stay below it, so that two configurations can be compared in all their counts by one subtraction."""
READING = (Answer.REPEATED, Answer.SOLD_OUT, Answer.CLOSED, Answer.NONE, Answer.CONFLICT)
NOBODYS = (Answer.SOLD_OUT, Answer.CLOSED, Answer.NONE)


class Chain(NamedTuple):
    """Calls of one worker about one user, made in this order while others were under way.

    If a dead worker was about to make them, any number of the first may have happened. A call that was answered is a
    chain of one.
    """

    shift: int  # where a configuration counts how many of the calls have happened
    is_answered: bool
    is_reading: bool  # answered, and it changed nothing: it can happen whenever the state is right
    calls: list[tuple[int, int, int]]  # kind, answer, packet

    def steps(self, count: int, state: tuple[int, bool], prunes: bool) -> Iterator[tuple[tuple[int, bool], int]]:
        """Yield the states that the next calls may lead to, and how many have happened then.

        Where superfluous configurations are pruned, calls that change nothing happen together with the next that does.
        """
        for place in range(count, len(self.calls)):
            for after in next_states(*self.calls[place], state):
                if self.is_answered or not prunes or after != state:
                    yield after, place + 1
                    if prunes:
                        return
            if not prunes:
                return


def chains_of(rows: np.ndarray) -> tuple[list[Chain], list[tuple[int, bool, int]]]:
    """Return the chains of a segment, and its events in order: when, whether it is an end, which chain."""
    chains: list[Chain] = []
    events = []
    cut_off: dict[tuple[int, int], Chain] = {}
    for began, ended, worker, _, _, packet, _, kind, answer, _ in rows.tolist():
        is_answered = answer != Answer.CUT_OFF
        if not is_answered:
            if kind == Kind.FIND:
                continue
            if (worker, ended) in cut_off:
                cut_off[worker, ended].calls.append((kind, answer, packet))
                continue
        is_reading = answer in READING or (answer == Answer.HELD and kind == Kind.FIND)
        chain = Chain(COUNT_BITS * len(chains), is_answered, is_reading, [(kind, answer, packet)])
        events += [(began, False, len(chains)), (ended, True, len(chains))]
        chains.append(chain)
        if not is_answered:
            cut_off[worker, ended] = chain
    assert all(len(chain.calls) < GUARD for chain in chains)
    return chains, sorted(events)


def end_states(rows: np.ndarray, states: Iterable[tuple[int, bool]]) -> set[tuple[int, bool]] | None:
    """Return the states in which calls that overlap may leave their user. Empty: no order of them explains the answers.

    None: there were too many possibilities to look at all.
    """
    chains, events = chains_of(rows)
    # A configuration: the state, and how many calls of each chain that is under way have happened. A call happens no
    # earlier than the end of some call needs it to.
    configurations = {(state, 0) for state in states}
    pending: list[Chain] = []
    for _, is_end, number in events:
        chain = chains[number]
        if not is_end:
            pending.append(chain)
            continue
        left = settle_end(configurations, pending, chain)
        if left is None:
            return None
        configurations = left
        pending.remove(chain)
    return {state for state, _ in configurations}


class Reached:
    """The configurations that a search has reached, without those that others make superfluous.

    If two differ only in how much the dead have done, the one in which they have done less can become whatever the
    other can: what is cut off need not happen, a claim changes nothing for a user who holds a packet, and a release
    nothing for one who holds none. With a settle among the calls that would not be so.
    """

    def __init__(self, pending: list[Chain]) -> None:
        optional = [chain for chain in pending if not chain.is_answered]
        self.guards = sum(GUARD << chain.shift for chain in optional)
        self.counts = sum((GUARD - 1) << chain.shift for chain in optional)
        self.prunes = all(call[0] != Kind.SETTLE for chain in optional for call in chain.calls)
        self.known: dict[tuple, list[int]] = {}
        self.size = 0

    def add(self, state: tuple[int, bool], done: int) -> bool:
        """Add a configuration; return False if there was no need to."""
        counts = done & self.counts
        known = self.known.setdefault((state, done & ~self.counts), [])
        for other in known:
            if counts == other or (self.prunes and ((counts | self.guards) - other) & self.guards == self.guards):
                return False
        known.append(counts)
        self.size += 1
        return True


def settle_end(configurations: set, pending: list[Chain], ending: Chain) -> set | None:
    """Return the configurations that are left when a chain ends: if it was answered, those in which it has happened."""
    mask = (1 << COUNT_BITS) - 1
    clear = ~(mask << ending.shift)
    kept = {(state, done & clear) for state, done in configurations if not ending.is_answered or done & ~clear}
    reached = Reached(pending)
    todo = [one for one in configurations if not (ending.is_answered and one[1] & ~clear) and reached.add(*one)]
    readers = [chain for chain in pending if chain.is_reading]
    while todo:
        state, done = todo.pop()
        for reader in readers:
            if not done >> reader.shift & 1 and reads(reader.calls[0], state):
                done |= 1 << reader.shift
        if ending.is_reading and done & ~clear:
            kept.add((state, done & clear))
            continue
        for chain in pending:
            count = done >> chain.shift & mask
            for after, next_count in chain.steps(count, state, reached.prunes):
                one = (after, done + (next_count - count << chain.shift))
                if not reached.add(*one):
                    continue
                if chain is ending:
                    kept.add((after, one[1] & clear))
                if chain is not ending or not ending.is_answered:
                    todo.append(one)
        if reached.size > CONFIGURATION_LIMIT:
            return None
    return kept


def reads(call: tuple[int, int, int], state: tuple[int, bool]) -> bool:
    """Whether a call that changes nothing may happen in this state."""
    _, answer, packet = call
    if answer in NOBODYS:
        return state[0] == NOBODY
    return state[0] == packet and (answer != Answer.CONFLICT or state[1])


# ---- the history of a round -------------------------------------------------------------------------------------

SELECTING = (Kind.CLAIM, Kind.CLAIM_MANY, Kind.FIND, Kind.SETTLE, Kind.RELEASE)  # calls about one user
BEFORE = (Answer.REPEATED, Answer.HELD, Answer.RELEASED, Answer.CONFLICT)  # the user held the packet before
AFTER = (Answer.GRANTED, Answer.REPEATED, Answer.HELD, Answer.CONFLICT)  # and holds it afterwards


class UserHistory:
    """The calls about users, ordered by envelope, user and time, cut into segments that do not overlap.

    Between two segments nothing is asked about the user. A segment of one answered call is plain: its answer says what
    the user had before it and after it. All others are searched by ``end_states``.
    """

    def __init__(self, history: np.ndarray) -> None:
        rows = history[np.isin(history["kind"], SELECTING)]
        self.order = np.lexsort((rows["began"], identity_of(rows)))
        self.rows = rows = rows[self.order]
        count = len(rows)
        self.before = np.where(np.isin(rows["answer"], BEFORE), rows["packet"], NOBODY)
        self.after = np.where(np.isin(rows["answer"], AFTER), rows["packet"], NOBODY)
        first = is_new(rows, "envelope", "user")
        # The latest end so far, within each user: an offset for each makes one running maximum of all.
        start, stop = int(rows["began"].min()), int(rows["ended"].max())
        offset = np.cumsum(first) * (stop - start + 1) - start
        latest = np.maximum.accumulate(rows["ended"] + offset)
        opens = first.copy()
        opens[1:] |= rows["began"][1:] + offset[1:] > latest[:-1]
        self.starts = np.flatnonzero(opens)
        self.ends = np.append(self.starts[1:], count)  # exclusive
        self.began = rows["began"][self.starts]
        self.ended = latest[self.ends - 1] - offset[self.ends - 1]
        self.first = first[self.starts]
        self.last = np.append(self.first[1:], True)
        cut_off = np.add.reduceat((rows["answer"] == Answer.CUT_OFF).astype(np.int64), self.starts) > 0
        self.plain = (self.ends - self.starts == 1) & ~cut_off
        self.unexplored = 0
        self.state_before, self.state_after = self.states()

    def error(self, segment: int, reason: str) -> Broken:
        """Return the exception that shows a user's calls around a segment."""
        low, high = max(0, segment - 2), min(len(self.starts), segment + 2)
        rows = self.rows[self.starts[low] : self.ends[high - 1]]
        row = self.rows[self.starts[segment]]
        rows = rows[(rows["envelope"] == row["envelope"]) & (rows["user"] == row["user"])]
        lines = [describe(row, int(self.rows["began"].min())) for row in rows[:40]]
        return Broken(f"{reason}\n    " + "\n    ".join(lines))

    def states(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the packet that the user had before and after each segment, NOBODY, SOME or UNKNOWN."""
        before = np.where(self.plain, self.before[self.starts], UNKNOWN)
        after = np.where(self.plain, self.after[self.starts], UNKNOWN)
        wrong = self.plain & np.where(self.first, before != NOBODY, False)
        chained = self.plain[1:] & self.plain[:-1] & ~self.first[1:]
        wrong[1:] |= chained & (after[:-1] != before[1:])
        if wrong.any():
            raise self.error(int(np.flatnonzero(wrong)[0]), "an answer contradicts the one before it")
        found: dict[int, set[tuple[int, bool]] | None] = {}
        for segment in np.flatnonzero(~self.plain).tolist():
            rows = self.rows[self.starts[segment] : self.ends[segment]]
            if self.first[segment]:
                states: set[tuple[int, bool]] | None = {(NOBODY, False)}
            elif self.plain[segment - 1]:
                # Whether it was settled by then is checked apart.
                states = {(int(after[segment - 1]), False), (int(after[segment - 1]), after[segment - 1] >= 0)}
            else:
                states = found[segment - 1]
            ends = None if states is None else end_states(rows, states)
            if ends is not None and not ends:
                raise self.error(segment, "no order of the calls that overlap explains their answers")
            self.unexplored += ends is None
            found[segment] = ends
            packets = {packet for packet, _ in ends or {(UNKNOWN, False), (SOME, False)}}
            if len(packets) == 1:
                after[segment] = next(iter(packets))
            if not self.last[segment] and self.plain[segment + 1]:
                needed = int(before[segment + 1])
                if ends is not None and needed not in packets and not (needed >= 0 and SOME in packets):
                    raise self.error(segment, "what was asked next contradicts the calls that overlap")
                after[segment] = needed
        return before, after

    def holdings(self) -> np.ndarray:
        """Return when which user certainly held which packet: envelope, packet, user, from, to."""
        keeps = self.plain & (self.state_before == self.state_after) & (self.state_after >= 0)
        # From the end of a segment to the beginning of the user's next, and through the plain ones that change nothing.
        gaps = np.flatnonzero((self.state_after >= 0) & ~self.last)
        rows = self.rows[self.starts]
        parts = [
            (rows[gaps], self.state_after[gaps], self.ended[gaps], self.began[np.minimum(gaps + 1, len(rows) - 1)]),
            (rows[keeps], self.state_after[keeps], self.began[keeps], self.ended[keeps]),
        ]
        fields = [("envelope", "i4"), ("packet", "i4"), ("user", "i4"), ("since", "i8"), ("until", "i8")]
        held = np.empty(sum(len(part[0]) for part in parts), fields)
        for name, values in (
            ("envelope", [part[0]["envelope"] for part in parts]),
            ("user", [part[0]["user"] for part in parts]),
            ("packet", [part[1] for part in parts]),
            ("since", [part[2] for part in parts]),
            ("until", [part[3] for part in parts]),
        ):
            held[name] = np.concatenate(values)
        return held


def describe(row: np.void, start: int) -> str:
    """Return one line about a call."""
    return (
        f"{(row['began'] - start) / 1e3:12.1f} .. {(row['ended'] - start) / 1e3:12.1f} us  worker {row['worker']:4} "
        f"envelope {row['envelope']:3} user {row['user']:6} {Kind(row['kind']).name} -> {Answer(row['answer']).name} "
        f"packet {row['packet']} amount {row['amount']}"
    )


def is_new(rows: np.ndarray, *names: str) -> np.ndarray:
    """Return where a row differs in one of these fields from the one before it."""
    new = np.ones(len(rows), bool)
    new[1:] = np.logical_or.reduce([rows[name][1:] != rows[name][:-1] for name in names])
    return new


def check_packets(users: UserHistory) -> None:
    """No packet has two users at one time."""
    held = users.holdings()
    held = held[np.lexsort((held["since"], held["packet"], held["envelope"]))]
    first = is_new(held, "envelope", "packet")
    group = np.cumsum(first)
    start, stop = int(users.rows["began"].min()), int(users.rows["ended"].max())
    offset = group * (stop - start + 1) - start
    latest = np.maximum.accumulate(held["until"] + offset)
    overlaps = np.flatnonzero(~first[1:] & (held["since"][1:] + offset[1:] < latest[:-1]))
    if len(overlaps):
        one = held[overlaps[0] + 1]
        before = held[: overlaps[0] + 1]
        before = before[
            (before["envelope"] == one["envelope"])
            & (before["packet"] == one["packet"])
            & (before["until"] > one["since"])
        ]
        raise Broken(
            f"packet {one['packet']} of envelope {one['envelope']} was held by users {before['user'][-1]} and "
            f"{one['user']} at one time, {(one['since'] - start) / 1e3:.1f} us after the beginning"
        )


def check_sold_out(
    history: np.ndarray, users: UserHistory, closed_at: dict[int, int], packets_of: dict[int, int]
) -> int:
    """Check that every SOLD_OUT was told when every packet may have been in somebody's hands; return their number.

    At most so many are in somebody's hands: a packet for every user of whom it is not certain that they had none, and
    one for every call that may be about to put a packet back: a release, a claim that was answered REPEATED, and what
    was cut off. One more is counted for every claim beside other calls of its user: until it is answered, GRANTED as
    well, it may hold a packet while the user has another.
    """
    rows = users.rows
    absent = users.plain & (users.state_before == NOBODY) & (users.state_after == NOBODY)
    absent_after = users.state_after == NOBODY
    absent_before = np.append(True, absent_after[:-1]) | users.first
    segment_rows = rows[users.starts]
    envelope = segment_rows["envelope"].astype(np.int64)
    # A user counts or counts no longer from the beginning and from the end of a segment on.
    change_began = absent_before.astype(np.int64) - absent
    change_ended = absent.astype(np.int64) - absent_after
    answers = (Answer.REPEATED, Answer.RELEASED, Answer.CUT_OFF)
    holds = np.isin(history["kind"], (Kind.CLAIM, Kind.CLAIM_MANY, Kind.RELEASE)) & np.isin(history["answer"], answers)
    crossed = users.order[np.repeat(~users.plain, users.ends - users.starts)]
    crossed = np.flatnonzero(np.isin(history["kind"], SELECTING))[crossed]
    holds[crossed] |= history["answer"][crossed] == Answer.GRANTED
    calls = history[holds]
    # One a call: the rows of a batch, and of what a death has cut off, stand together and have one beginning.
    calls = calls[is_new(calls, "worker", "began", "envelope")]
    times = np.concatenate([users.began, users.ended, calls["began"], calls["ended"]])
    places = np.concatenate([envelope, envelope, calls["envelope"], calls["envelope"]]).astype(np.int64)
    changes = np.concatenate([change_began, change_ended, np.ones(len(calls), int), -np.ones(len(calls), int)])
    start, stop = int(rows["began"].min()), int(rows["ended"].max())
    span = stop - start + 2
    keys = (times - start) + places * span
    order = np.lexsort((-changes, keys))
    keys, changes, places = keys[order], changes[order], places[order]
    in_hands = np.cumsum(changes)
    # Each envelope begins at 0.
    first = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
    base = np.append(0, in_hands)[first]
    in_hands -= np.repeat(base, np.diff(np.append(first, len(places))))
    asked = rows[rows["answer"] == Answer.SOLD_OUT]
    limit = np.array([closed_at.get(e, stop + 1) for e in range(max(packets_of) + 1)])
    asked = asked[asked["ended"] < limit[asked["envelope"]]]
    if not len(asked):
        return 0
    asked = asked[np.lexsort((asked["began"], asked["envelope"]))]
    # From the last change before the call to the last one within it. A call's own beginning changes nothing for itself:
    # its user had no packet.
    place = asked["envelope"].astype(np.int64) * span - start
    low = np.searchsorted(keys, place + asked["began"], side="left") - 1
    low = np.maximum(low, first[np.searchsorted(places[first], asked["envelope"])])
    high = np.searchsorted(keys, place + asked["ended"], side="right")
    padded = np.append(in_hands, np.iinfo(np.int64).min)
    most = np.maximum.reduceat(padded, np.column_stack([low, np.maximum(high, low + 1)]).ravel())[::2]
    size = np.array([packets_of.get(e, 0) for e in range(max(packets_of) + 1)])[asked["envelope"]]
    wrong = np.flatnonzero(most < size)
    if len(wrong):
        row = asked[wrong[0]]
        raise Broken(
            f"{len(wrong)} claims were told SOLD_OUT while a packet was free: at most {most[wrong[0]]} of "
            f"{size[wrong[0]]} packets were in anybody's hands\n    {describe(row, start)}"
        )
    return len(asked)


def check_order_of_the_dead(users: UserHistory) -> int:
    """What a worker had announced happened in this order until its death; return how many calls are known to have.

    Looked at are the calls about users of whom nobody else asked anything meanwhile, where what is found afterwards
    tells whether the call has happened: a claim by its packet, a release either way.
    """
    rows = users.rows[users.starts]
    packet_before = np.where(users.first, NOBODY, np.append(NOBODY, users.state_after[:-1]))
    alone = (users.ends - users.starts == 1) & (rows["answer"] == Answer.CUT_OFF)
    settled = users.rows[users.rows["kind"] == Kind.SETTLE]
    alone &= ~np.isin(identity_of(rows), identity_of(settled))
    is_claim = np.isin(rows["kind"], (Kind.CLAIM, Kind.CLAIM_MANY)) & (packet_before == NOBODY)
    is_release = (rows["kind"] == Kind.RELEASE) & (packet_before >= 0)
    done = alone & (is_claim & (users.state_after >= 0) | is_release & (users.state_after == NOBODY))
    undone = alone & is_release & (users.state_after == packet_before)
    # The place in the history is the place in the worker's plan.
    place = users.order[users.starts]
    for worker in np.unique(rows["worker"][undone]):
        last = place[done & (rows["worker"] == worker)].max(initial=-1)
        first = place[undone & (rows["worker"] == worker)].min()
        if last > first:
            start = int(users.rows["began"].min())
            late, early = (users.rows[users.order == at][0] for at in (last, first))
            raise Broken(
                f"the second of these has happened, and the first, which came before it, has not\n    "
                f"{describe(early, start)}\n    {describe(late, start)}"
            )
    return int(done.sum())


def identity_of(rows: np.ndarray) -> np.ndarray:
    """Return one number for each user of an envelope."""
    return rows["envelope"].astype(np.int64) << 32 | rows["user"]


def check_settled(users: UserHistory) -> None:
    """What was settled is never released or granted anew, and only what somebody settles is settled."""
    rows = users.rows
    identity = identity_of(rows)
    is_settle = (rows["kind"] == Kind.SETTLE) & np.isin(rows["answer"], (Answer.HELD, Answer.CUT_OFF))
    settled = (rows["kind"] == Kind.SETTLE) & (rows["answer"] == Answer.HELD) | (rows["answer"] == Answer.CONFLICT)
    for one in np.unique(identity[is_settle | settled]):
        mine = identity == one
        history = rows[mine]
        since = history["ended"][settled[mine]].min(initial=np.iinfo(np.int64).max)
        later = history[history["began"] > since]
        if np.isin(later["answer"], (Answer.RELEASED, Answer.GRANTED, Answer.NONE, Answer.SOLD_OUT)).any():
            raise Broken(f"a settled claim has changed\n    {describe(later[0], int(rows['began'].min()))}")
        asked = history["began"][is_settle[mine]].min(initial=np.iinfo(np.int64).max)
        conflicts = history[history["answer"] == Answer.CONFLICT]
        if (conflicts["ended"] < asked).any():
            raise Broken(f"a claim is settled that nobody has settled\n    {describe(conflicts[0], 0)}")


def check_closed(history: np.ndarray) -> dict[int, int]:
    """Nothing is granted after a close, and nothing refused before one; return when closing began, by envelope."""
    closes = history[history["kind"] == Kind.CLOSE]
    began: dict[int, int] = {}
    claims = history[np.isin(history["kind"], (Kind.CLAIM, Kind.CLAIM_MANY))]
    for envelope in np.unique(claims["envelope"][claims["answer"] == Answer.CLOSED]).tolist():
        if not (closes["envelope"] == envelope).any():
            raise Broken(f"envelope {envelope} is closed, and nobody has closed it")
    for envelope in np.unique(closes["envelope"]).tolist():
        mine = closes[closes["envelope"] == envelope]
        began[envelope] = int(mine["began"].min())
        answers = claims[claims["envelope"] == envelope]
        early = answers[(answers["answer"] == Answer.CLOSED) & (answers["ended"] < began[envelope])]
        done = mine["ended"][mine["answer"] == Answer.DONE].min(initial=np.iinfo(np.int64).max)
        late = answers[np.isin(answers["answer"], (Answer.GRANTED, Answer.SOLD_OUT)) & (answers["began"] > done)]
        for wrong, words in ((early, "CLOSED before the close"), (late, "GRANTED or SOLD_OUT after the close")):
            if len(wrong):
                raise Broken(f"{words}\n    {describe(wrong[0], int(history['began'].min()))}")
    return began


def check_amounts(history: np.ndarray, amounts: dict[int, np.ndarray]) -> None:
    """Every answer with a packet names the amount that the envelope's law and seed give it."""
    rows = history[np.isin(history["answer"], (*BEFORE, Answer.GRANTED))]
    size = max(map(len, amounts.values()))
    table = np.zeros((max(amounts) + 1, size), np.int64)
    for envelope, values in amounts.items():
        table[envelope, : len(values)] = values
    if (rows["packet"] < 0).any() or (rows["packet"] >= size).any():
        raise Broken("an answer names a packet that the envelope does not have")
    wrong = rows[table[rows["envelope"], rows["packet"]] != rows["amount"]]
    if len(wrong):
        right = table[wrong[0]["envelope"], wrong[0]["packet"]]
        raise Broken(f"the law and the seed give {right}\n    {describe(wrong[0], int(history['began'].min()))}")


def check_history(history: np.ndarray, amounts: dict[int, np.ndarray]) -> Counter[str]:
    """Check all answers of a round against each other; raise Broken, or return what was checked, counted."""
    check_amounts(history, amounts)
    closed_at = check_closed(history)
    users = UserHistory(history)
    check_settled(users)
    check_packets(users)
    done = check_order_of_the_dead(users)
    sold_out = check_sold_out(
        history, users, closed_at, {envelope: len(values) for envelope, values in amounts.items()}
    )
    counted: Counter[str] = Counter()
    counted["answers"] = int((history["answer"] < Answer.CUT_OFF).sum())
    counted["answers in batches"] = int(((history["kind"] == Kind.CLAIM_MANY) & (history["answer"] < 10)).sum())
    counted["calls cut off"] = int((history["answer"] == Answer.CUT_OFF).sum())
    counted["done before a death"] = done
    counted["overlapping"] = int((users.ends - users.starts)[~users.plain].sum())
    counted["not searched"] = users.unexplored
    counted["sold out"] = sold_out
    for answer in (Answer.GRANTED, Answer.REPEATED, Answer.RELEASED, Answer.CLOSED):
        counted[answer.name] = int((history["answer"] == answer).sum())
    return counted


def amounts_of(envelope: hbcore.Envelope) -> np.ndarray:
    """Return what each packet of an envelope is worth by its law and seed."""
    terms = envelope.terms
    return hbcore.split(terms.total, terms.packets, terms.law, terms.min, terms.max, terms.concentration, terms.seed)
