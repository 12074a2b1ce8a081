# The holds of a group of keys, made before any of them is decided.
from libc.stdint cimport int64_t, uint64_t

from hbcore._keys.user cimport UserKey
from hbcore._money.account cimport Account
from hbcore._money.hold cimport Standing


cdef int account_reserve_group(
    Account *account, const UserKey *keys, Py_ssize_t count, const int64_t *amounts, Py_ssize_t stride, uint64_t now_ms,
    uint64_t *announced, Standing *standings, int *answers, Py_ssize_t *done
) noexcept nogil
