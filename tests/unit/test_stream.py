"""The keyed random stream: RFC 8439's vectors, unbiased integers and shuffles, and native equal to the reference.

Every statistical test uses fixed seeds. A family of ``n`` tests fails a correct stream with a probability of at most
1e-6: each test alone is allowed 1e-6 / n (Bonferroni).
"""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from hbcore import reference
from hbcore._split import stream

FALSE_ALARM = 1e-6


class ReferenceStream:
    """The reference behind the names of the native test functions."""

    @staticmethod
    def keystream(seed: bytes, domain: int, index: int, word_count: int) -> list[int]:
        nonce = domain.to_bytes(4, "little") + index.to_bytes(8, "little")
        blocks = (reference.chacha20_block(seed, counter, nonce) for counter in range(-(-word_count // 16)))
        return [word for block in blocks for word in block][:word_count]

    @staticmethod
    def draws(seed: bytes, domain: int, index: int, bounds: list[int]) -> list[int]:
        source = reference.Stream(seed, domain, index)
        return [source.below(bound) for bound in bounds]

    @staticmethod
    def shuffled(seed: bytes, domain: int, index: int, count: int) -> list[int]:
        values = list(range(count))
        reference.Stream(seed, domain, index).shuffle(values)
        return values


@pytest.fixture(params=["native", "reference"])
def impl(request: pytest.FixtureRequest):
    return stream if request.param == "native" else ReferenceStream


def seed_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


def check_counts(counts: np.ndarray, chances: np.ndarray, tests: int) -> None:
    """Fail if chance explains ``counts`` so far from ``chances`` in less than 1e-6 / ``tests`` (chi-square)."""
    expected = counts.sum() * chances / chances.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, len(counts) - 1) > FALSE_ALARM / tests, counts


def check_uniform(counts: np.ndarray, tests: int) -> None:
    """Fail likewise for counts that should be equally likely."""
    check_counts(counts, np.ones(len(counts)), tests)


# ---- ChaCha20 ---------------------------------------------------------------------------------------------------

COUNTING_KEY = bytes(range(32))
LAST_BIT_KEY = bytes(31) + b"\x01"
SECOND_BYTE_KEY = b"\x00\xff" + bytes(30)

# RFC 8439, section 2.3.2 and appendix A.1: key, block counter, nonce, state words.
VECTORS = {
    "2.3.2": (
        COUNTING_KEY,
        1,
        "000000090000004a00000000",
        "e4e7f110 15593bd1 1fdd0f50 c47120a3 c7f4d1c7 0368c033 9aaa2204 4e6cd4c3"
        " 466482d2 09aa9f07 05d7c214 a2028bd9 d19c12b5 b94e16de e883d0cb 4e3c50a2",
    ),
    "A.1 #1": (
        bytes(32),
        0,
        "000000000000000000000000",
        "ade0b876 903df1a0 e56a5d40 28bd8653 b819d2bd 1aed8da0 ccef36a8 c70d778b"
        " 7c5941da 8d485751 3fe02477 374ad8b8 f4b8436a 1ca11815 69b687c3 8665eeb2",
    ),
    "A.1 #2": (
        bytes(32),
        1,
        "000000000000000000000000",
        "bee7079f 7a385155 7c97ba98 0d082d73 a0290fcb 6965e348 3e53c612 ed7aee32"
        " 7621b729 434ee69c b03371d5 d539d874 281fed31 45fb0a51 1f0ae1ac 6f4d794b",
    ),
    "A.1 #3": (
        LAST_BIT_KEY,
        1,
        "000000000000000000000000",
        "2452eb3a 9249f8ec 8d829d9b ddd4ceb1 e8252083 60818b01 f38422b8 5aaa49c9"
        " bb00ca8e da3ba7b4 c4b592d1 fdf2732f 4436274e 2561b3c8 ebdd4aa6 a0136c00",
    ),
    "A.1 #4": (
        SECOND_BYTE_KEY,
        2,
        "000000000000000000000000",
        "fb4dd572 4bc42ef1 df922636 327f1394 a78dea8f 5e269039 a1bebbc1 caf09aae"
        " a25ab213 48a6b46c 1b9d9bcb 092c5be6 546ca624 1bec45d5 87f47473 96f0992e",
    ),
    "A.1 #5": (
        bytes(32),
        0,
        "000000000000000000000002",
        "374dc6c2 3736d58c b904e24a cd3f93ef 88228b1a 96a4dfb3 5b76ab72 c727ee54"
        " 0e0e978a f3145c95 1b748ea8 f786c297 99c28f5f 628314e8 398a19fa 6ded1b53",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_chacha20_reproduces_rfc_8439(impl, name):
    key, counter, nonce_hex, words = VECTORS[name]
    nonce = bytes.fromhex(nonce_hex)
    domain, index = int.from_bytes(nonce[:4], "little"), int.from_bytes(nonce[4:], "little")
    block = impl.keystream(key, domain, index, 16 * (counter + 1))[16 * counter :]
    assert block == [int(word, 16) for word in words.split()]


@pytest.mark.parametrize("instructions", range(3))
def test_every_instruction_set_gives_the_same_words(instructions):
    try:
        words = stream.first_fill(COUNTING_KEY, 3, 2**40, instructions)
    except ValueError as error:
        pytest.skip(str(error))
    assert words == ReferenceStream.keystream(COUNTING_KEY, 3, 2**40, 128)


@given(
    seed=st.binary(min_size=32, max_size=32),
    domain=st.integers(0, 2**32 - 1),
    index=st.integers(0, 2**64 - 1),
    word_count=st.integers(0, 600),
)
@settings(max_examples=30, deadline=None)
def test_native_keystream_equals_the_reference(seed, domain, index, word_count):
    # 600 words are more than four fills of the native buffer.
    expected = ReferenceStream.keystream(seed, domain, index, word_count)
    assert stream.keystream(seed, domain, index, word_count) == expected
    assert stream.keystream(seed, domain, index, word_count, True) == expected


# ---- integers below a bound -------------------------------------------------------------------------------------

BORDERS = [1, 2, 3, 2**31, 2**31 + 1, 3 * 2**30, 2**32 - 1, 2**32, 2**32 + 1, 3 * 2**31, 2**63, 2**63 + 1, 2**64 - 1]


@given(
    seed=st.binary(min_size=32, max_size=32),
    bounds=st.lists(st.one_of(st.sampled_from(BORDERS), st.integers(1, 2**64 - 1), st.integers(1, 2**32)), max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_native_draws_equal_the_reference(seed, bounds):
    expected = ReferenceStream.draws(seed, 7, 11, bounds)
    assert stream.draws(seed, 7, 11, bounds) == expected
    assert all(value < bound for value, bound in zip(expected, bounds, strict=True))


SMALL_BOUNDS = [2, 3, 5, 6, 7, 10, 100, 1000]


@pytest.mark.parametrize("bound", SMALL_BOUNDS)
def test_draws_below_small_bounds_are_uniform(bound):
    values = stream.draws(seed_of(bound), 0, 0, [bound] * 200_000)
    check_uniform(np.bincount(values, minlength=bound), len(SMALL_BOUNDS))


# With three quarters of the words' range as the bound, ``word % bound`` doubles the chance of the lowest third, and
# the high half of ``word * bound`` without rejection that of every third value: both are looked at. The larger bounds
# of a pair just above a power of two would be answered from too few bits by a path chosen wrongly.
LARGE_BOUNDS = [3 * 2**30, 2**31 + 3, 2**32 - 1, 2**32, 3 * 2**31, 2**32 + 3, 3 * 2**62, 2**63 + 3, 2**64 - 1]


@pytest.mark.parametrize("bound", LARGE_BOUNDS)
def test_draws_below_large_bounds_are_uniform(bound):
    values = stream.draws(seed_of(bound), 0, 0, [bound] * 200_000)
    tests = 3 * len(LARGE_BOUNDS)
    check_uniform(np.bincount([value * 12 // bound for value in values], minlength=12), tests)
    check_uniform(np.bincount([value % 3 for value in values], minlength=3), tests)
    check_uniform(np.bincount([value & 15 for value in values], minlength=16), tests)


def test_draws_of_the_reference_are_uniform():
    # The same two kinds of bound, fewer draws: plain Python is slow, and equality with the native draws does the rest.
    values = ReferenceStream.draws(seed_of(1), 0, 0, [3 * 2**30, 3 * 2**62] * 3000)
    for bound, drawn in ((3 * 2**30, values[::2]), (3 * 2**62, values[1::2])):
        check_uniform(np.bincount([value * 3 // bound for value in drawn], minlength=3), 4)
        check_uniform(np.bincount([value % 3 for value in drawn], minlength=3), 4)


@pytest.mark.parametrize("bound", [0])
def test_a_bound_of_zero_is_refused(bound):
    with pytest.raises(ValueError, match="bound must be at least 1, not 0"):
        stream.draws(bytes(32), 0, 0, [bound])


@pytest.mark.parametrize("call", [stream.keystream, stream.shuffled])
def test_a_seed_of_the_wrong_size_is_refused(call):
    with pytest.raises(ValueError, match="seed must be 32 bytes, not 31"):
        call(bytes(31), 0, 0, 1)


def test_domains_and_indices_have_streams_of_their_own():
    streams = {
        tuple(stream.keystream(seed, domain, index, 8))
        for seed in (bytes(32), COUNTING_KEY)
        for domain in (0, 1, 2**31)
        for index in (0, 1, 2**32, 2**63)
    }
    assert len(streams) == 2 * 3 * 4


# ---- shuffles ---------------------------------------------------------------------------------------------------


@given(seed=st.binary(min_size=32, max_size=32), count=st.one_of(st.integers(1, 100), st.sampled_from([1023, 1024])))
@settings(max_examples=60, deadline=None)
def test_native_shuffle_equals_the_reference(seed, count):
    values = stream.shuffled(seed, 0, 0, count)
    assert values == ReferenceStream.shuffled(seed, 0, 0, count)
    assert sorted(values) == list(range(count))


# 4 and 6: every step in one draw; 7: the six steps of a full group; 8: a group and one step more.
@pytest.mark.full
@pytest.mark.parametrize("count", [4, 6, 7, 8])
def test_every_order_is_equally_likely(count):
    ranks = {order: rank for rank, order in enumerate(permutations(range(count)))}
    counts = np.zeros(len(ranks))
    for index in range(400_000):
        counts[ranks[tuple(stream.shuffled(seed_of(0), 0, index, count))]] += 1
    check_uniform(counts, 4)


# From 43 on the product of six bounds is above 2**32, and the draw takes a second word.
PLACED_COUNTS = [42, 43, 64, 1024]


@pytest.mark.parametrize("count", PLACED_COUNTS)
def test_every_value_is_equally_likely_at_every_place(count):
    shuffles = 400_000 // count
    places = np.array([stream.shuffled(seed_of(1), count, index, count) for index in range(shuffles)])
    group = np.arange(count) * 8 // count  # values and places in eight groups of neighbours
    pairs = np.bincount((group[None, :] * 8 + group[places]).ravel(), minlength=64)
    sizes = np.bincount(group)
    # Fixed sums of rows and columns leave 49 degrees of freedom of the 63 that are assumed: on the safe side.
    check_counts(pairs, np.outer(sizes, sizes).ravel(), 5 * len(PLACED_COUNTS))
    for place in (0, 1, count - 2, count - 1):
        check_counts(np.bincount(group[places[:, place]], minlength=8), sizes, 5 * len(PLACED_COUNTS))
