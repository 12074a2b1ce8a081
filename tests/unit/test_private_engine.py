"""``Engine(shared=False)``: the answers of any engine, in memory of this process alone, and none in a forked child."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Child

import hbcore

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
NEW_PID = 0x20000000  # CLONE_NEWPID
REFUSED = "this engine is not shared (shared=False): a forked child has a copy of its own"


def answers(engine: hbcore.Engine) -> list[Any]:
    """What a small evening comes to."""
    budget = engine.budget("gala", 10**9)
    envelope = budget.envelope("20:00", total=10**6, packets=3000, seed=SEED, max_packets=4000)
    lapsing = engine.envelope("lapsing", total=10**6, packets=300, seed=SEED, hold_seconds=3600)
    seen: list[Any] = [envelope.claim_many(np.arange(5000)).tolist(), lapsing.claim_many(np.arange(400)).tolist()]
    envelope.top_up("more", 10**5, 1000, seed=SEED)
    seen += [envelope.claim(f"user-{i}") for i in range(300)]
    seen += [envelope.release(i) for i in range(0, 1000, 7)] + [envelope.settle(i) for i in range(0, 1000, 5)]
    seen.append(budget.reserve_many(np.arange(20_000), np.arange(1, 20_001)).tolist())
    seen += [budget.release(i) for i in range(0, 20_000, 13)]
    seen += [sorted(envelope.claims()["packet"].tolist()), len(budget.holds()), envelope.stats(), budget.stats()]
    seen += [engine.create_many([f"n{i}" for i in range(2000)], 1000, 10, seeds=[SEED] * 2000).tolist()]
    seen += [engine.envelope(f"n{i}").claim(1).amount for i in range(0, 2000, 50)]
    seen += [envelope.close(), engine.audit()]
    return seen


def test_it_gives_the_answers_of_a_shared_engine() -> None:
    with hbcore.Engine(key=KEY) as shared, hbcore.Engine(key=KEY, shared=False) as private:
        assert answers(private) == answers(shared)


def calls(engine: hbcore.Engine) -> list[Callable[[], object]]:
    budget = engine.budget("gala", 1000)
    envelope = budget.envelope("20:00", 100, 10)
    envelope.claim("ann")
    budget.reserve("order", 5)
    return [
        lambda: envelope.claim("ben"),
        lambda: envelope.claim_many([1, 2]),
        lambda: envelope.find("ann"),
        lambda: envelope.settle("ann"),
        lambda: envelope.release("ann"),
        lambda: envelope.top_up("more", 10, 1),
        lambda: envelope.close(),
        lambda: envelope.stats(),
        lambda: envelope.claims(),
        lambda: budget.reserve("other", 1),
        lambda: budget.reserve_many([1, 2], 1),
        lambda: budget.find("order"),
        lambda: budget.settle("order"),
        lambda: budget.release("order"),
        lambda: budget.top_up("more", 1),
        lambda: budget.budget("below", 10),
        lambda: budget.envelope("another", 10, 1),
        lambda: budget.stats(),
        lambda: budget.holds(),
        lambda: budget.close(),
        lambda: engine.envelope("a third", 10, 1),
        lambda: engine.budget("a root", 10),
        lambda: engine.create_many(["a", "b"], 10, 1),
        lambda: engine.envelopes(),
        lambda: engine.audit(),
        lambda: engine.sweep(),
        lambda: engine.info(),
        lambda: engine.user_hash("ann"),
    ]


def test_a_forked_child_is_refused_every_call() -> None:
    with hbcore.Engine(shared=False) as engine:
        every = calls(engine)

        def work(say: Callable[[Any], None]) -> None:
            for call in every:
                try:
                    say(repr(call()))
                except hbcore.HbcoreError as error:
                    say(str(error))

        said = Child(work).end()
        assert len(said) == len(every)
        assert [what[: len(REFUSED)] for what in said] == [REFUSED] * len(every)
        assert engine.envelopes() == [engine.budget("gala").envelope("20:00")]
        engine.audit()


def test_a_child_of_the_same_number_is_refused_as_well() -> None:
    """In a pid namespace of its own a child has the number 1, and its parent may have it too."""

    def work(say: Callable[[Any], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(NEW_PID) != 0:
            say("not allowed")
            return

        def first(say: Callable[[Any], None]) -> None:
            engine = hbcore.Engine(shared=False)
            envelope = engine.envelope("20:00", 100, 10)
            assert envelope.claim("ann")
            libc.unshare(NEW_PID)

            def second(say: Callable[[Any], None]) -> None:
                try:
                    envelope.claim("ben")
                except hbcore.HbcoreError as error:
                    say([os.getpid(), str(error)])

            say([os.getpid(), *Child(second).end()])

        say(*Child(first).end())

    (said,) = Child(work).end()
    if said == "not allowed":
        pytest.skip("this user may make no pid namespace")
    parent, (child, words) = said
    assert parent == child == 1
    assert words.startswith(REFUSED)


def test_a_child_may_make_one_of_its_own() -> None:
    with hbcore.Engine(shared=False) as engine:
        engine.envelope("20:00", 100, 10)
        said = Child(lambda say: say(hbcore.Engine(shared=False).envelope("20:00", 50, 5).claim("ann").status.name))
        assert said.end() == ["GRANTED"]
        assert engine.envelope("20:00").claim("ann").status is hbcore.Status.GRANTED


def test_a_file_is_always_shared(path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^shared=False needs path=None: what is in a file can be opened by any process$"
    ):
        hbcore.Engine(path, shared=False)
    assert not path.exists()
