"""The scan of an account reads all its holds, one after another, for the statistics and for the audit.

Each hold is read as ``account_read`` reads it, so that what other threads do meanwhile is either in a hold or not.
Whether the sum of them belongs to one moment is for the caller to find out, by the digest and by the money.
"""
from libc.stdint cimport uint64_t

from hbcore._keys.user cimport UserKey
from hbcore._lib.answers cimport CORRUPT, LACKING, NOT_FOUND, REPEATED
from hbcore._money.account cimport Account, account_read
from hbcore._money.hold cimport ADDED, FUNDED, SETTLED, Standing, hold_kind
from hbcore._money.hold_index cimport hold_index_locate


cdef int account_count(Account *account, uint64_t first, uint64_t end, Sums *sums) noexcept nogil:
    # Add the holds first .. end - 1 to the sums. Return 0, LACKING, UNSEEN or CORRUPT.
    cdef uint64_t number
    cdef UserKey key
    cdef Standing standing
    cdef int answer, kind
    for number in range(first, end):
        answer = account_read(account, number, &key, &standing)
        if answer == NOT_FOUND:
            continue
        if answer != REPEATED:
            return answer
        kind = hold_kind(standing.state)
        # No state comes back, so equal digests of two looks mean equal states all the while.
        sums.digest = (sums.digest ^ standing.state ^ standing.value) * <uint64_t>0x9E3779B97F4A7C15
        if kind == ADDED:
            sums.added += standing.amount
            continue
        sums.taken += standing.amount - standing.value
        if kind != FUNDED:
            sums.count += 1
        if kind == SETTLED:
            sums.settled += standing.amount - standing.value
    return 0


cdef int account_check(Account *account, uint64_t first, uint64_t end, uint64_t *number) noexcept nogil:
    # Check for the audit that every hold first .. end - 1 can be read, and that what was granted is where its key
    # leads, and nowhere else. (Where nothing was granted, there may be the key of a request that was overtaken, or
    # whose process died.) Return 0, LACKING, UNSEEN, or CORRUPT with the number of the hold.
    cdef UserKey key
    cdef Standing standing, found
    cdef int answer
    number[0] = first
    while number[0] < end:
        answer = account_read(account, number[0], &key, &standing)
        if answer != REPEATED and answer != NOT_FOUND:
            return answer
        if answer == REPEATED:
            answer = hold_index_locate(&account.index, &key, &found)
            if answer == LACKING:
                return LACKING
            if answer != REPEATED or found.number != standing.number:
                return CORRUPT
        number[0] += 1
    return 0
