from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack, final

import numpy as np
from _typeshed import StrOrBytesPath
from numpy.typing import NDArray

from hbcore.budget import Budget, _Amounts, _Names
from hbcore.envelope import Envelope
from hbcore.terms import BatchTerms, EnvelopeTerms, LawName
from hbcore.types import AuditReport, EngineInfo, User

@final
class Engine:
    """One shared world of budgets and envelopes, in memory or in a file.

    Safe to use from any thread of any process. A child may use the engine that its parent has opened before the fork.
    An engine is a context manager that closes itself; it cannot be pickled.

    Args:
        path: a file, created if it is not there, that every process which opens it shares; None makes an engine in
            memory, which is shared with the children that this process forks from then on.
        capacity: bytes of address space, ``2**20 .. 2**42``; ``2**38`` if None. A claimed packet needs 64 at most (in
            an envelope of ten 77, and 96 after many releases), so the default holds about 4 billion packets. Memory is
            used as it is touched, disk as envelopes are made.
        mode: permissions of a file that is created.
        key: 32 bytes that hash the users. If None, a file keeps a key of its own in itself, readable by everybody who
            can read the file; a key that is given is never stored, and without it the file names nobody.
        readonly: look at a file that exists and never write to it, not even an entry in its table of workers: for
            inspection, also by a process that may not write to it. Every call that would write raises ReadOnlyError. It
            needs no key; without one whose owner keeps it, ``find`` and ``user_hash`` raise ValueError.
        huge_pages: ask the kernel for pages of 2 MiB, for an engine in memory or a file of a tmpfs: new envelopes are
            claimed from faster, and large ones too, because there are fewer pages to be made and looked up. It needs a
            kernel that lends them to shared memory (``/sys/kernel/mm/transparent_hugepage/shmem_enabled``: ``advise``);
            elsewhere nothing changes. Memory is taken 2 MiB at a time where a claim touches it, so it does not suit
            many packets of which few are claimed.
        shared: whether processes can share the engine. With False an engine in memory lives in this process alone, on
            huge pages where the kernel lends them (``/sys/kernel/mm/transparent_hugepage/enabled``: ``always`` or
            ``madvise``), so that it makes envelopes and claims from new ones faster; ``huge_pages`` is of no account
            then. Memory is taken 2 MiB at a time, and an audit reads all that was ever reserved, so it does not suit
            many packets of which few are claimed. In a forked child every call of it raises HbcoreError: the child has
            a copy, and the packets of a copy would be granted twice.

    Raises:
        CorruptFileError, IncompatibleFileError: the file cannot be trusted, or is of another version.
        EngineFullError: no disk space, or more processes than the worker table holds.
        ConflictError: the file has another capacity than the one asked for.
        TypeError, ValueError, OSError: a bad argument, or what the operating system says.

    Examples:
        >>> with hbcore.Engine(capacity=2**30) as engine:
        ...     envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
        ...     envelope.claim("user-42").amount
        400
    """

    def __init__(
        self,
        path: StrOrBytesPath | None = None,
        *,
        capacity: int | None = None,
        mode: int = 0o600,
        key: bytes | None = None,
        readonly: bool = False,
        huge_pages: bool = False,
        shared: bool = True,
    ) -> None: ...
    def envelope(
        self,
        name: str,
        total: int | None = None,
        packets: int | None = None,
        law: LawName = "double_mean",
        **terms: Unpack[EnvelopeTerms],
    ) -> Envelope:
        """Get the envelope of that name, or create it. O(1) in its packets.

        Args:
            name: ``str`` of 1 .. 255 bytes of UTF-8. Alone it gets what exists.
            total: the sum in minor units, 1 .. 2**62 - 1.
            packets: number of packets, 1 .. 2**40 - 1.
            law: ``"equal"``, ``"double_mean"`` or ``"dirichlet"``; see ``hbcore.law``.
            min: least amount of a packet in minor units; ``packets * min <= total``.
            max: greatest amount of a packet in minor units, ``total <= packets * max``; None: no bound but the total.
            concentration: parameter of ``dirichlet``, 1 .. 64. With 1 every split is equally likely; a greater number
                is gentler.
            seed: 32 bytes that fix the amounts; None draws them from the operating system, and nobody can predict an
                amount.
            expires_at: seconds since 1970 or an aware datetime, from which on claims are answered CLOSED; None: never.
            per_user: number of packets that a user may claim, 1 .. 65536; see ``nth`` of ``Envelope.claim``.
            hold_seconds: time in seconds after which a claim that was not settled has expired and goes to others;
                None: claims stay. Measured by a clock that nobody can set, the machine's also where containers have
                time namespaces of their own; after a reboot of the machine a claim has its whole time again.
            max_packets: room for so many packets, those of top-ups included; None: no room for any top-up. See
                ``Envelope.top_up``. Disk space is taken for all of them at once, memory only as they are claimed.

        Returns:
            The ``Envelope``.

        Raises:
            TypeError, ValueError: an argument is bad; the message names it.
            ConflictError: the name exists with other parameters.
            NotFoundError: no parameters were given, and the name does not exist.
            EngineFullError: the capacity or the disk is used up.
            EngineClosedError, ReadOnlyError, CorruptFileError: nothing was made.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, max=1_000)
            >>> envelope == engine.envelope("20:00"), envelope.terms.max
            (True, 1000)
        """

    def create_many(
        self,
        names: _Names,
        totals: _Amounts,
        packets: _Amounts,
        **terms: Unpack[BatchTerms],
    ) -> NDArray[np.uint8]:
        """Create many envelopes, one after another, without the GIL; get each by its name from ``envelope(name)``.

        Idempotent, as ``envelope`` is: what exists is left as it is, and the same call again answers REPEATED for
        all that it has made. A name that comes twice is made once.

        Safe to call from any thread of any process. Others see each envelope as soon as it is made; a process that dies
        has made some of them and leaves nothing of the others.

        Args:
            names: a sequence of ``str``, or an array of fixed-width strings; each 1 .. 255 bytes of UTF-8.
            totals: sums in minor units: one integer for all, or a sequence or integer array of as many as names.
            packets: numbers of packets, likewise.
            law: name of the law, the same for all; so are all terms below but ``seeds``.
            min: least amount of a packet, as of ``envelope``.
            max: greatest amount of a packet, as of ``envelope``.
            concentration: parameter of ``dirichlet``, as of ``envelope``.
            seeds: 32 bytes for each envelope: a sequence of ``bytes``, or a uint8 array of shape (names, 32). None
                gives every envelope one of its own: a stream of ChaCha20 under a key that is drawn from the operating
                system for this call.
            expires_at: end of the claiming, as of ``envelope``.
            per_user: number of packets that a user may claim from each, as of ``envelope``.
            hold_seconds: time to settle a claim, as of ``envelope``.
            max_packets: one integer, no less than any of the packets; None: no room for any top-up.

        Returns:
            A uint8 array of shape (names,) with the ``Status`` of each name: GRANTED if it was made, REPEATED if it
            exists with these terms, CONFLICT if it exists with others (which ``envelope`` with the same arguments
            names).

        Raises:
            TypeError, ValueError: an argument is bad; the message names the index, and nothing was made.
            EngineFullError: the capacity or the disk is used up: some were made and stay. The same call again goes on
                where there is space by then, and answers REPEATED for those.
            EngineClosedError, ReadOnlyError, CorruptFileError: likewise.

        Examples:
            >>> statuses = engine.create_many(["20:00", "21:00"], [20_000, 30_000], 50)
            >>> [hbcore.Status(status).name for status in statuses]
            ['GRANTED', 'GRANTED']
            >>> engine.envelope("21:00").terms.total
            30000
        """

    def budget(self, name: str, total: int | None = None) -> Budget:
        """Get the budget of that name, or create it: money that can be reserved, for envelopes and anything else.

        Args:
            name: ``str`` of 1 .. 255 bytes of UTF-8. Alone it gets what exists.
            total: minor units, 1 .. 2**62 - 1. It is compared with what the budget was made with: a budget that was
                topped up since is the same.

        Returns:
            The ``Budget``.

        Raises:
            TypeError, ValueError: an argument is bad; the message names it.
            ConflictError: the name exists with another total.
            NotFoundError: no total was given, and the name does not exist.
            EngineFullError: the capacity or the disk is used up.
            EngineClosedError, ReadOnlyError, CorruptFileError: nothing was made.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala == engine.budget("gala"), gala.stats().available
            (True, 300000)
        """

    def user_hash(self, user: User, /, nth: int = 0) -> bytes:
        """Return the 16-byte keyed hash under which a user (or a key) appears in ``claims()`` and ``holds()``.

        Args:
            user: ``str``, ``bytes`` or ``int``, as of ``Envelope.claim``.
            nth: number of the packet among those of the user, 0 .. 65535.

        Raises:
            TypeError, ValueError: an argument is bad, or the file's owner keeps the key and it was not given.
            EngineClosedError: the engine was closed in this process.

        Examples:
            >>> engine.user_hash("user-42") == engine.user_hash(b"user-42"), len(engine.user_hash("user-42"))
            (True, 16)
        """

    def envelopes(self) -> list[Envelope]:
        """Return all envelopes, also those of budgets, in the order of their making (but for reused space).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> statuses = engine.create_many(["20:00", "21:00"], 20_000, 50)
            >>> [envelope.name for envelope in engine.envelopes()]
            ['20:00', '21:00']
        """

    def budgets(self) -> list[Budget]:
        """Return all budgets, also those below others, in the order of their making (but for reused space).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> taobao = engine.budget("gala", total=300_000).budget("taobao", total=100_000)
            >>> [budget.name for budget in engine.budgets()]
            ['gala', 'taobao']
        """

    def sweep(self) -> int:
        """End what is due: close envelopes that have expired, give back claims that were not settled in time.

        Finishes as well what deaths have kept from budgets. Call it now and then, from any process that may write; the
        money of an expired envelope is not back in its budget before a claim from it, its close, a sweep or an audit.
        O(packets touched and holds).

        Returns:
            The number of envelopes closed and claims given back.

        Raises:
            EngineClosedError, ReadOnlyError: nothing was done.
            CorruptFileError: something is damaged; everything else was ended.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, expires_at=1)
            >>> engine.sweep(), engine.sweep()
            (1, 0)
        """

    def audit(self) -> AuditReport:
        """Prove from the slots that nothing was given twice and nothing is missing.

        Exact on a quiet engine; on a live one what is in motion is left out. What dead workers have left is put right
        first. An engine that is only read cannot do that: there an index that is being replaced, or is from before a
        reboot, is left out. O(packets touched).

        Returns:
            An ``AuditReport`` with what was counted.

        Raises:
            AuditError: the message names the first thing that is wrong; also if the file was renamed over or removed
                while it is open here.
            CorruptFileError: the file was truncated while it is open.
            EngineClosedError: the engine was closed in this process.

        Examples:
            >>> claim = engine.envelope("20:00", total=20_000, packets=50, law="equal").claim("user-42")
            >>> report = engine.audit()
            >>> report.packets, report.granted, report.amount_granted
            (50, 1, 400)
        """

    def info(self) -> EngineInfo:
        """Return what the engine is made of: the file, its space and its workers, the living and the dead.

        Returns:
            An ``EngineInfo``.

        Raises:
            EngineClosedError: the engine was closed in this process.

        Examples:
            >>> info = engine.info()
            >>> print(info.path, info.keeps_key, info.capacity == 2**38)
            None True True
        """

    def close(self) -> None:
        """Close the engine in this process; later calls on it and its envelopes raise EngineClosedError.

        Calls that are under way in other threads end as if it had come later. The file, and other processes, go on. As
        nobody counts calls, this process stays a worker of the file, one of 1,024, until its last envelope and budget
        of the engine is gone as well: a process that is taken for dead must not be about to write.

        Examples:
            >>> engine.close()
            >>> engine.closed
            True
        """

    @property
    def path(self) -> str | None:
        """Path of the file, or None for an engine in memory.

        Examples:
            >>> print(engine.path)
            None
        """

    @property
    def closed(self) -> bool:
        """Whether the engine was closed in this process. Never raises.

        Examples:
            >>> with engine:
            ...     engine.closed
            False
            >>> engine.closed
            True
        """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

def survey(engine: Engine) -> list[tuple[int, int, bool, str, Budget | Envelope | None, str | None]]:
    """Return all budgets and then all envelopes, the damaged ones too, for a process that only looks.

    Returns:
        A list with a tuple for each: its offset, the offset of its budget (0: none), whether it is a budget, its name,
        its handle (None if it is damaged), and what is wrong with it (None if nothing is).
    """

def reopen_budget(path: str, engine_id: bytes, names: Sequence[str], readonly: bool = False) -> Budget:
    """Find a budget of a file again, for pickle; ``names`` are those of the budgets from the root to it."""

def reopen_envelope(path: str, engine_id: bytes, names: Sequence[str], readonly: bool = False) -> Envelope:
    """Find an envelope of a file again, for pickle; ``names`` are those of its budgets from the root, then its own."""
