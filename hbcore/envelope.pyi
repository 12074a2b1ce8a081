from typing import Never, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

from hbcore.budget import Budget, Hold
from hbcore.terms import Terms
from hbcore.types import EnvelopeStats, Status, User, Users

@final
class Claim:
    """The answer to a claim: truthy if the user holds a packet.

    Immutable, comparable and hashable; it can be pickled.

    Examples:
        >>> envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
        >>> envelope.claim("user-42")
        Claim(status=Status.GRANTED, amount=400, packet=0)
        >>> bool(envelope.claim("user-42")), envelope.claim("user-42").status.name
        (True, 'REPEATED')
    """

    def __init__(self, status: int, amount: int, packet: int) -> None: ...
    @property
    def status(self) -> Status:
        """Why the user holds a packet, or holds none, as a ``Status``.

        Examples:
            >>> engine.envelope("20:00", total=20_000, packets=50).claim("user-42").status.name
            'GRANTED'
        """

    @property
    def amount(self) -> int:
        """Worth of the packet in minor units; 0 without a packet.

        Examples:
            >>> engine.envelope("20:00", total=20_000, packets=50, law="equal").claim("user-42").amount
            400
        """

    @property
    def packet(self) -> int:
        """Number of the packet, from 0; -1 without a packet.

        Examples:
            >>> envelope = engine.envelope("20:00", total=100, packets=1)
            >>> envelope.claim("user-42").packet, envelope.claim("user-43").packet
            (0, -1)
        """

    def __bool__(self) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Envelope:
    """A fixed sum split at random into a fixed number of packets; made by ``Engine.envelope`` or ``Budget.envelope``.

    An envelope that was made with room for more (``max_packets``) can be topped up while it is live.

    All methods are safe to call from any thread of any process that has the engine open, with or without the GIL:
    what they share is changed by compare-and-swap only, and no call waits for another. Two handles are equal if they
    speak of the same envelope. An envelope of a file can be pickled; an envelope of a memory engine cannot.

    Attributes:
        name: name of the envelope, unique among the envelopes of its budget, or of the engine.
        budget: budget that funds the envelope; None if the engine itself has it.

    Examples:
        >>> gala = engine.budget("gala", total=300_000)
        >>> envelope = gala.envelope("20:00", total=20_000, packets=50)
        >>> envelope.name, envelope.budget == gala, envelope == gala.envelope("20:00")
        ('20:00', True, True)
    """

    def __init__(self, *args: Never, **kwargs: Never) -> None: ...
    def claim(self, user: User, /, nth: int = 0) -> Claim:
        """Give the user a packet, or say why not; the same answer when asked again.

        Args:
            user: ``str``, ``bytes`` or ``int`` (``-2**63 .. 2**64 - 1``). ``"a"`` and ``b"a"`` are one user, ``7``
                and ``"7"`` are two.
            nth: number of the packet among those of the user, 0 .. ``per_user`` - 1; each is a claim of its own.

        Returns:
            A ``Claim``: GRANTED the first time, REPEATED with the same packet from then on, SOLD_OUT, or CLOSED.

        Raises:
            TypeError, ValueError: the user is of a wrong type, empty, too long or out of range; or nth is.
            EngineFullError: so much was released that the envelope needs space for another index, and there is none.
            EngineClosedError, ReadOnlyError, CorruptFileError, MemoryError: nothing was granted.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
            >>> claim = envelope.claim("user-42")
            >>> claim.amount if claim else claim.status.name
            400
        """

    def claim_many(self, users: Users, /, nth: int = 0) -> NDArray[np.void]:
        """Claim for every user in order, without the GIL if they are more than 32.

        Args:
            users: an array of any integer dtype (strides are followed, nothing is copied), of fixed-width bytes or
                strings, or a sequence of ``str``, ``bytes`` and ``int``. The same user twice is answered REPEATED.
            nth: number of the packet among those of each user, as of ``claim``.

        Returns:
            A ``CLAIM_DTYPE`` array of shape (users,): ``status``, ``amount`` and ``packet`` of each user.

        Raises:
            TypeError, ValueError: a user is bad; the message names its index, and nothing was granted.
            EngineFullError, EngineClosedError, ReadOnlyError, CorruptFileError, MemoryError: some may have been
                granted; asking again gives every user the answer that stands.

        Examples:
            >>> envelope = engine.envelope("20:00", total=100, packets=2, law="equal")
            >>> answers = envelope.claim_many(np.array([7, 7, 8, 9]))
            >>> answers["amount"].tolist(), [hbcore.Status(status).name for status in answers["status"]]
            ([50, 50, 50, 0], ['GRANTED', 'REPEATED', 'GRANTED', 'SOLD_OUT'])
        """

    def find(self, user: User, /, nth: int = 0) -> Claim | None:
        """Return the user's claim, with status REPEATED, or None; never grants. Arguments and errors as ``claim``.

        An engine that is only read needs no key for this but where its owner keeps the key: there it is a ValueError.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
            >>> print(envelope.find("user-42"))
            None
            >>> envelope.claim("user-42").packet == envelope.find("user-42").packet
            True
        """

    def settle(self, user: User, /, nth: int = 0) -> Claim | None:
        """Make the user's claim final: the payout went through. Arguments and errors as ``claim``.

        Returns:
            The claim, also when it was settled before; None if the user holds no packet, or did not settle it in time.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50)
            >>> claim = envelope.claim("user-42")
            >>> envelope.settle("user-42").packet == claim.packet, envelope.stats().settled
            (True, 1)
        """

    def release(self, user: User, /, nth: int = 0) -> Claim | None:
        """Give the user's packet back, for others or for the same user: the payout failed. Arguments as ``claim``.

        Returns:
            The claim that was released; None if the user holds no packet.

        Raises:
            ConflictError: the claim is settled, which is final.
            TypeError, ValueError, EngineClosedError, ReadOnlyError, CorruptFileError: as ``claim``.

        Examples:
            >>> envelope = engine.envelope("20:00", total=100, packets=1)
            >>> claim = envelope.claim("user-42")
            >>> envelope.release("user-42").packet, envelope.claim("user-43").packet
            (0, 0)
        """

    def claims(self) -> NDArray[np.void]:
        """Return the live claims, ordered by packet.

        Each row is right at the moment it is read; the whole is a snapshot only while nobody claims or releases.
        O(packets touched).

        Returns:
            A ``SNAPSHOT_DTYPE`` array of shape (claims,): ``packet``, ``user`` (the keyed hash, see
            ``Engine.user_hash``), ``amount`` in minor units, ``state`` and ``granted_at`` (UTC).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
            >>> claim = envelope.claim("user-42")
            >>> row = envelope.claims()[0]
            >>> int(row["amount"]), row["user"].tobytes() == engine.user_hash("user-42")
            (400, True)
        """

    def stats(self) -> EnvelopeStats:
        """Count packets and sum amounts by reading the slots: O(packets touched).

        Returns:
            An ``EnvelopeStats``.

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
            >>> claim = envelope.claim("user-42")
            >>> envelope.stats().granted, envelope.stats().amounts.remaining
            (1, 19600)
        """

    def top_up(self, key: User, /, amount: SupportsIndex, packets: SupportsIndex, *, seed: bytes | None = None) -> Hold:
        """Add money in packets of their own, under the same law and bounds; they are numbered after those that exist.

        The envelope must have been made with room for them (``max_packets``). Claims go on all the while. All packets
        of one top-up have the same distribution; the packets of another top-up have another. A ``max`` that is no less
        than the envelope's first total bounds nothing here either.

        Args:
            key: the caller's number of the top-up: ``str``, ``bytes`` or ``int``, as a user.
            amount: minor units, 1 .. 2**62 - 1; ``packets * min <= amount <= packets * max``. The money comes from the
                budget, as a hold there, or from outside if the envelope belongs to no budget.
            packets: number of packets to add.
            seed: 32 bytes that fix the amounts; None draws them from the operating system.

        Returns:
            A ``Hold``: GRANTED the first time, REPEATED from then on, INSUFFICIENT (the budget has less) or CLOSED. A
            top-up that races with a close may be granted, and refunded at once.

        Raises:
            ConflictError: the key was used with another amount, number of packets or seed.
            TypeError, ValueError: a bad argument, no room for so many packets, or a total of 2**62 or more.
            EngineFullError, EngineClosedError, ReadOnlyError, CorruptFileError, MemoryError: asking again finishes
                what was begun.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, max_packets=100)
            >>> envelope.top_up("more", 10_000, 25).amount, envelope.stats().packets
            (10000, 75)
        """

    def close(self) -> int:
        """End the claiming and refund what is unclaimed to the budget, if there is one.

        Claims that exist can still be settled or released; the money of what is released is refunded as well. A claim
        that is under way in another thread or process may still be granted; its packet is not refunded.

        Returns:
            The sum that was refunded so far, in minor units. Idempotent: only releases, and claims that were under way
            and came to nothing, add to it later.

        Raises:
            EngineClosedError, ReadOnlyError, CorruptFileError: as ``claim``.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
            >>> claim = envelope.claim("user-42")
            >>> envelope.close(), envelope.claim("user-43").status.name
            (19600, 'CLOSED')
        """

    @property
    def name(self) -> str:
        """Name of the envelope, unique among the envelopes of its budget, or of the engine.

        Examples:
            >>> engine.envelope("20:00", total=20_000, packets=50).name
            '20:00'
        """

    @property
    def budget(self) -> Budget | None:
        """Budget that funds the envelope; None if the engine itself has it.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.envelope("20:00", total=20_000, packets=50).budget == gala
            True
        """

    @property
    def closed(self) -> bool:
        """Whether a user without a packet would hear CLOSED: the envelope was closed, or has expired.

        The look changes nothing: the money of an expired envelope goes back to its budget with the next claim, close,
        sweep or audit. O(1).

        Raises:
            EngineClosedError: the engine was closed in this process.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50)
            >>> envelope.closed, envelope.close(), envelope.closed
            (False, 20000, True)
        """

    @property
    def terms(self) -> Terms:
        """Terms that the envelope was made with, whatever it was topped up by since; the seed is among them.

        Whoever has the seed can compute every amount, so ``repr`` hides it.

        Examples:
            >>> terms = engine.envelope("20:00", total=20_000, packets=50, seed=bytes(32)).terms
            >>> terms.law, terms.max, terms.seed == bytes(32), "seed=<hidden>" in repr(terms)
            ('double_mean', 20000, True, True)
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
