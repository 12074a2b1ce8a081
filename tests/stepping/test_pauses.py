"""Stopped at any instruction, literally: others go on meanwhile, and then the process that stood goes on as well.

A process is stepped to each machine instruction of the account in turn, at work on one hold. While it stands there,
this process settles, releases, refunds and takes money; then the other ends what it was doing. Whatever it has read
before the pause is out of date by then, and nothing may come of that: no error, no fen more and none less.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from marks import full_but
from stepping import Work, can_trace, die, instructions_of, pause, swaps_of

import hbcore
from hbcore import State, Status

pytestmark = pytest.mark.skipif(not can_trace(), reason="ptrace is not allowed here")

TOTAL = 100_000
POINTS = int(os.environ.get("HBCORE_PAUSES", "50"))
"""Where one case pauses, at most: spread evenly over the 500 to 3,000 instructions that it takes."""
DEATH_POINTS = POINTS // 2


def prepare(path: Path) -> None:
    """Make a budget, and of envelopes and sub-budgets a closed one and an open one each, with claims and holds."""
    with hbcore.Engine(path, capacity=1 << 20) as engine:
        budget = engine.budget("b", TOTAL)
        budget.reserve("held", 500)
        for name, is_closed in (("closed", True), ("open", False)):
            envelope = budget.envelope(f"{name} envelope", 1000, 10, "equal")
            envelope.claim_many(range(4))
            below = budget.budget(f"{name} budget", 2000)
            for i in range(4):
                below.reserve(i, 100)
            if is_closed:
                envelope.close()
                below.close()


def everything(engine: hbcore.Engine) -> None:
    """Change the money of every level more than once, and every hold that the others are at work on."""
    budget = engine.budget("b")
    for i in (0, 1):
        budget.envelope("closed envelope").release(i)
        budget.budget("closed budget").release(i)
        budget.reserve(f"meanwhile {i}", 1)


def same(engine: hbcore.Engine) -> None:
    """Do what each case does, and more after it."""
    budget = engine.budget("b")
    for operation in OPERATIONS.values():
        with contextlib.suppress(hbcore.ConflictError):
            operation(engine)()
    budget.reserve("after", 1)
    budget.settle("after")


OPERATIONS: dict[str, Work] = {
    "reserve": lambda engine: lambda: engine.budget("b").reserve("new", 700),
    "settle in part": lambda engine: lambda: engine.budget("b").settle("held", 200),
    "release of a claim of a closed envelope": lambda engine: (
        lambda: engine.budget("b").envelope("closed envelope").release(2)
    ),
    "release of a hold of a closed budget": lambda engine: (
        lambda: engine.budget("b").budget("closed budget").release(2)
    ),
    "close of an envelope": lambda engine: engine.budget("b").envelope("open envelope").close,
    "close of a budget": lambda engine: engine.budget("b").budget("open budget").close,
    "making a budget": lambda engine: lambda: engine.budget("b").budget("made", 300),
    "top up": lambda engine: lambda: engine.budget("b").budget("open budget").top_up("more", 300),
}
"""Each ends the same whether it is asked once or more often, and by whomever."""


def check(engine: hbcore.Engine, is_done: bool) -> None:
    """The money is all there, and of everything that was asked for there is one of each."""
    engine.audit()
    budget = engine.budget("b")
    # What the next refund adds depends on what the last one has left.
    assert budget.envelope("closed envelope").release(3) is not None
    assert budget.budget("closed budget").release(3) is not None
    report = engine.audit()
    total, available, held, settled = budget.stats()
    assert total == report.amount_budgeted == TOTAL
    assert available + held + settled == TOTAL
    assert budget.find("held").state in ((State.SETTLED,) if is_done else (State.SETTLED, State.GRANTED))
    for name in ("closed", "open"):
        envelope = budget.envelope(f"{name} envelope")
        amounts = envelope.stats().amounts
        if budget.find("made") or name == "closed":
            assert envelope.close() == 1000 - amounts.granted - amounts.settled
    # What each child still has is held, and nothing else is.
    holds = budget.holds()
    open_holds = int(holds["amount"][holds["state"] == State.GRANTED].sum())
    below = {child.name: child.stats() for child in engine.budgets() if child.parent}
    envelopes = 0
    for envelope in engine.envelopes():
        refund = 0 if envelope.claim("nobody") else envelope.close()
        envelopes += envelope.terms.total - refund
    in_budgets = sum(stats.available + stats.held for stats in below.values())
    assert budget.stats().held == open_holds + envelopes + in_budgets
    assert budget.reserve("the rest", budget.stats().available).status is Status.GRANTED
    assert budget.reserve("a fen more", 1).status is Status.INSUFFICIENT
    engine.audit()


@pytest.mark.full
@pytest.mark.parametrize("name", full_but(OPERATIONS, "reserve"))
@pytest.mark.parametrize("meanwhile", [everything, same], ids=["others", "the same"])
def test_a_pause_at_any_instruction_changes_nothing(
    tmp_path: Path, name: str, meanwhile: Callable[[hbcore.Engine], None]
) -> None:
    fresh, path = tmp_path / "fresh.hb", tmp_path / "b.hb"
    prepare(fresh)
    shutil.copyfile(fresh, path)
    instructions = instructions_of(path, OPERATIONS[name], "account")
    assert len(instructions) > 100
    points = instructions[:: max(1, len(instructions) // POINTS)]
    print(f"{name}: {len(instructions)} instructions in the account, {len(points)} pauses")
    for point in points:
        shutil.copyfile(fresh, path)

        def others() -> None:
            with hbcore.Engine(path) as engine:
                meanwhile(engine)

        pause(path, OPERATIONS[name], point, others)
        with hbcore.Engine(path) as engine:
            check(engine, is_done=meanwhile is same or name == "settle in part")


@pytest.mark.full
def test_an_audit_that_is_paused_finds_nothing_wrong_with_a_top_up(tmp_path: Path) -> None:
    """The chain of tranches grows between two looks at its end, and the audit has looked once."""
    fresh, path = tmp_path / "fresh.hb", tmp_path / "b.hb"
    with hbcore.Engine(fresh, capacity=1 << 20) as engine:
        engine.budget("b", TOTAL).envelope("e", 1000, 10, max_packets=30).top_up("first", 100, 10)
    shutil.copyfile(fresh, path)
    points = instructions_of(path, lambda engine: engine.audit, "tranche")
    assert len(points) > 20
    for point in points[len(points) // 2 :: 4]:  # the envelope itself was looked at before
        shutil.copyfile(fresh, path)

        def top_up() -> None:
            with hbcore.Engine(path) as engine:
                assert engine.budget("b").envelope("e").top_up("second", 100, 10)

        pause(path, lambda engine: engine.audit, point, top_up)


def release_of(what: str, user: int) -> Work:
    """Give back a claim of the closed envelope or a hold of the closed budget: both are refunds of budget b."""

    def work(engine: hbcore.Engine) -> Callable[[], object]:
        budget = engine.budget("b")
        child = budget.envelope(what) if "envelope" in what else budget.budget(what)
        return lambda: child.release(user)

    return work


@pytest.mark.full
@pytest.mark.parametrize("what", ["closed envelope", "closed budget"])
def test_a_pause_while_somebody_dies_who_has_helped(tmp_path: Path, what: str) -> None:
    """The process that stands still finds its own refund half done by another, which has died in the middle of it."""
    fresh, path = tmp_path / "fresh.hb", tmp_path / "b.hb"
    prepare(fresh)
    shutil.copyfile(fresh, path)
    instructions = instructions_of(path, release_of(what, 2), "account")
    swaps = swaps_of("account")
    count = 0
    for point in instructions[:: max(1, len(instructions) // DEATH_POINTS)]:
        is_dead = True
        deaths = 0
        while is_dead:
            shutil.copyfile(fresh, path)
            deaths += 1

            def other_dies(deaths: int = deaths) -> None:
                nonlocal is_dead
                is_dead = die(path, release_of(what, 1), swaps, deaths)

            pause(path, release_of(what, 2), point, other_dies)
            with hbcore.Engine(path) as engine:
                check(engine, is_done=False)
        count += deaths - 1
    print(f"release in a {what}: {count} deaths during pauses")
    assert count > DEATH_POINTS


@pytest.mark.full
def test_a_granted_hold_is_answered_as_it_was_granted(tmp_path: Path) -> None:
    """That holds too if it was released before the answer was put together: GRANTED and RELEASED is no answer."""
    fresh, path = tmp_path / "fresh.hb", tmp_path / "b.hb"
    prepare(fresh)
    granted = hbcore.Hold(Status.GRANTED, 700, 0, State.GRANTED)

    def reserve(engine: hbcore.Engine) -> Callable[[], None]:
        budget = engine.budget("b")

        def work() -> None:
            hold = budget.reserve("new", 700)
            assert hold == granted, hold

        return work

    shutil.copyfile(fresh, path)
    released = 0
    for point in instructions_of(path, reserve, "account")[::4]:
        shutil.copyfile(fresh, path)

        def release() -> None:
            nonlocal released
            with hbcore.Engine(path) as engine:
                released += engine.budget("b").release("new") is not None

        pause(path, reserve, point, release)
    assert released > 0, "no pause was after the grant"


@pytest.mark.full
def test_the_time_of_a_batch_whose_thread_stands_still_begins_for_others(tmp_path: Path) -> None:
    """What was published lapses, though the thread has stopped before it could make its group GRANTED."""
    fresh, path = tmp_path / "fresh.hb", tmp_path / "e.hb"
    with hbcore.Engine(fresh, capacity=1 << 20) as engine:
        engine.envelope("e", 600, 6, "equal", hold_seconds=0.001)
    shutil.copyfile(fresh, path)

    def work(engine: hbcore.Engine) -> Callable[[], object]:
        envelope = engine.envelope("e")
        envelope.claim("first")  # the thread knows its place from here on
        return lambda: envelope.claim_many(range(4))

    instructions = instructions_of(path, work, "group")
    assert len(instructions) > 100
    points = instructions[:: max(1, len(instructions) // POINTS)]
    held = set()
    for point in points:
        shutil.copyfile(fresh, path)

        def others() -> None:
            with hbcore.Engine(path) as engine:
                envelope = engine.envelope("e")
                for late in range(6):
                    if not any(envelope.claim(f"late {late}") for _ in range(100_000)):
                        break
                    envelope.settle(f"late {late}")
                held.add(6 - envelope.stats().settled)

        pause(path, work, point, others)
        with hbcore.Engine(path) as engine:
            engine.audit()
    # One at most: the slot that the thread had in hand, and not published yet.
    assert held == {0, 1}
