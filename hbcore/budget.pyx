"""Budgets: money that can be reserved, and the tree that budgets and envelopes make of it.

The public classes ``Hold`` and ``Budget``: check and convert the Python arguments, then ``account.pyx``. A child (a
sub-budget, an envelope, a top-up of a sub-budget) is a hold of its parent: the money word of the parent decides whether
it is made. Its extent is written whole before that, so that anybody can finish what a death leaves; and what a closed
child gives back is told to the parent as a sum of all refunds so far, so that none can be lost or counted twice.
"""
cimport cython
from cpython.buffer cimport PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from hbcore.account cimport (
    ABSENT, ADDED, ADDING, CROWDED, FULL, FUNDED, FUNDING, GRANTED, INSUFFICIENT, LACKING, PENDING, RELEASED,
    RELEASING, SETTLED, SETTLING, UNSEEN, Account, Standing, Sums, account_attach, account_available, account_close,
    account_count, account_decide, account_find, account_finish, account_prefetch, account_read, account_refund,
    account_reserve,
    hold_kind, hold_time, level_size, segment_first, segment_size,
)
from hbcore.atomics cimport hb_cas, hb_fetch_add_relaxed, hb_load_acquire, hb_load_private, hb_store_private
from hbcore.batch cimport GROUP, Batch, Users, batch_group, users_of
from hbcore.directory cimport (
    Name, directory_allocate, directory_find, directory_insert, directory_name, directory_set_funded, extent_name,
    name_hash, name_set, publish_extent, retire_extent,
)
from hbcore.format cimport (
    HB_KIND_BUDGET, HB_KIND_ENVELOPE, HB_KIND_LEVEL, HB_KIND_TOP_UP, HB_LEVELS, HB_SEGMENTS, HB_UNIT, hb_budget,
    hb_extent, hb_hold, hb_top_up,
)
from hbcore.ledger cimport CLOSED, GRANTED_NOW, REPEATED
from hbcore.region cimport Region, extent_size, hb_now_ms
from hbcore.user cimport UserKey, siphash128, user_key

import numpy as np

from hbcore.errors import (
    ConflictError, CorruptFileError, EngineFullError, InsufficientBudgetError, NotFoundError,
)
from hbcore.records import HOLD_DTYPE, HOLD_SNAPSHOT_DTYPE, BudgetStats, State, Status
from hbcore.terms import TOTAL_LIMIT as _TOTAL_LIMIT, amount_list, check_same_total, index, integer, object_name

cdef enum:
    NAME_LIMIT = 255
    DEPTH_LIMIT = 64            # budgets from the root to a leaf
    SUPPLY_LIMIT = 64           # levels, and looks at the file, that one call may need
    LEVEL_HEADER = 64           # a level is an extent; its holds begin after the header
    ALL_OF_IT = -1              # to account_finish, as an unsigned number
    CONFLICT_STATUS = 5

cdef struct HoldRow:            # hbcore.HOLD_DTYPE
    uint8_t status
    int64_t amount

if sizeof(HoldRow) != HOLD_DTYPE.itemsize or sizeof(HoldSnapshotRow) != HOLD_SNAPSHOT_DTYPE.itemsize:
    raise ImportError("the records of hbcore do not have the layout that this build expects; reinstall hbcore")

cdef tuple STATUSES = tuple(Status)
cdef int64_t TOTAL_LIMIT = _TOTAL_LIMIT
cdef Region NO_REGION = Region()    # closed for ever: of a Budget that Budget.__new__ alone has made


@cython.final
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class Hold:
    """The answer to a reservation: truthy if the key has its money, held or spent.

    ``status`` is a ``Status``; ``amount`` what was reserved and ``settled`` what of it was spent, in minor units (0
    without a hold); ``state`` a ``State`` (GRANTED, SETTLED or RELEASED), or None without a hold. Immutable,
    comparable, hashable.
    """

    def __init__(self, status, amount, settled, state):
        self.status_code = Status(status)
        self.amount = amount
        self.settled = settled
        self.state_code = 0 if state is None else State(state)

    @property
    def status(self):
        return STATUSES[self.status_code]

    @property
    def state(self):
        return None if self.state_code == 0 else State(self.state_code)

    def __bool__(self):
        return self.state_code == GRANTED or self.state_code == SETTLED

    def __eq__(self, other):
        if not isinstance(other, Hold):
            return NotImplemented
        cdef Hold that = <Hold>other
        return (self.status_code == that.status_code and self.amount == that.amount and self.settled == that.settled
                and self.state_code == that.state_code)

    def __hash__(self):
        return hash((self.status_code, self.amount, self.settled, self.state_code))

    def __repr__(self):
        state = "None" if self.state is None else f"State.{self.state.name}"
        return (
            f"Hold(status=Status.{self.status.name}, amount={self.amount}, settled={self.settled}, state={state})"
        )

    def __reduce__(self):
        return Hold, (self.status_code, self.amount, self.settled, self.state_code or None)


cdef Hold REFUSED = Hold(INSUFFICIENT, 0, 0, None)
cdef Hold REFUSED_CLOSED = Hold(CLOSED, 0, 0, None)


cdef inline Hold hold_of(int status, const Standing *standing):
    # standing: of a hold that was granted
    cdef Hold hold = Hold.__new__(Hold)
    cdef int kind = hold_kind(standing.state)
    hold.status_code = status
    hold.amount = <int64_t>standing.amount
    hold.settled = <int64_t>(standing.amount - standing.value) if kind == SETTLED else 0
    hold.state_code = kind if kind == SETTLED or kind == RELEASED else GRANTED
    return hold


cdef inline uint64_t amount_of(object amount, int least) except? 0:
    # What a hold may be of; of an int that is one, without a call.
    cdef int64_t number
    if type(amount) is int and least <= amount < TOTAL_LIMIT:
        number = amount
        return <uint64_t>number
    return integer("amount", amount, least, TOTAL_LIMIT - 1)


cdef inline int key_of(Region region, object key, UserKey *out) except -1:
    # A key may be what a user may be.
    try:
        user_key(&region.key, key, out)
    except (TypeError, ValueError) as error:
        raise as_key(error) from None
    return 0


cdef object as_key(error):
    # An error about a user, said of a key.
    text = str(error)
    for said, meant in (("users[", "keys["), ("users must", "keys must"), ("the masked users", "the masked keys"),
                        ("(users.", "(keys."), ("sequence of users", "sequence of keys"), ("user ", "key ")):
        text = text.replace(said, meant, 1)
    return (TypeError if isinstance(error, TypeError) else ValueError)(text)


# ---- the public class -----------------------------------------------------------------------------------------------

@cython.final
@cython.auto_pickle(False)
cdef class Budget:
    """Money that can be reserved, in minor units; made by ``Engine.budget`` or, as a hold of another, by ``budget``.

    ``reserve(key, amount)`` holds money, ``settle`` spends it or a part of it, ``release`` gives it back. Every key is
    idempotent for ever. ``total == available + held + settled`` at every moment.

    All methods are safe to call from any thread of any process that has the engine open, with or without the GIL, and
    no call waits for another: what one has begun, any other can finish. Two handles are equal if they speak of the
    same budget. A budget of a file can be pickled; of a memory engine it cannot.
    """

    def __cinit__(self):
        self.region = NO_REGION

    def __init__(self):
        raise TypeError("budgets are made by Engine.budget and Budget.budget")

    cdef object raise_corrupt(self):
        raise CorruptFileError(f"budget {self.name!r} of the engine {engine_name(self.region)} is damaged")

    # ---- what an account asks of its caller

    cdef int supply(self, int answer) except -1:
        # Do what an account cannot do without Python; the caller asks it again.
        cdef uint64_t known
        if answer == LACKING:
            if self.attach_levels() == 0:
                self.raise_corrupt()
        elif answer == CROWDED:
            self.make_part(self.account.level_offsets, self.account.levels, HB_LEVELS, True)
        elif answer == FULL:
            self.make_part(self.account.segment_offsets, self.account.segments, HB_SEGMENTS, False)
        elif answer == UNSEEN:
            known = hb_load_private(&self.region.known_size)
            self.region.contains(0, self.region.capacity)
            if hb_load_private(&self.region.known_size) == known:
                self.raise_corrupt()
        else:
            self.raise_corrupt()
        return 0

    cdef int attach_levels(self) except -1:
        # Attach every level and segment that was made since. Returns how many.
        return (
            self.attach(self.account.level_offsets, self.account.levels, HB_LEVELS, True)
            + self.attach(self.account.segment_offsets, self.account.segments, HB_SEGMENTS, False)
        )

    cdef int attach(self, uint64_t *offsets, uint64_t *addresses, uint64_t count, bint is_level) except -1:
        cdef uint64_t i, offset
        cdef hb_extent *extent
        cdef int new = 0
        for i in range(1, count):
            offset = hb_load_acquire(&offsets[i])
            if offset == 0:
                break
            if hb_load_private(&addresses[i]) == 0:
                extent = self.region.extent(offset, HB_KIND_LEVEL, part_size(i, is_level))
                if extent == NULL or extent.parent != self.offset:
                    self.raise_corrupt()
                publish_extent(self.region, offset)
                hb_store_private(&addresses[i], <uint64_t>(<char *>extent + LEVEL_HEADER))
                new += 1
        return new

    cdef int make_part(self, uint64_t *offsets, uint64_t *addresses, uint64_t count, bint is_level) except -1:
        # Make the next level or segment: of several makers one wins, and all go on with its extent.
        cdef uint64_t i = 1
        cdef int64_t offset
        cdef hb_extent *extent
        while i < count and hb_load_private(&addresses[i]) != 0:
            i += 1
        if i == count:
            raise EngineFullError(f"budget {self.name!r} has no room for another key")
        if hb_load_acquire(&offsets[i]) == 0:
            offset = directory_allocate(self.region, part_size(i, is_level))
            extent = <hb_extent *>(self.region.base + offset)
            extent.kind = HB_KIND_LEVEL
            extent.parent = self.offset
            extent.created_at_ms = hb_now_ms()
            if hb_cas(&offsets[i], 0, <uint64_t>offset):
                publish_extent(self.region, <uint64_t>offset)
            else:
                retire_extent(self.region, <uint64_t>offset)
        self.attach_levels()
        return 0

    cdef int look_up(self, const UserKey *key, Standing *standing) except -1 nogil:
        # REPEATED or ABSENT
        cdef int answer, _turn
        for _turn in range(SUPPLY_LIMIT):
            answer = account_find(&self.account, key, standing)
            if answer == REPEATED or answer == ABSENT:
                return answer
            with gil:
                self.supply(answer)
        with gil:
            self.raise_corrupt()

    cdef int put(self, const UserKey *key, int kind, uint64_t value, uint64_t amount, Standing *standing) except -1:
        # GRANTED_NOW, REPEATED, INSUFFICIENT or CLOSED
        cdef int answer, _turn
        standing.wish = 0
        for _turn in range(SUPPLY_LIMIT):
            answer = account_reserve(&self.account, key, kind, value, amount, hb_now_ms(), standing)
            if 0 <= answer < LACKING:
                return answer
            self.supply(answer)
        self.raise_corrupt()

    # ---- holds

    def reserve(self, key, /, amount):
        """Hold money under a key, or say why not; the same answer when asked again.

        Args:
            key: ``str``, ``bytes`` or ``int``, as a user of ``Envelope.claim``: the caller's own number of what the
                money is for. A key keeps its outcome for ever, also when it was settled or released.
            amount: minor units, 1 .. 2**62 - 1.

        Returns:
            A ``Hold``: GRANTED the first time, REPEATED from then on, INSUFFICIENT or CLOSED (which leave no trace: the
            key can be tried again, with any amount).

        Raises:
            ConflictError: the key was granted with another amount.
            TypeError, ValueError: key or amount is bad.
            EngineFullError: no space for another hold; nothing was reserved.
            EngineClosedError, CorruptFileError: nothing was reserved.
        """
        cdef UserKey hash
        cdef Standing standing
        cdef uint64_t wanted
        cdef int answer
        self.region.check_writable()
        key_of(self.region, key, &hash)
        account_prefetch(&self.account, &hash)      # the amount and the clock are read meanwhile
        wanted = amount_of(amount, 1)
        answer = self.put(&hash, PENDING, wanted, wanted, &standing)
        if answer == INSUFFICIENT:
            return REFUSED
        if answer == CLOSED:
            return REFUSED_CLOSED
        if standing.amount != wanted:
            raise ConflictError(f"key {key!r} of budget {self.name!r} was granted {standing.amount}, not {wanted}")
        return hold_of(answer, &standing)

    def reserve_many(self, keys, /, amounts):
        """Hold money under many keys, one after another, without the GIL.

        Args:
            keys: an integer array, or a sequence of ``str``, ``bytes`` and ``int``, as the users of ``claim_many``.
            amounts: one integer for all, or a sequence or integer array of the same length.

        Returns:
            A ``HOLD_DTYPE`` array with one row for each key: ``status`` as ``reserve``, or CONFLICT for a key that was
            granted with another amount, which stands in the row.

        Raises:
            TypeError, ValueError: a key or an amount is bad; the message names its index, and nothing was reserved.
            EngineFullError, EngineClosedError, CorruptFileError: asking again gives every key the answer that stands.
        """
        cdef Users batch
        cdef Py_buffer view, amount_view
        cdef Py_ssize_t done = 0
        cdef Standing standing
        cdef int answer, _turn
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
        standing.wish = 0
        try:
            self.region.check_writable()    # reading the keys may have run any Python
            while done < batch.count:
                # each turn supplies what the one before lacked; levels and the file are few
                with nogil:
                    answer = reserve_rows(&self.account, &batch.batch, batch.count, each, amount_view.strides[0] // 8,
                                          <HoldRow *>view.buf, &done, &standing)
                if answer != 0:
                    self.supply(answer)
        finally:
            PyBuffer_Release(&amount_view)
            PyBuffer_Release(&view)
        return rows

    def find(self, key, /):
        """Return the key's hold, with status REPEATED, or None; never reserves. Arguments and errors as ``reserve``."""
        cdef UserKey hash
        cdef Standing standing
        self.region.check_key()
        key_of(self.region, key, &hash)
        if self.look_up(&hash, &standing) == ABSENT:
            return None
        return hold_of(REPEATED, &standing)

    def settle(self, key, /, amount=None):
        """Spend what a key holds, all of it or a part; the rest is available again. Final.

        Args:
            amount: 0 .. what is held, minor units; None: all of it.

        Returns:
            The hold, also when it was settled with the same amount before; None if the key holds nothing.

        Raises:
            ConflictError: the key was settled with another amount, or released.
            ValueError: the amount is more than what is held.
        """
        cdef uint64_t spent = <uint64_t>ALL_OF_IT
        cdef UserKey hash
        cdef Standing standing
        cdef int answer
        self.region.check_writable()
        key_of(self.region, key, &hash)
        if amount is not None:
            spent = amount_of(amount, 0)
        answer = self.finish(&hash, SETTLING, spent, &standing)
        if answer == ABSENT:
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
        """Give back all that a key holds. Final: the key keeps it.

        Returns:
            The hold, also when it was released before; None if the key holds nothing.

        Raises:
            ConflictError: the key is settled, which is final.
        """
        cdef UserKey hash
        cdef Standing standing
        cdef int answer
        self.region.check_writable()
        key_of(self.region, key, &hash)
        answer = self.finish(&hash, RELEASING, 0, &standing)
        if answer == ABSENT:
            return None
        if answer == REPEATED and hold_kind(standing.state) == SETTLED:
            raise ConflictError(f"key {key!r} of budget {self.name!r} is settled: final, not to be released")
        return hold_of(REPEATED, &standing)

    cdef int finish(self, const UserKey *key, int kind, uint64_t spent, Standing *standing) except -1:
        cdef int answer, _turn
        standing.wish = 0
        for _turn in range(SUPPLY_LIMIT):
            answer = account_finish(&self.account, key, kind, spent, standing)
            if 0 <= answer < LACKING:
                if answer == GRANTED_NOW:
                    refund_upwards(self)
                return answer
            self.supply(answer)
        self.raise_corrupt()

    def holds(self):
        """Return every key that was ever granted as a ``HOLD_SNAPSHOT_DTYPE`` array, in no particular order.

        Children and top-ups are not among them. Each row is right at the moment it is read; the whole is a snapshot
        only while nobody reserves, settles or releases.
        """
        cdef Sums sums
        cdef Py_buffer view
        cdef uint64_t limit = 0
        cdef int64_t count = 0
        self.region.check_open()
        self.count(&sums)
        while <uint64_t>count >= limit:
            # Others may reserve meanwhile: with room to spare, and again with more if that was not enough.
            limit = 2 * max(sums.count, <uint64_t>count) + 64
            rows = np.zeros(limit, HOLD_SNAPSHOT_DTYPE)
            PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE)
            try:
                count = self.snapshot(<HoldSnapshotRow *>view.buf, limit)
            finally:
                PyBuffer_Release(&view)
        return rows[:count]

    cdef bint next_run(self, Run *run) except -1:
        # The next run of holds that may ever have been written; begins where segment and end are 0.
        cdef uint64_t base, first, end, data, data_end
        while run.segment < HB_SEGMENTS and hb_load_private(&self.account.segments[run.segment]) != 0:
            base = hb_load_private(&self.account.segments[run.segment]) - <uint64_t>self.region.base
            first = segment_first(run.segment)
            end = base + segment_size(run.segment) * sizeof(hb_hold)
            data = self.region.next_data(base + (max(run.end, first) - first) * sizeof(hb_hold), end, &data_end)
            if data < end:
                run.first = first + (data - base) // sizeof(hb_hold)
                run.end = first + (data_end - base - 1) // sizeof(hb_hold) + 1
                return True
            run.segment += 1
        return False

    cdef int read_at(self, uint64_t number, UserKey *key, Standing *standing) except -1:
        # REPEATED or ABSENT
        cdef int answer = account_read(&self.account, number, key, standing)
        while answer != REPEATED and answer != ABSENT:
            self.supply(answer)
            answer = account_read(&self.account, number, key, standing)
        return answer

    cdef int64_t snapshot(self, HoldSnapshotRow *rows, uint64_t limit) except -1:
        cdef uint64_t at, count = 0
        cdef UserKey key
        cdef Standing standing
        cdef Run run
        cdef int kind
        run.segment = run.end = 0
        self.attach_levels()
        while self.next_run(&run):
            for at in range(run.first, run.end):
                if self.read_at(at, &key, &standing) == ABSENT:
                    continue
                kind = hold_kind(standing.state)
                if kind == FUNDED or kind == ADDED:
                    continue
                if count == limit:
                    return <int64_t>count
                rows[count].key = key
                rows[count].amount = <int64_t>standing.amount
                rows[count].settled = <int64_t>(standing.amount - standing.value) if kind == SETTLED else 0
                rows[count].state = <uint8_t>kind
                rows[count].granted_at_ms = <int64_t>hold_time(standing.state)
                count += 1
        return <int64_t>count

    # ---- the tree

    def budget(self, name, total=None):
        """Get the sub-budget of that name, or create it as a hold of this budget. As ``Engine.budget``.

        Raises:
            InsufficientBudgetError: this budget is closed, or has less available; nothing was made.
        """
        return budget_get(self.region, self, name, total)

    def envelope(
        self, name, total=None, packets=None, law="double_mean", min=1, max=None, concentration=3, seed=None,
        expires_at=None, per_user=1, hold_seconds=None,
    ):
        """Get the envelope of that name, or create it as a hold of this budget. As ``Engine.envelope``.

        Raises:
            InsufficientBudgetError: this budget is closed, or has less available; nothing was made.
        """
        return get_envelope(
            self.region, self, name, total, packets, law, min, max, concentration, seed, expires_at, per_user,
            hold_seconds,
        )

    def create_many(
        self, names, totals, packets, *, law="double_mean", min=1, max=None, concentration=3, seeds=None,
        expires_at=None, per_user=1, hold_seconds=None,
    ):
        """Create many envelopes as holds of this budget, one after another, without the GIL. As ``Engine.create_many``.

        Each is funded by itself: one that the budget cannot fund any more is answered INSUFFICIENT (or CLOSED, once the
        budget is) and not made, its name stays free, and those after it are tried as well. Who wants all or none asks
        for ``stats().available`` before, or gives them a sub-budget of their sum.

        Returns:
            A uint8 array with the ``Status`` of each name: GRANTED, REPEATED, CONFLICT, INSUFFICIENT or CLOSED.
        """
        return create_envelopes(
            self.region, self, names, totals, packets, law, min, max, concentration, seeds, expires_at, per_user,
            hold_seconds,
        )

    def top_up(self, key, /, amount):
        """Add money: to a budget without a parent from outside, to a sub-budget from its parent, as a hold there.

        Args:
            key: as of ``reserve``, but in a name space of its own: the caller's number of the top-up.
            amount: minor units, 1 .. 2**62 - 1.

        Returns:
            A ``Hold``: GRANTED the first time, REPEATED from then on, INSUFFICIENT (the parent has less) or CLOSED.

        Raises:
            ConflictError: the key was used with another amount.
            ValueError: a bad argument, or the total would reach 2**62.
        """
        cdef UserKey hash
        cdef Standing standing
        cdef uint64_t added
        cdef int answer
        cdef bint is_closed
        self.region.check_writable()
        key_of(self.region, key, &hash)
        added = amount_of(amount, 1)
        hash = top_up_key(self, &hash)
        if self.look_up(&hash, &standing) == ABSENT:
            # Granted by the parent already, by a call that died?
            answer = ABSENT if self.parent is None else self.parent.look_up(&hash, &standing)
            account_available(&self.account, &is_closed)
            if is_closed and answer == ABSENT:
                return REFUSED_CLOSED
            if self.parent is None:
                self.pledge(added)
            elif answer == ABSENT:
                answer = self.fund_top_up(&hash, added)
                if answer == INSUFFICIENT or answer == CLOSED:
                    self.check_limit(added)
                    return REFUSED if answer == INSUFFICIENT else REFUSED_CLOSED
                self.parent.look_up(&hash, &standing)
            if self.parent is not None:
                # What the parent has granted is what is added, also by an earlier call that died.
                if standing.amount != added:
                    raise ConflictError(top_up_conflict(self, key, standing.amount, added))
            answer = ABSENT
            try:
                answer = self.put(&hash, ADDING, added, added, &standing)
            finally:
                if self.parent is None and (answer == REPEATED or answer == ABSENT and standing.wish == 0):
                    hb_fetch_add_relaxed(self.pledged, -added)      # made and pledged by another call, or not made
            refund_upwards(self)
        else:
            answer = REPEATED
        if standing.amount != added:
            raise ConflictError(top_up_conflict(self, key, standing.amount, added))
        return hold_of(answer, &standing)

    cdef int pledge(self, uint64_t amount) except -1:
        # Of a budget without a parent: keep the total below 2**62 whoever else tops up now. (What a child gets is a
        # part of what its parent has, so its total stays below that.) To die after this leaves the limit lower by the
        # amount, and no money anywhere. O(1), where the sum of all top-ups is O(holds).
        cdef uint64_t pledged = hb_load_acquire(self.pledged)
        while pledged < <uint64_t>TOTAL_LIMIT and self.base_total + pledged + amount < <uint64_t>TOTAL_LIMIT:
            if hb_cas(self.pledged, pledged, pledged + amount):
                return 0
            pledged = hb_load_acquire(self.pledged)
        self.raise_limit(self.total, amount)

    cdef int check_limit(self, uint64_t amount) except -1:
        # Of a sub-budget whose parent has refused the amount: to ask for that much was an error from the beginning. It
        # has no more than the root, so that all top-ups need not be summed but for amounts that nobody has.
        cdef Budget root = self
        while root.parent is not None:
            root = root.parent
        if root.base_total + hb_load_acquire(root.pledged) + amount >= <uint64_t>TOTAL_LIMIT:
            total = self.total
            if total + amount >= TOTAL_LIMIT:
                self.raise_limit(total, amount)
        return 0

    cdef object raise_limit(self, object total, uint64_t amount):
        raise ValueError(
            f"the total of budget {self.name!r} must stay below 2**62: it is {total}, and {amount} is too much"
        )

    cdef int fund_top_up(self, const UserKey *key, uint64_t amount) except -1:
        # A record of it, funded by the parent. Refused, it takes no space, if that can be seen at once.
        cdef hb_top_up *record
        cdef Standing standing
        cdef UserKey check
        cdef int64_t offset
        cdef int answer
        cdef bint is_closed
        cdef uint64_t available = account_available(&self.parent.account, &is_closed)
        if (is_closed or available < amount) and self.parent.look_up(key, &standing) == ABSENT:
            return CLOSED if is_closed else INSUFFICIENT
        offset = directory_allocate(self.region, sizeof(hb_top_up))
        record = <hb_top_up *>(self.region.base + offset)
        record.extent.kind = HB_KIND_TOP_UP
        record.extent.parent = self.offset
        record.extent.created_at_ms = hb_now_ms()
        record.total = amount
        record.key[0] = key.low
        record.key[1] = key.high
        top_up_check(self.region, record, &check)
        memcpy(record.check, &check, 16)
        try:
            answer = self.parent.put(key, FUNDING, <uint64_t>offset, amount, &standing)
        except BaseException:
            # Once it was wished for, it may be funded by now, or never: somebody who needs the space will find out.
            if standing.wish == 0:
                retire_extent(self.region, <uint64_t>offset)
            raise
        if answer == GRANTED_NOW:
            publish_extent(self.region, <uint64_t>offset)
        else:
            retire_extent(self.region, <uint64_t>offset)
        return answer

    cdef int finish_top_ups(self) except -1:
        # Of the sub-budgets: what this budget has granted to them and a death has kept from them.
        cdef hb_top_up *record
        cdef Budget child
        cdef Standing standing
        cdef UserKey key
        for offset in self.children():
            record = <hb_top_up *>self.region.extent(offset, HB_KIND_TOP_UP, sizeof(hb_top_up))
            if record == NULL:
                continue
            top_up_check(self.region, record, &key)
            if memcmp(&key, record.check, 16) != 0:
                self.raise_corrupt()
            key.low = record.key[0]
            key.high = record.key[1]
            child = budget_at(self.region, record.extent.parent)
            if child.look_up(&key, &standing) == ABSENT:
                child.put(&key, ADDING, record.total, record.total, &standing)
                refund_upwards(child)
        return 0

    def close(self):
        """End the reserving, and give what is available to the parent; holds that exist can be settled or released.

        Returns:
            What was refunded so far, in minor units; of a budget without a parent, what is available. Idempotent: what
            comes back later goes up as well, at once, and adds to it.
        """
        cdef bint is_closed
        self.region.check_writable()
        if account_close(&self.account) < 0:
            self.raise_corrupt()
        refund_upwards(self)
        return account_available(&self.account, &is_closed)

    @property
    def is_closed(self):
        cdef bint is_closed
        self.region.check_open()
        account_available(&self.account, &is_closed)
        return bool(is_closed)

    cdef int count(self, Sums *sums) except -1:
        # All holds, once.
        cdef Sums before
        cdef Run run
        cdef int answer
        run.segment = run.end = 0
        sums.count = sums.taken = sums.added = sums.settled = sums.digest = 0
        self.attach_levels()
        while self.next_run(&run):
            answer = LACKING
            while answer != 0:
                before = sums[0]
                with nogil:
                    answer = account_count(&self.account, run.first, run.end, sums)
                if answer != 0:
                    sums[0] = before
                    self.supply(answer)
        return 0

    cdef list children(self):
        # The offsets of all children that were funded.
        cdef uint64_t at
        cdef UserKey key
        cdef Standing standing
        cdef Run run
        cdef list found = []
        run.segment = run.end = 0
        self.attach_levels()
        while self.next_run(&run):
            for at in range(run.first, run.end):
                if self.read_at(at, &key, &standing) == REPEATED and hold_kind(standing.state) == FUNDED:
                    found.append(standing.link)
        return found

    cdef uint64_t own_total(self, const Sums *sums, uint64_t available, bint is_closed) noexcept:
        # What of all its money was not given back to the parent.
        return self.base_total + sums.added - (available if is_closed and self.parent is not None else 0)

    def stats(self):
        """Sum the money by reading the holds, and what is below: O(holds and touched packets). See ``BudgetStats``."""
        cdef Sums sums
        cdef uint64_t left, available, total, settled
        cdef bint is_closed
        self.region.check_open()
        # What is settled only grows, so read before what is available it is never too much. Money that was added
        # between the two is seen by looking once more; if that is not enough, the file is damaged.
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
        """What the budget was made with and topped up by, whatever it has given back since; minor units, O(holds)."""
        cdef Sums sums
        self.region.check_open()
        self.count(&sums)
        return self.base_total + sums.added

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
        from hbcore.engine import reopen_budget
        return reopen_budget, (self.region.path, self.region.engine_id(), names_of(self), bool(self.region.is_readonly))


cdef object engine_name(Region region):
    return "in memory" if region.path is None else repr(region.path)


def figures_of(Budget budget not None):
    """Return what a budget itself holds, without what is below it: its holds' number, what of them was spent, what is
    available, its total, and whether it is closed. In this order, so that what is spent or available is never more than
    the total but for money that was added meanwhile.
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
    # As an int64 array of `count` elements (of stride 0 if there is one for all), each of them checked.
    if index(amounts) is not None:
        return np.broadcast_to(np.int64(integer("amounts", amounts, 1, TOTAL_LIMIT - 1)), (count,))
    if (type(amounts) is np.ndarray and amounts.dtype.kind in "iu" and amounts.shape == (count,)
            and (count == 0 or 1 <= amounts.min() and amounts.max() < TOTAL_LIMIT)):
        return amounts.astype(np.int64)
    return np.array(amount_list(amounts, count), np.int64)      # the long way, which names what is wrong


cdef int reserve_rows(
    Account *account, const Batch *batch, Py_ssize_t count, const int64_t *amounts, Py_ssize_t stride, HoldRow *rows,
    Py_ssize_t *done, Standing *standing
) noexcept nogil:
    # Reserve for keys done .. count - 1 in order. Returns 0, or what is to be done before the rest; `standing` keeps
    # what the key that could not be finished has come to.
    cdef UserKey group[GROUP]
    cdef const UserKey *keys
    cdef Py_ssize_t i, size
    cdef uint64_t now_ms, amount
    cdef int answer
    while done[0] < count:
        size = min(count - done[0], <Py_ssize_t>GROUP)
        keys = batch_group(batch, done[0], size, group)
        for i in range(size):
            account_prefetch(account, &keys[i])
        now_ms = hb_now_ms()
        for i in range(size):
            amount = <uint64_t>amounts[done[0] * stride]
            answer = account_reserve(account, &keys[i], PENDING, amount, amount, now_ms, standing)
            if answer < 0 or answer >= LACKING:
                return answer
            standing.wish = 0
            rows[done[0]].amount = 0
            if answer == GRANTED_NOW or answer == REPEATED:
                rows[done[0]].amount = <int64_t>standing.amount
                if standing.amount != amount:
                    answer = CONFLICT_STATUS
            rows[done[0]].status = <uint8_t>answer
            done[0] += 1
    return 0


# ---- making and finding ---------------------------------------------------------------------------------------------

cdef inline uint64_t whole_units(uint64_t size) noexcept nogil:
    return (size + HB_UNIT - 1) // HB_UNIT * HB_UNIT


cdef inline uint64_t budget_size(uint64_t name_length) noexcept nogil:
    return sizeof(hb_budget) + whole_units(name_length) + 8 * level_size(0) + segment_size(0) * sizeof(hb_hold)


cdef inline uint64_t part_size(uint64_t i, bint is_level) noexcept nogil:
    # The extent of a level or a segment.
    return LEVEL_HEADER + (8 * level_size(i) if is_level else segment_size(i) * sizeof(hb_hold))


cdef int budget_check(
    Region region, const hb_budget *terms, const unsigned char *name, uint64_t name_length, UserKey *out
) except -1:
    # A keyed hash of what a budget is: its kind and parent, its total, its name.
    cdef unsigned char[24 + NAME_LIMIT] message
    memcpy(message, &terms.extent.kind, 16)
    memcpy(message + 16, &terms.total, 8)
    memcpy(message + 24, name, name_length)
    siphash128(region.header.directory_key, message, 24 + name_length, out)
    return 0


cdef int top_up_check(Region region, const hb_top_up *record, UserKey *out) except -1:
    cdef unsigned char[40] message
    memcpy(message, &record.extent.kind, 16)
    memcpy(message + 16, &record.total, 24)
    siphash128(region.header.directory_key, message, 40, out)
    return 0


cdef UserKey top_up_key(Budget budget, const UserKey *key):
    # A name space of its own: under another key than all holds, and with the budget in it.
    cdef unsigned char[32] message
    cdef UserKey out
    memcpy(message, b"top-up: ", 8)
    memcpy(message + 8, &budget.offset, 8)
    memcpy(message + 16, key, 16)
    siphash128(budget.region.header.directory_key, message, 32, &out)
    return out


cdef str top_up_conflict(Budget budget, object key, uint64_t present, uint64_t wanted):
    return f"top-up {key!r} of budget {budget.name!r} was {present}, not {wanted}"


cdef Budget budget_at(Region region, uint64_t offset):
    return budget_from(region, offset, 0)


cdef Budget parent_of(Region region, uint64_t offset):
    # The budget of a child whose extent says so; None for a child of the engine.
    return None if offset == 0 else budget_from(region, offset, 0)


cdef Budget budget_from(Region region, uint64_t offset, int depth):
    # The budget whose extent is at an offset that was read from the mapping: copied, and then checked, once.
    cdef Budget budget = Budget.__new__(Budget)
    cdef hb_budget *shared = <hb_budget *>region.extent(offset, HB_KIND_BUDGET, sizeof(hb_budget))
    cdef hb_budget copy
    cdef unsigned char[NAME_LIMIT] name
    cdef char *level
    cdef uint64_t size, length
    cdef UserKey check
    where = f"the budget at byte {offset} of the engine {engine_name(region)}"
    if shared == NULL:
        raise CorruptFileError(f"{where} is damaged")
    size = extent_size(hb_load_acquire(&shared.extent.state))
    memcpy(&copy, shared, sizeof(hb_budget))
    length = copy.extent.name_length
    if copy.extent.name_offset != sizeof(hb_budget) or not 1 <= length <= NAME_LIMIT or size < budget_size(length):
        raise CorruptFileError(f"{where} has an impossible size")
    memcpy(name, <char *>shared + sizeof(hb_budget), length)
    budget_check(region, &copy, name, length, &check)
    if memcmp(&check, copy.check, 16) != 0 or not 0 < copy.total < <uint64_t>TOTAL_LIMIT or depth > DEPTH_LIMIT:
        raise CorruptFileError(f"{where} has impossible terms")
    encoded = name[:length]
    budget.name = encoded.decode(errors="backslashreplace")
    budget.region = region
    budget.offset = offset
    budget.base_total = copy.total
    budget.pledged = &shared.pledged
    if copy.extent.parent != 0:
        budget.parent = budget_from(region, copy.extent.parent, depth + 1)
        budget.funding_key = name_hash(region, HB_KIND_BUDGET, copy.extent.parent, encoded)
    level = <char *>shared + sizeof(hb_budget) + whole_units(length)
    account_attach(
        &budget.account, shared.money, &shared.next, shared.levels, shared.segments, level, level + 8 * level_size(0),
        region.base, &region.known_size, region.header.directory_key, region.is_readonly,
    )
    return budget


def budget_get(Region region not None, Budget parent, name, total):
    """Get or create a budget below ``parent``, or below the engine if that is None."""
    cdef Budget budget = None
    cdef hb_budget *shared
    cdef int64_t offset
    cdef UserKey check
    cdef Name place
    cdef bytes encoded
    cdef uint64_t available
    cdef uint64_t wanted = 0
    region.check_open()
    encoded = object_name(name)
    name = encoded.decode()     # a str, and not a subclass of it
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
        budget_check(region, shared, <const unsigned char *>shared + sizeof(hb_budget), <uint64_t>len(encoded), &check)
        memcpy(shared.check, &check, 16)
        offset = child_insert(region, parent, &place, <uint64_t>offset, wanted, &available)
    if offset < 0:
        raise insufficient(parent, f"budget {name!r}", wanted, <int>offset, available)
    budget = budget_at(region, <uint64_t>offset)
    if total is not None:
        check_same_total(name, budget.base_total, wanted)
    return budget


cdef int depth_of(Budget budget):
    cdef int depth = 0
    while budget is not None:
        depth += 1
        budget = budget.parent
    return depth


cdef int64_t child_find(Region region, Budget parent, const Name *name) except -1 nogil:
    # The offset of the child of that name, or 0. One that its maker did not live to name is named now.
    cdef int64_t offset = directory_find(region, name)
    cdef Standing standing
    if offset != 0 or parent is None:
        return offset
    if parent.look_up(&name.key, &standing) == ABSENT:
        return 0
    if hold_kind(standing.state) != FUNDED:
        with gil:
            parent.raise_corrupt()
    if not region.is_readonly:
        directory_name(region, name, standing.link)
    return <int64_t>standing.link


cdef object insufficient(Budget parent, str what, uint64_t total, int refusal, uint64_t available):
    if refusal == CHILD_CLOSED:
        return InsufficientBudgetError(f"budget {parent.name!r} is closed")
    return InsufficientBudgetError(f"budget {parent.name!r} has {available} available, not the {total} for {what}")


cdef int64_t child_afford(
    Region region, Budget parent, const Name *name, uint64_t total, uint64_t *available
) except -1 nogil:
    # To be asked before space is taken for a child, so that a refusal leaves none behind. Returns 0 if it could be
    # funded, the offset of what somebody else has just made of that name, or a refusal.
    cdef bint is_closed
    cdef int64_t offset
    if parent is None:
        return 0
    available[0] = account_available(&parent.account, &is_closed)
    if not is_closed and available[0] >= total:
        return 0
    # The look at the money comes first: if the child is not there now, it was not there then.
    offset = child_find(region, parent, name)
    if offset == 0:
        return CHILD_CLOSED if is_closed else CHILD_INSUFFICIENT
    return offset


cdef int64_t child_insert(
    Region region, Budget parent, const Name *name, uint64_t offset, uint64_t total, uint64_t *available
) except -1 nogil:
    # Make the object at `offset`, which is whole: have the parent fund it, and name it. Returns the offset of whatever
    # has the name then, or a refusal; what has lost is retired.
    cdef Standing standing
    cdef bint is_closed
    cdef int answer
    if parent is None:
        return directory_insert(region, name, offset)
    answer = child_fund(region, parent, name, offset, total, &standing)
    if answer == REPEATED or answer == GRANTED_NOW:     # standing.link: this one, or one that somebody else has made
        if standing.link != offset:
            retire_extent(region, offset)
        directory_name(region, name, standing.link)
        return <int64_t>standing.link
    retire_extent(region, offset)
    available[0] = account_available(&parent.account, &is_closed)
    return CHILD_CLOSED if answer == CLOSED else CHILD_INSUFFICIENT


cdef int child_fund(
    Region region, Budget parent, const Name *name, uint64_t offset, uint64_t total, Standing *standing
) except -1 nogil:
    # GRANTED_NOW, REPEATED, INSUFFICIENT or CLOSED, as Budget.put.
    cdef int answer = UNSEEN
    cdef int _turn
    standing.wish = 0
    for _turn in range(SUPPLY_LIMIT):
        answer = account_reserve(&parent.account, &name.key, FUNDING, offset, total, hb_now_ms(), standing)
        if 0 <= answer < LACKING:
            return answer
        child_supply(region, parent, offset, answer, standing.wish)
    return child_supply(region, parent, offset, answer, standing.wish, True)


cdef int child_supply(
    Region region, Budget parent, uint64_t offset, int answer, uint64_t wish, bint is_enough=False
) except -1 with gil:
    try:
        if is_enough:
            parent.raise_corrupt()
        parent.supply(answer)
    except BaseException:
        # Cut short: whoever needs the space finds out whether the child was funded (child_is_funded), if it can be.
        if wish == 0:
            retire_extent(region, offset)
        raise
    return 0


cdef bint child_is_funded(Region region, uint64_t offset) except -1:
    # For the directory: whether the object at `offset`, which nothing names, was funded. A wish is decided by that.
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    cdef uint32_t kind = extent.kind
    cdef hb_top_up *record
    cdef Budget parent
    cdef UserKey key
    cdef Standing standing
    cdef Name place
    cdef int answer, _turn
    cdef bytes name
    if kind == HB_KIND_TOP_UP:
        record = <hb_top_up *>region.extent(offset, HB_KIND_TOP_UP, sizeof(hb_top_up))
        if record == NULL:
            return False
        top_up_check(region, record, &key)
        if memcmp(&key, record.check, 16) != 0:
            return False        # half made, or damaged
        parent = budget_at(region, record.extent.parent).parent
        if parent is None:
            return False
        key.low = record.key[0]
        key.high = record.key[1]
    elif kind == HB_KIND_BUDGET or kind == HB_KIND_ENVELOPE:
        name = extent_name(region, offset)
        parent = parent_of(region, extent.parent)
        if name is None or parent is None:
            return False
        name_set(region, kind, parent.offset, name, <uint64_t>len(name), &place)
        key = place.key
    else:
        return False
    for _turn in range(SUPPLY_LIMIT):
        if region.is_readonly:
            answer = account_find(&parent.account, &key, &standing)
        else:
            answer = account_decide(&parent.account, &key, &standing)
        if answer == ABSENT:
            return False
        if answer == REPEATED:
            if hold_kind(standing.state) != FUNDED or standing.link != offset:
                return False
            if not region.is_readonly and kind != HB_KIND_TOP_UP:
                directory_name(region, &place, offset)
            return True
        parent.supply(answer)
    parent.raise_corrupt()

directory_set_funded(child_is_funded)


# What makes envelopes lies above this module.
cdef get_function get_envelope = NULL
cdef create_function create_envelopes = NULL


cdef void budget_set_envelopes(get_function get, create_function create) noexcept:
    global get_envelope, create_envelopes
    get_envelope = get
    create_envelopes = create


# ---- refunds --------------------------------------------------------------------------------------------------------

cdef int refund_from(Budget parent, const UserKey *key, uint64_t target) except -1:
    # A closed child has given back `target` in all: let it arrive, and go on upwards if the parent is closed as well.
    cdef int answer, _turn
    for _turn in range(SUPPLY_LIMIT):
        answer = account_refund(&parent.account, key, target)
        if answer == REPEATED:
            return refund_upwards(parent)
        if answer == ABSENT:
            parent.raise_corrupt()
        parent.supply(answer)
    parent.raise_corrupt()


cdef int refund_upwards(Budget budget) except -1:
    # What is available in a closed budget is its parent's. It only grows, so it is the sum of all refunds.
    cdef bint is_closed
    cdef uint64_t available
    if budget.parent is None:
        return 0
    available = account_available(&budget.account, &is_closed)
    return refund_from(budget.parent, &budget.funding_key, available) if is_closed and available != 0 else 0


def envelopes():
    """Return the module of the envelopes, which lies above this one."""
    from hbcore import envelope
    return envelope


cdef uint64_t settled_below(Budget budget, uint64_t offset) except? 0xFFFFFFFFFFFFFFFF:
    # What was spent within a child. It says itself whose child it is, so links of a damaged file lead round no circle:
    # the way up from each budget is short (budget_from).
    cdef Region region = budget.region
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    if not region.contains(offset, sizeof(hb_extent)):
        budget.raise_corrupt()
    if extent.kind == HB_KIND_TOP_UP:
        return 0
    if extent.parent != budget.offset:
        budget.raise_corrupt()
    if extent.kind == HB_KIND_BUDGET:
        return budget_at(region, offset).stats().settled
    return envelopes().settled_within(region, offset)
