# Budgets and holds: the public classes.
from libc.stdint cimport int64_t, uint64_t

from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey
from hbcore._money.account_scan cimport Sums
from hbcore._money.budget_base cimport BudgetBase
from hbcore._money.hold cimport Standing


cdef class Hold:
    cdef int64_t _amount
    cdef int64_t _settled
    cdef int status_code
    cdef int state_code


cdef class Budget(BudgetBase):
    cdef object __weakref__

    cdef int finish(self, const UserKey *key, int kind, uint64_t spent, Standing *standing) except -1
    cdef uint64_t own_total(self, const Sums *sums, uint64_t available, bint is_closed) noexcept
    cdef tuple identity(self)


cdef object as_key(error)

# The functions behind Engine.envelope and Engine.create_many, with the region and the budget that they are for.
ctypedef object (*get_function)(
    Region region, Budget budget, object name, object total, object packets, object law, object min, object max,
    object concentration, object seed, object expires_at, object per_user, object hold_seconds, object max_packets
)
ctypedef object (*create_function)(
    Region region, Budget budget, object names, object totals, object packets, object law, object min, object max,
    object concentration, object seeds, object expires_at, object per_user, object hold_seconds, object max_packets
)
# Returns what was settled of the envelope at an offset, in minor units.
ctypedef uint64_t (*settled_function)(Region region, uint64_t offset) except? 0xFFFFFFFFFFFFFFFF

cdef void budget_set_envelopes(get_function get, create_function create) noexcept
cdef void budget_set_settled(settled_function function) noexcept
cdef void budget_set_reopen(object function) noexcept
cdef Budget budget_at(Region region, uint64_t offset)
cdef Budget parent_of(Region region, uint64_t offset)
