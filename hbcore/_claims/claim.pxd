# Claiming: ledger_claim takes a free slot and publishes it. See claim.pyx.
from libc.stdint cimport uint64_t

from hbcore._claims.ledger cimport Found, Ledger
from hbcore._keys.user cimport UserKey


cdef extern from "threads.h" nogil:
    struct hb_cursor:
        uint64_t handle
        uint64_t worker
        uint64_t slot
        uint64_t late_at


cdef hb_cursor *ledger_cursor(const Ledger *ledger) noexcept nogil
cdef int ledger_claim(
    Ledger *ledger, uint64_t worker, const UserKey *key, uint64_t now_ms, bint is_closed, Found *found
) noexcept nogil
