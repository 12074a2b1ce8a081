# An account: a budget's money and its holds, as pointers and counts, without Python.
from libc.stdint cimport uint64_t

from hbcore._keys.user cimport UserKey
from hbcore._money.hold cimport Standing
from hbcore._money.hold_index cimport HoldIndex

cdef extern from *:
    # The highest bit of the available money says that the account is closed.
    """
    #define HB_MONEY_CLOSED (UINT64_C(1) << 63)
    """
    uint64_t MONEY_CLOSED "HB_MONEY_CLOSED"


cdef struct Account:
    uint64_t *money             # [shared pair] the last operation, and the available money in minor units
    HoldIndex index
    char *base                  # start of the mapping, in which the children are
    const uint64_t *known_size  # bytes of the mapping that this process knows to lie inside the file
    uint64_t *completed         # [shared] the last operation that is known to be written into its hold; 0: none is
    uint64_t seal[2]            # key of the check sums of amounts
    bint is_readonly


cdef void account_attach(
    Account *account, uint64_t *money, uint64_t *completed, uint64_t *next, uint64_t *level_offsets,
    uint64_t *segment_offsets, char *level, char *segment, char *base, const uint64_t *known_size,
    const uint64_t *secret, bint is_readonly
) noexcept nogil
cdef void account_prefetch(const Account *account, const UserKey *key) noexcept nogil
cdef int account_reserve(
    Account *account, const UserKey *key, int kind, uint64_t value, uint64_t amount, uint64_t now_ms,
    Standing *standing
) noexcept nogil
cdef int account_reserve_located(
    Account *account, const UserKey *key, uint64_t amount, uint64_t now_ms, Standing *standing
) noexcept nogil
cdef int account_decide(Account *account, const UserKey *key, Standing *standing) noexcept nogil
cdef int account_find(Account *account, const UserKey *key, Standing *standing) noexcept nogil
cdef int account_finish(
    Account *account, const UserKey *key, int kind, uint64_t spent, Standing *standing
) noexcept nogil
cdef int account_refund(Account *account, const UserKey *key, uint64_t target) noexcept nogil
cdef int account_close(Account *account) noexcept nogil
cdef uint64_t account_available(const Account *account, bint *is_closed) noexcept nogil
cdef int account_read(Account *account, uint64_t number, UserKey *key, Standing *standing) noexcept nogil
cdef bint account_money(const Account *account, uint64_t *operation, uint64_t *available) noexcept nogil
