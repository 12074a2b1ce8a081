# Budgets and holds: the public classes.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from hbcore.account cimport Account, Standing, Sums
from hbcore.directory cimport Name
from hbcore.region cimport Region
from hbcore.user cimport UserKey

cdef struct HoldSnapshotRow:    # hbcore.HOLD_SNAPSHOT_DTYPE
    UserKey key
    int64_t amount
    int64_t settled
    uint8_t state
    int64_t granted_at_ms


cdef struct Run:        # holds first .. end - 1 of a segment
    uint64_t segment
    uint64_t first
    uint64_t end


cdef class Hold:
    cdef readonly int64_t amount
    cdef readonly int64_t settled
    cdef int status_code
    cdef int state_code


cdef class Budget:
    cdef Account account
    cdef Region region
    cdef uint64_t offset
    cdef uint64_t base_total
    cdef uint64_t *pledged
    cdef UserKey funding_key        # under which the parent holds this budget's money
    cdef readonly str name
    cdef readonly Budget parent
    cdef object __weakref__

    cdef int supply(self, int answer) except -1
    cdef int attach_levels(self) except -1
    cdef int attach(self, uint64_t *offsets, uint64_t *addresses, uint64_t count, bint is_level) except -1
    cdef int make_part(self, uint64_t *offsets, uint64_t *addresses, uint64_t count, bint is_level) except -1
    cdef int look_up(self, const UserKey *key, Standing *standing) except -1 nogil
    cdef int put(self, const UserKey *key, int kind, uint64_t value, uint64_t amount, Standing *standing) except -1
    cdef int finish(self, const UserKey *key, int kind, uint64_t spent, Standing *standing) except -1
    cdef int64_t snapshot(self, HoldSnapshotRow *rows, uint64_t limit) except -1
    cdef int pledge(self, uint64_t amount) except -1
    cdef int check_limit(self, uint64_t amount) except -1
    cdef object raise_limit(self, object total, uint64_t amount)
    cdef int fund_top_up(self, const UserKey *key, uint64_t amount) except -1
    cdef bint next_run(self, Run *run) except -1
    cdef int read_at(self, uint64_t number, UserKey *key, Standing *standing) except -1
    cdef int count(self, Sums *sums) except -1
    cdef list children(self)
    cdef int finish_top_ups(self) except -1
    cdef uint64_t own_total(self, const Sums *sums, uint64_t available, bint is_closed) noexcept
    cdef object raise_corrupt(self)
    cdef tuple identity(self)


cdef enum:
    # what child_afford and child_insert say where a budget does not fund a child
    CHILD_INSUFFICIENT = -2
    CHILD_CLOSED = -3

cdef int64_t child_find(Region region, Budget parent, const Name *name) except -1 nogil
cdef int64_t child_afford(
    Region region, Budget parent, const Name *name, uint64_t total, uint64_t *available
) except -1 nogil
cdef int64_t child_insert(
    Region region, Budget parent, const Name *name, uint64_t offset, uint64_t total, uint64_t *available
) except -1 nogil
cdef object insufficient(Budget parent, str what, uint64_t total, int refusal, uint64_t available)

# Engine.envelope and Engine.create_many, with the region and the budget that they are for.
ctypedef object (*get_function)(
    Region region, Budget budget, object name, object total, object packets, object law, object min, object max,
    object concentration, object seed, object expires_at, object per_user, object hold_seconds
)
ctypedef object (*create_function)(
    Region region, Budget budget, object names, object totals, object packets, object law, object min, object max,
    object concentration, object seeds, object expires_at, object per_user, object hold_seconds
)
cdef void budget_set_envelopes(get_function get, create_function create) noexcept
cdef Budget budget_at(Region region, uint64_t offset)
cdef Budget parent_of(Region region, uint64_t offset)
cdef int refund_upwards(Budget budget) except -1
cdef int refund_from(Budget parent, const UserKey *key, uint64_t target) except -1
