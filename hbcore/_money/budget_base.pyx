"""The base of a budget: what a budget is below its public methods, an account and its place in a region.

It supplies the account with what the account cannot do without Python (levels, segments, a look at the file), reads all
of its holds, and is made from an extent, whose terms are checked once. A budget is a budget base. Code that needs the
money of some budget, but not its public methods, asks for a budget base.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from hbcore._file.clock cimport hb_now_ms
from hbcore._file.directory cimport directory_allocate, name_hash, publish_extent, retire_extent
from hbcore._file.format cimport (
    HB_GRAIN, HB_KIND_BUDGET, HB_KIND_LEVEL, HB_LEVELS, HB_SEGMENTS, hb_budget, hb_extent, hb_hold, whole_units,
)
from hbcore._file.record cimport BUDGET_TERMS, record_copy, record_is_sound
from hbcore._file.region cimport Region, engine_name, extent_size
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport CROWDED, FULL, LACKING, NOT_FOUND, REPEATED, UNSEEN
from hbcore._lib.atomics cimport hb_cas, hb_fetch_add_relaxed, hb_load_acquire, hb_load_private, hb_store_private
from hbcore._lib.limits cimport NAME_LIMIT, TOTAL_LIMIT
from hbcore._money.account cimport account_attach, account_find, account_read, account_reserve
from hbcore._money.account_scan cimport Sums, account_count
from hbcore._money.hold cimport ADDED, FUNDED, SETTLED, Standing, hold_kind, hold_time
from hbcore._money.hold_index cimport level_size, segment_first, segment_size

from hbcore.errors import CorruptFileError, EngineFullError
from hbcore.types import HOLD_SNAPSHOT_DTYPE

cdef enum:
    LEVEL_HEADER = 64           # a level is an extent; its holds begin after the header

if sizeof(HoldSnapshotRow) != HOLD_SNAPSHOT_DTYPE.itemsize:
    raise ImportError("the records of hbcore do not have the layout that this build expects; reinstall hbcore")

cdef Region NO_REGION = Region()    # closed for ever: the region of a Budget that Budget.__new__ alone has made


@cython.auto_pickle(False)
cdef class BudgetBase:
    """The account of a budget. It is made with the budget, and by nothing else."""

    def __cinit__(self):
        self.region = NO_REGION

    def __init__(self):
        raise TypeError("a budget base is made with its budget")

    cdef object raise_corrupt(self):
        raise CorruptFileError(f"budget {self.name!r} of the engine {engine_name(self.region)} is damaged")

    # ---- what the account asks of its caller

    cdef uint64_t stamp(self) noexcept nogil:
        # Return what this process has seen of the file (whole grains), and how much of the account it has attached (far
        # less than a grain, also where several threads count the same level), in one number. It is taken before the
        # account is asked.
        return hb_load_private(&self.region.known_size) + hb_load_private(&self.attached)

    cdef Supply first_ask(self) noexcept nogil:
        # Begin a request of the account. Every request is a loop: ask; if the answer is one for the caller, stop; else
        # supply, and ask again.
        cdef Supply ask
        ask.stamp = self.stamp()
        ask.turns = 0
        return ask

    cdef int supply(self, int answer, Supply *ask) except -1 with gil:
        # Do what an account cannot do without Python; the caller then asks it again. Other threads that share this
        # handle may have been told the same. A thread that comes after the first of them sees another stamp and only
        # asks again. Without that look the second would make one more level, the next and larger.
        ask.turns += 1
        if ask.turns > SUPPLY_LIMIT:
            self.raise_corrupt()
        if answer == LACKING:
            # It is no damage if nothing is left to attach: another thread may have done it since. Whatever the file
            # names is attached now, so that an account lacks something only as often as something is made.
            self.attach_levels()
        elif answer == UNSEEN:
            self.region.contains(0, self.region.capacity)
            if self.stamp() // HB_GRAIN == ask.stamp // HB_GRAIN:
                self.raise_corrupt()
        elif answer != CROWDED and answer != FULL:
            self.raise_corrupt()
        elif self.stamp() % HB_GRAIN != ask.stamp % HB_GRAIN:
            pass        # at most once for every level and segment that there can be: fewer than SUPPLY_LIMIT
        elif answer == CROWDED:
            self.make_next(self.account.index.level_offsets, self.account.index.levels, HB_LEVELS, True)
        else:
            self.make_next(self.account.index.segment_offsets, self.account.index.segments, HB_SEGMENTS, False)
        ask.stamp = self.stamp()        # before the account is asked again
        return 0

    cdef int attach_levels(self) except -1:
        # Attach every level and segment that was made since.
        self.attach(self.account.index.level_offsets, self.account.index.levels, HB_LEVELS, True)
        self.attach(self.account.index.segment_offsets, self.account.index.segments, HB_SEGMENTS, False)
        return 0

    cdef int attach(self, uint64_t *offsets, uint64_t *addresses, uint64_t count, bint is_level) except -1:
        cdef uint64_t i, offset
        cdef uint64_t missing = 0
        cdef hb_extent *extent
        for i in range(1, count):
            offset = hb_load_acquire(&offsets[i])
            if offset == 0:
                missing = i
            elif hb_load_private(&addresses[i]) == 0:
                # Levels and segments are made in turn: where this one is, the one before it is by now.
                if missing != 0 and hb_load_acquire(&offsets[missing]) == 0:
                    self.raise_corrupt()
                extent = self.region.extent(offset, HB_KIND_LEVEL, extent_size_of(i, is_level))
                if extent == NULL or extent.parent != self.offset:
                    self.raise_corrupt()
                publish_extent(self.region, offset)
                hb_fetch_add_relaxed(&self.attached, 1)     # first: a thread that sees the address sees another stamp
                hb_store_private(&addresses[i], <uint64_t>(<char *>extent + LEVEL_HEADER))
        return 0

    cdef int make_next(self, uint64_t *offsets, uint64_t *addresses, uint64_t count, bint is_level) except -1:
        # Make the next level or segment. If several threads make one, one wins, and all go on with its extent.
        cdef uint64_t i = 1
        cdef int64_t offset
        cdef hb_extent *extent
        while i < count and hb_load_private(&addresses[i]) != 0:
            i += 1
        if i == count:
            raise EngineFullError(f"budget {self.name!r} has no room for another key")
        if hb_load_acquire(&offsets[i]) == 0:
            offset = directory_allocate(self.region, extent_size_of(i, is_level))
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
        # Find the hold of a key. Return REPEATED or NOT_FOUND.
        cdef Supply ask = self.first_ask()
        cdef int answer
        while True:
            answer = account_find(&self.account, key, standing)
            if answer == REPEATED or answer == NOT_FOUND:
                return answer
            self.supply(answer, &ask)

    cdef int put(self, const UserKey *key, int kind, uint64_t value, uint64_t amount, Standing *standing) except -1:
        # Ask the account for an amount. Return GRANTED_NOW, REPEATED, INSUFFICIENT or CLOSED.
        cdef Supply ask = self.first_ask()
        cdef int answer
        standing.announced = 0
        while True:
            answer = account_reserve(&self.account, key, kind, value, amount, hb_now_ms(), standing)
            if 0 <= answer < LACKING:
                return answer
            self.supply(answer, &ask)

    # ---- reading all of it

    cdef bint next_run(self, Run *run) except -1:
        # Go on to the next run of holds that may ever have been written. The first call begins with a segment and an
        # end of 0. Return False after the last run.
        cdef uint64_t base, first, end, data, data_end
        while run.segment < HB_SEGMENTS and hb_load_private(&self.account.index.segments[run.segment]) != 0:
            base = hb_load_private(&self.account.index.segments[run.segment]) - <uint64_t>self.region.base
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
        # Read the hold of a number. Return REPEATED or NOT_FOUND.
        cdef Supply ask = self.first_ask()
        cdef int answer
        while True:
            answer = account_read(&self.account, number, key, standing)
            if answer == REPEATED or answer == NOT_FOUND:
                return answer
            self.supply(answer, &ask)

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
                if self.read_at(at, &key, &standing) == NOT_FOUND:
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

    cdef int count(self, Sums *sums) except -1:
        # Sum up all holds, each once.
        cdef Sums before
        cdef Run run
        cdef Supply ask
        cdef int answer
        run.segment = run.end = 0
        sums.count = sums.taken = sums.added = sums.settled = sums.digest = 0
        self.attach_levels()
        while self.next_run(&run):
            ask = self.first_ask()
            before = sums[0]
            while True:
                with nogil:
                    answer = account_count(&self.account, run.first, run.end, sums)
                if answer == 0:
                    break
                sums[0] = before
                ask.turns = 0       # a run is long: meanwhile others may have made more than one request can need
                self.supply(answer, &ask)
        return 0

    cdef list children(self):
        # Return the offsets of all children that were funded.
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

    cdef object sum_of_all(self):
        # Return what the budget was made with and topped up by, whatever it has given back since. This takes O(holds).
        cdef Sums sums
        self.count(&sums)
        return self.base_total + sums.added


# ---- making ---------------------------------------------------------------------------------------------------------

cdef uint64_t budget_size(uint64_t name_length) noexcept nogil:
    return sizeof(hb_budget) + whole_units(name_length) + 8 * level_size(0) + segment_size(0) * sizeof(hb_hold)


cdef inline uint64_t extent_size_of(uint64_t i, bint is_level) noexcept nogil:
    # Return the bytes of the extent of a level or a segment.
    return LEVEL_HEADER + (8 * level_size(i) if is_level else segment_size(i) * sizeof(hb_hold))


cdef BudgetBase budget_base_from(type kind, Region region, uint64_t offset, int depth):
    # Make the budget base, or the budget if that is the kind, whose extent is at an offset that was read from the
    # mapping. The extent is copied, and then checked, once.
    cdef BudgetBase base = kind.__new__(kind)
    cdef hb_budget *shared = <hb_budget *>region.extent(offset, HB_KIND_BUDGET, sizeof(hb_budget))
    cdef hb_budget copy
    cdef unsigned char[NAME_LIMIT] name
    cdef char *level
    cdef uint64_t size, length
    where = f"the budget at byte {offset} of the engine {engine_name(region)}"
    if shared == NULL:
        raise CorruptFileError(f"{where} is damaged")
    size = extent_size(hb_load_acquire(&shared.extent.state))
    record_copy(&copy.extent, &shared.extent, BUDGET_TERMS)
    length = copy.extent.name_length
    if copy.extent.name_offset != sizeof(hb_budget) or not 1 <= length <= NAME_LIMIT or size < budget_size(length):
        raise CorruptFileError(f"{where} has an impossible size")
    memcpy(name, <char *>shared + sizeof(hb_budget), length)
    if not record_is_sound(
        region, &copy.extent, BUDGET_TERMS, name, length
    ) or not 0 < copy.total < <uint64_t>TOTAL_LIMIT or depth > DEPTH_LIMIT:
        raise CorruptFileError(f"{where} has impossible terms")
    encoded = name[:length]
    base.name = encoded.decode(errors="backslashreplace")
    base.region = region
    base.offset = offset
    base.base_total = copy.total
    base.pledged = &shared.pledged
    if copy.extent.parent != 0:
        base.parent = budget_base_from(kind, region, copy.extent.parent, depth + 1)
        base.funding_key = name_hash(region, HB_KIND_BUDGET, copy.extent.parent, encoded)
    level = <char *>shared + sizeof(hb_budget) + whole_units(length)
    account_attach(
        &base.account, shared.money, &shared.completed, &shared.next, shared.levels, shared.segments, level,
        level + 8 * level_size(0), region.base, &region.known_size, region.header.directory_key, region.is_readonly,
    )
    return base


cdef BudgetBase budget_base_at(Region region, uint64_t offset):
    return budget_base_from(BudgetBase, region, offset, 0)


cdef int depth_of(BudgetBase base):
    cdef int depth = 0
    while base is not None:
        depth += 1
        base = base.parent
    return depth
