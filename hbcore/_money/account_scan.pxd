# Sums over all holds of an account.
from libc.stdint cimport uint64_t

from hbcore._money.account cimport Account

cdef struct Sums:
    uint64_t count          # keys that were ever granted, without children and top-ups
    uint64_t taken          # all amounts that were ever granted, less what came back
    uint64_t added          # all amounts that were added from outside
    uint64_t settled        # amounts spent by holds of the account itself
    uint64_t digest         # hash of all states: the same twice means that nothing happened in between


cdef int account_count(Account *account, uint64_t first, uint64_t end, Sums *sums) noexcept nogil
cdef int account_check(Account *account, uint64_t first, uint64_t end, uint64_t *number) noexcept nogil
