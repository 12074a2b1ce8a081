"""Bad input to budgets and to claims in two phases: an error that names the argument, and nothing half done."""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import WholeOrNothing
from test_input import BAD_BATCHES, BAD_USERS, HUGE, HUGE_WORDS, NOT_INTEGERS, tag

import hbcore
from hbcore.terms import described

LIMIT = 2**62 - 1
SEED = bytes(range(32))

BAD_KEYS = [(key, error, f"key{words.removeprefix('user')}") for key, error, words in BAD_USERS]


def bad_integers(name: str, low: int, high: int) -> list[tuple[Any, type[Exception], str]]:
    """What is no integer, and what is one too small or too large."""
    words = f"{name} must be within {low} .. {high}, not"
    values = [low - 1, -(10**30), high + 1, 2**64, 10**30]
    return [
        *(
            (value, TypeError, f"{name} must be an integer, not {value!r} ({type(value).__name__})")
            for value in NOT_INTEGERS
        ),
        *((value, ValueError, f"{words} {value}") for value in values),
        (HUGE, ValueError, f"{words} {HUGE_WORDS}"),
        (-HUGE, ValueError, f"{words} {HUGE_WORDS}"),
    ]


def named(cases: list[tuple[Any, type[Exception], str]]) -> list[Any]:
    """Return the same cases under names for pytest, which cannot print every integer."""
    return [pytest.param(*case, id=tag(case[0])) for case in cases]


BAD_AMOUNTS = bad_integers("amount", 1, LIMIT)


class World(WholeOrNothing):
    """A tree with holds of every state, and everything that can be seen of it."""

    def __init__(self, impl: ModuleType) -> None:
        self.engine = impl.Engine(key=bytes(32))
        self.gala = self.engine.budget("gala", 1000)
        self.app = self.gala.budget("app", 500)
        self.envelope = self.app.envelope("e", 100, 10, seed=SEED, per_user=3, hold_seconds=10**6)
        self.envelope.claim_many(["a", "b"])
        self.gala.reserve_many(["held", "spent", "back"], 50)
        self.gala.settle("spent", 20)
        self.gala.release("back")
        self.gala.top_up("t", 7)

    def seen(self) -> object:
        return (
            [
                (budget.name, budget.total, budget.stats(), sorted(budget.holds().tolist()))
                for budget in self.engine.budgets()
            ],
            [(envelope.name, envelope.terms, envelope.claims().tolist()) for envelope in self.engine.envelopes()],
            self.engine.audit(),
        )


@pytest.fixture(scope="module")
def world(impl: ModuleType) -> World:
    return World(impl)


# ---- keys and amounts -----------------------------------------------------------------------------------------------

KEYED: dict[str, Callable[[Any, Any], object]] = {
    "reserve": lambda budget, key: budget.reserve(key, 5),
    "settle": lambda budget, key: budget.settle(key),
    "release": lambda budget, key: budget.release(key),
    "find": lambda budget, key: budget.find(key),
    "top_up": lambda budget, key: budget.top_up(key, 5),
    "reserve_many": lambda budget, key: budget.reserve_many([key], 5),
}


@pytest.mark.parametrize(("key", "error", "words"), named(BAD_KEYS))
@pytest.mark.parametrize("method", KEYED)
def test_a_bad_key_is_refused(world: World, method: str, key: Any, error: type[Exception], words: str) -> None:
    words = f"keys[0]: {words}" if method == "reserve_many" else words
    world.refuses(lambda world: KEYED[method](world.gala, key), error, words)


@pytest.mark.parametrize(("amount", "error", "words"), named(BAD_AMOUNTS))
@pytest.mark.parametrize("method", ["reserve", "top_up"])
def test_a_bad_amount_is_refused(world: World, method: str, amount: Any, error: type[Exception], words: str) -> None:
    for budget in (world.gala, world.app):
        for key in ("new", "held", "t"):
            world.refuses(lambda world, budget=budget, key=key: getattr(budget, method)(key, amount), error, words)


def test_an_amount_is_needed(world: World) -> None:
    for call in (world.gala.reserve, world.gala.top_up, world.gala.reserve_many):
        with pytest.raises(TypeError):
            call(["k"])
    words = "amount must be an integer, not None (NoneType)"
    world.refuses(lambda world: world.gala.reserve("new", None), TypeError, words)
    world.refuses(lambda world: world.gala.top_up("new", None), TypeError, words)


@pytest.mark.parametrize(("amount", "error", "words"), named(bad_integers("amount", 0, LIMIT)))
def test_a_bad_amount_is_not_settled(world: World, amount: Any, error: type[Exception], words: str) -> None:
    for key in ("held", "spent", "back", "never granted"):
        world.refuses(lambda world, key=key: world.gala.settle(key, amount), error, words)


def test_more_than_the_hold_is_not_settled(world: World) -> None:
    words = "amount must be within 0 .. 50, not 51"
    for key in ("held", "spent"):
        world.refuses(lambda world, key=key: world.gala.settle(key, 51), ValueError, words)
    assert world.gala.settle("never granted", 51) is None


@pytest.mark.parametrize(("total", "error", "words"), named(bad_integers("total", 1, LIMIT)))
def test_a_bad_total_is_refused(world: World, total: Any, error: type[Exception], words: str) -> None:
    for name in ("new", "gala", "app"):
        world.refuses(lambda world, name=name: world.engine.budget(name, total), error, words)
        world.refuses(lambda world, name=name: world.gala.budget(name, total), error, words)


BAD_NAMES: list[tuple[Any, type[Exception], str]] = [
    *(
        (name, TypeError, f"name must be a str, not {name!r} ({type(name).__name__})")
        for name in (None, 7, b"b", ["b"])
    ),
    ("", ValueError, "name must be 1 .. 255 bytes of UTF-8, not 0"),
    ("é" * 128, ValueError, "name must be 1 .. 255 bytes of UTF-8, not 256"),
    ("a\0b", ValueError, "name 'a\\x00b' must not contain a NUL character"),
    ("\ud800", ValueError, "name '\\ud800' is not valid Unicode: surrogates not allowed"),
]


@pytest.mark.parametrize(("name", "error", "words"), named(BAD_NAMES))
def test_a_bad_name_is_refused(world: World, name: Any, error: type[Exception], words: str) -> None:
    for arguments in ((name,), (name, 5)):
        world.refuses(lambda world, arguments=arguments: world.engine.budget(*arguments), error, words)
        world.refuses(lambda world, arguments=arguments: world.gala.budget(*arguments), error, words)
    world.refuses(lambda world: world.gala.envelope(name, 5, 1), error, words)


# ---- batches --------------------------------------------------------------------------------------------------------


def of_keys(words: str) -> str:
    return words.replace("users", "keys").replace("user", "key")


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    BAD_BATCHES,
    ids=[f"{type(keys).__name__}-{getattr(keys, 'dtype', '')}" for keys, _, _ in BAD_BATCHES],
)
def test_a_bad_batch_of_keys_is_refused(world: World, keys: Any, error: type[Exception], words: str) -> None:
    if not (isinstance(keys, np.ndarray) and keys.dtype.names):  # a field may be called user
        words = of_keys(words)
    words = f"keys{words.removeprefix('users').removeprefix('keys')}"
    world.refuses(lambda world: world.gala.reserve_many(keys, 1), error, words)


@given(
    good=st.lists(st.integers(0, 50), max_size=30),
    bad=st.sampled_from(range(len(BAD_KEYS))),
    place=st.integers(0, 30),
)
def test_wherever_the_bad_key_stands_it_is_named_and_nothing_is_reserved(
    world: World, good: list[int], bad: int, place: int
) -> None:
    key, error, words = BAD_KEYS[bad]
    keys: list[Any] = [f"new{number}" for number in good]
    place = min(place, len(keys))
    keys.insert(place, key)
    world.refuses(lambda world: world.gala.reserve_many(keys, 1), error, f"keys[{place}]: {words}")


@given(
    good=st.lists(st.integers(1, 5), max_size=30),
    bad=st.sampled_from(range(len(BAD_AMOUNTS))),
    place=st.integers(0, 30),
    form=st.sampled_from([list, tuple, iter]),
)
def test_wherever_the_bad_amount_stands_it_is_named_and_nothing_is_reserved(
    world: World, good: list[int], bad: int, place: int, form: Callable[[list[Any]], Any]
) -> None:
    amount, error, words = BAD_AMOUNTS[bad]
    place = min(place, len(good))
    amounts = [*good[:place], amount, *good[place:]]
    keys = [f"new{number}" for number in range(len(amounts))]
    words = words.replace("amount must be", f"amounts[{place}] must be", 1)
    world.refuses(lambda world: world.gala.reserve_many(keys, form(amounts)), error, words)


@given(count=st.integers(0, 10), other=st.integers(0, 10))
def test_there_must_be_as_many_amounts_as_keys(world: World, count: int, other: int) -> None:
    if count == other:
        return
    words = f"amounts must be one integer, or one for each of the {count} keys, not {other}"
    keys = [f"new{number}" for number in range(count)]
    for amounts in ([1] * other, np.ones(other, "i8"), iter([1] * other)):
        world.refuses(lambda world, amounts=amounts: world.gala.reserve_many(keys, amounts), ValueError, words)


class Refusing:
    def __index__(self) -> int:
        raise TypeError("no index today")


NOT_AMOUNTS: list[tuple[Any, type[Exception], str]] = [
    *(
        (amounts, TypeError, f"amounts must be an integer or a sequence of integers, not {type(amounts).__name__}")
        for amounts in (None, True, 1.5, math.nan, "11", b"\1\1", bytearray(b"\1\1"), np.float64(1), np.True_, object())
    ),
    (Refusing(), TypeError, "amounts must be an integer or a sequence of integers, not Refusing"),
    (0, ValueError, f"amounts must be within 1 .. {LIMIT}, not 0"),
    (2**62, ValueError, f"amounts must be within 1 .. {LIMIT}, not {2**62}"),
    (HUGE, ValueError, f"amounts must be within 1 .. {LIMIT}, not {HUGE_WORDS}"),
    (np.int8(-1), ValueError, f"amounts must be within 1 .. {LIMIT}, not -1"),
    (np.ones((2, 1), "i8"), ValueError, "amounts must have one dimension, not 2"),
    (np.array(1.5), ValueError, "amounts must have one dimension, not 0"),
    *(
        (np.ones(2, dtype), TypeError, f"amounts must be an array of integers, not of {np.dtype(dtype)}")
        for dtype in ("f8", "f2", "?", "c16", "m8[s]", "U1", "S1")
    ),
    (
        np.ma.masked_array([1, 2], [False, True]),
        TypeError,
        "amounts must be an array without a mask; drop what is masked first (amounts.compressed())",
    ),
    (np.array([1, 0], "i1"), ValueError, f"amounts[1] must be within 1 .. {LIMIT}, not 0"),
    (np.array([2**63, 1], "u8"), ValueError, f"amounts[0] must be within 1 .. {LIMIT}, not {2**63}"),
    (np.array([1, None], object), TypeError, "amounts[1] must be an integer, not None (NoneType)"),
    (np.array([True, 1], object), TypeError, "amounts[0] must be an integer, not True (bool)"),
    ([np.True_, 1], TypeError, f"amounts[0] must be an integer, not {described(np.True_)}"),
]


@pytest.mark.parametrize(("amounts", "error", "words"), named(NOT_AMOUNTS))
def test_bad_amounts_are_refused(world: World, amounts: Any, error: type[Exception], words: str) -> None:
    world.refuses(lambda world: world.gala.reserve_many(["new1", "new2"], amounts), error, words)


def test_the_keys_are_looked_at_before_the_amounts(world: World) -> None:
    words = "keys[1]: key must be a str, bytes or int, not None (NoneType)"
    for amounts in (0, [1], "x", [0, 0, 0]):
        world.refuses(
            lambda world, amounts=amounts: world.gala.reserve_many(["new", None, "k"], amounts), TypeError, words
        )


def test_an_error_of_the_callers_own_passes_through_and_reserves_nothing(world: World) -> None:
    class Broken:
        def __index__(self) -> int:
            raise KeyError("broken")

    def breaking() -> Iterator[Any]:
        yield 1
        raise KeyError("broken")

    for call in (
        lambda world: world.gala.reserve(Broken(), 5),
        lambda world: world.gala.reserve("new", Broken()),
        lambda world: world.gala.reserve_many(["new", Broken()], 1),
        lambda world: world.gala.reserve_many(["new", "new2"], [1, Broken()]),
        lambda world: world.gala.reserve_many(["new", "new2"], breaking()),
        lambda world: world.gala.reserve_many(breaking(), 1),
        lambda world: world.gala.settle("held", Broken()),
        lambda world: world.gala.top_up("new", Broken()),
        lambda world: world.envelope.claim("new", Broken()),
    ):
        world.refuses(call, KeyError, "'broken'")


# ---- terms and numbers of packets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "error", "words"), named(bad_integers("per_user", 1, 65536)))
def test_a_bad_per_user_is_refused(world: World, value: Any, error: type[Exception], words: str) -> None:
    for maker in (world.engine, world.gala):
        for name in ("new", "e"):
            world.refuses(
                lambda world, maker=maker, name=name: maker.envelope(name, 100, 10, per_user=value), error, words
            )


TEN_YEARS = 10 * 366 * 24 * 3600
BAD_SECONDS: list[tuple[Any, type[Exception], str]] = [
    *(
        (value, TypeError, f"hold_seconds must be a number of seconds or None, not {type(value).__name__}")
        for value in ("5", b"5", True, [5], 5j, np.array([5]), object())
    ),
    *(
        (value, ValueError, f"hold_seconds must be more than 0 and at most {TEN_YEARS}, not {value}")
        for value in (0, -1, 0.0, -0.5, math.nan, math.inf, -math.inf, TEN_YEARS + 1, TEN_YEARS + 0.5, 10**30)
    ),
    (HUGE, ValueError, f"hold_seconds must be more than 0 and at most {TEN_YEARS}, not {HUGE_WORDS}"),
]


@pytest.mark.parametrize(("value", "error", "words"), named(BAD_SECONDS))
def test_bad_hold_seconds_are_refused(world: World, value: Any, error: type[Exception], words: str) -> None:
    for maker in (world.engine, world.gala):
        world.refuses(lambda world, maker=maker: maker.envelope("new", 100, 10, hold_seconds=value), error, words)


@pytest.mark.parametrize("term", [{"per_user": 2}, {"hold_seconds": 5}, {"law": "equal"}, {"seed": SEED}])
def test_terms_without_a_total_would_count_for_nothing(world: World, term: dict[str, Any]) -> None:
    words = f"total and packets must be given where {next(iter(term))} is; without them an envelope is only looked up"
    for call in (world.engine.envelope, world.gala.envelope, world.app.envelope):
        for name in ("e", "new"):
            world.refuses(lambda world, call=call, name=name: call(name, **term), TypeError, words)


@pytest.mark.parametrize(("nth", "error", "words"), named(bad_integers("nth", 0, 2)))
def test_a_bad_number_of_a_packet_is_refused(world: World, nth: Any, error: type[Exception], words: str) -> None:
    for method, user in (("claim", "a"), ("claim", "new"), ("find", "a"), ("settle", "a"), ("release", "a")):
        world.refuses(lambda world, method=method, user=user: getattr(world.envelope, method)(user, nth), error, words)
    world.refuses(lambda world: world.envelope.claim_many(["a", "new"], nth), error, words)
    world.refuses(lambda world: world.envelope.claim_many([], nth=nth), error, words)
    words = words.replace("within 0 .. 2,", "within 0 .. 65535,")
    if nth != 3:
        world.refuses(lambda world: world.engine.user_hash("a", nth), error, words)


def test_without_per_user_there_is_one_packet_for_a_user(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 100, 10)
    for call in (envelope.claim, envelope.find, envelope.settle, envelope.release):
        with pytest.raises(ValueError, match=r"^nth must be within 0 \.\. 0, not 1$"):
            call("u", 1)
    with pytest.raises(ValueError, match=r"^nth must be within 0 \.\. 0, not 1$"):
        envelope.claim_many(["u"], 1)
    assert envelope.claim("u", 0).status is hbcore.Status.GRANTED
