"""The keyed random stream: ChaCha20 (RFC 8439, Bernstein 2008) and unbiased integers drawn from it.

The nonce is the domain (4 bytes, little-endian) and a 64-bit index, so every stratum of every envelope has a stream of
its own under the envelope's seed. Pure functions on private memory: safe in any thread.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline void quarter_round(uint32_t (*x)[LANES], int a, int b, int c, int d) noexcept nogil:
    # One quarter round on LANES blocks at once; each loop is one vector instruction or two.
    cdef int lane
    for lane in range(LANES):
        x[a][lane] += x[b][lane]
        x[d][lane] ^= x[a][lane]
        x[d][lane] = (x[d][lane] << 16) | (x[d][lane] >> 16)
        x[c][lane] += x[d][lane]
        x[b][lane] ^= x[c][lane]
        x[b][lane] = (x[b][lane] << 12) | (x[b][lane] >> 20)
        x[a][lane] += x[b][lane]
        x[d][lane] ^= x[a][lane]
        x[d][lane] = (x[d][lane] << 8) | (x[d][lane] >> 24)
        x[c][lane] += x[d][lane]
        x[b][lane] ^= x[c][lane]
        x[b][lane] = (x[b][lane] << 7) | (x[b][lane] >> 25)


cdef void stream_init(Stream *stream, const unsigned char *seed, uint32_t domain, uint64_t index) noexcept nogil:
    # seed: 32 bytes. Words are little-endian, as is every machine that hbcore runs on (region.pyx checks).
    stream.start[0] = 0x61707865
    stream.start[1] = 0x3320646E
    stream.start[2] = 0x79622D32
    stream.start[3] = 0x6B206574
    memcpy(&stream.start[4], seed, 32)
    stream.start[12] = 0
    stream.start[13] = domain
    stream.start[14] = <uint32_t>index
    stream.start[15] = <uint32_t>(index >> 32)
    stream.next = WORDS_PER_FILL


cdef void stream_refill(Stream *stream) noexcept nogil:
    # The 32-bit counter would wrap after 256 GiB of one stratum's stream; the largest draws a few MiB.
    cdef uint32_t x[16][LANES]
    cdef int i, lane, turn
    for i in range(16):
        for lane in range(LANES):
            x[i][lane] = stream.start[i]
    for lane in range(LANES):
        x[12][lane] += <uint32_t>lane
    for turn in range(10):
        quarter_round(x, 0, 4, 8, 12)
        quarter_round(x, 1, 5, 9, 13)
        quarter_round(x, 2, 6, 10, 14)
        quarter_round(x, 3, 7, 11, 15)
        quarter_round(x, 0, 5, 10, 15)
        quarter_round(x, 1, 6, 11, 12)
        quarter_round(x, 2, 7, 8, 13)
        quarter_round(x, 3, 4, 9, 14)
    for lane in range(LANES):
        for i in range(16):
            stream.buffer[lane * 16 + i] = x[i][lane] + stream.start[i] + (<uint32_t>lane if i == 12 else 0)
    stream.start[12] += LANES
    stream.next = 0


def keystream(bytes seed not None, unsigned int domain, unsigned long long index, unsigned int word_count):
    """Return the first ``word_count`` 32-bit words of a stream: for tests against the vectors of RFC 8439."""
    if len(seed) != 32:
        raise ValueError(f"seed must be 32 bytes, not {len(seed)}")
    cdef Stream stream
    stream_init(&stream, seed, domain, index)
    return [stream_word(&stream) for _ in range(word_count)]


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
