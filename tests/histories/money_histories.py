"""Recorded histories of real threads and processes on two budgets, each checked for linearizability.

    python tests/histories/money_histories.py [--histories 10000] [--seed 1] [--kills 0.2] [--first 0]

They are recorded, and clients are killed, as in ``histories.py``: two to four clients reserve, settle, release, find,
top up and close in a small budget and in a sub-budget of it. Then a survivor looks at what every key has, lets a sweep
end what the dead have left half-way, compares the statistics of both budgets, and reserves what is available to the
last unit.

``money_linearizability.py`` says when a history is right. Exits 1 if one is found that no order of its calls explains,
and prints it.
"""

import sys
from itertools import chain
from random import Random
from typing import Any, NamedTuple

import numpy as np
from histories import Broken, World, arguments, run
from history_plans import draw_moments, draw_victims
from history_tapes import calls_of, note_rows, note_sum
from linearizability import FINAL, NOTHING
from money_linearizability import ANY_STATE, CHILD, CONFLICT, PARENT, Checker, History, Operation

import hbcore
from hbcore import Status

KEY_LIMIT = 4
CLOSES = 0.25  # share of histories in which somebody closes a budget
MIXES = (
    {"reserve": 4, "settle": 2, "release": 3, "find": 1, "top_up": 1},
    {"reserve": 3, "release": 2, "top_up": 4, "find": 1},
    {"reserve": 2, "settle": 2, "release": 2, "reserve_many": 4},
    {"reserve": 5, "release": 5},
)
THREADS_MIX = {"release": 2, "settle": 1, "reserve_many": 5}  # threads of one process overlap only without the GIL
ALL_OF_IT = -1


class Step(NamedTuple):
    """One step of a program; of ``settle``, ``amount`` -1 means all of it."""

    kind: str
    budget: int = PARENT
    keys: tuple[int, ...] = ()
    amount: int = 0
    amounts: tuple[int, ...] = ()  # of ``reserve_many``, for each key
    repeats: int = 1


class Plan(NamedTuple):
    """One history, before it happens; see ``histories.Plan``."""

    totals: tuple[int, int]
    keys: int
    programs: list[list[list[Step]]]
    finals: list[Step]
    killed: tuple[int, ...]
    stopped: tuple[int, ...]
    is_waiting: bool
    after_ns: int
    delays_ns: list[int]


def top_up_amount(budget: int, key: int) -> int:
    return 1 + 2 * key + budget


def random_step(random: Random, mix: dict[str, int], amounts: list[int], repeats: tuple[int, ...]) -> Step:
    (kind,) = random.choices(list(mix), list(mix.values()))
    budget, key = random.choice((PARENT, CHILD)), random.randrange(len(amounts))
    if kind == "reserve_many":
        keys = tuple(random.sample(range(len(amounts)), random.randint(1, len(amounts))))
        more = random.random() < 0.05
        return Step(kind, budget, keys, 0, tuple(amounts[key] + more for key in keys), random.choice(repeats))
    amount = 0
    if kind == "reserve":
        amount = amounts[key] + (random.random() < 0.05)
    elif kind == "settle":
        amount = random.choice((0, amounts[key] // 2, ALL_OF_IT))
    elif kind == "top_up":
        amount = top_up_amount(budget, key)
    return Step(kind, budget, (key,), amount)


def plan_history(seed: int, number: int, topology: tuple[int, ...], kills: float) -> Plan:
    """Draw a history; the programs are the same for the same arguments, in whichever process."""
    random = Random(f"money {seed}/{number}")
    keys = random.randint(1, KEY_LIMIT)
    amounts = [random.randint(1, 9) for _ in range(keys)]
    child = random.randint(1, 12)
    killed, stopped = draw_victims(random, topology, kills)
    mix = random.choice(MIXES) if len(topology) > 1 else THREADS_MIX
    repeats = (1, 2, 40) if len(topology) > 1 else (500, 5000)
    programs = [
        [
            [random_step(random, mix, amounts, repeats) for _ in range(random.randint(2, 8))]
            for _ in range(2 if killed else 1)
        ]
        for threads in topology
        for _ in range(threads)
    ]
    if random.random() < CLOSES:
        program = random.choice(random.choice(programs))
        program.insert(random.randint(0, len(program)), Step("close", random.choice((PARENT, CHILD, CHILD))))
    finals = [Step("find", budget, (key,)) for budget in (PARENT, CHILD) for key in range(keys)]
    random.shuffle(finals)
    finals += [Step("sweep"), Step("stats", PARENT), Step("stats", CHILD)]
    if random.random() < 0.5:
        finals += [Step("close", CHILD), Step("stats", PARENT), Step("stats", CHILD)]
    finals += [*(Step("rest", budget, (keys,)) for budget in (PARENT, CHILD)), Step("stats", PARENT)]
    return Plan(
        totals=(child + random.randint(1, 20), child),
        keys=keys + 1,
        programs=programs,
        finals=finals,
        **draw_moments(random, killed, stopped, len(programs), latest_ns=80_000),
    )


# ---- recording --------------------------------------------------------------------------------------------------


def note_hold(tape: Any, at: int, answer: Any) -> int:
    """A Hold, None, or FINAL."""
    if answer is None or answer == FINAL:
        return note_rows(tape, at, [(NOTHING if answer is None else FINAL, 0, 0, 0)])
    return note_rows(tape, at, [(answer.status, answer.state or 0, answer.amount, answer.settled)])


def note_batch(tape: Any, at: int, answer: tuple[int, np.ndarray]) -> int:
    """Note of several equal answers in a row to one key, other than GRANTED, only the first: they change nothing."""
    repeats, rows = answer
    told = []
    for i, row in enumerate(zip(rows["status"].tolist(), rows["amount"].tolist(), strict=True)):
        if i % repeats == 0 or row != told[-1][1:3] or row[0] == Status.GRANTED:
            told.append((i // repeats, *row, 0))
    return note_rows(tape, at, told)


def note_rest(tape: Any, at: int, answer: tuple[int, hbcore.Hold] | None) -> int:
    return note_rows(tape, at, [] if answer is None else [(answer[0], answer[1].status, answer[1].amount, 0)])


def reserve_rest(budget: hbcore.Budget, name: str) -> tuple[int, hbcore.Hold] | None:
    """Reserve what is available to the last unit."""
    wanted = budget.stats().available
    return (wanted, budget.reserve(name, wanted)) if wanted else None


def bind(engine: hbcore.Engine, number: int, program: list[Step]) -> list:
    """The calls of a program, each with its arguments and what writes down its answer."""
    parent = engine.budget(f"parent {number}")
    budgets = (parent, parent.budget("child"))
    calls: list = []
    for step in program:
        budget = budgets[step.budget]
        names = [f"key {key}" for key in step.keys]
        if step.kind in ("reserve", "top_up"):
            calls.append((getattr(budget, step.kind), (names[0], step.amount), note_hold))
        elif step.kind == "settle":
            calls.append((budget.settle, (names[0], None if step.amount < 0 else step.amount), note_hold))
        elif step.kind in ("find", "release"):
            calls.append((getattr(budget, step.kind), (names[0],), note_hold))
        elif step.kind == "reserve_many":
            batch = [name for name in names for _ in range(step.repeats)]
            wanted = np.repeat(step.amounts, step.repeats)
            calls.append(
                (
                    lambda b, keys, step=step, wanted=wanted: (step.repeats, b.reserve_many(keys, wanted)),
                    (budget, batch),
                    note_batch,
                )
            )
        elif step.kind == "stats":
            calls.append((budget.stats, (), lambda tape, at, stats: note_rows(tape, at, [stats])))
        elif step.kind == "rest":
            calls.append((reserve_rest, (budget, names[0]), note_rest))
        else:
            calls.append((engine.sweep if step.kind == "sweep" else budget.close, (), note_sum))
    return calls


def operations_of(step: Step, rows: list[tuple[int, ...]], times: dict[str, int]) -> list[Operation]:
    """What a call does, one after another. ``rows``: its answers; none if it is pending."""
    budget, key = step.budget, step.keys[0] if step.keys else 0
    if step.kind == "reserve_many":
        answered = [
            Operation("reserve", budget, step.keys[i], status, ANY_STATE, amount, 0, step.amounts[i], **times)
            for i, status, amount, _ in rows
        ]
        return answered or [
            Operation("reserve", budget, key, wanted=amount, **times)
            for key, amount in zip(step.keys, step.amounts, strict=True)
        ]
    if step.kind == "rest":
        return [Operation("reserve", budget, key, row[1], ANY_STATE, row[2], 0, row[0], **times) for row in rows]
    if step.kind in ("sweep", "stats"):
        return [Operation(step.kind, budget, rows=rows[0], **times)]
    outcome, state, amount, spent = rows[0] if rows else (NOTHING, 0, 0, 0)
    back = [Operation(kind, CHILD, **times) for kind in ("see", "refund")] if budget == CHILD else []
    if step.kind == "close":
        return [Operation("close", budget, **times), *back, Operation("sum", budget, amount=spent, **times)]
    if step.kind == "reserve" and outcome == FINAL:
        outcome = CONFLICT
    kinds = [step.kind]
    if step.kind == "top_up":
        kinds = ["fund", "add"] if budget == CHILD else ["add"]
    told = [Operation(kind, budget, key, outcome, state, amount, spent, step.amount, **times) for kind in kinds]
    return told + (back if step.kind in ("top_up", "settle", "release") else [])


def read_tape(program: list[Step], tape: Any) -> list[Operation]:
    """The operations that a client has recorded."""
    return list(chain.from_iterable(operations_of(step, rows, times) for step, times, rows in calls_of(program, tape)))


class MoneyWorld(World):
    """One engine, and the processes whose clients make histories on its budgets."""

    def plan(self, number: int) -> Plan:
        return plan_history(self.options.seed, number, self.topology, self.options.kills)

    def make(self, number: int, plan: Plan) -> None:
        self.engine.budget(f"parent {number}", plan.totals[PARENT]).budget("child", plan.totals[CHILD])

    def bind(self, engine: hbcore.Engine, number: int, plan: Plan, programs: list[list[Step]]) -> list[list]:
        return [bind(engine, number, program) for program in programs]

    def read(self, plan: Plan, program: list[Step], tape: Any) -> list[Operation]:
        return read_tape(program, tape)

    def history(self, plan: Plan, clients: list[list[Operation]], died: dict[int, int]) -> History:
        self.held += sum(call.kind == "reserve" and call.outcome == Status.GRANTED for call in clients[-1])
        return History(plan.totals, plan.keys, clients, died)

    def check_audit(self, report: hbcore.AuditReport) -> None:
        if report.holds < self.held:
            raise Broken(f"the audit counts {report.holds} holds, the ends of the histories alone {self.held}")


def main() -> int:
    """Make and check the histories of the command line."""
    return run(arguments(__doc__ or ""), MoneyWorld, Checker, lambda plan: f"two budgets of {plan.totals}")


if __name__ == "__main__":
    sys.exit(main())
