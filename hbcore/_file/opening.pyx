"""Opening an engine: its file or memory is made, its header is checked, it is mapped, and put right after a reboot."""
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EDQUOT, EFBIG, EINTR, ENOSPC, errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from posix.stat cimport fstat, struct_stat

from hbcore._file.clock cimport hb_boot_ms, hb_now_ms
from hbcore._file.format cimport (
    HB_BYTE_ORDER, HB_GRAIN, HB_HEADER_SIZE, HB_MAGIC, HB_UNIT, HB_VERSION, hb_extent, hb_header, hb_worker,
)
from hbcore._file.process cimport hb_anybody_alive, hb_identify, hb_lock_recovery, hb_presence, hb_reopen
from hbcore._file.region cimport (
    FIRST_EXTENT, WORKERS_OFFSET, Region, no_space, presence_add, presence_remove, whole_grains,
)
from hbcore._keys.user cimport HashKey, UserKey, bytes_from_user_key, hash_key_from_bytes, siphash128
from hbcore._lib.atomics cimport hb_fence_acquire, hb_fence_full, hb_store_private

import errno as _errno
import os
import stat
import weakref

from hbcore.errors import ConflictError, CorruptFileError, EngineFullError, HbcoreError, IncompatibleFileError
from hbcore._file.namespace import boot_offset_ms, time_namespace
from hbcore.terms import KEY_SIZE, MAX_CAPACITY, MIN_CAPACITY, exact_bytes, file_mode, file_path, integer

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)
    int madvise(void *address, size_t length, int advice)
    int munmap(void *address, size_t length)
    int memfd_create(const char *name, unsigned int flags)
    unsigned int MFD_CLOEXEC, MFD_ALLOW_SEALING
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_HUGEPAGE, MADV_RANDOM

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length)
    int c_fcntl "fcntl"(int fd, int command, int argument)
    int F_ADD_SEALS, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL

cdef extern from "<unistd.h>" nogil:
    int ftruncate(int fd, int64_t length)

DEFAULT_CAPACITY = 1 << 38

cdef str CREATION_ADVICE = "a smaller capacity may help, or higher limits of memory (ulimit -v and -d)"

cdef enum:
    HEADER_BOOT = 56            # offset of boot_id in the header
    HEADER_CHECK = 144          # offset of check in the header
    INITIAL_SIZE = 2 * HB_GRAIN

# The Regions of the files that this process has open, by path, engine id and whether they are only read. A pickled
# envelope finds its engine here.
open_regions = weakref.WeakValueDictionary()


def open_region(path, capacity, mode, key, recover, readonly=False, create=True, huge_pages=False, shared=True):
    """Open the file at ``path``, creating it if need be, or make a memory engine if ``path`` is None.

    ``recover`` is called with the Region if the file must be put right after a reboot.
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
        region.is_private = not shared
        region.fd = memory_file()
        size = new_file(region.fd, wanted_capacity or DEFAULT_CAPACITY, key, True)
        attach(region, size, key, None, huge_pages, CREATION_ADVICE)
        return region
    if not shared:
        raise ValueError("shared=False needs path=None: what is in a file can be opened by any process")
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
    attach(
        region, os.fstat(region.fd).st_size, key, recover, huge_pages,
        "the file was made with this capacity, so a limit of address space (ulimit -v) must be raised",
    )
    return region


def create_file(path, capacity, mode, key):
    """Create the file whole under another name, then link it: one of many creators wins, and all open the same file."""
    temporary = f"{path}.new-{os.getpid()}-{os.urandom(6).hex()}"
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        error.filename = path       # the name that the caller knows
        raise
    try:
        new_file(fd, capacity, key, False)
        # A file that this process cannot map would be of no use, and could not be made again with a smaller capacity.
        munmap(map_file(fd, capacity, PROT_READ | PROT_WRITE, CREATION_ADVICE), capacity)
        link(temporary, path)
        return fd
    except FileExistsError:
        os.close(fd)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.unlink(temporary)


def link(temporary, path):
    # Give the whole file its name.
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (_errno.EPERM, _errno.EOPNOTSUPP, _errno.ENOSYS):
            raise
        raise OSError(
            error.errno,
            f"a new file gets its name by a hard link, and this file system makes none ({error.strerror})",
            path,
        ) from None


cdef new_file(int fd, uint64_t capacity, key, bint in_memory):
    # Write the header of a new mapping and give it its first space. Return its size in bytes.
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
        header.key_is_kept = 1 if key is None else 0
        if key is None:
            memcpy(header.key, <const char *>kept, 32)
    checksum = header_check(&header)
    memcpy(header.check, <const char *>checksum, 16)
    if in_memory:
        # The memory has its whole size at once; pages are taken as they are touched.
        if ftruncate(fd, <int64_t>capacity) != 0:
            code = errno
            if code == EFBIG:
                raise EngineFullError(
                    f"no engine in memory can have a capacity of {capacity} bytes here: {no_space(code)}; a smaller "
                    "capacity may help"
                )
            raise OSError(code, f"cannot make memory of {capacity} bytes: {os.strerror(code)}")
        seal(fd)
    elif fallocate(fd, 0, 0, INITIAL_SIZE) != 0:
        code = errno
        if code in (ENOSPC, EDQUOT, EFBIG):
            raise EngineFullError(f"no disk space for a new engine: {no_space(code)}")
        raise OSError(code, f"the file system cannot allocate space in advance (fallocate): {os.strerror(code)}")
    os.pwrite(fd, (<char *>&header)[:sizeof(hb_header)], 0)
    return capacity if in_memory else INITIAL_SIZE


cdef int memory_file() except -1:
    # Return a descriptor of memory that looks like a file. These are the C functions, because a Python that was built
    # for an old C library does not have them.
    cdef int fd = memfd_create("hbcore", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    if fd < 0:
        code = errno
        raise OSError(
            code,
            f"an engine in memory needs memfd_create (Linux 3.17): {os.strerror(code)}; a path in a tmpfs, such as "
            "/dev/shm, does the same",
        )
    return fd


cdef seal(int fd):
    # Seal the memory, so that nobody can shrink it under the mapping: there is no SIGBUS for memory engines.
    if c_fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0:
        code = errno
        raise OSError(
            code,
            f"an engine in memory needs file seals (fcntl F_ADD_SEALS, Linux 3.17): {os.strerror(code)}; a path in a "
            "tmpfs, such as /dev/shm, needs none",
        )


cdef void *map_file(int fd, uint64_t capacity, int protection, str advice) except NULL:
    # Map a file, or memory of this process alone if there is none (-1).
    cdef int kind = MAP_SHARED if fd >= 0 else MAP_PRIVATE | MAP_ANONYMOUS
    cdef void *address = mmap(NULL, capacity, protection, kind | MAP_NORESERVE, fd, 0)
    if address == MAP_FAILED:
        code = errno
        raise OSError(code, f"cannot map {capacity} bytes of address space: {os.strerror(code)}; {advice}")
    return address


cdef bytes key_check(const HashKey *key, bytes engine_id):
    # Return the bytes that tell the right key from a wrong one, in both halves of it, and tell nothing else about it.
    cdef UserKey out
    cdef bytes message = b"hbcore key check" + engine_id
    siphash128(key.number, <const unsigned char *>message, <size_t>len(message), &out)
    message += bytes_from_user_key(&out)
    siphash128(key.text, <const unsigned char *>message, <size_t>len(message), &out)
    return bytes_from_user_key(&out)


cdef bytes header_check(const hb_header *header):
    # Return the check of every header field that is written once.
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
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except OSError as error:
        raise HbcoreError(
            f"hbcore needs /proc, which tells one boot from the next: {error}; mount it (mount -t proc proc /proc)"
        ) from None


cdef check_header(Region region, wanted_capacity):
    # Check the header before anything is mapped. A system call reads it: if a file is too short, to read it through a
    # mapping would be a SIGBUS.
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
    # The frontier is only a hint, but it never lies beyond the disk space, which is allocated first.
    if header.frontier < FIRST_EXTENT or header.frontier % HB_UNIT or header.frontier + sizeof(hb_extent) > size:
        raise CorruptFileError(f"{path!r} is truncated or damaged: it has {size} bytes, and used {header.frontier}")
    if wanted_capacity is not None and wanted_capacity != header.capacity:
        raise ConflictError(f"{path!r} has a capacity of {header.capacity} bytes, not {wanted_capacity}")


cdef attach(Region region, uint64_t size, key, recover, bint huge_pages, str advice):
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
    if region.is_private:
        address = map_file(-1, header.capacity, PROT_READ | PROT_WRITE, advice)
        memcpy(address, &header, sizeof(hb_header))
        huge_pages = True       # only this kind of memory has them everywhere, so nobody need ask for them
    else:
        address = map_file(
            region.fd, header.capacity, PROT_READ if region.is_readonly else PROT_READ | PROT_WRITE, advice
        )
        # The kernel must not read ahead. A cached page of a hole counts as data for SEEK_DATA (ext4), so an audit that
        # walks the data of an index would make the next hole data by looking at the page before it, and would read on
        # to the end of the table.
        madvise(address, header.capacity, MADV_RANDOM)
    region.known_size = whole_grains(min(size, region.capacity))
    if huge_pages:
        # A kernel that has no huge pages says so, and takes ordinary ones.
        madvise(address, header.capacity, MADV_HUGEPAGE)
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
        presence_add(&region.presence)
        region.is_present = True
        region.register()
    hb_store_private(&region.closed, 0)
    if region.path is not None:
        open_regions[region.path, region.engine_id(), bool(region.is_readonly)] = region


cdef uint64_t namespace_ms() except? 0:
    # Return the milliseconds that the boot clock of this process is ahead of the machine's. Files have times by the
    # machine's clock.
    return <uint64_t><int64_t>boot_offset_ms()


cdef take_clock(Region region):
    cdef uint64_t offset = region.header.clock_offset_ms
    if region.header.clock_check != clock_check(region.header, offset, region.header.boot_id[:16]):
        raise CorruptFileError(f"{region.path!r} has a damaged clock")
    region.time_namespace = time_namespace()
    region.clock_offset_ms = offset - namespace_ms()


cdef fill_holes(Region region):
    # Allocate the holes of a file. A copy may be sparse, and on a full disk the first write to a hole would be a
    # SIGBUS. Space that is allocated already stays as it is.
    cdef struct_stat status
    cdef int64_t size
    if fstat(region.fd, &status) != 0:
        raise OSError(errno, os.strerror(errno), region.path)
    size = <int64_t>min(<uint64_t>status.st_size, region.capacity)
    while fallocate(region.fd, 0, 0, size) != 0:
        code = errno
        if code in (ENOSPC, EDQUOT, EFBIG):
            raise EngineFullError(f"no disk space for the holes of {region.path!r}: {no_space(code)}")
        if code != EINTR:
            raise OSError(code, f"cannot allocate the holes of the file: {os.strerror(code)}", region.path)


cdef bint is_awake(Region region, bytes boot):
    # Return whether the file was put right under this boot. If so, all that was done for that is seen: the fence pairs
    # with the full fence of wake.
    cdef bint answer = region.header.boot_id[:16] == boot
    hb_fence_acquire()
    return answer


cdef wake(Region region, recover):
    # Put the file right if this is the first opening after a reboot. No worker of the file is alive then, and one of
    # several processes that open it puts it right. The others wait for that one; nowhere else does anybody ever wait.
    # If it dies, the next one begins again. Nobody is registered meanwhile.
    cdef bytes boot = boot_id()
    cdef hb_presence presence       # a forked child closes the lock through this, so that it does not keep it
    cdef int code = EINTR
    if is_awake(region, boot):
        return
    presence.worker = 0
    presence.lock_fd = hb_reopen(&region.file)
    if presence.lock_fd < 0:
        raise OSError(errno, os.strerror(errno), region.path)
    presence_add(&presence)
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
        # The clock begins anew at a reboot. So does the time of every claim that is still GRANTED (recovery.pyx).
        region.clock_offset_ms = hb_now_ms() - hb_boot_ms()
        recover(region)
        region.header.clock_offset_ms = region.clock_offset_ms + namespace_ms()
        region.header.clock_check = clock_check(region.header, region.header.clock_offset_ms, boot)
        hb_fence_full()
        memcpy(region.header.boot_id, <const char *>boot, 16)
    finally:
        presence_remove(&presence)
