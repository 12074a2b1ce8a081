"""``create_many``: many envelopes at once, each as if it were made alone, of the engine or of a budget."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hbcore
from hbcore import Status

SEED = bytes(range(32))
NAMES = [f"{number:02d}:00" for number in range(8)] + ["元宵红包雨", "🧧"]
FOREVER = 300 * 24 * 3600

names = st.lists(st.sampled_from(NAMES), max_size=12)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of a batch that can be made; names, totals and packets in any of their forms."""
    chosen = draw(names)
    count = len(chosen)
    low = draw(st.integers(1, 3))
    packets = draw(st.lists(st.integers(1, 4), min_size=count, max_size=count) | st.integers(1, 4))
    most = max(packets, default=1) if isinstance(packets, list) else packets
    totals = draw(st.lists(st.sampled_from([20, 30]), min_size=count, max_size=count) | st.sampled_from([20, 30]))
    forms = st.sampled_from([list, tuple, np.array])
    common = {
        "law": draw(st.sampled_from(["equal", "double_mean", "dirichlet"])),
        "min": low,
        "max": draw(st.none() | st.integers(30, 60)),
        "concentration": draw(st.integers(1, 2)),
        "expires_at": draw(st.none() | st.just(4_000_000_000)),
        "per_user": draw(st.integers(1, 2)),
        "hold_seconds": draw(st.none() | st.just(FOREVER)),
        "max_packets": draw(st.none() | st.integers(most, most + 2)),
    }
    assert most * low <= 20
    return {
        "names": draw(forms)(chosen) if chosen else [],
        "totals": draw(forms)(totals) if isinstance(totals, list) and count else totals,
        "packets": draw(forms)(packets) if isinstance(packets, list) and count else packets,
        "seeds": draw(st.none() | st.just([bytes([number]) * 32 for number in range(count)])),
        **common,
    }


def alone(maker: Any, batch: dict[str, Any]) -> list[Status]:
    """What the same envelopes get that are made one by one."""
    common = dict(batch)
    count = len(common["names"])
    chosen, totals, packets, seeds = (common.pop(name) for name in ("names", "totals", "packets", "seeds"))
    statuses = []
    for i, name in enumerate(map(str, chosen)):
        terms = {
            "total": totals if isinstance(totals, int) else int(totals[i]),
            "packets": packets if isinstance(packets, int) else int(packets[i]),
            "seed": None if seeds is None else seeds[i],
            **common,
        }
        try:
            maker.envelope(name)
            answer = Status.REPEATED
        except hbcore.NotFoundError:
            answer = Status.GRANTED
        try:
            maker.envelope(name, **terms)
        except hbcore.ConflictError:
            answer = Status.CONFLICT
        except hbcore.InsufficientBudgetError as error:
            answer = Status.CLOSED if "closed" in str(error) else Status.INSUFFICIENT
        statuses.append(answer)
    assert len(statuses) == count
    return statuses


def everything(engine: Any) -> list[object]:
    return [
        (envelope.name, envelope.budget and envelope.budget.name, envelope.terms._replace(seed=None), envelope.stats())
        for envelope in engine.envelopes()
    ]


@given(several=st.lists(batches(), min_size=1, max_size=3), total=st.none() | st.integers(1, 300), close=st.booleans())
def test_a_batch_is_as_good_as_one_by_one(
    impl: ModuleType, several: list[dict[str, Any]], total: int | None, close: bool
) -> None:
    engines = impl.Engine(), impl.Engine()
    makers = engines if total is None else [engine.budget("gala", total) for engine in engines]
    for batch in several:
        statuses = makers[0].create_many(**batch)
        assert statuses.dtype == np.uint8
        assert statuses.tolist() == alone(makers[1], batch)
        assert everything(engines[0]) == everything(engines[1])
        again = makers[0].create_many(**batch)
        remade = {Status.GRANTED: Status.REPEATED}
        assert again.tolist() == [remade.get(Status(status), Status(status)) for status in statuses]
        if total is not None:
            assert makers[0].stats() == makers[1].stats()
            if close:
                assert makers[0].close() == makers[1].close()
    assert engines[0].audit() == engines[1].audit()


@given(batch=batches(), bad=st.data())
def test_what_is_bad_is_named_with_its_index_and_nothing_is_made(
    impl: ModuleType, batch: dict[str, Any], bad: st.DataObject
) -> None:
    count = len(batch["names"])
    columns = {
        name: [batch[name]] * count if isinstance(batch[name], int) else list(batch[name])
        for name in ("names", "totals", "packets")
    }
    column, value, error = bad.draw(
        st.sampled_from([
            ("names", "", ValueError), ("names", "x" * 256, ValueError), ("names", "a\0b", ValueError),
            ("names", b"bytes", TypeError), ("names", "\ud800", ValueError), ("names", None, TypeError),
            ("totals", 0, ValueError), ("totals", 2**62, ValueError), ("totals", 1.0, TypeError),
            ("totals", True, TypeError), ("packets", 0, ValueError), ("packets", 2**40, ValueError),
            ("packets", 10**300, ValueError), ("packets", None, TypeError), ("packets", 61, ValueError),
        ])
    )  # fmt: skip
    place = bad.draw(st.integers(0, count))
    for name, default in (("names", "fine"), ("totals", 20), ("packets", 2)):
        columns[name].insert(place, value if name == column else default)
    seeds = None if batch["seeds"] is None else [*batch["seeds"], SEED]
    engine = impl.Engine()
    with pytest.raises(error, match=rf"(names|totals|packets)\[{place}\]"):
        engine.create_many(**(batch | columns | {"seeds": seeds}))
    assert engine.envelopes() == []


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"names": "abc"}, TypeError, "names must be a sequence of str, not str"),
        ({"names": 7}, TypeError, "names must be a sequence of str, not int"),
        ({"names": np.array([["a", "b"]])}, ValueError, "names must have one dimension, not 2"),
        ({"names": np.array([b"a", b"b"])}, TypeError, "names must be an array of str"),
        ({"names": np.ma.MaskedArray(["a", "b"], [0, 1])}, TypeError, "without a mask"),
        ({"seeds": np.ma.MaskedArray(np.zeros((2, 32), "u1"), True)}, TypeError, "without a mask"),
        ({"totals": [20]}, ValueError, "totals must be one integer, or one for each of the 2 names, not 1"),
        ({"totals": np.array([20, 2**63], np.uint64)}, ValueError, r"totals\[1\] must be within 1 .. \d+, not 9223"),
        ({"totals": np.array([20.0, 20.0])}, TypeError, "totals must be an array of integers, not of float64"),
        ({"packets": [1, 2, 3]}, ValueError, "packets must be one integer, or one for each of the 2 names, not 3"),
        ({"packets": 21}, ValueError, r"names\[0\], 'a': total must be at least packets \* min = 21, not 20"),
        ({"packets": [1, 21]}, ValueError, r"names\[1\], 'b': total must be at least packets \* min = 21, not 20"),
        ({"max": 9}, ValueError, r"names\[0\], 'a': total must be at most packets \* max = 18, not 20"),
        ({"law": "none"}, ValueError, "^law must be one of"),
        ({"law": "none", "names": [], "totals": 1}, ValueError, "^law must be one of"),
        ({"min": 0}, ValueError, "^min must be within"),
        ({"min": 5, "max": 4}, ValueError, "^max must be at least min"),
        ({"concentration": 65}, ValueError, "^concentration must be within"),
        ({"expires_at": "soon"}, TypeError, "^expires_at must be"),
        ({"per_user": 0}, ValueError, "^per_user must be within"),
        ({"hold_seconds": -1}, ValueError, "^hold_seconds must be more than 0"),
        ({"max_packets": 0}, ValueError, "^max_packets must be within"),
        ({"max_packets": 2**40}, ValueError, "^max_packets must be within"),
        ({"max_packets": [2, 2]}, TypeError, "^max_packets must be an integer"),
        ({"max_packets": 1}, ValueError, r"names\[0\], 'a': max_packets must be within 2 .. \d+, not 1"),
        ({"max_packets": 2, "packets": [1, 3]}, ValueError, r"names\[1\], 'b': max_packets must be within 3"),
        ({"seeds": [SEED]}, ValueError, "seeds must be one for each of the 2 names, not 1"),
        ({"seeds": [SEED, b"short"]}, ValueError, r"seeds\[1\] must be 32 bytes, not 5"),
        ({"seeds": [SEED, None]}, TypeError, r"seeds\[1\] must be 32 bytes"),
        ({"seeds": SEED * 2}, TypeError, "seeds must be a sequence of bytes, or None, not bytes"),
        ({"seeds": np.zeros((2, 31), np.uint8)}, TypeError, r"uint8 array of shape \(2, 32\), not .* \(2, 31\)"),
    ],
)
def test_bad_arguments_are_named_and_make_nothing(
    impl: ModuleType, change: dict[str, Any], error: type[Exception], match: str
) -> None:
    engine = impl.Engine()
    with pytest.raises(error, match=match):
        engine.create_many(**({"names": ["a", "b"], "totals": 20, "packets": 2} | change))
    assert engine.envelopes() == []


def test_what_is_made_is_got_by_its_name_and_claimed(impl: ModuleType) -> None:
    engine = impl.Engine()
    labels = [f"room {number}" for number in range(100)]
    totals = np.arange(100, 200)
    assert (engine.create_many(labels, totals, 10, law="equal", max=50) == Status.GRANTED).all()
    for label, total in zip(labels, totals, strict=True):
        envelope = engine.envelope(label)
        assert (envelope.terms.total, envelope.terms.packets, envelope.terms.max) == (total, 10, 50)
        assert envelope.claim_many(range(10))["amount"].sum() == total
    assert engine.audit().granted == 1000


def test_what_is_made_with_room_can_be_topped_up(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 1000)
    for maker in (engine, gala):
        assert maker.create_many(["a", "b"], 100, [10, 20], max_packets=np.int64(30)).tolist() == [Status.GRANTED] * 2
        assert maker.create_many(["a", "b"], 100, [10, 20], max_packets=31).tolist() == [Status.CONFLICT] * 2
        assert maker.create_many(["a", "b"], 100, [10, 20]).tolist() == [Status.CONFLICT] * 2
        assert maker.create_many(["c"], 100, 10).tolist() == [Status.GRANTED]
        assert [maker.envelope(name).terms.max_packets for name in "abc"] == [30, 30, 10]
        for name, room in (("a", 20), ("b", 10)):
            envelope = maker.envelope(name)
            assert envelope.top_up("more", 200, room).status == Status.GRANTED
            claims = envelope.claim_many(range(31))
            assert claims["status"].tolist() == [Status.GRANTED] * 30 + [Status.SOLD_OUT]
            assert claims["amount"].sum() == 300
        with pytest.raises(ValueError, match="packets must be at most 0"):
            maker.envelope("c").top_up("more", 200, 1)
    assert gala.stats() == (1000, 300, 700, 0)
    assert engine.audit().granted == 120


def test_every_envelope_has_a_seed_of_its_own(impl: ModuleType) -> None:
    engine = impl.Engine()
    engine.create_many([f"first {number}" for number in range(500)], 1000, 10)
    engine.create_many([f"second {number}" for number in range(500)], 1000, 10)
    seeds = {envelope.terms.seed for envelope in engine.envelopes()}
    assert len(seeds) == 1000
    assert bytes(32) not in seeds


@pytest.mark.parametrize("form", [list, tuple, lambda seeds: np.frombuffer(b"".join(seeds), np.uint8).reshape(-1, 32)])
def test_seeds_that_are_given_are_taken(impl: ModuleType, form: Callable[[list[bytes]], Any]) -> None:
    seeds = [bytes([number]) * 32 for number in range(3)]
    engine = impl.Engine()
    assert engine.create_many(["a", "b", "c"], 100, 4, seeds=form(seeds)).tolist() == [Status.GRANTED] * 3
    assert [engine.envelope(name).terms.seed for name in "abc"] == seeds
    assert engine.create_many(["a", "b", "c"], 100, 4, seeds=form(seeds[::-1])).tolist() == [
        Status.CONFLICT,
        Status.REPEATED,
        Status.CONFLICT,
    ]
    assert engine.create_many(["a", "b", "c"], 100, 4).tolist() == [Status.REPEATED] * 3


def test_forms_of_arguments_that_are_not_plain(impl: ModuleType) -> None:
    class Label(str):
        __slots__ = ()

    engine = impl.Engine()
    assert engine.create_many(iter(["a", np.str_("b"), Label("c")]), iter([3, 4, np.int8(5)]), np.int64(2)).sum() == 0
    assert engine.create_many(np.array(["d", "e"], object), np.array([3, 4], object), 2).sum() == 0
    assert engine.create_many(np.array(["f", "g", "h"])[::2], np.array([9, 8, 7], "i2")[::-2], 2).sum() == 0
    assert engine.create_many(np.array(["i"], ">U3"), np.array([9], ">i4"), np.uint64(1)).sum() == 0
    assert [(envelope.name, envelope.terms.total) for envelope in engine.envelopes()] == [
        *zip("abcde", (3, 4, 5, 3, 4), strict=True),
        ("f", 7),
        ("h", 9),
        ("i", 9),
    ]
    assert {type(envelope.name) for envelope in engine.envelopes()} == {str}


def test_a_budget_funds_what_it_can_and_the_others_can_be_tried_again(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    labels, totals = ["a", "b", "c", "d"], [60, 50, 40, 1]
    answers = gala.create_many(labels, totals, 1)
    assert answers.tolist() == [Status.GRANTED, Status.INSUFFICIENT, Status.GRANTED, Status.INSUFFICIENT]
    assert gala.stats() == (100, 0, 100, 0)
    with pytest.raises(hbcore.NotFoundError):
        gala.envelope("b")
    gala.top_up("more", 50)
    answers = gala.create_many(labels, totals, 1)
    assert answers.tolist() == [Status.REPEATED, Status.GRANTED, Status.REPEATED, Status.INSUFFICIENT]
    gala.close()
    answers = gala.create_many(labels, totals, 1)
    assert answers.tolist() == [Status.REPEATED, Status.REPEATED, Status.REPEATED, Status.CLOSED]
    assert [envelope.close() for envelope in engine.envelopes()] == [60, 40, 50]
    engine.audit()


def test_names_of_engines_and_budgets_are_apart(impl: ModuleType) -> None:
    engine = impl.Engine()
    gala = engine.budget("gala", 100)
    assert gala.create_many(["a"], 10, 1).tolist() == engine.create_many(["a"], 20, 1).tolist() == [Status.GRANTED]
    assert (gala.envelope("a").terms.total, engine.envelope("a").terms.total) == (10, 20)


# ---- the native core alone -----------------------------------------------------------------------------------------


def test_a_full_engine_keeps_what_was_made_and_goes_on_from_there() -> None:
    engine = hbcore.Engine(capacity=1 << 20)
    labels = [f"envelope {number}" for number in range(2000)]
    with pytest.raises(hbcore.EngineFullError):
        engine.create_many(labels, 1000, 10)
    made = [envelope.name for envelope in engine.envelopes()]
    assert made == labels[: len(made)]
    assert len(made) > 500
    assert (engine.create_many(made, 1000, 10) == Status.REPEATED).all()
    with pytest.raises(hbcore.EngineFullError):
        engine.create_many(labels, 1000, 10)
    assert len(engine.envelopes()) == len(made)
    assert engine.audit().envelopes == len(made)


def test_a_budget_without_space_for_another_child_keeps_what_was_made() -> None:
    engine = hbcore.Engine(capacity=1 << 20)
    gala = engine.budget("gala", 10**9)
    with pytest.raises(hbcore.EngineFullError):
        gala.create_many([f"envelope {number}" for number in range(2000)], 1000, 10)
    made = len(engine.envelopes())
    assert gala.stats() == (10**9, 10**9 - 1000 * made, 1000 * made, 0)
    assert engine.audit().envelopes == made


def test_a_closed_or_read_only_engine_makes_none(path: Path) -> None:
    engine = hbcore.Engine(path)
    engine.create_many(["a"], 10, 1)
    with hbcore.Engine(path, readonly=True) as reader:
        assert reader.create_many(["a"], 10, 1).tolist() == [Status.REPEATED]
        with pytest.raises(hbcore.ReadOnlyError):
            reader.create_many(["a", "b"], 10, 1)
    engine.close()
    with pytest.raises(hbcore.EngineClosedError):
        engine.create_many(["a"], 10, 1)
    with hbcore.Engine(path) as engine:
        assert [envelope.name for envelope in engine.envelopes()] == ["a"]


def test_a_child_makes_its_own_seeds() -> None:
    """What a child makes after the fork has nothing to do with what its parent makes."""
    engine = hbcore.Engine()
    engine.create_many(["before"], 100, 4)
    child = os.fork()
    if child == 0:
        engine.create_many([f"child {number}" for number in range(50)], 100, 4)
        os._exit(0)
    engine.create_many([f"parent {number}" for number in range(50)], 100, 4)
    assert os.waitpid(child, 0)[1] == 0
    assert len({envelope.terms.seed for envelope in engine.envelopes()}) == 101


@pytest.mark.parametrize("is_funded", [False, True])
def test_a_maker_that_is_killed_has_made_some_and_another_makes_the_rest(path: Path, is_funded: bool) -> None:
    labels = [f"envelope {number}" for number in range(20_000)]
    with hbcore.Engine(path) as engine:
        engine.budget("gala", 10**9)
    child = os.fork()
    if child == 0:
        engine = hbcore.Engine(path)
        maker = engine.budget("gala") if is_funded else engine
        for turn in range(10_000):
            maker.create_many([f"{turn % 10} {label}" for label in labels], 1000, 10)
        os._exit(1)
    with hbcore.Engine(path) as engine:
        while not engine.envelopes():
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        maker = engine.budget("gala") if is_funded else engine
        made = [envelope.name for envelope in engine.envelopes()]
        wanted = [f"0 {label}" for label in labels]
        answers = maker.create_many(wanted, 1000, 10)
        here = set(made)
        assert answers.tolist() == [Status.REPEATED if name in here else Status.GRANTED for name in wanted]
        if is_funded:
            stats = maker.stats()
            assert stats.held == 1000 * len(engine.envelopes())
        assert engine.audit().envelopes == len(engine.envelopes())


def test_two_that_race_for_the_same_names_make_each_once(path: Path) -> None:
    labels = [f"envelope {number}" for number in range(3000)]
    reader, writer = os.pipe()
    with hbcore.Engine(path) as engine:
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                os.close(writer)
                os.read(reader, 1)  # until all are there
                statuses = hbcore.Engine(path).create_many(labels, 1000, 10)
                os._exit(0 if np.isin(statuses, [Status.GRANTED, Status.REPEATED]).all() else 1)
            children.append(child)
        os.close(reader)
        os.close(writer)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        assert sorted(envelope.name for envelope in engine.envelopes()) == sorted(labels)
        assert engine.audit().envelopes == 3000
