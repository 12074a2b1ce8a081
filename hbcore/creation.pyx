"""Making envelopes: getting or creating one by its name, and creating many at once.

Both check and convert the Python arguments first, and then make each envelope by one protocol (``create``): look for
the name, take space, write the envelope there whole, and have one compare-and-swap name it (of the directory, or of
its budget's money). Whoever dies before that leaves space that is nobody's, and whoever dies after it a whole envelope.
So a batch that is cut short has made some of its envelopes and not the others, and asking again makes the rest.
"""
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from hbcore.account cimport INSUFFICIENT, account_prefetch
from hbcore.batch cimport GROUP
from hbcore.budget cimport (
    CHILD_CLOSED, Budget, budget_set_envelopes, child_afford, child_find, child_insert, insufficient,
)
from hbcore.deck cimport envelope_size
from hbcore.directory cimport Name, directory_allocate, directory_prefetch, name_set
from hbcore.envelope cimport (
    NAME_LIMIT, Envelope, envelope_at, envelope_from, envelope_read, envelope_terms_of, raise_damaged, terms_check,
)
from hbcore.format cimport HB_KIND_ENVELOPE, hb_envelope
from hbcore.law cimport STRATUM_SIZE, Terms, terms_prepare
from hbcore.ledger cimport CLOSED, GRANTED_NOW, REPEATED
from hbcore.region cimport Region, hb_now_ms
from hbcore.stream cimport Stream, stream_init, stream_word
from hbcore.user cimport UserKey
from hbcore.wish cimport (
    SEED_SIZE, Order, Wish, is_default_law, plain_order, plain_wish, text_of, wish_as_terms, wish_from, wish_of,
)

from os import urandom

import numpy as np

from hbcore.errors import NotFoundError
from hbcore.orders import common_terms, orders
from hbcore.terms import check_lookup, check_same_terms, envelope_terms, object_name

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_getrandom

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, void *buffer, size_t size, unsigned int flags)

cdef enum:
    CONFLICT_STATUS = 5

cdef object ONE = 1         # the default of min and per_user, and
cdef object THREE = 3       # of concentration


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


cdef int fresh_seed(unsigned char *seed) except -1:
    cdef bytes drawn
    # 32 bytes from the operating system: os.urandom without what that costs. No bytes are kept for the next seed: a
    # forked child, or a copy of the machine, would have them as well.
    if syscall(SYS_getrandom, seed, SEED_SIZE, 0) != SEED_SIZE:     # interrupted, or a kernel that has it not
        drawn = urandom(SEED_SIZE)
        memcpy(seed, <const unsigned char *>drawn, SEED_SIZE)
    return 0


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
    cdef int status
    cdef bint is_lookup = total is None and packets is None
    region.check_open()
    if type(name) is not str or not text_of(<str>name, &text, &length):
        name = object_name(name).decode()       # a str, and not a subclass of it; or what is wrong with it
        text_of(<str>name, &text, &length)
    if is_lookup and not (is_default_law(law) and min is ONE and max is None and concentration is THREE
                          and seed is None and expires_at is None and per_user is ONE and hold_seconds is None):
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
            fresh_seed(wish.terms.seed)
        status = create(region, budget, &place, &wish, hb_now_ms(), &offset, &available)
        if offset < 0:
            raise insufficient(budget, f"envelope {name!r}", wish.terms.total, <int>offset, available)
        if status == GRANTED_NOW:
            terms_prepare(&wish.terms)
            return envelope_from(
                region, <uint64_t>offset, <str>name, budget, &place, &wish.terms, wish.expires_at_ms, wish.hold_ms,
                wish.per_user,
            )
        envelope = envelope_at(region, <uint64_t>offset, <str>name, budget)
    if not is_as_wished(
        &envelope.deck.terms, envelope.deck.expires_at_ms, envelope.deck.hold_ms, envelope.deck.per_user, &wish
    ):
        check_same_terms(name, envelope_terms_of(envelope), wish_as_terms(&wish))
    return envelope


# ---- many -----------------------------------------------------------------------------------------------------------

cdef object create_envelopes(
    Region region, Budget budget, object names, object totals, object packets, object law, object min, object max,
    object concentration, object seeds, object expires_at, object per_user, object hold_seconds
):
    # Create many envelopes of a budget, or of the engine if that is None. Everything is checked before any is made.
    cdef Wish common
    cdef Order order
    cdef Py_buffer view
    cdef Stream stream
    cdef unsigned char[SEED_SIZE] key
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
    fresh_seed(key)
    stream_init(&stream, key, 0, 0)
    statuses = np.empty(order.count, np.uint8)
    region.check_open()     # reading the names may have run any Python
    PyObject_GetBuffer(statuses, &view, PyBUF_WRITABLE)
    try:
        with nogil:
            create_rows(region, budget, order, &common, &stream, <uint8_t *>view.buf)
    finally:
        memset(&stream, 0, sizeof(stream))
        memset(key, 0, SEED_SIZE)
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
