# Users become keyed 128-bit hashes by SipHash-2-4-128 (Aumasson and Bernstein, 2012).
from libc.stdint cimport int64_t, uint64_t

from hbcore._lib.integers cimport hb_read_integer


cdef enum:
    GROUP = 32      # users in a group: all are hashed, and what they lead to is fetched, before the first is looked at


cdef struct HashKey:
    uint64_t text[2]        # the key for bytes, and for str as UTF-8
    uint64_t number[2]      # the key for integers


cdef struct UserKey:
    uint64_t low
    uint64_t high


cdef void siphash128(const uint64_t *key, const unsigned char *message, size_t size, UserKey *out) noexcept nogil
cdef int user_key(const HashKey *key, object user, UserKey *out) except -1
cdef Py_ssize_t user_keys_from_sequence(const HashKey *key, object users, UserKey *out, Py_ssize_t count) except -1
cdef int user_keys_from_text_array(
    const HashKey *key, const char *data, Py_ssize_t stride, Py_ssize_t width, bint unicode, Py_ssize_t count,
    UserKey *out, Py_ssize_t *bad
) noexcept nogil
cdef HashKey hash_key_from_bytes(bytes key)


cdef inline uint64_t rotate_left(uint64_t x, int shift) noexcept nogil:
    return (x << shift) | (x >> (64 - shift))


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotate_left(v[1], 13) ^ v[0]
    v[0] = rotate_left(v[0], 32)
    v[2] += v[3]
    v[3] = rotate_left(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotate_left(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotate_left(v[1], 17) ^ v[2]
    v[2] = rotate_left(v[2], 32)


cdef inline void sip_start(uint64_t *v, const uint64_t *key) noexcept nogil:
    v[0] = key[0] ^ <uint64_t>0x736F6D6570736575
    v[1] = key[1] ^ <uint64_t>0x646F72616E646F6D ^ 0xEE
    v[2] = key[0] ^ <uint64_t>0x6C7967656E657261
    v[3] = key[1] ^ <uint64_t>0x7465646279746573


cdef inline void sip_absorb(uint64_t *v, uint64_t word) noexcept nogil:
    v[3] ^= word
    sip_round(v)
    sip_round(v)
    v[0] ^= word


cdef inline void sip_finish(uint64_t *v, UserKey *out) noexcept nogil:
    cdef int _i
    v[2] ^= 0xEE
    for _i in range(4):
        sip_round(v)
    out.low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    for _i in range(4):
        sip_round(v)
    out.high = v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline void integer_key(const HashKey *key, uint64_t number, bint negative, UserKey *out) noexcept nogil:
    # Hash the 9 bytes of the reference's user_key: two's complement, then the sign. The last block also carries the
    # length.
    cdef uint64_t v[4]
    sip_start(v, key.number)
    sip_absorb(v, number)
    sip_absorb(v, (<uint64_t>9 << 56) | <uint64_t>negative)
    sip_finish(v, out)


cdef inline bint usual_integer_key(const HashKey *key, object user, UserKey *out) except -1:
    # Hash an int of 64 signed bits, as nearly all users are; this raises nothing. Return False for any other user:
    # user_key hashes it.
    cdef long long number
    if type(user) is not int or hb_read_integer(user, &number) != 0:
        return False
    integer_key(key, <uint64_t>number, number < 0, out)
    return True


cdef bytes bytes_from_user_key(const UserKey *key)
