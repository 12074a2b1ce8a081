# The ledger: slots and their index; take, publish, find, settle, release.
from libc.stdint cimport int64_t, uint64_t

from hbcore.format cimport hb_slot
from hbcore.index cimport Index
from hbcore.user cimport UserKey
from hbcore.vacancy cimport Vacancy

cdef extern from "process.h":
    struct hb_file:
        pass

cdef enum:
    # answers; the first four are hbcore.Status
    GRANTED_NOW = 0
    REPEATED = 1
    SOLD_OUT = 2
    CLOSED = 3
    NOT_FOUND = 4
    ALREADY_SETTLED = 5
    EXPIRED = 6             # ledger_find: a claim that was not settled in time, and that nobody has given back yet
    NO_MEMORY = -1
    CORRUPT = -2
    BUSY = -3               # only where nothing may be written: the index is being replaced


# Whether a worker is dead for ever.
ctypedef bint (*dead_function)(const hb_file *file, uint64_t worker) noexcept nogil

# Make slot `slot` fit to be granted, and say what it is worth. Returns 0, CLOSED, NO_MEMORY or CORRUPT.
ctypedef int (*prepare_function)(void *context, uint64_t slot, int64_t *amount) noexcept nogil


# Open what was added after the last slot, and not opened yet.
ctypedef void (*grow_function)(void *context) noexcept nogil


cdef struct Ledger:
    hb_slot *slots
    uint64_t slot_count
    uint64_t *closed            # [shared] nonzero: no slot is granted any more, and a freed one is refunded
    Index index
    Vacancy vacancy
    dead_function is_dead
    dead_function never_was     # a worker that nobody can ever have been: damage
    const hb_file *file
    bint is_readonly
    bint is_stale               # only read, and the index is from before a reboot
    uint64_t handle             # the number of this view among all of the process
    uint64_t hold_ms            # a claim that is not settled for so long goes back; 0: never
    uint64_t clock_offset_ms    # between the clock that measures it and granted times
    uint64_t *next_expiry       # [shared] hint: nothing expires before
    uint64_t *late_refunds      # [shared] hint: how many slots were refunded after the closing
    prepare_function prepare
    grow_function grow          # NULL: nothing is ever added
    void *context


cdef struct Found:
    uint64_t slot
    uint64_t state
    int64_t amount              # only of what was GRANTED_NOW


cdef uint64_t ledger_size(uint64_t slot_count) noexcept nogil
cdef void ledger_attach(
    Ledger *ledger, char *memory, uint64_t slot_count, uint64_t *closed, uint64_t *index_state, uint64_t *tombstones
) noexcept nogil
cdef void ledger_prefetch(const Ledger *ledger, const UserKey *key) noexcept nogil
cdef int ledger_claim(
    Ledger *ledger, uint64_t worker, const UserKey *key, uint64_t now_ms, bint is_closed, Found *found
) noexcept nogil
cdef int ledger_find(Ledger *ledger, const UserKey *key, Found *found) noexcept nogil
cdef int ledger_look(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil
cdef int ledger_settle(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil
cdef int ledger_release(Ledger *ledger, uint64_t worker, const UserKey *key, Found *found) noexcept nogil
cdef bint ledger_expire(Ledger *ledger, uint64_t worker, uint64_t slot, uint64_t *next_expiry) noexcept nogil
cdef bint ledger_is_expired(const Ledger *ledger, uint64_t state) noexcept nogil
cdef void ledger_reclaim(Ledger *ledger, uint64_t slot) noexcept nogil
cdef int ledger_scan(Ledger *ledger, const UserKey *key, Found *found) noexcept nogil
cdef void ledger_refund(Ledger *ledger, uint64_t slot) noexcept nogil
cdef uint64_t ledger_read(Ledger *ledger, uint64_t slot, uint64_t now_ms, UserKey *key) noexcept nogil
