"""Users and their keyed hashes: SipHash-2-4-128 and its authors' vectors, domains, keys, and every form of a batch."""

import enum
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import TESTS

import hbcore
import hbcore._keys.user
import hbcore.reference
from hbcore import Status

KEY = bytes(range(200, 232))
SIPHASH = [hbcore._keys.user.siphash, hbcore.reference.siphash128]
VECTORS = [
    bytes.fromhex(line)
    for line in (TESTS / "data" / "siphash128.txt").read_text().splitlines()
    if not line.startswith("#")
]

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, min_size=1, max_size=12)
byte_texts = st.binary(min_size=1, max_size=20)
numbers = st.integers(-(2**63), 2**64 - 1)


# ---- the hash -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("siphash", SIPHASH, ids=["native", "reference"])
def test_siphash_gives_its_authors_vectors(siphash: Any) -> None:
    key = bytes(range(16))
    assert len(VECTORS) == 301
    for size, vector in enumerate(VECTORS):
        assert siphash(key, bytes(i % 256 for i in range(size))) == vector, size


@given(key=st.binary(min_size=16, max_size=16), message=st.binary(max_size=300))
def test_siphash_is_the_same_in_both(key: bytes, message: bytes) -> None:
    assert hbcore._keys.user.siphash(key, message) == hbcore.reference.siphash128(key, message)


@given(user=st.one_of(texts, byte_texts, numbers), key=st.binary(min_size=32, max_size=32))
def test_a_user_hash_is_what_the_documents_say(impl: ModuleType, user: str | bytes | int, key: bytes) -> None:
    """Text under the first half of the key; integers under the second, as 8 bytes of two's complement and the sign."""
    text, number = key[:16], key[16:]
    if isinstance(user, int):
        message = (user % 2**64).to_bytes(8, "little") + bytes([user < 0])
        expected = hbcore.reference.siphash128(number, message)
    else:
        expected = hbcore.reference.siphash128(text, user.encode() if isinstance(user, str) else user)
    user_hash = impl.Engine(key=key).user_hash(user)
    assert type(user_hash) is bytes
    assert user_hash == expected


@pytest.mark.parametrize("length", [0, 1 << 17])
def test_bytes_are_as_long_as_they_are_whatever_a_subclass_says(impl: ModuleType, length: int) -> None:
    class Other(bytes):
        def __len__(self) -> int:
            return length

        def __bytes__(self) -> bytes:
            return b"other"

    with impl.Engine() as engine:
        envelope = engine.envelope("e", total=10, packets=10)
        claim = envelope.claim(Other(b"user"))
        assert envelope.find(b"user").packet == claim.packet
        assert envelope.find(b"other") is None


def test_a_user_may_be_as_long_as_65536_bytes(impl: ModuleType) -> None:
    engine = impl.Engine(key=KEY)
    for user in ("é" * 32768, b"x" * 65536, "x" * 65536):
        message = user.encode() if isinstance(user, str) else user
        assert engine.user_hash(user) == hbcore._keys.user.siphash(KEY[:16], message)


# ---- domains --------------------------------------------------------------------------------------------------------


@given(pool=st.lists(st.one_of(texts, byte_texts, numbers, st.integers(-3, 3)), min_size=1, max_size=30))
def test_two_users_are_one_only_if_their_bytes_or_their_integers_are_equal(impl: ModuleType, pool: list[Any]) -> None:
    engine = impl.Engine()
    identities = {user.encode() if isinstance(user, str) else user for user in pool}
    assert len({engine.user_hash(user) for user in pool}) == len(identities)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (7, "7"),
        (7, b"\x07"),
        (7, (7).to_bytes(8, "little")),
        (7, (7).to_bytes(8, "little") + b"\0"),
        (-1, 2**64 - 1),
        (-(2**63), 2**63),
        (0, b"\0"),
        ("a", "A"),
        ("é", "e\u0301"),
        ("a", "a\0"),
        (b"a", b"a\0"),
        (b"\0", b"\0\0"),
        ("\0", "0"),
        ("a", " a"),
    ],
)
def test_different_users(impl: ModuleType, one: object, other: object) -> None:
    engine = impl.Engine()
    assert engine.user_hash(one) != engine.user_hash(other)


class Number(enum.IntEnum):
    SEVEN = 7


class Word(enum.StrEnum):
    HI = "hi"


class Subclass(int):
    pass


class Index:
    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("七", "七".encode()),
        (7, np.int8(7)),
        (7, np.uint64(7)),
        (7, Number.SEVEN),
        (7, Subclass(7)),
        (7, Index()),
        (7, np.array(7)),
        (2**64 - 1, np.uint64(2**64 - 1)),
        (-(2**63), np.int64(-(2**63))),
        ("hi", Word.HI),
        ("hi", np.str_("hi")),
        (b"hi", np.bytes_(b"hi")),
    ],
)
def test_the_same_user(impl: ModuleType, one: object, other: object) -> None:
    engine = impl.Engine()
    assert engine.user_hash(one) == engine.user_hash(other)
    envelope = engine.envelope("e", 10, 2)
    packet = envelope.claim(one).packet
    assert (envelope.claim(other).status, envelope.find(other).packet) == (Status.REPEATED, packet)
    assert envelope.claim_many([other, one])["status"].tolist() == [Status.REPEATED] * 2


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_one_key_gives_the_same_hashes_in_every_engine_and_another_gives_others(impl: ModuleType) -> None:
    users = ["u", b"v", 7, -7]
    one, same, other = ([impl.Engine(key=key).user_hash(user) for user in users] for key in (KEY, KEY, KEY[::-1]))
    assert one == same
    assert not set(one) & set(other)
    assert one == [hbcore.Engine(key=KEY).user_hash(user) for user in users]


def test_each_half_of_the_key_matters(impl: ModuleType) -> None:
    engines = [impl.Engine(key=key) for key in (bytes(32), bytes(15) + b"\1" + bytes(16), bytes(31) + b"\1")]
    assert engines[0].user_hash("7") != engines[1].user_hash("7")
    assert engines[0].user_hash(7) != engines[2].user_hash(7)


def test_without_a_key_every_engine_has_a_key_of_its_own(impl: ModuleType) -> None:
    hashes = {impl.Engine().user_hash(user) for user in ("u", 7) for _ in range(5)}
    assert len(hashes) == 10
    engine = impl.Engine()
    assert engine.user_hash("u") == engine.user_hash("u")


def test_hashes_are_spread_evenly_over_all_their_bits(impl: ModuleType) -> None:
    """Of 4,096 hashes under a fixed key, each of the 128 bits is set within 5.5 standard deviations of half the time.

    A right hash under a random key fails with a probability below 128 * 3.8e-8 = 5e-6.
    """
    engine = impl.Engine(key=KEY)
    rows = np.frombuffer(b"".join(engine.user_hash(user) for user in range(4096)), np.uint8).reshape(4096, 16)
    ones = np.unpackbits(rows, axis=1).sum(axis=0, dtype=int)
    assert abs(ones - 2048).max() < 5.5 * 32


# ---- batches --------------------------------------------------------------------------------------------------------


def check_batch(impl: ModuleType, batch: Any, users: Iterable[object]) -> None:
    """Every user of the batch gets the answer, and is stored under the hash, that the scalar calls have for it."""
    users = list(users)
    engine = impl.Engine(key=KEY)
    envelope = engine.envelope("e", max(1, len(users)) * 3, max(1, len(users)))
    rows = envelope.claim_many(batch)
    assert len(rows) == len(users)
    hashes = {int(row["packet"]): row["user"].tobytes() for row in envelope.claims()}
    first: dict[bytes, int] = {}
    for user, row in zip(users, rows, strict=True):
        user_hash = engine.user_hash(user)
        is_new = user_hash not in first
        packet = first.setdefault(user_hash, int(row["packet"]))
        assert row["status"] == (Status.GRANTED if is_new else Status.REPEATED)
        assert row["packet"] == packet == envelope.find(user).packet
        assert hashes[packet] == user_hash
    assert len(hashes) == len(first)


@given(users=st.lists(st.one_of(texts, byte_texts, numbers, st.integers(-9, 9)), max_size=25))
def test_sequences_hash_like_their_elements(impl: ModuleType, users: list[Any]) -> None:
    check_batch(impl, users, users)
    check_batch(impl, tuple(users), users)
    check_batch(impl, (user for user in users), users)
    check_batch(impl, np.array([*users, None], object)[:-1], users)
    check_batch(impl, dict.fromkeys(users), dict.fromkeys(users))


INTEGERS = [np.dtype(code) for code in "bhilqBHILQ"] + [
    np.dtype(order + code) for order in "<>" for code in ("i2", "u8")
]


@pytest.mark.full
@given(dtype=st.sampled_from(INTEGERS), data=st.data())
def test_integer_arrays_hash_like_their_elements(impl: ModuleType, dtype: np.dtype[Any], data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    users = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), max_size=40))
    array = np.array(users, dtype)
    for view, expected in views(array, users):
        check_batch(impl, view, expected)


@pytest.mark.full
@given(users=st.lists(texts, max_size=40), order=st.sampled_from("<>"))
def test_arrays_of_str_hash_like_their_elements(impl: ModuleType, users: list[str], order: str) -> None:
    width = max(map(len, users), default=1)
    array = np.array(users, f"{order}U{width}")
    for view, expected in views(array, users):
        check_batch(impl, view, expected)


@pytest.mark.full
@given(users=st.lists(byte_texts.map(lambda user: user.rstrip(b"\0") or b"x"), max_size=40))
def test_arrays_of_bytes_hash_like_their_elements(impl: ModuleType, users: list[bytes]) -> None:
    width = max(map(len, users), default=1)
    for view, expected in views(np.array(users, f"S{width}"), users):
        check_batch(impl, view, expected)


def views(array: np.ndarray, users: list[Any]) -> Iterable[tuple[np.ndarray, list[Any]]]:
    """The same users in other places of memory: strided, reversed, repeated, read-only, unaligned, and as a field."""
    yield array, users
    yield array[::2], users[::2]
    yield array[::-1], users[::-1]
    yield np.broadcast_to(array[:1], 3 if users else 0), users[:1] * 3
    frozen = array.copy()
    frozen.flags.writeable = False
    yield frozen, users
    shifted = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype)
    shifted[:] = array
    yield shifted, users
    packed = np.zeros(len(array), np.dtype([("pad", "u1"), ("user", array.dtype)]))
    packed["user"] = array
    yield packed["user"], users


@pytest.mark.parametrize("width", [1, 2, 1023, 1024, 1025, 2048, 4000])
@pytest.mark.parametrize("character", ["a", "é", "漢", "🧧"])
def test_wide_strings_hash_like_their_elements(impl: ModuleType, width: int, character: str) -> None:
    users = [character * width, character, character * max(1, width - 1), "x"]
    check_batch(impl, np.array(users, f"U{width}"), users)
    byte_users = [user.encode() for user in users]
    check_batch(impl, np.array(byte_users), byte_users)


def test_every_plane_of_unicode_is_encoded_as_python_does(impl: ModuleType) -> None:
    edges = [1, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x1F9E7, 0xFFFFF, 0x10FFFF]
    users = [chr(edge) for edge in edges] + ["x" + chr(edge) + "y" for edge in edges] + ["".join(map(chr, edges))]
    check_batch(impl, np.array(users), users)


def test_embedded_nuls_count_and_those_at_the_end_are_padding(impl: ModuleType) -> None:
    check_batch(impl, np.array([b"a\0b", b"ab", b"\0a", b"a\0\0"]), [b"a\0b", b"ab", b"\0a", b"a"])
    check_batch(impl, np.array(["a\0b", "ab", "\0a", "a\0\0"]), ["a\0b", "ab", "\0a", "a"])
    check_batch(impl, [b"a\0", b"a", "a\0\0"], [b"a\0", b"a", b"a\0\0"])


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="this NumPy has no strings of variable width")
@given(users=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), max_size=30))
def test_arrays_of_variable_width_hash_like_their_elements(impl: ModuleType, users: list[str]) -> None:
    array = np.array(users, dtype=np.dtypes.StringDType())
    check_batch(impl, array, array.tolist())
    check_batch(impl, array[::-2], array[::-2].tolist())


@pytest.mark.parametrize(
    "batch",
    [[], (), iter(()), set(), {}, np.array([], int), np.array([], "U5"), np.array([], "S5"), np.array([], object)],
)
def test_an_empty_batch_is_an_empty_answer(impl: ModuleType, batch: Any) -> None:
    envelope = impl.Engine().envelope("e", 10, 10)
    rows = envelope.claim_many(batch)
    assert rows.shape == (0,)
    assert rows.dtype == hbcore.CLAIM_DTYPE
    assert envelope.stats().granted == 0


def test_a_batch_of_strings_of_width_nothing_has_only_empty_users(impl: ModuleType) -> None:
    envelope = impl.Engine().envelope("e", 10, 10)
    for code in ("U0", "S0"):
        with pytest.raises(ValueError, match=r"^users\[0\]: user must be 1 \.\. 65536 bytes long, not 0$"):
            envelope.claim_many(np.zeros(3, code))
        assert len(envelope.claim_many(np.zeros(0, code))) == 0


def test_large_batches_keep_their_order(impl: ModuleType) -> None:
    count = 20_000 if impl is hbcore else 2_000
    engine = impl.Engine()
    envelope = engine.envelope("e", count * 5, count)
    users = np.random.default_rng(3).integers(0, count // 2, count)
    rows = envelope.claim_many(users)
    _, first, inverse = np.unique(users, return_index=True, return_inverse=True)
    assert (rows["packet"] == rows["packet"][first][inverse]).all()
    assert (rows["amount"] == rows["amount"][first][inverse]).all()
    expected = np.full(count, Status.REPEATED)
    expected[first] = Status.GRANTED
    assert (rows["status"] == expected).all()


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60, unique=True),
    st.lists(st.integers(0, 2**64 - 1), max_size=60, unique=True),
)
def test_a_batch_hashes_integers_as_one_by_one(signed: list[int], unsigned: list[int]) -> None:
    """Batches are hashed several users at once; what is left of the last few as well."""
    engine = hbcore.Engine()
    for users, dtype in ((signed, np.int64), (unsigned, np.uint64)):
        envelope = engine.envelope(str(dtype), 1000, 100)
        envelope.claim_many(np.array(users, dtype))
        assert {bytes(user) for user in envelope.claims()["user"]} == {engine.user_hash(user) for user in users}
