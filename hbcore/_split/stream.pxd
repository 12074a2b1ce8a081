# The keyed random stream: ChaCha20 (RFC 8439) and unbiased integers drawn from it.
from libc.stdint cimport uint32_t, uint64_t

from hbcore._lib.wide cimport hb_multiply

cdef enum:
    WORDS_PER_FILL = 128    # eight blocks, which chacha.h computes side by side
    WORDS_PER_BLOCK = 16

cdef enum:
    DOMAIN_SPLIT = 0
    DOMAIN_ROTATION = 1


cdef enum:
    SHUFFLE_STEPS = 6


cdef struct Stream:
    uint32_t start[16]      # the state of RFC 8439, section 2.3: constants, key, counter, nonce
    bint is_short           # little is drawn: the buffer is filled by one block at a time, at its end
    unsigned int next       # index of the first word of the buffer that has not been drawn
    uint32_t buffer[WORDS_PER_FILL]


cdef void stream_init(Stream *stream, const unsigned char *seed, uint32_t domain, uint64_t index) noexcept nogil
cdef void stream_refill(Stream *stream) noexcept nogil


cdef inline uint32_t stream_word(Stream *stream) noexcept nogil:
    if stream.next == WORDS_PER_FILL:
        stream_refill(stream)
    cdef uint32_t word = stream.buffer[stream.next]
    stream.next += 1
    return word


cdef inline uint32_t stream_below32(Stream *stream, uint32_t bound) noexcept nogil:
    # Return a uniform integer below `bound` (Lemire 2019): the high half of word * bound is uniform once low halves
    # under 2**32 % bound are refused. The refusals are a chain of independent events of probability under 1/2, so no
    # bound on their number can be written down.
    cdef uint64_t product = <uint64_t>stream_word(stream) * bound
    cdef uint32_t refused
    if <uint32_t>product < bound:
        refused = <uint32_t>(-bound) % bound
        while <uint32_t>product < refused:
            product = <uint64_t>stream_word(stream) * bound
    return <uint32_t>(product >> 32)


cdef inline uint64_t stream_below(Stream *stream, uint64_t bound) noexcept nogil:
    # Return a uniform integer below `bound`, which is at least 1. A try draws one word for bounds up to 2**32, else
    # two, the low one first.
    cdef uint64_t word, low, high, refused
    if bound < <uint64_t>1 << 32:
        return stream_below32(stream, <uint32_t>bound)
    if bound == <uint64_t>1 << 32:
        return stream_word(stream)
    word = stream_word(stream)
    word |= <uint64_t>stream_word(stream) << 32
    high = hb_multiply(word, bound, &low)
    if low < bound:
        refused = (0 - bound) % bound
        while low < refused:
            word = stream_word(stream)
            word |= <uint64_t>stream_word(stream) << 32
            high = hb_multiply(word, bound, &low)
    return high


cdef inline void stream_fill_below(Stream *stream, uint64_t *values, uint32_t count, uint64_t bound) noexcept nogil:
    # Draw the next `count` integers below `bound`, as stream_below would draw them.
    cdef uint32_t have = 0
    cdef uint32_t i, word_count, refused
    cdef uint64_t product
    if bound > <uint32_t>-1:
        for i in range(count):
            values[i] = stream_below(stream, bound)
        return
    refused = <uint32_t>(-<uint32_t>bound) % <uint32_t>bound
    while have < count:
        if stream.next == WORDS_PER_FILL:
            stream_refill(stream)
        word_count = WORDS_PER_FILL - stream.next
        if word_count > count - have:
            word_count = count - have
        # A refused value is overwritten by the next. The position in the stream is kept out of the loop, where it
        # would be written and read back for every word.
        for i in range(stream.next, stream.next + word_count):
            product = stream.buffer[i] * bound
            values[have] = product >> 32
            have += <uint32_t>product >= refused
        stream.next += word_count


cdef inline uint64_t stream_fraction(Stream *stream, uint64_t bound) noexcept nogil:
    # Return a 64-bit fraction of one that, multiplied by bound (1 <= bound), has a uniform integer part. The words and
    # the refusals are the same as in stream_below.
    cdef uint64_t word, refused
    if bound <= <uint64_t>1 << 32:
        word = stream_word(stream)
        if <uint32_t>(word * bound) < bound:
            refused = (<uint64_t>1 << 32) % bound
            while <uint32_t>(word * bound) < refused:
                word = stream_word(stream)
        return word << 32
    word = stream_word(stream)
    word |= <uint64_t>stream_word(stream) << 32
    if word * bound < bound:
        refused = (0 - bound) % bound
        while word * bound < refused:
            word = stream_word(stream)
            word |= <uint64_t>stream_word(stream) << 32
    return word


cdef inline void stream_shuffle(Stream *stream, uint64_t *values, uint32_t count) noexcept nogil:
    # Shuffle (Fisher and Yates) from the last value to the second; count is at most 1,024. One fraction serves
    # SHUFFLE_STEPS steps, as the digits of an integer in mixed radix (Brackett-Rozinsky and Lemire 2024). The product
    # of their bounds is below 2**60.
    cdef uint32_t last = count - 1
    cdef uint32_t steps, i, j
    cdef uint64_t bound, fraction, value
    while last > 0:
        steps = SHUFFLE_STEPS if last > SHUFFLE_STEPS else last
        bound = 1
        for i in range(last, last - steps, -1):
            bound *= i + 1
        fraction = stream_fraction(stream, bound)
        for i in range(last, last - steps, -1):
            j = <uint32_t>hb_multiply(fraction, i + 1, &fraction)
            value = values[i]
            values[i] = values[j]
            values[j] = value
        last -= steps
