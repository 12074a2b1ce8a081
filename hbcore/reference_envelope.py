"""Envelopes in plain Python: a fixed sum split at random into a fixed number of packets, and the claims of them.

The twin of ``envelope.pyx`` and ``deck.pyx``. The lock-free protocol of slots, index and vacancy tree, which exists for
races and deaths only, has no twin: one dictionary of claims stands for it.
"""

import time
from itertools import chain
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from hbcore.errors import AuditError, ConflictError
from hbcore.records import CLAIM_DTYPE, SNAPSHOT_DTYPE, Amounts, EnvelopeStats, State, Status
from hbcore.reference_law import rotation, split_stratum, stratum_count, stratum_of, stratum_start
from hbcore.reference_user import user_identity, user_key, user_list
from hbcore.terms import Terms

if TYPE_CHECKING:
    from hbcore.reference import Engine

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
