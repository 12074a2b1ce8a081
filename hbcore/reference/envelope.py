"""Envelopes in plain Python: a fixed sum split at random into a fixed number of packets, and the claims of them.

This is the twin of ``envelope.pyx`` and ``packets.pyx``. The lock-free protocol of slots, index and free map, which
exists for races and deaths only, has no twin: one dictionary of claims stands for it.

An envelope ends in one of three ways: by ``close``, by a call that finds it expired, or by a sweep. All of them call
``_close``: what nobody has claimed goes to the budget there, once, and every claim that goes back later goes to the
budget as well.
"""

from itertools import chain
from os import urandom
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from hbcore.errors import AuditError, ConflictError
from hbcore.reference.hold import Hold
from hbcore.reference.law import rotation, split_stratum, stratum_count, stratum_of, stratum_start
from hbcore.reference.user import user_identity, user_key, user_list
from hbcore.terms import SEED_SIZE, Terms, check_room, check_same_top_up, integer, top_up_terms
from hbcore.types import CLAIM_DTYPE, SNAPSHOT_DTYPE, Amounts, EnvelopeStats, State, Status

if TYPE_CHECKING:
    from hbcore.reference.budget import Budget
    from hbcore.reference.engine import Engine

Claimant = tuple[bytes | int, int]
"""The holder of a claim: a user, and which of its packets (``nth``) the claim is for."""

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
        """Why the user holds a packet, or holds none."""
        return self._status

    @property
    def amount(self) -> int:
        """Worth of the packet in minor units; 0 without a packet."""
        return self._amount

    @property
    def packet(self) -> int:
        """Number of the packet, from 0; -1 without a packet."""
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
    """The record that the reference keeps of one claim.

    ``granted_at_ms`` is the time of day; ``started_at_ms`` is the time from which ``hold_ms`` counts, by the clock that
    nobody can set.
    """

    __slots__ = ("granted_at_ms", "packet", "started_at_ms", "state")

    def __init__(self, packet: int, granted_at_ms: int, started_at_ms: int) -> None:
        self.packet = packet
        self.state = State.GRANTED
        self.granted_at_ms = granted_at_ms
        self.started_at_ms = started_at_ms


class Tranche:
    """A tranche: what an envelope was made with, or what a top-up has added; packets from ``start`` on, and terms."""

    __slots__ = ("_rotation", "_strata", "start", "terms")

    def __init__(self, terms: Terms, start: int) -> None:
        self.terms = terms
        self.start = start
        self._rotation = rotation(terms)
        self._strata: dict[int, list[int]] = {}

    def amount(self, packet: int) -> int:
        """Return the amount of a packet: a pure function of the terms."""
        packets = self.terms.packets
        position = (packet - self.start + self._rotation) % packets
        stratum = stratum_of(packets, position)
        amounts = self._strata.get(stratum)
        if amounts is None:
            amounts = self._strata[stratum] = split_stratum(self.terms, stratum)
        return amounts[position - stratum_start(packets, stratum)]


class Envelope:
    """A fixed sum split at random into a fixed number of packets; made by ``Engine.envelope`` or ``Budget.envelope``.

    A claim that was not settled within ``hold_ms`` has lapsed: no answer speaks of it again, and it is given back
    before its user's next claim, settle or release. Others take free packets as long as there are any; the first claim
    that finds none gives back all that have lapsed. In a closed envelope the money of a lapsed claim is the budget's
    once the claim is given back, and not before.
    """

    def __init__(self, engine: "Engine", name: str, terms: Terms, budget: "Budget | None" = None) -> None:
        self._engine = engine
        self.name = name
        self.terms = terms
        self.budget = budget
        self._tranches = [Tranche(terms, 0)]
        self._top_ups: dict[bytes | int, Tranche] = {}
        self._claims: dict[Claimant, Held] = {}
        self._taken: set[int] = set()  # packets that are not free
        self._taken_in_block: dict[int, int] = {}
        self._cursor = 0
        self._closed = False
        self._refunded = 0

    def amount(self, packet: int) -> int:
        """Return the amount of a packet: a pure function of the terms of its tranche."""
        return next(tranche for tranche in reversed(self._tranches) if packet >= tranche.start).amount(packet)

    @property
    def _packets(self) -> int:
        return self._tranches[-1].start + self._tranches[-1].terms.packets

    @property
    def _total(self) -> int:
        return sum(tranche.terms.total for tranche in self._tranches)

    def _take(self) -> int | None:
        """Take the first free packet, or return None if there is none.

        The search goes from the cursor to the end of its block, then from that block's start, then through the next
        blocks.
        """
        packets, taken, cursor = self._packets, self._taken, self._cursor
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
        packets, taken = self._packets, self._taken
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

    # ---- what goes back ---------------------------------------------------------------------------------------------

    def _is_gone(self, held: Held) -> bool:
        """Return whether a claim has lapsed.

        Both times are whole milliseconds, rounded down. So only if they are more than ``hold_ms`` apart have at least
        ``hold_ms`` really passed.
        """
        hold_ms = self.terms.hold_ms
        if hold_ms == 0 or held.state != State.GRANTED:
            return False
        return self._engine._boot_ms() - held.started_at_ms > hold_ms

    def _give_back(self, claimant: Claimant) -> None:
        """End a claim: its packet is free again, or refunded if the envelope is closed."""
        packet = self._claims.pop(claimant).packet
        if self._closed:
            self._refund(self.amount(packet))
        else:
            self._taken.remove(packet)
            self._taken_in_block[packet // BLOCK_SIZE] -= 1

    def _give_back_gone(self) -> int:
        """Give back every claim that has lapsed; return their number."""
        gone = [claimant for claimant, held in self._claims.items() if self._is_gone(held)]
        for claimant in gone:
            self._give_back(claimant)
        return len(gone)

    def _refund(self, amount: int) -> None:
        self._refunded += amount
        if self.budget is not None:
            self.budget._give(amount)

    def _close(self) -> None:
        """End the claiming and refund what nobody holds."""
        self._give_back_gone()
        if not self._closed:
            self._closed = True
            self._refund(self._total - sum(self.amount(held.packet) for held in self._claims.values()))

    def _has_ended(self) -> bool:
        """Return whether the claiming has ended; a call that finds the envelope expired closes it."""
        expires_at_ms = self.terms.expires_at_ms
        if not self._closed and expires_at_ms != 0 and self._engine._now_ms() >= expires_at_ms:
            self._close()
        return self._closed

    @property
    def closed(self) -> bool:
        """Whether a new user would be answered CLOSED: the envelope was closed, or has expired. Changes nothing."""
        self._engine._check_open()
        expires_at_ms = self.terms.expires_at_ms
        return self._closed or (expires_at_ms != 0 and self._engine._now_ms() >= expires_at_ms)

    def _sweep(self) -> int:
        """End whatever is due; return how many things were ended."""
        gone = self._give_back_gone()
        was_closed = self._closed
        return gone + (self._has_ended() and not was_closed)

    # ---- claims -----------------------------------------------------------------------------------------------------

    def _nth(self, nth: object) -> int:
        return integer("nth", nth, 0, self.terms.per_user - 1)

    def claim(self, user: object, /, nth: int = 0) -> Claim:
        """Give the user a packet, or say why not; the answer is the same when asked again.

        Where the envelope has ``per_user`` packets for a user, ``nth`` says which of them: 0 .. per_user - 1.
        """
        self._engine._check_open()
        return self._claim((user_identity(user), self._nth(nth)))

    def _claim(self, claimant: Claimant) -> Claim:
        held = self._claims.get(claimant)
        if held is not None:
            if not self._is_gone(held):
                self._has_ended()
                return Claim(Status.REPEATED, self.amount(held.packet), held.packet)
            self._give_back(claimant)
        if self._has_ended():
            return CLOSED
        packet = self._take()
        if packet is None and self._give_back_gone():
            packet = self._take()
        if packet is None:
            return SOLD_OUT
        self._claims[claimant] = Held(packet, self._engine._now_ms(), self._engine._boot_ms())
        return Claim(Status.GRANTED, self.amount(packet), packet)

    def claim_many(self, users: object, /, nth: int = 0) -> np.ndarray:
        """Claim for every user in order; return one ``CLAIM_DTYPE`` row each. A bad user grants nothing."""
        self._engine._check_open()
        number = self._nth(nth)
        identities = user_list(users)
        answers = np.zeros(len(identities), CLAIM_DTYPE)
        for i, identity in enumerate(identities):
            claim = self._claim((identity, number))
            answers[i] = (claim.status, claim.amount, claim.packet)
        self._has_ended()
        return answers

    def _find(self, claimant: Claimant) -> Claim | None:
        held = self._claims.get(claimant)
        if held is None or self._is_gone(held):
            return None
        return Claim(Status.REPEATED, self.amount(held.packet), held.packet)

    def find(self, user: object, /, nth: int = 0) -> Claim | None:
        """Return the user's claim, or None; never grants, and changes nothing."""
        self._engine._check_open()
        return self._find((user_identity(user), self._nth(nth)))

    def settle(self, user: object, /, nth: int = 0) -> Claim | None:
        """Make the user's claim final: the payout went through.

        Returns None if the user holds no packet, also if its claim has lapsed: the packet is, or will be, another
        user's, and does not cover a payout that went through meanwhile.
        """
        return self._end(user, nth, State.SETTLED)

    def release(self, user: object, /, nth: int = 0) -> Claim | None:
        """Give the user's packet back for others: the payout failed. Returns None if the user holds no packet."""
        return self._end(user, nth, None)

    def _end(self, user: object, nth: object, state: State | None) -> Claim | None:
        self._engine._check_open()
        claimant = (user_identity(user), self._nth(nth))
        claim = self._find(claimant)
        if claim is None:
            if claimant in self._claims:
                self._give_back(claimant)
        elif state is not None:
            self._claims[claimant].state = state
        elif self._claims[claimant].state == State.SETTLED:
            raise ConflictError(
                f"packet {claim.packet} of envelope {self.name!r} is settled: final, not to be released"
            )
        else:
            self._give_back(claimant)
        return claim

    # ---- the books --------------------------------------------------------------------------------------------------

    def claims(self) -> np.ndarray:
        """Return the live claims, ordered by packet, as ``SNAPSHOT_DTYPE`` rows."""
        self._engine._check_open()
        rows = [
            (
                held.packet,
                user_key(self._engine._key, *claimant),
                self.amount(held.packet),
                int(held.state),
                np.datetime64(held.granted_at_ms, "ms"),
            )
            for claimant, held in self._claims.items()
            if not self._is_gone(held)
        ]
        answers = np.zeros(len(rows), SNAPSHOT_DTYPE)  # np.array would leave old memory between the fields
        answers[:] = sorted(rows, key=lambda row: row[0])
        return answers

    def stats(self) -> EnvelopeStats:
        """Count packets and sum amounts."""
        self._engine._check_open()
        settled = [held.packet for held in self._claims.values() if held.state == State.SETTLED]
        granted = [
            held.packet for held in self._claims.values() if held.state == State.GRANTED and not self._is_gone(held)
        ]
        amount_settled, amount_granted = sum(map(self.amount, settled)), sum(map(self.amount, granted))
        total, packets = self._total, self._packets
        left = 0 if self._closed else packets - len(settled) - len(granted)
        amount_left = 0 if self._closed else total - amount_settled - amount_granted
        amounts = Amounts(total, amount_granted, amount_settled, amount_left)
        return EnvelopeStats(packets, len(granted), len(settled), left, amounts)

    def top_up(self, key: object, /, amount: int, packets: int, *, seed: bytes | None = None) -> Hold:
        """Add money in packets of their own, under the same law and bounds; they are numbered after those that exist.

        Returns:
            A ``Hold``: GRANTED the first time and REPEATED from then on; INSUFFICIENT if the budget has less; CLOSED if
            the envelope or its budget is. The last two leave no trace.

        Raises:
            ConflictError: the key has topped up by another amount, number of packets or seed.
            ValueError: no room for so many packets, or a total of 2**62. This is checked before the budget is asked,
                and after REPEATED and the CLOSED of the envelope itself.
        """
        self._engine._check_open()
        identity = user_identity(key, "key")
        terms = top_up_terms(self.terms, amount, packets, seed)
        present = self._top_ups.get(identity)
        if present is not None:
            check_same_top_up(self.name, key, present.terms, terms)
            return Hold(Status.REPEATED, terms.total, 0, State.GRANTED)
        if self._has_ended():
            return Hold(Status.CLOSED, 0, 0, None)
        check_room(self.name, self.terms, len(self._tranches), self._total, self._packets, terms)
        if self.budget is not None:
            status = self.budget._take(terms.total)
            if status != Status.GRANTED:
                return Hold(status, 0, 0, None)
        if terms.seed is None:
            terms = terms._replace(seed=urandom(SEED_SIZE))
        self._top_ups[identity] = Tranche(terms, self._packets)
        self._tranches.append(self._top_ups[identity])
        return Hold(Status.GRANTED, terms.total, 0, State.GRANTED)

    def close(self) -> int:
        """End the claiming, and refund what nobody has claimed to the budget. Idempotent.

        Returns:
            The sum that was refunded so far, in minor units: what was unclaimed, and what was given back since.
        """
        self._engine._check_open()
        self._close()
        return self._refunded

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"envelope {self.name!r} lives in a memory engine, which other processes cannot open; use a file "
            "(hbcore.Engine(path)) to pickle it, or fork"
        )

    def __repr__(self) -> str:
        return f"<Envelope {self.name!r}: {self.terms.total} in {self.terms.packets} packets, engine in memory>"

    def _audit(self) -> None:
        for terms in (tranche.terms for tranche in self._tranches):
            amounts = [a for s in range(stratum_count(terms.packets)) for a in split_stratum(terms, s)]
            if sum(amounts) != terms.total:
                raise AuditError(f"the packets of envelope {self.name!r} sum to {sum(amounts)}, not {terms.total}")
            if not terms.min <= min(amounts) <= max(amounts) <= terms.max:
                raise AuditError(f"a packet of envelope {self.name!r} is outside {terms.min} .. {terms.max}")
        packets = [held.packet for held in self._claims.values()]
        if len(set(packets)) != len(packets):
            raise AuditError(f"a packet of envelope {self.name!r} is held by two users")
        kept = sum(map(self.amount, packets))
        if self._closed and self._refunded + kept != self._total:
            raise AuditError(
                f"envelope {self.name!r} has refunded {self._refunded} and holds {kept}, not {self._total} in all"
            )
