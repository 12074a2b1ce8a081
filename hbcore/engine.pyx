"""The engine: one shared world of envelopes, in memory or in a file."""
cimport cython
from libc.stdint cimport uint32_t, uint64_t

from hbcore._file.directory cimport extent_name, is_named, publish_extent
from hbcore._file.format cimport HB_KIND_BUDGET, HB_KIND_ENVELOPE, HB_PHASE_LIVE, HB_PHASE_MAKING, hb_extent
from hbcore._file.region cimport CHAIN_BROKEN, CHAIN_EXTENT, Region, extent_phase
from hbcore._keys.batch cimport nth_key
from hbcore._keys.user cimport UserKey, bytes_from_user_key, user_key
from hbcore._lib.limits cimport PER_USER_LIMIT
from hbcore._money.funding cimport refund_upwards
from hbcore._ops.creation cimport create_envelopes, get_envelope
from hbcore._ops.top_up cimport finish_top_ups
from hbcore.budget cimport Budget, budget_at, budget_set_reopen
from hbcore.envelope cimport envelope_at, envelope_set_reopen, envelope_sweep

from hbcore._ops.audit_budget import audit_budgets
from hbcore._ops.audit_envelope import audit_envelopes
from hbcore._file.directory import audit_directory
from hbcore.budget import budget_get
from hbcore._ops.top_up import finish_tranches
from hbcore.errors import ConflictError, CorruptFileError
from hbcore.types import AuditReport
from hbcore._ops.recovery import recover
from hbcore._file.opening import open_region, open_regions
from hbcore.terms import integer


@cython.final
@cython.auto_pickle(False)
cdef class Engine:
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

    def __cinit__(self, *_, **__):
        self.region = Region()      # a closed one, so an engine that was never initialised only ever raises

    def __init__(
        self, path=None, *, capacity=None, mode=0o600, key=None, readonly=False, huge_pages=False, shared=True
    ):
        self.region = open_region(path, capacity, mode, key, recover, readonly, huge_pages=huge_pages, shared=shared)

    def envelope(
        self, name, total=None, packets=None, law="double_mean", min=1, max=None, concentration=3, seed=None,
        expires_at=None, per_user=1, hold_seconds=None, max_packets=None,
    ):
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
        return get_envelope(
            self.region, None, name, total, packets, law, min, max, concentration, seed, expires_at, per_user,
            hold_seconds, max_packets,
        )

    def create_many(
        self, names, totals, packets, *, law="double_mean", min=1, max=None, concentration=3, seeds=None,
        expires_at=None, per_user=1, hold_seconds=None, max_packets=None,
    ):
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
        return create_envelopes(
            self.region, None, names, totals, packets, law, min, max, concentration, seeds, expires_at, per_user,
            hold_seconds, max_packets,
        )

    def budget(self, name, total=None):
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
        return budget_get(self.region, None, name, total)

    def user_hash(self, user, /, nth=0):
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
        cdef UserKey key
        self.region.check_key()
        user_key(&self.region.key, user, &key)
        nth_key(&self.region.key, integer("nth", nth, 0, PER_USER_LIMIT - 1), &key)
        return bytes_from_user_key(&key)

    def envelopes(self):
        """Return all envelopes, also those of budgets, in the order of their making (but for reused space).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> statuses = engine.create_many(["20:00", "21:00"], 20_000, 50)
            >>> [envelope.name for envelope in engine.envelopes()]
            ['20:00', '21:00']
        """
        return [
            envelope_at(self.region, offset, name) for offset, name in self.objects(HB_KIND_ENVELOPE)
        ]

    def budgets(self):
        """Return all budgets, also those below others, in the order of their making (but for reused space).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> taobao = engine.budget("gala", total=300_000).budget("taobao", total=100_000)
            >>> [budget.name for budget in engine.budgets()]
            ['gala', 'taobao']
        """
        return [budget_at(self.region, offset) for offset, _ in self.objects(HB_KIND_BUDGET)]

    cdef list objects(self, uint32_t kind):
        # Return the offset and the name of every object of a kind.
        cdef Region region = self.region
        cdef uint64_t offset = 0
        cdef uint64_t state
        cdef bint is_made
        cdef int step
        region.check_open()
        found = []
        step = region.next_extent(&offset, &state)
        while step == CHAIN_EXTENT:
            is_made = extent_phase(state) == HB_PHASE_LIVE
            if not is_made and is_named(region, offset):
                if extent_phase(state) != HB_PHASE_MAKING:
                    step = CHAIN_BROKEN
                    break
                publish_extent(region, offset)      # its maker is about to do this, or has died before it
                is_made = True
            if is_made and (<hb_extent *>(region.base + offset)).kind == kind:
                raw = extent_name(region, offset)
                if raw is None:
                    step = CHAIN_BROKEN
                    break
                found.append((offset, raw.decode(errors="backslashreplace")))
            step = region.next_extent(&offset, &state)
        if step == CHAIN_BROKEN:
            raise CorruptFileError(f"the chain of extents is damaged at byte {offset} of {self!r}")
        return found

    def sweep(self):
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
        cdef Budget budget
        cdef uint64_t offset, count = 0
        self.region.check_writable()
        damage = None
        for offset, name in self.objects(HB_KIND_ENVELOPE):
            try:
                envelope = envelope_at(self.region, offset, name)
                finish_tranches(envelope)
                count += envelope_sweep(envelope)
            except CorruptFileError as error:
                damage = damage or error
        for offset, _ in self.objects(HB_KIND_BUDGET):
            try:
                budget = budget_at(self.region, offset)
                finish_top_ups(budget)
                refund_upwards(budget)
            except CorruptFileError as error:
                damage = damage or error
        if damage is not None:
            raise damage
        return count

    def audit(self):
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
        self.region.check_file()
        audit_directory(self.region)
        envelopes = self.envelopes()
        report = audit_envelopes(envelopes)
        return AuditReport(*report, *audit_budgets(self.budgets(), envelopes))

    def info(self):
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
        return self.region.info()

    def close(self):
        """Close the engine in this process; later calls on it and its envelopes raise EngineClosedError.

        Calls that are under way in other threads end as if it had come later. The file, and other processes, go on. As
        nobody counts calls, this process stays a worker of the file, one of 1,024, until its last envelope and budget
        of the engine is gone as well: a process that is taken for dead must not be about to write.

        Examples:
            >>> engine.close()
            >>> engine.closed
            True
        """
        self.region.close()

    @property
    def path(self):
        """Path of the file, or None for an engine in memory.

        Examples:
            >>> print(engine.path)
            None
        """
        return self.region.path

    @property
    def closed(self):
        """Whether the engine was closed in this process. Never raises.

        Examples:
            >>> with engine:
            ...     engine.closed
            False
            >>> engine.closed
            True
        """
        return self.region.is_closed

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        state = "closed " if self.region.is_closed else ""
        return f"<{state}Engine {'in memory' if self.region.path is None else repr(self.region.path)}>"


def survey(Engine engine not None):
    """Return all budgets and then all envelopes, the damaged ones too, for a process that only looks.

    Returns:
        A list with a tuple for each: its offset, the offset of its budget (0: none), whether it is a budget, its name,
        its handle (None if it is damaged), and what is wrong with it (None if nothing is).
    """
    cdef Region region = engine.region
    cdef uint64_t offset
    found = []
    for kind in (HB_KIND_BUDGET, HB_KIND_ENVELOPE):
        for offset, name in engine.objects(kind):
            handle = damage = None
            try:
                handle = budget_at(region, offset) if kind == HB_KIND_BUDGET else envelope_at(region, offset, name)
            except CorruptFileError as error:
                damage = str(error)
            parent = (<hb_extent *>(region.base + offset)).parent
            found.append((offset, parent, kind == HB_KIND_BUDGET, name, handle, damage))
    return found


cdef Region reopen(path, engine_id, what, readonly):
    # Return the region of a file that something was pickled from: one that this process has open, or the file opened
    # anew.
    cdef Region region = open_regions.get((path, engine_id, bool(readonly)))
    # A region that was opened before its file was put right after a reboot does without the index. Opened anew, it may
    # have the index.
    if region is None or region.is_closed or region.is_stale:
        region = open_region(path, None, 0o600, None, recover, readonly, create=False)
        if region.engine_id() != engine_id:     # another file stands at the path by now
            raise ConflictError(f"{path!r} is another engine than the one that {what} was pickled from")
    return region


def reopen_budget(path, engine_id, names, readonly=False):
    """Find a budget of a file again, for pickle; ``names`` are those of the budgets from the root to it."""
    budget = None
    region = reopen(path, engine_id, f"budget {'/'.join(names)!r}", readonly)
    for name in names:
        budget = budget_get(region, budget, name, None)
    return budget


def reopen_envelope(path, engine_id, names, readonly=False):
    """Find an envelope of a file again, for pickle; ``names`` are those of its budgets from the root, then its own."""
    *above, name = names
    region = reopen(path, engine_id, f"envelope {name!r}", readonly)
    budget = None
    for parent in above:
        budget = budget_get(region, budget, parent, None)
    return get_envelope(region, budget, name, None, None, "double_mean", 1, None, 3, None, None, 1, None, None)


budget_set_reopen(reopen_budget)
envelope_set_reopen(reopen_envelope)
