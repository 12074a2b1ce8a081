# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The limit of a single claim: a method of the same signature that does all the memory work of one, and nothing else.

It reads the user, hashes it (SipHash-2-4, 128 bits), reads the clock, fetches the word of the index ahead, takes the
next record, writes the key there, publishes it in the index, marks the record, each of the three by a compare-and-swap,
and returns a new object. It asks nothing: who the user is, whether the user was here before, whether anything is left,
whether another thread is at work, what a packet is worth, or whether all that is damaged.
"""
cimport cython
from cpython.long cimport PyLong_AsLongLong
from libc.stdint cimport int64_t, uint64_t

from hbcore._file.clock cimport hb_now_ms
from hbcore._lib.atomics cimport hb_cas, hb_load_acquire, hb_prefetch_write
from hbcore._lib.wide cimport hb_multiply

cdef extern from *:
    """
    #define STUB_ROTATE(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))
    static inline void stub_round(uint64_t *v)
    {
        v[0] += v[1]; v[1] = STUB_ROTATE(v[1], 13) ^ v[0]; v[0] = STUB_ROTATE(v[0], 32);
        v[2] += v[3]; v[3] = STUB_ROTATE(v[3], 16) ^ v[2];
        v[0] += v[3]; v[3] = STUB_ROTATE(v[3], 21) ^ v[0];
        v[2] += v[1]; v[1] = STUB_ROTATE(v[1], 17) ^ v[2]; v[2] = STUB_ROTATE(v[2], 32);
    }
    static inline void stub_hash(uint64_t number, uint64_t *low, uint64_t *high)
    {
        uint64_t v[4] = {UINT64_C(0x736F6D6570736576), UINT64_C(0x646F72616E646F81), UINT64_C(0x6C7967656E657262),
                         UINT64_C(0x7465646279746571)};
        uint64_t blocks[2] = {number, UINT64_C(9) << 56};
        for (int i = 0; i < 2; i++) {
            v[3] ^= blocks[i];
            stub_round(v);
            stub_round(v);
            v[0] ^= blocks[i];
        }
        v[2] ^= 0xEE;
        for (int i = 0; i < 4; i++)
            stub_round(v);
        *low = v[0] ^ v[1] ^ v[2] ^ v[3];
        v[1] ^= 0xDD;
        for (int i = 0; i < 4; i++)
            stub_round(v);
        *high = v[0] ^ v[1] ^ v[2] ^ v[3];
    }
    """
    void stub_hash(uint64_t number, uint64_t *low, uint64_t *high) noexcept nogil

cdef enum:
    RECORD_WORDS = 4
    TAKEN = 77


@cython.final
@cython.freelist(64)
cdef class StubClaim:
    cdef readonly int64_t amount
    cdef readonly int64_t packet
    cdef readonly int status


@cython.final
cdef class StubEnvelope:
    """An index and four words for each record, in arrays of 64-bit zeros."""

    cdef uint64_t *index
    cdef uint64_t *records
    cdef uint64_t word_count
    cdef uint64_t next
    cdef object arrays      # which keep the memory

    def __init__(self, index, records):
        self.arrays = index, records
        self.index = <uint64_t *><size_t>index.ctypes.data
        self.records = <uint64_t *><size_t>records.ctypes.data
        self.word_count = <uint64_t>len(index)

    def claim(self, user, /, nth=0):
        """Return a new claim of the next record."""
        cdef uint64_t low, high, at, now_ms, packet, unused
        cdef uint64_t *record
        cdef StubClaim claim
        stub_hash(<uint64_t>PyLong_AsLongLong(user), &low, &high)
        at = hb_multiply(low, self.word_count, &unused)
        hb_prefetch_write(&self.index[at])
        now_ms = hb_now_ms()
        packet = self.next
        self.next += 1
        record = self.records + RECORD_WORDS * packet
        while hb_load_acquire(&self.index[at]) != 0:
            at = at + 1 if at + 1 < self.word_count else 0
        hb_cas(record, 0, TAKEN)
        record[1] = low
        record[2] = high
        while not hb_cas(&self.index[at], 0, packet + 1):
            at = at + 1 if at + 1 < self.word_count else 0
        hb_cas(record, TAKEN, now_ms)
        claim = StubClaim.__new__(StubClaim)
        claim.amount = 100
        claim.packet = <int64_t>packet
        return claim
