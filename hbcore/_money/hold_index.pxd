# The hold index says where a key's hold is. It works on pointers and counts, without Python.
#
# The holds are numbered, and taken in turn. An index leads from a key to the number of its hold. It consists of levels
# of growing size, each an open-addressed table of words (tag, number). A key's hold is made by one CAS, the one that
# puts its number into the first empty word of the key's path; it stays there for ever, so that a released or settled
# key keeps its outcome. That is why two racing requests of one key meet at the same hold. Once the next level exists, a
# thread that would take an empty word closes it instead, for ever, and goes on in the next level: the path of a key
# ends at the first word that is empty, and nothing of it can ever stand behind. Nothing is moved, and nothing is freed.
# A death between taking a number and that CAS loses 64 bytes. A batch takes the numbers of a group of new keys by one
# CAS (hold_group.pyx), and a death before it has used them loses them all.
#
# Every path through a level begins at the first word of a cache line. So the words of a line are taken in turn, and how
# many are taken says where a path through the line ends: a look at a level is one line, read as a whole.
#
# All of it is inline, because every request goes this way, and it has no state but what lies in the mapping.
from libc.stdint cimport uint64_t

from hbcore._file.format cimport HB_LEVELS, HB_SEGMENTS, hb_hold
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport AGAIN, CORRUPT, CROWDED, FULL, LACKING, NOT_FOUND, PATH_ENDS, REPEATED
from hbcore._lib.atomics cimport (
    hb_cas, hb_load_acquire, hb_load_private, hb_load_relaxed, hb_prefetch_write, hb_set_words, hb_store_relaxed,
    hb_store_release,
)
from hbcore._lib.wide cimport hb_highest_bit, hb_lowest_bit, hb_multiply
from hbcore._money.hold cimport READ_LIMIT, Standing, hold_state

cdef enum:
    FIRST_LEVEL = 64            # words in level 0, holds in segment 0
    NUMBER_BITS = 36
    PATH_CLOSED = 1             # a word with this value: the path goes on in the next level
    LINE_WORDS = 8              # words of a cache line; every path through a level begins at the first of a line
    CROWDED_AT = 24             # words: a key that must go so far from its home shows that its level is full enough
    TAKE_LIMIT = 1 << 20        # every retry means that another thread has made progress; only damage brings so many


cdef struct HoldIndex:
    uint64_t *next              # [shared] hint: number of the next hold to be used
    uint64_t *level_offsets     # [shared] HB_LEVELS of them
    uint64_t *segment_offsets   # [shared] HB_SEGMENTS of them
    uint64_t levels[16]         # [private] addresses of the levels that this process has attached; 0: not yet
    uint64_t segments[32]       # [private] addresses of the segments that this process has attached; 0: not yet


cdef struct Spare:      # a hold that was taken and that no word names yet
    hb_hold *hold           # NULL: none
    uint64_t number
    uint64_t state          # the request that stands in it
    uint64_t first          # the numbers first .. end - 1 are this call's as well, and their holds are still clear
    uint64_t end


cdef inline Spare no_spare() noexcept nogil:
    cdef Spare spare
    spare.hold = NULL
    spare.first = spare.end = 0
    return spare


cdef inline UserKey proper(const UserKey *key) noexcept nogil:
    # Return a key as a hold has it. Its first word is not 0, because a hold whose key begins with 0 is nobody's yet.
    cdef UserKey out = key[0]
    out.low += out.low == 0
    return out


cdef inline uint64_t level_size(uint64_t level) noexcept nogil:
    # Return the words of a level. Levels grow by a factor of 64 while they are small, so that there are few of them,
    # because each is a cache miss for most of the keys there are. Then they grow by a factor of 4, so that little space
    # lies idle.
    return <uint64_t>FIRST_LEVEL << (6 * level if level < 3 else 2 * level + 8)


cdef inline uint64_t segment_first(uint64_t segment) noexcept nogil:
    # Return the number of a segment's first hold.
    return 0 if segment == 0 else <uint64_t>FIRST_LEVEL << (segment - 1)


cdef inline uint64_t segment_size(uint64_t segment) noexcept nogil:
    return <uint64_t>FIRST_LEVEL << (segment - (segment != 0))


cdef inline uint64_t home_of(const UserKey *key, uint64_t level) noexcept nogil:
    # Return where a key's path through a level begins. Every level has a hash of its own, so that keys that crowd
    # together in one level part in the next.
    cdef uint64_t low
    return hb_multiply(key.low + level * (key.high | 1), level_size(level), &low) & ~<uint64_t>(LINE_WORDS - 1)


cdef inline uint64_t *words_of(const HoldIndex *index, uint64_t level) noexcept nogil:
    return <uint64_t *>hb_load_private(&index.levels[level])


cdef inline uint64_t entry_of(const UserKey *key) noexcept nogil:
    # Return a key's word without the number of its hold. It is independent of where in the level the path of the key
    # begins.
    return <uint64_t>1 << 63 | key.high >> (NUMBER_BITS + 1) << NUMBER_BITS


cdef inline uint64_t segment_of(uint64_t number) noexcept nogil:
    return 0 if number < FIRST_LEVEL else hb_highest_bit(number // FIRST_LEVEL) + 1


cdef inline int hold_at(const HoldIndex *index, uint64_t number, hb_hold **hold) noexcept nogil:
    # Find the hold of a number. Return 0, LACKING, FULL (no segment has it yet) or CORRUPT.
    cdef uint64_t segment = segment_of(number)
    cdef char *holds
    if segment >= HB_SEGMENTS:
        return CORRUPT
    holds = <char *>hb_load_private(&index.segments[segment])
    if holds == NULL:
        return LACKING if hb_load_acquire(&index.segment_offsets[segment]) != 0 else FULL
    hold[0] = <hb_hold *>holds + (number - segment_first(segment))
    return 0


cdef inline void hold_index_prefetch(const HoldIndex *index, const UserKey *key) noexcept nogil:
    # Prefetch the first line of the key's path in the last level, which is larger than all others and seldom in the
    # cache, and then the one in the level before.
    cdef uint64_t level = 0
    while level + 1 < HB_LEVELS and words_of(index, level + 1) != NULL:
        level += 1
    hb_prefetch_write(words_of(index, level) + home_of(key, level))
    if level != 0:
        hb_prefetch_write(words_of(index, level - 1) + home_of(key, level - 1))


cdef inline int hold_in_line(
    const HoldIndex *index, const UserKey *key, const uint64_t *line, Standing *standing
) noexcept nogil:
    # Look for a key's hold in a line. Return REPEATED with the hold if a word of the line names it, NOT_FOUND, LACKING
    # or CORRUPT.
    cdef uint64_t word
    cdef int i, status
    for i in range(LINE_WORDS):
        word = hb_load_acquire(&line[i])
        if (word ^ entry_of(key)) < <uint64_t>1 << NUMBER_BITS:
            standing.number = word & ((<uint64_t>1 << NUMBER_BITS) - 1)
            status = hold_at(index, standing.number, &standing.hold)
            if status != 0:
                return LACKING if status == LACKING else CORRUPT
            if (hb_load_relaxed(&standing.hold.key[0]) == key.low
                    and hb_load_relaxed(&standing.hold.key[1]) == key.high):
                return REPEATED
    return NOT_FOUND


cdef inline int locate_in(
    const HoldIndex *index, const UserKey *key, uint64_t *words, uint64_t level, Standing *standing
) noexcept nogil:
    # Follow the path of a key through a level. Return REPEATED with the hold, NOT_FOUND with the first empty word,
    # PATH_ENDS if it goes on in the next level, LACKING, CROWDED (no word of the level is empty) or CORRUPT.
    cdef uint64_t taken, word
    cdef unsigned int set
    cdef uint64_t entry = entry_of(key)
    cdef uint64_t size = level_size(level)
    cdef uint64_t at = home_of(key, level)
    cdef uint64_t distance = 0
    cdef uint64_t looks = 0
    cdef int status, is_like
    while distance < size:
        # The loads pair with the CAS of occupy: the hold's key and request are there.
        set = hb_set_words(words + at, LINE_WORDS, entry, ~<uint64_t>0 << NUMBER_BITS, &is_like)
        if is_like:
            status = hold_in_line(index, key, words + at, standing)
            if status != NOT_FOUND:
                return status
        if set != (1 << LINE_WORDS) - 1:
            # The words of a line are taken in turn, so the path ends at the first that is not taken, unless it was
            # taken since: then the line is read again.
            taken = hb_lowest_bit(~<uint64_t>set)
            word = hb_load_acquire(&words[at + taken])
            # If a word behind it was seen taken, that one was read after this one had been taken, and the load above
            # must see this one taken. If it does not, a word is lost, and the key that it belonged to could be granted
            # twice.
            if set & (set + 1) and word >> 63 == 0:
                return CORRUPT
            if word == 0:
                standing.word = words + at + taken
                standing.level = level
                standing.distance = distance + taken
                return NOT_FOUND
            if word == PATH_CLOSED:
                return PATH_ENDS
            looks += 1
            if looks == READ_LIMIT:
                return CORRUPT
            continue
        distance += LINE_WORDS
        at = at + LINE_WORDS if at + LINE_WORDS < size else 0
    return CROWDED


cdef inline int hold_index_locate(const HoldIndex *index, const UserKey *key, Standing *standing) noexcept nogil:
    # Follow the path of a key to its hold, or to the first empty word. Return REPEATED, NOT_FOUND, LACKING, CROWDED
    # (there is no empty word, and no next level yet) or CORRUPT.
    cdef uint64_t level
    cdef uint64_t *words
    cdef int answer = CROWDED
    for level in range(HB_LEVELS):
        words = words_of(index, level)
        if words == NULL:
            if hb_load_acquire(&index.level_offsets[level]) != 0:
                return LACKING
            return CORRUPT if answer == PATH_ENDS else CROWDED
        answer = locate_in(index, key, words, level, standing)
        if answer != PATH_ENDS and answer != CROWDED:
            return answer
    return CORRUPT


cdef inline bint is_next_segment(const HoldIndex *index, uint64_t number) noexcept nogil:
    # Return whether a number is the first of a segment whose predecessor is there. (Segment 0 always is.)
    cdef uint64_t segment = hb_highest_bit(number // FIRST_LEVEL) + 1
    return (number == segment_first(segment)
            and (segment == 1 or hb_load_acquire(&index.segment_offsets[segment - 1]) != 0))


cdef inline int take_number(HoldIndex *index, Spare *spare) noexcept nogil:
    # Take a hold that nobody has. It is this call's until a word names it. Return 0, LACKING, FULL or CORRUPT.
    cdef uint64_t _attempt
    cdef int status
    while spare.first != spare.end:
        spare.number = spare.first
        spare.first += 1
        # What `next` has said is not believed here either.
        if (hold_at(index, spare.number, &spare.hold) == 0
                and hb_load_relaxed(&spare.hold.key[0]) == 0 and hb_load_relaxed(&spare.hold.state) == 0):
            return 0
    for _attempt in range(TAKE_LIMIT):
        # Acquire: the number is the first of a segment only after the segment before was made (is_next_segment).
        spare.number = hb_load_acquire(index.next)
        status = hold_at(index, spare.number, &spare.hold)
        if status != 0:
            if status == FULL and not is_next_segment(index, spare.number):
                status = CORRUPT    # beyond all holds that there are: the segments up to it would fill the engine
            break
        if hb_cas(index.next, spare.number, spare.number + 1):
            # What `next` says is not believed: a hold that is in use is passed over.
            if hb_load_relaxed(&spare.hold.key[0]) == 0 and hb_load_relaxed(&spare.hold.state) == 0:
                return 0
        status = CORRUPT
    spare.hold = NULL
    return status


cdef inline void take_numbers(HoldIndex *index, uint64_t count, Spare *spare) noexcept nogil:
    # Take the numbers of up to `count` holds by one CAS, as many as the segment of the first still has. There are none
    # if that segment is not attached: take_number then says what is lacking.
    cdef uint64_t first, end, _attempt
    cdef hb_hold *hold
    spare[0] = no_spare()
    for _attempt in range(TAKE_LIMIT):
        first = hb_load_acquire(index.next)
        if hold_at(index, first, &hold) != 0:
            return
        end = min(first + count, segment_first(segment_of(first) + 1))
        if hb_cas(index.next, first, end):
            spare.first = first
            spare.end = end
            # They lie side by side, and most likely no processor has them in its cache.
            while first < end:
                hb_prefetch_write(hold)
                hold += 1
                first += 1
            return


cdef inline void put_back(Spare *spare) noexcept nogil:
    # Clear the hold of an overtaken request, and count its number among those that were taken with it. If another key
    # has the hold next, then what give_number_back says of such a key holds for it too.
    cdef hb_hold *hold = spare.hold
    if hold != NULL:
        hb_store_relaxed(&hold.state, 0)
        hb_store_relaxed(&hold.key[1], 0)
        hb_store_relaxed(&hold.key[0], 0)
        spare.hold = NULL
        spare.first = spare.number
        spare.end = max(spare.end, spare.number + 1)    # where all that were taken are in use, this came after them


cdef inline void give_numbers_back(HoldIndex *index, const Spare *spare) noexcept nogil:
    # Return the numbers that take_numbers has taken and that were not used, if they are still the newest.
    if spare.first != spare.end:
        hb_cas(index.next, spare.end, spare.first)


cdef inline void give_number_back(HoldIndex *index, const Spare *spare) noexcept nogil:
    # Return an overtaken request's hold number if it is still the newest: then the next request may have it. The hold's
    # key will be another one then, because this key has its hold elsewhere, so a thread that reads the hold by its
    # number sees the change.
    if spare.hold != NULL:
        hb_store_relaxed(&spare.hold.state, 0)
        hb_store_relaxed(&spare.hold.key[1], 0)
        hb_store_relaxed(&spare.hold.key[0], 0)
        hb_cas(index.next, spare.number + 1, spare.number)


cdef inline int occupy(
    HoldIndex *index, const UserKey *key, int kind, uint64_t value, uint64_t now_ms, Standing *standing, Spare *spare
) noexcept nogil:
    # Take the empty word where a key's path ends, for a hold with the request for this kind and value. Return 0, AGAIN,
    # CROWDED, LACKING, FULL or CORRUPT.
    cdef int status
    if standing.level + 1 < HB_LEVELS and hb_load_acquire(&index.level_offsets[standing.level + 1]) != 0:
        # The path is closed only when the next level is there, because a path that is closed leads on.
        hb_cas(standing.word, 0, PATH_CLOSED)
        return AGAIN
    if standing.distance >= CROWDED_AT:
        return CROWDED
    if spare.hold == NULL:
        status = take_number(index, spare)
        if status != 0:
            return status
        # The request is whole before any thread can be led to it. A thread that reads the hold by its number may see it
        # already (account_read); no money ever names it while no word does. Release: a state that is seen goes with
        # this key and this value; and a key that is seen comes after what was in the hold before it, so that a thread
        # that reads the same key before and after has read nothing else in between.
        hb_store_relaxed(&spare.hold.key[1], key.high)
        hb_store_release(&spare.hold.key[0], key.low)
        hb_store_release(&spare.hold.value, value)
        spare.state = hold_state(kind, 1, now_ms)
        hb_store_release(&spare.hold.state, spare.state)
    # This CAS makes the hold. Release: a thread that reads the word sees key and request. A death right after this
    # leaves a request that any thread may fulfil, or refuse.
    if not hb_cas(standing.word, 0, entry_of(key) | spare.number):
        return AGAIN
    standing.hold = spare.hold
    standing.number = spare.number
    standing.state = standing.announced = spare.state
    standing.value = value
    spare.hold = NULL
    return 0
