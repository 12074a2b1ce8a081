"""The laws in plain Python: the keyed random stream, and pure functions from parameters to amounts.

This is the twin of ``stream.pyx`` and ``law.pyx``, with the reasons and the sources. It relies on ``terms.py`` alone.
"""

from collections.abc import Iterator
from math import prod
from os import urandom

import numpy as np

from hbcore.terms import LAWS, LawName, Terms, envelope_terms, integer

MASK32 = (1 << 32) - 1

# ---- stream: the keyed random stream and unbiased integers ------------------------------------------------------

DOMAIN_SPLIT = 0
DOMAIN_ROTATION = 1
SHUFFLE_STEPS = 6


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> list[int]:
    """Return one ChaCha20 block as 16 little-endian 32-bit words (RFC 8439, section 2.3)."""
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    start += [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)]
    start += [counter & MASK32]
    start += [int.from_bytes(nonce[i : i + 4], "little") for i in range(0, 12, 4)]
    x = list(start)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for target, source, mixed, shift in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[target] = (x[target] + x[source]) & MASK32
            x[mixed] ^= x[target]
            x[mixed] = ((x[mixed] << shift) | (x[mixed] >> (32 - shift))) & MASK32

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(x[i] + start[i]) & MASK32 for i in range(16)]


class Stream:
    """Unbiased integers from the ChaCha20 keystream of a 32-byte seed.

    The nonce is the domain (4 bytes, little-endian) and a 64-bit index, so every stratum has a stream of its own.
    Bounds up to 2**32 cost one 32-bit word, larger ones two; the map to the bound is Lemire's multiplication with
    rejection ("Fast Random Integer Generation in an Interval", 2019), which is exact.
    """

    def __init__(self, seed: bytes, domain: int, index: int) -> None:
        self._words = self._keystream(seed, domain.to_bytes(4, "little") + index.to_bytes(8, "little"))

    @staticmethod
    def _keystream(seed: bytes, nonce: bytes) -> Iterator[int]:
        counter = 0
        while True:
            yield from chacha20_block(seed, counter, nonce)
            counter += 1

    def fraction(self, bound: int) -> int:
        """Return a 64-bit fraction of one that, multiplied by ``bound``, has a uniform integer part."""
        bits = 32 if bound <= 1 << 32 else 64
        while True:
            word = next(self._words)
            if bits == 64:
                word |= next(self._words) << 32
            if word * bound % (1 << bits) >= (1 << bits) % bound:
                return word << (64 - bits)

    def below(self, bound: int) -> int:
        """Return a uniform integer within ``0 .. bound - 1``; ``1 <= bound <= 2**64``."""
        return self.fraction(bound) * bound >> 64

    def shuffle(self, values: list[int]) -> None:
        """Shuffle at most 1,024 values in place (Fisher and Yates, from the last to the second).

        One fraction serves six steps: the digits in mixed radix of a uniform integer below the product of their bounds
        are one uniform integer below each bound (Brackett-Rozinsky and Lemire, "Batched Ranged Random Integer
        Generation", 2024). The product is below 2**60.
        """
        for last in range(len(values) - 1, 0, -SHUFFLE_STEPS):
            steps = range(last, max(0, last - SHUFFLE_STEPS), -1)
            fraction = self.fraction(prod(i + 1 for i in steps))
            for i in steps:
                j, fraction = divmod(fraction * (i + 1), 1 << 64)
                values[i], values[j] = values[j], values[i]


# ---- law: pure functions from parameters to amounts -------------------------------------------------------------

EQUAL, DOUBLE_MEAN, DIRICHLET = LAWS
STRATUM_SIZE = 1024
REJECTION_CELLS = 512
ROUNDS = 48


def stratum_count(packets: int) -> int:
    """Return the number of strata, of at most 1,024 packets each, into which an envelope is cut."""
    return -(-packets // STRATUM_SIZE)


def stratum_start(packets: int, stratum: int) -> int:
    """Return the first position of a stratum; the sizes of strata differ by at most one."""
    size, larger = divmod(packets, stratum_count(packets))
    return stratum * size + min(stratum, larger)


def stratum_of(packets: int, position: int) -> int:
    """Return the stratum that a position belongs to."""
    size, larger = divmod(packets, stratum_count(packets))
    if position < larger * (size + 1):
        return position // (size + 1)
    return larger + (position - larger * (size + 1)) // size


def rotation(terms: Terms) -> int:
    """Return the secret offset between packet numbers and positions.

    Strata differ in size by one packet and in share by one unit. Every packet is therefore put at a position that is
    uniform over the whole envelope: packet ``i`` is at ``(i + rotation) % packets``. So all packets have exactly the
    same distribution, not almost.
    """
    if stratum_count(terms.packets) == 1:
        return 0
    assert terms.seed is not None
    return Stream(terms.seed, DOMAIN_ROTATION, 0).below(terms.packets)


def stratum_share(terms: Terms, stratum: int) -> int:
    """Return the exact part of the total that a stratum carries; the shares of all strata sum to the total."""
    start, end = stratum_start(terms.packets, stratum), stratum_start(terms.packets, stratum + 1)
    return terms.total * end // terms.packets - terms.total * start // terms.packets


def split_stratum(terms: Terms, stratum: int) -> list[int]:
    """Return the amounts of one stratum, by position."""
    assert terms.seed is not None
    count = stratum_start(terms.packets, stratum + 1) - stratum_start(terms.packets, stratum)
    # Laws work on what lies above the minimum: shares within 0 .. cap that sum to excess.
    excess = stratum_share(terms, stratum) - count * terms.min
    cap = min(terms.max - terms.min, excess)
    stream = Stream(terms.seed, DOMAIN_SPLIT, stratum)
    if terms.law == EQUAL:
        shares = split_equal(stream, excess, count)
    elif terms.law == DOUBLE_MEAN:
        shares = split_double_mean(stream, excess, count, cap)
    else:
        shares = split_dirichlet(stream, excess, count, cap, terms.concentration)
    return [terms.min + share for share in shares]


def split_equal(stream: Stream, excess: int, count: int) -> list[int]:
    """Split so that shares differ by at most one; which shares get the odd units is random."""
    base, odd = divmod(excess, count)
    shares = [base + 1] * odd + [base] * (count - odd)
    if odd:
        stream.shuffle(shares)
    return shares


def split_double_mean(stream: Stream, excess: int, count: int, cap: int) -> list[int]:
    """Draw each share uniformly between nothing and twice the mean of what remains, then shuffle.

    The range is clipped so that the rest stays feasible: no share is above ``cap``, and nothing is left over.
    """
    shares = []
    rest = excess
    for left in range(count, 1, -1):
        low = max(0, rest - (left - 1) * cap)
        high = min(cap, 2 * rest // left)
        share = low + stream.below(high - low + 1)
        shares.append(share)
        rest -= share
    shares.append(rest)
    stream.shuffle(shares)
    return shares


def split_dirichlet(stream: Stream, excess: int, count: int, cap: int, concentration: int) -> list[int]:
    """Cut into ``concentration * count`` cells uniformly over all compositions and add the cells up by packet.

    With a cap that binds, the law is the same *given that* no share exceeds the cap: compositions are drawn until one
    fits. Where the cap is so tight that this fails (one time in six for 12 packets, ``c = 1`` and twice the mean) an
    even split is brought to that law by ``resplit``; the tries before cost no more than that.
    """
    if cap >= excess:
        return sum_cells(composition(stream, excess, concentration * count), concentration)
    # Uniform splits stay uniform when every share is replaced by its distance from the cap, so take the looser side.
    mirrored = concentration == 1 and 2 * excess > count * cap
    target = count * cap - excess if mirrored else excess
    for _ in range(max(1, REJECTION_CELLS // (concentration * count))):
        shares = sum_cells(composition(stream, target, concentration * count), concentration)
        if max(shares) <= cap:
            return [cap - share for share in shares] if mirrored else shares
    return resplit(stream, excess, count, cap, concentration)


def sum_cells(cells: list[int], concentration: int) -> list[int]:
    """Add up ``concentration`` neighbouring cells at a time."""
    return [sum(cells[i : i + concentration]) for i in range(0, len(cells), concentration)]


def composition(stream: Stream, total: int, parts: int) -> list[int]:
    """Return ``parts`` non-negative integers that sum to ``total``, uniform over all such lists (stars and bars)."""
    if parts == 1:
        return [total]
    places = total + parts - 1
    if total >= parts - 1:
        bars = distinct(stream, parts - 1, places)
        return [after - before - 1 for before, after in zip([-1, *bars], [*bars, places], strict=True)]
    cells = [0] * parts
    for order, star in enumerate(distinct(stream, total, places)):
        cells[star - order] += 1
    return cells


def distinct(stream: Stream, count: int, bound: int) -> list[int]:
    """Return ``count`` different integers below ``bound``, sorted, uniform over all such sets.

    Values are drawn until there are enough different ones; a value that was drawn twice counts once.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        chosen += [stream.below(bound) for _ in range(count - len(chosen))]
        chosen = sorted(set(chosen))
    return chosen


def resplit(stream: Stream, excess: int, count: int, cap: int, concentration: int) -> list[int]:
    """Bring an even split to the capped Dirichlet law by re-splitting random pairs of shares, then shuffle.

    A round folds the packets at a random place: on either side the first share meets the last, the second the last but
    one, and so on inwards. Each pair divides its sum anew, by the exact law of two shares given their sum. The law of
    all shares is stationary under every pair, and each round takes away at least a third of what is left of any
    deviation, whatever the cap and the concentration: ``bench/mixing.py`` prints the rates (without a cap and for c = 1
    it is the gap of Caputo, "On the spectral gap of the Kac walk and other binary collision processes", 2008). After 48
    rounds about (2/3)**48 < 2**-28 is left, which takes 2**56 packets to see. Sum, cap and exchangeability are exact
    whatever the number of rounds.
    """
    shares = [excess // count + (i < excess % count) for i in range(count)]
    for _ in range(ROUNDS):
        fold = stream.below(count)
        for low, high in ((0, fold), (fold + 1, count - 1)):
            while low < high:
                both = shares[low] + shares[high]
                shares[low] = pair_share(stream, both, cap, concentration)
                shares[high] = both - shares[low]
                low, high = low + 1, high - 1
    stream.shuffle(shares)
    return shares


def pair_share(stream: Stream, both: int, cap: int, concentration: int) -> int:
    """Return one of two shares that sum to ``both``, neither above ``cap``, by the Dirichlet law of two.

    A share ``x`` has the weight ``(x + 1) * ... * (x + c - 1)``, to which the number of ways to cut it into ``c`` cells
    is proportional. A uniform proposal is accepted with the weight of the pair over that of the even pair, factor by
    factor: factor ``k`` is ``1 - (half - x) * (other - x) / ((half + k) * (other + k))`` with ``half + other == both``,
    which takes two draws.
    """
    low, high = max(0, both - cap), min(both, cap)
    half = both // 2
    other = both - half
    while True:
        share = low + stream.below(high - low + 1)
        x = min(share, both - share)
        if not any(
            stream.below(half + k) < half - x and stream.below(other + k) < other - x for k in range(1, concentration)
        ):
            return share


def checked_terms(
    total: int, packets: int, law: LawName, min: int, max: int | None, concentration: int, seed: bytes | None
) -> Terms:
    """Return the checked terms of an envelope, with a fresh seed where none is given."""
    terms = envelope_terms(total, packets, law, min, max, concentration, seed)
    return terms if terms.seed is not None else terms._replace(seed=urandom(32))


def split(
    total: int,
    packets: int,
    law: LawName = "double_mean",
    min: int = 1,
    max: int | None = None,
    concentration: int = 3,
    seed: bytes | None = None,
) -> np.ndarray:
    """Return the amounts of all packets of an envelope, by packet number, as an int64 array."""
    terms = checked_terms(total, packets, law, min, max, concentration, seed)
    amounts = [amount for stratum in range(stratum_count(terms.packets)) for amount in split_stratum(terms, stratum)]
    return np.roll(np.array(amounts, np.int64), -rotation(terms))


def packet_amount(
    packet: int,
    total: int,
    packets: int,
    law: LawName = "double_mean",
    min: int = 1,
    max: int | None = None,
    concentration: int = 3,
    seed: bytes | None = None,
) -> int:
    """Return the amount of one packet, as ``split`` would give it, from its stratum alone."""
    terms = checked_terms(total, packets, law, min, max, concentration, seed)
    position = (integer("packet", packet, 0, terms.packets - 1) + rotation(terms)) % terms.packets
    stratum = stratum_of(terms.packets, position)
    return split_stratum(terms, stratum)[position - stratum_start(terms.packets, stratum)]
