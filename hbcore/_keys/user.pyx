"""What a user may be, and its keyed hash, SipHash-2-4-128 (Aumasson and Bernstein, 2012).

A str is hashed as its UTF-8 bytes, bytes are hashed as they are, an int is hashed in a domain of its own. Only the hash
is kept, so without the key nobody can tell who a claim belongs to.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from hbcore.terms import BOOLS as _BOOLS, USER_LIMIT as _USER_LIMIT, described, shown

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    unsigned long long PyLong_AsUnsignedLongLong(object number) except? 0xFFFFFFFFFFFFFFFF
    bint PyIndex_Check(object value)
    object PyNumber_Index(object value)

cdef tuple BOOLS = _BOOLS
cdef Py_ssize_t USER_LIMIT = _USER_LIMIT


cdef void siphash128(const uint64_t *key, const unsigned char *message, size_t size, UserKey *out) noexcept nogil:
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef size_t offset = 0
    sip_start(v, key)
    while offset + 8 <= size:
        memcpy(&word, message + offset, 8)
        sip_absorb(v, word)
        offset += 8
    word = 0
    memcpy(&word, message + offset, size - offset)
    sip_absorb(v, word | (<uint64_t>size << 56))
    sip_finish(v, out)


cdef HashKey hash_key_from_bytes(bytes key):
    # Return the two keys in 32 bytes; the caller has checked the length.
    cdef HashKey out
    memcpy(&out, PyBytes_AS_STRING(key), sizeof(HashKey))
    return out


cdef int text_key(const HashKey *key, const char *text, Py_ssize_t size, UserKey *out) except -1:
    if not 1 <= size <= USER_LIMIT:
        raise ValueError(f"user must be 1 .. {USER_LIMIT} bytes long, not {size}")
    siphash128(key.text, <const unsigned char *>text, <size_t>size, out)
    return 0


cdef int unusual_integer_key(const HashKey *key, object number, UserKey *out) except -1:
    # Hash an int, most likely one that is not within the 64 signed bits.
    cdef uint64_t unsigned_number
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"user must be within -2**63 .. 2**64 - 1, not {shown(number)}")
    unsigned_number = number & 0xFFFFFFFFFFFFFFFF
    integer_key(key, unsigned_number, number < 0, out)
    return 0


cdef int user_key(const HashKey *key, object user, UserKey *out) except -1:
    cdef const char *text
    cdef Py_ssize_t size
    if usual_integer_key(key, user, out):
        return 0
    if type(user) is int:
        return unusual_integer_key(key, user, out)
    if isinstance(user, str):
        try:
            text = PyUnicode_AsUTF8AndSize(user, &size)
        except UnicodeEncodeError as error:
            raise ValueError(f"user {user!r} is not valid Unicode: {error.reason}") from None
        return text_key(key, text, size, out)
    if isinstance(user, bytes):
        return text_key(key, PyBytes_AS_STRING(user), PyBytes_GET_SIZE(user), out)
    if isinstance(user, BOOLS) or not PyIndex_Check(user):
        raise TypeError(f"user must be a str, bytes or int, not {described(user)}")
    try:
        whole = PyNumber_Index(user)
    except TypeError:   # NumPy's arrays have __index__ and refuse to use it
        raise TypeError(f"user must be a str, bytes or int, not {described(user)}") from None
    return unusual_integer_key(key, whole, out)


cdef Py_ssize_t user_keys_from_sequence(
    const HashKey *key, object users, UserKey *out, Py_ssize_t count
) except -1:
    # Hash a list or tuple of `count` users. Raises for the first bad one, naming its index.
    cdef Py_ssize_t i
    for i in range(count):
        # Every turn checks this: other threads, or a user's own __index__, may shorten the list meanwhile.
        if i >= len(users):
            raise ValueError(f"users must not change while they are read: {count} have become {len(users)}")
        try:
            user_key(key, users[i], &out[i])
        except (TypeError, ValueError) as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(f"users[{i}]: {error}") from None
    return count


cdef inline Py_ssize_t utf8_from_utf32(const uint32_t *text, Py_ssize_t length, unsigned char *out) noexcept nogil:
    # Write text as UTF-8 to `out`, which has 4 bytes for each character. Return the size in bytes, or -1 if a character
    # is not a Unicode scalar value.
    cdef Py_ssize_t i, size = 0
    cdef uint32_t c
    for i in range(length):
        c = text[i]
        if c < 0x80:
            out[size] = <unsigned char>c
            size += 1
        elif c < 0x800:
            out[size] = <unsigned char>(0xC0 | (c >> 6))
            out[size + 1] = <unsigned char>(0x80 | (c & 0x3F))
            size += 2
        elif c < 0x10000:
            if 0xD800 <= c < 0xE000:
                return -1
            out[size] = <unsigned char>(0xE0 | (c >> 12))
            out[size + 1] = <unsigned char>(0x80 | ((c >> 6) & 0x3F))
            out[size + 2] = <unsigned char>(0x80 | (c & 0x3F))
            size += 3
        elif c < 0x110000:
            out[size] = <unsigned char>(0xF0 | (c >> 18))
            out[size + 1] = <unsigned char>(0x80 | ((c >> 12) & 0x3F))
            out[size + 2] = <unsigned char>(0x80 | ((c >> 6) & 0x3F))
            out[size + 3] = <unsigned char>(0x80 | (c & 0x3F))
            size += 4
        else:
            return -1
    return size


cdef enum:
    TEXT_LIMIT = 1024   # most characters of an array element, which is converted on the stack; wider arrays go as lists


cdef int user_keys_from_text_array(
    const HashKey *key, const char *data, Py_ssize_t stride, Py_ssize_t width, bint unicode, Py_ssize_t count,
    UserKey *out, Py_ssize_t *bad
) noexcept nogil:
    # Hash NumPy's fixed-width strings ('S', or native 'U' of up to TEXT_LIMIT characters), padded with NULs at the end.
    # Return 0, or -1 with the index of the first user that is empty, too long or not valid Unicode.
    cdef unsigned char utf8[4 * TEXT_LIMIT]
    cdef uint32_t characters[TEXT_LIMIT]
    cdef const unsigned char *text
    cdef Py_ssize_t i, size
    for i in range(count):
        text = <const unsigned char *>data + i * stride
        if unicode:
            # The elements of a strided view may be unaligned.
            memcpy(characters, text, <size_t>width * 4)
            size = width
            while size > 0 and characters[size - 1] == 0:
                size -= 1
            size = utf8_from_utf32(characters, size, utf8)
            text = utf8
        else:
            size = width
            while size > 0 and text[size - 1] == 0:
                size -= 1
        if not 1 <= size <= USER_LIMIT:
            bad[0] = i
            return -1
        siphash128(key.text, text, <size_t>size, &out[i])
    return 0


def siphash(bytes key not None, bytes message not None):
    """Return SipHash-2-4-128 of a message under a 16-byte key: for tests against its authors' vectors."""
    cdef uint64_t words[2]
    cdef UserKey out
    if len(key) != 16:
        raise ValueError(f"key must be 16 bytes, not {len(key)}")
    memcpy(words, PyBytes_AS_STRING(key), 16)
    siphash128(words, <const unsigned char *>PyBytes_AS_STRING(message), <size_t>len(message), &out)
    return bytes_from_user_key(&out)


cdef bytes bytes_from_user_key(const UserKey *key):
    return (<const char *>key)[:sizeof(UserKey)]
