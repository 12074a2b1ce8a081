"""Linearizability of budgets in its short form: recorded histories, and a checker that can say no.

The long form is ``python tests/histories/money_histories.py``; what a history is, and how it is checked, is said there.
"""

import re
from array import array
from types import ModuleType

import pytest
from history_tapes import TAPE_WORDS, run_program
from linearizability import FINAL, FOREVER, NOTHING
from money_histories import bind, plan_history, read_tape
from money_linearizability import ANY_STATE, CHILD, CONFLICT, PARENT, Checker, History, Operation

from hbcore import State, Status

TOTALS = (15, 5)
ANSWERS = {
    "G": Status.GRANTED, "R": Status.REPEATED, "I": Status.INSUFFICIENT, "C": Status.CLOSED, "N": NOTHING, "F": FINAL,
    "X": CONFLICT,
}  # fmt: skip
STATES = {"g": State.GRANTED, "s": State.SETTLED, "r": State.RELEASED}


def parse(line: str) -> list[Operation]:
    """Read ``3-5 reserve c0 7 Gg7``: from 3 to 5, key 0 of the child asks for 7 and gets it; p is the parent.

    An answer is a letter of ANSWERS, then of a hold its state (g, s, r), its amount and, after a slash, what of it was
    spent. Without an end and an answer the call is pending. ``3-5 close c 5`` reads 5; ``3-5 stats p 10 4 5 1``.
    """
    span, kind, where, *rest = line.split()
    begin, end = span.split("-")
    times = {"invoked": int(begin), "returned": int(end) if end else FOREVER}
    budget = CHILD if where[0] == "c" else PARENT
    back = [Operation(name, CHILD, **times) for name in ("see", "refund")] if budget == CHILD else []
    if kind in ("stats", "sweep"):
        return [Operation(kind, budget, rows=tuple(map(int, rest)), **times)]
    if kind == "close":
        return [
            Operation(kind, budget, **times),
            *back,
            Operation("sum", budget, amount=int((rest or ["0"])[0]), **times),
        ]
    wanted = int(rest.pop(0)) if kind in ("reserve", "settle", "top_up") else 0
    answer = re.fullmatch(r"(\w)(?:([gsr])(\d+)(?:/(\d+))?)?", rest[0]) if rest else None
    outcome, state, amount, spent = (NOTHING, None, 0, 0) if answer is None else answer.groups()
    told = {
        "outcome": ANSWERS.get(outcome, NOTHING), "state": int(STATES.get(state, 0)), "amount": int(amount or 0),
        "spent": int(spent or 0), "wanted": wanted, **times,
    }  # fmt: skip
    kinds = [kind] if kind != "top_up" else ["fund", "add"] if budget == CHILD else ["add"]
    told = [Operation(name, budget, int(where[1]), **told) for name in kinds]
    return told + (back if kind in ("top_up", "settle", "release") else [])


def history(*clients: str, died: dict[int, int] | None = None) -> History:
    """Make a history of clients, each of which is its calls, separated by commas: 10 in the parent, 5 in the child."""
    calls = [[call for line in client.split(",") for call in parse(line)] for client in clients]
    return History(TOTALS, 3, calls, died or {})


RIGHT = {
    "one after the other": history(
        "1-2 reserve p0 7 Gg7, 3-4 reserve p1 7 I, 5-6 settle p0 3 Rs7/3, 7-8 reserve p1 7 Gg7, 9-10 stats p 15 0 12 3"
    ),
    "an answer like that of the second of two": history("1-9 reserve p0 7 Rg7", "2-8 reserve p0 7 Gg7"),
    "insufficient while a release is under way": history(
        "1-2 reserve p0 7 Gg7, 3-9 release p0 Rr7", "4-5 reserve p1 7 I, 10-11 reserve p1 7 Gg7"
    ),
    "settle wins over release": history("1-2 reserve p0 7 Gg7, 3-9 settle p0 -1 Rs7/7", "3-9 release p0 F"),
    "a child's money comes back": history("1-2 close c 5, 3-4 reserve p0 15 Gg15, 5-6 reserve c0 1 C"),
    "a child's money is on its way": history("1-9 close c 5", "2-3 reserve c0 1 C, 4-5 reserve p0 11 I"),
    "a release in a closed child goes up": history(
        "1-2 reserve c0 5 Gg5, 3-4 close c 0, 5-6 release c0 Rr5, 7-8 reserve p0 15 Gg15"
    ),
    "a release in a closed child is on its way": history(
        "1-2 reserve c0 5 Gg5, 3-4 close c 0, 5-9 release c0 Rr5", "6-7 find c0 Rr5, 8-9 reserve p0 11 I"
    ),
    "a top-up is on its way": history(
        "1-9 top_up c0 4 Gg4", "2-3 reserve p0 7 I, 4-5 reserve c0 6 I, 10-11 reserve c0 9 Gg9"
    ),
    "one of two top-ups": history("1-9 top_up c0 4 Gg4", "2-8 top_up c0 4 Rg4, 9-10 stats c 9 9 0 0"),
    "a pending reserve took effect": history("1- reserve p0 7", "3-4 reserve p1 7 I", died={0: 2}),
    "a pending reserve took no effect": history("1- reserve p0 7", "3-4 reserve p1 7 Gg7", died={0: 2}),
    "what the dead requested for is decided by who asks for the same": history(
        "1- reserve p0 7", "3-4 reserve p1 9 Gg9, 5-6 release p1 Rr9, 7-8 reserve p0 8 X", died={0: 2}
    ),
    "what the dead has released is back when somebody looks": history(
        "1-2 reserve p0 7 Gg7, 3- release p0", "5-6 reserve p1 7 I, 7-8 find p0 Rr7, 9-10 reserve p1 7 Gg7", died={0: 4}
    ),
    "the dead has funded a top-up": history(
        "1- top_up c0 4", "3-4 reserve p0 7 I, 5-6 reserve c0 6 I, 7-8 sweep p, 9-10 stats c 9 9 0 0", died={0: 2}
    ),
    "the dead has closed and not refunded": history(
        "1- close c", "3-4 reserve c0 1 C, 5-6 stats p 15 10 5 0", died={0: 2}
    ),
}  # fmt: skip

WRONG = {
    "more than there is": history("1-2 reserve p0 7 Gg7", "1-3 reserve p1 7 Gg7"),
    "insufficient while there is enough": history("1-2 reserve p0 7 Gg7", "3-4 reserve p1 3 I"),
    "insufficient after the release": history("1-2 reserve p0 7 Gg7, 3-4 release p0 Rr7", "5-6 reserve p1 7 I"),
    "granted before the release": history("1-2 reserve p0 7 Gg7, 5-6 release p0 Rr7", "3-4 reserve p1 7 Gg7"),
    "one key is granted twice": history("1-3 reserve p0 3 Gg3", "1-3 reserve p0 3 Gg3"),
    "a hold is lost": history("1-2 reserve p0 7 Gg7", "3-4 find p0 N"),
    "another amount": history("1-2 reserve p0 7 Gg6"),
    "granted with another amount and no conflict": history("1-2 reserve p0 7 Gg7, 3-4 reserve p0 6 Rg7"),
    "a conflict with the same amount": history("1-2 reserve p0 7 Gg7, 3-4 reserve p0 7 X"),
    "granted and released in one answer": history("1-9 reserve p0 7 Gr7", "3-4 release p0 Rr7"),
    "settled and released": history("1-2 reserve p0 7 Gg7, 3-9 settle p0 -1 Rs7/7", "3-9 release p0 Rr7"),
    "a released key is granted again": history("1-2 reserve p0 7 Gg7, 3-4 release p0 Rr7, 5-6 reserve p0 7 Gg7"),
    "settled twice": history("1-2 reserve p0 7 Gg7, 3-9 settle p0 3 Rs7/3", "3-9 settle p0 4 Rs7/4"),
    "released money comes back twice": history(
        "1-2 reserve p0 7 Gg7, 3-4 release p0 Rr7", "5-6 reserve p1 7 Gg7, 7-8 reserve p2 7 Gg7"
    ),
    "closed while open": history("1-2 reserve p0 7 C, 3-4 reserve p0 7 Gg7"),
    "granted after the close": history("1-2 close p 10", "3-4 reserve p0 7 Gg7"),
    "a close that reads another sum": history("1-2 close c 4"),
    "a child's money does not come back": history("1-2 close c 5, 3-4 reserve p0 15 I"),
    "a child's money comes back before the close": history("1-2 reserve p0 15 Gg15", "3-4 close c 5"),
    "a child's money comes back twice": history("1-2 close c 5, 3-4 close c 5, 5-6 reserve p0 20 Gg20"),
    "a release in a closed child that stays there": history(
        "1-2 reserve c0 5 Gg5, 3-4 close c 0, 5-6 release c0 Rr5, 7-8 reserve p0 15 I"
    ),
    "a top-up out of nothing": history("1-2 top_up c0 4 Gg4, 3-4 reserve p0 10 Gg10"),
    "a top-up that does not arrive": history("1-2 top_up c0 4 Gg4, 3-4 reserve c0 9 I"),
    "a top-up that is made twice": history("1-9 top_up c0 4 Gg4", "1-9 top_up c0 4 Gg4"),
    "a top-up that counts twice": history("1-2 top_up c0 4 Gg4, 3-4 top_up c0 4 Rg4, 5-6 stats c 13 13 0 0"),
    "a top-up of more than the parent has": history("1-2 top_up c0 11 Gg11"),
    "a pending reserve comes and goes": history(
        "1- reserve p0 7", "3-4 reserve p1 7 I, 5-6 reserve p1 7 Gg7", died={0: 2}
    ),
    "what the dead requested for happens of itself": history(
        "1- reserve p0 7", "3-4 find p0 N, 5-6 reserve p1 7 I", died={0: 2}
    ),
    "what the dead had been answered is gone": history(
        "1-2 reserve p0 7 Gg7, 3- find p0", "5-6 find p0 N", died={0: 4}
    ),
    "a sweep leaves the dead's top-up on its way": history(
        "1- top_up c0 4", "3-4 reserve p0 7 I, 5-6 sweep p, 7-8 stats c 5 5 0 0", died={0: 2}
    ),
    "statistics of other sums": history("1-2 reserve p0 7 Gg7, 3-4 stats p 15 3 11 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_history_is_explained(name: str) -> None:
    assert Checker(RIGHT[name]).is_linearizable()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_history_is_rejected(name: str) -> None:
    assert not Checker(WRONG[name]).is_linearizable()


def sequential_history(impl: ModuleType, number: int) -> History:
    """One client runs all programs of a plan, and then looks at what is left."""
    engine = impl.Engine()
    plan = plan_history(1, number, (1, 1, 1), 0)
    engine.budget(f"parent {number}", plan.totals[PARENT]).budget("child", plan.totals[CHILD])
    program = [step for client in plan.programs for part in client for step in part] + plan.finals
    tape = memoryview(array("q", bytes(8 * 8 * TAPE_WORDS)))
    run_program(bind(engine, number, program), tape, 0)
    return History(plan.totals, plan.keys, [read_tape(program, tape)], {})


def other_answers(call: Operation) -> list[Operation]:
    """Return the same call with other answers that look like one."""
    if call.kind in ("stats", "sum"):
        field, value = ("rows", call.rows) if call.kind == "stats" else ("amount", call.amount)
        changed = (value[0], value[1] + 1, value[2] - 1, value[3]) if call.kind == "stats" else value + 1
        return [call._replace(**{field: changed})]
    if call.kind not in ("reserve", "find", "settle", "release"):
        return []
    others = [call._replace(outcome=NOTHING, state=0, amount=0, spent=0)]
    if call.kind == "reserve":
        others = [
            call._replace(outcome=outcome, state=0, amount=0, spent=0)
            for outcome in (Status.INSUFFICIENT, Status.CLOSED, CONFLICT)
        ]
    elif call.kind != "find":
        others.append(others[0]._replace(outcome=FINAL))
    if call.outcome in (Status.GRANTED, Status.REPEATED):
        others.append(call._replace(amount=call.amount + 1))
        others.append(call._replace(outcome=Status.GRANTED + Status.REPEATED - call.outcome))
        if call.state != ANY_STATE:
            others.append(call._replace(spent=call.spent + 1))
    return [other for other in others if other.outcome != call.outcome or other.outcome in (1, 2)]


def test_one_after_the_other_only_the_given_answers_are_right(impl: ModuleType) -> None:
    """The specification is the reference's: what both cores answer is right, and any other answer is not."""
    changed = 0
    for number in range(60):
        recorded = sequential_history(impl, number)
        assert Checker(recorded).is_linearizable(), number
        (calls,) = recorded.clients
        for i, call in enumerate(calls if number < 15 else []):
            for other in other_answers(call):
                assert not Checker(recorded._replace(clients=[[*calls[:i], other, *calls[i + 1 :]]])).is_linearizable()
                changed += 1
    assert changed > 500
