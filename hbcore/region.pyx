"""The mapping: a file, or memory that looks like one; its space, and this process's place among its workers.

Memory engines live in a memfd, so both kinds are one code path and both are shared with forked children. The whole
capacity is mapped at once and costs nothing but address space: a file grows as space is handed out, and a memfd takes
pages as they are touched. A mapping stays until its Region is deallocated, so nothing that still holds the Region can
ever see it vanish; ``close`` only refuses further calls.
"""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EACCES, EAGAIN, EBADF, EDQUOT, EFBIG, EINTR, EIO, ENOSPC, ENXIO, EPERM, errno
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from posix.unistd cimport close, getpid

from hbcore.atomics cimport (
    hb_cas, hb_fence_acquire, hb_fence_full, hb_load_acquire, hb_load_private, hb_load_relaxed, hb_store_private,
    hb_store_relaxed,
)
from hbcore.format cimport (
    HB_BYTE_ORDER, HB_EPOCH_BITS, HB_GRAIN, HB_HEADER_SIZE, HB_MAGIC, HB_PHASE_LIVE, HB_PHASE_MAKING, HB_PHASE_RETIRED,
    HB_UNIT, HB_VERSION, HB_WORKER_LIMIT, hb_extent, hb_header, hb_worker,
)
from hbcore.user cimport HashKey, UserKey, bytes_from_user_key, hash_key_from_bytes, siphash128

import errno as _errno
import fcntl
import os
import stat
import weakref

from hbcore.errors import (
    AuditError, ConflictError, CorruptFileError, EngineClosedError, EngineFullError, HbcoreError, IncompatibleFileError,
    ReadOnlyError,
)
from hbcore.namespace import boot_offset_ms, time_namespace
from hbcore.records import EngineInfo, WorkerInfo
from hbcore.terms import KEY_SIZE, MAX_CAPACITY, MIN_CAPACITY, exact_bytes, file_mode, file_path, integer

cdef extern from "process.h" nogil:
    int hb_watch_forks()
    void hb_presence_add(hb_presence *presence)
    void hb_presence_remove(hb_presence *presence)
    void hb_presence_lock()
    void hb_presence_unlock()
    int hb_reopen(const hb_file *file)
    int hb_identify(hb_file *file)
    int hb_is_file(int fd, const hb_file *file)
    int hb_lock_entry(int fd, uint64_t number)
    int hb_lock_life(int fd, uint64_t number, uint64_t epoch)
    int hb_lock_recovery(int fd)
    int hb_anybody_alive(int fd)
    uint64_t hb_living_epoch(const hb_file *file, uint64_t number)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_NORESERVE, MADV_HUGEPAGE, MADV_RANDOM

cdef extern from "<unistd.h>" nogil:
    int64_t lseek(int fd, int64_t offset, int whence)
    int SEEK_DATA, SEEK_HOLE

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length)

cdef extern from "<sys/stat.h>" nogil:
    struct stat_result "stat":
        int64_t st_size
        int64_t st_blocks
        uint64_t st_dev
        uint64_t st_ino
    int fstat(int fd, stat_result *status)

DEFAULT_CAPACITY = 1 << 38

cdef str CLOSED_DESCRIPTOR = (
    "this process has closed the engine's file descriptor: a daemon that closes all its files must do so before it "
    "opens the engine"
)

cdef enum:
    HEADER_BOOT = 56            # offsets of fields of the header
    HEADER_CHECK = 144
    LIFE_LIMIT = 64
    INITIAL_SIZE = 2 * HB_GRAIN
    GROWTH_MIN = 1024 * 1024
    GROWTH_MAX = 64 * 1024 * 1024
    SMALL_RANGE = 16 * 1024     # next_data

if hb_watch_forks() != 0:
    raise HbcoreError("pthread_atfork failed: no memory")

# Regions of files that this process has open, by path, engine id and whether they are only read: a pickled envelope
# finds its engine here.
open_regions = weakref.WeakValueDictionary()


@cython.final
@cython.auto_pickle(False)
cdef class Region:
    """One mapping of this process. ``open_region`` makes it; safe to use from any thread."""

    def __cinit__(self):
        self.base = NULL
        self.fd = -1
        self.presence.lock_fd = -1
        self.presence.worker = 0
        hb_store_private(&self.closed, 1)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.capacity)
        # The lock goes after the mapping: as long as this process could touch that, it counts as alive.
        if self.is_present:
            hb_presence_remove(&self.presence)
        if self.fd >= 0 and (self.base == NULL or hb_is_file(self.fd, &self.file)):
            close(self.fd)

    cdef int check_open(self) except -1:
        # The slow half of the check that every call makes: presence.worker is 0 after a close and in a forked child.
        if not hb_load_private(&self.closed) and not self.is_readonly and hb_load_relaxed(&self.presence.worker) == 0:
            self.register()
        if hb_load_private(&self.closed):
            raise EngineClosedError("the engine is closed; open it anew with hbcore.Engine(...)")
        return 0

    cdef int check_writable(self) except -1:
        self.check_open()
        if self.is_readonly:
            raise ReadOnlyError(f"{self.path!r} was opened with readonly=True; open it without to change anything")
        return 0

    cdef int check_key(self) except -1:
        self.check_open()
        if not self.has_key:
            raise ValueError(
                f"key must be given to look for a user: {self.path!r} was made with a key of its owner's, which is not "
                "in the file"
            )
        return 0

    def close(self):
        with nogil:
            hb_presence_lock()
            hb_store_private(&self.closed, 1)
            hb_store_relaxed(&self.presence.worker, 0)
            hb_presence_unlock()

    @property
    def is_closed(self):
        return hb_load_private(&self.closed) != 0

    cdef int register(self) except -1:
        cdef int code
        if self.time_namespace != <uint64_t>time_namespace():
            raise HbcoreError(
                "this process was forked into another time namespace (unshare) after the engine was opened, where the "
                "clock is another: open the engine anew"
            )
        with nogil:
            hb_presence_lock()
            code = self.take_entry()
            hb_presence_unlock()
        if code == EBADF:
            raise HbcoreError(CLOSED_DESCRIPTOR)
        if code == EAGAIN:
            raise EngineFullError(
                f"all {HB_WORKER_LIMIT} entries of the engine's worker table are held by living processes; close some"
            )
        if code in (EACCES, EPERM):
            raise PermissionError(
                code,
                "this process may not open the engine's file, and so cannot become one of its workers; a server that "
                "changes its user after the fork must give the file to that user (mode=, chown)",
                self.path,
            )
        if code != 0:
            raise OSError(code, f"cannot lock an entry of the engine's worker table: {os.strerror(code)}", self.path)
        return 0

    cdef int take_entry(self) noexcept nogil:
        # Take the first entry of the worker table that nobody alive holds. Whoever has the lock owns the entry, so its
        # epoch is raised by a plain store; a death in between leaves an epoch that nobody has ever used. Returns 0, an
        # errno, or EAGAIN if all are held. The presence is locked.
        cdef hb_worker *entry
        cdef uint64_t epoch
        cdef uint64_t number = 0
        cdef int fd, code, _turn
        if hb_load_private(&self.closed) or hb_load_relaxed(&self.presence.worker) != 0:
            return 0        # a close, or another thread, was faster; check_open looks again
        # A description of our own: the one that a parent shares with its children cannot tell them apart.
        fd = hb_reopen(&self.file)
        if fd < 0:
            return errno
        while hb_lock_entry(fd, number) != 0:
            code = errno
            number += 1
            if code != EAGAIN and code != EACCES or number == HB_WORKER_LIMIT:
                close(fd)
                return code if code != EACCES else EAGAIN
        entry = <hb_worker *>(self.base + WORKERS_OFFSET) + number
        epoch = hb_load_relaxed(&entry.epoch)
        for _turn in range(LIFE_LIMIT):
            epoch = (epoch + 1) & ((<uint64_t>1 << HB_EPOCH_BITS) - 1)
            epoch += epoch == 0     # so that no worker is 0
            if hb_lock_life(fd, number, epoch) == 0:
                break
            # Somebody alive has this number and this epoch, but not the entry: the epochs are damaged.
        else:
            close(fd)
            return EIO
        hb_store_relaxed(&entry.epoch, epoch)
        entry.pid = <uint64_t>getpid()
        entry.registered_at_ms = hb_now_ms()
        self.presence.lock_fd = fd
        hb_store_relaxed(&self.presence.worker, number | epoch << 12)
        return 0

    cdef bint contains(self, uint64_t offset, uint64_t size) noexcept nogil:
        # Whether a range lies inside the file: beyond its end a mapping has no memory, only SIGBUS. A last grain that
        # is not whole does not count: whoever makes the file longer may be about to zero some of it (format.h).
        cdef stat_result status
        cdef uint64_t end = offset + size
        cdef uint64_t known, before
        if end < offset or end > self.capacity:
            return False
        if end <= hb_load_private(&self.known_size):
            return True
        if fstat(self.fd, &status) != 0 or not hb_is_file(self.fd, &self.file):
            return False
        known = whole_grains(min(<uint64_t>status.st_size, self.capacity))
        before = hb_load_private(&self.known_size)
        while before < known and not hb_cas(&self.known_size, before, known):   # it only rises: others may know more
            before = hb_load_private(&self.known_size)
        return end <= known

    cdef hb_extent *extent(self, uint64_t offset, uint32_t kind, uint64_t size) noexcept nogil:
        # The extent of that kind and of at least that size at an offset that was read from the mapping, or NULL.
        cdef hb_extent *extent
        cdef uint64_t state
        if offset < FIRST_EXTENT or offset % HB_UNIT != 0 or not self.contains(offset, sizeof(hb_extent)):
            return NULL
        extent = <hb_extent *>(self.base + offset)
        state = hb_load_acquire(&extent.state)
        if extent_phase(state) != HB_PHASE_LIVE and extent_phase(state) != HB_PHASE_MAKING:
            return NULL
        if extent.kind != kind or extent_size(state) < size or not self.contains(offset, extent_size(state)):
            return NULL
        return extent

    cdef int grow(self, uint64_t end) noexcept nogil:
        # Make sure that the file has disk space up to `end`, which is at most the capacity. Returns 0, SPACE_DISK with
        # errno, or SPACE_CLOSED.
        cdef uint64_t target, size
        end = whole_grains(end + HB_GRAIN - 1)      # so is the capacity
        if self.contains(0, end):
            return 0
        if not hb_is_file(self.fd, &self.file):
            return SPACE_CLOSED
        size = min(hb_load_private(&self.known_size), end)      # another thread may have learned more meanwhile
        # In steps of an eighth of the file, so that a million small envelopes do not mean a million calls.
        target = size + min(max(size // 8, <uint64_t>GROWTH_MIN), <uint64_t>GROWTH_MAX)
        target = min(max(end, whole_grains(target)), self.capacity)
        # The system call, not posix_fallocate: that one would write zeros over what others are about to use where the
        # file system cannot allocate.
        while size < end and fallocate(self.fd, 0, <int64_t>size, <int64_t>(target - size)) != 0:
            if errno == EINTR:
                continue
            if target == end:
                return SPACE_DISK
            target = end
        return 0 if self.contains(0, end) else SPACE_DISK

    cdef int64_t allocate(self, uint64_t worker, uint64_t size) noexcept nogil:
        # Append an extent of `size` bytes, its header included, in phase MAKING. Returns its offset or a SPACE_ status.
        #
        # The chain is the truth. It is walked from where this process has seen its end before; the frontier in the
        # header is for people, because a damaged one would let extents overlap.
        #
        # An extent exists from the CAS that makes the first zero state
        # of the chain nonzero, and with it the place of the next is known: a death at any point leaves either nothing
        # or a whole extent in phase MAKING.
        cdef uint64_t units = (size + HB_UNIT - 1) // HB_UNIT
        cdef uint64_t worker_bits = worker & 0xFFFFFF
        cdef uint64_t at = hb_load_private(&self.frontier)
        cdef uint64_t state, hint
        cdef int grown
        cdef hb_extent *extent
        # Each turn passes one extent of the chain, so the capacity bounds the number of turns.
        while True:
            if not self.contains(at, sizeof(hb_extent)):
                return SPACE_FULL if at + sizeof(hb_extent) > self.capacity else SPACE_CORRUPT
            extent = <hb_extent *>(self.base + at)
            state = hb_load_acquire(&extent.state)
            if state == 0:
                # The frontier is never beyond the end of the chain: it is moved after an extent was added.
                if at < hb_load_acquire(&self.header.frontier):
                    if hb_load_acquire(&extent.state) == 0:
                        return SPACE_CORRUPT
                    continue
                # The header of the extent after this one must have its disk space as well, or the next allocation
                # could not even look.
                if units >= self.capacity // HB_UNIT or at + units * HB_UNIT + sizeof(hb_extent) > self.capacity:
                    return SPACE_FULL
                grown = self.grow(at + units * HB_UNIT + sizeof(hb_extent))
                if grown != 0:
                    return grown
                if hb_cas(&extent.state, 0, units << 28 | worker_bits << 4 | HB_PHASE_MAKING):
                    hb_store_private(&self.frontier, at)
                    hint = hb_load_relaxed(&self.header.frontier)
                    if hint < at + units * HB_UNIT:
                        hb_cas(&self.header.frontier, hint, at + units * HB_UNIT)
                    return <int64_t>at
                continue
            if extent_size(state) == 0:
                return SPACE_CORRUPT
            at += extent_size(state)

    cdef uint64_t next_data(self, uint64_t at, uint64_t end, uint64_t *data_end) noexcept nogil:
        # Where the next part of at .. end begins that was ever written, and where it ends; `end` if there is none.
        # What was not is a hole of the file, reads as zeros, and is left so; but for ranges of a few pages. To look for
        # the next hole the kernel goes through everything up to it, be it gigabytes: not for each small object.
        cdef int64_t data, hole
        if end - at <= SMALL_RANGE:
            data_end[0] = end
            return at
        data = lseek(self.fd, <int64_t>at, SEEK_DATA)
        if data < 0:
            if errno == ENXIO:
                return end              # holes only, up to the end of the file
            data = <int64_t>at          # the file system does not tell holes: everything is data
        if <uint64_t>data >= end:
            return end
        hole = lseek(self.fd, data, SEEK_HOLE)
        data_end[0] = end if hole < 0 else min(<uint64_t>hole, end)
        return max(<uint64_t>data, at)

    cdef int raise_for_space(self, int64_t status, uint64_t size, int code) except -1:
        where = "in memory" if self.in_memory else f"{os.fspath(self.path)!r}"
        if status == SPACE_FULL:
            raise EngineFullError(
                f"{size} bytes are more than what is left of the capacity of {self.capacity} bytes of the engine "
                f"{where}; make one with a larger capacity"
            )
        if status == SPACE_DISK:
            if code in (ENOSPC, EDQUOT, EFBIG):
                raise EngineFullError(f"no disk space for {size} more bytes of the engine {where}: {os.strerror(code)}")
            raise OSError(code, f"cannot extend the engine {where}: {os.strerror(code)}")
        if status == SPACE_CLOSED:
            raise HbcoreError(CLOSED_DESCRIPTOR)
        raise CorruptFileError(f"the chain of extents of the engine {where} is damaged")

    cdef bint is_nobodys(self, uint64_t state) noexcept nogil:
        # Whether an extent of that state is RETIRED, or MAKING by a worker who is dead. It holds the low 12 bits of its
        # worker's epoch: while a living one has the same, it counts as that one's.
        cdef uint64_t number, epoch
        if extent_phase(state) == HB_PHASE_RETIRED:
            return True
        if extent_phase(state) != HB_PHASE_MAKING:
            return False
        number = state >> 4 & 0xFFF
        if number >= HB_WORKER_LIMIT:
            return True
        epoch = hb_living_epoch(&self.file, number)
        return epoch != UINT64_MAX and (epoch == 0 or (epoch ^ state >> 16) & 0xFFF)

    cdef bint is_whole(self) except -1:
        # Whether the file is still there and as long as it was: who copies another over it takes memory away from under
        # every worker.
        cdef stat_result status
        if self.base == NULL or self.in_memory:
            return True
        if fstat(self.fd, &status) != 0:
            raise OSError(errno, os.strerror(errno), self.path)
        return <uint64_t>status.st_size >= self.known_size

    def check_file(self):
        """Raise CorruptFileError if the file was truncated, AuditError if it does not stand at its path any more."""
        self.check_open()
        if not self.is_whole():
            raise CorruptFileError(
                f"{self.path!r} was truncated while it was open: {os.fstat(self.fd).st_size} bytes are less than the "
                f"{self.known_size} that it had"
            )
        if self.is_replaced():
            raise AuditError(
                f"{self.path!r} is not the file that this engine has open: it was renamed over or unlinked while "
                "workers run on it, and what they grant will be lost with them"
            )

    def is_replaced(self):
        """Return whether another file, or none, stands at the engine's path."""
        if self.path is None:
            return False
        mine = os.fstat(self.fd)
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino)

    def info(self):
        """Return an ``EngineInfo``."""
        cdef hb_worker *entry
        cdef uint64_t number, epoch, living
        self.check_open()
        workers = []
        for number in range(HB_WORKER_LIMIT):
            entry = <hb_worker *>(self.base + WORKERS_OFFSET) + number
            epoch = hb_load_relaxed(&entry.epoch)
            if epoch != 0:
                living = hb_living_epoch(&self.file, number)
                workers.append(WorkerInfo(number, epoch, entry.pid, entry.registered_at_ms / 1000.0, living == epoch))
        return EngineInfo(
            self.path,
            self.engine_id().hex(),
            self.header.version,
            self.header.created_at_ms / 1000.0,
            self.header.key_is_kept == 1,
            self.capacity,
            os.fstat(self.fd).st_size,
            hb_load_relaxed(&self.header.frontier),
            self.is_replaced(),
            tuple(workers),
        )

    def bytes_used(self):
        """Return how many bytes have been handed out; for tests and people."""
        return 0 if self.base == NULL else hb_load_relaxed(&self.header.frontier)

    def engine_id(self):
        """Return the 16 bytes that tell this engine from every other."""
        return b"" if self.base == NULL else self.header.engine_id[:16]


def open_region(path, capacity, mode, key, recover, readonly=False, create=True, huge_pages=False):
    """Open the file at ``path``, creating it if need be, or make a memory engine if ``path`` is None.

    ``recover`` is called with the Region where a reboot has left the file to be put right.
    """
    wanted_capacity = None if capacity is None else integer("capacity", capacity, MIN_CAPACITY, MAX_CAPACITY)
    if wanted_capacity is not None:
        wanted_capacity = whole_grains(wanted_capacity + HB_GRAIN - 1)
    wanted_mode = file_mode(mode)
    if key is not None:
        key = exact_bytes("key", key, KEY_SIZE)
    cdef Region region = Region()
    region.is_readonly = bool(readonly)
    if path is None:
        if readonly:
            raise ValueError("readonly needs a path: nobody could ever write to an engine in memory")
        region.in_memory = True
        region.fd = os.memfd_create("hbcore", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        size = new_file(region.fd, wanted_capacity or DEFAULT_CAPACITY, key, True)
        attach(region, size, key, None, huge_pages)
        return region
    path = file_path(path)
    region.path = path if os.path.islink(path) else os.path.realpath(path)
    try:
        region.fd = os.open(
            region.path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        )
    except FileNotFoundError:
        if not create or readonly:
            raise
        region.fd = create_file(region.path, wanted_capacity or DEFAULT_CAPACITY, wanted_mode, key)
    except OSError as error:
        if error.errno == _errno.ELOOP:
            raise ValueError(f"path {region.path!r} is a symbolic link; name the file itself") from None
        raise
    if not stat.S_ISREG(os.fstat(region.fd).st_mode):
        raise CorruptFileError(f"{region.path!r} is not a regular file")
    check_header(region, wanted_capacity)
    attach(region, os.fstat(region.fd).st_size, key, recover, huge_pages)
    return region


def create_file(path, capacity, mode, key):
    """Create the file whole under another name, then link it: of many creators one wins and all open the same."""
    temporary = f"{path}.new-{os.getpid()}-{os.urandom(6).hex()}"
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        error.filename = path       # the name that the caller knows
        raise
    try:
        new_file(fd, capacity, key, False)
        os.link(temporary, path)
        return fd
    except FileExistsError:
        os.close(fd)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.unlink(temporary)


cdef new_file(int fd, uint64_t capacity, key, bint in_memory):
    # Write the header of a new mapping and give it its first space. Returns its size.
    cdef hb_header header
    cdef unsigned char *raw = <unsigned char *>&header
    cdef size_t i
    cdef bytes kept = os.urandom(KEY_SIZE) if key is None else key
    cdef HashKey hash_key = hash_key_from_bytes(kept)
    cdef bytes engine_id = os.urandom(16)
    cdef bytes directory_key = os.urandom(16)
    cdef bytes check = key_check(&hash_key, engine_id)
    cdef bytes boot = boot_id()
    cdef bytes checksum
    for i in range(sizeof(hb_header)):
        raw[i] = 0
    memcpy(header.magic, HB_MAGIC, 8)
    header.version = HB_VERSION
    header.header_size = HB_HEADER_SIZE
    header.byte_order = HB_BYTE_ORDER
    header.capacity = capacity
    header.created_at_ms = hb_now_ms()
    memcpy(header.engine_id, <const char *>engine_id, 16)
    memcpy(header.boot_id, <const char *>boot, 16)
    memcpy(header.key_check, <const char *>check, 16)
    memcpy(header.directory_key, <const char *>directory_key, 16)
    header.clock_offset_ms = hb_now_ms() - hb_boot_ms() + namespace_ms()
    header.clock_check = clock_check(&header, header.clock_offset_ms, boot)
    header.frontier = FIRST_EXTENT
    if key is None and not in_memory:
        header.key_is_kept = 1
        memcpy(header.key, <const char *>kept, 32)
    if in_memory:
        # Memory is taken page by page as it is touched.
        header.key_is_kept = 1 if key is None else 0
        if key is None:
            memcpy(header.key, <const char *>kept, 32)
    checksum = header_check(&header)
    memcpy(header.check, <const char *>checksum, 16)
    if in_memory:
        os.ftruncate(fd, capacity)
        seal(fd)
    elif fallocate(fd, 0, 0, INITIAL_SIZE) != 0:
        code = errno
        if code in (ENOSPC, EDQUOT, EFBIG):
            raise EngineFullError(f"no disk space for a new engine: {os.strerror(code)}")
        raise OSError(code, f"the file system cannot allocate space in advance (fallocate): {os.strerror(code)}")
    os.pwrite(fd, (<char *>&header)[:sizeof(hb_header)], 0)
    return capacity if in_memory else INITIAL_SIZE


cdef seal(int fd):
    # Nobody can shrink the memory under the mapping: there is no SIGBUS for memory engines.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


cdef bytes key_check(const HashKey *key, bytes engine_id):
    # Tells the right key from a wrong one, both halves of it, without telling anything else about it.
    cdef UserKey out
    cdef bytes message = b"hbcore key check" + engine_id
    siphash128(key.number, <const unsigned char *>message, <size_t>len(message), &out)
    message += bytes_from_user_key(&out)
    siphash128(key.text, <const unsigned char *>message, <size_t>len(message), &out)
    return bytes_from_user_key(&out)


cdef bytes header_check(const hb_header *header):
    # Of every field that is written once.
    cdef UserKey out
    cdef const unsigned char *raw = <const unsigned char *>header
    cdef bytes message = raw[:HEADER_BOOT] + raw[HEADER_BOOT + 16:HEADER_CHECK]
    cdef uint64_t[2] key = [0x2065726F63626868, 0x0072656461656820]
    siphash128(key, <const unsigned char *>message, <size_t>len(message), &out)
    return bytes_from_user_key(&out)


cdef uint64_t clock_check(const hb_header *header, uint64_t offset, bytes boot) except? 0:
    cdef UserKey out
    cdef bytes message = boot + offset.to_bytes(8, "little")
    siphash128(header.directory_key, <const unsigned char *>message, <size_t>len(message), &out)
    return out.low


def boot_id():
    """Return the 16 bytes by which the kernel tells one boot from the next."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


cdef check_header(Region region, wanted_capacity):
    # Read the header with a system call first: of a file that is too short, a mapping would be a SIGBUS.
    cdef bytes raw = os.pread(region.fd, HB_HEADER_SIZE, 0)
    cdef const hb_header *header = <const hb_header *><const char *>raw
    cdef bytes check
    path = region.path
    if len(raw) < HB_HEADER_SIZE or memcmp(header.magic, HB_MAGIC, 8) != 0:
        raise CorruptFileError(f"{path!r} is not an hbcore file, or its beginning is damaged")
    if header.byte_order != HB_BYTE_ORDER:
        raise IncompatibleFileError(f"{path!r} was written on a machine of another byte order")
    if header.version != HB_VERSION or header.header_size != HB_HEADER_SIZE:
        raise IncompatibleFileError(
            f"{path!r} has version {header.version} of the format; this hbcore reads version {HB_VERSION}"
        )
    check = header_check(header)
    if memcmp(<const char *>check, header.check, 16) != 0:
        raise CorruptFileError(f"{path!r} has a damaged header")
    if not MIN_CAPACITY <= header.capacity <= MAX_CAPACITY or header.capacity % HB_GRAIN:
        raise CorruptFileError(f"{path!r} names a capacity of {header.capacity} bytes, which is impossible")
    size = whole_grains(os.fstat(region.fd).st_size)
    if size < INITIAL_SIZE:
        raise CorruptFileError(
            f"{path!r} is truncated: {size} bytes are less than the {INITIAL_SIZE} of an empty engine"
        )
    # The frontier is only a hint, but one that never lies beyond the disk space: that is allocated first.
    if header.frontier < FIRST_EXTENT or header.frontier % HB_UNIT or header.frontier + sizeof(hb_extent) > size:
        raise CorruptFileError(f"{path!r} is truncated or damaged: it has {size} bytes, and used {header.frontier}")
    if wanted_capacity is not None and wanted_capacity != header.capacity:
        raise ConflictError(f"{path!r} has a capacity of {header.capacity} bytes, not {wanted_capacity}")


cdef attach(Region region, uint64_t size, key, recover, bint huge_pages):
    # Map the file, take the key, put it right after a reboot and register this process.
    cdef void *address
    cdef bytes kept, check
    cdef hb_header header
    cdef bytes raw = os.pread(region.fd, sizeof(hb_header), 0)
    memcpy(&header, <const char *>raw, sizeof(hb_header))
    region.file.fd = region.fd
    if hb_identify(&region.file) != 0:
        raise OSError(errno, os.strerror(errno), region.path)
    region.has_key = key is not None or header.key_is_kept
    if not region.has_key and not region.is_readonly:
        raise ValueError(
            f"key must be given: {region.path!r} was made with a key of its owner's, which is not in the file"
        )
    if region.has_key:
        kept = header.key[:32] if key is None else key
        region.key = hash_key_from_bytes(kept)
        check = key_check(&region.key, header.engine_id[:16])
        if memcmp(<const char *>check, header.key_check, 16) != 0:
            if key is None:
                raise CorruptFileError(f"{region.path!r} has a damaged key")
            raise ValueError(f"key is not the one that {region.path!r} was made with")
    region.capacity = header.capacity
    if not region.in_memory and not region.is_readonly:
        fill_holes(region)
    address = mmap(
        NULL, header.capacity, PROT_READ if region.is_readonly else PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
        region.fd, 0,
    )
    if address == MAP_FAILED:
        code = errno
        raise OSError(
            code,
            f"cannot map {header.capacity} bytes of address space: {os.strerror(code)}; a smaller capacity may help",
        )
    region.known_size = whole_grains(min(size, region.capacity))
    # No reading ahead: a cached page of a hole counts as data for SEEK_DATA (ext4), so an audit that walks the data of
    # an index would make the next hole data by looking at the page before it, and read on to the end of the table.
    madvise(address, header.capacity, MADV_RANDOM)
    if huge_pages:
        madvise(address, header.capacity, MADV_HUGEPAGE)    # a kernel that has none says so, and takes ordinary ones
    region.base = <char *>address
    region.header = <hb_header *>address
    region.file.workers = <hb_worker *>(region.base + WORKERS_OFFSET)
    region.frontier = FIRST_EXTENT
    region.is_stale = region.is_readonly and not is_awake(region, boot_id())
    if region.is_readonly and not region.is_stale:
        take_clock(region)
    if not region.is_readonly:
        if not region.in_memory:
            wake(region, recover)
        take_clock(region)
        hb_store_private(&region.closed, 0)
        hb_presence_add(&region.presence)
        region.is_present = True
        region.register()
    hb_store_private(&region.closed, 0)
    if region.path is not None:
        open_regions[region.path, region.engine_id(), bool(region.is_readonly)] = region


cdef uint64_t namespace_ms() except? 0:
    # What the boot clock of this process is ahead of the machine's, which is the one that a file speaks of.
    return <uint64_t><int64_t>boot_offset_ms()


cdef take_clock(Region region):
    cdef uint64_t offset = region.header.clock_offset_ms
    if region.header.clock_check != clock_check(region.header, offset, region.header.boot_id[:16]):
        raise CorruptFileError(f"{region.path!r} has a damaged clock")
    region.time_namespace = time_namespace()
    region.clock_offset_ms = offset - namespace_ms()


cdef fill_holes(Region region):
    # A copy may be sparse; on a full disk the first write to a hole would be a SIGBUS. What is allocated stays.
    cdef stat_result status
    cdef int64_t size
    if fstat(region.fd, &status) != 0:
        raise OSError(errno, os.strerror(errno), region.path)
    size = <int64_t>min(<uint64_t>status.st_size, region.capacity)
    while fallocate(region.fd, 0, 0, size) != 0:
        code = errno
        if code in (ENOSPC, EDQUOT, EFBIG):
            raise EngineFullError(f"no disk space for the holes of {region.path!r}: {os.strerror(code)}")
        if code != EINTR:
            raise OSError(code, f"cannot allocate the holes of the file: {os.strerror(code)}", region.path)


cdef bint is_awake(Region region, bytes boot):
    # Whether the file was put right under this boot: if so, all that was done for that is there.
    cdef bint answer = region.header.boot_id[:16] == boot
    hb_fence_acquire()
    return answer


cdef wake(Region region, recover):
    # After a reboot no worker of the file is alive, and of several who open it one puts it right; the others wait for
    # it, as nobody else ever waits, and a death makes the next one begin again. Nobody is registered meanwhile.
    cdef bytes boot = boot_id()
    cdef hb_presence presence       # so that a forked child does not keep the lock
    cdef int code = EINTR
    if is_awake(region, boot):
        return
    presence.worker = 0
    presence.lock_fd = hb_reopen(&region.file)
    if presence.lock_fd < 0:
        raise OSError(errno, os.strerror(errno), region.path)
    hb_presence_add(&presence)
    try:
        while code == EINTR:
            PyErr_CheckSignals()
            with nogil:
                code = errno if hb_lock_recovery(presence.lock_fd) != 0 else 0
        if code != 0:
            raise OSError(code, f"cannot lock the file: {os.strerror(code)}", region.path)
        if is_awake(region, boot):
            return
        if hb_anybody_alive(region.fd):
            raise HbcoreError(
                f"{region.path!r} is in use by processes that were started under another boot: it must not be shared "
                "by two machines"
            )
        # The clock begins anew at a reboot; so do the times of what has not expired (recovery.pyx).
        region.clock_offset_ms = hb_now_ms() - hb_boot_ms()
        recover(region)
        region.header.clock_offset_ms = region.clock_offset_ms + namespace_ms()
        region.header.clock_check = clock_check(region.header, region.header.clock_offset_ms, boot)
        hb_fence_full()
        memcpy(region.header.boot_id, <const char *>boot, 16)
    finally:
        hb_presence_remove(&presence)
