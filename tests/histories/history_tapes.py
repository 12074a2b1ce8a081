"""How clients record their calls: each writes what it asks and what it is answered on a tape in shared memory."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from history_plans import Plan, Step
from linearizability import FINAL, FOREVER, NOBODY, NOTHING, Operation

import hbcore
import hbcore.reference
from hbcore import State, Status

TAPE_WORDS = 2048  # of one client in one history

# A call is recorded as [invoked, returned, number of answers, then for each answer the user, status, packet, amount];
# a zero is a time that never came. `returned` is written last.


def run_program(calls: list[tuple[Callable[..., Any], tuple[Any, ...], Callable[..., int]]], tape: Any, at: int) -> int:
    """Make the calls one after the other, and leave on the tape what a death at any moment must not take along.

    Returns where the tape goes on.
    """
    clock = time.monotonic_ns
    for call, arguments, note in calls:
        tape[at] = clock()
        try:
            answer = call(*arguments)
        except hbcore.ConflictError:
            answer = FINAL
        returned = clock()
        end = note(tape, at + 3, answer)
        tape[at + 2] = (end - at - 3) // 4
        tape[at + 1] = returned
        at = end
    return at


def note_sum(tape: Any, at: int, answer: int) -> int:
    tape[at] = tape[at + 1] = tape[at + 2] = 0
    tape[at + 3] = answer
    return at + 4


def note_claim(tape: Any, at: int, answer: Any) -> int:
    """A Claim, None, or FINAL."""
    tape[at] = 0
    if answer is None or answer == FINAL:
        tape[at + 1], tape[at + 2], tape[at + 3] = NOTHING if answer is None else FINAL, -1, 0
    else:
        tape[at + 1], tape[at + 2], tape[at + 3] = answer.status, answer.packet, answer.amount
    return at + 4


def note_rows(tape: Any, at: int, answer: list[tuple[int, int, int, int]]) -> int:
    for row in answer:
        for word in row:
            tape[at] = word
            at += 1
    return at


def note_batch(tape: Any, at: int, answer: tuple[int, np.ndarray]) -> int:
    """Note of several equal answers in a row to one user, other than GRANTED, only the first.

    They change nothing, so a moment that is right for one of them is right for all.
    """
    repeats, rows = answer
    places = np.arange(len(rows)) // repeats
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (rows["packet"][1:] != rows["packet"][:-1]) | (rows["status"][1:] != rows["status"][:-1])
    is_new |= (np.arange(len(rows)) % repeats == 0) | (rows["status"] == Status.GRANTED)
    kept = rows[is_new]
    answers = zip(
        places[is_new].tolist(), kept["status"].tolist(), kept["packet"].tolist(), kept["amount"].tolist(), strict=True
    )
    return note_rows(tape, at, list(answers))


class Names:
    """The users of one history: each history has its own, so that they meet in other places of the index."""

    def __init__(self, engine: hbcore.Engine, plan: Plan, number: int) -> None:
        self.engine, self.plan = engine, plan
        count = plan.users + len(plan.amounts) + 1
        self.names: list[Any] = [number * 16 + user for user in range(count)]
        if plan.is_text:
            self.names = [f"user {name}" for name in self.names]

    def batch(self, step: Step) -> Any:
        names = [self.names[user] for user in step.users for _ in range(step.repeats)]
        return names if self.plan.is_text else np.array(names)

    def snapshot(self, envelope: hbcore.Envelope) -> list[tuple[int, int, int, int]]:
        numbers = {self.engine.user_hash(name): number for number, name in enumerate(self.names)}
        return [
            (numbers.get(row["user"].tobytes(), NOBODY), int(row["state"]), int(row["packet"]), int(row["amount"]))
            for row in envelope.claims()
        ]


def bind(envelope: hbcore.Envelope, names: Names, program: list[Step]) -> list:
    """The calls of a program, each with its arguments and what writes down its answer, ready to run."""
    scalars = {"claim": envelope.claim, "find": envelope.find, "settle": envelope.settle, "release": envelope.release}
    calls: list = []
    for step in program:
        if step.kind in scalars:
            calls.append((scalars[step.kind], (names.names[step.users[0]],), note_claim))
        elif step.kind == "claim_many":
            batch = names.batch(step)
            calls.append((lambda users, step=step: (step.repeats, envelope.claim_many(users)), (batch,), note_batch))
        elif step.kind == "snapshot":
            calls.append((names.snapshot, (envelope,), note_rows))
        else:
            calls.append((envelope.close, (), note_sum))
    return calls


def calls_of(program: Sequence[Any], tape: Any) -> Iterator[tuple[Any, dict[str, int], list[tuple[int, ...]]]]:
    """Yield each step of a program whose call was begun, when it was begun and has ended, and its answers."""
    at = 0
    for step in program:
        invoked, returned, count = tape[at : at + 3]
        if not invoked:
            return
        rows = [tuple(tape[at + 3 + 4 * i : at + 7 + 4 * i]) for i in range(count)] if returned else []
        at += 3 + 4 * count
        yield step, {"invoked": invoked, "returned": returned or FOREVER}, rows
        if not returned:
            return


def read_tape(plan: Plan, program: list[Step], tape: Any) -> list[Operation]:
    """The operations that a client has recorded."""
    operations: list[Operation] = []
    for step, times, rows in calls_of(program, tape):
        if step.kind == "snapshot":
            held = tuple(sorted((user, packet, int(state == State.SETTLED)) for user, state, packet, _ in rows))
            right = all(amount == plan.amounts[packet] for _, _, packet, amount in rows)
            operations.append(Operation("snapshot", rows=held if right else ((-1, -1, -1),), **times))
        elif step.kind == "close":
            operations.append(Operation("close", **times))
            operations += [Operation("refund", amount=row[3], **times) for row in rows]
        elif times["returned"] != FOREVER:
            kind = "claim" if step.kind == "claim_many" else step.kind
            operations += [Operation(kind, step.users[row[0]], row[1], row[2], amount=row[3], **times) for row in rows]
        elif step.kind == "claim_many":
            for user in step.users:  # each may have been granted once, and again after each release
                operations += [Operation("claim", user, **times)] * min(step.repeats, 1 + plan.releases(user))
        else:
            operations.append(Operation(step.kind, step.users[0], **times))
    return operations
