# The base of a budget: its account, and where it stands in a region.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from hbcore._file.format cimport hb_budget
from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey
from hbcore._money.account cimport Account
from hbcore._money.account_scan cimport Sums
from hbcore._money.hold cimport Standing

cdef enum:
    SUPPLY_LIMIT = 64       # levels and looks at the file that one call may need
    DEPTH_LIMIT = 64        # budgets from the root to a leaf


cdef struct HoldSnapshotRow:    # hbcore.HOLD_SNAPSHOT_DTYPE
    UserKey key
    int64_t amount
    int64_t settled
    uint8_t state
    int64_t granted_at_ms


cdef struct Supply:         # one request of an account, which may be asked several times
    uint64_t stamp          # what this process knew when the account was asked
    int turns               # times that the account has lacked something


cdef struct Run:        # holds first .. end - 1 of a segment
    uint64_t segment
    uint64_t first
    uint64_t end


cdef class BudgetBase:
    cdef Account account
    cdef Region region
    cdef uint64_t offset
    cdef uint64_t base_total
    cdef uint64_t *pledged
    cdef uint64_t attached          # [private] levels and segments that are attached, or are about to be
    cdef UserKey funding_key        # key under which the parent holds this budget's money
    cdef readonly str name
    cdef readonly BudgetBase parent

    cdef uint64_t stamp(self) noexcept nogil
    cdef Supply first_ask(self) noexcept nogil
    cdef int supply(self, int answer, Supply *ask) except -1 with gil
    cdef int attach_levels(self) except -1
    cdef int attach(self, uint64_t *offsets, uint64_t *addresses, uint64_t count, bint is_level) except -1
    cdef int make_next(self, uint64_t *offsets, uint64_t *addresses, uint64_t count, bint is_level) except -1
    cdef int look_up(self, const UserKey *key, Standing *standing) except -1 nogil
    cdef int put(self, const UserKey *key, int kind, uint64_t value, uint64_t amount, Standing *standing) except -1
    cdef bint next_run(self, Run *run) except -1
    cdef int read_at(self, uint64_t number, UserKey *key, Standing *standing) except -1
    cdef int64_t snapshot(self, HoldSnapshotRow *rows, uint64_t limit) except -1
    cdef int count(self, Sums *sums) except -1
    cdef list children(self)
    cdef object sum_of_all(self)
    cdef object raise_corrupt(self)


cdef uint64_t budget_size(uint64_t name_length) noexcept nogil
cdef BudgetBase budget_base_from(type kind, Region region, uint64_t offset, int depth)
cdef BudgetBase budget_base_at(Region region, uint64_t offset)
cdef int depth_of(BudgetBase base)
