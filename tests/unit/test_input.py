"""Bad input: an error whose message names the argument, in the same words from both twins, and nothing half done."""

import decimal
import enum
import fractions
import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import WholeOrNothing

import hbcore
import hbcore.reference
from hbcore.terms import described

SEED = bytes(range(32))
HUGE = 10**5000  # more digits than Python prints
HUGE_WORDS = f"an integer of {HUGE.bit_length()} bits"


class World(WholeOrNothing):
    """An engine with claims of every state, and everything that can be seen of it."""

    def __init__(self, impl: ModuleType, *arguments: Any) -> None:
        self.impl = impl
        self.engine = impl.Engine(*arguments, key=bytes(32))
        self.envelope = self.engine.envelope("e", 1000, 100, seed=SEED)
        self.envelope.claim_many(["a", "b", 7, 8])
        self.envelope.settle("b")
        self.envelope.release(8)
        closed = self.engine.envelope("closed", 100, 10, "equal", seed=SEED)
        closed.claim("a")
        closed.close()

    def seen(self) -> object:
        envelopes = self.engine.envelopes()
        return (
            [(envelope.name, envelope.terms, envelope.stats(), envelope.claims().tolist()) for envelope in envelopes],
            self.engine.audit(),
        )


@pytest.fixture(scope="module")
def world(impl: ModuleType) -> World:
    return World(impl)


@pytest.fixture
def file_world(tmp_path: Path) -> Iterator[tuple[World, Path]]:
    path = tmp_path / "e.hb"
    world = World(hbcore, path)
    with world.engine:
        yield world, path


def tag(value: object) -> str:
    """A short name of a value, for the ids of tests."""
    text = f"{type(value).__name__} {value!r}" if not isinstance(value, int) or abs(value) < HUGE else "huge"
    return text.encode("ascii", "backslashreplace").decode()[:50]


# ---- users ----------------------------------------------------------------------------------------------------------


class Refusing:
    def __index__(self) -> int:
        raise TypeError("no index today")

    def __repr__(self) -> str:
        return "Refusing()"


NOT_USERS = [
    *(None, True, False, np.True_, np.False_, 1.5, 7.0, math.nan, math.inf, -math.inf, 1j),
    *(np.float64(7), np.float32("nan"), np.datetime64(7, "s"), np.complex128(7)),
    *(decimal.Decimal(7), fractions.Fraction(7), date(2024, 2, 10), object, ..., Refusing()),
    *(bytearray(b"u"), memoryview(b"u"), ["u"], ("u",), {"u"}, {"u": 1}, [], np.array(["u"]), np.array([7])),
    *(np.array([7, 8]), np.array(7.5), np.ma.masked),
]
BAD_USERS: list[tuple[object, type[Exception], str]] = [
    *(
        (user, TypeError, f"user must be a str, bytes or int, not {user!r} ({type(user).__name__})")
        for user in NOT_USERS
    ),
    *(
        (user, ValueError, f"user must be within -2**63 .. 2**64 - 1, not {user}")
        for user in (2**64, -(2**63) - 1, 2**65, -(2**64), 10**30, -(10**30))
    ),
    (HUGE, ValueError, f"user must be within -2**63 .. 2**64 - 1, not {HUGE_WORDS}"),
    (-HUGE, ValueError, f"user must be within -2**63 .. 2**64 - 1, not {HUGE_WORDS}"),
    *(
        (user, ValueError, f"user must be 1 .. 65536 bytes long, not {size}")
        for user, size in (("", 0), (b"", 0), ("x" * 65537, 65537), (b"x" * 100_000, 100_000), ("é" * 32769, 65538))
    ),
    *(
        (user, ValueError, f"user {user!r} is not valid Unicode: surrogates not allowed")
        for user in ("\ud800", "\udfff", "a\udc80b", "\ud83e\udde7")
    ),
]
BAD_USER_IDS = [tag(user) for user, _, _ in BAD_USERS]


@pytest.mark.parametrize(("user", "error", "words"), BAD_USERS, ids=BAD_USER_IDS)
@pytest.mark.parametrize("method", ["claim", "find", "settle", "release"])
def test_a_bad_user_is_refused(world: World, method: str, user: Any, error: type[Exception], words: str) -> None:
    world.refuses(lambda world: getattr(world.envelope, method)(user), error, words)


@pytest.mark.parametrize(("user", "error", "words"), BAD_USERS, ids=BAD_USER_IDS)
def test_a_bad_user_has_no_hash(world: World, user: Any, error: type[Exception], words: str) -> None:
    world.refuses(lambda world: world.engine.user_hash(user), error, words)


@pytest.mark.parametrize(("user", "error", "words"), BAD_USERS, ids=BAD_USER_IDS)
@pytest.mark.parametrize("form", [list, tuple, iter])
def test_one_bad_user_in_a_batch_is_named_and_grants_nothing(
    world: World, form: Callable[[list[Any]], Any], user: Any, error: type[Exception], words: str
) -> None:
    for before, after in ((0, 0), (3, 2), (40, 0)):
        users = [*(f"new{i}" for i in range(before)), user, *range(1000, 1000 + after), None]
        world.refuses(
            lambda world, users=users: world.envelope.claim_many(form(users)), error, f"users[{before}]: {words}"
        )


@pytest.mark.full
@given(
    good=st.lists(st.integers() | st.text(), max_size=50),
    bad=st.sampled_from(range(len(BAD_USERS))),
    place=st.integers(0, 50),
    is_array=st.booleans(),
)
def test_wherever_the_bad_user_stands_nothing_is_granted(
    world: World, good: list[Any], bad: int, place: int, is_array: bool
) -> None:
    user, error, words = BAD_USERS[bad]
    users = [f"u{user}" for user in good if not isinstance(user, str)]
    place = min(place, len(users))
    users.insert(place, user)
    batch: Any = users
    if is_array:
        batch = np.empty(len(users), object)
        batch[:] = users if not isinstance(user, np.ndarray) else 0
        batch[place] = user
    if is_array and isinstance(user, np.generic):  # tolist() makes Python objects of NumPy's scalars
        return
    world.refuses(lambda world: world.envelope.claim_many(batch), error, f"users[{place}]: {words}")


# ---- batches --------------------------------------------------------------------------------------------------------

BEYOND_UNICODE = np.array([ord("x"), ord("y"), 0x110000], "u4").view("U1")


def not_a_sequence(kind: str) -> str:
    return f"users must be an integer array or a sequence of users, not {kind}"


def not_of_users(dtype: object) -> str:
    return f"users must be an array of integers, bytes or str, not of {dtype}"


class Sized:
    """Neither iterable nor a sequence, for all its methods."""

    def __len__(self) -> int:
        return 3


MASKED = "users must be an array without a mask; drop the masked users first (users.compressed())"
BAD_BATCHES: list[tuple[Any, type[Exception], str]] = [
    *(
        (users, TypeError, not_a_sequence(type(users).__name__))
        for users in (None, 7, 7.5, True, "users", b"users", "")
    ),
    *(
        (users, TypeError, not_a_sequence(type(users).__name__))
        for users in (bytearray(b"u"), memoryview(b"u"), Sized())
    ),
    *(
        (users, TypeError, not_a_sequence(type(users).__name__))
        for users in (np.int64(7), np.str_("u"), object(), list)
    ),
    *(
        (np.zeros(3, dtype), TypeError, not_of_users(np.dtype(dtype)))
        for dtype in ("?", "f2", "f4", "f8", "g", "c16", "M8[s]", "m8[ms]", "V4", "i4,i4", [("user", "U3")])
    ),
    (np.array([], float), TypeError, not_of_users("float64")),
    (np.array([math.nan]), TypeError, not_of_users("float64")),
    *(
        (np.zeros(shape, dtype), ValueError, f"users must have one dimension, not {len(shape)}")
        for shape in ((), (2, 2), (0, 3), (1, 1, 1))
        for dtype in ("i8", "U3", object)
    ),
    (np.ma.masked_array([1, 2, 3], [False, True, False]), TypeError, MASKED),
    (np.ma.masked_array([1, 2, 3]), TypeError, MASKED),
    (np.ma.masked_array(["a"], [True]), TypeError, MASKED),
    (np.array(["a", "", "b"]), ValueError, "users[1]: user must be 1 .. 65536 bytes long, not 0"),
    (np.array([b"a", b"b", b"\0"]), ValueError, "users[2]: user must be 1 .. 65536 bytes long, not 0"),
    (np.array(["", ""]), ValueError, "users[0]: user must be 1 .. 65536 bytes long, not 0"),
    (np.array([b"a", b"x" * 65537]), ValueError, "users[1]: user must be 1 .. 65536 bytes long, not 65537"),
    (np.array(["a", "é" * 40_000]), ValueError, "users[1]: user must be 1 .. 65536 bytes long, not 80000"),
    *(
        (array, ValueError, f"users[1]: user {surrogate!r} is not valid Unicode: surrogates not allowed")
        for surrogate in ("\ud800", "xy\udfff")
        for array in (
            np.array(["a", surrogate, ""]),
            np.array(["a", surrogate, ""]).astype(">U3"),
            np.array(["a", surrogate], object),
            np.array(["a" * 3000, surrogate]),
            np.array(["", surrogate, "", "a"])[3:0:-2],
        )
    ),
    (BEYOND_UNICODE, ValueError, "users[2]: user is not valid Unicode: beyond U+10FFFF"),
    (BEYOND_UNICODE[::-1], ValueError, "users[0]: user is not valid Unicode: beyond U+10FFFF"),
    (BEYOND_UNICODE.astype("U2000"), ValueError, "users[2]: user is not valid Unicode: beyond U+10FFFF"),
    (np.array([7, None], object), TypeError, "users[1]: user must be a str, bytes or int, not None (NoneType)"),
    (np.array(["u", True], object), TypeError, "users[1]: user must be a str, bytes or int, not True (bool)"),
    ([7, np.True_], TypeError, f"users[1]: user must be a str, bytes or int, not {described(np.True_)}"),
    ({"u": 1, 2.5: 2}, TypeError, "users[1]: user must be a str, bytes or int, not 2.5 (float)"),
    ([["u"]], TypeError, "users[0]: user must be a str, bytes or int, not ['u'] (list)"),
    ([range(3)], TypeError, "users[0]: user must be a str, bytes or int, not range(0, 3) (range)"),
]


@pytest.mark.parametrize(
    ("users", "error", "words"),
    BAD_BATCHES,
    ids=[f"{type(users).__name__}-{getattr(users, 'dtype', '')}" for users, _, _ in BAD_BATCHES],
)
def test_a_bad_batch_is_refused(world: World, users: Any, error: type[Exception], words: str) -> None:
    world.refuses(lambda world: world.envelope.claim_many(users), error, words)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="this NumPy has no strings of variable width")
def test_strings_that_are_missing_are_no_users(world: World) -> None:
    array = np.array(["a", None, "b"], np.dtypes.StringDType(na_object=None))
    words = "users[1]: user must be a str, bytes or int, not None (NoneType)"
    world.refuses(lambda world: world.envelope.claim_many(array), TypeError, words)
    words = "users[1]: user must be 1 .. 65536 bytes long, not 0"
    array = np.array(["a", ""], np.dtypes.StringDType())
    world.refuses(lambda world: world.envelope.claim_many(array), ValueError, words)


def test_an_error_of_the_callers_own_passes_through_and_grants_nothing(world: World) -> None:
    class Broken:
        def __index__(self) -> int:
            raise KeyError("broken")

    def breaking() -> Iterator[str]:
        yield "new"
        raise KeyError("broken")

    for call in (
        lambda world: world.envelope.claim(Broken()),
        lambda world: world.envelope.claim_many(["new", Broken()]),
        lambda world: world.envelope.claim_many(breaking()),
        lambda world: world.engine.user_hash(Broken()),
    ):
        world.refuses(call, KeyError, "'broken'")


@pytest.mark.parametrize("size", [3, 1000, 100_000])
def test_a_list_that_shrinks_while_it_is_read_does_no_harm(size: int) -> None:
    class Shrinking:
        def __index__(self) -> int:
            users.clear()
            return 7

    world = World(hbcore)
    users: list[Any] = ["new", Shrinking(), *range(1000, 1000 + size)]
    words = f"users must not change while they are read: {size + 2} have become 0"
    world.refuses(lambda world: world.envelope.claim_many(users), ValueError, words)


def test_users_are_positional_and_nothing_else_is(world: World) -> None:
    for method in ("claim", "claim_many", "find", "settle", "release"):
        with pytest.raises(TypeError):
            getattr(world.envelope, method)(user="a")
        with pytest.raises(TypeError):
            getattr(world.envelope, method)("a", "b")
        with pytest.raises(TypeError):
            getattr(world.envelope, method)()


# ---- the terms of an envelope ---------------------------------------------------------------------------------------

NOT_INTEGERS = [
    *(True, np.True_, 5.0, 5.5, math.nan, math.inf, 5j, "5", b"5", decimal.Decimal(5), fractions.Fraction(5)),
    *([5], (5,), np.float64(5), np.array([5]), np.array(5.0), np.datetime64(5, "s"), object, Refusing()),
]


def out_of_range(name: str, low: int, high: int) -> list[tuple[dict[str, Any], type[Exception], str]]:
    values = {-HUGE, -(10**30), -(2**63), -1, 0, low - 1, high + 1, 2**62, 2**63, 2**64, 10**30, HUGE}
    words = f"{name} must be within {low} .. {high}, not"
    return [
        ({name: value}, ValueError, f"{words} {value if abs(value) < HUGE else HUGE_WORDS}")
        for value in sorted(values)
        if not low <= value <= high
    ]


def not_integers(name: str, *more: object) -> list[tuple[dict[str, Any], type[Exception], str]]:
    return [
        ({name: value}, TypeError, f"{name} must be an integer, not {value!r} ({type(value).__name__})")
        for value in (*NOT_INTEGERS, *more)
    ]


LAWS_WORDS = "law must be one of equal, double_mean, dirichlet, not"


class Boundless(list):
    """Says that it is longer than any memory."""

    def __len__(self) -> int:
        return 1 << 60


class Endless(np.ndarray):
    """Says that it is longer than it is, and gives no plain array of itself."""

    def __len__(self) -> int:
        return 1 << 24

    def view(self, *_: object) -> "Endless":
        return self


def test_a_batch_has_the_users_that_it_has_whatever_it_says_of_itself() -> None:
    engine = hbcore.Engine()
    envelope, budget = engine.envelope("e", 10_000, 10_000), engine.budget("b", 10_000)
    users = range(3000)
    assert (envelope.claim_many(Boundless(users))["packet"] >= 0).sum() == 3000
    assert (budget.reserve_many(Boundless(users), 1)["amount"] == 1).sum() == 3000
    for array in (np.array([b"abcd"] * 4), np.arange(4), np.array(["a"] * 4)):
        assert len(envelope.claim_many(array.view(Endless))) == 4
        assert len(budget.reserve_many(array.view(Endless), 1)) == 4


class Misleading(bytes):
    """Says that it is 32 bytes long, and gives others when it is asked for its bytes."""

    def __len__(self) -> int:
        return 32

    def __bytes__(self) -> bytes:
        return b"x"


BAD_TERMS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *out_of_range("total", 1, 2**62 - 1),
    *not_integers("total", None),
    *out_of_range("packets", 1, 2**40 - 1),
    *not_integers("packets", None),
    *out_of_range("min", 1, 2**62 - 1),
    *not_integers("min", None),
    *out_of_range("max", 1, 2**64 - 1),
    *not_integers("max"),
    *out_of_range("concentration", 1, 64),
    *not_integers("concentration", None),
    *(
        ({"law": law}, ValueError, f"{LAWS_WORDS} {law!r}")
        for law in ("", "uniform", "Equal", "equal ", "\ud800", "\0")
    ),
    *(
        ({"law": law}, TypeError, f"{LAWS_WORDS} {law!r} ({type(law).__name__})")
        for law in (None, 0, True, b"equal", ["equal"], math.nan)
    ),
    *(({"seed": bytes(size)}, ValueError, f"seed must be 32 bytes, not {size}") for size in (0, 1, 31, 33, 64, 10**6)),
    ({"seed": Misleading(b"short")}, ValueError, "seed must be 32 bytes, not 5"),
    *(
        ({"seed": seed}, TypeError, f"seed must be 32 bytes or None, not {type(seed).__name__}")
        for seed in ("x" * 32, bytearray(32), memoryview(bytes(32)), 7, True, math.nan, [0] * 32, np.zeros(32, "u1"))
    ),
    *(
        (
            {"expires_at": value},
            ValueError,
            f"expires_at must be within 0 .. 4398046511 seconds since 1970, not {words}",
        )
        for value, words in (
            *((value, value) for value in (0, -1, 0.0, -0.5, 4398046511, 1e10, 10**30, -(2**63))),
            *((value, value) for value in (math.nan, math.inf, -math.inf, np.float64(-7))),
            *((HUGE, HUGE_WORDS), (-HUGE, HUGE_WORDS), (datetime(1969, 12, 31, tzinfo=UTC), -86400.0)),
            (datetime(2999, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC).timestamp()),
        )
    ),
    *(
        ({"expires_at": value}, ValueError, f"expires_at must be an aware datetime, not the naive {value!r}")
        for value in (datetime(2030, 1, 1), datetime.max)
    ),
    *(
        (
            {"expires_at": value},
            TypeError,
            f"expires_at must be seconds since 1970 or an aware datetime, not {type(value).__name__}",
        )
        for value in (
            *(True, np.True_, "2030-01-01", b"", date(2030, 1, 1), decimal.Decimal(10**9), 1j, [10**9]),
            *(np.datetime64("2030-01-01"), np.array([10**9]), Refusing()),
        )
    ),
    # not feasible
    ({"total": 9}, ValueError, "total must be at least packets * min = 10, not 9: 10 packets of at least 1 cost more"),
    (
        {"min": 101},
        ValueError,
        "total must be at least packets * min = 1010, not 1000: 10 packets of at least 101 cost more",
    ),
    (
        {"packets": 2**40 - 1, "min": 2**62 - 1},
        ValueError,
        f"total must be at least packets * min = {(2**40 - 1) * (2**62 - 1)}, not 1000: "
        f"{2**40 - 1} packets of at least {2**62 - 1} cost more",
    ),
    (
        {"max": 99},
        ValueError,
        "total must be at most packets * max = 990, not 1000: 10 packets of at most 99 hold less",
    ),
    ({"min": 50, "max": 49}, ValueError, "max must be at least min (50), not 49"),
]
BAD_TERMS_IDS = ["-".join(f"{name}={tag(value)}" for name, value in changes.items()) for changes, _, _ in BAD_TERMS]


@pytest.mark.parametrize(("changes", "error", "words"), BAD_TERMS, ids=BAD_TERMS_IDS)
@pytest.mark.parametrize("name", ["new", "e"])
def test_bad_terms_are_refused_and_make_nothing(
    world: World, name: str, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    terms = {"total": 1000, "packets": 10, **changes}
    world.refuses(lambda world: world.engine.envelope(name, **terms), error, words)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [bad for bad in BAD_TERMS if "expires_at" not in bad[0]],
    ids=[name for name in BAD_TERMS_IDS if "expires_at" not in name],
)
def test_bad_terms_are_not_split(impl: ModuleType, changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        impl.split(**{"total": 1000, "packets": 10, **changes})
    assert str(caught.value) == words


@pytest.mark.parametrize(
    "changes",
    [
        {"total": np.int64(1000), "packets": np.uint8(10)},
        {"total": np.array(1000), "min": np.int16(1), "max": np.uint64(2**63)},
        {"law": enum.StrEnum("Law", ["EQUAL"]).EQUAL, "concentration": np.int8(3)},
        {"law": np.str_("dirichlet"), "concentration": enum.IntEnum("C", ["ONE"]).ONE},
        {"seed": np.bytes_(SEED)},
    ],
    ids=str,
)
def test_numbers_and_strings_of_other_types_are_taken_for_what_they_are(
    impl: ModuleType, changes: dict[str, Any]
) -> None:
    terms = {"total": 1000, "packets": 10, "seed": SEED, **changes}
    plain = {
        name: str(value) if name == "law" else bytes(value) if name == "seed" else int(value)
        for name, value in terms.items()
    }
    engine = impl.Engine()
    envelope = engine.envelope("e", **terms)
    assert engine.envelope("e", **plain) == envelope
    assert (impl.split(**terms) == hbcore.split(**plain)).all()
    assert all(type(value) in (int, bytes, str) for value in envelope.terms)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"law": "equal"}, "law"),
        ({"law": "nonsense"}, "law"),
        ({"min": 2}, "min"),
        ({"min": -1}, "min"),
        ({"min": True}, "min"),
        ({"max": 1000}, "max"),
        ({"concentration": 4}, "concentration"),
        ({"seed": SEED}, "seed"),
        ({"seed": np.zeros(32)}, "seed"),
        ({"expires_at": 4_000_000_000}, "expires_at"),
        ({"expires_at": 4_000_000_000, "law": "equal"}, "law"),
    ],
)
@pytest.mark.parametrize("envelope", ["e", "nowhere"])
def test_terms_without_a_total_are_not_silently_dropped(
    world: World, envelope: str, changes: dict[str, Any], name: str
) -> None:
    words = f"total and packets must be given where {name} is; without them an envelope is only looked up"
    world.refuses(lambda world: world.engine.envelope(envelope, **changes), TypeError, words)


BAD_NAMES: list[tuple[Any, type[Exception], str]] = [
    *(
        (name, TypeError, f"name must be a str, not {name!r} ({type(name).__name__})")
        for name in (None, 7, True, b"e", math.nan, ["e"], bytearray(b"e"), np.bytes_(b"e"))
    ),
    ("", ValueError, "name must be 1 .. 255 bytes of UTF-8, not 0"),
    ("x" * 256, ValueError, "name must be 1 .. 255 bytes of UTF-8, not 256"),
    ("é" * 128, ValueError, "name must be 1 .. 255 bytes of UTF-8, not 256"),
    ("x" * 10**6, ValueError, "name must be 1 .. 255 bytes of UTF-8, not 1000000"),
    ("a\0b", ValueError, "name 'a\\x00b' must not contain a NUL character"),
    ("\0", ValueError, "name '\\x00' must not contain a NUL character"),
    ("e\0", ValueError, "name 'e\\x00' must not contain a NUL character"),
    ("\ud800", ValueError, "name '\\ud800' is not valid Unicode: surrogates not allowed"),
]


@pytest.mark.parametrize(("name", "error", "words"), BAD_NAMES, ids=[tag(name) for name, _, _ in BAD_NAMES])
@pytest.mark.parametrize("terms", [{}, {"total": 10, "packets": 1}, {"total": -1, "packets": 1}], ids=str)
def test_a_bad_name_is_refused(
    world: World, name: Any, error: type[Exception], words: str, terms: dict[str, Any]
) -> None:
    world.refuses(lambda world: world.engine.envelope(name, **terms), error, words)


@pytest.mark.parametrize(
    "name", ["x" * 255, "é" * 127, "🧧" * 63, " ", "\n", "..", "a/b", "%s", "{}", "\x7f", "\u200b"]
)
def test_any_other_name_will_do(impl: ModuleType, name: str) -> None:
    engine = impl.Engine()
    envelope = engine.envelope(name, 10, 1)
    assert envelope.name == name
    assert engine.envelope(name) == envelope


@pytest.mark.parametrize("name", [np.str_("gala"), enum.StrEnum("Name", {"GALA": "gala"}).GALA], ids=tag)
def test_a_name_of_a_kind_of_str_is_a_str(impl: ModuleType, name: str) -> None:
    engine = impl.Engine()
    envelope = engine.envelope(name, 10, 1)
    assert type(envelope.name) is str
    assert envelope == engine.envelope("gala")


# ---- engines --------------------------------------------------------------------------------------------------------

OWNER = "mode must let the owner read and write (at least 0o600), not"
BAD_ENGINES: list[tuple[dict[str, Any], type[Exception], str]] = [
    *out_of_range("capacity", 2**20, 2**42),
    *(bad for bad in not_integers("capacity")),
    *(bad for bad in out_of_range("mode", 0, 0o777) if bad[0]["mode"] != 0),
    *not_integers("mode", None, "600", "rw"),
    *(({"mode": mode}, ValueError, f"{OWNER} 0o{mode:o}") for mode in (0, 0o1, 0o400, 0o200, 0o177, 0o466)),
    *(({"key": bytes(size)}, ValueError, f"key must be 32 bytes, not {size}") for size in (0, 16, 31, 33)),
    *(
        ({"key": key}, TypeError, f"key must be 32 bytes or None, not {type(key).__name__}")
        for key in ("x" * 32, bytearray(32), memoryview(bytes(32)), 7, True, 0.5, [0] * 32)
    ),
]
BAD_ENGINES_IDS = ["-".join(f"{name}={tag(value)}" for name, value in changes.items()) for changes, _, _ in BAD_ENGINES]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD_ENGINES, ids=BAD_ENGINES_IDS)
def test_bad_arguments_make_no_engine(
    impl: ModuleType, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        impl.Engine(**arguments)
    assert str(caught.value) == words
    if impl is hbcore:
        with pytest.raises(error):
            impl.Engine(tmp_path / "e.hb", **arguments)
        assert list(tmp_path.iterdir()) == []


def test_only_the_path_is_positional(impl: ModuleType) -> None:
    with pytest.raises(TypeError):
        impl.Engine(None, 1 << 30)
    with pytest.raises(TypeError):
        impl.Engine(None, budget=5)


def test_a_key_of_a_kind_of_bytes_is_bytes(impl: ModuleType) -> None:
    assert impl.Engine(key=np.bytes_(SEED)).user_hash(7) == impl.Engine(key=SEED).user_hash(7)


@pytest.mark.parametrize("path", [7, True, 7.5, math.nan, ["e.hb"], object, bytearray(b"e.hb")], ids=tag)
def test_what_is_no_path_is_refused(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError) as caught:
        hbcore.Engine(path)
    assert str(caught.value) == f"path must be a str, bytes or os.PathLike, not {path!r} ({type(path).__name__})"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", b"", "a\0b", b"\0", "e.hb\0"], ids=tag)
def test_a_path_that_names_no_file_is_refused(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = path if isinstance(path, str) else path.decode()
    with pytest.raises(ValueError, match=r"^path must name a file") as caught:
        hbcore.Engine(path)
    assert repr(text) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^path '/tmp/\\ud800' is not valid Unicode: surrogates not allowed$"):
        hbcore.Engine("/tmp/\ud800")


def test_the_reference_keeps_no_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^path must be None: the reference keeps its engines in memory"):
        hbcore.reference.Engine(tmp_path / "e.hb")


# ---- nothing is half done -------------------------------------------------------------------------------------------


def test_bad_input_does_not_change_one_byte_of_a_file(file_world: tuple[World, Path]) -> None:
    world, path = file_world
    envelope, engine = world.envelope, world.engine
    before = path.read_bytes()

    def fails(call: Callable[..., object], *arguments: Any, **more: Any) -> None:
        with pytest.raises((TypeError, ValueError, hbcore.HbcoreError)):
            call(*arguments, **more)
        assert path.read_bytes() == before

    for user, _, _ in BAD_USERS:
        for method in (envelope.claim, envelope.find, envelope.settle, envelope.release, engine.user_hash):
            fails(method, user)
        fails(envelope.claim_many, ["new", user])
    for users, _, _ in BAD_BATCHES:
        fails(envelope.claim_many, users)
    for changes, _, _ in BAD_TERMS:
        fails(engine.envelope, "new", **{"total": 1000, "packets": 10, **changes})
    for name, _, _ in BAD_NAMES:
        fails(engine.envelope, name, 10, 1)
    fails(engine.envelope, "e", 1001, 100)
    fails(engine.envelope, "nowhere")
    fails(envelope.release, "b")
    assert [path.name for path in path.parent.iterdir()] == ["e.hb"]
