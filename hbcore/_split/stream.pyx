"""The keyed random stream: ChaCha20 (RFC 8439, Bernstein 2008) and unbiased integers drawn from it.

The nonce is the domain (4 bytes, little-endian) and a 64-bit index, so every stratum of every envelope has a stream of
its own under the envelope's seed. The functions are pure and work on private memory, so they are safe in any thread.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from "chacha.h" nogil:
    int hb_chacha20_best() noexcept
    void hb_chacha20(int instructions, const uint32_t *start, uint32_t *words) noexcept
    void hb_chacha20_block(const uint32_t *start, uint32_t *words) noexcept


cdef void stream_init(Stream *stream, const unsigned char *seed, uint32_t domain, uint64_t index) noexcept nogil:
    # Begin a stream under a seed of 32 bytes. Words are little-endian, as is every machine that hbcore runs on
    # (opening.pyx refuses a file of another byte order).
    stream.start[0] = 0x61707865
    stream.start[1] = 0x3320646E
    stream.start[2] = 0x79622D32
    stream.start[3] = 0x6B206574
    memcpy(&stream.start[4], seed, 32)
    stream.start[12] = 0
    stream.start[13] = domain
    stream.start[14] = <uint32_t>index
    stream.start[15] = <uint32_t>(index >> 32)
    stream.is_short = False
    stream.next = WORDS_PER_FILL


cdef void stream_refill(Stream *stream) noexcept nogil:
    # The 32-bit counter would wrap after 256 GiB of one stratum's stream; the largest draws a few MiB.
    if stream.is_short:
        stream.next = WORDS_PER_FILL - WORDS_PER_BLOCK
        hb_chacha20_block(stream.start, &stream.buffer[stream.next])
        stream.start[12] += 1
    else:
        hb_chacha20(hb_chacha20_best(), stream.start, stream.buffer)
        stream.start[12] += WORDS_PER_FILL // WORDS_PER_BLOCK
        stream.next = 0


def keystream(
    bytes seed not None, unsigned int domain, unsigned long long index, unsigned int word_count, bint is_short=False
):
    """Return the first ``word_count`` 32-bit words of a stream: for tests against the vectors of RFC 8439."""
    if len(seed) != 32:
        raise ValueError(f"seed must be 32 bytes, not {len(seed)}")
    cdef Stream stream
    stream_init(&stream, seed, domain, index)
    stream.is_short = is_short
    return [stream_word(&stream) for _ in range(word_count)]


def first_fill(bytes seed not None, unsigned int domain, unsigned long long index, int instructions):
    """Return the first 128 words of a stream by one of the instruction sets of chacha.h (0: what any machine has).

    For tests. Raises ValueError for one that this processor does not have.
    """
    if len(seed) != 32:
        raise ValueError(f"seed must be 32 bytes, not {len(seed)}")
    if not 0 <= instructions <= hb_chacha20_best():
        raise ValueError(f"instructions must be within 0 .. {hb_chacha20_best()} here, not {instructions}")
    cdef Stream stream
    stream_init(&stream, seed, domain, index)
    hb_chacha20(instructions, stream.start, stream.buffer)
    return [stream.buffer[i] for i in range(WORDS_PER_FILL)]


def draws(bytes seed not None, unsigned int domain, unsigned long long index, bounds):
    """Return one unbiased integer below each of ``bounds`` (1 .. 2**64 - 1): for tests against the reference."""
    if len(seed) != 32:
        raise ValueError(f"seed must be 32 bytes, not {len(seed)}")
    cdef Stream stream
    cdef uint64_t bound
    stream_init(&stream, seed, domain, index)
    values = []
    for value in bounds:
        bound = value
        if bound == 0:
            raise ValueError("bound must be at least 1, not 0")
        values.append(stream_below(&stream, bound))
    return values


def shuffled(bytes seed not None, unsigned int domain, unsigned long long index, unsigned int count):
    """Return ``0 .. count - 1`` shuffled; ``count`` is 1 .. 1,024: for tests against the reference."""
    if len(seed) != 32:
        raise ValueError(f"seed must be 32 bytes, not {len(seed)}")
    if not 1 <= count <= 1024:
        raise ValueError(f"count must be within 1 .. 1024, not {count}")
    cdef Stream stream
    cdef uint64_t values[1024]
    cdef unsigned int i
    for i in range(count):
        values[i] = i
    stream_init(&stream, seed, domain, index)
    stream_shuffle(&stream, values, count)
    return [values[i] for i in range(count)]
