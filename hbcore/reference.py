"""hbcore in plain Python: the oracle of the tests, the baseline of the benches, and the place to learn the algorithms.

The functions and classes mirror the native modules name by name (``stream``, ``law``, ``user``, ``envelope``,
``engine``) and give the same answers and the same amounts, bit for bit. The reference keeps its promises
single-threaded and in memory; the lock-free protocol of slots, index and vacancy tree, which exists for races and
deaths only, has no twin here: one dictionary of claims stands for it. It is never a fallback for the native core.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from math import prod
from os import urandom
from typing import NoReturn, Self

import numpy as np

from hbcore.errors import AuditError, ConflictError, EngineClosedError, NotFoundError
from hbcore.records import (
    CLAIM_DTYPE,
    SNAPSHOT_DTYPE,
    Amounts,
    AuditReport,
    EnvelopeStats,
    State,
    Status,
)
from hbcore.terms import (
    KEY_SIZE,
    MAX_CAPACITY,
    MIN_CAPACITY,
    USER_LIMIT,
    Terms,
    array_list,
    check_lookup,
    check_same_terms,
    envelope_terms,
    exact_bytes,
    file_mode,
    index,
    integer,
    object_name,
    shown,
)

MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1

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
        """Shuffle in place at most 1,024 values (Fisher and Yates, from the last to the second).

        One fraction serves six steps: a uniform integer below the product of their bounds has, as its digits in mixed
        radix, one uniform integer below each (Brackett-Rozinsky and Lemire, "Batched Ranged Random Integer
        Generation", 2024). The product is below 2**60.
        """
        for last in range(len(values) - 1, 0, -SHUFFLE_STEPS):
            steps = range(last, max(0, last - SHUFFLE_STEPS), -1)
            fraction = self.fraction(prod(i + 1 for i in steps))
            for i in steps:
                j, fraction = divmod(fraction * (i + 1), 1 << 64)
                values[i], values[j] = values[j], values[i]


# ---- law: pure functions from parameters to amounts -------------------------------------------------------------

EQUAL, DOUBLE_MEAN, DIRICHLET = range(3)
STRATUM_SIZE = 1024
REJECTION_CELLS = 512
ROUNDS = 48


def stratum_count(packets: int) -> int:
    """Return into how many strata of at most 1,024 packets an envelope is cut."""
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
    """Split so that shares differ by at most one; who gets the odd units is random."""
    base, odd = divmod(excess, count)
    shares = [base + 1] * odd + [base] * (count - odd)
    if odd:
        stream.shuffle(shares)
    return shares


def split_double_mean(stream: Stream, excess: int, count: int, cap: int) -> list[int]:
    """Draw each share uniformly between nothing and twice the mean of what remains, then shuffle.

    The range is clipped so that the rest stays feasible: nobody above ``cap``, nothing left over.
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
    # Uniform splits stay uniform when every share is replaced by its distance from the cap: take the looser side.
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

    Values are drawn until there are enough different ones; what was drawn twice counts once.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        chosen += [stream.below(bound) for _ in range(count - len(chosen))]
        chosen = sorted(set(chosen))
    return chosen


def resplit(stream: Stream, excess: int, count: int, cap: int, concentration: int) -> list[int]:
    """Bring an even split to the capped Dirichlet law by re-splitting random pairs of shares, then shuffle.

    A round folds the packets at a random place, so that the first meets the last of either side and so on inwards;
    each pair divides its sum anew, by the exact law of two shares given their sum. The law of all shares is
    stationary under every pair, and each round takes away at least a third of what is left of any deviation, whatever
    the cap and the concentration: ``bench/mixing.py`` prints the rates (without a cap and for c = 1 it is the gap of
    Caputo, "On the spectral gap of the Kac walk and other binary collision processes", 2008). After 48 rounds about
    (2/3)**48 < 2**-28 is left, which takes 2**56 packets to see. Sum, cap and exchangeability are exact whatever the
    number of rounds.
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

    A share ``x`` has the weight ``(x + 1) * ... * (x + c - 1)`` (so many ways to cut it into ``c`` cells). A uniform
    proposal is accepted with the weight of the pair over that of the even pair, factor by factor: factor ``k`` is
    ``1 - (half - x) * (other - x) / ((half + k) * (other + k))`` with ``half + other == both``: two draws.
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
    total: int, packets: int, law: str, min: int, max: int | None, concentration: int, seed: bytes | None
) -> Terms:
    """Return the terms of an envelope, with a fresh seed where there is none."""
    terms = envelope_terms(total, packets, law, min, max, concentration, seed)
    return terms if terms.seed is not None else terms._replace(seed=urandom(32))


def split(
    total: int,
    packets: int,
    law: str = "double_mean",
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
    law: str = "double_mean",
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


# ---- user: users to keyed hashes --------------------------------------------------------------------------------


def siphash128(key: bytes, message: bytes) -> bytes:
    """Return SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012)."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(i: int, shift: int) -> None:
        v[i] = ((v[i] << shift) | (v[i] >> (64 - shift))) & MASK64

    def rounds(count: int) -> None:
        for _ in range(count):
            for a, b, shift, turn in ((0, 1, 13, True), (2, 3, 16, False), (0, 3, 21, False), (2, 1, 17, True)):
                v[a] = (v[a] + v[b]) & MASK64
                rotate(b, shift)
                v[b] ^= v[a]
                if turn:
                    rotate(a, 32)

    tail = len(message) % 8
    padded = message + bytes(7 - tail) + bytes([len(message) & 0xFF])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(4)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    high = v[0] ^ v[1] ^ v[2] ^ v[3]
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def user_identity(user: object) -> bytes | int:
    """Return what identifies a user: its bytes (a str as UTF-8), or its integer. The two never meet."""
    if isinstance(user, str):
        try:
            user = str.encode(user)
        except UnicodeEncodeError as error:
            raise ValueError(f"user {user!r} is not valid Unicode: {error.reason}") from None
    if isinstance(user, bytes):
        if not 1 <= len(user) <= USER_LIMIT:
            raise ValueError(f"user must be 1 .. {USER_LIMIT} bytes long, not {len(user)}")
        return bytes(user)
    number = index(user)
    if number is None:
        raise TypeError(f"user must be a str, bytes or int, not {user!r} ({type(user).__name__})")
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"user must be within -2**63 .. 2**64 - 1, not {shown(number)}")
    return number


def user_key(key: bytes, identity: bytes | int) -> bytes:
    """Return the 16-byte keyed hash of a user.

    Bytes are hashed under the first half of the key. Integers are hashed under the second half, as the 8 bytes of
    their two's complement and one byte that tells the sign, so that -1 and 2**64 - 1 are two users.
    """
    if isinstance(identity, bytes):
        return siphash128(key[:16], identity)
    return siphash128(key[16:], (identity & MASK64).to_bytes(8, "little") + bytes([identity < 0]))


def user_list(users: object) -> list[bytes | int]:
    """Return the identities of all users of a batch, or raise for the first bad one, naming its index."""
    if isinstance(users, np.ndarray):
        if isinstance(users, np.ma.MaskedArray):
            raise TypeError("users must be an array without a mask; drop the masked users first (users.compressed())")
        if users.ndim != 1:
            raise ValueError(f"users must have one dimension, not {users.ndim}")
        if users.dtype.kind not in "iuSUOT":
            raise TypeError(f"users must be an array of integers, bytes or str, not of {users.dtype}")
        users = array_list(users)
    if isinstance(users, (str, bytes, bytearray, memoryview)) or not isinstance(users, Iterable):
        raise TypeError(f"users must be an integer array or a sequence of users, not {type(users).__name__}")
    identities = []
    for position, user in enumerate(users):
        try:
            identities.append(user_identity(user))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"users[{position}]: {error}") from None
    return identities


# ---- envelope and engine: the public classes --------------------------------------------------------------------

BLOCK_SIZE = 64


class Claim:
    """The answer to a claim: truthy if the user holds a packet."""

    __slots__ = ("_amount", "_packet", "_status")

    def __init__(self, status: Status, amount: int, packet: int) -> None:
        self._status = status
        self._amount = amount
        self._packet = packet

    @property
    def status(self) -> Status:
        """Why the user holds a packet, or does not."""
        return self._status

    @property
    def amount(self) -> int:
        """What the packet is worth in minor units; 0 without one."""
        return self._amount

    @property
    def packet(self) -> int:
        """The number of the packet, from 0; -1 without one."""
        return self._packet

    def __bool__(self) -> bool:
        return self.packet >= 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Claim):
            return NotImplemented
        return (self.status, self.amount, self.packet) == (other.status, other.amount, other.packet)

    def __hash__(self) -> int:
        return hash((self.status, self.amount, self.packet))

    def __repr__(self) -> str:
        return f"Claim(status=Status.{self.status.name}, amount={self.amount}, packet={self.packet})"


SOLD_OUT = Claim(Status.SOLD_OUT, 0, -1)
CLOSED = Claim(Status.CLOSED, 0, -1)


class Held:
    """What the reference keeps of one claim."""

    __slots__ = ("granted_at_ms", "packet", "state")

    def __init__(self, packet: int) -> None:
        self.packet = packet
        self.state = State.GRANTED
        self.granted_at_ms = time.time_ns() // 1_000_000


class Envelope:
    """A fixed sum split at random into a fixed number of packets; made by ``Engine.envelope``."""

    def __init__(self, engine: "Engine", name: str, terms: Terms) -> None:
        self._engine = engine
        self.name = name
        self.terms = terms
        self._rotation = rotation(terms)
        self._strata: dict[int, list[int]] = {}
        self._claims: dict[bytes | int, Held] = {}
        self._taken: set[int] = set()  # packets that are not free
        self._taken_in_block: dict[int, int] = {}
        self._cursor = 0
        self._closed = False

    def amount(self, packet: int) -> int:
        """Return the amount of a packet: a pure function of the terms."""
        packets = self.terms.packets
        position = (packet + self._rotation) % packets
        stratum = stratum_of(packets, position)
        amounts = self._strata.get(stratum)
        if amounts is None:
            amounts = self._strata[stratum] = split_stratum(self.terms, stratum)
        return amounts[position - stratum_start(packets, stratum)]

    def _take(self) -> int | None:
        """Take the first free packet from the cursor on: its block to the end, that block's start, the next block."""
        packets, taken, cursor = self.terms.packets, self._taken, self._cursor
        packet: int | None = cursor
        if cursor in taken:
            packet = self._search(cursor)
            if packet is None:
                return None
        assert packet is not None
        taken.add(packet)
        block = packet // BLOCK_SIZE
        self._taken_in_block[block] = self._taken_in_block.get(block, 0) + 1
        self._cursor = packet + 1 if packet + 1 < packets else 0
        return packet

    def _search(self, cursor: int) -> int | None:
        packets, taken = self.terms.packets, self._taken
        if len(taken) == packets:
            return None
        own = cursor // BLOCK_SIZE
        end = min(own * BLOCK_SIZE + BLOCK_SIZE, packets)
        for packet in chain(range(cursor, end), range(own * BLOCK_SIZE, cursor)):
            if packet not in taken:
                return packet
        blocks = -(-packets // BLOCK_SIZE)
        for step in range(1, blocks):
            block = (own + step) % blocks
            if self._taken_in_block.get(block, 0) < BLOCK_SIZE:
                for packet in range(block * BLOCK_SIZE, min(block * BLOCK_SIZE + BLOCK_SIZE, packets)):
                    if packet not in taken:
                        return packet
        return None

    def _is_closed(self) -> bool:
        expires_at_ms = self.terms.expires_at_ms
        return self._closed or (expires_at_ms != 0 and time.time_ns() // 1_000_000 >= expires_at_ms)

    def claim(self, user: object, /) -> Claim:
        """Give the user a packet, or tell why not; the same answer when asked again."""
        self._engine._check_open()
        return self._claim(user_identity(user))

    def _claim(self, identity: bytes | int) -> Claim:
        held = self._claims.get(identity)
        if held is not None:
            return Claim(Status.REPEATED, self.amount(held.packet), held.packet)
        if self._is_closed():
            return CLOSED
        packet = self._take()
        if packet is None:
            return SOLD_OUT
        self._claims[identity] = Held(packet)
        return Claim(Status.GRANTED, self.amount(packet), packet)

    def claim_many(self, users: object, /) -> np.ndarray:
        """Claim for every user in order; return one ``CLAIM_DTYPE`` row each. A bad user grants nothing."""
        self._engine._check_open()
        identities = user_list(users)
        answers = np.empty(len(identities), CLAIM_DTYPE)
        for i, identity in enumerate(identities):
            claim = self._claim(identity)
            answers[i] = (claim.status, claim.amount, claim.packet)
        return answers

    def find(self, user: object, /) -> Claim | None:
        """Return the user's claim, or None; never grants."""
        self._engine._check_open()
        held = self._claims.get(user_identity(user))
        return None if held is None else Claim(Status.REPEATED, self.amount(held.packet), held.packet)

    def settle(self, user: object, /) -> Claim | None:
        """The payout went through: make the user's claim final. None if the user holds no packet."""
        claim = self.find(user)
        if claim is not None:
            self._claims[user_identity(user)].state = State.SETTLED
        return claim

    def release(self, user: object, /) -> Claim | None:
        """The payout failed: give the user's packet back for others. None if the user holds no packet."""
        claim = self.find(user)
        if claim is not None:
            identity = user_identity(user)
            if self._claims[identity].state == State.SETTLED:
                raise ConflictError(
                    f"packet {claim.packet} of envelope {self.name!r} is settled: final, not to be released"
                )
            del self._claims[identity]
            if not self._closed:  # a closed envelope has refunded the packet
                self._taken.remove(claim.packet)
                self._taken_in_block[claim.packet // BLOCK_SIZE] -= 1
        return claim

    def claims(self) -> np.ndarray:
        """Return the live claims, ordered by packet, as ``SNAPSHOT_DTYPE`` rows."""
        self._engine._check_open()
        rows = [
            (
                held.packet,
                user_key(self._engine._key, identity),
                self.amount(held.packet),
                int(held.state),
                np.datetime64(held.granted_at_ms, "ms"),
            )
            for identity, held in self._claims.items()
        ]
        return np.array(sorted(rows, key=lambda row: row[0]), SNAPSHOT_DTYPE)

    def stats(self) -> EnvelopeStats:
        """Count packets and sum amounts."""
        self._engine._check_open()
        settled = [held.packet for held in self._claims.values() if held.state == State.SETTLED]
        granted = [held.packet for held in self._claims.values() if held.state == State.GRANTED]
        amount_settled, amount_granted = sum(map(self.amount, settled)), sum(map(self.amount, granted))
        total, packets = self.terms.total, self.terms.packets
        left = 0 if self._closed else packets - len(self._claims)
        amount_left = 0 if self._closed else total - amount_settled - amount_granted
        amounts = Amounts(total, amount_granted, amount_settled, amount_left)
        return EnvelopeStats(packets, len(granted), len(settled), left, amounts)

    def close(self) -> int:
        """End the claiming and return what was refunded in minor units; the same answer when called again."""
        stats = self.stats()
        self._closed = True
        return stats.amounts.total - stats.amounts.granted - stats.amounts.settled

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"envelope {self.name!r} lives in a memory engine, which other processes cannot open; use a file "
            "(hbcore.Engine(path)) to pickle it, or fork"
        )

    def __repr__(self) -> str:
        return f"<Envelope {self.name!r}: {self.terms.total} in {self.terms.packets} packets, engine in memory>"

    def _audit(self) -> None:
        amounts = [a for s in range(stratum_count(self.terms.packets)) for a in split_stratum(self.terms, s)]
        if sum(amounts) != self.terms.total:
            raise AuditError(f"the packets of envelope {self.name!r} sum to {sum(amounts)}, not {self.terms.total}")
        if not self.terms.min <= min(amounts) <= max(amounts) <= self.terms.max:
            raise AuditError(f"a packet of envelope {self.name!r} is outside {self.terms.min} .. {self.terms.max}")
        packets = [held.packet for held in self._claims.values()]
        if len(set(packets)) != len(packets):
            raise AuditError(f"a packet of envelope {self.name!r} is held by two users")


class Engine:
    """One world of envelopes in private memory."""

    def __init__(
        self, path: None = None, *, capacity: int | None = None, mode: int = 0o600, key: bytes | None = None
    ) -> None:
        if capacity is not None:
            integer("capacity", capacity, MIN_CAPACITY, MAX_CAPACITY)
        file_mode(mode)
        if path is not None:
            raise ValueError(f"path must be None: the reference keeps its engines in memory, not in {path!r}")
        self._key = urandom(KEY_SIZE) if key is None else exact_bytes("key", key, KEY_SIZE)
        self._envelopes: dict[bytes, Envelope] = {}
        self.closed = False

    def _check_open(self) -> None:
        if self.closed:
            raise EngineClosedError("the engine is closed; open it anew with hbcore.Engine(...)")

    def envelope(
        self,
        name: str,
        total: int | None = None,
        packets: int | None = None,
        law: str = "double_mean",
        min: int = 1,
        max: int | None = None,
        concentration: int = 3,
        seed: bytes | None = None,
        expires_at: object = None,
    ) -> Envelope:
        """Get the envelope of that name, or create it."""
        self._check_open()
        encoded = object_name(name)
        name = encoded.decode()
        envelope = self._envelopes.get(encoded)
        if total is None and packets is None:
            check_lookup(law, min, max, concentration, seed, expires_at)
            if envelope is None:
                raise NotFoundError(f"there is no envelope {name!r}; give total and packets to create it")
            return envelope
        terms = envelope_terms(total, packets, law, min, max, concentration, seed, expires_at)
        if envelope is not None:
            check_same_terms(name, envelope.terms, terms)
            return envelope
        if terms.seed is None:
            terms = terms._replace(seed=urandom(32))
        envelope = self._envelopes[encoded] = Envelope(self, name, terms)
        return envelope

    def envelopes(self) -> list[Envelope]:
        """Return all envelopes of the engine, in the order of their making."""
        self._check_open()
        return list(self._envelopes.values())

    def user_hash(self, user: object, /) -> bytes:
        """Return the 16-byte keyed hash under which a user appears in ``Envelope.claims()``."""
        self._check_open()
        return user_key(self._key, user_identity(user))

    def audit(self) -> AuditReport:
        """Prove that what was given out and what is left add up; raise AuditError naming the first thing wrong."""
        self._check_open()
        stats = []
        refunded = 0
        for envelope in self._envelopes.values():
            envelope._audit()
            stats.append(envelope.stats())
            refunded += stats[-1].packets - stats[-1].granted - stats[-1].settled - stats[-1].remaining
        return AuditReport(
            len(stats),
            sum(s.packets for s in stats),
            sum(s.granted for s in stats),
            sum(s.settled for s in stats),
            refunded,
            sum(s.amounts.total for s in stats),
            sum(s.amounts.granted for s in stats),
            sum(s.amounts.settled for s in stats),
        )

    def close(self) -> None:
        """Close the engine; what is asked of it or its envelopes afterwards raises EngineClosedError."""
        self.closed = True

    @property
    def path(self) -> None:
        """None: the reference keeps its engines in memory."""
        return None

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle an engine; open it anew with hbcore.Engine(...)")

    def __repr__(self) -> str:
        return f"<{'closed ' if self.closed else ''}Engine in memory>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
