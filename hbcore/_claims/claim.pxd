# Claiming: ledger_claim takes a free slot and publishes it. See claim.pyx.
from libc.stdint cimport uint64_t

from hbcore._claims.ledger cimport Found, Ledger
from hbcore._keys.user cimport UserKey


cdef int ledger_claim(
    Ledger *ledger, uint64_t worker, const UserKey *key, uint64_t now_ms, bint is_closed, Found *found
) noexcept nogil
