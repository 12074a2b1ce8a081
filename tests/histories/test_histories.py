"""Linearizability in its short form: a few hundred recorded histories, and a checker that can say no.

The long form is ``python tests/histories/histories.py``; what a history is, and how it is checked, is said there.
"""

import itertools
import random
import re
from array import array
from types import ModuleType

import pytest
from history_plans import plan_history
from history_tapes import TAPE_WORDS, Names, bind, read_tape, run_program
from linearizability import FINAL, FOREVER, NOTHING, Checker, History, Operation

from hbcore import Status

AMOUNTS = (100, 200, 400, 800)
ANSWERS = {
    "G": Status.GRANTED,
    "R": Status.REPEATED,
    "S": Status.SOLD_OUT,
    "C": Status.CLOSED,
    "N": NOTHING,
    "F": FINAL,
}


def parse(line: str) -> list[Operation]:
    """Read ``3-5 claim 0 G1``: from 3 to 5, user 0 is granted packet 1. Without an end and an answer it is pending.

    The other answers are R1 (REPEATED), S (SOLD_OUT), C (CLOSED), N (None) and F (ConflictError). ``3-5 close 300``
    refunds 300, ``3-5 snapshot 0:1 2:0s`` shows that user 0 holds packet 1, and user 2 packet 0, which is settled.
    """
    span, kind, *rest = line.split()
    begin, end = span.split("-")
    times = {"invoked": int(begin), "returned": int(end) if end else FOREVER}
    if kind == "snapshot":
        rows = [re.fullmatch(r"(\d):(\d)(s?)", row).groups() for row in rest]
        return [
            Operation(kind, rows=tuple((int(user), int(packet), int(bool(s))) for user, packet, s in rows), **times)
        ]
    if kind == "close":
        return [Operation("close", **times), *(Operation("refund", amount=int(amount), **times) for amount in rest)]
    if not end:
        return [Operation(kind, int(rest[0]), **times)]
    packet = int(rest[1][1:] or -1)
    amount = AMOUNTS[packet] if packet >= 0 else 0
    return [Operation(kind, int(rest[0]), ANSWERS[rest[1][0]], packet, amount=amount, **times)]


def history(packets: int, *clients: str, died: dict[int, int] | None = None) -> History:
    """Make a history of clients, each of which is its calls, separated by commas."""
    calls = [[call for line in client.split(",") for call in parse(line)] for client in clients]
    return History(AMOUNTS[:packets], calls, died or {})


RIGHT = {
    "one after the other": history(
        2, "1-2 claim 0 G1, 3-4 claim 1 G0, 5-6 claim 2 S, 7-8 release 0 R1, 9-10 claim 2 G1"
    ),
    "an answer like that of the second of two": history(1, "1-9 claim 0 R0", "2-8 claim 0 G0"),
    "found before the claim has ended": history(1, "1-9 claim 0 G0", "2-3 find 0 N, 4-5 find 0 R0"),
    "settle wins over release": history(1, "1-2 claim 0 G0, 3-9 settle 0 R0", "3-9 release 0 F"),
    "release wins over settle": history(1, "1-2 claim 0 G0, 3-9 settle 0 N", "3-9 release 0 R0"),
    "sold out while another claim has the last packet": history(1, "1-9 claim 0 G0", "2-3 claim 1 S, 4-5 find 0 N"),
    "sold out while a release has the last packet": history(
        1, "1-2 claim 0 G0, 3-9 release 0 R0", "4-5 find 0 N, 6-7 claim 1 S, 10-11 claim 1 G0"
    ),
    "sold out while one user's two claims have two packets": history(
        2, "1-9 claim 0 G1", "1-9 claim 0 R1", "2-3 claim 1 S, 10-11 claim 1 G0"
    ),
    "sold out while two releases have two packets": history(
        2,
        "1-2 claim 0 G0, 5-9 release 0 R0",
        "3-4 claim 1 G1, 5-9 release 1 R1",
        "6-7 find 0 N, 7-8 claim 2 S, 12-13 claim 2 G0",
    ),
    "granted beside a close": history(2, "1-9 claim 0 G0", "2-3 close 200, 4-5 claim 1 C"),
    "a close that did not see the packet of a release": history(1, "1-2 claim 0 G0, 3-9 release 0 R0", "4-5 close 0"),
    "a release after the close refunds": history(1, "1-2 claim 0 G0, 3-4 close 0, 5-6 release 0 R0, 7-8 close 100"),
    "a pending claim took effect": history(1, "1- claim 0", "2-3 claim 1 S, 4-5 find 0 R0, 6-7 claim 1 S", died={0: 2}),
    "a pending claim took no effect": history(1, "1- claim 0", "2-3 find 0 N, 4-5 claim 1 G0", died={0: 2}),
    "a pending claim takes effect late": history(1, "1- claim 0", "2-3 find 0 N, 4-5 find 0 R0", died={0: 9}),
    "a pending release took effect": history(1, "1-2 claim 0 G0, 3- release 0", "4-5 claim 1 G0", died={0: 9}),
    "a pending settle took effect": history(1, "1-2 claim 0 G0, 3- settle 0", "4-5 release 0 F", died={0: 9}),
    "a pending close took effect": history(1, "1- close", "2-3 find 0 N, 4-5 claim 1 C, 6-7 close 100", died={0: 2}),
    "sold out while the dead have the packet": history(1, "1- claim 0", "2-5 claim 1 S, 6-7 claim 1 G0", died={0: 4}),
    "a pending batch took effect in part": history(
        2, "1- claim 0, 1- claim 1, 1- claim 2", "2-3 snapshot 0:0 2:1, 4-5 claim 1 S", died={0: 2}
    ),
    "a snapshot of all": history(3, "1-2 claim 0 G2, 3-4 claim 1 G0, 5-6 settle 0 R2, 7-8 snapshot 0:2s 1:0"),
}

WRONG = {
    "two users have one packet": history(2, "1-2 claim 0 G0", "1-3 claim 1 G0"),
    "one user is granted two packets": history(2, "1-3 claim 0 G0", "1-3 claim 0 G1"),
    "a claim is lost": history(1, "1-2 claim 0 G0", "3-4 find 0 N"),
    "a claim is lost and granted anew": history(2, "1-2 claim 0 G0, 3-4 claim 0 G1"),
    "repeated with another packet": history(2, "1-2 claim 0 G0", "3-4 claim 0 R1"),
    "repeated before it is granted": history(1, "1-2 claim 0 R0", "3-4 claim 0 G0"),
    "found and not found any more": history(1, "1-9 claim 0 G0", "2-3 find 0 R0, 4-5 find 0 N"),
    "sold out while a packet is free": history(2, "1-2 claim 0 G0", "3-4 claim 1 S"),
    "sold out while one claim is under way and two are free": history(2, "1-9 claim 0 G0", "2-3 claim 1 S"),
    "sold out before the claim of the last packet": history(1, "2-3 claim 1 S", "4-9 claim 0 G0"),
    "sold out after the release has ended": history(1, "1-2 claim 0 G0, 3-4 release 0 R0", "5-6 claim 1 S"),
    "sold out while two claims are under way, but not at once": history(
        2, "1-3 claim 0 G0, 4-5 release 0 R0", "6-9 claim 1 G1", "2-8 claim 2 S"
    ),
    "sold out while another packet is in hands": history(
        2, "1-2 claim 0 G0, 3-8 release 0 R0", "4-5 find 0 N, 6-7 claim 1 S"
    ),
    "sold out for a user who has a packet": history(1, "1-2 claim 0 G0, 3-4 claim 0 S"),
    "sold out because of the dead": history(1, "1- claim 0", "2-3 find 0 N, 4-5 claim 1 S, 6-7 find 0 N", died={0: 3}),
    "sold out because of a release that has died": history(
        1, "1-2 claim 0 G0, 3- release 0", "4-5 find 0 N, 6-7 claim 1 S", died={0: 5}
    ),
    "a packet that nobody can claim": history(
        2, "1- claim 0", "4-5 find 0 N, 6-7 claim 1 G0, 8-9 claim 2 S", died={0: 3}
    ),
    "what the dead had been answered is gone": history(1, "1-2 claim 0 G0, 3- find 0", "4-5 find 0 N", died={0: 4}),
    "a pending claim comes and goes": history(1, "1- claim 0", "2-3 find 0 R0, 4-5 find 0 N", died={0: 2}),
    "a pending claim is granted two packets": history(2, "1- claim 0", "2-3 find 0 R0, 4-5 find 0 R1", died={0: 2}),
    "a settled claim is released": history(1, "1-2 claim 0 G0, 3-4 settle 0 R0, 5-6 release 0 R0"),
    "a settled claim is gone": history(1, "1-2 claim 0 G0, 3-4 settle 0 R0, 5-6 find 0 N"),
    "settle and release both win": history(1, "1-2 claim 0 G0, 3-9 settle 0 R0, 10-11 find 0 R0", "3-9 release 0 R0"),
    "two releases of one claim": history(1, "1-2 claim 0 G0, 3-9 release 0 R0", "3-9 release 0 R0"),
    "a release that is refused and was not settled": history(1, "1-2 claim 0 G0, 3-4 release 0 F"),
    "closed while open": history(1, "1-2 claim 0 C, 3-4 claim 0 G0"),
    "granted after the close": history(1, "1-2 close 100", "3-4 claim 0 G0"),
    "granted and refunded": history(1, "1-9 claim 0 G0", "2-3 close 100"),
    "refunded and held": history(2, "1-2 claim 0 G0, 3-4 close 300"),
    "not refunded and nobody's": history(2, "1-2 claim 0 G0, 3-4 close 0"),
    "not refunded because of the dead": history(1, "1- claim 0", "5-6 close 0, 7-8 find 0 N", died={0: 4}),
    "a refund that no packets sum to": history(2, "1-2 close 250"),
    "a snapshot that misses a claim": history(2, "1-2 claim 0 G0, 3-4 claim 1 G1, 5-6 snapshot 0:0"),
    "a snapshot with a claim that is released": history(1, "1-2 claim 0 G0, 3-4 release 0 R0, 5-6 snapshot 0:0"),
    "a snapshot of another state": history(1, "1-2 claim 0 G0, 3-4 settle 0 R0, 5-6 snapshot 0:0"),
    "a packet of another amount": History((150,), history(1, "1-2 claim 0 G0").clients, {}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_history_is_explained(name: str) -> None:
    assert Checker(RIGHT[name]).is_linearizable()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_history_is_rejected(name: str) -> None:
    assert not Checker(WRONG[name]).is_linearizable()


def answer_to(held: dict[int, int], call: Operation) -> Operation:
    """The call with the answer that is right if it is made now. There is a packet for each of two users."""
    packet = held.get(call.user)
    if call.kind != "claim":
        if call.kind == "release":
            held.pop(call.user, None)
        return call._replace(
            outcome=NOTHING if packet is None else Status.REPEATED, packet=-1 if packet is None else packet
        )
    if packet is not None:
        return call._replace(outcome=Status.REPEATED, packet=packet)
    held[call.user] = next(p for p in (call.packet, 0, 1) if p >= 0 and p not in held.values())
    return call._replace(outcome=Status.GRANTED, packet=held[call.user])


def works(order: tuple[Operation, ...]) -> bool:
    held: dict[int, int] = {}
    return all(answer_to(held, call) == call for call in order)


def test_the_search_agrees_with_trying_every_order() -> None:
    """Calls that were made one by one at a moment of their time, half of them with an answer changed."""
    rng = random.Random(1)
    found = {True: 0, False: 0}
    for _ in range(3000):
        moments = sorted(rng.sample(range(1000), 5))
        spans = [(rng.randrange(moment - 150, moment + 1), moment + rng.randrange(150)) for moment in moments]
        held: dict[int, int] = {}
        clients: list[list[Operation]] = [[], [], []]
        for begin, end in spans:
            kind, user = rng.choice(("claim", "claim", "release", "find")), rng.randrange(2)
            client = rng.choice([c for c in clients if not c or c[-1].returned < begin] or [[]])
            call = Operation(kind, user, packet=rng.randrange(2), invoked=begin, returned=end)
            client.append(answer_to(held, call))
        if rng.random() < 0.5:
            client = rng.choice([client for client in clients if client])
            j = rng.randrange(len(client))
            # The dictionary cannot say what SOLD_OUT means beside other calls.
            client[j] = rng.choice([o for o in other_answers(client[j], 2) if o.outcome != Status.SOLD_OUT])
        clients = [
            [call._replace(amount=AMOUNTS[call.packet] if call.packet >= 0 else 0) for call in c] for c in clients
        ]
        expected = any(
            works(tuple(call._replace(amount=0) for call in order))
            for order in itertools.permutations([call for client in clients for call in client])
            if not any(later.returned < call.invoked for call, later in itertools.combinations(order, 2))
        )
        assert Checker(History(AMOUNTS[:2], clients, {})).is_linearizable() == expected
        found[expected] += 1
    assert min(found.values()) > 500, found


def sequential_history(impl: ModuleType, number: int) -> History:
    """One client runs all programs of a plan, and then looks at what is left."""
    engine = impl.Engine()
    plan = plan_history(1, number, (1, 1, 1), 0)
    envelope = engine.envelope(str(number), **plan.terms)
    program = [step for client in plan.programs for part in client for step in part] + plan.finals
    tape = memoryview(array("q", bytes(8 * 8 * TAPE_WORDS)))
    run_program(bind(envelope, Names(engine, plan, number), program), tape, 0)
    return History(plan.amounts, [read_tape(plan, program, tape)], {})


def other_answers(call: Operation, packets: int) -> list[Operation]:
    """Return the same call with every other answer that looks like one."""
    if call.kind in ("close", "refund", "snapshot"):
        return []
    without = (Status.SOLD_OUT, Status.CLOSED) if call.kind == "claim" else (NOTHING, FINAL)
    with_packet = (Status.GRANTED, Status.REPEATED) if call.kind == "claim" else (Status.REPEATED,)
    others = [call._replace(outcome=outcome, packet=-1, amount=0) for outcome in without]
    others += [call._replace(outcome=outcome, packet=p) for outcome in with_packet for p in range(packets)]
    return [other for other in others if (other.outcome, other.packet) != (call.outcome, call.packet)]


def test_one_after_the_other_only_the_given_answers_are_right(impl: ModuleType) -> None:
    """The specification is the reference's: what both cores answer is right, and any other answer is not."""
    changed = 0
    for number in range(40):
        recorded = sequential_history(impl, number)
        assert Checker(recorded).is_linearizable()
        (calls,) = recorded.clients
        for i, call in enumerate(calls if number < 10 else []):
            for other in other_answers(call, len(recorded.amounts)):
                if other.packet >= 0:
                    other = other._replace(amount=recorded.amounts[other.packet])
                assert not Checker(recorded._replace(clients=[[*calls[:i], other, *calls[i + 1 :]]])).is_linearizable()
                changed += 1
    assert changed > 500
