"""Budgets: money that can be reserved, and the tree that budgets and envelopes make of it.

The public classes ``Hold`` and ``Budget`` check and convert the Python arguments and then call ``account.pyx``. A
budget is a ``BudgetBase``, which supplies its account with levels and reads all of it; how money comes to what is below
a budget, and back, is in ``funding.pyx``.
"""
cimport cython
from cpython.buffer cimport PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.string cimport memcpy

from hbcore._file.clock cimport hb_now_ms
from hbcore._file.directory cimport Name, directory_allocate, name_set
from hbcore._file.format cimport HB_KIND_BUDGET, HB_KIND_TOP_UP, HB_KIND_TRANCHE, hb_budget, hb_extent
from hbcore._file.record cimport BUDGET_TERMS, record_seal
from hbcore._file.region cimport Region, engine_name, worker_of
from hbcore._keys.batch cimport Batch, Users, batch_group, users_of
from hbcore._keys.user cimport GROUP, UserKey, user_key, usual_integer_key
from hbcore._lib.answers cimport CLOSED, CONFLICT, GRANTED_NOW, INSUFFICIENT, LACKING, NOT_FOUND, REPEATED
from hbcore._lib.atomics cimport hb_fetch_add_relaxed
from hbcore._lib.integers cimport hb_read_integer
from hbcore._lib.limits cimport TOTAL_LIMIT
from hbcore._money.account cimport (
    Account, account_available, account_close, account_finish, account_prefetch,
)
from hbcore._money.account_scan cimport Sums
from hbcore._money.budget_base cimport (
    DEPTH_LIMIT, BudgetBase, HoldSnapshotRow, Supply, budget_base_from, budget_size, depth_of,
)
from hbcore._money.funding cimport (
    check_limit, child_afford, child_find, child_insert, fund_top_up, insufficient, pledge, refund_upwards,
    top_up_conflict, top_up_key,
)
from hbcore._money.hold cimport ADDING, GRANTED, PENDING, RELEASED, RELEASING, SETTLED, SETTLING, Standing, hold_kind
from hbcore._money.hold_group cimport account_reserve_group

import numpy as np

from hbcore.errors import ConflictError, NotFoundError
from hbcore.types import HOLD_DTYPE, HOLD_SNAPSHOT_DTYPE, BudgetStats, State, Status
from hbcore.terms import amount_list, check_same_total, index, integer, object_name

cdef enum:
    ALL_OF_IT = -1              # tells account_finish to spend the whole amount; passed as an unsigned number

cdef struct HoldRow:            # one record of hbcore.HOLD_DTYPE
    uint64_t status             # one byte of the record, and its padding, which must not be what was there before
    int64_t amount

if sizeof(HoldRow) != HOLD_DTYPE.itemsize:
    raise ImportError("the records of hbcore do not have the layout that this build expects; reinstall hbcore")

cdef tuple STATUSES = tuple(Status)


@cython.final
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class Hold:
    """The answer to a reservation or a top-up: truthy if the key has its money, held or spent.

    Immutable, comparable and hashable; it can be pickled.

    Examples:
        >>> gala = engine.budget("gala", total=300_000)
        >>> gala.reserve("order-17", 5_000)
        Hold(status=Status.GRANTED, amount=5000, settled=0, state=State.GRANTED)
        >>> bool(gala.release("order-17")), bool(gala.reserve("order-18", 400_000))
        (False, False)
    """

    def __init__(self, status, amount, settled, state):
        self.status_code = Status(status)
        self._amount = amount
        self._settled = settled
        self.state_code = 0 if state is None else State(state)

    @property
    def status(self):
        """Why the key has a hold, or has none, as a ``Status``.

        Examples:
            >>> engine.budget("gala", total=300_000).reserve("order-17", 400_000).status.name
            'INSUFFICIENT'
        """
        return STATUSES[self.status_code]

    @property
    def amount(self):
        """Sum that was reserved, in minor units; 0 without a hold.

        Examples:
            >>> engine.budget("gala", total=300_000).reserve("order-17", 5_000).amount
            5000
        """
        return self._amount

    @property
    def settled(self):
        """Part of the amount that was spent, in minor units; 0 unless the hold was settled.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).settled, gala.settle("order-17", 4_200).settled
            (0, 4200)
        """
        return self._settled

    @property
    def state(self):
        """What became of the hold, as a ``State``: GRANTED, SETTLED or RELEASED; None without a hold.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).state.name, gala.settle("order-17").state.name
            ('GRANTED', 'SETTLED')
        """
        return None if self.state_code == 0 else State(self.state_code)

    def __bool__(self):
        return self.state_code == GRANTED or self.state_code == SETTLED

    def __eq__(self, other):
        if not isinstance(other, Hold):
            return NotImplemented
        cdef Hold that = <Hold>other
        return (self.status_code == that.status_code and self._amount == that._amount
                and self._settled == that._settled and self.state_code == that.state_code)

    def __hash__(self):
        return hash((self.status_code, self._amount, self._settled, self.state_code))

    def __repr__(self):
        state = "None" if self.state is None else f"State.{self.state.name}"
        return (
            f"Hold(status=Status.{self.status.name}, amount={self._amount}, settled={self._settled}, state={state})"
        )

    def __reduce__(self):
        return Hold, (self.status_code, self._amount, self._settled, self.state_code or None)


cdef Hold REFUSED = Hold(INSUFFICIENT, 0, 0, None)
cdef Hold REFUSED_CLOSED = Hold(CLOSED, 0, 0, None)


cdef inline Hold hold_of(int status, const Standing *standing):
    return filled(Hold.__new__(Hold), status, standing)


cdef inline Hold filled(Hold hold, int status, const Standing *standing):
    # Fill in the answer about a hold that was granted; `standing` is the hold's. A caller that is told GRANTED is told
    # of that moment, whatever others who know the key have done since: an answer that says both granted and already
    # released would be true at no moment.
    cdef int kind = GRANTED if status == GRANTED_NOW else hold_kind(standing.state)
    hold.status_code = status
    hold._amount = <int64_t>standing.amount
    hold._settled = <int64_t>(standing.amount - standing.value) if kind == SETTLED else 0
    hold.state_code = kind if kind == SETTLED or kind == RELEASED else GRANTED
    return hold


cdef inline uint64_t amount_of(object amount, int least) except? 0:
    # Return an amount that a hold may have. A plain int in range is read without a comparison of Python objects.
    cdef long long number
    if type(amount) is int and hb_read_integer(amount, &number) == 0 and least <= number < TOTAL_LIMIT:
        return <uint64_t>number
    return integer("amount", amount, least, TOTAL_LIMIT - 1)


cdef inline int key_of(Region region, object key, UserKey *out) except -1:
    # Hash a key. A key may be whatever a user may be.
    if usual_integer_key(&region.key, key, out):
        return 0
    try:
        user_key(&region.key, key, out)
    except (TypeError, ValueError) as error:
        raise as_key(error) from None
    return 0


cdef object as_key(error):
    # Return an error about a user with its text changed to speak of a key.
    text = str(error)
    for said, meant in (("users[", "keys["), ("users must", "keys must"), ("the masked users", "the masked keys"),
                        ("(users.", "(keys."), ("sequence of users", "sequence of keys"), ("user ", "key ")):
        text = text.replace(said, meant, 1)
    return (TypeError if isinstance(error, TypeError) else ValueError)(text)


# ---- the public class -----------------------------------------------------------------------------------------------

@cython.final
@cython.auto_pickle(False)
cdef class Budget(BudgetBase):
    """Money that can be reserved, in minor units; made by ``Engine.budget`` or, as a hold of another, by ``budget``.

    ``reserve(key, amount)`` holds money, ``settle`` spends all or a part of it, ``release`` gives it back. Every key is
    idempotent for ever. ``total == available + held + settled`` at every moment.

    All methods are safe to call from any thread of any process that has the engine open, with or without the GIL, and
    no call waits for another: what one has begun, any other can finish. Two handles are equal if they speak of the
    same budget. A budget of a file can be pickled; a budget of a memory engine cannot.

    Attributes:
        name: name of the budget, unique among the budgets of its parent, or of the engine.
        parent: budget that holds this one's money; None for a budget of the engine.

    Examples:
        >>> gala = engine.budget("gala", total=300_000)
        >>> taobao = gala.budget("taobao", total=100_000)
        >>> envelope = taobao.envelope("20:00", total=20_000, packets=50)
        >>> gala.stats(), taobao.stats().available
        (BudgetStats(total=300000, available=200000, held=100000, settled=0), 80000)
    """

    def __init__(self):
        raise TypeError("budgets are made by Engine.budget and Budget.budget")

    # ---- holds

    def reserve(self, key, /, amount):
        """Hold money under a key, or say why not; the same answer when asked again.

        Args:
            key: the caller's own number of what the money is for: ``str``, ``bytes`` or ``int``, as a user of
                ``Envelope.claim``. A key keeps its outcome for ever, also when it was settled or released.
            amount: minor units, 1 .. 2**62 - 1.

        Returns:
            A ``Hold``: GRANTED the first time, REPEATED from then on, INSUFFICIENT or CLOSED (which leave no trace: the
            key can be tried again, with any amount).

        Raises:
            ConflictError: the key was granted with another amount.
            TypeError, ValueError: key or amount is bad.
            EngineFullError: no space for another hold; nothing was reserved.
            EngineClosedError, ReadOnlyError, CorruptFileError: nothing was reserved.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).status.name, gala.reserve("order-17", 5_000).status.name
            ('GRANTED', 'REPEATED')
            >>> gala.stats().available
            295000
        """
        cdef UserKey hash
        cdef Standing standing
        cdef uint64_t wanted
        cdef int answer
        cdef Hold hold
        key_of(self.region, key, &hash)
        # A third of the time goes into one look at a cold cache line, so everything else is done while it is fetched.
        account_prefetch(&self.account, &hash)
        wanted = amount_of(amount, 1)
        hold = Hold.__new__(Hold)
        worker_of(self.region)      # arguments that are not plain may have run any Python, even a close of the engine
        answer = self.put(&hash, PENDING, wanted, wanted, &standing)
        if answer == INSUFFICIENT:
            return REFUSED
        if answer == CLOSED:
            return REFUSED_CLOSED
        if standing.amount != wanted:
            raise ConflictError(f"key {key!r} of budget {self.name!r} was granted {standing.amount}, not {wanted}")
        return filled(hold, answer, &standing)

    def reserve_many(self, keys, /, amounts):
        """Hold money under many keys, one after another, without the GIL.

        Args:
            keys: an integer array, or a sequence of ``str``, ``bytes`` and ``int``, as the users of ``claim_many``.
            amounts: one integer for all, or a sequence or integer array of the same length, in minor units.

        Returns:
            A ``HOLD_DTYPE`` array of shape (keys,): ``status`` as of ``reserve``, or CONFLICT for a key that was
            granted with another amount; ``amount`` is what the key was granted with.

        Raises:
            TypeError, ValueError: a key or an amount is bad; the message names its index, and nothing was reserved.
            EngineFullError, EngineClosedError, ReadOnlyError, CorruptFileError: some may have been reserved; asking
                again gives every key the answer that stands.

        Examples:
            >>> gala = engine.budget("gala", total=300)
            >>> answers = gala.reserve_many(np.array([17, 18, 19]), [100, 150, 100])
            >>> [(hbcore.Status(row["status"]).name, int(row["amount"])) for row in answers]
            [('GRANTED', 100), ('GRANTED', 150), ('INSUFFICIENT', 0)]
        """
        cdef Users batch
        cdef Py_buffer view, amount_view
        cdef Py_ssize_t done = 0
        cdef uint64_t announced = 0
        cdef Supply ask
        cdef int answer
        cdef const int64_t *each
        self.region.check_writable()
        try:
            batch = users_of(&self.region.key, keys, 0)
        except (TypeError, ValueError) as error:
            raise as_key(error) from None
        wanted = amounts_of(amounts, batch.count)
        rows = np.empty(batch.count, HOLD_DTYPE)
        PyObject_GetBuffer(wanted, &amount_view, PyBUF_STRIDED_RO)
        PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE)
        each = <const int64_t *>amount_view.buf
        try:
            self.region.check_writable()    # reading the keys may have run any Python
            ask = self.first_ask()
            while done < batch.count:
                with nogil:
                    answer = reserve_rows(&self.account, &batch.batch, batch.count, each, amount_view.strides[0] // 8,
                                          <HoldRow *>view.buf, &done, &announced)
                if answer != 0:
                    ask.turns = 0   # a batch is long, and meanwhile others may have made more than one request can need
                    self.supply(answer, &ask)
        finally:
            PyBuffer_Release(&amount_view)
            PyBuffer_Release(&view)
        return rows

    def find(self, key, /):
        """Return the key's hold, with status REPEATED, or None; never reserves. Arguments and errors as ``reserve``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> print(gala.find("order-17"))
            None
            >>> gala.reserve("order-17", 5_000).amount == gala.find("order-17").amount
            True
        """
        cdef UserKey hash
        cdef Standing standing
        self.region.check_key()
        key_of(self.region, key, &hash)
        if self.look_up(&hash, &standing) == NOT_FOUND:
            return None
        return hold_of(REPEATED, &standing)

    def settle(self, key, /, amount=None):
        """Spend what a key holds, all of it or a part; the rest is available again. Final.

        Args:
            key: as of ``reserve``.
            amount: 0 .. what is held, minor units; None: all of it.

        Returns:
            The hold, also when it was settled with the same amount before; None if the key holds nothing.

        Raises:
            ConflictError: the key was settled with another amount, or released.
            ValueError: the amount is more than what is held.
            TypeError, EngineClosedError, ReadOnlyError, CorruptFileError: as ``reserve``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).amount, gala.settle("order-17", 4_200).settled
            (5000, 4200)
            >>> gala.stats()
            BudgetStats(total=300000, available=295800, held=0, settled=4200)
        """
        cdef uint64_t spent = <uint64_t>ALL_OF_IT
        cdef UserKey hash
        cdef Standing standing
        cdef int answer
        key_of(self.region, key, &hash)
        if amount is not None:
            spent = amount_of(amount, 0)
        self.region.check_writable()
        answer = self.finish(&hash, SETTLING, spent, &standing)
        if answer == NOT_FOUND:
            return None
        if answer == REPEATED and hold_kind(standing.state) == RELEASED:
            raise ConflictError(f"key {key!r} of budget {self.name!r} is released: final, not to be settled")
        if amount is None:
            spent = standing.amount
        elif spent > standing.amount:
            integer("amount", spent, 0, standing.amount)
        if answer == REPEATED and standing.amount - standing.value != spent:
            raise ConflictError(
                f"key {key!r} of budget {self.name!r} is settled with {standing.amount - standing.value}, not {spent}"
            )
        return hold_of(REPEATED, &standing)

    def release(self, key, /):
        """Give back all that a key holds. Final: the key keeps this outcome. Arguments as ``reserve``.

        Returns:
            The hold, also when it was released before; None if the key holds nothing.

        Raises:
            ConflictError: the key is settled, which is final.
            TypeError, ValueError, EngineClosedError, ReadOnlyError, CorruptFileError: as ``reserve``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).state.name, gala.release("order-17").state.name
            ('GRANTED', 'RELEASED')
            >>> gala.stats().available
            300000
        """
        cdef UserKey hash
        cdef Standing standing
        cdef int answer
        key_of(self.region, key, &hash)
        self.region.check_writable()
        answer = self.finish(&hash, RELEASING, 0, &standing)
        if answer == NOT_FOUND:
            return None
        if answer == REPEATED and hold_kind(standing.state) == SETTLED:
            raise ConflictError(f"key {key!r} of budget {self.name!r} is settled: final, not to be released")
        return hold_of(REPEATED, &standing)

    cdef int finish(self, const UserKey *key, int kind, uint64_t spent, Standing *standing) except -1:
        # Settle or release a hold, as `kind` says. Returns GRANTED_NOW, REPEATED, EXCESSIVE or NOT_FOUND.
        cdef Supply ask = self.first_ask()
        cdef int answer
        standing.announced = 0
        while True:
            answer = account_finish(&self.account, key, kind, spent, standing)
            if 0 <= answer < LACKING:
                if answer == GRANTED_NOW:
                    refund_upwards(self)
                return answer
            self.supply(answer, &ask)

    def holds(self):
        """Return every key that was ever granted, in no particular order; children and top-ups are not among them.

        Each row is right at the moment it is read; the whole is a snapshot only while nobody reserves, settles or
        releases. O(holds).

        Returns:
            A ``HOLD_SNAPSHOT_DTYPE`` array of shape (holds,): ``key`` (the keyed hash, see ``Engine.user_hash``),
            ``amount`` and ``settled`` in minor units, ``state`` and ``granted_at`` (UTC).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> hold = gala.reserve("order-17", 5_000)
            >>> row = gala.holds()[0]
            >>> int(row["amount"]), row["key"].tobytes() == engine.user_hash("order-17")
            (5000, True)
        """
        cdef Sums sums
        cdef Py_buffer view
        cdef uint64_t limit = 0
        cdef int64_t count = 0
        self.region.check_open()
        self.count(&sums)
        while <uint64_t>count >= limit:
            # Others may reserve meanwhile, so there is room to spare; if it was not enough, try again with more.
            limit = 2 * max(sums.count, <uint64_t>count) + 64
            rows = np.zeros(limit, HOLD_SNAPSHOT_DTYPE)
            PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE)
            try:
                count = self.snapshot(<HoldSnapshotRow *>view.buf, limit)
            finally:
                PyBuffer_Release(&view)
        return rows[:count]

    # ---- the tree

    def budget(self, name, total=None):
        """Get the sub-budget of that name, or create it as a hold of this budget. As ``Engine.budget``.

        Raises:
            InsufficientBudgetError: this budget is closed, or has less available; nothing was made.
            TypeError, ValueError, ConflictError, NotFoundError, EngineFullError: as ``Engine.budget``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> taobao = gala.budget("taobao", total=100_000)
            >>> taobao.parent.name, gala.stats().held
            ('gala', 100000)
        """
        return budget_get(self.region, self, name, total)

    def envelope(
        self, name, total=None, packets=None, law="double_mean", min=1, max=None, concentration=3, seed=None,
        expires_at=None, per_user=1, hold_seconds=None, max_packets=None,
    ):
        """Get the envelope of that name, or create it as a hold of this budget. As ``Engine.envelope``.

        Raises:
            InsufficientBudgetError: this budget is closed, or has less available; nothing was made.
            TypeError, ValueError, ConflictError, NotFoundError, EngineFullError: as ``Engine.envelope``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> envelope = gala.envelope("20:00", total=20_000, packets=50)
            >>> envelope.close(), gala.stats().available
            (20000, 300000)
        """
        return get_envelope(
            self.region, self, name, total, packets, law, min, max, concentration, seed, expires_at, per_user,
            hold_seconds, max_packets,
        )

    def create_many(
        self, names, totals, packets, *, law="double_mean", min=1, max=None, concentration=3, seeds=None,
        expires_at=None, per_user=1, hold_seconds=None, max_packets=None,
    ):
        """Create many envelopes as holds of this budget, one after another, without the GIL. As ``Engine.create_many``.

        Each is funded by itself: an envelope that the budget cannot fund any more is answered INSUFFICIENT (or CLOSED,
        once the budget is) and not made, its name stays free, and those after it are tried as well. To make all or
        none, look at ``stats().available`` before, or make a sub-budget of their sum.

        Returns:
            A uint8 array of shape (names,) with the ``Status`` of each name: GRANTED, REPEATED, CONFLICT, INSUFFICIENT
            or CLOSED.

        Raises:
            TypeError, ValueError, EngineFullError, EngineClosedError, ReadOnlyError, CorruptFileError: as
                ``Engine.create_many``.

        Examples:
            >>> gala = engine.budget("gala", total=50_000)
            >>> statuses = gala.create_many(["20:00", "21:00", "22:00"], 20_000, 50)
            >>> [hbcore.Status(status).name for status in statuses]
            ['GRANTED', 'GRANTED', 'INSUFFICIENT']
        """
        return create_envelopes(
            self.region, self, names, totals, packets, law, min, max, concentration, seeds, expires_at, per_user,
            hold_seconds, max_packets,
        )

    def top_up(self, key, /, amount):
        """Add money: to a budget without a parent from outside, to a sub-budget from its parent, as a hold there.

        Args:
            key: the caller's number of the top-up, as of ``reserve`` but in a name space of its own.
            amount: minor units, 1 .. 2**62 - 1.

        Returns:
            A ``Hold``: GRANTED the first time, REPEATED from then on, INSUFFICIENT (the parent has less) or CLOSED.

        Raises:
            ConflictError: the key was used with another amount.
            TypeError, ValueError: a bad argument, or the total would reach 2**62.
            EngineFullError, EngineClosedError, ReadOnlyError, CorruptFileError: asking again finishes what was begun.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.top_up("second sponsor", 100_000).status.name, gala.total
            ('GRANTED', 400000)
        """
        cdef UserKey hash
        cdef Standing standing
        cdef uint64_t added
        cdef int answer
        cdef bint is_closed
        key_of(self.region, key, &hash)
        added = amount_of(amount, 1)
        self.region.check_writable()
        hash = top_up_key(self, &hash)
        if self.look_up(&hash, &standing) == NOT_FOUND:
            # The parent may have granted it already, to a call that died.
            answer = NOT_FOUND if self.parent is None else self.parent.look_up(&hash, &standing)
            account_available(&self.account, &is_closed)
            if is_closed and answer == NOT_FOUND:
                return REFUSED_CLOSED
            if self.parent is None:
                pledge(self, added)
            elif answer == NOT_FOUND:
                answer = fund_top_up(self, &hash, added)
                if answer == INSUFFICIENT or answer == CLOSED:
                    check_limit(self, added)
                    return REFUSED if answer == INSUFFICIENT else REFUSED_CLOSED
                self.parent.look_up(&hash, &standing)
            if self.parent is not None:
                # What the parent has granted is what is added, also if an earlier call asked for it and died.
                if standing.amount != added:
                    raise ConflictError(top_up_conflict(self, key, standing.amount, added))
            answer = NOT_FOUND
            try:
                answer = self.put(&hash, ADDING, added, added, &standing)
            finally:
                if self.parent is None and (answer == REPEATED or answer == NOT_FOUND and standing.announced == 0):
                    # The top-up was made and pledged by another call, or was not made: take this call's pledge back.
                    hb_fetch_add_relaxed(self.pledged, -added)
            refund_upwards(self)
        else:
            answer = REPEATED
        if standing.amount != added:
            raise ConflictError(top_up_conflict(self, key, standing.amount, added))
        return hold_of(answer, &standing)

    def close(self):
        """End the reserving, and give what is available to the parent; holds that exist can be settled or released.

        Returns:
            The sum that was refunded so far, in minor units; of a budget without a parent, what is available.
            Idempotent: what comes back later goes up as well, at once, and adds to it.

        Raises:
            EngineClosedError, ReadOnlyError, CorruptFileError: as ``reserve``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> taobao = gala.budget("taobao", total=100_000)
            >>> taobao.close(), gala.stats().available, taobao.reserve("order-17", 1).status.name
            (100000, 300000, 'CLOSED')
        """
        cdef bint is_closed
        self.region.check_writable()
        if account_close(&self.account) < 0:
            self.raise_corrupt()
        refund_upwards(self)
        return account_available(&self.account, &is_closed)

    @property
    def closed(self):
        """Whether a new key would hear CLOSED: ``close`` was called. O(1).

        Raises:
            EngineClosedError: the engine was closed in this process.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.closed, gala.close(), gala.closed
            (False, 300000, True)
        """
        cdef bint is_closed
        self.region.check_open()
        account_available(&self.account, &is_closed)
        return bool(is_closed)

    cdef uint64_t own_total(self, const Sums *sums, uint64_t available, bint is_closed) noexcept:
        # Return what the budget was made with and topped up by, less what it has given back to the parent.
        return self.base_total + sums.added - (available if is_closed and self.parent is not None else 0)

    def stats(self):
        """Sum the money by reading the holds, and what is below: O(holds and touched packets).

        Returns:
            A ``BudgetStats``.

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> hold = gala.reserve("order-17", 5_000)
            >>> gala.stats()
            BudgetStats(total=300000, available=295000, held=5000, settled=0)
        """
        cdef Sums sums
        cdef uint64_t left, available, total, settled
        cdef bint is_closed
        self.region.check_open()
        # What is settled only grows, so if it is read before what is available, it is never too much. Money that was
        # added between the two readings is seen by counting once more; if that is not enough, the file is damaged.
        self.count(&sums)
        settled = sums.settled
        for offset in self.children():
            settled += settled_below(self, offset)
        left = account_available(&self.account, &is_closed)
        available = 0 if is_closed and self.parent is not None else left
        total = self.own_total(&sums, left, is_closed)
        if total >> 63 or settled > total or available > total - settled:
            self.count(&sums)
            total = self.own_total(&sums, left, is_closed)
            if total >> 63 or settled > total or available > total - settled:
                self.raise_corrupt()
        return BudgetStats(total, available, total - available - settled, settled)

    @property
    def total(self):
        """Sum in minor units that the budget was made with and topped up by, whatever it has given back; O(holds).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> engine.budget("gala", total=300_000).total
            300000
        """
        self.region.check_open()
        return self.sum_of_all()

    # ---- handles

    def __eq__(self, other):
        if not isinstance(other, Budget):
            return NotImplemented
        return self.identity() == (<Budget>other).identity()

    def __hash__(self):
        return hash(self.identity())

    cdef tuple identity(self):
        return self.region.engine_id(), self.region.path, self.offset

    def __repr__(self):
        return f"<Budget {self.name!r}: {self.base_total}, engine {engine_name(self.region)}>"

    def __reduce__(self):
        if self.region.path is None:
            raise TypeError(
                f"budget {self.name!r} lives in a memory engine, which other processes cannot open; use a file "
                "(hbcore.Engine(path)) to pickle it, or fork"
            )
        return reopen_budget, (self.region.path, self.region.engine_id(), names_of(self), bool(self.region.is_readonly))


def figures_of(Budget budget not None):
    """Return the figures of a budget itself, without what is below it.

    Returns:
        Its number of holds, what was spent of them, what is available, its total, and whether it is closed. They are
        read in this order, so what is spent and what is available are together never more than the total, except where
        money was added meanwhile.
    """
    cdef Sums sums
    cdef bint is_closed
    cdef uint64_t available
    budget.region.check_open()
    budget.count(&sums)
    available = account_available(&budget.account, &is_closed)
    return sums.count, sums.settled, available, budget.base_total + sums.added, bool(is_closed)


def names_of(Budget budget):
    """Return the names from the root to a budget."""
    return (*(names_of(budget.parent) if budget.parent is not None else ()), budget.name)


cdef object amounts_of(object amounts, Py_ssize_t count):
    # Return amounts as an int64 array of `count` elements, each of them checked; its stride is 0 if there is one amount
    # for all.
    if index(amounts) is not None:
        return np.broadcast_to(np.int64(integer("amounts", amounts, 1, TOTAL_LIMIT - 1)), (count,))
    if type(amounts) is np.ndarray and amounts.dtype.kind in "iu" and amounts.shape == (count,):
        # The copy is checked and used, because another thread may write to the caller's array. An amount of 2**63 or
        # more becomes negative.
        copy = amounts.astype(np.int64)
        if count == 0 or 1 <= copy.min() and copy.max() < TOTAL_LIMIT:
            return copy
    return np.array(amount_list(amounts, count), np.int64)      # the long way, which names what is wrong


cdef int reserve_rows(
    Account *account, const Batch *batch, Py_ssize_t count, const int64_t *amounts, Py_ssize_t stride, HoldRow *rows,
    Py_ssize_t *done, uint64_t *announced
) noexcept nogil:
    # Reserve for keys done .. count - 1 in order. Returns 0, or the answer of the account that says what must be
    # supplied before the rest; *announced keeps how far the key that could not be finished has come.
    cdef UserKey group[GROUP]
    cdef Standing standings[GROUP]
    cdef int answers[GROUP]
    cdef const UserKey *keys
    cdef Py_ssize_t i, size, part
    cdef uint64_t now_ms
    cdef int answer, stopped
    while done[0] < count:
        size = min(count - done[0], <Py_ssize_t>GROUP)
        keys = batch_group(batch, done[0], size, group)
        for i in range(size):
            account_prefetch(account, &keys[i])
        now_ms = hb_now_ms()
        stopped = account_reserve_group(account, keys, size, amounts + done[0] * stride, stride, now_ms, announced,
                                        standings, answers, &part)
        for i in range(part):
            answer = answers[i]
            rows[done[0]].amount = 0
            if answer == GRANTED_NOW or answer == REPEATED:
                rows[done[0]].amount = <int64_t>standings[i].amount
                if rows[done[0]].amount != amounts[done[0] * stride]:
                    answer = CONFLICT
            rows[done[0]].status = <uint64_t>answer
            done[0] += 1
        if stopped != 0:
            return stopped
    return 0


# ---- making and finding ---------------------------------------------------------------------------------------------

cdef Budget budget_at(Region region, uint64_t offset):
    # Return the handle of the budget at an offset.
    return <Budget>budget_base_from(Budget, region, offset, 0)


cdef Budget parent_of(Region region, uint64_t offset):
    # Return the budget at the offset that a child's extent names as its parent; None for a child of the engine.
    return None if offset == 0 else budget_at(region, offset)


def budget_get(Region region not None, Budget parent, name, total):
    """Get or create a budget below ``parent``, or below the engine if ``parent`` is None."""
    cdef Budget budget = None
    cdef hb_budget *shared
    cdef int64_t offset
    cdef Name place
    cdef bytes encoded
    cdef uint64_t available
    cdef uint64_t wanted = 0
    region.check_open()
    encoded = object_name(name)
    name = encoded.decode()     # a plain str, also where a subclass was given
    if total is not None:
        wanted = integer("total", total, 1, TOTAL_LIMIT - 1)
    name_set(region, HB_KIND_BUDGET, 0 if parent is None else parent.offset, encoded, <uint64_t>len(encoded), &place)
    offset = child_find(region, parent, &place)
    if offset == 0:
        if total is None:
            raise NotFoundError(f"there is no budget {name!r}; give total to create it")
        region.check_writable()
        if depth_of(parent) >= DEPTH_LIMIT:
            raise ValueError(f"budget {name!r} would be more than {DEPTH_LIMIT} levels below the engine")
        offset = child_afford(region, parent, &place, wanted, &available)
    if offset == 0:
        offset = directory_allocate(region, budget_size(<uint64_t>len(encoded)))
        shared = <hb_budget *>(region.base + offset)
        shared.extent.kind = HB_KIND_BUDGET
        shared.extent.name_length = <uint16_t>len(encoded)
        shared.extent.name_offset = sizeof(hb_budget)
        shared.extent.parent = 0 if parent is None else parent.offset
        shared.extent.created_at_ms = hb_now_ms()
        shared.total = wanted
        shared.money[1] = wanted
        memcpy(<char *>shared + sizeof(hb_budget), <const char *>encoded, len(encoded))
        record_seal(
            region, &shared.extent, BUDGET_TERMS, <const unsigned char *><const char *>encoded, <size_t>len(encoded)
        )
        offset = child_insert(region, parent, &place, <uint64_t>offset, wanted, &available)
    if offset < 0:
        raise insufficient(parent, f"budget {name!r}", wanted, <int>offset, available)
    budget = budget_at(region, <uint64_t>offset)
    if total is not None:
        check_same_total(name, budget.base_total, wanted)
    return budget


# Modules above this one register here, when they are imported, what this module needs of them.
cdef get_function get_envelope = NULL
cdef create_function create_envelopes = NULL
cdef settled_function settled_within = NULL
cdef object reopen_budget = None


cdef void budget_set_envelopes(get_function get, create_function create) noexcept:
    global get_envelope, create_envelopes
    get_envelope = get
    create_envelopes = create


cdef void budget_set_settled(settled_function function) noexcept:
    global settled_within
    settled_within = function


cdef void budget_set_reopen(object function) noexcept:
    global reopen_budget
    reopen_budget = function


cdef uint64_t settled_below(Budget budget, uint64_t offset) except? 0xFFFFFFFFFFFFFFFF:
    # Return what was spent within a child. A child itself says whose child it is, so the links of a damaged file cannot
    # lead in a circle: the way up from each budget is short (budget_base_from).
    cdef Region region = budget.region
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    if not region.contains(offset, sizeof(hb_extent)):
        budget.raise_corrupt()
    if extent.kind == HB_KIND_TOP_UP or extent.kind == HB_KIND_TRANCHE:
        return 0        # whatever was spent of a top-up was spent in the child that it has topped up
    if extent.parent != budget.offset:
        budget.raise_corrupt()
    if extent.kind == HB_KIND_BUDGET:
        return budget_at(region, offset).stats().settled
    return settled_within(region, offset)
