# The mapping of one engine, in memory or in a file, with its space and this process's place among its workers.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from hbcore._file.format cimport HB_GRAIN, hb_extent, hb_header
from hbcore._file.process cimport hb_file, hb_presence
from hbcore._keys.user cimport HashKey, UserKey
from hbcore._lib.atomics cimport hb_load_once, hb_load_private

cdef enum:
    WORKERS_OFFSET = 4096
    DIRECTORY_OFFSET = 4096 + 1024 * 64         # header, workers
    FIRST_EXTENT = 4096 + 1024 * 64 + 512 * 64  # header, workers, the first level of the directory
    SPACE_FULL = -1         # allocate: the capacity is used up
    SPACE_DISK = -2         # allocate: the disk is full, or an error of the file system (errno)
    SPACE_CORRUPT = -3      # allocate: the chain of extents makes no sense
    SPACE_CLOSED = -4       # allocate: the process has closed the file's descriptor
    CHAIN_END = 0           # next_extent: there is no further extent
    CHAIN_EXTENT = 1        # next_extent: an extent was found
    CHAIN_BROKEN = -1       # next_extent: the chain of extents makes no sense


cdef class Region:
    cdef char *base
    cdef uint64_t capacity
    cdef uint64_t clock_offset_ms   # what to add, in this boot, to this process's boot clock for times of grants
    cdef uint64_t time_namespace    # the number of the namespace whose clock that is
    cdef uint64_t known_size        # bytes of the mapping that are known to lie inside the file; whole grains
    cdef hb_header *header
    cdef uint64_t frontier          # offset of the last extent of this process, or of the first: no end is before it
    cdef int fd
    cdef hb_file file
    cdef bint is_present            # the presence is among those that a fork looks after
    cdef bint is_stale              # the file is only read, and was not put right since a reboot
    cdef bint in_memory
    cdef bint is_private            # the memory is this process's own; the descriptor has locks and nothing else
    cdef uint64_t closed            # 0 or 1; all threads read and write it
    cdef bint is_readonly
    cdef bint has_key               # False: the owner keeps the key; the file is read without it, but for its users
    cdef hb_presence presence
    cdef HashKey key
    cdef readonly object path
    cdef object __weakref__

    cdef int check_open(self) except -1
    cdef int check_writable(self) except -1
    cdef int check_key(self) except -1
    cdef int register(self) except -1
    cdef int take_entry(self) noexcept nogil
    cdef int grow(self, uint64_t end) noexcept nogil
    cdef int64_t allocate(self, uint64_t worker, uint64_t size) noexcept nogil
    cdef int raise_for_space(self, int64_t status, uint64_t size, int code) except -1
    cdef uint64_t next_data(self, uint64_t at, uint64_t end, uint64_t *data_end) noexcept nogil
    cdef bint is_nobodys(self, uint64_t state) noexcept nogil
    cdef bint is_whole(self) except -1
    cdef bint contains(self, uint64_t offset, uint64_t size) noexcept nogil
    cdef hb_extent *extent(self, uint64_t offset, uint32_t kind, uint64_t size) noexcept nogil
    cdef int next_extent(self, uint64_t *offset, uint64_t *state) noexcept nogil


cdef void presence_add(hb_presence *presence) noexcept
cdef void presence_remove(hb_presence *presence) noexcept
cdef str no_space(int code)
cdef str engine_name(Region region)


cdef inline uint64_t whole_grains(uint64_t size) noexcept nogil:
    return size - size % HB_GRAIN


cdef inline uint64_t worker_of(Region region) except 0:
    # Return this process as a worker. A call asks once, right before it changes the mapping. The presence's worker is 0
    # after a close and in a forked child that has not registered yet. The load pairs with the store of take_entry.
    cdef uint64_t worker = hb_load_private(&region.presence.worker)
    while worker == 0:      # a close ends this loop with an error, and so does a Region that is only read
        region.check_writable()
        worker = hb_load_private(&region.presence.worker)
    return worker


cdef inline uint64_t extent_size(uint64_t state) noexcept nogil:
    # Return the bytes of an extent. Its state is units (36 bits) | worker (24 bits) | phase (4 bits), see format.h.
    return (state >> 28) * 64


cdef inline int extent_phase(uint64_t state) noexcept nogil:
    return <int>(state & 15)


cdef struct Heading:        # the part of an extent's header that its maker writes
    uint32_t kind
    uint64_t name_length
    uint64_t name_offset
    uint64_t parent


cdef inline Heading heading_of(const hb_extent *extent) noexcept nogil:
    # Read the heading of an extent, each word of it once. The extent may be one that nothing leads to, and that another
    # process takes over at this moment: then the two words need not belong together, and the caller must find out by
    # the extent's state, or by what leads to it, before anything comes of them.
    cdef uint64_t word = hb_load_once(<const uint64_t *>&extent.kind)
    cdef Heading heading
    heading.kind = <uint32_t>word
    heading.name_length = word >> 32 & 0xFFFF
    heading.name_offset = word >> 48
    heading.parent = hb_load_once(&extent.parent)
    return heading
