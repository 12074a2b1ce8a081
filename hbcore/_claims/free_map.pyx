"""The free map: one bit for each block of 64 slots says "nothing free here", and one bit for each word of 32 such bits
says it of all of them.

It makes SOLD_OUT true and O(1), and the way to the last free packet short. A bit may be wrong only towards looking
again: a free slot never lies under a set bit, whichever process dies, and whenever. The argument:

- A word is 32 bits of children, 8 bits that count pins and a 24-bit version. A bit is set by one CAS from the word that
  was read *before* the child was looked at, only if every slot of the block was final (granted, settled or refunded),
  and never in a word that is pinned. A word is full if all its bits are set and it is not pinned.
- A final slot becomes free by GRANTED -> RELEASING -> FREE. Before the first of these steps the releaser pins the
  block's word, and clears the bit and raises the version of every word from the block to the root. A bit that was set
  from an older look is cleared by that; a CAS from an older word fails on the version; a newer look finds the pin, or a
  child that is not full. So no bit lies over the slot from before RELEASING until after FREE, when the pin is taken
  away: wherever a releaser dies, the slot can be seen.
- A releaser leaves the words above the block's alone if that word was neither full nor pinned when it pinned it. Then
  whoever made it less than full, since it last was full, has climbed to the root before taking its own pin away, be it
  a releaser or a thread that opens slots. (Of those who died on the way the pin is still there.) So no bit lies over
  the word, and a CAS that would set one from a look at the word when it was full fails on the version above. This is
  what lets many release at once: they meet at the root only where a word was full.
- The thread that makes the slot FREE takes the pin away, be it the releaser or one that goes on for it. A death right
  before RELEASING or right after FREE leaves a pin for ever: then the 2,048 packets under that word are looked at, and
  not just called full, each time the rest is sold out. That costs a few microseconds, and nothing else.
- A slot that goes HELD -> FREE was free before, so no bit was set over it, and while it is HELD none can be.

Setting a bit is one CAS and takes no lock, so a death leaves nothing half done.

Slots can be opened while other threads search. First ``open_count`` is raised, then the bits over the first new slot
are cleared, from its block to the root, under a pin as for a release, and last ``cleared_count`` is raised as well. A
bit may lie over the new slots, or over a word that is not full with them, only while the two counts differ: one that is
set after the clearing was set from a word that was read after it, and so with the new count. Any thread can finish an
opening. A thread that finds nothing free does so, and believes only a look all through which the two counts were equal
and stayed so.
"""
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.slot cimport slot_is_final
from hbcore._file.format cimport hb_slot
from hbcore._lib.atomics cimport hb_cas, hb_load_acquire

cdef enum:
    PIN_SHIFT = 32
    PIN_LIMIT = 255             # a count that has come so far stays there
    VERSION_SHIFT = 40


cdef uint64_t free_map_size(uint64_t slot_count) noexcept nogil:
    # Return the bytes of all levels.
    cdef uint64_t words = 0
    cdef uint64_t children = (slot_count + BLOCK_SIZE - 1) // BLOCK_SIZE
    while True:
        children = (children + FAN_OUT - 1) // FAN_OUT
        words += children
        if children == 1:
            return words * 8


cdef void free_map_attach(FreeMap *free_map, uint64_t *words, hb_slot *slots, uint64_t slot_count) noexcept nogil:
    cdef uint64_t children = (slot_count + BLOCK_SIZE - 1) // BLOCK_SIZE
    free_map.slots = slots
    free_map.slot_count = slot_count
    free_map.level_count = 0
    while True:
        free_map.levels[free_map.level_count] = words
        free_map.level_count += 1
        children = (children + FAN_OUT - 1) // FAN_OUT
        words += children
        if children == 1:
            return


cdef inline uint64_t child_count(uint64_t open_count, int level) noexcept nogil:
    # Return how many blocks, or words of the level below, a level has bits for.
    return (open_count - 1 >> BLOCK_BITS + FAN_OUT_BITS * level) + 1


cdef inline uint64_t all_children(uint64_t open_count, int level, uint64_t word_number) noexcept nogil:
    # Return the bits of the children that a word really has. Only the last word of a level may have fewer than 32.
    cdef uint64_t count = child_count(open_count, level) - word_number * FAN_OUT
    return (<uint64_t>1 << min(count, <uint64_t>FAN_OUT)) - 1


cdef inline bint is_full(const FreeMap *free_map, int level, uint64_t word_number, uint64_t word) noexcept nogil:
    # Return whether a word is full. The count is loaded after the word, so a word from after a clearing is judged by
    # the children from after it.
    cdef uint64_t children = all_children(open_slots(free_map), level, word_number)
    return word & children == children and pins(word) == 0


cdef inline uint64_t pins(uint64_t word) noexcept nogil:
    return word >> PIN_SHIFT & PIN_LIMIT


cdef bint free_map_none(const FreeMap *free_map) noexcept nogil:
    # Return True only if no slot was free at the moment of this one load. An opening is the exception: see
    # free_map_opened.
    cdef int root = free_map.level_count - 1
    return is_full(free_map, root, 0, hb_load_acquire(free_map.levels[root]))


cdef uint64_t free_map_version(const FreeMap *free_map) noexcept nogil:
    # Return the version of the root. A release below a word that is full raises it before its slot is RELEASING.
    return hb_load_acquire(free_map.levels[free_map.level_count - 1]) >> VERSION_SHIFT


cdef bint free_map_hides(const FreeMap *free_map, uint64_t slot) noexcept nogil:
    # Return whether a bit over the slot says that nothing is free there.
    cdef uint64_t child = slot // BLOCK_SIZE
    cdef int level
    for level in range(free_map.level_count):
        if hb_load_acquire(free_map.levels[level] + child // FAN_OUT) >> (child % FAN_OUT) & 1:
            return True
        child = child // FAN_OUT
    return False


cdef bint block_is_final(const FreeMap *free_map, uint64_t block) noexcept nogil:
    cdef uint64_t slot = block * BLOCK_SIZE
    cdef uint64_t end = min(slot + BLOCK_SIZE, open_slots(free_map))
    while slot < end:
        if not slot_is_final(hb_load_acquire(&free_map.slots[slot].state)):
            return False
        slot += 1
    return True


cdef void free_map_mark(FreeMap *free_map, uint64_t block) noexcept nogil:
    # Set the bit of a block if it has nothing free, and the bits of its ancestors as far as the same is true of them.
    # This is lock-free: a CAS fails only if another thread's succeeded. After a change of version the look is stale,
    # and the bit is left to the next look.
    cdef uint64_t child = block
    cdef uint64_t word, bit, version, number
    cdef uint64_t *place
    cdef int level
    for level in range(free_map.level_count):
        number = child // FAN_OUT
        place = free_map.levels[level] + number
        bit = <uint64_t>1 << (child % FAN_OUT)
        # Acquire: the look comes after this load. It pairs with the CAS of free_map_pin.
        word = hb_load_acquire(place)
        version = word >> VERSION_SHIFT
        if pins(word):
            return
        if word & bit == 0:
            if level == 0:
                if not block_is_final(free_map, block):
                    return
            elif not is_full(free_map, level - 1, child, hb_load_acquire(free_map.levels[level - 1] + child)):
                return
            while not hb_cas(place, word, word | bit):
                word = hb_load_acquire(place)
                if word >> VERSION_SHIFT != version or pins(word):
                    return
                if word & bit:
                    break
            word |= bit
        if not is_full(free_map, level, number, word):
            return
        child = number


cdef void free_map_pin(FreeMap *free_map, uint64_t block) noexcept nogil:
    # Pin a block and clear the bits over it, before a slot of the block becomes RELEASING: see the argument above.
    uncover(free_map, block, False)


cdef inline bint may_be_covered(const FreeMap *free_map, uint64_t word_number, uint64_t word) noexcept nogil:
    # Return whether a bit may lie over a word of the lowest level, from what it was before it was pinned: it was full,
    # or others have pinned it, who may not have come to the root.
    cdef uint64_t children = all_children(open_slots(free_map), 0, word_number)
    return word & children == children or pins(word) != 0


cdef void uncover(FreeMap *free_map, uint64_t block, bint is_opening) noexcept nogil:
    # Pin the block's word, and clear the bits over the block, from below to the root, as far as there can be any. An
    # opening climbs in any case: the word that was full before the slots were added is not full with them.
    cdef uint64_t child = block
    cdef uint64_t word, cleared
    cdef uint64_t *place
    cdef int level
    for level in range(free_map.level_count):
        place = free_map.levels[level] + child // FAN_OUT
        while True:
            word = hb_load_acquire(place)
            # The version is raised even if the bit is clear: another thread may have looked and not set it yet.
            cleared = (word & ~(<uint64_t>1 << (child % FAN_OUT))) + (<uint64_t>1 << VERSION_SHIFT)
            if level == 0 and pins(word) < PIN_LIMIT:
                cleared += <uint64_t>1 << PIN_SHIFT
            if hb_cas(place, word, cleared):
                break
        if level == 0 and not is_opening and not may_be_covered(free_map, child // FAN_OUT, word):
            return
        child = child // FAN_OUT


cdef void free_map_unpin(FreeMap *free_map, uint64_t block) noexcept nogil:
    # Take away a pin of a block. The thread that has made the slot FREE calls this, or one that has pinned and then not
    # released, or that has opened slots.
    cdef uint64_t *place = free_map.levels[0] + block // FAN_OUT
    cdef uint64_t word = hb_load_acquire(place)
    while 0 < pins(word) < PIN_LIMIT and not hb_cas(place, word, word - (<uint64_t>1 << PIN_SHIFT)):
        word = hb_load_acquire(place)


cdef uint64_t free_map_opened(FreeMap *free_map) noexcept nogil:
    # Finish an opening that another thread has begun. Return how many slots are open; if that number is still the same
    # at the end of a look, no bit hid any of them in it.
    cdef uint64_t cleared = hb_load_acquire(free_map.cleared_count)
    cdef uint64_t count = hb_load_acquire(free_map.open_count)
    cdef uint64_t block
    while cleared != count:     # each turn raises one of them, or another thread has
        block = min(cleared, free_map.slot_count - 1) // BLOCK_SIZE
        # A thread that comes late to this pins as well: it clears a bit when the opening is over, and may then stand
        # still before it has come to the root.
        uncover(free_map, block, True)
        hb_cas(free_map.cleared_count, cleared, count)
        free_map_unpin(free_map, block)
        cleared = hb_load_acquire(free_map.cleared_count)
        count = hb_load_acquire(free_map.open_count)     # after the other, which is never the higher one
    return count


cdef void free_map_open(FreeMap *free_map, uint64_t count, uint64_t new_count) noexcept nogil:
    # Let the slots count .. new_count - 1 be taken. This is idempotent: nothing happens unless exactly `count` slots
    # are open.
    if free_map_opened(free_map) == count:
        hb_cas(free_map.open_count, count, new_count)
        free_map_opened(free_map)


cdef int64_t free_map_next(const FreeMap *free_map, uint64_t block, uint64_t *digest) noexcept nogil:
    # Return the first block at or after `block` that may have a free slot, or -1. The version of every word of blocks
    # that is read on the way counts in the digest: as long as that is the same, no block of the word that was passed
    # over has begun to have anything free. Climb until a word has a clear bit at or after the place from which it was
    # reached, then descend. Every climb that follows a descent passes 32 blocks at least, so the loop ends.
    cdef uint64_t child = block
    cdef uint64_t open_count = open_slots(free_map)
    cdef uint64_t number, word, open_bits
    cdef int level = 0
    while True:
        if child >= child_count(open_count, level):
            return -1
        number = child // FAN_OUT
        word = hb_load_acquire(free_map.levels[level] + number)
        if level == 0:
            digest[0] = (digest[0] ^ word >> VERSION_SHIFT) * <uint64_t>0x9E3779B97F4A7C15
        open_bits = ~word & all_children(open_count, level, number) & (<uint64_t>0xFFFFFFFF << (child % FAN_OUT))
        if open_bits == 0:
            # No bit is clear in the rest of this word: go on after it, one level up.
            if level == free_map.level_count - 1:
                return -1
            child = number + 1
            level += 1
            continue
        child = number * FAN_OUT + lowest_bit(open_bits)
        if level == 0:
            return <int64_t>child
        level -= 1
        child *= FAN_OUT


cdef inline uint64_t lowest_bit(uint64_t bits) noexcept nogil:
    cdef uint64_t place = 0
    while bits & 1 == 0:
        bits >>= 1
        place += 1
    return place
