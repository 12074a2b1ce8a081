"""Envelopes: a fixed sum split at random into a fixed number of packets, and the claims of them.

The public classes ``Claim`` and ``Envelope`` check and convert the Python arguments to a pointer and a count, and then
call ``packets.pyx``.
"""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from hbcore._claims.group cimport ClaimRow
from hbcore._claims.ledger cimport Found
from hbcore._claims.packets cimport (
    COUNT_SOUND, Counts, Deck, Layout, SnapshotRow, claim_amount, deck_attach, deck_claim, deck_claim_many, deck_close,
    deck_count, deck_expire, deck_find, deck_look, deck_prefetch, deck_release, deck_scan, deck_settle, deck_snapshot,
    envelope_layout,
)
from hbcore._claims.tranche cimport Tranche, tranche_join, tranche_prepare, tranches_free
from hbcore._file.clock cimport hb_now_ms
from hbcore._file.directory cimport (
    Name, directory_allocate, extent_name, name_set, publish_extent, retire_extent,
)
from hbcore._file.format cimport (
    HB_KIND_ENVELOPE, HB_KIND_TABLE, HB_KIND_TRANCHE, hb_envelope, hb_extent, hb_tranche,
)
from hbcore._file.record cimport ENVELOPE_TERMS, TRANCHE_TERMS, record_copy, record_is_sound
from hbcore._file.region cimport Region, engine_name, extent_size, heading_of, worker_of
from hbcore._keys.batch cimport Users, nth_key, users_of
from hbcore._keys.user cimport GROUP, UserKey, user_key
from hbcore._lib.answers cimport (
    ALREADY_SETTLED, BUSY, CLOSED, CORRUPT, EXPIRED, GRANTED_NOW, NOT_FOUND, NO_MEMORY, NO_SPACE, REPEATED, SOLD_OUT,
)
from hbcore._lib.atomics cimport hb_cas, hb_load_acquire, hb_store_private, hb_store_release
from hbcore._lib.limits cimport NAME_LIMIT, PACKET_LIMIT, TOP_UP_LIMIT
from hbcore._money.funding cimport refund_from
from hbcore._split.law cimport Terms, hb_terms, strata_of, terms_as_python, terms_valid
from hbcore.budget cimport Budget, budget_set_settled, parent_of

import numpy as np

from hbcore.budget import names_of
from hbcore.errors import ConflictError, CorruptFileError, EngineFullError
from hbcore.types import CLAIM_DTYPE, SNAPSHOT_DTYPE, Amounts, EnvelopeStats, Status
from hbcore.terms import integer

cdef tuple STATUSES = tuple(Status)

if sizeof(ClaimRow) != CLAIM_DTYPE.itemsize or sizeof(SnapshotRow) != SNAPSHOT_DTYPE.itemsize:
    raise ImportError("the records of hbcore do not have the layout that this build expects; reinstall hbcore")


@cython.final
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class Claim:
    """The answer to a claim: truthy if the user holds a packet.

    Immutable, comparable and hashable; it can be pickled.

    Examples:
        >>> envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
        >>> envelope.claim("user-42")
        Claim(status=Status.GRANTED, amount=400, packet=0)
        >>> bool(envelope.claim("user-42")), envelope.claim("user-42").status.name
        (True, 'REPEATED')
    """

    def __init__(self, status, amount, packet):
        self.status_code = Status(status)
        self._amount = amount
        self._packet = packet

    @property
    def status(self):
        """Why the user holds a packet, or holds none, as a ``Status``.

        Examples:
            >>> engine.envelope("20:00", total=20_000, packets=50).claim("user-42").status.name
            'GRANTED'
        """
        return STATUSES[self.status_code]

    @property
    def amount(self):
        """Worth of the packet in minor units; 0 without a packet.

        Examples:
            >>> engine.envelope("20:00", total=20_000, packets=50, law="equal").claim("user-42").amount
            400
        """
        return self._amount

    @property
    def packet(self):
        """Number of the packet, from 0; -1 without a packet.

        Examples:
            >>> envelope = engine.envelope("20:00", total=100, packets=1)
            >>> envelope.claim("user-42").packet, envelope.claim("user-43").packet
            (0, -1)
        """
        return self._packet

    def __bool__(self):
        return self._packet >= 0

    def __eq__(self, other):
        if not isinstance(other, Claim):
            return NotImplemented
        cdef Claim that = <Claim>other
        return self.status_code == that.status_code and self._amount == that._amount and self._packet == that._packet

    def __hash__(self):
        return hash((self.status_code, self._amount, self._packet))

    def __repr__(self):
        return f"Claim(status=Status.{self.status.name}, amount={self._amount}, packet={self._packet})"

    def __reduce__(self):
        return Claim, (self.status_code, self._amount, self._packet)


cdef object FIRST = 0               # the default of nth
cdef Region NO_REGION = Region()    # closed for ever; an Envelope that only Envelope.__new__ has made has this region
cdef Claim SOLD_OUT_CLAIM = Claim(SOLD_OUT, 0, -1)
cdef Claim CLOSED_CLAIM = Claim(CLOSED, 0, -1)


cdef inline int key_of(Envelope envelope, object user, object nth, UserKey *out) except -1:
    # Hash a user, with the number of its packet if that is not the first.
    user_key(&envelope.region.key, user, out)
    if nth is not FIRST:
        nth_key(&envelope.region.key, envelope.checked_nth(nth), out)
    return 0


# ---- the public class -----------------------------------------------------------------------------------------------

@cython.final
@cython.freelist(16)
@cython.auto_pickle(False)
cdef class Envelope:
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

    def __cinit__(self):
        self.region = NO_REGION

    def __init__(self):
        raise TypeError("envelopes are made by Engine.envelope")

    def __dealloc__(self):
        tranches_free(&self.deck.first)

    cdef object raise_for(self, int answer):
        if answer == NO_MEMORY:
            raise MemoryError(f"no memory to split envelope {self.name!r}")
        if answer == NO_SPACE:
            if hb_load_acquire(&self.deck.shared.second_table) == 0:
                make_table(self)    # says why it cannot be made
            raise EngineFullError(f"there was no space for the index of envelope {self.name!r}; ask again")
        raise CorruptFileError(f"envelope {self.name!r} of the engine {engine_name(self.region)} is damaged")

    cdef Claim answer(self, int status, const Found *found):
        cdef Claim claim = Claim.__new__(Claim)
        if not claim_amount(&self.deck, status, found, &claim._amount):
            self.raise_for(CORRUPT)
        claim.status_code = status
        claim._packet = <int64_t>found.slot
        return claim

    cdef uint64_t checked_nth(self, object nth) except? 0xFFFFFFFFFFFFFFFF:
        if type(nth) is int and 0 <= nth < self.deck.first.terms.per_user:
            return nth
        return integer("nth", nth, 0, self.deck.first.terms.per_user - 1)

    def claim(self, user, /, nth=0):
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
        cdef UserKey key
        cdef Found found
        cdef uint64_t worker
        cdef int status
        key_of(self, user, nth, &key)
        worker = worker_of(self.region)
        deck_prefetch(&self.deck, &key)    # half of the time goes into that one look, so the clock is read meanwhile
        status = deck_claim(&self.deck, worker, &key, hb_now_ms(), &found)
        if status == GRANTED_NOW:
            return self.answer(status, &found)
        self.end_if_due()
        if status == REPEATED:
            return self.answer(status, &found)
        if status == SOLD_OUT:
            return SOLD_OUT_CLAIM
        if status == CLOSED:
            return CLOSED_CLAIM
        return self.raise_for(status)

    def claim_many(self, users, /, nth=0):
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
        cdef Users batch
        cdef Py_buffer view
        cdef int answer
        cdef uint64_t worker
        self.region.check_writable()
        batch = users_of(&self.region.key, users, self.checked_nth(nth))
        rows = np.empty(batch.count, CLAIM_DTYPE)
        PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE)
        try:
            # Ask for the worker only now: reading the users may have run any Python, a fork or a close of the engine
            # included.
            worker = worker_of(self.region)
            if batch.count <= GROUP:        # so few cost less than to give the GIL away and take it again
                answer = deck_claim_many(&self.deck, worker, &batch.batch, batch.count, <ClaimRow *>view.buf)
            else:
                with nogil:
                    answer = deck_claim_many(&self.deck, worker, &batch.batch, batch.count, <ClaimRow *>view.buf)
        finally:
            PyBuffer_Release(&view)
        if answer != 0:
            self.raise_for(answer)
        self.end_if_due()
        return rows

    def find(self, user, /, nth=0):
        """Return the user's claim, with status REPEATED, or None; never grants. Arguments and errors as ``claim``.

        An engine that is only read needs no key for this but where its owner keeps the key: there it is a ValueError.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50, law="equal")
            >>> print(envelope.find("user-42"))
            None
            >>> envelope.claim("user-42").packet == envelope.find("user-42").packet
            True
        """
        cdef UserKey key
        cdef Found found
        cdef int answer
        self.region.check_key()
        key_of(self, user, nth, &key)
        answer = deck_find(&self.deck, &key, &found)
        if answer == BUSY:
            with nogil:
                answer = deck_scan(&self.deck, &key, &found)
        if answer == EXPIRED and not self.region.is_readonly:
            answer = deck_look(&self.deck, worker_of(self.region), &key, &found)
            self.pass_on()
        if answer == REPEATED:
            return self.answer(REPEATED, &found)
        if answer == NOT_FOUND or answer == EXPIRED:
            return None
        return self.raise_for(answer)

    def settle(self, user, /, nth=0):
        """Make the user's claim final: the payout went through. Arguments and errors as ``claim``.

        Returns:
            The claim, also when it was settled before; None if the user holds no packet, or did not settle it in time.

        Examples:
            >>> envelope = engine.envelope("20:00", total=20_000, packets=50)
            >>> claim = envelope.claim("user-42")
            >>> envelope.settle("user-42").packet == claim.packet, envelope.stats().settled
            (True, 1)
        """
        cdef UserKey key
        cdef Found found
        cdef int answer
        self.region.check_writable()
        key_of(self, user, nth, &key)
        answer = deck_settle(&self.deck, worker_of(self.region), &key, &found)
        if self.budget is not None:
            self.pass_on()
        if answer == REPEATED:
            return self.answer(REPEATED, &found)
        if answer == NOT_FOUND:
            return None
        return self.raise_for(answer)

    def release(self, user, /, nth=0):
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
        cdef UserKey key
        cdef Found found
        cdef int answer
        self.region.check_writable()
        key_of(self, user, nth, &key)
        answer = deck_release(&self.deck, worker_of(self.region), &key, &found)
        if self.budget is not None:
            self.pass_on()
        if answer == REPEATED:
            return self.answer(REPEATED, &found)
        if answer == NOT_FOUND:
            return None
        if answer == ALREADY_SETTLED:
            raise ConflictError(
                f"packet {found.slot} of envelope {self.name!r} is settled: final, not to be released"
            )
        return self.raise_for(answer)

    def claims(self):
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
        cdef Counts counts
        cdef Py_buffer view
        cdef uint64_t limit
        cdef int64_t count
        self.count(&counts)
        count = <int64_t>(counts.granted + counts.settled)
        limit = 0
        while <int64_t>limit <= count and limit < self.deck.first.terms.max_packets:
            # Others may claim meanwhile, so there is room to spare; if it was not enough, try again with more.
            limit = min(2 * <uint64_t>count + 1024, self.deck.first.terms.max_packets)
            rows = np.zeros(limit, SNAPSHOT_DTYPE)
            PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE)
            with nogil:
                count = deck_snapshot(&self.deck, <SnapshotRow *>view.buf, limit)
            PyBuffer_Release(&view)
            if count < 0:
                self.raise_for(CORRUPT)
        rows = rows[:count]
        order = np.argsort(rows["packet"], kind="stable")
        # They are sorted as blocks of bytes. NumPy would sort records field by field, and leave what was in the memory
        # before between the fields.
        return rows.view(f"V{rows.itemsize}")[order].view(SNAPSHOT_DTYPE)

    cdef int count(self, Counts *counts) except -1:
        cdef int answer
        self.region.check_open()
        with nogil:
            answer = deck_count(&self.deck, counts)
        if answer != COUNT_SOUND:
            self.raise_for(CORRUPT)
        return 0

    def stats(self):
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
        cdef Counts counts
        self.count(&counts)
        packets, total = counts.packets, counts.amount_total
        closed = hb_load_acquire(self.deck.ledger.closed) != 0
        amount_left = 0 if closed else total - counts.amount_granted - counts.amount_settled
        return EnvelopeStats(
            packets,
            counts.granted,
            counts.settled,
            0 if closed else packets - counts.granted - counts.settled,
            Amounts(total, counts.amount_granted, counts.amount_settled, amount_left),
        )

    def close(self):
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
        self.region.check_writable()
        return self.end(worker_of(self.region))

    cdef uint64_t end(self, uint64_t worker) except? 0xFFFFFFFFFFFFFFFF:
        # Close the envelope, credit the budget with what was refunded, and return how much that was. A refund that is
        # made while the slots are counted changes the number of late refunds, and the process that meets that change
        # counts it. So passed_on never includes a refund that was not credited.
        cdef uint64_t late = hb_load_acquire(self.deck.ledger.late_refunds) + 1
        cdef Counts counts
        with nogil:
            deck_close(&self.deck, hb_now_ms())
            deck_expire(&self.deck, worker)
        self.count(&counts)
        if self.budget is not None:
            if counts.amount_refunded != 0:
                refund_from(self.budget, &self.funding_key, counts.amount_refunded)
            hb_store_release(&self.deck.shared.extent.passed_on, late)
        return counts.amount_refunded

    def top_up(self, key, /, amount, packets, *, seed=None):
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
        return top_up_envelope(self, key, amount, packets, seed)

    cdef bint is_over(self) noexcept:
        return hb_load_acquire(self.deck.ledger.closed) != 0 or self.has_expired()

    cdef bint has_expired(self) noexcept:
        return self.deck.first.terms.expires_at_ms != 0 and hb_now_ms() >= self.deck.first.terms.expires_at_ms

    cdef bint finish_closing(self) except -1:
        # Close the envelope if it has expired, and go on where a death has stopped a closer. Returns whether it is
        # closed now.
        if not self.is_over():
            return False
        self.close()
        return True

    cdef int end_if_due(self) except -1:
        # Close the envelope if it has expired, so that what nobody claimed is refunded.
        if hb_load_acquire(self.deck.ledger.closed) != 0:
            self.pass_on()
        elif self.has_expired():
            self.close()
        return 0

    cdef int pass_on(self) except -1:
        # Refund to the budget what went back after the closing, and what a closer did not refund because it died. If a
        # process dies before this, the next such call, a close, a sweep or an audit does it: the refunds are counted
        # from the slots. O(touched packets).
        if self.budget is None or hb_load_acquire(self.deck.ledger.closed) == 0:
            return 0
        if hb_load_acquire(&self.deck.shared.extent.passed_on) != hb_load_acquire(self.deck.ledger.late_refunds) + 1:
            self.end(worker_of(self.region))
        return 0

    @property
    def closed(self):
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
        self.region.check_open()
        return bool(self.is_over())

    @property
    def terms(self):
        """Terms that the envelope was made with, whatever it was topped up by since; the seed is among them.

        Whoever has the seed can compute every amount, so ``repr`` hides it.

        Examples:
            >>> terms = engine.envelope("20:00", total=20_000, packets=50, seed=bytes(32)).terms
            >>> terms.law, terms.max, terms.seed == bytes(32), "seed=<hidden>" in repr(terms)
            ('double_mean', 20000, True, True)
        """
        return envelope_terms_of(self)

    def __eq__(self, other):
        if not isinstance(other, Envelope):
            return NotImplemented
        return self.identity() == (<Envelope>other).identity()

    def __hash__(self):
        return hash(self.identity())

    cdef tuple identity(self):
        # Return what two equal handles have in common. The engine id alone would not tell a file from its copy.
        return self.region.engine_id(), self.region.path, self.offset

    def __repr__(self):
        terms = self.deck.first.terms
        return f"<Envelope {self.name!r}: {terms.total} in {terms.packets} packets, engine {engine_name(self.region)}>"

    def __reduce__(self):
        if self.region.path is None:
            raise TypeError(
                f"envelope {self.name!r} lives in a memory engine, which other processes cannot open; use a file "
                "(hbcore.Engine(path)) to pickle it, or fork"
            )
        names = (self.name,) if self.budget is None else (*names_of(self.budget), self.name)
        return reopen_envelope, (self.region.path, self.region.engine_id(), names, bool(self.region.is_readonly))


# ---- finding --------------------------------------------------------------------------------------------------------

cdef uint64_t settled_within(Region region, uint64_t offset) except? 0xFFFFFFFFFFFFFFFF:
    # Return what was settled of the envelope at an offset, for the statistics of its budget.
    raw = extent_name(region, offset)
    name = f"at byte {offset}" if raw is None else raw.decode(errors="backslashreplace")
    return envelope_at(region, offset, name).stats().amounts.settled

budget_set_settled(settled_within)


cdef uint64_t envelope_sweep(Envelope envelope) except? 0xFFFFFFFFFFFFFFFF:
    # Close the envelope if it has expired, give back claims that have lapsed, and refund what a death has kept back.
    # Returns how many things were ended.
    cdef uint64_t count, worker
    cdef bint was_open = hb_load_acquire(envelope.deck.ledger.closed) == 0
    worker = worker_of(envelope.region)
    with nogil:
        count = deck_expire(&envelope.deck, worker)
    return count + was_open if envelope.finish_closing() else count


cdef object envelope_terms_of(Envelope envelope):
    return terms_as_python(&envelope.deck.first.terms.given, True)


cdef int attach_tranche(void *owner, Tranche *tranche) noexcept with gil:
    # Implements Deck.attach. Runs once per tranche and handle, so taking the GIL is cheap enough.
    cdef Envelope envelope = <Envelope>owner
    cdef uint64_t offset = hb_load_acquire(tranche.following)
    cdef hb_tranche *shared = <hb_tranche *>envelope.region.extent(offset, HB_KIND_TRANCHE, sizeof(hb_tranche))
    cdef Terms *first = &envelope.deck.first.terms
    cdef hb_tranche copy
    cdef Tranche *next
    # Racing top-ups may exceed the limit by a few; a chain longer than twice the limit leads round in a circle.
    if shared == NULL or tranche.number > 2 * TOP_UP_LIMIT:
        return CORRUPT
    record_copy(&copy.extent, &shared.extent, TRANCHE_TERMS)
    if (not record_is_sound(envelope.region, &copy.extent, TRANCHE_TERMS, NULL, 0)
            or copy.extent.parent != envelope.offset
            or copy.packets > envelope.deck.first.terms.max_packets - tranche.start - tranche.terms.packets):
        return CORRUPT
    next = <Tranche *>malloc(sizeof(Tranche))
    if next == NULL:
        return NO_MEMORY
    next.terms = first[0]
    next.terms.total = copy.total
    next.terms.packets = copy.packets
    next.terms.max = min(first.max, copy.total) if first.max < first.total else copy.total
    memcpy(next.terms.seed, copy.seed, 32)
    next.key.low = copy.key[0]
    next.key.high = copy.key[1]
    next.strata = <uint64_t *>(<char *>shared + sizeof(hb_tranche))
    next.following = &shared.following
    if not terms_valid(&next.terms.given):
        free(next)
        return CORRUPT
    tranche_prepare(next, first.seed)
    if extent_size(hb_load_acquire(&shared.extent.state)) < sizeof(hb_tranche) + 8 * next.terms.stratum_count:
        free(next)
        return CORRUPT
    if not tranche_join(tranche, next):
        free(next)
    return 0


cdef int meet_table(void *context, bint may_make) noexcept with gil:
    # Implements Ledger.meet. Runs once per handle, or while there is no space.
    cdef Deck *deck = <Deck *>context
    cdef Envelope envelope = <Envelope>deck.owner
    cdef Region region = envelope.region
    cdef uint64_t offset = hb_load_acquire(&deck.shared.second_table)
    cdef hb_extent *extent
    if offset == 0 and not may_make:
        return NOT_FOUND
    try:
        if offset == 0:
            offset = make_table(envelope)
        extent = region.extent(offset, HB_KIND_TABLE, sizeof(hb_extent) + 8 * deck.ledger.index.word_count)
        if extent == NULL or heading_of(extent).parent != envelope.offset:
            return CORRUPT
        publish_extent(region, offset)
    except Exception:
        return NO_SPACE     # whoever says so to the caller tries again, and is told why (raise_for)
    hb_store_private(&deck.ledger.index.tables[1], <uint64_t>(<char *>extent + sizeof(hb_extent)))
    return 0


cdef uint64_t make_table(Envelope envelope) except 0:
    # Make the second table of the envelope's index, and return its offset. If several make one, one wins. A table that
    # was never used is all zeros, so that nothing of it is written. A death before the CAS leaves space that is
    # nobody's.
    cdef uint64_t *place = &envelope.deck.shared.second_table
    cdef int64_t offset = directory_allocate(
        envelope.region, sizeof(hb_extent) + 8 * envelope.deck.ledger.index.word_count
    )
    cdef hb_extent *extent = <hb_extent *>(envelope.region.base + offset)
    extent.kind = HB_KIND_TABLE
    extent.parent = envelope.offset
    extent.created_at_ms = hb_now_ms()
    if hb_cas(place, 0, <uint64_t>offset):
        publish_extent(envelope.region, <uint64_t>offset)
    else:
        retire_extent(envelope.region, <uint64_t>offset)
    return hb_load_acquire(place)


cdef const char *envelope_read(
    Region region, uint64_t offset, hb_envelope *copy, unsigned char *name
) noexcept nogil:
    # Read the envelope whose extent is at an offset that was read from the mapping. Everything that is used later is
    # copied and then checked here, once. Returns NULL, or what is wrong with it. name: room for NAME_LIMIT bytes.
    cdef hb_envelope *shared = <hb_envelope *>region.extent(offset, HB_KIND_ENVELOPE, sizeof(hb_envelope))
    cdef Layout layout
    cdef uint64_t size
    if shared == NULL:
        return "is damaged"
    size = extent_size(hb_load_acquire(&shared.extent.state))
    record_copy(&copy.extent, &shared.extent, ENVELOPE_TERMS)
    if (copy.extent.name_offset != sizeof(hb_envelope) or copy.extent.name_length > NAME_LIMIT
            or size < sizeof(hb_envelope) + copy.extent.name_length):
        return "has an impossible size"
    memcpy(name, <char *>shared + sizeof(hb_envelope), copy.extent.name_length)
    if (not record_is_sound(region, &copy.extent, ENVELOPE_TERMS, name, copy.extent.name_length)
            or not terms_valid(&copy.terms)
            or not copy.terms.packets <= copy.terms.max_packets < PACKET_LIMIT):
        return "has impossible terms"
    layout = envelope_layout(copy.extent.name_length, strata_of(copy.terms.packets), copy.terms.max_packets)
    if size < layout.end:
        return "has an impossible size"
    return NULL


cdef object raise_damaged(Region region, str name, const char *wrong):
    raise CorruptFileError(f"envelope {name!r} of the engine {engine_name(region)} {wrong.decode()}")


cdef Envelope envelope_at(Region region, uint64_t offset, str name, Budget budget=None):
    # Return the handle of the envelope at an offset. budget: the envelope's budget if it is known; otherwise it is
    # found here.
    cdef hb_envelope copy
    cdef unsigned char[NAME_LIMIT] copied_name
    cdef Name place
    cdef const char *wrong = envelope_read(region, offset, &copy, copied_name)
    if wrong != NULL:
        raise_damaged(region, name, wrong)
    place.length = copy.extent.name_length
    if copy.extent.parent != 0:
        if budget is None or budget.offset != copy.extent.parent:
            budget = parent_of(region, copy.extent.parent)
        name_set(region, HB_KIND_ENVELOPE, copy.extent.parent, copied_name, copy.extent.name_length, &place)
    else:
        budget = None
    return envelope_from(region, offset, name, budget, &place, &copy.terms)


cdef Envelope envelope_from(
    Region region, uint64_t offset, str name, Budget budget, const Name *place, const hb_terms *terms
):
    # Return the handle of an envelope whose terms are known: they were read and checked, or the envelope was just made.
    cdef Envelope envelope = Envelope.__new__(Envelope)
    envelope.deck.first.terms.given = terms[0]
    tranche_prepare(&envelope.deck.first, envelope.deck.first.terms.seed)
    envelope.deck.clock_offset_ms = region.clock_offset_ms
    envelope.region = region
    envelope.budget = budget
    if budget is not None:
        envelope.funding_key = place.key
    envelope.offset = offset
    envelope.name = name
    envelope.deck.attach = attach_tranche
    envelope.deck.meet = meet_table
    envelope.deck.owner = <void *>envelope
    deck_attach(
        &envelope.deck, <hb_envelope *>(region.base + offset), place.length, &region.file, region.is_readonly,
        region.is_stale,
    )
    return envelope


# ---- what lies above ------------------------------------------------------------------------------------------------

# Modules above this one register these when they are imported.
cdef top_up_function top_up_envelope = NULL
cdef object reopen_envelope = None


cdef void envelope_set_top_up(top_up_function function) noexcept:
    global top_up_envelope
    top_up_envelope = function


cdef void envelope_set_reopen(object function) noexcept:
    global reopen_envelope
    reopen_envelope = function
