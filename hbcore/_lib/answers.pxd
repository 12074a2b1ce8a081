# The answers that the functions of the core give each other: one number for one meaning, in every module.
#
# The first six are hbcore.Status, and stand as they are in the rows of a batch. What is below zero is an error.

cdef enum:
    GRANTED_NOW = 0         # by this very call
    REPEATED = 1            # it was so before
    SOLD_OUT = 2
    CLOSED = 3
    INSUFFICIENT = 4
    CONFLICT = 5

    NOT_FOUND = 8           # the user has no claim, nothing was ever granted to the key
    ALREADY_SETTLED = 9
    EXPIRED = 10            # a claim that was not settled in time, and that nobody has given back yet
    EXCESSIVE = 11          # less is held than is to be spent

    # What the caller of an account must do before it asks again: LACKING is the least of them.
    LACKING = 16            # attach a level or a segment that somebody has made
    CROWDED = 17            # make the next level
    FULL = 18               # make the next segment
    UNSEEN = 19             # look how large the file has become

    # Within an account and its index; no caller hears them.
    AGAIN = 20              # somebody was faster
    ALREADY_HELD = 21       # the key has a hold
    HAPPENED = 22           # the amount was taken by this very call
    PATH_ENDS = 23          # the path of a key goes on in the next level

    NO_MEMORY = -1
    CORRUPT = -2
    BUSY = -3               # only where nothing may be written: the index is being replaced, or stale
