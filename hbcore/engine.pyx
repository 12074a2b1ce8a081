"""The engine: one shared world of envelopes, in memory or in a file."""
cimport cython
from libc.stdint cimport uint64_t

from hbcore.atomics cimport hb_load_acquire
from hbcore.directory cimport extent_name, is_named, publish_extent
from hbcore.envelope cimport Envelope, envelope_at, envelope_create, envelope_find, envelope_terms_of
from hbcore.format cimport HB_KIND_ENVELOPE, HB_PHASE_LIVE, HB_PHASE_MAKING, hb_extent
from hbcore.region cimport FIRST_EXTENT, Region, extent_phase, extent_size
from hbcore.user cimport UserKey, bytes_from_user_key, user_key

from hbcore.audit import audit_all
from hbcore.directory import audit_directory
from hbcore.errors import ConflictError, CorruptFileError, NotFoundError
from hbcore.records import AuditReport
from hbcore.recovery import recover
from hbcore.region import open_region, open_regions
from hbcore.terms import check_lookup, check_same_terms, envelope_terms, object_name


@cython.final
@cython.auto_pickle(False)
cdef class Engine:
    """One shared world of envelopes.

    Args:
        path: a file, created if it is not there, that every process which opens it shares; None makes an engine in
            memory, which is shared with the children that this process forks from then on.
        capacity: bytes of address space, 2**20 .. 2**42; 2**38 if None. A claimed packet needs 64 at most, so the
            default holds about 4 billion packets. Memory is used as it is touched, disk as envelopes are made.
        mode: permissions of a file that is created.
        readonly: look at a file that exists and never write to it, not even an entry in its table of workers: for
            inspection, also by who may not write to it. What would write raises ReadOnlyError. It needs no key; without
            one whose owner keeps it, ``find`` and ``user_hash`` raise ValueError.
        key: 32 bytes that hash the users. If None, a file keeps a key of its own in itself, readable by whoever can
            read the file; a key that is given is never stored, and without it the file names nobody.

    Raises:
        CorruptFileError, IncompatibleFileError: the file cannot be trusted, or is of another version.
        EngineFullError: no disk space, or more processes than the worker table holds.
        ConflictError: the file has another capacity than the one asked for.
        TypeError, ValueError, OSError: a bad argument, or what the operating system says.

    Safe to use from any thread of any process. A child may use the engine that its parent has opened before the fork.
    """

    def __cinit__(self, *_, **__):
        self.region = Region()      # a closed one: what was never initialised only ever raises

    def __init__(self, path=None, *, capacity=None, mode=0o600, key=None, readonly=False):
        self.region = open_region(path, capacity, mode, key, recover, readonly)

    def envelope(
        self, name, total=None, packets=None, law="double_mean", min=1, max=None, concentration=3, seed=None,
        expires_at=None,
    ):
        """Get the envelope of that name, or create it. O(1) in its packets.

        Args:
            name: ``str`` of 1 .. 255 bytes of UTF-8. Alone it gets what exists.
            total: the sum in minor units, 1 .. 2**62 - 1.
            packets: their number, 1 .. 2**40 - 1.
            law: ``"equal"``, ``"double_mean"`` or ``"dirichlet"``; see ``hbcore.law``.
            min, max: bounds of every packet in minor units; ``packets * min <= total <= packets * max``.
            concentration: of ``dirichlet``, 1 .. 64. 1 is uniform over all splits, more is gentler.
            seed: 32 bytes that fix the amounts; None draws them from the operating system, and nobody can predict an
                amount.
            expires_at: seconds since 1970 or an aware datetime, from which on claims are answered CLOSED.

        Raises:
            TypeError, ValueError: an argument is bad; the message names it.
            ConflictError: the name exists with other parameters.
            NotFoundError: no parameters were given, and the name does not exist.
            EngineFullError: the capacity or the disk is used up.
        """
        cdef Envelope envelope
        cdef bint is_new = False
        self.region.check_open()
        encoded = object_name(name)
        name = encoded.decode()     # a str, and not a subclass of it
        if total is None and packets is None:
            check_lookup(law, min, max, concentration, seed, expires_at)
        envelope = envelope_find(self.region, name, encoded)
        if total is None and packets is None:
            if envelope is None:
                raise NotFoundError(f"there is no envelope {name!r}; give total and packets to create it")
            return envelope
        terms = envelope_terms(total, packets, law, min, max, concentration, seed, expires_at)
        if envelope is None:
            envelope = envelope_create(self.region, name, encoded, terms, &is_new)
        if not is_new:      # somebody else may have been faster
            check_same_terms(name, envelope_terms_of(envelope), terms)
        return envelope

    def user_hash(self, user, /):
        """Return the 16-byte keyed hash under which a user appears in ``Envelope.claims()``."""
        cdef UserKey key
        self.region.check_key()
        user_key(&self.region.key, user, &key)
        return bytes_from_user_key(&key)

    def envelopes(self):
        """Return all envelopes, in the order of their making but for those that took over older space."""
        cdef Region region = self.region
        cdef uint64_t offset = FIRST_EXTENT
        cdef hb_extent *extent
        cdef uint64_t state
        cdef bint is_made
        region.check_open()
        found = []
        while True:     # each turn passes one extent; the capacity bounds their number
            if not region.contains(offset, sizeof(hb_extent)):
                break
            extent = <hb_extent *>(region.base + offset)
            state = hb_load_acquire(&extent.state)
            if state == 0:
                if offset >= hb_load_acquire(&region.header.frontier):
                    return found
                if hb_load_acquire(&extent.state) == 0:
                    break
                continue        # it was added meanwhile
            if extent_size(state) < sizeof(hb_extent) or not region.contains(offset, extent_size(state)):
                break
            is_made = extent_phase(state) == HB_PHASE_LIVE
            if not is_made and is_named(region, offset):
                if extent_phase(state) != HB_PHASE_MAKING:
                    break
                publish_extent(region, offset)      # its maker is about to do this, or has died
                is_made = True
            if is_made and extent.kind == HB_KIND_ENVELOPE:
                raw = extent_name(region, offset)
                if raw is None:
                    break
                found.append(envelope_at(region, offset, raw.decode(errors="backslashreplace")))
            offset += extent_size(state)
        raise CorruptFileError(f"the chain of extents is damaged at byte {offset} of {self!r}")

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
        """
        self.region.check_file()
        audit_directory(self.region)
        return AuditReport(*audit_all(self.envelopes()))

    def info(self):
        """Return an ``EngineInfo``: the file, its space and its workers, the living and the dead."""
        return self.region.info()

    def close(self):
        """Close the engine in this process; later calls on it and its envelopes raise EngineClosedError.

        Calls that are under way in other threads end as if it had come later. The file, and other processes, go on.
        """
        self.region.close()

    @property
    def path(self):
        """The path of the file, or None for an engine in memory."""
        return self.region.path

    @property
    def closed(self):
        return self.region.is_closed

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        state = "closed " if self.region.is_closed else ""
        return f"<{state}Engine {'in memory' if self.region.path is None else repr(self.region.path)}>"


def reopen_envelope(path, engine_id, name, readonly=False):
    """Find an envelope of a file again, for pickle: in the engine that this process has open, or by opening it."""
    cdef Region region = None if readonly else open_regions.get((path, engine_id))
    if region is None or region.is_closed:
        region = open_region(path, None, 0o600, None, recover, readonly, create=False)
        if region.engine_id() != engine_id:     # another file stands there by now
            raise ConflictError(f"{path!r} is another engine than the one that envelope {name!r} was pickled from")
    envelope = envelope_find(region, name, object_name(name))
    if envelope is None:
        raise NotFoundError(f"there is no envelope {name!r} in {path!r}")
    return envelope
