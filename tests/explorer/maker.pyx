"""The explorer's other half: every interleaving and every death of a few makers of envelopes, in miniature.

The makers are fibers, as in ``explorer.pyx``; each is a worker of its own with a real lock on a real memfd, which is
dropped when it dies. They run the directory and the allocation of space from hbcore's own sources, with a directory of
one word on its first level, so that a second name needs another level. The GIL is held all the while: a fiber is only
ever switched at an atomic operation, where no Python code is running.
"""
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from common cimport (
    OPERATION_LIMIT, Search, explore_died, explore_run, explore_watch, search_begin, search_goes_on, search_result,
    work_function,
)
from hbcore._file.directory cimport Name, directory_allocate, directory_find, directory_insert, is_named, name_set
from hbcore._file.format cimport HB_KIND_ENVELOPE, HB_PHASE_LIVE, HB_PHASE_MAKING, hb_extent
from hbcore._file.process cimport hb_file, hb_lock_life, hb_reopen
from hbcore._file.region cimport DIRECTORY_OFFSET, FIRST_EXTENT, Region, extent_phase, extent_size

from hbcore.errors import CorruptFileError, EngineFullError
from hbcore._file.opening import open_region

cdef extern from "process.h" nogil:
    int hb_reopen(const hb_file *file)
    int hb_lock_life(int fd, uint64_t number, uint64_t epoch)

cdef enum:
    SIZE = 128              # bytes of an object: its header and its name
    WORKER = 500            # operation i is worker number 500 + i, epoch 1
    HEADER = 64
    PLENTY = 8192

cdef struct Operation:
    int name
    int64_t answer          # the offset of the object; 0: the engine is full

cdef Region region = None
cdef Operation operations[OPERATION_LIMIT]
cdef int lives[OPERATION_LIMIT]
cdef int operation_count


cdef void resumed(int fiber) noexcept nogil:
    region.presence.worker = <uint64_t>(WORKER + fiber) | 1 << 12


cdef void died(int fiber) noexcept nogil:
    close(lives[fiber])
    lives[fiber] = -1


cdef bytes name_of(int name):
    return b"name %d" % name


cdef int64_t find(bytes name) except -1:
    cdef Name place
    name_set(region, HB_KIND_ENVELOPE, 0, name, <uint64_t>len(name), &place)
    return directory_find(region, &place)


cdef int64_t make(bytes name) except -1:
    # What the creation of an envelope does, without the terms.
    cdef Name place
    cdef int64_t offset
    cdef hb_extent *extent
    name_set(region, HB_KIND_ENVELOPE, 0, name, <uint64_t>len(name), &place)
    offset = directory_find(region, &place)
    if offset > 0:
        return offset
    offset = directory_allocate(region, SIZE)
    extent = <hb_extent *>(region.base + offset)
    extent.kind = HB_KIND_ENVELOPE
    extent.name_length = <uint16_t>len(name)
    extent.name_offset = HEADER
    memcpy(<char *>extent + HEADER, <const char *>name, len(name))
    return directory_insert(region, &place, <uint64_t>offset)


cdef void operate(void *argument) noexcept:
    cdef Operation *operation = <Operation *>argument
    try:
        operation.answer = make(name_of(operation.name))
    except EngineFullError:
        operation.answer = 0


cdef const char *check(bint is_full) except? NULL:
    # What is wrong after a run, or NULL.
    cdef uint64_t offset = FIRST_EXTENT
    cdef hb_extent *extent
    cdef int64_t found
    cdef int i, j
    cdef bint has_deaths = False
    cdef uint64_t state
    for i in range(operation_count):
        has_deaths = has_deaths or explore_died(i)
        if explore_died(i):
            continue
        found = find(name_of(operations[i].name))
        if operations[i].answer == 0 and not is_full:
            return b"a maker says that the engine is full"
        if operations[i].answer and found != operations[i].answer:
            return b"a name leads somewhere else than its maker was told"
        for j in range(i):
            if not explore_died(j) and operations[i].answer and operations[j].answer:
                if (operations[i].answer == operations[j].answer) != (operations[i].name == operations[j].name):
                    return b"two names lead to one object, or one name to two"
    region.presence.worker = 1 | 1 << 12
    for i in range(operation_count):    # what the dead were making can be made, or is
        try:
            found = make(name_of(operations[i].name))
        except EngineFullError:
            if not is_full:
                return b"what the dead were making cannot be made"
    while True:
        extent = <hb_extent *>(region.base + offset)
        state = extent.state
        if state == 0:
            break
        if extent_size(state) == 0:
            return b"the chain is broken"
        if extent_phase(state) == HB_PHASE_MAKING and not has_deaths:
            return b"an object was left half made"
        if extent_phase(state) == HB_PHASE_LIVE and extent.kind == HB_KIND_ENVELOPE and extent_size(state) == SIZE:
            name = (region.base + offset + extent.name_offset)[: extent.name_length]
            if find(name) != <int64_t>offset:
                return b"an object is live, but its name does not lead to it"
        offset += extent_size(state)
    return take_all()


cdef const char *take_all() except? NULL:
    # Every extent that is nobody's is taken over when space is short, each once.
    cdef int64_t offset
    taken = set()
    while True:
        try:
            offset = directory_allocate(region, SIZE)
        except EngineFullError:
            break
        if offset in taken:
            return b"space was handed out twice"
        taken.add(offset)
    offset = FIRST_EXTENT
    while (<hb_extent *>(region.base + offset)).state:
        state = (<hb_extent *>(region.base + offset)).state
        if (extent_phase(state) != HB_PHASE_LIVE and extent_size(state) >= SIZE and offset not in taken
                and not is_named(region, offset)):
            return b"space is stranded"
        offset += extent_size(state)
    return NULL


cdef reset(before, uint64_t room):
    cdef int i
    cdef uint64_t taken
    # Only what a run can have written: the directory, what was made before, and what the filler leaves at the end.
    memset(region.base + DIRECTORY_OFFSET, 0, FIRST_EXTENT - DIRECTORY_OFFSET + PLENTY)
    memset(region.base + region.capacity - PLENTY, 0, PLENTY)
    memset(region.header.directory, 0, sizeof(region.header.directory))
    region.header.frontier = region.frontier = FIRST_EXTENT
    region.presence.worker = 2 | 1 << 12
    for name in before:
        make(name_of(name))
    # One object takes the rest but `room` bytes.
    taken = 0
    while (<hb_extent *>(region.base + FIRST_EXTENT + taken)).state:
        taken += extent_size((<hb_extent *>(region.base + FIRST_EXTENT + taken)).state)
    (<hb_extent *>(region.base + FIRST_EXTENT + taken)).state = (
        (region.capacity - FIRST_EXTENT - taken - (room or PLENTY // 2) - HEADER) // 64 << 28 | HB_PHASE_LIVE)
    for i in range(operation_count):
        operations[i].answer = -9
        if lives[i] < 0:
            lives[i] = hb_reopen(&region.file)
            if hb_lock_life(lives[i], WORKER + i, 1) != 0:
                raise OSError("no lock")


def explore_makers(race, before=(), int preemptions=3, int deaths=0, int room=0, long limit=0):
    """Let makers of the names in ``race`` (two to four numbers) run through every schedule, after ``before``.

    ``room``: bytes that the engine has left; 0: enough.

    Returns as ``search_result`` of ``common.pxd`` does.
    """
    global region, operation_count
    cdef void *arguments[OPERATION_LIMIT]
    cdef Search search
    cdef const char *wrong
    cdef int i
    if region is None:
        region = open_region(None, 1 << 20, 0o600, None, None)
        if hb_lock_life(hb_reopen(&region.file), 1, 1) != 0:   # of who looks afterwards
            raise OSError("no lock")
        memset(region.header.directory_key, 7, sizeof(region.header.directory_key))    # the same paths in every run
    operation_count = len(race)
    for i in range(operation_count):
        lives[i] = -1
        operations[i].name = race[i]
        arguments[i] = &operations[i]
    search_begin(&search, preemptions, deaths, limit)
    explore_watch(resumed, died, NULL)
    while True:
        reset(before, room)
        wrong = b"livelock"
        if explore_run(operation_count, <work_function>operate, arguments) == 0:
            try:
                wrong = check(room != 0)
            except CorruptFileError:
                wrong = b"a name leads to no object"
        if not search_goes_on(&search, wrong):
            break
    explore_watch(NULL, NULL, NULL)
    for i in range(operation_count):
        if lives[i] >= 0:
            close(lives[i])
    answers = [(race[i], operations[i].answer, bool(explore_died(i))) for i in range(operation_count)]
    return search_result(&search, answers)
