# How a claim ends: settle, release, lapse, and what the dead have left. See transitions.pyx.
from libc.stdint cimport uint64_t

from hbcore._claims.ledger cimport Found, Ledger
from hbcore._keys.user cimport UserKey


cdef void put_back(Ledger *ledger, const Found *held) noexcept nogil
cdef void ledger_refund(Ledger *ledger, uint64_t slot) noexcept nogil
cdef int ledger_look(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil
cdef int ledger_settle(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil
cdef int ledger_release(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil
cdef int give_back(Ledger *ledger, uint64_t worker, const UserKey *key, const Found *found) noexcept nogil
cdef bint ledger_expire(Ledger *ledger, uint64_t worker, uint64_t slot, uint64_t *next_expiry) noexcept nogil
cdef bint expire_due(Ledger *ledger, uint64_t worker, uint64_t hint, bint *may_expire) noexcept nogil
cdef void ledger_reclaim(Ledger *ledger, uint64_t slot) noexcept nogil
cdef void reclaim_all(Ledger *ledger) noexcept nogil
