"""Making envelopes: getting or creating one by its name, and creating many at once.

Both check and convert the Python arguments first, and then make each envelope by one protocol (``create``): look for
the name, take space, write the envelope there whole, and have one compare-and-swap name it (of the directory, or of
its budget's money). Whoever dies before that leaves space that is nobody's, and whoever dies after it a whole envelope.
So a batch that is cut short has made some of its envelopes and not the others, and asking again makes the rest.

What is plain (an ``int``, a ``str``, an array) is read here; everything else, and every error, is left to ``terms.py``
and ``orders.py``, which the reference uses as well.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from hbcore.account cimport INSUFFICIENT, account_prefetch
from hbcore.batch cimport GROUP
from hbcore.budget cimport (
    CHILD_CLOSED, Budget, budget_set_envelopes, child_afford, child_find, child_insert, insufficient,
)
from hbcore.deck cimport envelope_size
from hbcore.directory cimport Name, directory_allocate, directory_prefetch, name_set
from hbcore.envelope cimport (
    NAME_LIMIT, Envelope, envelope_at, envelope_read, envelope_terms_of, raise_damaged, terms_check,
)
from hbcore.format cimport HB_KIND_ENVELOPE, hb_envelope
from hbcore.law cimport STRATUM_SIZE, Terms, terms_valid
from hbcore.ledger cimport CLOSED, GRANTED_NOW, REPEATED
from hbcore.region cimport Region, hb_now_ms
from hbcore.stream cimport Stream, stream_init, stream_word
from hbcore.user cimport UserKey

from os import urandom

import numpy as np

from hbcore.errors import NotFoundError
from hbcore.orders import common_terms, orders
from hbcore.terms import (
    EXPIRY_LIMIT_MS as _EXPIRY_LIMIT_MS, HOLD_LIMIT_SECONDS as _HOLD_LIMIT_SECONDS, LAWS as _LAWS, LOOKUP as _LOOKUP,
    PER_USER_LIMIT as _PER_USER_LIMIT, Terms as CheckedTerms, check_lookup, check_same_terms, envelope_terms,
    object_name,
)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

cdef enum:
    SEED_SIZE = 32
    CONFLICT_STATUS = 5

cdef tuple LAWS = _LAWS
cdef object DEFAULT_LAW = _LOOKUP["law"]
cdef int64_t EXPIRY_LIMIT = _EXPIRY_LIMIT_MS // 1000
cdef int64_t HOLD_LIMIT = _HOLD_LIMIT_SECONDS
cdef int64_t PER_USER_LIMIT = _PER_USER_LIMIT


# ---- what Python gives ----------------------------------------------------------------------------------------------

cdef bint text_of(str name, const unsigned char **text, uint64_t *length) except -1:
    # The UTF-8 form of a name, which the str keeps for as long as it lives. False: it cannot be one.
    cdef Py_ssize_t size
    try:
        text[0] = <const unsigned char *>PyUnicode_AsUTF8AndSize(name, &size)
    except UnicodeEncodeError:
        return False
    length[0] = <uint64_t>size
    return 1 <= size <= NAME_LIMIT and memchr(text[0], 0, <size_t>size) == NULL


cdef inline bint plain_integer(object value, uint64_t *out) except -1:
    # Whether it is an int of 1 .. 2**63 - 1, and which.
    cdef int overflow = 0
    cdef long long number
    if type(value) is not int:
        return False
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    out[0] = <uint64_t>number
    return overflow == 0 and number >= 1


cdef inline bint plain_seconds(object value, int64_t limit, bint is_rounded_up, uint64_t *out) except -1:
    # Seconds, less than `limit` (or just that, rounded up), as milliseconds; None is 0.
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


cdef bint plain_wish(
    object total, object packets, object law, object min, object max, object concentration, object seed,
    object expires_at, object per_user, object hold_seconds, Wish *wish
) except -1:
    # Read terms that are plain and sound. False: something is neither, or maybe not.
    cdef Terms *terms = &wish.terms
    cdef uint64_t number = 0
    if not (plain_integer(total, &terms.total) and plain_integer(packets, &terms.packets)
            and plain_integer(min, &terms.min) and plain_integer(concentration, &number)):
        return False
    if number > 64:
        return False
    terms.concentration = <unsigned int>number
    if law is DEFAULT_LAW:
        terms.law = 1
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
    wish.has_seed = seed is not None
    if wish.has_seed:
        if type(seed) is not bytes or len(<bytes>seed) != SEED_SIZE:
            return False
        memcpy(terms.seed, <const unsigned char *><bytes>seed, SEED_SIZE)
    if not plain_integer(per_user, &wish.per_user) or wish.per_user > <uint64_t>PER_USER_LIMIT:
        return False
    return (plain_seconds(expires_at, EXPIRY_LIMIT, False, &wish.expires_at_ms)
            and plain_seconds(hold_seconds, HOLD_LIMIT, True, &wish.hold_ms) and terms_valid(terms))


cdef int wish_from(object checked, Wish *wish) except -1:
    # checked: hbcore.terms.Terms
    wish.terms.total = checked.total
    wish.terms.packets = checked.packets
    wish.terms.law = checked.law
    wish.terms.min = checked.min
    wish.terms.max = checked.max
    wish.terms.concentration = checked.concentration
    wish.has_seed = checked.seed is not None
    if wish.has_seed:
        memcpy(wish.terms.seed, <const unsigned char *><bytes>checked.seed, SEED_SIZE)
    wish.expires_at_ms = checked.expires_at_ms
    wish.per_user = checked.per_user
    wish.hold_ms = checked.hold_ms
    return 0


cdef object wish_as_terms(const Wish *wish):
    return CheckedTerms(
        total=wish.terms.total,
        packets=wish.terms.packets,
        law=wish.terms.law,
        min=wish.terms.min,
        max=wish.terms.max,
        concentration=wish.terms.concentration,
        seed=wish.terms.seed[:SEED_SIZE] if wish.has_seed else None,
        expires_at_ms=wish.expires_at_ms,
        per_user=wish.per_user,
        hold_ms=wish.hold_ms,
    )


# ---- the protocol ---------------------------------------------------------------------------------------------------

cdef void write(Region region, const Name *name, const Wish *wish, uint64_t now_ms, hb_envelope *shared) noexcept nogil:
    # All of it lies in the first HB_PREFACE bytes of the extent, and nobody reads it before it is named.
    cdef UserKey check
    shared.extent.kind = HB_KIND_ENVELOPE
    shared.extent.name_length = <uint16_t>name.length
    shared.extent.name_offset = sizeof(hb_envelope)
    shared.extent.parent = name.parent
    shared.extent.created_at_ms = now_ms
    shared.total = wish.terms.total
    shared.packets = wish.terms.packets
    shared.min = wish.terms.min
    shared.max = wish.terms.max
    shared.law = wish.terms.law
    shared.concentration = wish.terms.concentration
    shared.expires_at_ms = wish.expires_at_ms
    shared.hold_ms = wish.hold_ms
    shared.per_user = wish.per_user
    memcpy(shared.seed, wish.terms.seed, SEED_SIZE)
    memcpy(<char *>shared + sizeof(hb_envelope), name.text, name.length)
    terms_check(region, shared, name.text, name.length, &check)
    memcpy(shared.check, &check, 16)


cdef int create(
    Region region, Budget budget, const Name *name, const Wish *wish, uint64_t now_ms, int64_t *offset,
    uint64_t *available
) except -1 nogil:
    # Make the envelope, which was not there when it was looked for; its seed is in the wish, given or not. Returns
    # GRANTED_NOW, or REPEATED if somebody else has made one of that name meanwhile, with its offset; or INSUFFICIENT or
    # CLOSED. A death on the way leaves an extent in phase MAKING that nothing leads to, which is nobody's.
    cdef int64_t made = 0
    cdef uint64_t stratum_count = (wish.terms.packets + STRATUM_SIZE - 1) // STRATUM_SIZE
    offset[0] = child_afford(region, budget, name, wish.terms.total, available)
    if offset[0] == 0:
        made = directory_allocate(region, envelope_size(name.length, stratum_count, wish.terms.packets))
        write(region, name, wish, now_ms, <hb_envelope *>(region.base + made))
        # The compare-and-swap is in there; before it nobody can see the envelope, after it it is whole.
        offset[0] = child_insert(region, budget, name, <uint64_t>made, wish.terms.total, available)
    if offset[0] > 0:
        return GRANTED_NOW if offset[0] == made else REPEATED
    return CLOSED if offset[0] == CHILD_CLOSED else INSUFFICIENT


cdef bint is_as_wished(
    const Terms *terms, uint64_t expires_at_ms, uint64_t hold_ms, uint64_t per_user, const Wish *wish
) noexcept nogil:
    # Whether an envelope that exists has the terms that are asked for; any seed will do where none is given.
    return (terms.total == wish.terms.total and terms.packets == wish.terms.packets and terms.law == wish.terms.law
            and terms.min == wish.terms.min and terms.max == wish.terms.max
            and terms.concentration == wish.terms.concentration and expires_at_ms == wish.expires_at_ms
            and hold_ms == wish.hold_ms and per_user == wish.per_user
            and (not wish.has_seed or memcmp(terms.seed, wish.terms.seed, SEED_SIZE) == 0))


# ---- one ------------------------------------------------------------------------------------------------------------

cdef object get_envelope(
    Region region, Budget budget, object name, object total, object packets, object law, object min, object max,
    object concentration, object seed, object expires_at, object per_user, object hold_seconds
):
    # Get or create an envelope of a budget, or of the engine if that is None.
    cdef Envelope envelope
    cdef Name place
    cdef Wish wish
    cdef const unsigned char *text = NULL
    cdef uint64_t length = 0
    cdef uint64_t available = 0
    cdef int64_t offset
    cdef int status = REPEATED
    cdef bytes fresh
    cdef bint is_lookup = total is None and packets is None
    region.check_open()
    if type(name) is not str or not text_of(<str>name, &text, &length):
        name = object_name(name).decode()       # a str, and not a subclass of it; or what is wrong with it
        text_of(<str>name, &text, &length)
    if is_lookup and not (law is DEFAULT_LAW and min is ONE and max is None and concentration is THREE and seed is None
                          and expires_at is None and per_user is ONE and hold_seconds is None):
        check_lookup(law, min, max, concentration, seed, expires_at, per_user, hold_seconds)
    name_set(region, HB_KIND_ENVELOPE, 0 if budget is None else budget.offset, text, length, &place)
    offset = child_find(region, budget, &place)
    if is_lookup:
        if offset == 0:
            raise NotFoundError(f"there is no envelope {name!r}; give total and packets to create it")
        return envelope_at(region, <uint64_t>offset, <str>name, budget)
    envelope = None if offset == 0 else envelope_at(region, <uint64_t>offset, <str>name, budget)
    if not plain_wish(total, packets, law, min, max, concentration, seed, expires_at, per_user, hold_seconds, &wish):
        wish_from(
            envelope_terms(total, packets, law, min, max, concentration, seed, expires_at, per_user, hold_seconds),
            &wish,
        )
    if envelope is None:
        if not wish.has_seed:
            fresh = urandom(SEED_SIZE)
            memcpy(wish.terms.seed, <const unsigned char *>fresh, SEED_SIZE)
        status = create(region, budget, &place, &wish, hb_now_ms(), &offset, &available)
        if offset < 0:
            raise insufficient(budget, f"envelope {name!r}", wish.terms.total, <int>offset, available)
        envelope = envelope_at(region, <uint64_t>offset, <str>name, budget)
    if status != GRANTED_NOW and not is_as_wished(
        &envelope.deck.terms, envelope.deck.expires_at_ms, envelope.deck.hold_ms, envelope.deck.per_user, &wish
    ):
        check_same_terms(name, envelope_terms_of(envelope), wish_as_terms(&wish))
    return envelope


cdef object ONE = 1
cdef object THREE = 3


# ---- many -----------------------------------------------------------------------------------------------------------

@cython.final
@cython.auto_pickle(False)
@cython.no_gc
cdef class Order:
    """The envelopes of one batch; what it points to lives as long as it does."""

    def __dealloc__(self):
        PyMem_RawFree(self.texts)
        PyMem_RawFree(self.lengths)
        PyMem_RawFree(self.totals)
        PyMem_RawFree(self.packets)


cdef void *memory_for(Py_ssize_t count, size_t size) except NULL:
    cdef void *memory = PyMem_RawMalloc(<size_t>count * size + 1)
    if memory == NULL:
        raise MemoryError(f"no memory for a batch of {count} envelopes")
    return memory


cdef tuple plain_sequence(object values):
    # The elements of a list, a tuple or an array of fixed-width strings, or None. A tuple: nobody can change it.
    if type(values) is list or type(values) is tuple:
        return tuple(values)
    if type(values) is np.ndarray and values.ndim == 1 and values.dtype.kind == "U":
        try:
            return tuple(values.tolist())
        except (SystemError, ValueError):       # NumPy's words for a character beyond the last of Unicode
            return None
    return None


cdef bint plain_integers(object values, Py_ssize_t count, int64_t *out) except -1:
    # Read `count` integers from an int that stands for all, an array, or a list or tuple of int. Whether they are in
    # range is looked at later. False: something is not plain.
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
        # What is beyond 2**63 becomes negative, and is found to be out of range.
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
    # The seeds one after another, or None.
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


cdef Order plain_order(object names, object totals, object packets, object seeds, const Wish *common):
    # Read a batch that is plain, and sound with the terms that all have in common; None if it is not.
    cdef Order order = Order.__new__(Order)
    cdef Wish wish = common[0]
    cdef uint64_t length
    cdef Py_ssize_t i
    order.names = plain_sequence(names)
    if order.names is None:
        return None
    order.count = len(order.names)
    order.texts = <const unsigned char **>memory_for(order.count, sizeof(char *))
    order.lengths = <unsigned char *>memory_for(order.count, 1)
    order.totals = <int64_t *>memory_for(order.count, sizeof(int64_t))
    order.packets = <int64_t *>memory_for(order.count, sizeof(int64_t))
    for i in range(order.count):
        name = order.names[i]
        if type(name) is not str or not text_of(<str>name, &order.texts[i], &length):
            return None
        order.lengths[i] = <unsigned char>length
    if not (plain_integers(totals, order.count, order.totals) and plain_integers(packets, order.count, order.packets)):
        return None
    for i in range(order.count):
        if not wish_of(order, i, common, &wish):
            return None
    if seeds is not None:
        order.seeds = plain_seeds(seeds, order.count)
        if order.seeds is None:
            return None
        order.seed_bytes = <const unsigned char *>order.seeds
    return order


cdef inline bint wish_of(Order order, Py_ssize_t i, const Wish *common, Wish *wish) noexcept nogil:
    # Fill in what is an envelope's own, but its seed. Whether the terms are sound.
    wish.terms.total = <uint64_t>order.totals[i]
    wish.terms.packets = <uint64_t>order.packets[i]
    wish.terms.max = min(common.terms.max, wish.terms.total)
    return terms_valid(&wish.terms)


cdef object create_envelopes(
    Region region, Budget budget, object names, object totals, object packets, object law, object min, object max,
    object concentration, object seeds, object expires_at, object per_user, object hold_seconds
):
    # Create many envelopes of a budget, or of the engine if that is None. Everything is checked before any is made.
    cdef Wish common
    cdef Order order
    cdef Py_buffer view
    cdef Stream stream
    cdef bytes key
    region.check_open()
    wish_from(common_terms(law, min, max, concentration, expires_at, per_user, hold_seconds), &common)
    order = plain_order(names, totals, packets, seeds, &common)
    if order is None:
        plain = orders(
            names, totals, packets, law, min, max, concentration, seeds, expires_at, per_user, hold_seconds
        )
        order = plain_order(plain.names, plain.totals, plain.packets, plain.seeds, &common)
        if order is None:
            raise ValueError("the terms must not change while they are read")
    common.has_seed = order.seeds is not None
    # Every envelope has a seed of its own from one key that the operating system has drawn for this call and nobody
    # keeps. ChaCha20 under an unknown key cannot be told from chance, so who learns some of the seeds, which a file
    # keeps, cannot compute another. No two calls share a key, whatever was forked in between: nothing is kept for the
    # next, and a child that is forked meanwhile by another thread does not have this one to go on with.
    key = urandom(SEED_SIZE)
    stream_init(&stream, key, 0, 0)
    statuses = np.empty(order.count, np.uint8)
    region.check_open()     # reading the names may have run any Python
    PyObject_GetBuffer(statuses, &view, PyBUF_WRITABLE)
    try:
        with nogil:
            create_rows(region, budget, order, &common, &stream, <uint8_t *>view.buf)
    finally:
        memset(&stream, 0, sizeof(stream))
        PyBuffer_Release(&view)
    return statuses


cdef int create_rows(
    Region region, Budget budget, Order order, const Wish *common, Stream *stream, uint8_t *statuses
) except -1 nogil:
    # Make each envelope in order, or look at the one that there is. An exception leaves those before it made.
    cdef Name group[GROUP]
    cdef Wish wish = common[0]
    cdef uint64_t parent = 0 if budget is None else budget.offset
    cdef uint64_t now_ms, available
    cdef int64_t offset
    cdef Py_ssize_t base = 0
    cdef Py_ssize_t i, size
    cdef int status
    while base < order.count:
        size = min(order.count - base, <Py_ssize_t>GROUP)
        for i in range(size):
            name_set(region, HB_KIND_ENVELOPE, parent, order.texts[base + i], order.lengths[base + i], &group[i])
            directory_prefetch(region, &group[i])
            if budget is not None:
                account_prefetch(&budget.account, &group[i].key)
        now_ms = hb_now_ms()
        for i in range(size):
            wish_of(order, base + i, common, &wish)
            if common.has_seed:
                memcpy(wish.terms.seed, order.seed_bytes + (base + i) * SEED_SIZE, SEED_SIZE)
            status = REPEATED
            offset = child_find(region, budget, &group[i])
            if offset == 0:
                if not common.has_seed:
                    draw_seed(stream, wish.terms.seed)
                status = create(region, budget, &group[i], &wish, now_ms, &offset, &available)
            if status == REPEATED:
                status = look_at(region, &group[i], <uint64_t>offset, &wish)
            statuses[base + i] = <uint8_t>status
        base += size
    return 0


cdef inline void draw_seed(Stream *stream, unsigned char *seed) noexcept nogil:
    # The stream lasts for 2**33 seeds, which is more than a batch can have.
    cdef unsigned int word
    cdef int i
    for i in range(SEED_SIZE // 4):
        word = stream_word(stream)
        memcpy(seed + 4 * i, &word, 4)


cdef int look_at(Region region, const Name *name, uint64_t offset, const Wish *wish) except -1 nogil:
    # REPEATED if the envelope that exists is the one that is wished for, else CONFLICT.
    cdef hb_envelope copy
    cdef unsigned char[NAME_LIMIT] text
    cdef Terms terms
    cdef const char *wrong = envelope_read(region, offset, &copy, text, &terms)
    if wrong != NULL:
        with gil:
            raise_damaged(region, name.text[:name.length].decode(), wrong)
    if is_as_wished(&terms, copy.expires_at_ms, copy.hold_ms, copy.per_user, wish):
        return REPEATED
    return CONFLICT_STATUS

budget_set_envelopes(get_envelope, create_envelopes)
