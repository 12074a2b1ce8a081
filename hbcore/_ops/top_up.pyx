"""Top-ups of a live envelope: more money in more packets, while others claim.

A tranche is made in these steps, and a death leaves it between two of them:

1. Its terms are written into an extent in phase MAKING. The extent is nobody's if its maker dies.
2. Where the envelope belongs to a budget, that budget holds the money (``account.pyx``). This decides the top-up:
   anyone can go on from here, because the hold says where the tranche is.
3. The tranche is appended: one CAS makes the last ``following`` of the chain of tranches nonzero. Where there is no
   budget, this decides the top-up.
4. The slots of the tranche are opened (``free_map.pyx``).

The next call with the same key, a sweep and an audit finish whatever they find undone; a claim that finds nothing free
finishes the fourth step. If two top-ups race for the last room, the loser's tranche may be funded and have no room. It
never will have any, because the chain only grows. So every process that meets it can see that it is refused, and
returns its money to the budget; a retry under its key gets the same refusal for ever.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from hbcore._claims.packets cimport deck_open
from hbcore._claims.tranche cimport Tranche, tranche_step
from hbcore._file.clock cimport hb_now_ms
from hbcore._file.directory cimport directory_allocate, directory_set_appended, publish_extent, retire_extent
from hbcore._file.format cimport HB_KIND_ENVELOPE, HB_KIND_TOP_UP, HB_KIND_TRANCHE, hb_envelope, hb_top_up, hb_tranche
from hbcore._file.record cimport TOP_UP_TERMS, TRANCHE_TERMS, record_copy, record_is_sound, record_seal
from hbcore._file.region cimport Region
from hbcore._keys.user cimport UserKey, siphash128, user_key
from hbcore._lib.answers cimport CLOSED, CORRUPT, GRANTED_NOW, INSUFFICIENT, NOT_FOUND, REPEATED
from hbcore._lib.atomics cimport hb_cas, hb_fence_full, hb_load_acquire
from hbcore._lib.limits cimport TOP_UP_LIMIT, TOTAL_LIMIT
from hbcore._money.account cimport account_available
from hbcore._money.budget_base cimport BudgetBase, budget_base_at
from hbcore._money.funding cimport refund_from, refund_upwards
from hbcore._money.hold cimport ADDING, FUNDING, Standing
from hbcore._split.law cimport Terms, terms_from_python, terms_prepare
from hbcore.budget cimport Budget, as_key
from hbcore.envelope cimport Envelope, envelope_at, envelope_set_top_up, envelope_terms_of

from os import urandom

from hbcore.budget import Hold
from hbcore.errors import CorruptFileError
from hbcore.types import State
from hbcore.terms import check_room, check_same_top_up, top_up_terms


cdef enum:
    # the answers of append
    REFUSED = 0
    APPENDED = 1
    WAS_APPENDED = 2        # it was in the chain already


cdef object envelope_top_up(Envelope envelope, object key, object amount, object packets, object seed):
    # Implement Envelope.top_up.
    cdef UserKey hash
    cdef Tranche *tranche
    cdef int status = REPEATED
    envelope.region.check_writable()
    try:
        user_key(&envelope.region.key, key, &hash)
    except (TypeError, ValueError) as error:
        raise as_key(error) from None
    terms = top_up_terms(envelope_terms_of(envelope), amount, packets, seed)
    hash = tranche_key(envelope, &hash)
    tranche = find_tranche(envelope, &hash, key, terms)
    if tranche == NULL:
        status = make_tranche(envelope, &hash, key, terms)
        if status == CLOSED or status == INSUFFICIENT:
            envelope.end_if_due()
            return Hold(status, 0, 0, None)
        tranche = find_tranche(envelope, &hash, key, terms)
        if tranche == NULL:
            raise_damaged(envelope)
    finish_tranches(envelope)
    check_same_top_up(envelope.name, key, terms._replace(
        total=tranche.terms.total, packets=tranche.terms.packets, seed=tranche.terms.seed[:32]), terms)
    return Hold(status, tranche.terms.total, 0, State.GRANTED)


cdef UserKey tranche_key(Envelope envelope, const UserKey *key):
    # Return the key of a top-up's hold in the budget. It lies in a name space of its own: hashed under another key than
    # all holds, together with the envelope.
    cdef unsigned char[32] message
    cdef UserKey out
    memcpy(message, b"part:   ", 8)
    memcpy(message + 8, &envelope.offset, 8)
    memcpy(message + 16, key, 16)
    siphash128(envelope.region.header.directory_key, message, 32, &out)
    return out


cdef int raise_damaged(Envelope envelope) except -1:
    envelope.raise_for(CORRUPT)


cdef int step(Envelope envelope, Tranche **tranche) except -1:
    # Go on to the next tranche, or to NULL after the last one.
    cdef int answer = tranche_step(envelope.deck.attach, envelope.deck.owner, tranche)
    if answer != 0:
        envelope.raise_for(answer)
    return 0


cdef Tranche *find_tranche(Envelope envelope, const UserKey *key, object shown, object terms) except? NULL:
    # Return the tranche of that key, or NULL if there is none. A tranche that the budget has funded, and that a death
    # has kept from the envelope, is finished first. If it was funded and refused, raise what check_room says, now as
    # then, or ConflictError if that one had other terms. shown: the key as the caller knows it.
    cdef Tranche *tranche = &envelope.deck.first
    cdef Standing standing
    cdef bint is_funded = False
    while True:
        step(envelope, &tranche)
        if tranche == NULL:
            if is_funded:
                check_same_top_up(envelope.name, shown, refused_terms(envelope, standing.link, terms), terms)
                check_appended(envelope, terms)
                return NULL
            if envelope.budget is None or envelope.budget.look_up(key, &standing) == NOT_FOUND:
                return NULL
            finish_tranche(envelope.region, standing.link)
            is_funded = True
            tranche = &envelope.deck.first
        elif tranche.key.low == key.low and tranche.key.high == key.high:
            return tranche


cdef object refused_terms(Envelope envelope, uint64_t offset, object terms):
    # Return the terms of a tranche that was refused. finish_tranche has checked its record before.
    cdef hb_tranche *record = <hb_tranche *>(envelope.region.base + offset)
    return terms._replace(total=record.total, packets=record.packets, seed=record.seed[:32])


# ---- making ---------------------------------------------------------------------------------------------------------

cdef int make_tranche(Envelope envelope, const UserKey *key, object shown, object terms) except -1:
    # Make a tranche of that key, which was not there when it was looked for. Returns GRANTED_NOW, REPEATED,
    # INSUFFICIENT or CLOSED.
    cdef Budget budget = envelope.budget
    cdef uint64_t amount = terms.total
    cdef Standing standing
    cdef uint64_t offset, available
    cdef bint is_closed
    cdef int answer
    if envelope.is_over():
        return CLOSED if find_tranche(envelope, key, shown, terms) == NULL else REPEATED
    try:
        check_appended(envelope, terms)
    except ValueError:
        # The tranche that has taken the room since the first look may be the same top-up, made by another call. The
        # same holds for a closed envelope above.
        if find_tranche(envelope, key, shown, terms) == NULL:
            raise
        return REPEATED
    if budget is None:
        return append_new(envelope, write_tranche(envelope, key, terms), key, shown, terms)
    # If it can be seen at once that the budget must refuse, take no space.
    available = account_available(&budget.account, &is_closed)
    if is_closed or available < amount:
        if find_tranche(envelope, key, shown, terms) != NULL:
            return REPEATED     # the same top-up, made by another call, has taken the money
        return CLOSED if is_closed else INSUFFICIENT
    offset = write_tranche(envelope, key, terms)
    standing.announced = 0
    try:
        answer = budget.put(key, FUNDING, offset, amount, &standing)
    except BaseException:
        # Once the request is announced, the tranche may be funded by now, or never be: a process that needs the space
        # will find out.
        if standing.announced == 0:
            retire_extent(envelope.region, offset)
        raise
    if answer == GRANTED_NOW:
        finish_tranche(envelope.region, offset)
    else:
        retire_extent(envelope.region, offset)
        if answer == REPEATED:
            finish_tranche(envelope.region, standing.link)
    return answer


cdef int check_appended(Envelope envelope, object terms) except -1:
    # Raise ValueError if there is no room after the tranches that have been appended. This is asked before anything is
    # made, so that a refusal leaves nothing behind.
    cdef Tranche *tranche = &envelope.deck.first
    cdef uint64_t total = 0, packets = 0, count = 0
    while tranche != NULL:
        total += tranche.terms.total
        packets += tranche.terms.packets
        count += 1
        step(envelope, &tranche)
    check_room(envelope.name, envelope_terms_of(envelope), count, total, packets, terms)
    return 0


cdef uint64_t write_tranche(Envelope envelope, const UserKey *key, object checked) except 0:
    # Make an extent in phase MAKING and write all that a tranche is to its first HB_PREFACE bytes. Returns its offset.
    cdef Region region = envelope.region
    cdef Terms terms
    cdef hb_tranche *record
    cdef uint64_t offset
    terms_from_python(&terms, checked if checked.seed is not None else checked._replace(seed=urandom(32)))
    terms_prepare(&terms)
    offset = <uint64_t>directory_allocate(region, sizeof(hb_tranche) + 8 * terms.stratum_count)
    record = <hb_tranche *>(region.base + offset)
    record.extent.kind = HB_KIND_TRANCHE
    record.extent.parent = envelope.offset
    record.extent.created_at_ms = hb_now_ms()
    record.total = terms.total
    record.packets = terms.packets
    record.key[0] = key.low
    record.key[1] = key.high
    memcpy(record.seed, terms.seed, 32)
    record_seal(region, &record.extent, TRANCHE_TERMS, NULL, 0)
    return offset


# ---- appending and opening ------------------------------------------------------------------------------------------

cdef int append_new(Envelope envelope, uint64_t offset, const UserKey *key, object shown, object terms) except -1:
    # Append a new tranche to an envelope without a budget. Returns GRANTED_NOW, or REPEATED if another call with that
    # key was faster. Raises what check_room says if there is no room any more.
    cdef int answer
    try:
        answer = append(envelope, offset, key, terms.total, terms.packets)
    except BaseException:
        retire_extent(envelope.region, offset)      # it is not in the chain: nothing is raised after the CAS
        raise
    if answer != REFUSED:
        publish_extent(envelope.region, offset)
        return GRANTED_NOW
    retire_extent(envelope.region, offset)
    if find_tranche(envelope, key, shown, terms) == NULL:
        check_appended(envelope, terms)
    return REPEATED


cdef int append(
    Envelope envelope, uint64_t offset, const UserKey *key, uint64_t total, uint64_t packets
) except -1:
    # Put the tranche at `offset` at the end of the chain, if it is not in the chain yet. It is REFUSED if another of
    # its key is there, or if there is no room for it. The chain before its end never changes, so what was seen of it
    # on the way still holds at the moment of the CAS that puts the tranche there.
    cdef Tranche *tranche = &envelope.deck.first
    cdef uint64_t following, sum = 0
    while True:     # each turn passes one tranche, or another process has appended one
        following = hb_load_acquire(tranche.following)
        if following == offset:
            return WAS_APPENDED
        if following == 0:
            if (packets > envelope.deck.first.terms.max_packets - tranche.start - tranche.terms.packets
                    or sum + tranche.terms.total + total >= <uint64_t>TOTAL_LIMIT or tranche.number >= TOP_UP_LIMIT):
                return REFUSED
            # Release: a thread that reads the offset sees all of the tranche.
            if hb_cas(tranche.following, 0, offset):
                return APPENDED
            continue
        sum += tranche.terms.total
        step(envelope, &tranche)
        if tranche == NULL:
            raise_damaged(envelope)     # a tranche that was appended is gone again
        if tranche.key.low == key.low and tranche.key.high == key.high:
            return REFUSED


def finish_tranche(Region region not None, uint64_t offset):
    """Append and open a tranche that a budget has funded, or give its money back if there is no room for it.

    Any number of threads and processes may do this at once, and again. A tranche that is in the chain already is left
    to ``finish_tranches``, so that a closed envelope of many tranches is not counted anew for each of them.
    """
    cdef hb_tranche *record = <hb_tranche *>region.extent(offset, HB_KIND_TRANCHE, sizeof(hb_tranche))
    cdef Envelope envelope
    cdef UserKey key
    cdef int answer
    if record == NULL or not record_is_sound(region, &record.extent, TRANCHE_TERMS, NULL, 0):
        raise CorruptFileError(f"the top-up at byte {offset} of the engine {region.path!r} is damaged")
    key.low = record.key[0]
    key.high = record.key[1]
    envelope = envelope_at(region, record.extent.parent, f"at byte {record.extent.parent}")
    publish_extent(region, offset)
    answer = append(envelope, offset, &key, record.total, record.packets)
    if answer == APPENDED:
        finish_tranches(envelope)
    elif answer == REFUSED and envelope.budget is not None:
        refund_from(envelope.budget, &key, record.total)


def finish_tranches(Envelope envelope not None):
    """Open all tranches of an envelope, and refund those that were appended after a close."""
    cdef int answer
    if hb_load_acquire(envelope.deck.first.following) == 0:
        return
    answer = deck_open(&envelope.deck, &envelope.deck.first)
    if answer != 0:
        envelope.raise_for(answer)
    hb_fence_full()     # the append before the look; pairs with the fence of deck_close
    if hb_load_acquire(envelope.deck.ledger.closed) != 0:
        envelope.close()


cdef int finish_top_ups(BudgetBase budget) except -1:
    # Let sub-budgets and envelopes have the top-ups that this budget has paid and a death has kept from them.
    cdef hb_top_up *record
    cdef BudgetBase child
    cdef Standing standing
    cdef UserKey key
    for offset in budget.children():
        record = <hb_top_up *>budget.region.extent(offset, HB_KIND_TOP_UP, sizeof(hb_top_up))
        if record == NULL:
            if budget.region.extent(offset, HB_KIND_TRANCHE, sizeof(hb_tranche)) != NULL:
                finish_tranche(budget.region, offset)
            continue
        if not record_is_sound(budget.region, &record.extent, TOP_UP_TERMS, NULL, 0):
            budget.raise_corrupt()
        key.low = record.key[0]
        key.high = record.key[1]
        child = budget_base_at(budget.region, record.extent.parent)
        if child.look_up(&key, &standing) == NOT_FOUND:
            child.put(&key, ADDING, record.total, record.total, &standing)
            refund_upwards(child)
    return 0


cdef bint is_appended(Region region, uint64_t offset) except -1:
    # Return whether the tranche at `offset` is in the chain of its envelope. The directory asks this.
    # Another process may take its space over at any moment, so it is copied first and checked then.
    cdef hb_tranche *record = <hb_tranche *>region.extent(offset, HB_KIND_TRANCHE, sizeof(hb_tranche))
    cdef hb_tranche copy
    cdef hb_envelope *envelope
    cdef uint64_t *place
    cdef uint64_t following, _turn
    if record == NULL:
        return False
    record_copy(&copy.extent, &record.extent, TRANCHE_TERMS)
    if not record_is_sound(region, &copy.extent, TRANCHE_TERMS, NULL, 0):
        return False        # the record is half made, or damaged
    envelope = <hb_envelope *>region.extent(copy.extent.parent, HB_KIND_ENVELOPE, sizeof(hb_envelope))
    if envelope == NULL:
        return False
    place = &envelope.following
    for _turn in range(2 * TOP_UP_LIMIT):
        following = hb_load_acquire(place)
        if following == offset:
            return True
        record = <hb_tranche *>region.extent(following, HB_KIND_TRANCHE, sizeof(hb_tranche))
        if record == NULL:
            return False        # the end of the chain
        place = &record.following
    return False

directory_set_appended(is_appended)
envelope_set_top_up(envelope_top_up)
