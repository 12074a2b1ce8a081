# The answers that the functions of the core give each other. A number has the same meaning in every module.
#
# The first six are the values of hbcore.Status, and the rows of a batch hold them unchanged. Numbers below zero are
# errors.

cdef enum:
    GRANTED_NOW = 0         # this very call granted it
    REPEATED = 1            # it was so before this call
    SOLD_OUT = 2
    CLOSED = 3
    INSUFFICIENT = 4
    CONFLICT = 5

    NOT_FOUND = 8           # the user has no claim, or nothing was ever granted to the key
    ALREADY_SETTLED = 9
    EXPIRED = 10            # the claim has lapsed: it was not settled in time, and nobody has given it back yet
    EXCESSIVE = 11          # less is held than is to be spent

    # These say what the caller of an account must do before it asks again. LACKING is the smallest of them.
    LACKING = 16            # attach a level or a segment that another handle or process has made
    CROWDED = 17            # make the next level
    FULL = 18               # make the next segment
    UNSEEN = 19             # look how large the file has become

    # These stay within an account and its index; no caller hears them.
    AGAIN = 20              # another thread or process was faster
    ALREADY_HELD = 21       # the key has a hold
    HAPPENED = 22           # this very call took the amount
    PATH_ENDS = 23          # the path of a key goes on in the next level

    NO_MEMORY = -1
    CORRUPT = -2
    NO_SPACE = -4           # the index needs its second table, and there is no space for it
    # A reader that may not write hears BUSY: the index is being replaced, or is stale. Within transitions.pyx it also
    # means that another thread or process has changed the slot.
    BUSY = -3
