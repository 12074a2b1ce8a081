"""The laws by which an envelope is split: pure integer functions from terms to amounts, stratum by stratum.

``hbcore.reference`` has the same functions in plain Python, with the reasons and the sources; the two agree bit for
bit. Everything here works on private memory, so it is safe in any thread, with or without the GIL.
"""
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from hbcore._lib.limits cimport CONCENTRATION_LIMIT, PACKET_LIMIT, SEED_SIZE, TOTAL_LIMIT
from hbcore._lib.wide cimport hb_lowest_bit, hb_multiply, hb_multiply_divide, hb_product_below
from hbcore._split.stream cimport (
    DOMAIN_ROTATION, DOMAIN_SPLIT, Stream, stream_below, stream_below32, stream_fill_below, stream_init, stream_shuffle,
)

import numpy as np
from os import urandom

from hbcore.terms import LAWS as _LAWS, Terms as CheckedTerms, envelope_terms, integer

cdef tuple LAWS = _LAWS

cdef enum:
    EQUAL = 0
    DOUBLE_MEAN = 1
    DIRICHLET = 2
    REJECTION_CELLS = 512
    ROUNDS = 48
    SMALL_SORT = 24
    MAP_BITS = 40           # places for each value; from about so many on, sorting is faster than a map (measured)
    STACK_PLACES = 1024
    SHORT_COUNT = 16        # amounts that are drawn from one block or two, most of the time


cdef bint terms_valid(const hb_terms *terms) noexcept nogil:
    # Terms may come from a file that somebody else has written: everything the laws rely on is checked here.
    if not (1 <= terms.total < <uint64_t>TOTAL_LIMIT and 1 <= terms.packets < PACKET_LIMIT):
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
    terms.stratum_count = strata_of(terms.packets)
    terms.stratum_size = terms.packets // terms.stratum_count
    terms.larger_count = terms.packets % terms.stratum_count
    terms.rotation = 0
    if terms.stratum_count > 1:
        stream_init(&stream, terms.seed, DOMAIN_ROTATION, 0)
        terms.rotation = stream_below(&stream, terms.packets)


cdef inline uint64_t share_before(const Terms *terms, uint64_t position) noexcept nogil:
    # Return floor(total * position / packets), without a product of 102 bits.
    return (terms.total // terms.packets * position
            + hb_multiply_divide(terms.total % terms.packets, position, terms.packets))


cdef uint64_t stratum_share(const Terms *terms, uint64_t stratum) noexcept nogil:
    return share_before(terms, stratum_start(terms, stratum + 1)) - share_before(terms, stratum_start(terms, stratum))


cdef int split_stratum(const Terms *terms, uint64_t stratum, uint64_t *amounts) noexcept nogil:
    # Write the amounts of one stratum by position, at most STRATUM_SIZE of them. Return their number, or -1 if there is
    # no memory. The terms must be valid.
    cdef Stream stream
    cdef uint32_t count = <uint32_t>(stratum_start(terms, stratum + 1) - stratum_start(terms, stratum))
    cdef uint64_t excess = stratum_share(terms, stratum) - count * terms.min
    cdef uint64_t cap = terms.max - terms.min
    cdef uint32_t i
    cdef int failed = 0
    if cap > excess:
        cap = excess
    stream_init(&stream, terms.seed, DOMAIN_SPLIT, stratum)
    stream.is_short = count <= SHORT_COUNT
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


# RECIPROCALS[divisor] is 2**64 / divisor, rounded up, from 2 on. The table is filled at import and only read from then
# on.
cdef uint64_t RECIPROCALS[STRATUM_SIZE + 1]
cdef int divisor
for divisor in range(2, STRATUM_SIZE + 1):
    RECIPROCALS[divisor] = <uint64_t>-1 // <uint64_t>divisor + 1


cdef inline uint64_t twice_mean(uint64_t rest, uint32_t left) noexcept nogil:
    # Return floor(2 * rest / left), without the division of 64 bits that would take up to half of the law's time. The
    # reciprocal is too large by less than 2**-64, and the quotient by less than 2 * rest / 2**64. For the floor to be
    # wrong, the quotient would have to be too large by 1 / left, which is at least 2**-10. So the floor is exact where
    # 2 * rest is below 2**54.
    cdef uint64_t low
    if 2 * rest < <uint64_t>1 << 54:
        return hb_multiply(2 * rest, RECIPROCALS[left], &low)
    return 2 * rest // left


cdef void split_double_mean(
    Stream *stream, uint64_t excess, uint32_t count, uint64_t cap, uint64_t *shares
) noexcept nogil:
    cdef uint64_t rest = excess
    cdef uint64_t low, high
    cdef uint32_t i, left
    for i in range(count - 1):
        left = count - i
        high = twice_mean(rest, left)
        low = 0
        if cap < high:
            high = cap
        # low is max(0, rest - (left - 1) * cap), where the product may not fit in 64 bits.
        if hb_product_below(left - 1, cap, rest):
            low = rest - (left - 1) * cap
        shares[i] = low + stream_below(stream, high - low + 1)
        rest -= shares[i]
    shares[count - 1] = rest
    stream_shuffle(stream, shares, count)


cdef int split_dirichlet(
    Stream *stream, uint64_t excess, uint32_t count, uint64_t cap, uint32_t concentration, uint64_t *shares
) noexcept nogil:
    # Split the excess by the law dirichlet. Return 0, or -1 if there is no memory.
    cdef uint32_t cell_count = concentration * count
    cdef uint64_t target = excess
    cdef uint32_t attempts = REJECTION_CELLS // cell_count if cell_count < REJECTION_CELLS else 1
    cdef bint mirrored = False
    cdef uint32_t i
    cdef uint64_t stack_places[STACK_PLACES]
    cdef uint64_t *places = stack_places
    # distinct() says how much room it needs.
    if 3 * cell_count > STACK_PLACES:
        places = <uint64_t *>malloc(3 * <size_t>cell_count * sizeof(uint64_t))
        if places == NULL:
            return -1
    if cap < excess and concentration == 1 and hb_product_below(count, cap, 2 * excess):
        mirrored = True
        target = count * cap - excess
    while attempts > 0:
        composition(stream, target, count, concentration, places, shares)
        if cap >= excess or below_all(shares, count, cap):
            break
        attempts -= 1
    if places != stack_places:
        free(places)
    if attempts == 0:
        resplit(stream, excess, count, cap, concentration, shares)
    elif mirrored:
        for i in range(count):
            shares[i] = cap - shares[i]
    return 0


cdef inline bint below_all(const uint64_t *shares, uint32_t count, uint64_t cap) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if shares[i] > cap:
            return False
    return True


cdef void composition(
    Stream *stream, uint64_t total, uint32_t count, uint32_t concentration, uint64_t *places, uint64_t *shares
) noexcept nogil:
    # Do what the reference's composition and sum_cells do, in one: only every concentration-th bar is looked at.
    cdef uint32_t parts = count * concentration
    cdef uint64_t before = 0
    cdef uint64_t bar
    cdef uint32_t i, share, next_share
    if parts == 1:
        shares[0] = total
        return
    if total >= parts - 1:
        distinct(stream, parts - 1, total + parts - 1, places)
        # Between two bars of one share lie c cells and c - 1 bars. Places count from 1 here, so that the place before
        # the first is 0.
        for i in range(count - 1):
            bar = places[(i + 1) * concentration - 1] + 1
            shares[i] = bar - before - concentration
            before = bar
        shares[count - 1] = total + parts - before - concentration
        return
    memset(shares, 0, count * sizeof(uint64_t))
    distinct(stream, <uint32_t>total, total + parts - 1, places)
    share = 0
    next_share = concentration
    for i in range(<uint32_t>total):
        while places[i] - i >= next_share:
            share += 1
            next_share += concentration
        shares[share] += 1


cdef void distinct(Stream *stream, uint32_t count, uint64_t bound, uint64_t *values) noexcept nogil:
    # Draw `count` distinct values below `bound`, in ascending order. `values` has room for them, and behind them for
    # twice as many words, which the sort and its counters need, or the map. At most half of the places are taken
    # (composition sees to it), so that each missing value costs at most two draws in the mean. Like every rejection
    # from a fair stream this ends, but no number of draws can be promised.
    cdef uint32_t have, i
    if bound <= MAP_BITS * <uint64_t>count:
        distinct_by_map(stream, count, bound, values, values + count)
        return
    stream_fill_below(stream, values, count, bound)
    sort_below(values, count, bound, values + count)
    have = 1
    for i in range(1, count):
        if values[i] != values[have - 1]:
            values[have] = values[i]
            have += 1
    while have < count:
        have += insert_new(values, have, stream_below(stream, bound))


cdef void distinct_by_map(
    Stream *stream, uint32_t count, uint64_t bound, uint64_t *values, uint64_t *bits
) noexcept nogil:
    cdef uint32_t word_count = <uint32_t>(bound // 64) + 1
    cdef uint32_t have = 0
    cdef uint32_t i, value
    cdef uint64_t word
    memset(bits, 0, word_count * sizeof(uint64_t))
    while have < count:
        value = stream_below32(stream, <uint32_t>bound)
        word = bits[value // 64]
        bits[value // 64] = word | <uint64_t>1 << value % 64
        have += 1 - <uint32_t>(word >> value % 64 & 1)
    have = 0
    for i in range(word_count):
        word = bits[i]
        while word != 0:
            values[have] = 64 * i + hb_lowest_bit(word)
            have += 1
            word &= word - 1


cdef inline uint32_t insert_new(uint64_t *values, uint32_t count, uint64_t value) noexcept nogil:
    # Insert a value into `count` sorted ones if it is not among them. Return how many were inserted.
    cdef uint32_t low = 0
    cdef uint32_t high = count
    cdef uint32_t middle
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    if low < count and values[low] == value:
        return 0
    memmove(values + low + 1, values + low, (count - low) * sizeof(uint64_t))
    values[low] = value
    return 1


cdef void sort_below(uint64_t *values, uint32_t count, uint64_t bound, uint64_t *scratch) noexcept nogil:
    # Sort values that are uniform below bound. They fall evenly into count to 2 * count buckets by their high bits: one
    # counting pass leaves them nearly sorted, and insertion does the rest in linear time.
    cdef uint32_t *ends = <uint32_t *>(scratch + count)
    cdef unsigned int shift = 0
    cdef uint32_t bucket_count, i, bucket, total, size
    if count > SMALL_SORT:
        while (bound - 1) >> shift >= 2 * count:
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
    cdef uint32_t i, _round, fold
    for i in range(count):
        shares[i] = excess // count + (1 if i < excess % count else 0)
    for _round in range(<uint32_t>ROUNDS):
        fold = stream_below32(stream, count)
        resplit_folded(stream, shares, fold + 1, cap, concentration)
        resplit_folded(stream, shares + fold + 1, count - fold - 1, cap, concentration)
    stream_shuffle(stream, shares, count)


cdef inline void resplit_folded(
    Stream *stream, uint64_t *shares, uint32_t count, uint64_t cap, uint32_t concentration
) noexcept nogil:
    # Split shares anew in pairs: the first is paired with the last, and so on inwards.
    cdef uint32_t i
    cdef uint64_t both
    for i in range(count // 2):
        both = shares[i] + shares[count - 1 - i]
        shares[i] = pair_share(stream, both, cap, concentration)
        shares[count - 1 - i] = both - shares[i]


cdef inline uint64_t pair_share(
    Stream *stream, uint64_t both, uint64_t cap, uint32_t concentration
) noexcept nogil:
    # Draw the first share of a pair anew. Proposals are refused independently of each other with a probability under
    # 9/10 (c = 64, no cap), so no bound on their number can be written down.
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


cdef int terms_read(hb_terms *terms, object checked) except -1:
    # Write `checked`, an hbcore.terms.Terms, to `terms`. If it has no seed, that of `terms` is left as it is.
    terms.total = checked.total
    terms.packets = checked.packets
    terms.min = checked.min
    terms.max = checked.max
    terms.law = LAWS.index(checked.law)
    terms.concentration = checked.concentration
    terms.expires_at_ms = checked.expires_at_ms
    terms.hold_ms = checked.hold_ms
    terms.per_user = checked.per_user
    terms.max_packets = checked.max_packets
    if checked.seed is not None:
        memcpy(terms.seed, <const unsigned char *><bytes>checked.seed, SEED_SIZE)
    return 0


cdef object terms_as_python(const hb_terms *terms, bint has_seed):
    return CheckedTerms(
        total=terms.total,
        packets=terms.packets,
        law=LAWS[terms.law],
        min=terms.min,
        max=terms.max,
        concentration=terms.concentration,
        seed=terms.seed[:SEED_SIZE] if has_seed else None,
        expires_at_ms=terms.expires_at_ms,
        per_user=terms.per_user,
        hold_ms=terms.hold_ms,
        max_packets=terms.max_packets,
    )


cdef int terms_from_python(Terms *terms, object checked) except -1:
    # Write `checked`, an hbcore.terms.Terms with a seed, to `terms`, and prepare them.
    terms_read(&terms.given, checked)
    terms_prepare(terms)
    return 0


def checked_terms(total, packets, law, min, max, concentration, seed):
    """Check the parameters of a split and return them as ``Terms``, with a fresh seed where there is none.

    Raises:
        TypeError, ValueError: as ``split``.

    Examples:
        >>> terms = hbcore.law.checked_terms(20_000, 50, "equal", 1, None, 3, None)
        >>> terms.max, len(terms.seed)
        (20000, 32)
    """
    checked = envelope_terms(total, packets, law, min, max, concentration, seed)
    return checked if checked.seed is not None else checked._replace(seed=urandom(32))


def split(total, packets, law="double_mean", min=1, max=None, concentration=3, seed=None):
    """Return the amounts of all packets of an envelope, by packet number.

    The function is pure and the same that envelopes use, so an auditor who knows the seed can recompute every amount.
    Safe in any thread; the split runs without the GIL.

    Args:
        total: sum of the packets in minor units, 1 .. 2**62 - 1.
        packets: number of packets, 1 .. 2**40 - 1.
        law: ``"equal"``, ``"double_mean"`` or ``"dirichlet"``.
        min: least amount of a packet in minor units.
        max: greatest amount of a packet in minor units; None: no bound but the total.
        concentration: parameter of ``dirichlet``, 1 .. 64. With 1 every split is equally likely; a greater number is
            gentler.
        seed: 32 bytes that fix the amounts; None draws them from the operating system.

    Returns:
        An int64 array of shape (packets,), in minor units.

    Raises:
        TypeError, ValueError: an argument is bad; the message names it.
        MemoryError: no memory for so many packets.

    Examples:
        >>> hbcore.split(100, 4, "equal").tolist()
        [25, 25, 25, 25]
        >>> amounts = hbcore.split(20_000, 50, seed=bytes(32))
        >>> int(amounts.sum()), (amounts == hbcore.split(20_000, 50, seed=bytes(32))).all().item()
        (20000, True)
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

    Args:
        packet: number of the packet, 0 .. packets - 1.
        total: as of ``split``, and so are the others.
        packets: number of packets.
        law: name of the law.
        min: least amount of a packet.
        max: greatest amount of a packet, or None.
        concentration: parameter of ``dirichlet``.
        seed: 32 bytes; without them the amount is one of a fresh split.

    Returns:
        The amount in minor units.

    Raises:
        TypeError, ValueError: as ``split``, or ``packet`` is not an integer within ``0 .. packets - 1``.
        MemoryError: no memory to split the stratum.

    Examples:
        >>> amounts = hbcore.split(20_000, 50, seed=bytes(32))
        >>> hbcore.law.packet_amount(7, 20_000, 50, seed=bytes(32)) == int(amounts[7])
        True
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
