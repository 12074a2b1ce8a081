"""The laws by which an envelope is split: pure integer functions from terms to amounts, stratum by stratum.

``hbcore.reference`` has the same functions in plain Python, with the reasons and the sources; the two agree bit for
bit. Everything here works on private memory: safe in any thread, with or without the GIL.
"""
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from hbcore.stream cimport DOMAIN_ROTATION, DOMAIN_SPLIT, Stream, stream_below, stream_below32, stream_init, stream_shuffle
from hbcore.wide cimport hb_multiply_divide, hb_product_below

import numpy as np
from os import urandom

from hbcore.terms import envelope_terms, integer

cdef enum:
    EQUAL = 0
    DOUBLE_MEAN = 1
    DIRICHLET = 2
    REJECTION_CELLS = 512
    ROUNDS = 48
    CONCENTRATION_LIMIT = 64
    SMALL_SORT = 24


cdef bint terms_valid(const Terms *terms) noexcept nogil:
    # Terms may come from a file that somebody else has written: everything the laws rely on is checked here.
    if not (1 <= terms.total < <uint64_t>1 << 62 and 1 <= terms.packets < <uint64_t>1 << 40):
        return False
    if terms.law > DIRICHLET or not 1 <= terms.concentration <= CONCENTRATION_LIMIT:
        return False
    if not 1 <= terms.min <= terms.max <= terms.total:
        return False
    if terms.min > terms.total // terms.packets:
        return False
    return not hb_product_below(terms.packets, terms.max, terms.total)


cdef void terms_prepare(Terms *terms) noexcept nogil:
    cdef Stream stream
    terms.stratum_count = (terms.packets + STRATUM_SIZE - 1) // STRATUM_SIZE
    terms.stratum_size = terms.packets // terms.stratum_count
    terms.larger_count = terms.packets % terms.stratum_count
    terms.rotation = 0
    if terms.stratum_count > 1:
        stream_init(&stream, terms.seed, DOMAIN_ROTATION, 0)
        terms.rotation = stream_below(&stream, terms.packets)


cdef inline uint64_t share_before(const Terms *terms, uint64_t position) noexcept nogil:
    # floor(total * position / packets) without a product of 102 bits
    return (terms.total // terms.packets * position
            + hb_multiply_divide(terms.total % terms.packets, position, terms.packets))


cdef uint64_t stratum_share(const Terms *terms, uint64_t stratum) noexcept nogil:
    return share_before(terms, stratum_start(terms, stratum + 1)) - share_before(terms, stratum_start(terms, stratum))


cdef int split_stratum(const Terms *terms, uint64_t stratum, uint64_t *amounts) noexcept nogil:
    # Writes the amounts of one stratum by position, at most STRATUM_SIZE of them. Returns their number, or -1 if
    # there is no memory; terms must be valid.
    cdef Stream stream
    cdef uint32_t count = <uint32_t>(stratum_start(terms, stratum + 1) - stratum_start(terms, stratum))
    cdef uint64_t excess = stratum_share(terms, stratum) - count * terms.min
    cdef uint64_t cap = terms.max - terms.min
    cdef uint32_t i
    cdef int failed = 0
    if cap > excess:
        cap = excess
    stream_init(&stream, terms.seed, DOMAIN_SPLIT, stratum)
    if terms.law == EQUAL:
        split_equal(&stream, excess, count, amounts)
    elif terms.law == DOUBLE_MEAN:
        split_double_mean(&stream, excess, count, cap, amounts)
    else:
        failed = split_dirichlet(&stream, excess, count, cap, terms.concentration, amounts)
    if failed:
        return -1
    for i in range(count):
        amounts[i] += terms.min
    return <int>count


cdef void split_equal(Stream *stream, uint64_t excess, uint32_t count, uint64_t *shares) noexcept nogil:
    cdef uint64_t base = excess // count
    cdef uint32_t odd = <uint32_t>(excess % count)
    cdef uint32_t i
    for i in range(count):
        shares[i] = base + (1 if i < odd else 0)
    if odd:
        stream_shuffle(stream, shares, count)


cdef void split_double_mean(
    Stream *stream, uint64_t excess, uint32_t count, uint64_t cap, uint64_t *shares
) noexcept nogil:
    cdef uint64_t rest = excess
    cdef uint64_t low, high
    cdef uint32_t i, left
    for i in range(count - 1):
        left = count - i
        high = 2 * rest // left
        low = 0
        if cap < high:
            high = cap
        # low = max(0, rest - (left - 1) * cap), where the product may not fit in 64 bits
        if hb_product_below(left - 1, cap, rest):
            low = rest - (left - 1) * cap
        shares[i] = low + stream_below(stream, high - low + 1)
        rest -= shares[i]
    shares[count - 1] = rest
    stream_shuffle(stream, shares, count)


cdef int split_dirichlet(
    Stream *stream, uint64_t excess, uint32_t count, uint64_t cap, uint32_t concentration, uint64_t *shares
) noexcept nogil:
    # Returns 0, or -1 if there is no memory.
    cdef uint32_t cell_count = concentration * count
    cdef uint64_t target = excess
    cdef uint32_t attempt, i
    cdef bint mirrored = False
    cdef bint fits = False
    # cells, values, scratch and as many counters of 32 bits: see distinct()
    cdef uint64_t *cells = <uint64_t *>malloc((3 * <size_t>cell_count + cell_count + 8) * sizeof(uint64_t))
    if cells == NULL:
        return -1
    if cap < excess and concentration == 1 and hb_product_below(count, cap, 2 * excess):
        mirrored = True
        target = count * cap - excess
    for attempt in range(REJECTION_CELLS // cell_count if cell_count < REJECTION_CELLS else 1):
        composition(stream, target, cell_count, cells)
        sum_cells(cells, count, concentration, shares)
        fits = True
        for i in range(count):
            if shares[i] > cap:
                fits = False
                break
        if fits:
            break
    if not fits:
        resplit(stream, excess, count, cap, concentration, shares)
    elif mirrored:
        for i in range(count):
            shares[i] = cap - shares[i]
    free(cells)
    return 0


cdef inline void sum_cells(
    const uint64_t *cells, uint32_t count, uint32_t concentration, uint64_t *shares
) noexcept nogil:
    cdef uint32_t i, k
    cdef uint64_t share
    for i in range(count):
        share = 0
        for k in range(concentration):
            share += cells[i * concentration + k]
        shares[i] = share


cdef void composition(Stream *stream, uint64_t total, uint32_t parts, uint64_t *cells) noexcept nogil:
    # cells: parts results, then room for distinct()
    cdef uint64_t *places = cells + parts
    cdef uint64_t before
    cdef uint32_t i
    if parts == 1:
        cells[0] = total
        return
    if total >= parts - 1:
        distinct(stream, parts - 1, total + parts - 1, places)
        before = places[0]
        cells[0] = before
        for i in range(1, parts - 1):
            cells[i] = places[i] - before - 1
            before = places[i]
        cells[parts - 1] = total + parts - 2 - before
        return
    memset(cells, 0, parts * sizeof(uint64_t))
    distinct(stream, <uint32_t>total, total + parts - 1, places)
    for i in range(<uint32_t>total):
        cells[places[i] - i] += 1


cdef void distinct(Stream *stream, uint32_t count, uint64_t bound, uint64_t *values) noexcept nogil:
    # values: count results, then as many for the sort and half as many again for its counters.
    # At most half of the places are taken (composition sees to it), so each round at least halves what is missing in
    # the mean; like every rejection from a fair stream it ends, but no number of rounds can be promised.
    cdef uint32_t have = 0
    cdef uint32_t i, kept
    while have < count:
        for i in range(have, count):
            values[i] = stream_below(stream, bound)
        sort_below(values, count, bound, values + count)
        kept = 1
        for i in range(1, count):
            if values[i] != values[kept - 1]:
                values[kept] = values[i]
                kept += 1
        have = kept


cdef void sort_below(uint64_t *values, uint32_t count, uint64_t bound, uint64_t *scratch) noexcept nogil:
    # Values that are uniform below bound fall evenly into about count buckets by their high bits: one counting pass
    # leaves them nearly sorted, and insertion does the rest in linear time.
    cdef uint32_t *ends = <uint32_t *>(scratch + count)
    cdef unsigned int shift = 0
    cdef uint32_t bucket_count, i, bucket, total, size
    if count > SMALL_SORT:
        while (bound - 1) >> shift >= count:
            shift += 1
        bucket_count = <uint32_t>((bound - 1) >> shift) + 1
        memset(ends, 0, bucket_count * sizeof(uint32_t))
        for i in range(count):
            ends[values[i] >> shift] += 1
        total = 0
        for bucket in range(bucket_count):
            size = ends[bucket]
            ends[bucket] = total
            total += size
        for i in range(count):
            bucket = <uint32_t>(values[i] >> shift)
            scratch[ends[bucket]] = values[i]
            ends[bucket] += 1
        memcpy(values, scratch, count * sizeof(uint64_t))
    insertion_sort(values, count)


cdef inline void insertion_sort(uint64_t *values, uint32_t count) noexcept nogil:
    cdef uint32_t i, j
    cdef uint64_t value
    for i in range(1, count):
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


cdef void resplit(
    Stream *stream, uint64_t excess, uint32_t count, uint64_t cap, uint32_t concentration, uint64_t *shares
) noexcept nogil:
    cdef uint32_t i, round, fold
    for i in range(count):
        shares[i] = excess // count + (1 if i < excess % count else 0)
    for round in range(ROUNDS):
        fold = stream_below32(stream, count)
        resplit_folded(stream, shares, fold + 1, cap, concentration)
        resplit_folded(stream, shares + fold + 1, count - fold - 1, cap, concentration)
    stream_shuffle(stream, shares, count)


cdef inline void resplit_folded(
    Stream *stream, uint64_t *shares, uint32_t count, uint64_t cap, uint32_t concentration
) noexcept nogil:
    # The first meets the last, and so on inwards.
    cdef uint32_t i
    cdef uint64_t both
    for i in range(count // 2):
        both = shares[i] + shares[count - 1 - i]
        shares[i] = pair_share(stream, both, cap, concentration)
        shares[count - 1 - i] = both - shares[i]


cdef inline uint64_t pair_share(
    Stream *stream, uint64_t both, uint64_t cap, uint32_t concentration
) noexcept nogil:
    # Proposals are refused independently of each other with a probability under 9/10 (c = 64, no cap): no bound can be
    # written down.
    cdef uint64_t low = both - cap if both > cap else 0
    cdef uint64_t high = both if both < cap else cap
    cdef uint64_t half = both // 2
    cdef uint64_t other = both - half
    cdef uint64_t share, x
    cdef uint32_t k
    while True:
        share = low + stream_below(stream, high - low + 1)
        x = share if share < both - share else both - share
        for k in range(1, concentration):
            if stream_below(stream, half + k) < half - x and stream_below(stream, other + k) < other - x:
                break
        else:
            return share


cdef int terms_from_python(Terms *terms, object checked) except -1:
    # checked: hbcore.terms.Terms with a seed
    terms.total = checked.total
    terms.packets = checked.packets
    terms.min = checked.min
    terms.max = checked.max
    terms.law = checked.law
    terms.concentration = checked.concentration
    memcpy(terms.seed, <const unsigned char *><bytes>checked.seed, 32)
    terms_prepare(terms)
    return 0


def checked_terms(total, packets, law, min, max, concentration, seed):
    checked = envelope_terms(total, packets, law, min, max, concentration, seed)
    return checked if checked.seed is not None else checked._replace(seed=urandom(32))


def split(total, packets, law="double_mean", min=1, max=None, concentration=3, seed=None):
    """Return the amounts of all packets of an envelope, by packet number: an int64 array of ``packets`` amounts.

    The same pure function of the terms that envelopes use, so an auditor who knows the seed can recompute every
    amount. ``seed=None`` draws a fresh one. Arguments and errors are those of ``Engine.envelope``.
    """
    checked = checked_terms(total, packets, law, min, max, concentration, seed)
    amounts = np.empty(checked.packets, np.int64)
    cdef Terms terms
    cdef Py_buffer view
    cdef int64_t *by_packet
    cdef uint64_t stratum, start
    cdef uint64_t shares[STRATUM_SIZE]
    cdef int count = 0
    cdef int i
    terms_from_python(&terms, checked)
    PyObject_GetBuffer(amounts, &view, PyBUF_WRITABLE)
    by_packet = <int64_t *>view.buf
    with nogil:
        for stratum in range(terms.stratum_count):
            count = split_stratum(&terms, stratum, shares)
            if count < 0:
                break
            start = stratum_start(&terms, stratum)
            for i in range(count):
                by_packet[packet_at(&terms, start + i)] = <int64_t>shares[i]
    PyBuffer_Release(&view)
    if count < 0:
        raise MemoryError(f"no memory to split an envelope of {packets} packets")
    return amounts


def packet_amount(packet, total, packets, law="double_mean", min=1, max=None, concentration=3, seed=None):
    """Return the amount of one packet, as ``split`` would give it, from its stratum alone: O(1) in ``packets``.

    Raises:
        TypeError, ValueError: as ``split``, or ``packet`` is not an integer within ``0 .. packets - 1``.
    """
    checked = checked_terms(total, packets, law, min, max, concentration, seed)
    cdef uint64_t packet_number = integer("packet", packet, 0, checked.packets - 1)
    cdef Terms terms
    cdef uint64_t position, stratum
    cdef uint64_t shares[STRATUM_SIZE]
    terms_from_python(&terms, checked)
    position = position_of(&terms, packet_number)
    stratum = stratum_of(&terms, position)
    if split_stratum(&terms, stratum, shares) < 0:
        raise MemoryError(f"no memory to split an envelope of {packets} packets")
    return shares[position - stratum_start(&terms, stratum)]
