"""Requests: one envelope (a ``Request``) or many (a ``BatchRequest``) that are to be made, read from Python arguments.

Arguments that are plain (an ``int``, a ``str``, an array) are read here, without a call of Python code. Everything
else, and every error, is left to ``terms.py`` and ``batch_request.py``, which the reference uses as well: nothing here
says what is wrong.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from hbcore._lib.integers cimport hb_read_integer
from hbcore._lib.limits cimport CONCENTRATION_LIMIT, NAME_LIMIT, PACKET_LIMIT, PER_USER_LIMIT, SEED_SIZE
from hbcore._split.law cimport hb_terms, terms_as_python, terms_read, terms_valid

import numpy as np

from hbcore.terms import (
    EXPIRY_LIMIT_MS as _EXPIRY_LIMIT_MS, HOLD_LIMIT_SECONDS as _HOLD_LIMIT_SECONDS, LAWS as _LAWS, LOOKUP as _LOOKUP,
)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef tuple LAWS = _LAWS
cdef object DEFAULT_LAW = _LOOKUP["law"]
cdef unsigned int DEFAULT_LAW_NUMBER = LAWS.index(DEFAULT_LAW)
cdef int64_t EXPIRY_LIMIT = _EXPIRY_LIMIT_MS // 1000
cdef int64_t HOLD_LIMIT = _HOLD_LIMIT_SECONDS


# ---- one ------------------------------------------------------------------------------------------------------------

cdef bint text_of(str name, const unsigned char **text, uint64_t *length) except -1:
    # Point at the UTF-8 form of a name, which the str keeps for as long as it lives. Returns False if it cannot be a
    # name.
    cdef Py_ssize_t size
    try:
        text[0] = <const unsigned char *>PyUnicode_AsUTF8AndSize(name, &size)
    except UnicodeEncodeError:
        return False
    length[0] = <uint64_t>size
    return 1 <= size <= NAME_LIMIT and memchr(text[0], 0, <size_t>size) == NULL


cdef bint is_default_law(object law) noexcept:
    return law is DEFAULT_LAW


cdef inline bint plain_integer(object value, uint64_t *out) except -1:
    # Return whether a value is an int of 1 .. 2**63 - 1, and write it to *out if so.
    cdef long long number
    if type(value) is not int or hb_read_integer(value, &number) != 0:
        return False
    out[0] = <uint64_t>number
    return number >= 1


cdef inline bint plain_seconds(object value, int64_t limit, bint is_rounded_up, uint64_t *out) except -1:
    # Read a plain number of seconds below `limit` as milliseconds; None is 0. A float is rounded down, or up, and may
    # then come to just the limit. Returns False if the value is not plain or not in range.
    cdef double seconds
    cdef uint64_t number
    out[0] = 0
    if value is None:
        return True
    if type(value) is float:
        seconds = value
        if not 0 < seconds < limit:     # false for NaN as well
            return False
        seconds *= 1000
        out[0] = max(<uint64_t>1, <uint64_t>(ceil(seconds) if is_rounded_up else seconds))
        return True
    if not plain_integer(value, &number) or number >= <uint64_t>limit:
        return False
    out[0] = number * 1000
    return True


cdef inline bint has_room(const Request *request) noexcept nogil:
    # Return whether max_packets is in range.
    return request.terms.packets <= request.terms.max_packets < PACKET_LIMIT


cdef bint plain_request(
    object total, object packets, object law, object min, object max, object concentration, object seed,
    object expires_at, object per_user, object hold_seconds, object max_packets, Request *request
) except -1:
    # Read terms that are plain and sound. Returns False if something is not plain or not sound, or may not be.
    cdef hb_terms *terms = &request.terms
    cdef uint64_t number = 0
    if not (plain_integer(total, &terms.total) and plain_integer(packets, &terms.packets)
            and plain_integer(min, &terms.min) and plain_integer(concentration, &number)):
        return False
    if number > CONCENTRATION_LIMIT:
        return False
    terms.concentration = <unsigned int>number
    if law is DEFAULT_LAW:
        terms.law = DEFAULT_LAW_NUMBER
    elif type(law) is str and law in LAWS:
        terms.law = LAWS.index(law)
    else:
        return False
    if max is None:
        terms.max = terms.total
    elif not plain_integer(max, &terms.max):
        return False
    elif terms.max > terms.total:
        terms.max = terms.total
        if terms.min > terms.total:
            return False
    if max_packets is None:
        request.terms.max_packets = terms.packets
    elif not plain_integer(max_packets, &request.terms.max_packets) or not has_room(request):
        return False
    request.has_seed = seed is not None
    if request.has_seed:
        if type(seed) is not bytes or len(<bytes>seed) != SEED_SIZE:
            return False
        memcpy(terms.seed, <const unsigned char *><bytes>seed, SEED_SIZE)
    if not plain_integer(per_user, &request.terms.per_user) or request.terms.per_user > PER_USER_LIMIT:
        return False
    return (plain_seconds(expires_at, EXPIRY_LIMIT, False, &request.terms.expires_at_ms)
            and plain_seconds(hold_seconds, HOLD_LIMIT, True, &request.terms.hold_ms) and terms_valid(terms))


cdef int request_from(object checked, Request *request) except -1:
    # Read terms that were checked. checked: hbcore.terms.Terms.
    request.has_seed = checked.seed is not None
    return terms_read(&request.terms, checked)


cdef object request_as_terms(const Request *request):
    return terms_as_python(&request.terms, request.has_seed)


# ---- many -----------------------------------------------------------------------------------------------------------

@cython.final
@cython.auto_pickle(False)
@cython.no_gc
cdef class BatchRequest:
    """The envelopes of one batch; the memory that it points to lives as long as the batch does."""

    def __dealloc__(self):
        PyMem_RawFree(self.copies)
        PyMem_RawFree(self.texts)
        PyMem_RawFree(self.lengths)
        PyMem_RawFree(self.totals)
        PyMem_RawFree(self.packets)


cdef void *memory_for(Py_ssize_t count, size_t size) except NULL:
    # Return memory for `count` elements of `size` bytes each, never NULL.
    cdef void *memory = PyMem_RawMalloc(<size_t>count * size + 1)
    if memory == NULL:
        raise MemoryError(f"no memory for a batch of {count} envelopes")
    return memory


cdef bint plain_names(object names, BatchRequest batch) except -1:
    # Read the names of a list, a tuple or an array of fixed-width strings. Returns False if they are not that, or not
    # names.
    cdef uint64_t length
    cdef Py_ssize_t i
    if type(names) is np.ndarray and names.ndim == 1 and names.dtype.kind == "U":
        if names.dtype.isnative and 0 < names.dtype.itemsize <= 4 * NAME_LIMIT and ascii_names(names, batch):
            return True
        try:
            batch.names = tuple(names.tolist())
        except (SystemError, ValueError):       # what NumPy raises for a character beyond the last of Unicode
            return False
    elif type(names) is list or type(names) is tuple:
        batch.names = tuple(names)      # a copy that nobody can change
    else:
        return False
    place_for(batch, len(batch.names))
    for i in range(batch.count):
        name = batch.names[i]
        if type(name) is not str or not text_of(<str>name, &batch.texts[i], &length):
            return False
        batch.lengths[i] = <unsigned char>length
    return True


cdef int place_for(BatchRequest batch, Py_ssize_t count) except -1:
    # Make place for the texts and lengths of `count` names.
    PyMem_RawFree(batch.texts)      # an earlier try may have left some
    PyMem_RawFree(batch.lengths)
    batch.texts = NULL
    batch.lengths = NULL
    batch.texts = <const unsigned char **>memory_for(count, sizeof(char *))
    batch.lengths = <unsigned char *>memory_for(count, 1)
    batch.count = count
    return 0


cdef bint ascii_names(object names, BatchRequest batch) except -1:
    # Copy the characters of an array, of 4 bytes each, without making a str of any. Returns False if not all of them
    # are ASCII.
    cdef Py_buffer view
    cdef Py_ssize_t width = names.dtype.itemsize // 4
    cdef bint is_ascii
    place_for(batch, len(names))
    batch.copies = <unsigned char *>memory_for(batch.count, <size_t>width)
    if batch.count == 0:
        return True
    characters = np.ascontiguousarray(names).view(np.uint32)
    PyObject_GetBuffer(characters, &view, PyBUF_SIMPLE)
    with nogil:
        is_ascii = copy_ascii(<const uint32_t *>view.buf, width, batch)
    PyBuffer_Release(&view)
    return is_ascii


cdef bint copy_ascii(const uint32_t *characters, Py_ssize_t width, BatchRequest batch) noexcept nogil:
    # Copy the names and note where each begins and how long it is. A name ends at its first NUL. Returns False if one
    # has characters after that, is empty or is not ASCII.
    cdef unsigned char *out = batch.copies
    cdef uint32_t all_bits, character
    cdef Py_ssize_t i, j, length
    for i in range(batch.count):
        all_bits = 0
        length = 0
        for j in range(width):
            character = characters[j]
            all_bits |= character
            out[j] = <unsigned char>character
            if character != 0:
                if length != j:
                    return False
                length = j + 1
        if all_bits >= 0x80 or length == 0:
            return False
        batch.texts[i] = out
        batch.lengths[i] = <unsigned char>length
        out += width
        characters += width
    return True


cdef bint plain_integers(object values, Py_ssize_t count, int64_t *out) except -1:
    # Read `count` integers from an int that stands for all, an array, or a list or tuple of int. The caller checks
    # their range. Returns False if something is not plain.
    cdef Py_buffer view
    cdef uint64_t number
    cdef Py_ssize_t i
    if plain_integer(values, &number):
        for i in range(count):
            out[i] = <int64_t>number
        return True
    if type(values) is np.ndarray:
        if values.dtype.kind not in "iu" or values.shape != (count,):
            return False
        # An integer of 2**63 or more becomes negative, and is found to be out of range.
        values = np.ascontiguousarray(values.astype(np.int64))
        PyObject_GetBuffer(values, &view, PyBUF_SIMPLE)
        memcpy(out, view.buf, <size_t>count * sizeof(int64_t))
        PyBuffer_Release(&view)
        return True
    if type(values) is not list and type(values) is not tuple:
        return False
    values = tuple(values)
    if len(<tuple>values) != count:
        return False
    for i in range(count):
        if not plain_integer((<tuple>values)[i], &number):
            return False
        out[i] = <int64_t>number
    return True


cdef bytes plain_seeds(object seeds, Py_ssize_t count):
    # Return the seeds one after another, or None if they are not plain.
    if type(seeds) is np.ndarray:
        if seeds.dtype != np.uint8 or seeds.shape != (count, SEED_SIZE):
            return None
        return seeds.tobytes()
    if type(seeds) is not list and type(seeds) is not tuple:
        return None
    seeds = tuple(seeds)
    if len(<tuple>seeds) != count:
        return None
    for seed in <tuple>seeds:
        if type(seed) is not bytes or len(<bytes>seed) != SEED_SIZE:
            return None
    return b"".join(seeds)


cdef BatchRequest plain_batch_request(object names, object totals, object packets, object seeds, const Request *common):
    # Read a batch that is plain, and sound with the terms that all have in common. Returns None if it is not.
    cdef BatchRequest batch = BatchRequest.__new__(BatchRequest)
    cdef Request request = common[0]
    cdef Py_ssize_t i
    batch.highest = common.terms.max
    batch.room = common.terms.max_packets
    if not plain_names(names, batch):
        return None
    batch.totals = <int64_t *>memory_for(batch.count, sizeof(int64_t))
    batch.packets = <int64_t *>memory_for(batch.count, sizeof(int64_t))
    if not (plain_integers(totals, batch.count, batch.totals) and plain_integers(packets, batch.count, batch.packets)):
        return None
    for i in range(batch.count):
        request_of(batch, i, &request)
        if not terms_valid(&request.terms) or not has_room(&request):
            return None
    if seeds is not None:
        batch.seeds = plain_seeds(seeds, batch.count)
        if batch.seeds is None:
            return None
        batch.seed_bytes = <const unsigned char *>batch.seeds
    return batch
