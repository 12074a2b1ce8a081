# The plain claims of a batch. See group.pyx.
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.amount cimport AmountRule
from hbcore._claims.ledger cimport Ledger
from hbcore._keys.user cimport GROUP, UserKey

cdef struct ClaimRow:       # hbcore.CLAIM_DTYPE
    uint64_t status         # one byte of the record, and its padding: written as one word, it costs nothing to be zero
    int64_t amount
    int64_t packet


cdef struct Plain:          # what a plain claim needs to know beside the ledger
    AmountRule amounts
    uint64_t end            # slots of the first tranche; those of top-ups are not plain


cdef void ledger_prefetch_group(const Ledger *ledger, const UserKey *keys, Py_ssize_t count) noexcept nogil
cdef Py_ssize_t ledger_claim_plain(
    Ledger *ledger, const Plain *plain, uint64_t worker, const UserKey *keys, Py_ssize_t count, uint64_t now_ms,
    ClaimRow *rows
) noexcept nogil
