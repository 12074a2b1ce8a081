"""The racer: threads that claim, find, settle, release, read and close in one ledger, all at once and without the GIL.

It is compiled beside hbcore's own sources under a sanitizer (see ``build.py``), which so sees the whole protocol with
no Python in between. The ledger stands in memory of its own from malloc: AddressSanitizer knows where it ends.

Beside each slot stands a plain word, its *lives*: the thread that holds the slot counts it up before publishing, and a
thread that knows the claim to be standing reads it. Nothing but the protocol orders these accesses. So two holders of
one slot, or an answer that does not acquire what its claim has released, are data races on that word, also where the
processor forgives them.

An operation may also die, at any atomic step, and its thread goes on as another worker: then what it held is for the
others to reclaim.

Four groups of users race, and for each something is known whatever happens: a thread's *own* are claimed and released
by it alone; *common* ones by everybody; *staying* ones are never released, so that every answer names one slot; *final*
ones are settled and released by everybody, and what was once answered "settled" stands for ever.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from hbcore._claims.claim cimport ledger_claim
from hbcore._claims.free_map cimport free_map_hides, free_map_open, free_map_size
from hbcore._claims.index cimport ENTRY, PHASE_BITS, index_table_size, slot_mask, table_of, word_kind
from hbcore._claims.ledger cimport Found, Ledger, ledger_attach, ledger_find, ledger_read, ledger_size
from hbcore._claims.slot cimport FREE, GRANTED, REFUNDED, SETTLED, slot_kind
from hbcore._claims.transitions cimport ledger_reclaim, ledger_refund, ledger_release, ledger_settle
from hbcore._file.format cimport whole_units
from hbcore._file.process cimport hb_file
from hbcore._file.region cimport Region, worker_of
from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport ALREADY_SETTLED, CLOSED, GRANTED_NOW, NOT_FOUND, REPEATED, SOLD_OUT
from hbcore._lib.atomics cimport (
    hb_cas, hb_fence_acquire, hb_fence_full, hb_fence_release, hb_load_acquire, hb_load_relaxed, hb_store_private,
    hb_store_relaxed, hb_store_release,
)
from hbcore.engine cimport Engine

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

cdef extern from "noise.h" nogil:
    int noise_run(void (*operation)(void *) noexcept nogil, void *argument, unsigned int odds)

cdef enum:
    THREAD_LIMIT = 16
    EPOCH_SHIFT = 12        # a worker is number | epoch << 12, as in a file
    NOW_MS = 5
    COMMON = 1 << 20        # the numbers at which the groups of users begin; a thread's own begin at 0
    STAYING = 2 << 20
    FINAL = 3 << 20
    LATE = 4 << 20          # who comes when everything is over
    OWN_LIMIT = 1 << 10     # users of one thread

cdef struct Shared:
    Ledger ledger
    char *memory
    uint64_t *second        # the second table of its index
    # Of the ledger: closed, index state, tombstones, next expiry, late refunds, open, cleared; whether the second table
    # was made.
    uint64_t words[8]
    uint64_t *lives         # plain, one for each slot
    uint64_t *final_slots   # relaxed: slot + 1 of each final user for whom a settle was answered
    int own_count
    int common_count
    int final_count         # of staying users there are as many
    bint is_colliding
    unsigned int odds       # of a death at each atomic step, one in so many; 0: none

cdef struct Standing:       # what a thread knows of a claim that stands
    int64_t slot            # -1: nothing
    uint64_t lives

cdef struct Racer:
    Shared *shared
    uint64_t number
    uint64_t worker
    uint64_t random
    Standing *own
    Standing *staying
    Standing *final
    uint64_t operations     # to do
    uint64_t done
    int own_at_work         # the own user of the operation under way; -1: another's
    bint is_releasing
    uint64_t granted
    uint64_t released
    uint64_t deaths
    const char *wrong       # the first thing that was

cdef uint64_t epochs[THREAD_LIMIT]      # of the worker that each thread is now; those before are dead


cdef inline uint64_t draw(Racer *racer, uint64_t bound) noexcept nogil:
    # splitmix64 (Steele, Lea and Flood, 2014); the bias of so small bounds is of no account here
    cdef uint64_t z
    racer.random += <uint64_t>0x9E3779B97F4A7C15
    z = racer.random
    z = (z ^ z >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ z >> 27) * <uint64_t>0x94D049BB133111EB
    return (z ^ z >> 31) % bound


cdef UserKey key_of(const Shared *shared, uint64_t user) noexcept nogil:
    cdef UserKey key
    if shared.is_colliding:     # one path and one tag for all
        key.low = 1 << 20 ^ user
        key.high = user << 32
    else:
        key.low = (user + 1) * <uint64_t>0x9E3779B97F4A7C15
        key.high = (user + 1) * <uint64_t>0xC2B2AE3D27D4EB4F
    return key


cdef bint never_was(const hb_file *file, uint64_t worker) noexcept nogil:
    return False


cdef bint is_dead(const hb_file *file, uint64_t worker) noexcept nogil:
    # Acquire: pairs with the release in `bury_worker`, as a kernel that drops a lock orders what was before.
    return worker >> EPOCH_SHIFT != hb_load_acquire(&epochs[worker & (THREAD_LIMIT - 1)])


cdef void bury_worker(Racer *racer) noexcept nogil:
    # The worker is dead, and its thread is another from now on.
    racer.deaths += 1
    racer.worker += 1 << EPOCH_SHIFT
    hb_store_release(&epochs[racer.number], racer.worker >> EPOCH_SHIFT)


cdef int prepare(void *context, uint64_t slot, int64_t *amount) noexcept nogil:
    # The calling thread holds the slot: no other may be here.
    (<Shared *>context).lives[slot] += 1
    return 0


cdef int meet(void *context, bint may_make) noexcept nogil:
    # What an envelope does: make the second table if it must, and let the view know it.
    cdef Shared *shared = <Shared *>context
    if hb_load_acquire(&shared.words[7]) == 0:
        if not may_make:
            return NOT_FOUND
        hb_cas(&shared.words[7], 0, 1)
    hb_store_private(&shared.ledger.index.tables[1], <uint64_t>shared.second)
    return 0


cdef void fail(Racer *racer, const char *what) noexcept nogil:
    if racer.wrong == NULL:
        racer.wrong = what


# ---- the operations -----------------------------------------------------------------------------------------------

cdef int claim(Racer *racer, uint64_t user, Found *found) noexcept nogil:
    cdef Shared *shared = racer.shared
    cdef UserKey key = key_of(shared, user)
    cdef bint is_closed = hb_load_acquire(&shared.words[0]) != 0
    cdef int answer = ledger_claim(&shared.ledger, racer.worker, &key, NOW_MS, is_closed, found)
    if answer == GRANTED_NOW:
        racer.granted += 1
    elif answer == SOLD_OUT:
        if is_closed:
            fail(racer, b"a claim that came after the close was told SOLD_OUT")
    elif answer == CLOSED:
        if hb_load_acquire(&shared.words[0]) == 0:
            fail(racer, b"a claim was told CLOSED of an open ledger")
    elif answer != REPEATED:
        fail(racer, b"a claim calls the ledger damaged")
    if (answer == GRANTED_NOW or answer == REPEATED) and found.slot >= shared.ledger.slot_count:
        fail(racer, b"a claim names a slot that there is not")
    return answer


cdef int find(Racer *racer, uint64_t user, Found *found) noexcept nogil:
    cdef UserKey key = key_of(racer.shared, user)
    cdef int answer = ledger_find(&racer.shared.ledger, &key, found)
    if answer != REPEATED and answer != NOT_FOUND:
        fail(racer, b"a find calls the ledger damaged")
    return answer


cdef int settle(Racer *racer, uint64_t user, Found *found) noexcept nogil:
    cdef UserKey key = key_of(racer.shared, user)
    cdef int answer = ledger_settle(&racer.shared.ledger, racer.worker, &key, found)
    if answer != REPEATED and answer != NOT_FOUND:
        fail(racer, b"a settle calls the ledger damaged")
    return answer


cdef int release(Racer *racer, uint64_t user, Found *found) noexcept nogil:
    cdef UserKey key = key_of(racer.shared, user)
    cdef int answer = ledger_release(&racer.shared.ledger, racer.worker, &key, found)
    if answer == REPEATED:
        racer.released += 1
    elif answer != NOT_FOUND and answer != ALREADY_SETTLED:
        fail(racer, b"a release calls the ledger damaged")
    return answer


cdef void close(void *argument) noexcept nogil:
    # What deck_close does, less the strata.
    cdef Shared *shared = (<Racer *>argument).shared
    cdef uint64_t slot
    hb_cas(&shared.words[0], 0, NOW_MS)
    hb_fence_full()
    for slot in range(shared.ledger.slot_count):
        ledger_reclaim(&shared.ledger, slot)
        ledger_refund(&shared.ledger, slot)


cdef void check_standing(Racer *racer, Standing *standing, const Found *found, const char *what) noexcept nogil:
    # An answer names a claim that nobody can have released meanwhile: remember it, or compare it.
    cdef uint64_t lives
    if racer.wrong != NULL:
        return
    lives = racer.shared.lives[found.slot]
    if standing.slot < 0:
        standing.slot = <int64_t>found.slot
        standing.lives = lives
    elif standing.slot != <int64_t>found.slot or standing.lives != lives:
        fail(racer, what)


# ---- the groups of users ------------------------------------------------------------------------------------------

cdef void race_own(Racer *racer) noexcept nogil:
    cdef uint64_t i = draw(racer, racer.shared.own_count)
    cdef uint64_t user = racer.number * OWN_LIMIT + i
    cdef uint64_t action = draw(racer, 5)
    cdef uint64_t state
    cdef Standing *standing = &racer.own[i]
    cdef UserKey key = key_of(racer.shared, user)
    cdef UserKey read
    cdef Found found
    cdef int answer
    racer.own_at_work = <int>i
    racer.is_releasing = False
    if standing.slot < 0:
        if action == 0 and find(racer, user, &found) != NOT_FOUND:
            fail(racer, b"a claim was found that nobody has made")
        answer = claim(racer, user, &found)
        if answer == REPEATED:
            fail(racer, b"a user's first claim was told REPEATED")
        elif answer == GRANTED_NOW:
            check_standing(racer, standing, &found, b"")
    elif action == 0:
        if claim(racer, user, &found) != REPEATED:
            fail(racer, b"a second claim was not told REPEATED")
        check_standing(racer, standing, &found, b"a second claim names another slot")
    elif action == 1:
        if find(racer, user, &found) != REPEATED:
            fail(racer, b"a claim that stands is not found")
        elif slot_kind(found.state) != GRANTED:
            fail(racer, b"a claim that stands is found in another state")
        check_standing(racer, standing, &found, b"a find names another slot")
    elif action == 2:
        state = ledger_read(&racer.shared.ledger, <uint64_t>standing.slot, NOW_MS, &read)
        if slot_kind(state) != GRANTED or read.low != key.low or read.high != key.high:
            fail(racer, b"a claim that stands is not read from its slot")
    else:
        if racer.shared.lives[standing.slot] != standing.lives:
            fail(racer, b"a slot was taken while a claim stood in it")
        racer.is_releasing = True
        if release(racer, user, &found) != REPEATED or <int64_t>found.slot != standing.slot:
            fail(racer, b"a claim that stands cannot be released")
        standing.slot = -1


cdef void learn_own(Racer *racer) noexcept nogil:
    # After a death: whether the operation under way has come to anything.
    cdef Standing *standing = &racer.own[racer.own_at_work]
    cdef Found found
    if find(racer, racer.number * OWN_LIMIT + <uint64_t>racer.own_at_work, &found) == REPEATED:
        check_standing(racer, standing, &found, b"a claim has moved at a death")
    elif standing.slot >= 0 and not racer.is_releasing:
        fail(racer, b"a claim is lost by a death")
    else:
        standing.slot = -1


cdef void race_common(Racer *racer) noexcept nogil:
    cdef uint64_t user = COMMON + draw(racer, racer.shared.common_count)
    cdef uint64_t action = draw(racer, 5)
    cdef Found found
    if action < 2:
        claim(racer, user, &found)
    elif action < 4:
        if release(racer, user, &found) == ALREADY_SETTLED:
            fail(racer, b"a claim is settled that nobody has settled")
    else:
        find(racer, user, &found)


cdef void race_staying(Racer *racer) noexcept nogil:
    cdef uint64_t i = draw(racer, racer.shared.final_count)
    cdef Standing *standing = &racer.staying[i]
    cdef Found found
    cdef int answer
    if draw(racer, 2):
        answer = claim(racer, STAYING + i, &found)
    else:
        answer = find(racer, STAYING + i, &found)
    if answer == REPEATED or answer == GRANTED_NOW and standing.slot < 0:
        check_standing(racer, standing, &found, b"two answers to one user name two slots")
    elif standing.slot >= 0:
        fail(racer, b"a claim that nobody has released is gone")


cdef void race_final(Racer *racer, uint64_t newest) noexcept nogil:
    # Mostly the newest: it is not settled yet.
    cdef uint64_t i = draw(racer, newest + 1) if draw(racer, 4) == 0 else newest
    cdef uint64_t *place = &racer.shared.final_slots[i]
    cdef uint64_t before = hb_load_relaxed(place)
    cdef uint64_t action = draw(racer, 8)
    cdef Found found
    cdef int answer
    # Fences order this word for the processor. ThreadSanitizer does not know them: an order that it saw between two
    # threads here could hide that the ledger gives them none.
    hb_fence_acquire()
    if action == 0:
        answer = settle(racer, FINAL + i, &found)
        if answer == REPEATED:
            if before == 0:
                before = found.slot + 1
            hb_fence_release()
            hb_store_relaxed(place, found.slot + 1)
    elif action < 4:
        answer = release(racer, FINAL + i, &found)
        if before and answer != ALREADY_SETTLED:
            fail(racer, b"a settled claim was released")
    elif action < 7:
        answer = claim(racer, FINAL + i, &found)
    else:
        answer = find(racer, FINAL + i, &found)
    if before == 0:
        return
    if answer != REPEATED and answer != ALREADY_SETTLED or slot_kind(found.state) != SETTLED and action > 0:
        fail(racer, b"a settled claim is gone")
    elif found.slot + 1 != before:
        fail(racer, b"a settled claim has moved")
    check_standing(racer, &racer.final[i], &found, b"a slot was taken while a settled claim stood in it")


cdef void race_reader(Racer *racer) noexcept nogil:
    cdef uint64_t slot = draw(racer, racer.shared.ledger.slot_count)
    cdef UserKey key
    cdef int kind
    ledger_reclaim(&racer.shared.ledger, slot)
    kind = slot_kind(ledger_read(&racer.shared.ledger, slot, NOW_MS, &key))
    if kind == REFUNDED and hb_load_acquire(&racer.shared.words[0]) == 0:
        fail(racer, b"a slot of an open ledger is refunded")


cdef void race_once(void *argument) noexcept nogil:
    cdef Racer *racer = <Racer *>argument
    cdef uint64_t action = draw(racer, 16)
    racer.own_at_work = -1
    if action < 6:
        race_own(racer)
    elif action < 11:
        race_common(racer)
    elif action == 11:
        race_reader(racer)
    elif racer.shared.final_count == 0:
        race_common(racer)
    elif action < 14:
        race_final(racer, racer.done * racer.shared.final_count // racer.operations)
    else:
        race_staying(racer)


cdef void race(Racer *racer, uint64_t operations, bint closes) noexcept nogil:
    cdef Ledger *ledger = &racer.shared.ledger
    racer.operations = operations
    free_map_open(&ledger.free_map, (ledger.slot_count + 1) // 2, ledger.slot_count)
    for racer.done in range(operations):
        if racer.wrong != NULL:
            return
        if closes and racer.done == operations // 2:
            while not noise_run(close, racer, racer.shared.odds):   # who died of it closed in vain: the next life does
                bury_worker(racer)
        if not noise_run(race_once, racer, racer.shared.odds):
            bury_worker(racer)
            if racer.own_at_work >= 0:
                learn_own(racer)


# ---- when all is over ---------------------------------------------------------------------------------------------

cdef void finish_for_the_dead(Racer *racer) noexcept nogil:
    # Do what every worker does that meets such a slot; after the last deaths no worker is left to meet it.
    cdef Found found
    cdef uint64_t slot
    find(racer, LATE, &found)       # helps with a replacement of the index
    for slot in range(racer.shared.ledger.slot_count):
        ledger_reclaim(&racer.shared.ledger, slot)
        if racer.shared.words[0]:
            ledger_refund(&racer.shared.ledger, slot)


cdef const char *check_slots(Shared *shared, uint64_t *named, uint64_t *free_count) noexcept nogil:
    # What is wrong with slots and index, or NULL. named: zeros, one for each slot.
    cdef Ledger *ledger = &shared.ledger
    cdef uint64_t generation = shared.words[1] >> PHASE_BITS
    cdef uint64_t i, word
    cdef int kind
    if shared.words[1] & ((1 << PHASE_BITS) - 1):
        return b"a replacement of the index was left undone"
    for i in range(ledger.index.word_count):
        word = table_of(&ledger.index, generation)[i]
        if word_kind(word) == ENTRY:
            named[word & slot_mask(&ledger.index)] += 1
    free_count[0] = 0
    for i in range(ledger.slot_count):
        kind = slot_kind(ledger.slots[i].state)
        if named[i] != (kind == GRANTED or kind == SETTLED):
            return b"a claim is not named by exactly one index word"
        if kind == FREE:
            free_count[0] += 1
            if shared.words[0]:
                return b"a free slot was left when the ledger closed"
            if free_map_hides(&ledger.free_map, i):
                return b"a free slot is hidden from claims"
        elif kind != GRANTED and kind != SETTLED and kind != REFUNDED:
            return b"a slot was left in somebody's hands"
    return NULL


cdef const char *check_knowledge(Racer *racer, const Racer *first) noexcept nogil:
    # Whether what a thread knows is what the ledger says, and what the first thread knows.
    cdef Found found
    cdef int i
    for i in range(racer.shared.own_count):
        if (find(racer, racer.number * OWN_LIMIT + <uint64_t>i, &found) == REPEATED) != (racer.own[i].slot >= 0):
            return b"a claim came or went by itself"
        if racer.own[i].slot >= 0:
            check_standing(racer, &racer.own[i], &found, b"a claim has moved")
    for i in range(racer.shared.final_count):
        if racer.staying[i].slot >= 0 and find(racer, STAYING + <uint64_t>i, &found) == REPEATED:
            check_standing(racer, &racer.staying[i], &found, b"a claim that nobody has released has moved")
        elif racer.staying[i].slot >= 0:
            return b"a claim that nobody has released is lost"
        if racer.final[i].slot >= 0 and first.final[i].slot >= 0 and racer.final[i].slot != first.final[i].slot:
            return b"two threads know one settled claim by two slots"
    return racer.wrong


cdef const char *check_free_map(Racer *racer, uint64_t free_count) noexcept nogil:
    # Everything that is free can be claimed, to the last slot.
    cdef uint64_t taken = 0
    cdef Found found
    cdef int answer = claim(racer, LATE, &found)
    while answer == GRANTED_NOW:
        taken += 1
        answer = claim(racer, LATE + taken, &found)
    if answer != (CLOSED if racer.shared.words[0] else SOLD_OUT) or taken != free_count:
        return b"not every free slot can be claimed"
    return racer.wrong


cdef class Race:
    """One ledger and the threads that race in it; each thread is to call ``run`` once, with a number of its own."""
    cdef Shared shared
    cdef Racer *racers
    cdef int thread_count

    def __cinit__(self, uint64_t slots, int threads, uint64_t seed, bint colliding, unsigned int odds):
        cdef Shared *shared = &self.shared
        cdef uint64_t map_size = whole_units(free_map_size(slots))
        cdef uint64_t size = map_size + ledger_size(slots) + index_table_size(slots)
        cdef Racer *racer
        cdef int i
        if threads > THREAD_LIMIT:
            raise ValueError(f"threads must be at most {THREAD_LIMIT}")
        self.thread_count = threads
        shared.odds = odds
        # More users than slots: some are told SOLD_OUT.
        shared.own_count = <int>min(3 + slots // (2 * threads), OWN_LIMIT)
        shared.common_count = <int>(3 + slots // 4)
        shared.final_count = <int>(slots // 4)
        shared.is_colliding = colliding
        shared.lives = <uint64_t *>calloc(slots, 8)
        shared.final_slots = <uint64_t *>calloc(slots, 8)
        self.racers = <Racer *>calloc(threads, sizeof(Racer))
        if not shared.lives or not shared.final_slots or not self.racers:
            raise MemoryError
        if posix_memalign(<void **>&shared.memory, 64, size):
            raise MemoryError
        memset(shared.memory, 0, size)
        ledger_attach(
            &shared.ledger, <uint64_t *>shared.memory, shared.memory + map_size, slots, &shared.words[0],
            &shared.words[1], &shared.words[2],
        )
        shared.second = <uint64_t *>(shared.memory + map_size + ledger_size(slots))
        shared.ledger.free_map.open_count = &shared.words[5]
        shared.ledger.free_map.cleared_count = &shared.words[6]
        shared.words[5] = shared.words[6] = (slots + 1) // 2    # who begins opens the rest
        shared.ledger.prepare = prepare
        shared.ledger.meet = meet
        shared.ledger.context = shared
        shared.ledger.is_dead = is_dead
        shared.ledger.never_was = never_was
        shared.ledger.next_expiry = &shared.words[3]
        shared.ledger.late_refunds = &shared.words[4]
        # The rest of a new object is zero: no file, all may be written, nothing expires.
        for i in range(threads):
            racer = &self.racers[i]
            racer.shared = shared
            racer.number = i
            racer.worker = i | (epochs[i] + 1) << EPOCH_SHIFT
            epochs[i] += 1
            racer.random = seed * 1000 + i
            racer.own = new_standings(shared.own_count)
            racer.staying = new_standings(shared.final_count)
            racer.final = new_standings(shared.final_count)

    def __dealloc__(self):
        cdef int i
        if self.racers != NULL:
            for i in range(self.thread_count):
                free(self.racers[i].own)
                free(self.racers[i].staying)
                free(self.racers[i].final)
        free(self.racers)
        free(self.shared.memory)
        free(self.shared.lives)
        free(self.shared.final_slots)

    def run(self, int number, uint64_t operations, bint closes):
        """Race as thread ``number`` for so many operations; close the ledger after half of them if so asked."""
        with nogil:
            race(&self.racers[number], operations, closes)

    def check(self):
        """Check what is known when all threads have ended. Returns (grants, releases, deaths, index replacements)."""
        cdef uint64_t free_count
        cdef const char *wrong = NULL
        cdef uint64_t *named = <uint64_t *>calloc(self.shared.ledger.slot_count, 8)
        cdef uint64_t replacements = self.shared.words[1] >> PHASE_BITS
        cdef int i
        if named == NULL:
            raise MemoryError
        for i in range(self.thread_count):
            if wrong == NULL:
                wrong = self.racers[i].wrong
        finish_for_the_dead(&self.racers[0])
        if wrong == NULL:
            wrong = check_slots(&self.shared, named, &free_count)
        free(named)
        granted = sum([self.racers[i].granted for i in range(self.thread_count)])
        released = sum([self.racers[i].released for i in range(self.thread_count)])
        deaths = sum([self.racers[i].deaths for i in range(self.thread_count)])
        for i in range(self.thread_count):
            if wrong == NULL:
                wrong = check_knowledge(&self.racers[i], &self.racers[0])
        if wrong == NULL:
            wrong = check_free_map(&self.racers[0], free_count)
        if wrong != NULL:
            raise AssertionError(wrong.decode())
        return granted, released, deaths, replacements


cdef Standing *new_standings(int count) except NULL:
    cdef Standing *standings = <Standing *>calloc(count + 1, sizeof(Standing))
    cdef int i
    if standings == NULL:
        raise MemoryError
    for i in range(count):
        standings[i].slot = -1
    return standings


def allocate(Engine engine, sizes):
    """Take extents of these sizes (multiples of 64 bytes) in turn, without the GIL; return their offsets."""
    cdef Region region = engine.region
    cdef uint64_t worker = worker_of(region)
    cdef Py_ssize_t count = len(sizes)
    cdef Py_ssize_t i
    cdef uint64_t *wanted = <uint64_t *>calloc(count + 1, 8)
    cdef int64_t *offsets = <int64_t *>calloc(count + 1, 8)
    try:
        if not wanted or not offsets:
            raise MemoryError
        for i in range(count):
            wanted[i] = sizes[i]
        with nogil:
            for i in range(count):
                offsets[i] = region.allocate(worker, wanted[i])
        return [offsets[i] for i in range(count)]
    finally:
        free(wanted)
        free(offsets)
