"""Creation of envelopes: one is got or created by its name, or many are created at once.

Both check and convert the Python arguments first, and then make each envelope by one protocol (``create``): look for
the name, take space, write the envelope there whole, and have one compare-and-swap name it (of the directory, or of
its budget's money). A process that dies before that leaves space that is nobody's; one that dies after it leaves a
whole envelope. So a batch that is cut short has made some of its envelopes and not the others, and asking again makes
the rest.
"""
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from hbcore._claims.packets cimport Layout, envelope_layout
from hbcore._file.clock cimport hb_now_ms
from hbcore._file.directory cimport Name, directory_allocate, directory_prefetch, name_message, name_set
from hbcore._file.format cimport HB_KIND_ENVELOPE, hb_envelope
from hbcore._file.record cimport ENVELOPE_TERMS, record_message, record_seal
from hbcore._file.region cimport Region
from hbcore._keys.batch cimport Message, siphash128_group
from hbcore._keys.user cimport GROUP, UserKey
from hbcore._lib.answers cimport CLOSED, CONFLICT, GRANTED_NOW, INSUFFICIENT, REPEATED
from hbcore._lib.limits cimport NAME_LIMIT, SEED_SIZE
from hbcore._money.account cimport account_prefetch
from hbcore._money.funding cimport CHILD_CLOSED, child_afford, child_find, child_insert, insufficient
from hbcore._ops.request cimport (
    BatchRequest, Request, is_default_law, plain_batch_request, plain_request, request_as_terms, request_from,
    request_of, text_of,
)
from hbcore._split.law cimport hb_terms, strata_of
from hbcore._split.stream cimport Stream, stream_init, stream_word
from hbcore.budget cimport Budget, budget_set_envelopes
from hbcore.envelope cimport Envelope, envelope_at, envelope_from, envelope_read, envelope_terms_of, raise_damaged

from os import urandom

import numpy as np

from hbcore.errors import NotFoundError
from hbcore._ops.batch_request import common_terms, checked_batch
from hbcore.terms import check_lookup, check_same_terms, envelope_terms, object_name

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_getrandom

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, void *buffer, size_t size, unsigned int flags)

cdef enum:
    STATE_SIZE = 8          # bytes of the first word of an extent, its state

cdef object ONE = 1         # the default of min and per_user
cdef object THREE = 3       # the default of concentration


# ---- the protocol ---------------------------------------------------------------------------------------------------

cdef void fill(const Name *name, const Request *request, uint64_t now_ms, hb_envelope *image) noexcept nogil:
    # Make the image of an envelope as it is to be written, all but its check and the state of its extent.
    memset(image, 0, sizeof(hb_envelope))
    image.extent.kind = HB_KIND_ENVELOPE
    image.extent.name_length = <uint16_t>name.length
    image.extent.name_offset = sizeof(hb_envelope)
    image.extent.parent = name.parent
    image.extent.created_at_ms = now_ms
    image.terms = request.terms
    image.open_count = image.cleared_count = request.terms.packets


cdef int create(
    Region region, Budget budget, const Name *name, const hb_envelope *image, int64_t *offset, uint64_t *available
) except -1 nogil:
    # Make the envelope, which was not there when it was looked for. Returns GRANTED_NOW, or REPEATED if another call
    # has made one of that name meanwhile, each with the envelope's offset; or INSUFFICIENT or CLOSED. A death on the
    # way leaves an extent in phase MAKING that nothing leads to, which is nobody's.
    cdef int64_t made = 0
    cdef Layout layout
    cdef char *shared
    offset[0] = child_afford(region, budget, name, image.terms.total, available)
    if offset[0] == 0:
        layout = envelope_layout(name.length, strata_of(image.terms.packets), image.terms.max_packets)
        made = directory_allocate(region, layout.end)
        # All that is written here lies in the first HB_PREFACE bytes of the extent, and nobody reads it before it is
        # named. The first word, the state of the extent, stays what it is.
        shared = region.base + made
        memcpy(shared + STATE_SIZE, <const char *>image + STATE_SIZE, sizeof(hb_envelope) - STATE_SIZE)
        memcpy(shared + sizeof(hb_envelope), name.text, name.length)
        # This contains the compare-and-swap. Before that nobody can see the envelope; after it the envelope is whole.
        offset[0] = child_insert(region, budget, name, <uint64_t>made, image.terms.total, available)
    if offset[0] > 0:
        return GRANTED_NOW if offset[0] == made else REPEATED
    return CLOSED if offset[0] == CHILD_CLOSED else INSUFFICIENT


cdef bint is_as_requested(const hb_terms *terms, const Request *request) noexcept nogil:
    # Return whether an envelope that exists has the terms that are asked for. Any seed will do where none is given: it
    # is the last field, and is left out of the comparison.
    cdef size_t size = sizeof(hb_terms) if request.has_seed else sizeof(hb_terms) - SEED_SIZE
    return memcmp(terms, &request.terms, size) == 0


cdef int fresh_seed(unsigned char *seed) except -1:
    # Draw 32 bytes from the operating system, as os.urandom does but at less cost. No bytes are kept for the next seed:
    # a forked child, or a copy of the machine, would have them as well.
    cdef bytes drawn
    if syscall(SYS_getrandom, seed, SEED_SIZE, 0) != SEED_SIZE:     # it was interrupted, or the kernel does not have it
        drawn = urandom(SEED_SIZE)
        memcpy(seed, <const unsigned char *>drawn, SEED_SIZE)
    return 0


# ---- one ------------------------------------------------------------------------------------------------------------

cdef object get_envelope(
    Region region, Budget budget, object name, object total, object packets, object law, object min, object max,
    object concentration, object seed, object expires_at, object per_user, object hold_seconds, object max_packets
):
    # Get or create an envelope of a budget, or of the engine if the budget is None.
    cdef Envelope envelope
    cdef Name place
    cdef Request request
    cdef hb_envelope image
    cdef const unsigned char *text = NULL
    cdef uint64_t length = 0
    cdef uint64_t available = 0
    cdef int64_t offset
    cdef int status
    cdef bint is_lookup = total is None and packets is None
    region.check_open()
    if type(name) is not str or not text_of(<str>name, &text, &length):
        name = object_name(name).decode()       # makes a plain str of a subclass, or says what is wrong with the name
        text_of(<str>name, &text, &length)
    if is_lookup and not (is_default_law(law) and min is ONE and max is None and concentration is THREE
                          and seed is None and expires_at is None and per_user is ONE and hold_seconds is None
                          and max_packets is None):
        check_lookup(law, min, max, concentration, seed, expires_at, per_user, hold_seconds, max_packets)
    name_set(region, HB_KIND_ENVELOPE, 0 if budget is None else budget.offset, text, length, &place)
    offset = child_find(region, budget, &place)
    if is_lookup:
        if offset == 0:
            raise NotFoundError(f"there is no envelope {name!r}; give total and packets to create it")
        return envelope_at(region, <uint64_t>offset, <str>name, budget)
    envelope = None if offset == 0 else envelope_at(region, <uint64_t>offset, <str>name, budget)
    if not plain_request(
        total, packets, law, min, max, concentration, seed, expires_at, per_user, hold_seconds, max_packets, &request
    ):
        terms = envelope_terms(
            total, packets, law, min, max, concentration, seed, expires_at, per_user, hold_seconds, max_packets
        )
        request_from(terms, &request)
    if envelope is None:
        if not request.has_seed:
            fresh_seed(request.terms.seed)
        fill(&place, &request, hb_now_ms(), &image)
        record_seal(region, &image.extent, ENVELOPE_TERMS, text, length)
        status = create(region, budget, &place, &image, &offset, &available)
        if offset < 0:
            raise insufficient(budget, f"envelope {name!r}", request.terms.total, <int>offset, available)
        if status == GRANTED_NOW:
            return envelope_from(region, <uint64_t>offset, <str>name, budget, &place, &request.terms)
        envelope = envelope_at(region, <uint64_t>offset, <str>name, budget)
    if not is_as_requested(&envelope.deck.first.terms.given, &request):
        check_same_terms(name, envelope_terms_of(envelope), request_as_terms(&request))
    return envelope


# ---- many -----------------------------------------------------------------------------------------------------------

cdef object create_envelopes(
    Region region, Budget budget, object names, object totals, object packets, object law, object min, object max,
    object concentration, object seeds, object expires_at, object per_user, object hold_seconds, object max_packets
):
    # Create many envelopes of a budget, or of the engine if the budget is None. All arguments are checked before any
    # envelope is made. Returns the Status of each as a uint8 array.
    cdef Request common
    cdef BatchRequest batch
    cdef Py_buffer view
    cdef Stream stream
    cdef unsigned char[SEED_SIZE] key
    region.check_open()
    request_from(common_terms(law, min, max, concentration, expires_at, per_user, hold_seconds, max_packets), &common)
    batch = plain_batch_request(names, totals, packets, seeds, &common)
    if batch is None:
        plain = checked_batch(
            names, totals, packets, law, min, max, concentration, seeds, expires_at, per_user, hold_seconds, max_packets
        )
        batch = plain_batch_request(plain.names, plain.totals, plain.packets, plain.seeds, &common)
        if batch is None:
            raise ValueError("the terms must not change while they are read")
    common.has_seed = batch.seeds is not None
    statuses = np.empty(batch.count, np.uint8)
    region.check_open()     # reading the names may have run any Python
    # Every envelope has a seed of its own from one key, which the operating system has drawn for this call and nobody
    # keeps. ChaCha20 under an unknown key cannot be told from chance, so whoever learns some of the seeds, which a file
    # keeps, cannot compute another. No two calls share a key, whatever was forked in between: nothing is kept for the
    # next call, and a child that another thread forks meanwhile does not go on with this key.
    fresh_seed(key)
    stream_init(&stream, key, 0, 0)
    PyObject_GetBuffer(statuses, &view, PyBUF_WRITABLE)
    try:
        with nogil:
            create_rows(region, budget, batch, &common, &stream, <uint8_t *>view.buf)
    finally:
        memset(&stream, 0, sizeof(stream))
        memset(key, 0, SEED_SIZE)
        PyBuffer_Release(&view)
    return statuses


cdef struct Making:         # one envelope of a group
    Name name
    Request request
    int64_t offset          # the offset where the envelope was found; 0: there was none
    hb_envelope image       # what is to be written where there was none


cdef int create_rows(
    Region region, Budget budget, BatchRequest batch, const Request *common, Stream *stream, uint8_t *statuses
) except -1 nogil:
    # Make each envelope in order, or look at the one that exists, and write the Status of each. An exception leaves the
    # envelopes before it made.
    cdef Making[GROUP] group
    cdef Py_ssize_t base = 0
    cdef Py_ssize_t i, size
    for i in range(GROUP):
        group[i].request = common[0]
    while base < batch.count:
        size = min(batch.count - base, <Py_ssize_t>GROUP)
        find_group(region, budget, batch, base, size, group)
        fill_group(region, batch, base, size, stream, group)
        for i in range(size):
            statuses[base + i] = <uint8_t>make_one(region, budget, group, i)
        base += size
    return 0


cdef int find_group(
    Region region, Budget budget, BatchRequest batch, Py_ssize_t base, Py_ssize_t size, Making *group
) except -1 nogil:
    # Look for the envelopes base .. base + size - 1 of the batch. All names are hashed, and the memory that they lead
    # to is prefetched, before the first is looked for.
    cdef Message[GROUP] messages
    cdef UserKey[GROUP] keys
    cdef Name *name
    cdef Py_ssize_t i
    for i in range(size):
        name = &group[i].name
        name.kind = HB_KIND_ENVELOPE
        name.parent = 0 if budget is None else budget.offset
        name.text = batch.texts[base + i]
        name.length = batch.lengths[base + i]
        messages[i].size = name_message(name, messages[i].bytes)
    siphash128_group(region.header.directory_key, messages, size, keys)
    for i in range(size):
        group[i].name.key = keys[i]
        directory_prefetch(region, &group[i].name)
        if budget is not None:
            account_prefetch(&budget.account, &keys[i])
    for i in range(size):
        group[i].offset = child_find(region, budget, &group[i].name)
    return 0


cdef void fill_group(
    Region region, BatchRequest batch, Py_ssize_t base, Py_ssize_t size, Stream *stream, Making *group
) noexcept nogil:
    # Work out the requests of a group, and the images of the envelopes that were not there, each with its check.
    cdef Message[GROUP] messages
    cdef UserKey[GROUP] checks
    cdef uint64_t now_ms = hb_now_ms()
    cdef Making *making
    cdef Py_ssize_t i
    cdef Py_ssize_t count = 0
    for i in range(size):
        making = &group[i]
        request_of(batch, base + i, &making.request)
        if making.offset == 0:
            if not making.request.has_seed:
                draw_seed(stream, making.request.terms.seed)
            fill(&making.name, &making.request, now_ms, &making.image)
            messages[count].size = record_message(
                &making.image.extent, ENVELOPE_TERMS, making.name.text, making.name.length, messages[count].bytes
            )
            count += 1
    siphash128_group(region.header.directory_key, messages, count, checks)
    count = 0
    for i in range(size):
        if group[i].offset == 0:
            memcpy(group[i].image.check, &checks[count], 16)
            count += 1


cdef int make_one(Region region, Budget budget, Making *group, Py_ssize_t place) except -1 nogil:
    # Make one envelope of a group if it was not there, or look at the one that exists. Returns its Status.
    cdef Making *making = &group[place]
    cdef uint64_t available
    cdef Py_ssize_t i
    cdef int status
    for i in range(place):
        # An earlier envelope of the group may have the same name and was made just now. Without another look, space
        # would be taken for it twice.
        if making.offset == 0 and group[i].name.key.low == making.name.key.low:
            making.offset = child_find(region, budget, &making.name)
    if making.offset == 0:
        status = create(region, budget, &making.name, &making.image, &making.offset, &available)
        if status != REPEATED:
            return status
    return look_at(region, &making.name, <uint64_t>making.offset, &making.request)


cdef inline void draw_seed(Stream *stream, unsigned char *seed) noexcept nogil:
    # Take the next 32 bytes of the stream. The stream lasts for 2**33 seeds, which is more than a batch can have.
    cdef unsigned int word
    cdef int i
    for i in range(SEED_SIZE // 4):
        word = stream_word(stream)
        memcpy(seed + 4 * i, &word, 4)


cdef int look_at(Region region, const Name *name, uint64_t offset, const Request *request) except -1 nogil:
    # Return REPEATED if the envelope that exists is the one that is requested, else CONFLICT.
    cdef hb_envelope copy
    cdef unsigned char[NAME_LIMIT] text
    cdef const char *wrong = envelope_read(region, offset, &copy, text)
    if wrong != NULL:
        with gil:
            raise_damaged(region, name.text[:name.length].decode(), wrong)
    if is_as_requested(&copy.terms, request):
        return REPEATED
    return CONFLICT

budget_set_envelopes(get_envelope, create_envelopes)
