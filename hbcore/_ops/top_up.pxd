# Top-ups of live envelopes, and the finishing of all top-ups that a death has cut short.
from libc.stdint cimport uint64_t

from hbcore._file.region cimport Region
from hbcore._money.budget_base cimport BudgetBase

cdef bint is_appended(Region region, uint64_t offset) except -1
cdef int finish_top_ups(BudgetBase budget) except -1
