"""Budgets by name: get or create, scopes, handles, and what is left of them when their engine is closed or pickled."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hbcore
from hbcore import Status

SEED = bytes(range(32))


# ---- getting and making ---------------------------------------------------------------------------------------------


def test_get_or_create_is_idempotent(impl: ModuleType) -> None:
    engine = impl.Engine()
    budget = engine.budget("gala", total=300)
    budget.reserve("k", 5)
    for same in (engine.budget("gala", 300), engine.budget("gala"), engine.budget(name="gala", total=None)):
        assert same == budget
        assert hash(same) == hash(budget)
        assert (same.name, same.total, same.parent) == ("gala", 300, None)
        assert same.find("k").amount == 5
    assert isinstance(budget, impl.Budget)
    assert engine.budgets() == [budget]
    before = budget.stats(), engine.audit()
    with pytest.raises(hbcore.ConflictError, match=r"^budget 'gala' exists with total = 300, not 301$"):
        engine.budget("gala", 301)
    assert (budget.stats(), engine.audit()) == before


def test_what_is_not_there_is_not_found_and_not_made(impl: ModuleType) -> None:
    engine = impl.Engine()
    engine.envelope("春", 10, 1)
    for _ in range(2):
        with pytest.raises(hbcore.NotFoundError, match=r"^there is no budget '春'; give total to create it$"):
            engine.budget("春")
    assert engine.budgets() == []


def test_existing_children_are_compared_and_cost_nothing(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 30)
    app, envelope = gala.budget("app", 10), gala.envelope("e", 20, 2)
    assert gala.stats().available == 0
    assert gala.budget("app", 10) == app
    assert gala.envelope("e", 20, 2) == envelope
    for call, words in (
        (lambda: gala.budget("app", 20), "budget 'app' exists with total = 10, not 20"),
        (lambda: gala.envelope("e", 21, 2), "envelope 'e' exists with total = 20, not 21"),
        (lambda: gala.envelope("e", 20, 2, per_user=2), "envelope 'e' exists with per_user = 1, not 2"),
        (lambda: gala.envelope("e", 20, 2, hold_seconds=1.5), "envelope 'e' exists with hold_ms = 0, not 1500"),
    ):
        with pytest.raises(hbcore.ConflictError) as caught:
            call()
        assert str(caught.value) == words
    engine.audit()


def test_names_are_scoped_by_parent_and_kind(impl: ModuleType) -> None:
    engine = impl.Engine()
    one, two = engine.budget("1", 100), engine.budget("2", 100)
    made = [engine.budget("20:00", 1), one.budget("20:00", 2), two.budget("20:00", 3)]
    made.append(made[1].budget("20:00", 2))
    envelopes = [engine.envelope("20:00", 5, 1), one.envelope("20:00", 6, 1), two.envelope("20:00", 7, 1)]
    assert [budget.total for budget in made] == [1, 2, 3, 2]
    assert len({*made, *envelopes, one, two}) == 9
    assert [engine.budget("20:00"), one.budget("20:00"), two.budget("20:00")] == made[:3]
    assert [engine.envelope("20:00"), one.envelope("20:00"), two.envelope("20:00")] == envelopes
    assert [budget.parent for budget in made] == [None, one, two, made[1]]
    assert [envelope.budget for envelope in envelopes] == [None, one, two]
    assert engine.budgets() == [one, two, *made]
    assert engine.envelopes() == envelopes
    assert envelopes[1].claim("u").status is Status.GRANTED
    assert envelopes[2].find("u") is None
    made[2].reserve("k", 3)
    assert made[0].find("k") is made[1].find("k") is None
    engine.audit()


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)))
def test_every_name_is_a_budget_of_its_own(impl: ModuleType, names: list[str]) -> None:
    names = [name for name in names if len(name.encode()) <= 255]
    engine = impl.Engine(capacity=1 << 30)
    totals: dict[str, int] = {}
    for total, name in enumerate(names, 1):
        totals.setdefault(name, total)
        engine.budget(name, totals[name])
    assert [(budget.name, budget.total) for budget in engine.budgets()] == list(totals.items())
    assert engine.audit().amount_budgeted == sum(totals.values())


def test_handles_are_equal_if_they_speak_of_the_same_budget(impl: ModuleType) -> None:
    one, other = impl.Engine(), impl.Engine()
    budget = one.budget("b", 10)
    assert {budget: "found"}[one.budget("b")] == "found"
    assert budget != one.budget("c", 10)
    assert budget != other.budget("b", 10)
    assert budget != one.envelope("b", 10, 1)
    assert budget != "b"
    assert "'b'" in repr(budget)
    assert repr(budget).endswith("engine in memory>")


CALLS: dict[str, Callable[[Any, Any], object]] = {
    "budget": lambda engine, budget: engine.budget("b"),
    "budget made": lambda engine, budget: engine.budget("new", 5),
    "budgets": lambda engine, budget: engine.budgets(),
    "sweep": lambda engine, budget: engine.sweep(),
    "sub-budget": lambda engine, budget: budget.budget("sub", 1),
    "envelope": lambda engine, budget: budget.envelope("e", 1, 1),
    "reserve": lambda engine, budget: budget.reserve("k", 1),
    "reserve_many": lambda engine, budget: budget.reserve_many(["k"], 1),
    "reserve_many of nothing": lambda engine, budget: budget.reserve_many([], 1),
    "settle": lambda engine, budget: budget.settle("k"),
    "release": lambda engine, budget: budget.release("k"),
    "find": lambda engine, budget: budget.find("k"),
    "holds": lambda engine, budget: budget.holds(),
    "stats": lambda engine, budget: budget.stats(),
    "close": lambda engine, budget: budget.close(),
    "top_up": lambda engine, budget: budget.top_up("t", 1),
    "total": lambda engine, budget: budget.total,
    "closed": lambda engine, budget: budget.closed,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_closed_engine_refuses_everything(impl: ModuleType, call: Callable[[Any, Any], object]) -> None:
    engine = impl.Engine()
    budget = engine.budget("b", 1000)
    budget.reserve("k", 1)
    call(engine, budget)
    engine.close()
    with pytest.raises(hbcore.EngineClosedError, match=r"^the engine is closed; open it anew"):
        call(engine, budget)
    assert (budget.name, budget.parent) == ("b", None)
    assert "'b'" in repr(budget)


def test_what_lives_in_memory_cannot_be_pickled(impl: ModuleType) -> None:
    budget = impl.Engine().budget("b", 10)
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"^budget 'b' lives in a memory engine, .* use a file"):
            duplicate(budget)


def test_a_budget_of_a_file_is_pickled_with_its_place_in_the_tree(tmp_path: Path) -> None:
    with hbcore.Engine(tmp_path / "gala.hb") as engine:
        gala = engine.budget("gala", 100)
        app = gala.budget("app", 10)
        envelope = app.envelope("e", 5, 5)
        envelope.claim("u")
        app.reserve("k", 3)
        things = [gala, app, envelope]
        assert pickle.loads(pickle.dumps(things)) == things
        data = pickle.dumps(things)
    gala, app, envelope = pickle.loads(data)
    assert (gala.name, app.name, app.parent, envelope.budget) == ("gala", "app", gala, app)
    assert app.find("k").amount == 3
    assert envelope.find("u").packet >= 0
