"""The directory: from the kind, the parent and the name of an object to its extent.

Lock-free and only ever added to. Making an object is one CAS, the one that puts its extent into the directory: who dies
before it leaves a MAKING extent that nothing names, who dies after it leaves a whole object that anyone may call LIVE.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from hbcore.atomics cimport hb_cas, hb_load_acquire
from hbcore.format cimport (
    HB_DIRECTORY_LEVELS, HB_KIND_BUDGET, HB_KIND_DIRECTORY, HB_KIND_LEVEL, HB_KIND_PART, HB_KIND_TOP_UP, HB_LEVELS,
    HB_PHASE_LIVE, HB_PHASE_MAKING, HB_PHASE_RETIRED, HB_PREFACE, HB_SEGMENTS, HB_UNIT, hb_budget, hb_extent,
)
from hbcore.region cimport (
    DIRECTORY_OFFSET, FIRST_EXTENT, SPACE_DISK, SPACE_FULL, Region, extent_phase, extent_size, worker_of,
)
from hbcore.user cimport UserKey, siphash128
from hbcore.wide cimport hb_multiply

from hbcore.errors import AuditError, CorruptFileError, EngineClosedError, EngineFullError

cdef enum:
    BUCKET_WORDS = 8
    FIRST_BUCKETS = 512
    GROWTH_BITS = 3             # each level has 8 times the buckets of the one before
    OFFSET_BITS = 36
    NAME_LIMIT = 255
    RESERVED = 64               # a level is an extent; its buckets begin after the header


cdef funded_function is_funded = NULL
cdef funded_function is_appended = NULL


cdef void directory_set_funded(funded_function function) noexcept:
    # What budgets know lies above the directory.
    global is_funded
    is_funded = function


cdef void directory_set_appended(funded_function function) noexcept:
    # What the top-ups of envelopes know does as well.
    global is_appended
    is_appended = function


cdef uint64_t *level_buckets(Region region, int level) except? NULL:
    # The buckets of a level, or NULL if it was not made yet.
    cdef uint64_t size, offset
    if level == 0:
        return <uint64_t *>(region.base + DIRECTORY_OFFSET)
    offset = hb_load_acquire(&region.header.directory[level])
    if offset == 0:
        return NULL
    size = RESERVED + (<uint64_t>FIRST_BUCKETS << GROWTH_BITS * level) * BUCKET_WORDS * 8
    if region.extent(offset, HB_KIND_DIRECTORY, size) == NULL:
        raise CorruptFileError(f"level {level} of the directory of {region.path!r} is damaged")
    return <uint64_t *>(region.base + offset + RESERVED)


cdef int make_level(Region region, int level) except -1:
    # Of several makers one wins, and all go on with its level.
    cdef uint64_t size = RESERVED + (<uint64_t>FIRST_BUCKETS << GROWTH_BITS * level) * BUCKET_WORDS * 8
    cdef int64_t offset = directory_allocate(region, size)
    (<hb_extent *>(region.base + offset)).kind = HB_KIND_DIRECTORY
    if hb_cas(&region.header.directory[level], 0, <uint64_t>offset):
        publish_extent(region, <uint64_t>offset)
    else:
        retire_extent(region, <uint64_t>offset)
    return 0


cdef int publish_extent(Region region, uint64_t offset) except -1:
    # Its maker does this, or anyone who finds it named: the object is whole.
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    cdef uint64_t state = hb_load_acquire(&extent.state)
    if extent_phase(state) == HB_PHASE_MAKING and not region.is_readonly:
        hb_cas(&extent.state, state, state ^ HB_PHASE_MAKING ^ HB_PHASE_LIVE)
    return 0


cdef int retire_extent(Region region, uint64_t offset) except -1:
    # Only the maker does this while it lives.
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    cdef uint64_t state = hb_load_acquire(&extent.state)
    hb_cas(&extent.state, state, state ^ HB_PHASE_MAKING ^ HB_PHASE_RETIRED)
    return 0


# ---- space ----------------------------------------------------------------------------------------------------------

cdef int64_t directory_allocate(Region region, uint64_t size) except -1:
    # An extent of at least `size` bytes in phase MAKING: new space, or, when there is no more, what nobody needs.
    cdef uint64_t worker = worker_of(region)
    cdef int64_t offset = region.allocate(worker, size)
    cdef int64_t status = offset
    cdef int code = errno
    cdef hb_extent *extent
    if status == SPACE_FULL or status == SPACE_DISK:
        offset = reuse(region, worker, size)
    if offset < 0:
        region.raise_for_space(status, size, code)
    # Whatever was there before: what a maker does not write is zero. The rest was never written, or is damage.
    extent = <hb_extent *>(region.base + offset)
    memset(<char *>extent + sizeof(extent.state), 0, min(size, <uint64_t>HB_PREFACE) - sizeof(extent.state))
    return offset


cdef int64_t reuse(Region region, uint64_t worker, uint64_t size) except -2:
    # Take over the first extent that is large enough and nobody's: retired, or half made by a worker who died before it
    # was named. -1: there is none. Several may try; the CAS that takes it decides.
    cdef uint64_t offset = FIRST_EXTENT
    cdef uint64_t state, taken
    cdef hb_extent *extent
    while region.contains(offset, sizeof(hb_extent)):       # each turn passes one extent
        extent = <hb_extent *>(region.base + offset)
        state = hb_load_acquire(&extent.state)
        if state == 0 or extent_size(state) == 0:
            return -1
        if (extent_size(state) >= size and region.contains(offset, extent_size(state)) and region.is_nobodys(state)
                and not is_named(region, offset)):
            taken = state >> 28 << 28 | (worker & 0xFFFFFF) << 4 | HB_PHASE_MAKING
            if hb_cas(&extent.state, state, taken):
                return <int64_t>offset
        offset += extent_size(state)
    return -1


cdef bytes extent_name(Region region, uint64_t offset):
    # The name of the object at `offset`, or None if it cannot have been given. Each field is read once.
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    cdef uint64_t length = extent.name_length
    cdef uint64_t begin = offset + extent.name_offset
    if length > NAME_LIMIT or not region.contains(begin, length):
        return None
    return (region.base + begin)[:length]


cdef bint is_named(Region region, uint64_t offset) except -1:
    # Whether something leads to the extent. Of a MAKING extent whose maker is dead: if not now, then never.
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    cdef hb_budget *budget
    cdef int level
    if extent.kind == HB_KIND_DIRECTORY:
        for level in range(1, HB_DIRECTORY_LEVELS):
            if hb_load_acquire(&region.header.directory[level]) == offset:
                return True
        return False
    if extent.kind == HB_KIND_LEVEL:
        budget = <hb_budget *>region.extent(extent.parent, HB_KIND_BUDGET, sizeof(hb_budget))
        for level in range(1, HB_SEGMENTS):
            if budget != NULL and (level < HB_LEVELS and hb_load_acquire(&budget.levels[level]) == offset
                                   or hb_load_acquire(&budget.segments[level]) == offset):
                return True
        return False
    if extent.kind == HB_KIND_TOP_UP:
        return is_funded(region, offset)
    if extent.kind == HB_KIND_PART:
        return is_appended(region, offset) or is_funded(region, offset)
    name = extent_name(region, offset)
    if name is None:
        return False        # half made
    if <uint64_t>walk(region, extent.kind, extent.parent, name, 0) == offset:
        return True
    return extent.parent != 0 and is_funded(region, offset)


# ---- names ----------------------------------------------------------------------------------------------------------

cdef inline uint64_t offset_of(uint64_t word) noexcept nogil:
    return (word & ((<uint64_t>1 << OFFSET_BITS) - 1)) * HB_UNIT


cdef UserKey name_hash(Region region, uint32_t kind, uint64_t parent, bytes name):
    cdef UserKey out
    cdef bytes message = kind.to_bytes(4, "little") + parent.to_bytes(8, "little") + name
    siphash128(region.header.directory_key, <const unsigned char *>PyBytes_AS_STRING(message),
               <size_t>PyBytes_GET_SIZE(message), &out)
    return out


cdef bint names(Region region, uint64_t word, uint32_t kind, uint64_t parent, bytes name) except -1:
    # Whether the object that a word of the directory, with the right tag, leads to is the one looked for. One of
    # another name has the same tag once in 2**28 times; that its own name gives this tag is looked at then, because a
    # name that damage has made unrecognisable must not be made a second time.
    cdef uint64_t offset = offset_of(word)
    cdef hb_extent *extent
    cdef UserKey key
    if region.contains(offset, sizeof(hb_extent)):
        extent = <hb_extent *>(region.base + offset)
        found = extent_name(region, offset)
        if found is not None and region.extent(offset, extent.kind, sizeof(hb_extent)) != NULL:
            if extent.kind == kind and extent.parent == parent and found == name:
                return True
            key = name_hash(region, extent.kind, extent.parent, found)
            if key.high << OFFSET_BITS == word >> OFFSET_BITS << OFFSET_BITS:
                return False
    shown = name.decode(errors="backslashreplace")
    raise CorruptFileError(f"the directory of {region.path!r} is damaged: the way to {shown!r} leads to no object")


cdef int64_t walk(Region region, uint32_t kind, uint64_t parent, bytes name, uint64_t offset) except? -1:
    # Follow the path of a name to its object, or to the first empty word, and put `offset` there unless it is 0.
    # Returns the offset of the object that has the name, or 0.
    cdef UserKey key = name_hash(region, kind, parent, name)
    cdef uint64_t tag = key.high << OFFSET_BITS
    cdef uint64_t word, hash, low, bucket
    cdef uint64_t *words
    cdef int level, i
    for level in range(HB_DIRECTORY_LEVELS):
        words = level_buckets(region, level)
        if words == NULL:
            if offset == 0:
                return 0
            make_level(region, level)
            words = level_buckets(region, level)
        # Every level has a hash of its own, so that names that crowd a bucket part on the next.
        hash = key.low + <uint64_t>level * (key.high | 1)
        bucket = hb_multiply(hash, <uint64_t>FIRST_BUCKETS << GROWTH_BITS * level, &low)
        words += bucket * BUCKET_WORDS
        for i in range(BUCKET_WORDS):
            word = hb_load_acquire(&words[i])
            if word == 0:
                if offset == 0:
                    return 0
                # This CAS makes the object. Release: whoever reads the word sees all of it.
                if hb_cas(&words[i], 0, tag | offset // HB_UNIT):
                    return <int64_t>offset
                word = hb_load_acquire(&words[i])
            if word >> OFFSET_BITS == tag >> OFFSET_BITS and names(region, word, kind, parent, name):
                return <int64_t>offset_of(word)
    if offset == 0:
        return 0
    raise EngineFullError(f"the directory has no room for another name in the bucket of {name!r}")


cdef int64_t directory_find(Region region, uint32_t kind, uint64_t parent, bytes name) except? -1:
    # The offset of the object, or 0.
    cdef int64_t offset = walk(region, kind, parent, name, 0)
    if offset > 0:
        publish_extent(region, <uint64_t>offset)
    return offset


cdef int64_t directory_insert(Region region, uint32_t kind, uint64_t parent, bytes name, uint64_t offset) except? -1:
    # Name the finished MAKING extent at `offset`. Returns the offset of whatever has the name now: that extent, or the
    # one of somebody who was first, and then ours is retired.
    cdef int64_t winner
    try:
        winner = walk(region, kind, parent, name, offset)
    except BaseException:
        retire_extent(region, offset)
        raise
    if <uint64_t>winner != offset:
        retire_extent(region, offset)
    publish_extent(region, <uint64_t>winner)
    return winner


cdef int directory_name(Region region, uint32_t kind, uint64_t parent, bytes name, uint64_t offset) except -1:
    # Name an object that a budget has funded: nothing else can ever have that name, and any number may do this. Without
    # space for another level it stays without a word of the directory, and while a file is put right after a reboot
    # nobody makes one: its budget leads to it as well.
    cdef uint64_t winner = offset
    try:
        winner = <uint64_t>walk(region, kind, parent, name, offset)
    except (EngineClosedError, EngineFullError):
        pass
    if winner != offset:
        shown = name.decode(errors="backslashreplace")
        raise CorruptFileError(f"the directory of {region.path!r} is damaged: {shown!r} is two objects")
    publish_extent(region, offset)
    return 0


def audit_directory(Region region):
    """Raise AuditError unless the chain of extents and the directory have the same objects."""
    cdef uint64_t offset = FIRST_EXTENT
    cdef uint64_t *words
    cdef uint64_t state, base, at, end, data_end, i, word
    cdef hb_extent *extent
    cdef int level
    named = {}      # the directory first: whatever it names stands in the chain, also if it is made meanwhile
    for level in range(HB_DIRECTORY_LEVELS):
        words = level_buckets(region, level)
        if words == NULL:
            continue
        if level:
            named[hb_load_acquire(&region.header.directory[level])] = f"level {level} of the directory"
        base = <char *>words - region.base
        end = base + (<uint64_t>FIRST_BUCKETS << GROWTH_BITS * level) * BUCKET_WORDS * 8
        at = region.next_data(base, end, &data_end)
        while at < end:
            for i in range((at - base) // 8, (data_end - base + 7) // 8):
                word = hb_load_acquire(&words[i])
                if word:
                    named[offset_of(word)] = f"word {i} of level {level} of the directory"
            at = region.next_data(data_end, end, &data_end)
    while region.contains(offset, sizeof(hb_extent)):       # each turn passes one extent
        extent = <hb_extent *>(region.base + offset)
        state = hb_load_acquire(&extent.state)
        if state == 0:
            break
        if extent_size(state) == 0 or not region.contains(offset, extent_size(state)):
            raise CorruptFileError(f"the chain of extents of {region.path!r} is damaged at byte {offset}")
        if extent_phase(state) not in (HB_PHASE_MAKING, HB_PHASE_LIVE, HB_PHASE_RETIRED):
            raise AuditError(f"the extent at byte {offset} has the impossible phase {extent_phase(state)}")
        if extent_phase(state) != HB_PHASE_RETIRED:
            where = named.pop(offset, None)
            if (where or extent_phase(state) == HB_PHASE_LIVE) and not is_named(region, offset):
                raise AuditError(f"the object at byte {offset} is damaged, or the directory does not lead to it")
        offset += extent_size(state)
    for offset, where in named.items():
        raise AuditError(f"{where} leads to byte {offset}, where no object is")
