"""The mapping of a file, or of memory that looks like one, with its space and this process's place among its workers.

Memory engines live in a memfd, so both kinds are one code path and both are shared with forked children. The whole
capacity is mapped at once and costs nothing but address space: a file grows as space is handed out, and a memfd takes
pages as they are touched. A mapping stays until its Region is deallocated, so nothing that still holds the Region can
ever see the mapping vanish; ``close`` only makes further calls fail.
"""
cimport cython
from libc.errno cimport EACCES, EAGAIN, EBADF, EDQUOT, EFBIG, EINTR, EINVAL, EIO, ENOENT, ENOSPC, ENXIO, EPERM, errno
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t

from posix.stat cimport fstat, struct_stat
from posix.unistd cimport close, getpid

from hbcore._file.clock cimport hb_now_ms
from hbcore._file.format cimport (
    HB_EPOCH_BITS, HB_GRAIN, HB_PHASE_LIVE, HB_PHASE_MAKING, HB_PHASE_RETIRED, HB_UNIT, HB_WORKER_LIMIT, hb_extent,
    hb_worker,
)
from hbcore._file.process cimport (
    hb_is_file, hb_living_epoch, hb_lock_entry, hb_lock_life, hb_presence, hb_presence_add, hb_presence_lock,
    hb_presence_remove, hb_presence_unlock, hb_reopen, hb_watch_forks,
)
from hbcore._lib.atomics cimport (
    hb_cas, hb_load_acquire, hb_load_private, hb_load_relaxed, hb_store_private, hb_store_relaxed,
)

import os
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit

from hbcore.errors import (
    AuditError, CorruptFileError, EngineClosedError, EngineFullError, HbcoreError, ReadOnlyError,
)
from hbcore._file.namespace import time_namespace
from hbcore.types import EngineInfo, WorkerInfo

cdef extern from "<sys/mman.h>" nogil:
    int munmap(void *address, size_t length)

cdef extern from "<unistd.h>" nogil:
    int64_t lseek(int fd, int64_t offset, int whence)
    int SEEK_DATA, SEEK_HOLE

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length)

cdef str CLOSED_DESCRIPTOR = (
    "this process has closed the engine's file descriptor: a daemon that closes all its files must do so before it "
    "opens the engine"
)

cdef enum:
    LIFE_LIMIT = 64             # epochs that take_entry tries
    GROWTH_MIN = 1024 * 1024            # bytes of the smallest step by which a file grows
    GROWTH_MAX = 64 * 1024 * 1024       # bytes of the largest
    SMALL_RANGE = 16 * 1024     # bytes of a range in which next_data looks for no holes

if hb_watch_forks() != 0:
    raise HbcoreError("pthread_atfork failed: no memory")


@cython.final
@cython.auto_pickle(False)
cdef class Region:
    """One mapping of this process. ``opening.open_region`` makes it, and any thread may use it."""

    def __cinit__(self):
        self.base = NULL
        self.fd = -1
        self.presence.lock_fd = -1
        self.presence.worker = 0
        hb_store_private(&self.closed, 1)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.capacity)
        # The lock goes after the mapping: as long as this process could touch the mapping, it counts as alive.
        if self.is_present:
            hb_presence_remove(&self.presence)
        if self.fd >= 0 and (self.base == NULL or hb_is_file(self.fd, &self.file)):
            close(self.fd)

    cdef int check_open(self) except -1:
        # Register a forked child, and raise if the engine is closed. This is the slow half of the check that every call
        # makes: presence.worker is 0 after a close and in a forked child.
        if not hb_load_private(&self.closed) and not self.is_readonly and hb_load_private(&self.presence.worker) == 0:
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
            hb_store_private(&self.presence.worker, 0)
            hb_presence_unlock()

    @property
    def is_closed(self):
        return hb_load_private(&self.closed) != 0

    cdef int register(self) except -1:
        cdef int code
        if self.is_private and self.presence.is_copy:
            raise HbcoreError(
                "this engine is not shared (shared=False): a forked child has a copy of its own, and what it granted "
                "would be granted twice; make the engine in the child, or shared"
            )
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
        if code == ENOENT:
            raise HbcoreError("hbcore needs /proc/self/fd to become a worker of an engine: mount /proc")
        if code == EINVAL:
            raise HbcoreError(
                "hbcore needs locks of open file descriptions (fcntl F_OFD_SETLK, Linux 3.15), which this kernel or "
                "file system does not have"
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
        # Take the first entry of the worker table that no living process holds. The process that has the lock owns the
        # entry, so a plain store raises its epoch; a death in between leaves an epoch that nobody has ever used. Return
        # 0, an errno, or EAGAIN if all are held. The caller has locked the presence.
        cdef hb_worker *entry
        cdef uint64_t epoch
        cdef uint64_t number = 0
        cdef int fd, code, _turn
        if hb_load_private(&self.closed) or hb_load_private(&self.presence.worker) != 0:
            return 0        # a close, or another thread, was faster; check_open looks again
        # The locks need a description of our own: one that a parent shares with its children cannot tell them apart.
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
            epoch += epoch == 0     # epoch 0 is left out, so that no worker is 0
            if hb_lock_life(fd, number, epoch) == 0:
                break
            # A living process has this number and this epoch, but not the entry: the epochs are damaged.
        else:
            close(fd)
            return EIO
        hb_store_relaxed(&entry.epoch, epoch)
        entry.pid = <uint64_t>getpid()
        entry.registered_at_ms = hb_now_ms()
        self.presence.lock_fd = fd
        # Release: a thread that reads the worker here and changes a slot with it passes the epoch on to the thread of
        # another process that reads the slot, and would call a worker beyond that epoch damage (hb_worker_never_was).
        hb_store_private(&self.presence.worker, number | epoch << 12)
        return 0

    cdef bint contains(self, uint64_t offset, uint64_t size) noexcept nogil:
        # Return whether a range lies inside the file: beyond its end a mapping has no memory, only SIGBUS. A last grain
        # that is not whole does not count: a process that makes the file longer may be about to zero some of it
        # (format.h).
        cdef struct_stat status
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
        # The known size only rises: other threads may know of more.
        while before < known and not hb_cas(&self.known_size, before, known):
            before = hb_load_private(&self.known_size)
        return end <= known

    cdef hb_extent *extent(self, uint64_t offset, uint32_t kind, uint64_t size) noexcept nogil:
        # Return the extent at an offset that was read from the mapping, or NULL if it is not of that kind and of at
        # least that size.
        cdef hb_extent *extent
        cdef uint64_t state
        if offset < FIRST_EXTENT or offset % HB_UNIT != 0 or not self.contains(offset, sizeof(hb_extent)):
            return NULL
        extent = <hb_extent *>(self.base + offset)
        state = hb_load_acquire(&extent.state)
        if extent_phase(state) != HB_PHASE_LIVE and extent_phase(state) != HB_PHASE_MAKING:
            return NULL
        if heading_of(extent).kind != kind or extent_size(state) < size:
            return NULL
        return extent if self.contains(offset, extent_size(state)) else NULL

    cdef int next_extent(self, uint64_t *offset, uint64_t *state) noexcept nogil:
        # Walk the chain of extents: from the extent at *offset, whose state was *state, to the next; from an offset of
        # 0 to the first. Every step passes one extent, so the capacity bounds a walk. A walk that stops at CHAIN_END
        # has seen every extent that was there when it began. Return a CHAIN_ status.
        offset[0] = FIRST_EXTENT if offset[0] == 0 else offset[0] + extent_size(state[0])
        if not self.contains(offset[0], sizeof(hb_extent)):
            return CHAIN_BROKEN     # the header after the last extent has its disk space as well, see allocate
        state[0] = hb_load_acquire(&(<hb_extent *>(self.base + offset[0])).state)
        if state[0] == 0:
            # The frontier is never beyond the end of the chain, so this is the end, or an extent was added meanwhile.
            if offset[0] >= hb_load_acquire(&self.header.frontier):
                return CHAIN_END
            state[0] = hb_load_acquire(&(<hb_extent *>(self.base + offset[0])).state)
        if extent_size(state[0]) < sizeof(hb_extent) or not self.contains(offset[0], extent_size(state[0])):
            return CHAIN_BROKEN
        return CHAIN_EXTENT

    cdef int grow(self, uint64_t end) noexcept nogil:
        # Make sure that the file has disk space up to `end`, which is at most the capacity. Return 0, SPACE_DISK with
        # errno, or SPACE_CLOSED.
        cdef uint64_t target, size
        end = whole_grains(end + HB_GRAIN - 1)      # the capacity is whole grains as well
        if self.contains(0, end):
            return 0
        if not hb_is_file(self.fd, &self.file):
            return SPACE_CLOSED
        size = min(hb_load_private(&self.known_size), end)      # another thread may have learned more meanwhile
        # The file grows in steps of an eighth of it, so that a million small envelopes do not mean a million calls.
        target = size + min(max(size // 8, <uint64_t>GROWTH_MIN), <uint64_t>GROWTH_MAX)
        target = min(max(end, whole_grains(target)), self.capacity)
        # This is the system call, not posix_fallocate: where the file system cannot allocate, that one would write
        # zeros over what others are about to use.
        while size < end and fallocate(self.fd, 0, <int64_t>size, <int64_t>(target - size)) != 0:
            if errno == EINTR:
                continue
            if target == end:
                return SPACE_DISK
            target = end
        return 0 if self.contains(0, end) else SPACE_DISK

    cdef int64_t allocate(self, uint64_t worker, uint64_t size) noexcept nogil:
        # Append an extent of `size` bytes, its header included, in phase MAKING. Return its offset or a SPACE_ status.
        #
        # The chain is the truth. It is walked from where this process has seen its end before. The frontier in the
        # header is for people and for checks: if extents were appended there, a damaged one would let them overlap.
        #
        # An extent exists from the CAS on that makes the first zero state of the chain nonzero, and with it the place
        # of the next extent is known: a death at any point leaves either nothing or a whole extent in phase MAKING.
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
                # The frontier is never beyond the end of the chain: it is moved only after an extent was added.
                if at < hb_load_acquire(&self.header.frontier):
                    if hb_load_acquire(&extent.state) == 0:
                        return SPACE_CORRUPT
                    continue
                # The header of the extent after this one must have its disk space as well, or the next allocation
                # could not even look at it.
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
        # Return where the next part of at .. end that was ever written begins, and set *data_end to where it ends;
        # return `end` if there is none. What was never written is a hole of the file, reads as zeros, and is left so.
        # But a range of a few pages is one part, written or not: to look for the next hole the kernel goes through
        # everything up to it, be it gigabytes, which is too much for each small object.
        cdef int64_t data, hole
        if end - at <= SMALL_RANGE or self.is_private:
            data_end[0] = end
            return at
        data = lseek(self.fd, <int64_t>at, SEEK_DATA)
        if data < 0:
            if errno == ENXIO:
                return end              # holes only, up to the end of the file
            data = <int64_t>at          # the file system does not report holes: everything is data
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
                raise EngineFullError(f"no disk space for {size} more bytes of the engine {where}: {no_space(code)}")
            raise OSError(code, f"cannot extend the engine {where}: {os.strerror(code)}")
        if status == SPACE_CLOSED:
            raise HbcoreError(CLOSED_DESCRIPTOR)
        raise CorruptFileError(f"the chain of extents of the engine {where} is damaged")

    cdef bint is_nobodys(self, uint64_t state) noexcept nogil:
        # Return whether an extent of that state is RETIRED, or MAKING by a worker that is dead. The state holds the low
        # 12 bits of its worker's epoch: while a living worker of that number has the same, the extent counts as its.
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
        # Return whether the file is still as long as it was: a process that copies another file over it takes memory
        # away from under every worker.
        cdef struct_stat status
        if self.base == NULL or self.in_memory:
            return True
        if fstat(self.fd, &status) != 0:
            raise OSError(errno, os.strerror(errno), self.path)
        return <uint64_t>status.st_size >= self.known_size

    def check_file(self):
        """Raise CorruptFileError if the file was truncated, AuditError if it is not at its path any more."""
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
        """Return whether the engine's path leads to another file, or to none."""
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


cdef void presence_add(hb_presence *presence) noexcept:
    # Add a presence to the list of those that a fork looks after. The list belongs to this module.
    hb_presence_add(presence)


cdef void presence_remove(hb_presence *presence) noexcept:
    hb_presence_remove(presence)


cdef str no_space(int code):
    # Return why there is no space, by the errno.
    if code == EFBIG:
        limit = getrlimit(RLIMIT_FSIZE)[0]
        if limit != RLIM_INFINITY:
            return f"{os.strerror(code)}: this process may not make files beyond {limit} bytes (ulimit -f)"
    return os.strerror(code)


cdef str engine_name(Region region):
    # Return how an error names the engine: by its path, never by its key.
    return "in memory" if region.path is None else repr(region.path)
