# The ledger: the slots in which claims are recorded, and how one is found. See ledger.pyx.
from libc.stdint cimport int64_t, uint64_t

from hbcore._claims.free_map cimport FreeMap
from hbcore._claims.index cimport (
    ENTRY, PHASE_BITS, Index, empty_word, entry_prefix, index_is_crowded, index_start_replacement, is_moving, slot_mask,
    table_of, tombstone_word, word_kind,
)
from hbcore._claims.slot cimport GRANTED, slot_is_claim, slot_kind, slot_payload, slot_state
from hbcore._file.clock cimport hb_boot_ms, hb_now_ms
from hbcore._file.format cimport hb_slot
from hbcore._file.process cimport hb_file
from hbcore._keys.user cimport UserKey
from hbcore._lib.atomics cimport hb_cas, hb_fence_acquire, hb_load_acquire, hb_load_private, hb_load_relaxed

cdef enum:
    # Every retry means that another thread has made progress; only damage can bring about so many.
    RETRY_LIMIT = 1 << 20
    # A slot changes state a few times in one life, so a reader that is overtaken more often is in a damaged file.
    READ_LIMIT = 64
    # A claim that goes so many words from its user's home looks whether tombstones crowd the index,
    FAR_WORDS = 16
    # and has its first replacement begun, if it was not found in the last second that there is no space for it.
    PATIENCE_MS = 1000

# Return whether a worker is dead for ever.
ctypedef bint (*dead_function)(const hb_file *file, uint64_t worker) noexcept nogil

# Make slot `slot` fit to be granted, and say what it is worth. Return 0, CLOSED, NO_MEMORY or CORRUPT.
ctypedef int (*prepare_function)(void *context, uint64_t slot, int64_t *amount) noexcept nogil


# Let the view meet the index's second table, which is made first if `may_make` and nobody has made it. Return 0;
# NOT_FOUND if there is none; NO_SPACE, also for other reasons why it cannot be made; or CORRUPT.
ctypedef int (*meet_function)(void *context, bint may_make) noexcept nogil


# Open the slots that were added after the last open one and are not open yet.
ctypedef void (*grow_function)(void *context) noexcept nogil


cdef struct Ledger:
    hb_slot *slots
    uint64_t slot_count
    uint64_t *closed            # [shared] nonzero: no slot is granted any more, and a freed one is refunded
    Index index
    FreeMap free_map
    dead_function is_dead
    dead_function never_was     # whether no process can ever have been a worker: its number is damage
    const hb_file *file
    bint is_readonly
    bint is_stale               # the file is only read, and its index is from before a reboot
    uint64_t handle             # number of this view among all views of the process; 0: not numbered yet
    uint64_t hold_ms            # ms after which a claim that is not settled lapses; 0: claims do not lapse
    uint64_t clock_offset_ms    # ms between the clock that measures that and the times of grants
    uint64_t *next_expiry       # [shared] hint: no claim lapses before this time, in ms
    uint64_t *late_refunds      # [shared] hint: slots that were refunded after the closing
    prepare_function prepare
    meet_function meet
    uint64_t patient_until_ms   # [private] no claim that goes far asks for the second table before this time
    grow_function grow          # NULL: no slots are ever added
    void *context               # what these three are called with


cdef struct Found:
    uint64_t slot
    uint64_t state
    int64_t amount              # set only with GRANTED_NOW


cdef enum:
    PROBE_FOUND
    PROBE_ABSENT        # the position is that of the first empty word
    PROBE_MOVING        # the table is being replaced, or has been
    PROBE_CROWDED       # there is no empty word


cdef uint64_t ledger_size(uint64_t slot_count) noexcept nogil
cdef void ledger_attach(
    Ledger *ledger, uint64_t *free_map, char *memory, uint64_t slot_count, uint64_t *closed, uint64_t *index_state,
    uint64_t *tombstones
) noexcept nogil
cdef void ledger_prefetch(const Ledger *ledger, const UserKey *key) noexcept nogil
cdef bint help_on(Ledger *ledger, uint64_t index_state) noexcept nogil
cdef int ledger_find(Ledger *ledger, const UserKey *key, Found *found) noexcept nogil
cdef uint64_t ledger_read(Ledger *ledger, uint64_t slot, uint64_t now_ms, UserKey *key) noexcept nogil
cdef int ledger_scan(Ledger *ledger, const UserKey *key, Found *found) noexcept nogil


cdef inline uint64_t time_of_grant(const Ledger *ledger) noexcept nogil:
    # Return the time now, as grants are stamped with it. Where claims lapse, it comes from a clock that cannot be set.
    # It must be read after the claim was published, or the claim's time is cut short.
    if ledger.hold_ms == 0:
        return hb_now_ms()
    return (hb_boot_ms() + ledger.clock_offset_ms) & ((<uint64_t>1 << 42) - 1)


cdef inline bint ledger_is_expired(const Ledger *ledger, uint64_t state) noexcept nogil:
    # Return whether a claim has lapsed. More than the whole time must have passed, because both ends were rounded down
    # to milliseconds.
    return (ledger.hold_ms != 0 and slot_kind(state) == GRANTED
            and time_of_grant(ledger) > slot_payload(state) + ledger.hold_ms)


cdef inline bint read_slot(hb_slot *slot, UserKey *key, uint64_t *state) noexcept nogil:
    # Read a state and the key that belongs to it; slot.pxd says how the state serves as a sequence lock. Return False
    # only if the file is damaged.
    cdef uint64_t before, _turn
    for _turn in range(READ_LIMIT):
        before = hb_load_acquire(&slot.state)
        key.low = hb_load_relaxed(&slot.user[0])
        key.high = hb_load_relaxed(&slot.user[1])
        hb_fence_acquire()
        state[0] = hb_load_relaxed(&slot.state)
        if state[0] == before:
            return True
    return False


cdef inline int probe(
    Ledger *ledger, const UserKey *key, uint64_t index_state, uint64_t *table, uint64_t *position, Found *found
) noexcept nogil:
    # Follow the user's path through the table from `position` to its claim or to the first empty word. Return one of
    # PROBE_... above.
    cdef Index *index = &ledger.index
    cdef uint64_t generation = index_state >> PHASE_BITS
    cdef uint64_t prefix = entry_prefix(index, generation, key)
    cdef uint64_t mask = slot_mask(index)
    cdef uint64_t empty = empty_word(generation)
    cdef uint64_t tombstone = tombstone_word(generation)
    cdef uint64_t at = position[0]
    cdef uint64_t word, _step, slot
    cdef UserKey slot_key
    for _step in range(index.word_count):
        word = hb_load_acquire(&table[at])      # pairs with the publishing CAS: the slot's key and amount are there
        if word == empty:
            position[0] = at
            return PROBE_ABSENT
        if word & ~mask == prefix:
            slot = word & mask
            if (slot < ledger.slot_count and read_slot(&ledger.slots[slot], &slot_key, &found.state)
                    and slot_is_claim(found.state) and slot_key.low == key.low and slot_key.high == key.high):
                # The second look: the word still names the slot, so what was read of the slot is this claim. Without
                # it, the slot could have been released and be in the hands of the same user's next, unpublished claim.
                if hb_load_acquire(&table[at]) == word:
                    position[0] = at
                    found.slot = slot
                    return PROBE_FOUND
                continue    # the word has become GONE or FROZEN: look at it again
        elif word != tombstone and word_kind(word) != ENTRY:
            return PROBE_MOVING
        at += 1
        if at == index.word_count:
            at = 0
    return PROBE_CROWDED


cdef inline void make_granted(Ledger *ledger, const Found *found, uint64_t now_ms) noexcept nogil:
    # Turn a HELD slot that the index names into a GRANTED one. found: the slot and its state. Its owner does this, or
    # any thread that meets it, because the claim is decided.
    if ledger.hold_ms != 0:
        now_ms = time_of_grant(ledger)
    hb_cas(&ledger.slots[found.slot].state, found.state, slot_state(GRANTED, found.state, now_ms))


cdef inline uint64_t *table_at_hand(const Ledger *ledger, uint64_t index_state) noexcept nogil:
    # Return the table of the index, or NULL: it is being replaced, or this view has not met it yet (see help_on).
    return NULL if is_moving(index_state) else table_of(&ledger.index, index_state >> PHASE_BITS)


cdef inline int begin_replacement(Ledger *ledger, uint64_t index_state) noexcept nogil:
    # Begin to replace the index, for a claim. index_state: its state word as it was read, stable. Return 0, NO_SPACE or
    # CORRUPT. A replacement does not begin before its second table is there: whoever meets one can go on with it.
    cdef int answer = 0
    if table_of(&ledger.index, 1) == NULL:
        answer = ledger.meet(ledger.context, True)
    if answer == 0:
        index_start_replacement(&ledger.index, index_state)
    return answer


cdef inline bint is_far(const Ledger *ledger, uint64_t home, uint64_t position) noexcept nogil:
    # Return whether a path that begins at `home` has gone far until `position`. It may have gone round the end.
    return (position - home >= FAR_WORDS
            and (position >= home or position - home + ledger.index.word_count >= FAR_WORDS))


cdef inline bint wants_table(const Ledger *ledger, uint64_t home, uint64_t position, uint64_t now_ms) noexcept nogil:
    # Return whether a claim whose path ends at `position` is to have the index replaced for the first time. A release
    # does it every other time.
    return (is_far(ledger, home, position) and index_is_crowded(&ledger.index)
            and table_of(&ledger.index, 1) == NULL and now_ms >= hb_load_private(&ledger.patient_until_ms))
