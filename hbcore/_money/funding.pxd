# How money comes to the children of a budget, and back.
from libc.stdint cimport int64_t, uint64_t

from hbcore._file.directory cimport Name
from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey
from hbcore._money.budget_base cimport BudgetBase

cdef enum:
    # child_afford and child_insert return these where a budget does not fund a child
    CHILD_INSUFFICIENT = -2
    CHILD_CLOSED = -3

cdef int64_t child_find(Region region, BudgetBase parent, const Name *name) except -1 nogil
cdef int64_t child_afford(
    Region region, BudgetBase parent, const Name *name, uint64_t total, uint64_t *available
) except -1 nogil
cdef int64_t child_insert(
    Region region, BudgetBase parent, const Name *name, uint64_t offset, uint64_t total, uint64_t *available
) except -1 nogil
cdef object insufficient(BudgetBase parent, str what, uint64_t total, int refusal, uint64_t available)
cdef int refund_upwards(BudgetBase budget) except -1
cdef int refund_from(BudgetBase parent, const UserKey *key, uint64_t target) except -1
cdef UserKey top_up_key(BudgetBase budget, const UserKey *key)
cdef str top_up_conflict(BudgetBase budget, object key, uint64_t present, uint64_t wanted)
cdef int pledge(BudgetBase budget, uint64_t amount) except -1
cdef int check_limit(BudgetBase budget, uint64_t amount) except -1
cdef int fund_top_up(BudgetBase budget, const UserKey *key, uint64_t amount) except -1
