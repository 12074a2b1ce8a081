"""The users of a batch, on their way from what Python gives to keyed hashes, a group at a time.

``users_of`` checks all users before anything is done with them, so a bad user changes nothing.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strchr

from hbcore._keys.user cimport GROUP, HashKey, UserKey, siphash128, user_keys_from_sequence, user_keys_from_text_array

from collections.abc import Iterable
from sys import modules as _modules

import numpy as np

from hbcore.terms import array_list

cdef extern from "siphash.h" nogil:
    void hb_hash_integers(
        const uint64_t *key, const uint64_t *numbers, const uint64_t *negatives, uint64_t *keys, int count
    ) noexcept
    void hb_hash_blocks(const uint64_t *key, const uint64_t *blocks, int count, uint64_t *keys) noexcept
    enum:
        HB_LANES

cdef object NDARRAY = np.ndarray
cdef object ALL = slice(None)      # takes all of a list or tuple; a subclass is not asked what it says of itself

cdef enum:
    BLOCK_LIMIT = MESSAGE_LIMIT // 8
    TEXT_LIMIT = 1024       # most characters of a fixed-width string; wider arrays are taken as lists


@cython.final
@cython.auto_pickle(False)
@cython.no_gc
cdef class Users:
    """The users of one batch. Their hashes, or the view of their array, live as long as this does."""

    def __dealloc__(self):
        PyMem_RawFree(self.keys)
        if self.has_view:
            PyBuffer_Release(&self.view)


cdef Users users_of(const HashKey *key, object users, uint64_t nth):
    # Check the users of a batch, and hash them or view their integers. `key` must outlive what is returned.
    cdef Users out = Users.__new__(Users)
    out.batch.hash_key = key
    out.batch.nth = nth
    if type(users) is NDARRAY and view_integers(users, out):
        return out
    users = plain_users(users)
    out.count = len(users)
    if not isinstance(users, np.ndarray) or not view_integers(users, out):
        out.keys = <UserKey *>PyMem_RawMalloc(max(out.count, 1) * sizeof(UserKey))
        if out.keys == NULL:
            raise MemoryError(f"no memory for the hashes of {out.count} users")
        hash_users(key, users, out.keys, out.count)
        out.batch.keys = out.keys
    return out


cdef bint view_integers(object users, Users out) except -1:
    # Return whether an array holds native integers in one dimension; if so, `out` views them. One look at the buffer
    # of the array answers all questions about it; for a small batch this look costs half as much as all else.
    cdef const char *format
    cdef const char *kind
    try:
        PyObject_GetBuffer(users, &out.view, PyBUF_STRIDED_RO | PyBUF_FORMAT)
    except (BufferError, ValueError):       # NumPy exports no buffer of some types
        return False
    format = out.view.format
    if format[0] == b"=":       # the array is unaligned, which does not matter; for another byte order it is < or >
        format += 1
    kind = strchr(b"bhilqBHILQ", format[0])
    if out.view.ndim != 1 or kind == NULL or kind[0] == 0 or format[1] != 0:
        PyBuffer_Release(&out.view)
        return False
    out.has_view = True
    out.count = out.view.shape[0]
    out.batch.integers = <const char *>out.view.buf
    out.batch.stride = out.view.strides[0]
    out.batch.size = <int>out.view.itemsize
    out.batch.is_signed = kind[0] >= b"a"
    return True


cdef void nth_key(const HashKey *hash_key, uint64_t nth, UserKey *key) noexcept nogil:
    # Replace a user's key by the key of that user's claim number nth; claim 0 has the user's own. The hash is under the
    # key of integers, whose messages have 9 bytes, so no user of any kind has the same message.
    cdef uint64_t message[3]
    if nth != 0:
        message[0] = key.low
        message[1] = key.high
        message[2] = nth
        siphash128(hash_key.number, <const unsigned char *>message, sizeof(message), key)


cdef const UserKey *batch_group(const Batch *batch, Py_ssize_t base, Py_ssize_t size, UserKey *group) noexcept nogil:
    # Return the keys of users base .. base + size - 1; `group` has room for GROUP of them.
    cdef uint64_t numbers[GROUP]
    cdef uint64_t negatives[GROUP]
    cdef bint negative
    cdef Py_ssize_t i
    if batch.keys != NULL and batch.nth == 0:
        return batch.keys + base
    if batch.keys != NULL:
        memcpy(group, batch.keys + base, <size_t>size * sizeof(UserKey))
    elif size == GROUP and batch.size == 8 and batch.stride == 8:
        memcpy(numbers, batch.integers + base * 8, sizeof(numbers))
        for i in range(GROUP):
            negatives[i] = numbers[i] >> 63 & batch.is_signed
        hb_hash_integers(batch.hash_key.number, numbers, negatives, <uint64_t *>group, GROUP)
    else:
        memset(numbers, 0, sizeof(numbers))
        memset(negatives, 0, sizeof(negatives))
        for i in range(size):
            numbers[i] = integer_at(batch.integers + (base + i) * batch.stride, batch.size, batch.is_signed, &negative)
            negatives[i] = negative
        # All lanes of the last vectors are hashed as well; what lies beyond the last user is not used.
        hb_hash_integers(batch.hash_key.number, numbers, negatives, <uint64_t *>group, <int>size)
    if batch.nth != 0:
        for i in range(size):
            nth_key(batch.hash_key, batch.nth, &group[i])
    return group


cdef void siphash128_group(const uint64_t *key, const Message *messages, Py_ssize_t count, UserKey *out) noexcept nogil:
    # Hash each message as siphash128 does. Messages that stand together and have equally many blocks are hashed side by
    # side.
    cdef uint64_t[BLOCK_LIMIT * HB_LANES] blocks
    cdef uint64_t word
    cdef Py_ssize_t base = 0
    cdef Py_ssize_t i
    cdef size_t j, block_count
    while base < count:
        block_count = messages[base].size // 8 + 1
        i = 1
        while i < HB_LANES and base + i < count and messages[base + i].size // 8 + 1 == block_count:
            i += 1
        if i < HB_LANES:
            siphash128(key, messages[base].bytes, messages[base].size, &out[base])
            base += 1
            continue
        for i in range(HB_LANES):
            for j in range(block_count - 1):
                memcpy(&blocks[<Py_ssize_t>j * HB_LANES + i], messages[base + i].bytes + 8 * j, 8)
            word = 0
            memcpy(&word, messages[base + i].bytes + 8 * (block_count - 1), messages[base + i].size % 8)
            blocks[<Py_ssize_t>(block_count - 1) * HB_LANES + i] = word | (<uint64_t>messages[base + i].size << 56)
        hb_hash_blocks(key, blocks, <int>block_count, <uint64_t *>&out[base])
        base += HB_LANES


cdef inline uint64_t integer_at(const char *place, int size, bint is_signed, bint *negative) noexcept nogil:
    # Return an element of an integer array as 64 bits of two's complement. It is read by memcpy because a view may be
    # unaligned.
    cdef int64_t number = 0
    cdef int8_t number8
    cdef int16_t number16
    cdef int32_t number32
    if size == 8:
        memcpy(&number, place, 8)
    elif size == 4:
        # Both sides are made 64 bits wide first: a conditional of two types has one of them, and -1 would become
        # 2**32 - 1.
        memcpy(&number32, place, 4)
        number = <int64_t>number32 if is_signed else <int64_t><uint32_t>number32
    elif size == 2:
        memcpy(&number16, place, 2)
        number = <int64_t>number16 if is_signed else <int64_t><uint16_t>number16
    else:
        memcpy(&number8, place, 1)
        number = <int64_t>number8 if is_signed else <int64_t><uint8_t>number8
    negative[0] = is_signed and number < 0
    return <uint64_t>number


cdef object plain_users(object users):
    # Return the users as an integer array or a string array of native byte order and one dimension, or as a list or
    # tuple.
    if type(users) is list or type(users) is tuple:
        return users
    if isinstance(users, (list, tuple)):
        return list.__getitem__(users, ALL) if isinstance(users, list) else tuple.__getitem__(users, ALL)
    if isinstance(users, np.ndarray):
        # numpy.ma is not imported here: an import takes 18 ms, and a fork may cut it in two. A process that has such an
        # array has imported it.
        masked = getattr(_modules.get("numpy.ma"), "MaskedArray", None)
        if masked is not None and isinstance(users, masked):
            raise TypeError("users must be an array without a mask; drop the masked users first (users.compressed())")
        if type(users) is not np.ndarray:
            users = NDARRAY.view(users, NDARRAY)    # a subclass may say anything about its length
        if users.ndim != 1:
            raise ValueError(f"users must have one dimension, not {users.ndim}")
        kind = users.dtype.kind
        if kind in "iuS" or (kind == "U" and users.dtype.itemsize <= 4 * TEXT_LIMIT):
            if not users.dtype.isnative:
                users = users.astype(users.dtype.newbyteorder("="))
            return users
        if kind in "UOT":
            return array_list(users)
        raise TypeError(f"users must be an array of integers, bytes or str, not of {users.dtype}")
    if isinstance(users, (str, bytes, bytearray, memoryview)) or not isinstance(users, Iterable):
        raise TypeError(f"users must be an integer array or a sequence of users, not {type(users).__name__}")
    return list(users)


cdef int hash_users(const HashKey *key, object users, UserKey *keys, Py_ssize_t count) except -1:
    # Hash users as plain_users returns them; an array here is not of an integer dtype.
    cdef Py_ssize_t bad = 0
    cdef int answer
    if not isinstance(users, np.ndarray):
        user_keys_from_sequence(key, users, keys, count)
        return 0
    if count == 0:
        return 0
    # NumPy exports no buffer of some string arrays, so the address of their bytes is asked for.
    cdef Py_ssize_t stride = users.strides[0]
    cdef Py_ssize_t width = users.dtype.itemsize
    cdef bint unicode = users.dtype.kind == "U"
    cdef const char *data = <const char *><size_t>users.ctypes.data
    with nogil:
        answer = user_keys_from_text_array(
            key, data, stride, width // 4 if unicode else width, unicode, count, keys, &bad
        )
    if answer != 0:
        # Raise what the scalar path raises for this user.
        user_keys_from_sequence(key, array_list(users[: bad + 1]), keys, bad + 1)
        raise ValueError(f"users[{bad}]: user {users[bad]!r} cannot be hashed")
    return 0
