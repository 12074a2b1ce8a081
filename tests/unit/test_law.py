"""The laws: exact sums and bounds, the native amounts equal to those of the reference, and golden vectors."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from make_amounts import PATH, digest, terms_of
from marks import full_but

from hbcore import law as native
from hbcore import reference

HUGE = 2**62 - 1
PACKET_LIMIT = 2**40
GOLDEN = json.loads(PATH.read_text())


@pytest.fixture(params=["native", "reference"], scope="module")
def impl(request: pytest.FixtureRequest):
    return native if request.param == "native" else reference


def seed_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


PACKET_COUNTS = st.integers(1, 60)


@st.composite
def terms(draw, packet_counts=PACKET_COUNTS):
    """Arguments of ``split``, with an inclination to the edges of what is feasible."""
    law = draw(st.sampled_from(["equal", "double_mean", "dirichlet", "dirichlet"]))
    concentration = draw(st.sampled_from([1, 1, 2, 3, 5, 64])) if law == "dirichlet" else 3
    packets = draw(packet_counts)
    if concentration == 64:
        packets = min(packets, 8)  # the reference is slow
    low = draw(st.one_of(st.just(1), st.integers(1, 1000), st.integers(1, HUGE // packets)))
    room = HUGE // packets - low
    high = low + draw(st.one_of(st.integers(0, min(5, room)), st.integers(0, min(1000, room)), st.integers(0, room)))
    least, most = packets * low, packets * high
    total = draw(
        st.one_of(
            st.integers(least, most),
            st.integers(least, min(least + packets + 1, most)),
            st.integers(max(most - packets - 1, least), most),
        )
    )
    return {
        "total": total,
        "packets": packets,
        "law": law,
        "min": low,
        "max": draw(st.sampled_from([high, high, None])),
        "concentration": concentration,
        "seed": draw(st.binary(min_size=32, max_size=32)),
    }


def check_split(amounts: np.ndarray, case: dict) -> None:
    highest = case["max"] or case["total"]
    assert amounts.dtype == np.int64
    assert amounts.shape == (case["packets"],)
    assert sum(amounts.tolist()) == case["total"]
    assert case["min"] <= amounts.min()
    assert amounts.max() <= highest
    if case["law"] == "equal":
        assert amounts.max() - amounts.min() <= 1


def extreme(total, packets, low=1, high=None, law="dirichlet", concentration=1):
    return {
        "total": total,
        "packets": packets,
        "law": law,
        "min": low,
        "max": high,
        "concentration": concentration,
        "seed": seed_of(total ^ packets),
    }


@pytest.mark.full
@given(case=terms())
@example(extreme(HUGE, 1))
@example(extreme(HUGE, 2, HUGE // 2))
@example(extreme(HUGE, 60, 1, HUGE, concentration=64))
@example(extreme(HUGE, 60, 1, HUGE // 60 + 1, concentration=3))
@example(extreme(HUGE, 3, HUGE // 3, 2**63 - 1, law="double_mean"))
@example(extreme(1, 1, 1, 1, law="double_mean"))
@settings(max_examples=300, deadline=None)
def test_amounts_sum_to_the_total_and_keep_to_the_bounds(impl, case):
    check_split(impl.split(**case), case)


@given(case=terms())
@settings(max_examples=300, deadline=None)
def test_native_amounts_equal_the_reference(case):
    assert native.split(**case).tolist() == reference.split(**case).tolist()


LAWS = [("equal", 3), ("double_mean", 3), ("dirichlet", 1), ("dirichlet", 3)]
BORDERS = [1023, 1024, 1025, 2047, 2048, 2049, 3072]
SHAPES = [
    "loose",
    "huge",
    "even",
    "one below the maxima",
    "between the bounds",
    "few units",
    "reciprocals",
    "duplicates",
]


def border_case(packets: int, law: str, concentration: int, shape: str) -> dict:
    total, low, high = {
        "loose": (200 * packets + 77, 1, None),
        "huge": (HUGE, 3, None),
        "even": (5 * packets, 5, 5),
        "one below the maxima": (7 * packets - 1, 2, 7),
        "between the bounds": (50 * packets + 1, 40, 65),
        "few units": (packets + packets // 3, 1, 2),
        "duplicates": (46 * concentration * packets, 1, None),  # of the places that are just not drawn in a map
        "reciprocals": (2**53 + packets + 2**40, 1, None),  # the mean of what remains passes the end of their reach
    }[shape]
    return extreme(total, packets, low, high, law, concentration)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("law", "concentration"), LAWS)
def test_strata_borders_on_the_native_twin(law, concentration, shape):
    for packets in BORDERS:
        case = border_case(packets, law, concentration, shape)
        check_split(native.split(**case), case)


@pytest.mark.full
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("law", "concentration"), LAWS)
def test_strata_borders_on_both_twins(law, concentration, shape):
    # Where a bound binds, a stratum of 1,024 takes the reference half a second and more.
    slow = law == "dirichlet" and shape in ("between the bounds", "few units")
    for packets in [] if slow else [1023, 1025, 2049]:
        case = border_case(packets, law, concentration, shape)
        assert native.split(**case).tolist() == reference.split(**case).tolist()


@given(case=terms(st.one_of(st.integers(1, 30), st.sampled_from([1024, 1025]))), data=st.data())
@settings(max_examples=60, deadline=None)
def test_one_packet_is_what_the_whole_split_says(case, data):
    amounts = native.split(**case)
    packet = data.draw(st.integers(0, case["packets"] - 1))
    assert native.packet_amount(packet, **case) == amounts[packet]
    if case["packets"] < 1000:
        assert reference.packet_amount(packet, **case) == amounts[packet]


@given(
    packets=st.one_of(st.integers(1025, PACKET_LIMIT - 1), st.integers(1025, 10_000)),
    law=st.sampled_from(["equal", "double_mean", "dirichlet"]),
    where=st.floats(0, 1, exclude_max=True),
    tightness=st.sampled_from(["loose", "tight", "exact"]),
    data=st.data(),
)
@settings(max_examples=12, deadline=None)
def test_any_stratum_of_the_largest_envelopes_is_exact(packets, law, where, tightness, data):
    low = data.draw(st.integers(1, HUGE // packets))
    total = data.draw(st.integers(packets * low, min(packets * (low + 3), HUGE)))
    high = {"loose": None, "tight": -(-total // packets) + 1, "exact": -(-total // packets)}[tightness]
    case = extreme(total, packets, low, high, law)
    strata = reference.stratum_count(packets)
    stratum = int(where * strata)
    start, end = (reference.stratum_start(packets, border) for border in (stratum, stratum + 1))
    assert reference.stratum_of(packets, start) == reference.stratum_of(packets, end - 1) == stratum
    assert packets // strata <= end - start <= reference.STRATUM_SIZE
    rotation = reference.rotation(reference.checked_terms(**case))
    amounts = [native.packet_amount((position - rotation) % packets, **case) for position in range(start, end)]
    assert sum(amounts) == total * end // packets - total * start // packets
    assert low <= min(amounts)
    assert max(amounts) <= (high or total)
    first = (start - rotation) % packets
    if law != "dirichlet":
        assert reference.packet_amount(first, **case) == amounts[0]


@pytest.mark.parametrize("law", ["equal", "double_mean", "dirichlet"])
def test_strata_are_split_by_streams_of_their_own(impl, law):
    # Two strata of 1,024 packets and the same share: one stream for both would give every packet a double.
    amounts = impl.split(2048 * 200 + 1024, 2048, law=law, seed=seed_of(1))
    assert not np.array_equal(amounts, np.roll(amounts, 1024))


@pytest.mark.parametrize("number", full_but(range(len(GOLDEN["split"])), *range(0, len(GOLDEN["split"]), 3)))
def test_golden_amounts(impl, number):
    case = GOLDEN["split"][number]
    amounts = impl.split(**terms_of(case)).tolist()
    if "amounts" in case:
        assert amounts == case["amounts"]
    else:
        assert digest(amounts) == case["sha256"]


@pytest.mark.parametrize("number", range(len(GOLDEN["packet_amount"])))
def test_golden_amounts_of_the_largest_envelopes(number):
    case = GOLDEN["packet_amount"][number]
    for packet, amount in case["amounts"].items():
        assert native.packet_amount(int(packet), **terms_of(case)) == amount


def test_a_packet_that_is_not_there_is_refused(impl):
    with pytest.raises(ValueError, match=r"packet must be within 0 \.\. 9, not 10"):
        impl.packet_amount(10, 100, 10)
    with pytest.raises(TypeError, match="packet must be an integer, not True"):
        impl.packet_amount(True, 100, 10)


@pytest.mark.parametrize(("max_", "total"), [(10, 101), (None, 9)])
def test_bounds_that_are_not_feasible_are_refused(impl, max_, total):
    with pytest.raises(ValueError, match=f"total must be at (least|most) packets \\* (min|max) = 1?.*, not {total}"):
        impl.split(total, 10, max=max_)


def test_without_a_seed_every_split_is_a_new_one(impl):
    splits = {tuple(impl.split(10**12, 8)) for _ in range(20)}
    assert len(splits) == 20
