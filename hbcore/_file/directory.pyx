"""The directory leads from the kind, the parent and the name of an object to its extent.

It is lock-free and only ever added to. Making an object is one CAS, the one that puts its extent into the directory. A
process that dies before this CAS leaves a MAKING extent that nothing names; one that dies after it leaves a whole
object that any process may call LIVE.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from hbcore._file.format cimport (
    HB_DIRECTORY_LEVELS, HB_KIND_BUDGET, HB_KIND_DIRECTORY, HB_KIND_ENVELOPE, HB_KIND_LEVEL, HB_KIND_TABLE,
    HB_KIND_TOP_UP, HB_KIND_TRANCHE, HB_LEVELS, HB_PHASE_LIVE, HB_PHASE_MAKING, HB_PHASE_RETIRED, HB_PREFACE,
    HB_SEGMENTS, HB_UNIT, hb_budget, hb_envelope, hb_extent,
)
from hbcore._file.region cimport (
    CHAIN_BROKEN, CHAIN_EXTENT, DIRECTORY_OFFSET, SPACE_DISK, SPACE_FULL, Heading, Region, extent_phase, extent_size,
    heading_of, worker_of,
)
from hbcore._keys.user cimport UserKey, siphash128
from hbcore._lib.atomics cimport (
    hb_cas, hb_fence_release, hb_load_acquire, hb_load_private, hb_load_relaxed, hb_prefetch_read,
)
from hbcore._lib.limits cimport NAME_LIMIT
from hbcore._lib.wide cimport hb_multiply

from hbcore.errors import AuditError, CorruptFileError, EngineClosedError, EngineFullError

cdef enum:
    BUCKET_WORDS = 8
    FIRST_BUCKETS = 512
    GROWTH_BITS = 3             # each level has 8 times the buckets of the one before
    OFFSET_BITS = 36
    RESERVED = 64               # bytes; a level is an extent, and its buckets begin after the header
    # What walk returns where it has no offset to return:
    NO_ROOM = -2                # the bucket of the last level is full as well
    NO_OBJECT = -3              # damage: the way leads to no object
    NO_BUCKETS = -4             # minus the number of a level: that level is damaged
    NO_LEVEL = -100             # minus the number of a level: that level must be made first


cdef funded_function is_funded = NULL
cdef funded_function is_appended = NULL


cdef void directory_set_funded(funded_function function) noexcept:
    # Set is_funded. The directory cannot import it: what budgets know lies in a layer above.
    global is_funded
    is_funded = function


cdef void directory_set_appended(funded_function function) noexcept:
    # Set is_appended: what the top-ups of envelopes know lies in a layer above as well.
    global is_appended
    is_appended = function


cdef inline uint64_t bucket_count(int level) noexcept nogil:
    return <uint64_t>FIRST_BUCKETS << GROWTH_BITS * level


cdef inline uint64_t level_size(int level) noexcept nogil:
    # Return the bytes of the extent of a level.
    return RESERVED + bucket_count(level) * BUCKET_WORDS * 8


cdef bint level_buckets(Region region, int level, uint64_t **words) noexcept nogil:
    # Set *words to the buckets of a level, or to NULL if it was not made yet. Return False if the level is damaged.
    cdef uint64_t offset
    words[0] = <uint64_t *>(region.base + DIRECTORY_OFFSET)
    if level == 0:
        return True
    offset = hb_load_acquire(&region.header.directory[level])
    words[0] = <uint64_t *>(region.base + offset + RESERVED) if offset else NULL
    return offset == 0 or region.extent(offset, HB_KIND_DIRECTORY, level_size(level)) != NULL


cdef int make_level(Region region, int level) except -1:
    # Make that level, if there still is none: a process that comes after its maker must not make it once more for
    # nothing, for it is 8 times as large as the level before. If several make it, one wins, and all go on with its
    # level.
    cdef int64_t offset
    if hb_load_acquire(&region.header.directory[level]) != 0:
        return 0
    offset = directory_allocate(region, level_size(level))
    (<hb_extent *>(region.base + offset)).kind = HB_KIND_DIRECTORY
    if hb_cas(&region.header.directory[level], 0, <uint64_t>offset):
        publish_extent(region, <uint64_t>offset)
    else:
        retire_extent(region, <uint64_t>offset)
    return 0


cdef int publish_extent(Region region, uint64_t offset) except -1 nogil:
    # Call a named extent LIVE. Its maker does this, or any process that finds it named: the object is whole.
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    cdef uint64_t state = hb_load_acquire(&extent.state)
    if extent_phase(state) == HB_PHASE_MAKING and not region.is_readonly:
        hb_cas(&extent.state, state, state ^ HB_PHASE_MAKING ^ HB_PHASE_LIVE)
    return 0


cdef int retire_extent(Region region, uint64_t offset) except -1 nogil:
    # Call a MAKING extent RETIRED. As long as its maker lives, only the maker does this.
    cdef hb_extent *extent = <hb_extent *>(region.base + offset)
    cdef uint64_t state = hb_load_acquire(&extent.state)
    hb_cas(&extent.state, state, state ^ HB_PHASE_MAKING ^ HB_PHASE_RETIRED)
    return 0


# ---- space ----------------------------------------------------------------------------------------------------------

cdef int64_t directory_allocate(Region region, uint64_t size) except -1 nogil:
    # Return an extent of at least `size` bytes in phase MAKING: new space, or, when there is no more, space that nobody
    # needs.
    cdef uint64_t worker = hb_load_private(&region.presence.worker)
    cdef int64_t offset
    cdef hb_extent *extent
    if worker == 0:
        with gil:
            worker = worker_of(region)
    offset = region.allocate(worker, size)
    if offset < 0:
        offset = space_elsewhere(region, worker, size, offset, errno)
    # Whatever was there before, what a maker does not write is zero. The rest was never written, or is damage.
    # Release: a thread that comes late and reads some of this in place of the object that was there sees also that this
    # object was refused (fulfil, in account.pyx).
    hb_fence_release()
    extent = <hb_extent *>(region.base + offset)
    memset(<char *>extent + sizeof(extent.state), 0, min(size, <uint64_t>HB_PREFACE) - sizeof(extent.state))
    return offset


cdef int64_t space_elsewhere(
    Region region, uint64_t worker, uint64_t size, int64_t status, int code
) except -1 with gil:
    # Return space that nobody needs, where there is no new space. If there is none, raise an error that says why.
    cdef int64_t offset = -1
    if status == SPACE_FULL or status == SPACE_DISK:
        offset = reuse(region, worker, size)
    if offset < 0:
        region.raise_for_space(status, size, code)
    return offset


cdef int64_t reuse(Region region, uint64_t worker, uint64_t size) except -2:
    # Take over the first extent that is large enough and belongs to nobody: it was retired, or half made by a worker
    # that died before the extent was named. Return its offset, or -1 if there is none. Several may try; the CAS that
    # takes it decides.
    cdef uint64_t offset = 0
    cdef uint64_t state, taken
    while region.next_extent(&offset, &state) == CHAIN_EXTENT:
        if extent_size(state) >= size and region.is_nobodys(state) and not is_named(region, offset):
            taken = state >> 28 << 28 | (worker & 0xFFFFFF) << 4 | HB_PHASE_MAKING
            if hb_cas(&(<hb_extent *>(region.base + offset)).state, state, taken):
                return <int64_t>offset
    return -1


cdef const unsigned char *extent_text(Region region, uint64_t offset, uint64_t *length) noexcept nogil:
    # Return the name of the object at `offset`, or NULL if this name cannot have been given.
    cdef Heading heading = heading_of(<hb_extent *>(region.base + offset))
    cdef uint64_t begin = offset + heading.name_offset
    length[0] = heading.name_length
    if length[0] > NAME_LIMIT or not region.contains(begin, length[0]):
        return NULL
    return <const unsigned char *>(region.base + begin)


cdef bytes extent_name(Region region, uint64_t offset):
    # Return the name of the object at `offset` as bytes, or None if it cannot have been given.
    cdef uint64_t length
    cdef const unsigned char *text = extent_text(region, offset, &length)
    return None if text == NULL else text[:length]


cdef bint is_named(Region region, uint64_t offset) except -1:
    # Return whether something leads to the extent. If nothing leads to a MAKING extent whose maker is dead, nothing
    # ever will.
    cdef Heading heading = heading_of(<hb_extent *>(region.base + offset))
    cdef hb_budget *budget
    cdef hb_envelope *envelope
    cdef Name name
    cdef int level
    if heading.kind == HB_KIND_DIRECTORY:
        for level in range(1, HB_DIRECTORY_LEVELS):
            if hb_load_acquire(&region.header.directory[level]) == offset:
                return True
        return False
    if heading.kind == HB_KIND_LEVEL:
        budget = <hb_budget *>region.extent(heading.parent, HB_KIND_BUDGET, sizeof(hb_budget))
        for level in range(1, HB_SEGMENTS):
            if budget != NULL and (level < HB_LEVELS and hb_load_acquire(&budget.levels[level]) == offset
                                   or hb_load_acquire(&budget.segments[level]) == offset):
                return True
        return False
    if heading.kind == HB_KIND_TABLE:
        envelope = <hb_envelope *>region.extent(heading.parent, HB_KIND_ENVELOPE, sizeof(hb_envelope))
        return envelope != NULL and hb_load_acquire(&envelope.second_table) == offset
    if heading.kind == HB_KIND_TOP_UP:
        return is_funded(region, offset)
    if heading.kind == HB_KIND_TRANCHE:
        return is_appended(region, offset) or is_funded(region, offset)
    encoded = extent_name(region, offset)
    if encoded is None:
        return False        # the object is half made
    name_set(region, heading.kind, heading.parent, encoded, <uint64_t>len(encoded), &name)
    if <uint64_t>name_find(region, &name) == offset:
        return True
    return heading.parent != 0 and is_funded(region, offset)


# ---- names ----------------------------------------------------------------------------------------------------------

cdef inline uint64_t offset_of(uint64_t word) noexcept nogil:
    return (word & ((<uint64_t>1 << OFFSET_BITS) - 1)) * HB_UNIT


cdef void name_set(
    Region region, uint32_t kind, uint64_t parent, const unsigned char *text, uint64_t length, Name *name
) noexcept nogil:
    # Fill in a Name. `text` has at most NAME_LIMIT bytes, which must stay for as long as the Name is used.
    cdef unsigned char[12 + NAME_LIMIT] message
    name.kind = kind
    name.parent = parent
    name.text = text
    name.length = length
    siphash128(region.header.directory_key, message, name_message(name, message), &name.key)


cdef size_t name_message(const Name *name, unsigned char *message) noexcept nogil:
    # Write what is hashed for a name, 12 + NAME_LIMIT bytes at most. Return how many.
    memcpy(message, &name.kind, 4)
    memcpy(message + 4, &name.parent, 8)
    memcpy(message + 12, name.text, name.length)
    return 12 + name.length


cdef UserKey name_hash(Region region, uint32_t kind, uint64_t parent, bytes name):
    cdef Name out
    name_set(region, kind, parent, <const unsigned char *>PyBytes_AS_STRING(name), <uint64_t>PyBytes_GET_SIZE(name),
             &out)
    return out.key


cdef inline uint64_t *bucket_of(uint64_t *words, int level, const UserKey *key) noexcept nogil:
    # Return the bucket of a name in a level. Every level has a hash of its own, so that names that crowd one bucket are
    # spread on the next level.
    cdef uint64_t low
    return words + hb_multiply(key.low + <uint64_t>level * (key.high | 1), bucket_count(level), &low) * BUCKET_WORDS


cdef void directory_prefetch(Region region, const Name *name) noexcept nogil:
    # Prefetch the buckets on the path of a name. The offsets are not checked: what is not there is not fetched.
    cdef uint64_t offset = DIRECTORY_OFFSET - RESERVED
    cdef int level = 0
    while offset != 0:
        hb_prefetch_read(bucket_of(<uint64_t *>(region.base + offset + RESERVED), level, &name.key))
        level += 1
        offset = hb_load_relaxed(&region.header.directory[level]) if level < HB_DIRECTORY_LEVELS else 0


cdef int names(Region region, uint64_t word, const Name *name) noexcept nogil:
    # Return whether the object that a word of the directory leads to is the one looked for (1 or 0), or NO_OBJECT. The
    # word has the right tag. An object of another name has the same tag once in 2**28 times; then its own name must
    # give this tag, because a name that damage has made unrecognisable must not be made a second time.
    cdef uint64_t offset = offset_of(word)
    cdef uint64_t length
    cdef const unsigned char *text
    cdef Heading heading
    cdef Name found
    if not region.contains(offset, sizeof(hb_extent)):
        return NO_OBJECT
    heading = heading_of(<hb_extent *>(region.base + offset))
    text = extent_text(region, offset, &length)
    if text == NULL or region.extent(offset, heading.kind, sizeof(hb_extent)) == NULL:
        return NO_OBJECT
    if (heading.kind == name.kind and heading.parent == name.parent and length == name.length
            and memcmp(text, name.text, length) == 0):
        return 1
    name_set(region, heading.kind, heading.parent, text, length, &found)
    if found.key.high << OFFSET_BITS == word >> OFFSET_BITS << OFFSET_BITS:
        return 0
    return NO_OBJECT


cdef int64_t walk(Region region, const Name *name, uint64_t offset) noexcept nogil:
    # Follow the path of a name to its object, or to the first empty word, and put `offset` there unless it is 0. Return
    # the offset of the object that has the name, or 0, or what is in the way.
    cdef uint64_t tag = name.key.high << OFFSET_BITS
    cdef uint64_t word
    cdef uint64_t *words
    cdef int level, i, answer
    for level in range(HB_DIRECTORY_LEVELS):
        if not level_buckets(region, level, &words):
            return NO_BUCKETS - level
        if words == NULL:
            return 0 if offset == 0 else NO_LEVEL - level
        words = bucket_of(words, level, &name.key)
        for i in range(BUCKET_WORDS):
            word = hb_load_acquire(&words[i])
            if word == 0:
                if offset == 0:
                    return 0
                # This CAS makes the object. It releases: a process that reads the word sees all of the object.
                if hb_cas(&words[i], 0, tag | offset // HB_UNIT):
                    return <int64_t>offset
                word = hb_load_acquire(&words[i])
            if word >> OFFSET_BITS == tag >> OFFSET_BITS:
                answer = names(region, word, name)
                if answer != 0:
                    return <int64_t>offset_of(word) if answer == 1 else answer
    return 0 if offset == 0 else NO_ROOM


cdef int64_t walk_on(Region region, const Name *name, uint64_t offset, int64_t status) except -1 with gil:
    # Go on where a walk has come to something that it could not do: make the level that it needs, or raise.
    cdef int _turn
    for _turn in range(HB_DIRECTORY_LEVELS):
        if status > NO_LEVEL:
            break
        make_level(region, <int>(NO_LEVEL - status))
        status = walk(region, name, offset)
    if status >= 0:
        return status
    shown = name.text[:name.length].decode(errors="backslashreplace")
    if status == NO_ROOM:
        raise EngineFullError(f"the directory has no room for another name in the bucket of {shown!r}")
    if status <= NO_BUCKETS:
        raise CorruptFileError(f"level {NO_BUCKETS - status} of the directory of {region.path!r} is damaged")
    raise CorruptFileError(f"the directory of {region.path!r} is damaged: the way to {shown!r} leads to no object")


cdef int64_t name_find(Region region, const Name *name) except -1 nogil:
    # Return the offset of the object that has the name, or 0.
    cdef int64_t offset = walk(region, name, 0)
    return offset if offset >= 0 else walk_on(region, name, 0, offset)


cdef int64_t directory_find(Region region, const Name *name) except -1 nogil:
    # Return the offset of the object that has the name, or 0. An object that is found is whole, and is published.
    cdef int64_t offset = name_find(region, name)
    if offset > 0:
        publish_extent(region, <uint64_t>offset)
    return offset


cdef int64_t directory_insert(Region region, const Name *name, uint64_t offset) except -1 nogil:
    # Name the finished MAKING extent at `offset`. Return the offset of the object that has the name now: that extent,
    # or the extent of a maker that was first; then ours is retired.
    cdef int64_t winner = walk(region, name, offset)
    if winner < 0:
        winner = insert_on(region, name, offset, winner)
    if <uint64_t>winner != offset:
        retire_extent(region, offset)
    publish_extent(region, <uint64_t>winner)
    return winner


cdef int64_t insert_on(Region region, const Name *name, uint64_t offset, int64_t status) except -1 with gil:
    try:
        return walk_on(region, name, offset, status)
    except BaseException:
        retire_extent(region, offset)
        raise


cdef int directory_name(Region region, const Name *name, uint64_t offset) except -1 nogil:
    # Name an object that a budget has funded. Nothing else can ever have that name, and any number of processes may do
    # this. Without space for another level the object stays without a word in the directory, and while a file is put
    # right after a reboot no level is made: the budget leads to the object as well.
    cdef int64_t winner = walk(region, name, offset)
    if <uint64_t>winner != offset:
        name_on(region, name, offset, winner)
    publish_extent(region, offset)
    return 0


cdef int name_on(Region region, const Name *name, uint64_t offset, int64_t status) except -1 with gil:
    try:
        if <uint64_t>walk_on(region, name, offset, status) == offset:
            return 0
    except (EngineClosedError, EngineFullError):
        return 0
    shown = name.text[:name.length].decode(errors="backslashreplace")
    raise CorruptFileError(f"the directory of {region.path!r} is damaged: {shown!r} is two objects")


def audit_directory(Region region):
    """Raise AuditError unless the chain of extents and the directory have the same objects."""
    cdef uint64_t offset = 0
    cdef uint64_t *words
    cdef uint64_t state, base, at, end, data_end, i, word
    cdef int level, step
    named = {}      # the directory is read first: all that it names stands in the chain, also what is made meanwhile
    for level in range(HB_DIRECTORY_LEVELS):
        if not level_buckets(region, level, &words):
            raise CorruptFileError(f"level {level} of the directory of {region.path!r} is damaged")
        if words == NULL:
            continue
        if level:
            named[hb_load_acquire(&region.header.directory[level])] = f"level {level} of the directory"
        base = <char *>words - region.base
        end = base + bucket_count(level) * BUCKET_WORDS * 8
        at = region.next_data(base, end, &data_end)
        while at < end:
            for i in range((at - base) // 8, (data_end - base + 7) // 8):
                word = hb_load_acquire(&words[i])
                if word:
                    named[offset_of(word)] = f"word {i} of level {level} of the directory"
            at = region.next_data(data_end, end, &data_end)
    step = region.next_extent(&offset, &state)
    while step == CHAIN_EXTENT:
        if extent_phase(state) not in (HB_PHASE_MAKING, HB_PHASE_LIVE, HB_PHASE_RETIRED):
            raise AuditError(f"the extent at byte {offset} has the impossible phase {extent_phase(state)}")
        if extent_phase(state) != HB_PHASE_RETIRED:
            where = named.pop(offset, None)
            if (where or extent_phase(state) == HB_PHASE_LIVE) and not is_named(region, offset):
                raise AuditError(f"the object at byte {offset} is damaged, or the directory does not lead to it")
        step = region.next_extent(&offset, &state)
    if step == CHAIN_BROKEN:
        raise CorruptFileError(f"the chain of extents of {region.path!r} is damaged at byte {offset}")
    for offset, where in named.items():
        raise AuditError(f"{where} leads to byte {offset}, where no object is")
