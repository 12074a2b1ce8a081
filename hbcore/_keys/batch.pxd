# The users of a batch, or the keys of a batch of holds.
from libc.stdint cimport uint64_t

from hbcore._keys.user cimport HashKey, UserKey

cdef enum:
    MESSAGE_LIMIT = 384

cdef struct Message:
    size_t size                 # bytes in use, fewer than MESSAGE_LIMIT
    unsigned char[MESSAGE_LIMIT] bytes


cdef struct Batch:
    const UserKey *keys         # the hashes of the users; NULL: the users are the integers below
    const HashKey *hash_key
    const char *integers        # address of the first
    Py_ssize_t stride           # bytes from one integer to the next
    int size                    # bytes of an integer
    bint is_signed
    uint64_t nth                # which of a user's claims, from 0


cdef class Users:
    cdef Batch batch
    cdef readonly Py_ssize_t count
    cdef UserKey *keys
    cdef Py_buffer view
    cdef bint has_view


cdef Users users_of(const HashKey *key, object users, uint64_t nth)
cdef const UserKey *batch_group(const Batch *batch, Py_ssize_t base, Py_ssize_t size, UserKey *group) noexcept nogil
cdef void siphash128_group(const uint64_t *key, const Message *messages, Py_ssize_t count, UserKey *out) noexcept nogil
cdef void nth_key(const HashKey *hash_key, uint64_t nth, UserKey *key) noexcept nogil
