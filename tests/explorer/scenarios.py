"""The scenarios of the explorer: which operations race, after what, in how small a world.

Each kind of scenario has the arguments of the function that explores it: ``explore`` of ``explorer.pyx``,
``explore_makers`` of ``maker.pyx`` and ``explore_account`` of ``account_explorer.pyx``.
"""

from typing import NamedTuple


class Scenario(NamedTuple):
    """Operations that race, each a kind and a user, in a ledger of so many slots, after others were done in order.

    An operation of before may die in the middle: as soon as it is "holding" a slot, "pinning" a block, "leaving" its
    slot RELEASING, or "appending" a part, whichever it names.
    """

    slots: int
    race: list
    before: tuple | list = ()
    colliding: bool = False
    expiring: bool = False  # claims that are not settled when the clock moves ("expire") go back
    refusing: bool = False  # what is taken after a close is not made fit to be granted
    pins: int = 0  # so many lie on every word of blocks from before, and nobody will take them away
    hasty: bool = False  # one tombstone crowds the index
    growing: bool = False  # whoever finds nothing free opens the parts that were appended
    table: str = "made"  # the second table of the index; or it is "to make" by a claim, or there is "no room" for it
    parts: tuple = ()  # the sizes of the last slots' parts, which have to be opened first ("open", and how many parts)


def churn(user: int, times: int) -> list:
    """Claims and releases in turn: they fill the index with tombstones and bring it to a later generation."""
    return [("claim", user), ("release", user)] * times


SCENARIOS = {
    "one user twice": Scenario(2, [("claim", 1), ("claim", 1)]),
    "one user twice, one packet": Scenario(1, [("claim", 1), ("claim", 1)]),
    "two users, one packet": Scenario(1, [("claim", 1), ("claim", 2)]),
    "two users on one path": Scenario(2, [("claim", 1), ("claim", 2)], colliding=True),
    "one user twice on a shared path": Scenario(3, [("claim", 1), ("claim", 1), ("claim", 2)], colliding=True),
    "claim and release": Scenario(2, [("claim", 1), ("release", 1)], [("claim", 1)]),
    "claim and release, one packet": Scenario(1, [("claim", 1), ("release", 1)], [("claim", 1)]),
    "another's claim and release": Scenario(1, [("claim", 2), ("release", 1)], [("claim", 1)]),
    "two releases": Scenario(2, [("release", 1), ("release", 1)], [("claim", 1)]),
    "release and settle": Scenario(2, [("release", 1), ("settle", 1)], [("claim", 1)]),
    "release, settle and claim": Scenario(2, [("release", 1), ("settle", 1), ("claim", 1)], [("claim", 1)]),
    "claim, claim and release": Scenario(2, [("claim", 1), ("claim", 1), ("release", 1)], [("claim", 1)]),
    "settle beside release and another's claim": Scenario(
        1, [("settle", 1), ("release", 1), ("claim", 2)], [("claim", 1)]
    ),
    "two settles": Scenario(1, [("settle", 1), ("settle", 1)], [("claim", 1)]),
    "two settles and a release": Scenario(1, [("settle", 1), ("settle", 1), ("release", 1)], [("claim", 1)]),
    "a scan beside one user twice": Scenario(2, [("scan", 1), ("claim", 1), ("claim", 1)]),
    "a find and a scan beside a claim": Scenario(1, [("claim", 1), ("find", 1), ("scan", 1)]),
    "a find and a read beside a claim": Scenario(1, [("claim", 1), ("find", 1), ("read", 0)]),
    "a scan beside a release and the same user": Scenario(
        2, [("scan", 1), ("release", 1), ("claim", 1)], [("claim", 1)]
    ),
    "first claim and release": Scenario(2, [("claim", 1), ("release", 1)]),
    "first claim and settle": Scenario(2, [("claim", 1), ("settle", 1)]),
    "first claim, claim and release": Scenario(1, [("claim", 1), ("claim", 2), ("release", 1)]),
    "find beside release and claim": Scenario(1, [("find", 1), ("release", 1), ("claim", 1)], [("claim", 1)]),
    "a full tree and a release": Scenario(
        4, [("release", 3), ("claim", 5)], [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4), ("claim", 6)]
    ),
    "a tree that fills beside a release": Scenario(
        4, [("claim", 5), ("release", 3), ("claim", 6)], [("claim", 1), ("claim", 2), ("claim", 3)]
    ),
    "first replacement": Scenario(1, [("release", 1), ("claim", 2)], [*churn(3, 1), ("claim", 1)]),
    "second replacement": Scenario(1, [("release", 1), ("claim", 2)], [*churn(3, 3), ("claim", 1)]),
    "third replacement, one user": Scenario(2, [("release", 1), ("claim", 2)], [*churn(3, 5), ("claim", 1)]),
    "replacement beside a first claim": Scenario(2, [("release", 1), ("claim", 2)], [*churn(3, 1), ("claim", 1)]),
    "replacement beside one user twice": Scenario(
        3, [("release", 1), ("claim", 2), ("claim", 2)], [*churn(3, 1), ("claim", 1)], True
    ),
    "two releases and a replacement": Scenario(
        2, [("release", 1), ("release", 2)], [*churn(3, 1), ("claim", 1), ("claim", 2)]
    ),
    "a slow helper of a replacement": Scenario(
        3, [("release", 2), ("claim", 5), ("release", 1)], [*churn(3, 1), ("claim", 1), ("claim", 2)]
    ),
    "a slow helper of a later replacement": Scenario(
        3, [("release", 2), ("claim", 5), ("release", 1)], [*churn(3, 3), ("claim", 1), ("claim", 2)]
    ),
    "a slow helper of a replacement but one": Scenario(
        4,
        [("release", 1), ("find", 4), ("release", 2), ("release", 3)],
        [*churn(5, 1), ("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4)],
    ),
    "a slow reclaim of a release that others have finished, two replacements ago": Scenario(
        2,
        [("reclaim", 0), ("claim", 1), ("release", 2)],
        [("claim", 1), ("claim", 2), ("release", 1, "leaving")],
        hasty=True,
    ),
    "a slow helper of a replacement but two": Scenario(
        3,
        [("release", 1), ("find", 7), ("release", 2), ("release", 3)],
        [*churn(5, 1), ("claim", 1), ("claim", 2), ("claim", 3)],
        hasty=True,
    ),
    "settle beside release and one user twice": Scenario(
        2, [("settle", 1), ("release", 1), ("claim", 1), ("claim", 1)], [("claim", 1)]
    ),
    "two claims of one packet, then another": Scenario(1, [("claim", 1), ("claim", 2), ("claim", 3)]),
    "two releases of one packet, then a claim": Scenario(
        1, [("release", 1), ("claim", 2), ("claim", 3)], [("claim", 1)]
    ),
    "reclaim beside a claim": Scenario(2, [("claim", 1), ("reclaim", 0), ("claim", 2)]),
    "two reclaims beside a claim": Scenario(1, [("claim", 1), ("reclaim", 0), ("reclaim", 0)]),
    "two reclaims beside a release": Scenario(2, [("release", 1), ("reclaim", 0), ("reclaim", 0)], [("claim", 1)]),
    "reclaim beside a release and the same user": Scenario(
        1, [("release", 1), ("reclaim", 0), ("claim", 1)], [("claim", 1)]
    ),
    "two reclaims beside a release and the same user": Scenario(
        1, [("release", 1), ("reclaim", 0), ("reclaim", 0), ("claim", 1)], [("claim", 1)]
    ),
    "two reclaims of what another death has pinned": Scenario(
        2,
        [("reclaim", 0), ("reclaim", 0)],
        [("claim", 1), ("claim", 2), ("release", 1, "pinning"), ("release", 2, "leaving")],
    ),
    "a claim and a reclaim of what was being released, beside a release": Scenario(
        4,
        [("release", 3), ("claim", 5), ("reclaim", 0)],
        [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4), ("release", 1, "leaving")],
    ),
    "what the dead hold behind a block that a pin keeps from being full": Scenario(
        3,
        [("claim", 5), ("claim", 6)],
        [("claim", 1, "holding"), ("claim", 2), ("claim", 3), ("release", 2, "pinning")],
    ),
    "a release over more pins than are counted": Scenario(
        4, [("release", 1), ("claim", 5)], [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4)], pins=255
    ),
    "two releases over the last pin that is counted": Scenario(
        4, [("release", 1), ("release", 2)], [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4)], pins=254
    ),
    "reads beside a claim and a release": Scenario(1, [("read", 0), ("claim", 1), ("release", 1)]),
    "a read beside one user twice": Scenario(2, [("read", 0), ("claim", 1), ("claim", 1)]),
    "a read beside a release and another's claim": Scenario(
        1, [("read", 0), ("release", 1), ("claim", 2)], [("claim", 1)]
    ),
    "reclaim beside a replacement": Scenario(
        2, [("release", 1), ("reclaim", 0), ("claim", 2)], [*churn(3, 1), ("claim", 1)]
    ),
    "a full tree, a release and a claim": Scenario(
        4,
        [("release", 3), ("claim", 5), ("claim", 6)],
        [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4), ("claim", 7)],
    ),
    "open and claim": Scenario(2, [("open", 1), ("claim", 2)], [("claim", 1)], parts=(1,)),
    "open a sold out ledger": Scenario(
        2, [("open", 1), ("claim", 2), ("claim", 3)], [("claim", 1), ("claim", 9)], parts=(1,)
    ),
    "open another block": Scenario(
        4, [("open", 1), ("claim", 3), ("claim", 4)], [("claim", 1), ("claim", 2), ("claim", 9)], parts=(2,)
    ),
    "open the rest of a block and another": Scenario(
        4, [("open", 1), ("claim", 3), ("claim", 4), ("claim", 5)], [("claim", 1), ("claim", 9)], parts=(3,)
    ),
    "open a block under the same word": Scenario(
        5, [("open", 1), ("claim", 3)], [("claim", 1), ("claim", 2), ("claim", 9)], parts=(2, 1)
    ),
    "open a block under another word": Scenario(
        5,
        [("open", 1), ("claim", 5), ("claim", 6)],
        [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4), ("claim", 9)],
        parts=(1,),
    ),
    "a part is appended to a sold out ledger": Scenario(
        2, [("open", 1), ("claim", 2), ("claim", 3)], [("claim", 1), ("claim", 9)], parts=(1,), growing=True
    ),
    "a part that a death has appended to a ledger that a pin keeps from being full": Scenario(
        2,
        [("claim", 2), ("claim", 3)],
        [("claim", 1), ("release", 1, "pinning"), ("open", 1, "appending")],
        parts=(1,),
        growing=True,
    ),
    "a part is appended beside a looker": Scenario(
        3, [("open", 1), ("claim", 3)], [("claim", 1), ("claim", 2)], parts=(1,), growing=True
    ),
    "open twice": Scenario(
        4, [("open", 1), ("open", 2), ("claim", 3)], [("claim", 1), ("claim", 2), ("claim", 9)], parts=(1, 1)
    ),
    "open the same twice": Scenario(
        2, [("open", 1), ("open", 1), ("claim", 2)], [("claim", 1), ("claim", 9)], parts=(1,)
    ),
    "open beside the last claim": Scenario(3, [("open", 1), ("claim", 2), ("claim", 3)], [("claim", 1)], parts=(1,)),
    "open beside a release": Scenario(
        2, [("open", 1), ("release", 1), ("claim", 2)], [("claim", 1), ("claim", 9)], parts=(1,)
    ),
    "open while the rest sells out": Scenario(
        6,
        [("claim", 6), ("open", 1), ("claim", 4), ("claim", 5)],
        [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 9), ("release", 1)],
        parts=(3,),
    ),
    "close, claim and reclaim": Scenario(1, [("close", 0), ("claim", 1), ("reclaim", 0)]),
    "close and claim": Scenario(2, [("close", 0), ("claim", 1)]),
    "close and release": Scenario(2, [("close", 0), ("release", 1)], [("claim", 1)]),
    "close and one user twice": Scenario(2, [("close", 0), ("claim", 1), ("claim", 1)]),
    "an end and a release": Scenario(2, [("end", 0), ("release", 1)], [("claim", 1)]),
    "an end, a claim that is refused and a reclaim": Scenario(
        1, [("end", 0), ("claim", 1), ("reclaim", 0)], refusing=True
    ),
    "two ends and a claim that is refused": Scenario(1, [("end", 0), ("end", 0), ("claim", 1)], refusing=True),
    "two closes and a claim": Scenario(2, [("close", 0), ("close", 0), ("claim", 1)]),
    "expiry and settle": Scenario(1, [("expire", 0), ("settle", 1)], [("claim", 1)], expiring=True),
    "expiry and release": Scenario(1, [("expire", 0), ("release", 1)], [("claim", 1)], expiring=True),
    "expiry and another's claim": Scenario(1, [("expire", 0), ("claim", 2)], [("claim", 1)], expiring=True),
    "expiry, settle and another's claim": Scenario(
        1, [("expire", 0), ("settle", 1), ("claim", 2)], [("claim", 1)], expiring=True
    ),
    "expiry, release and another's claim": Scenario(
        1, [("expire", 0), ("release", 1), ("claim", 2)], [("claim", 1)], expiring=True
    ),
    "expiry, settle and release": Scenario(
        1, [("expire", 0), ("settle", 1), ("release", 1)], [("claim", 1)], expiring=True
    ),
    "expiry, settle and the same user": Scenario(
        1, [("expire", 0), ("settle", 1), ("claim", 1)], [("claim", 1)], expiring=True
    ),
    "expired, release and two others": Scenario(
        2, [("release", 1), ("claim", 3), ("claim", 4)], [("claim", 1), ("claim", 2), ("expire", 0)], expiring=True
    ),
    "expired, find and close": Scenario(
        1, [("find", 1), ("close", 0), ("claim", 2)], [("claim", 1), ("expire", 0)], expiring=True
    ),
}

# Two levels of the free map: a word of two blocks that is full, and what the root says of it.
FULL = [("claim", user) for user in (0, 1, 2, 3, 4, 7)]
SCENARIOS |= {
    "two releases below one word that is full": Scenario(5, [("release", 0), ("release", 2)], FULL),
    "two releases below one word that is full beside a claim": Scenario(
        5, [("release", 0), ("release", 2), ("claim", 5)], FULL
    ),
    "two releases of one block of a word that is full beside a claim": Scenario(
        5, [("release", 0), ("release", 1), ("claim", 5)], FULL
    ),
    "a release below a word that is full beside two claims": Scenario(
        5, [("release", 0), ("claim", 5), ("claim", 6)], FULL
    ),
    "two releases below a word that is not full beside two claims": Scenario(
        5, [("release", 0), ("release", 1), ("claim", 5), ("claim", 6)], [*FULL, ("release", 2)]
    ),
    "a release below a word that another has pinned and not freed": Scenario(
        5, [("release", 1), ("claim", 5)], [*FULL, ("release", 0, "pinning")]
    ),
    "a release below a word that is filled again": Scenario(
        5, [("claim", 5), ("release", 2), ("claim", 6)], [*FULL, ("release", 0)]
    ),
    "a release below a word that grows": Scenario(
        7, [("open", 1), ("release", 0), ("claim", 5)], [("claim", user) for user in (0, 1, 2, 3, 4, 6)], parts=(2,)
    ),
    "a release beside who helps late with an opening": Scenario(
        5, [("open", 1), ("claim", 5), ("claim", 6), ("release", 5)], [("claim", user) for user in range(5)], parts=(1,)
    ),
    "a release in a word that an opening makes less than full": Scenario(
        6, [("open", 1), ("release", 0), ("claim", 7)], [("claim", user) for user in (0, 1, 2, 6)], parts=(3,)
    ),
}

# The second table of the index, which a claim makes when it has gone far, or finds no empty word.
SCENARIOS |= {
    "two claims that go far make the second table": Scenario(
        2, [("claim", 1), ("claim", 2)], churn(3, 2), colliding=True, hasty=True, table="to make"
    ),
    "three claims that go far make the second table": Scenario(
        3, [("claim", 1), ("claim", 1), ("claim", 2)], churn(3, 2), colliding=True, hasty=True, table="to make"
    ),
    "a claim that makes the second table beside a release": Scenario(
        2, [("claim", 2), ("release", 1)], [*churn(3, 2), ("claim", 1)], colliding=True, hasty=True, table="to make"
    ),
    "a claim that makes the second table beside a release, a find and a reclaim": Scenario(
        2,
        [("claim", 2), ("release", 1), ("find", 4), ("reclaim", 0)],
        [*churn(3, 1), ("claim", 1), ("claim", 4)],
        colliding=True,
        hasty=True,
        table="to make",
    ),
    "two claims that find no empty word make the second table": Scenario(
        2, [("claim", 1), ("claim", 2)], churn(3, 8), table="to make"
    ),
    "a batch that makes the second table": Scenario(
        2, [("claims", 1), ("claim", 2)], churn(3, 2), colliding=True, hasty=True, table="to make"
    ),
    "two claims that go far without room for a second table": Scenario(
        2, [("claim", 1), ("claim", 2)], churn(3, 3), colliding=True, hasty=True, table="no room"
    ),
    "two claims of the last word without room for a second table": Scenario(
        2, [("claim", 1), ("claim", 2)], [*churn(3, 7)], table="no room"
    ),
    "claim and release of the last word without room for a second table": Scenario(
        2, [("claim", 1), ("claim", 2), ("release", 2)], [*churn(3, 7)], table="no room"
    ),
    "a repeat and a stranger without room for a second table": Scenario(
        2, [("claim", 1), ("claim", 2), ("settle", 1)], [*churn(3, 7), ("claim", 1)], table="no room"
    ),
    "a stranger where all is gone without room for a second table": Scenario(
        2, [("claim", 1), ("release", 3)], [*churn(5, 6), ("claim", 3), ("claim", 4)], table="no room"
    ),
    "a stranger beside a close without room for a second table": Scenario(
        2, [("claim", 1), ("close", 0)], churn(5, 8), table="no room"
    ),
    "a batch without room for a second table": Scenario(3, [("claims", 1), ("claim", 2)], churn(3, 7), table="no room"),
}

# The claims of a batch: "plain" is a batch of one user, "claims" of two, the user and the next.
SCENARIOS |= {
    "a batch of two": Scenario(3, [("claims", 1), ("claims", 1)]),
    "a batch of two beside a claim of each": Scenario(3, [("claims", 1), ("claim", 2), ("claim", 1)]),
    "two batches that share a user": Scenario(4, [("claims", 1), ("claims", 2)]),
    "two batches that share a user, two packets": Scenario(2, [("claims", 1), ("claims", 2)]),
    "two batches, one packet": Scenario(1, [("claims", 1), ("claims", 3)]),
    "two batches on one path": Scenario(4, [("claims", 1), ("claims", 2)], colliding=True),
    "a batch of one beside a claim": Scenario(2, [("plain", 1), ("claim", 1)]),
    "two batches of one on one path": Scenario(3, [("plain", 1), ("plain", 2), ("claim", 1)], colliding=True),
    "a batch beside a close": Scenario(3, [("claims", 1), ("close", 0)]),
    "a batch beside an end": Scenario(3, [("claims", 1), ("end", 0), ("end", 0)]),
    "a batch beside a release": Scenario(3, [("claims", 1), ("release", 1)], [("claim", 1)]),
    "a batch beside a release, another's claim": Scenario(
        2, [("claims", 1), ("release", 1), ("claim", 4)], [("claim", 1), ("claim", 3)]
    ),
    "a batch beside settle and release": Scenario(3, [("claims", 1), ("settle", 1), ("release", 1)]),
    "a batch beside a find and a scan": Scenario(3, [("claims", 1), ("find", 2), ("scan", 1)]),
    "a batch beside a reclaim": Scenario(3, [("claims", 1), ("reclaim", 0), ("claim", 2)]),
    "a batch beside a replacement": Scenario(3, [("release", 1), ("claims", 2)], [*churn(3, 1), ("claim", 1)]),
    "a batch beside a second replacement": Scenario(3, [("release", 1), ("claims", 2)], [*churn(3, 3), ("claim", 1)]),
    "a batch while the index is hastily replaced": Scenario(
        3, [("release", 1), ("claims", 1), ("claim", 2)], [("claim", 1)], hasty=True
    ),
    "a batch where all is gone beside a release": Scenario(
        2, [("claims", 3), ("release", 0)], [("claim", 0), ("claim", 1), ("claim", 7)]
    ),
    "a batch where all is gone beside a release and its user, and then again": Scenario(
        2, [("claims", 3), ("release", 0), ("claim", 3), ("claim", 5)], [("claim", 0), ("claim", 1), ("claim", 7)]
    ),
    "a batch where all is gone beside a release and a claim": Scenario(
        2, [("claims", 3), ("release", 0), ("claim", 5)], [("claim", 0), ("claim", 1), ("claim", 7)]
    ),
    "a batch where all is gone beside a close": Scenario(
        1, [("claims", 3), ("close", 0), ("release", 0)], [("claim", 0), ("claim", 7)]
    ),
    "a batch where all is gone beside a replacement": Scenario(
        1, [("claims", 3), ("release", 0), ("claim", 0)], [("claim", 0), ("claim", 7)], hasty=True
    ),
    "a batch where all is gone and lapses": Scenario(
        1, [("claims", 3), ("expire", 0)], [("claim", 0), ("claim", 7)], expiring=True
    ),
    "a batch where all is gone beside an opening": Scenario(
        2, [("open", 1), ("claims", 3)], [("claim", 0), ("claim", 7)], parts=(1,), growing=True
    ),
    "a batch beside an opening": Scenario(4, [("open", 1), ("claims", 1), ("claims", 3)], parts=(2,)),
    "a batch whose claims may lapse": Scenario(3, [("claims", 1), ("claim", 1), ("claim", 3)], expiring=True),
    "a batch whose claims may lapse beside a find and a settle": Scenario(
        3, [("claims", 1), ("find", 1), ("settle", 2)], expiring=True
    ),
    "a batch whose claims may lapse beside a release": Scenario(
        3, [("claims", 1), ("release", 2), ("claim", 4)], expiring=True
    ),
    "a batch after its user's claim and another have lapsed": Scenario(
        3, [("claims", 1), ("claim", 5)], [("claim", 1), ("claim", 4), ("expire", 0)], expiring=True
    ),
    "a batch beside another after all have lapsed": Scenario(
        2, [("claims", 1), ("claims", 2)], [("claim", 1), ("claim", 2), ("expire", 0)], expiring=True
    ),
    "a batch while the clock moves": Scenario(3, [("claims", 1), ("expire", 0)], expiring=True),
    "a batch while the clock moves beside another claim": Scenario(
        4, [("claims", 1), ("expire", 0), ("claim", 2)], expiring=True
    ),
    "a batch beside a reclaim, which may lapse": Scenario(2, [("claims", 1), ("reclaim", 0)], expiring=True),
}


class Makers(NamedTuple):
    """Makers of envelopes that race, each a name, after others were made; with so many bytes left (0: enough)."""

    race: list
    before: tuple | list = ()
    room: int = 0


MAKERS = {
    "two makers of one name": Makers([1, 1]),
    "two makers of two names": Makers([1, 2]),
    "two makers of one name on a new level": Makers([1, 1], [3]),
    "two makers of two names on a new level": Makers([1, 2], [3]),
    "two makers of two names that meet on a new level": Makers([1, 11], [3]),  # as maker.pyx hashes them
    "two makers of one name and one of another": Makers([1, 1, 2]),
    "two makers with room for one": Makers([1, 2], [3, 4], 128),
    "two makers that need another level, with room for one": Makers([1, 6], [3, 4], 128),
    "two makers of one name with room for one": Makers([1, 1], [3, 4], 128),
    "three makers with room for one": Makers([1, 1, 2], [3, 4], 128),
    "three makers with room for two": Makers([1, 1, 2], [3, 4], 256),
}


class Money(NamedTuple):
    """Operations that race on one account of so much money, each (kind, key, amount), after others were done in order.

    Of a settle the amount is what is spent, and all of it without one; of a refund it is what has come back in all. A
    batch is two reserves: ("batch", key, amount, key, amount).
    """

    total: int
    race: list
    before: tuple | list = ()
    crowded: bool = False  # keys that get in each other's way need a second level
    roomy: bool = False  # ... only when both words of a line are taken
    alike: bool = False  # keys cannot be told by their words in the index
    watching: bool = False  # others may go on before it is read what lies in a child


ACCOUNTS = {
    "one key twice": Money(100, [("reserve", 1, 60), ("reserve", 1, 60)]),
    "one key with two amounts": Money(100, [("reserve", 1, 60), ("reserve", 1, 30)]),
    "one key with two amounts, one too much": Money(50, [("reserve", 1, 60), ("reserve", 1, 30)]),
    "two keys": Money(100, [("reserve", 1, 60), ("reserve", 2, 40)]),
    "two keys, money for one": Money(100, [("reserve", 1, 60), ("reserve", 2, 60)]),
    "three keys, money for two": Money(100, [("reserve", 1, 50), ("reserve", 2, 50), ("reserve", 3, 50)]),
    "one key twice and another, money for one": Money(
        100, [("reserve", 1, 60), ("reserve", 1, 60), ("reserve", 2, 60)]
    ),
    "a key with two amounts and another": Money(100, [("reserve", 1, 60), ("reserve", 1, 30), ("reserve", 2, 60)]),
    "a key that was refused, asked for twice": Money(
        100, [("reserve", 1, 60), ("reserve", 2, 60), ("reserve", 1, 40), ("reserve", 1, 40)]
    ),
    "two keys on one path": Money(100, [("reserve", 1, 60), ("reserve", 3, 40)], crowded=True),
    "one key twice on a taken path": Money(
        100, [("reserve", 3, 30), ("reserve", 3, 30)], [("reserve", 1, 20)], crowded=True
    ),
    "two keys on a taken path": Money(
        100, [("reserve", 3, 30), ("reserve", 5, 30)], [("reserve", 1, 20)], crowded=True
    ),
    "one key twice and another on one path": Money(
        100, [("reserve", 1, 60), ("reserve", 1, 60), ("reserve", 3, 40)], crowded=True
    ),
    "a path that closes beside its key": Money(
        100, [("reserve", 4, 30), ("reserve", 4, 30), ("reserve", 3, 30)], [("reserve", 1, 20)], crowded=True
    ),
    "both words of a line beside a third key": Money(
        100, [("reserve", 5, 10), ("reserve", 1, 20), ("reserve", 3, 30)], crowded=True, roomy=True
    ),
    "both words of a line beside a reader": Money(
        100, [("look", 1), ("reserve", 3, 20), ("reserve", 1, 30)], crowded=True, roomy=True
    ),
    "two keys whose words are alike": Money(
        100, [("reserve", 1, 20), ("reserve", 3, 30), ("find", 1)], crowded=True, roomy=True, alike=True
    ),
    "find beside reserve": Money(100, [("reserve", 1, 60), ("find", 1), ("reserve", 2, 30)]),
    "a reader beside reserve": Money(100, [("reserve", 1, 60), ("look", 1), ("reserve", 2, 30)]),
    "all holds read beside one key twice": Money(100, [("reserve", 1, 60), ("reserve", 1, 60), ("read",)]),
    "all holds read beside one that is given back": Money(
        100, [("reserve", 1, 60), ("reserve", 1, 60), ("reserve", 2, 30), ("read",)]
    ),
    "a reader of all holds beside one that is given back": Money(
        100, [("reserve", 1, 60), ("reserve", 1, 60), ("reserve", 2, 30), ("scan",)]
    ),
    "a reader of all holds beside a settle": Money(
        100, [("reserve", 1, 30), ("settle", 2, 20), ("scan",)], [("reserve", 2, 60)]
    ),
    "decide beside reserve": Money(100, [("reserve", 1, 60), ("decide", 1)]),
    "decide beside a child that is refused": Money(
        100, [("fund", 1, 60), ("decide", 1), ("reserve", 2, 60)], watching=True
    ),
    "settle beside a hold of another segment": Money(
        100, [("settle", 1, 20), ("reserve", 3, 10)], [("reserve", 1, 60), ("reserve", 2, 20)]
    ),
    "decide beside a request of the dead": Money(100, [("fund", 1, 60), ("decide", 1), ("reserve", 1, 60)]),
    "decide beside fund": Money(100, [("fund", 1, 60), ("decide", 1), ("reserve", 2, 60)]),
    "settle in part and settle": Money(100, [("settle", 1, 20), ("settle", 1, 40)], [("reserve", 1, 60)]),
    "settle in part and release": Money(100, [("settle", 1, 20), ("release", 1)], [("reserve", 1, 60)]),
    "settle and release": Money(100, [("settle", 1), ("release", 1)], [("reserve", 1, 60)]),
    "two releases of a hold": Money(100, [("release", 1), ("release", 1)], [("reserve", 1, 60)]),
    "settle too much beside release": Money(100, [("settle", 1, 70), ("release", 1)], [("reserve", 1, 60)]),
    "settle, release and reserve of one key": Money(
        100, [("settle", 1, 20), ("release", 1), ("reserve", 1, 60)], [("reserve", 1, 60)]
    ),
    "settle, release and another key": Money(
        100, [("settle", 1, 20), ("release", 1), ("reserve", 2, 80)], [("reserve", 1, 60)]
    ),
    "settle of one, release of another": Money(
        100, [("settle", 1, 20), ("release", 2)], [("reserve", 1, 60), ("reserve", 2, 40)]
    ),
    "settle at once after the grant": Money(100, [("reserve", 1, 60), ("settle", 1, 20), ("reserve", 2, 60)]),
    "release at once after the grant": Money(100, [("reserve", 1, 60), ("release", 1), ("reserve", 2, 60)]),
    "settle at once after another's decision": Money(100, [("reserve", 1, 60), ("decide", 1), ("settle", 1, 20)]),
    "release at once after another's decision": Money(100, [("reserve", 1, 60), ("decide", 1), ("release", 1)]),
    "a reader beside settle": Money(100, [("settle", 1, 20), ("look", 1), ("reserve", 2, 60)], [("reserve", 1, 60)]),
    "two reserves of the last money and a release": Money(
        100, [("reserve", 2, 60), ("reserve", 3, 60), ("release", 1)], [("reserve", 1, 60)]
    ),
    "two releases and a reserve of all": Money(
        100, [("release", 1), ("release", 2), ("reserve", 3, 100)], [("reserve", 1, 60), ("reserve", 2, 40)]
    ),
    "one child twice": Money(100, [("fund", 1, 60), ("fund", 1, 60)]),
    "one child twice and a reserve": Money(100, [("fund", 1, 60), ("fund", 1, 60), ("reserve", 2, 60)]),
    "a child and a reserve, money for one": Money(100, [("fund", 1, 60), ("reserve", 2, 60)]),
    "two refunds": Money(100, [("refund", 1, 10), ("refund", 1, 30)], [("fund", 1, 60)]),
    "one refund twice": Money(100, [("refund", 1, 10), ("refund", 1, 10)], [("fund", 1, 60)]),
    "three refunds": Money(100, [("refund", 1, 10), ("refund", 1, 30), ("refund", 1, 20)], [("fund", 1, 60)]),
    "two refunds after another": Money(
        100, [("refund", 1, 20), ("refund", 1, 30)], [("fund", 1, 60), ("refund", 1, 10)]
    ),
    "two refunds and a reserve": Money(
        100, [("refund", 1, 10), ("refund", 1, 30), ("reserve", 2, 50)], [("fund", 1, 60)]
    ),
    "a child and its refund": Money(100, [("fund", 1, 60), ("refund", 1, 10)]),
    "a reader beside two refunds": Money(100, [("refund", 1, 10), ("refund", 1, 30), ("look", 1)], [("fund", 1, 60)]),
    "close and reserve": Money(100, [("close",), ("reserve", 1, 60)]),
    "close and two reserves": Money(100, [("close",), ("reserve", 1, 60), ("reserve", 2, 60)]),
    "two closes and a reserve": Money(100, [("close",), ("close",), ("reserve", 1, 60)]),
    "close and one key with two amounts": Money(100, [("close",), ("reserve", 1, 60), ("reserve", 1, 30)]),
    "close and settle": Money(100, [("close",), ("settle", 1, 20)], [("reserve", 1, 60)]),
    "close, settle and release": Money(100, [("close",), ("settle", 1, 20), ("release", 1)], [("reserve", 1, 60)]),
    "close, refund and reserve": Money(100, [("close",), ("refund", 1, 10), ("reserve", 2, 40)], [("fund", 1, 60)]),
    "close, a key refused and granted": Money(
        100, [("reserve", 1, 60), ("reserve", 2, 60), ("reserve", 1, 40), ("close",)]
    ),
    "find beside a hold that is known by what is missing": Money(
        100, [("reserve", 1, 60), ("reserve", 3, 60), ("find", 1), ("reserve", 2, 10)]
    ),
    "a reader beside a hold that is known by what is missing": Money(
        100, [("reserve", 1, 60), ("reserve", 3, 60), ("look", 1), ("reserve", 2, 10)]
    ),
    "a refusal beside money that comes back": Money(
        100, [("reserve", 1, 60), ("decide", 1), ("reserve", 2, 60), ("release", 2)]
    ),
    "two top-ups of one key": Money(100, [("add", 1, 50), ("add", 1, 50)]),
    "a top-up and a reserve of it": Money(100, [("add", 1, 50), ("reserve", 2, 150)]),
    "a top-up, a close and a reserve": Money(100, [("add", 1, 50), ("close",), ("reserve", 2, 150)]),
    "a batch and a reserve, money for two": Money(100, [("batch", 1, 50, 2, 50), ("reserve", 3, 50)]),
    "a batch and its second key, money for one": Money(120, [("batch", 1, 60, 2, 60), ("reserve", 2, 60)]),
    "a batch, its second key and another, money for one": Money(
        120, [("batch", 1, 60, 2, 60), ("reserve", 2, 60), ("reserve", 3, 50)]
    ),
    "a batch of one key twice and the same key": Money(100, [("batch", 1, 40, 1, 30), ("reserve", 1, 40)]),
    "two batches of two keys": Money(120, [("batch", 1, 50, 2, 40), ("batch", 2, 40, 1, 50)]),
    "two batches, money for three": Money(90, [("batch", 1, 30, 2, 30), ("batch", 3, 30, 4, 30)]),
    "a batch of too much and of little": Money(50, [("batch", 1, 60, 2, 30), ("reserve", 3, 30)]),
    "a batch with a key that was refused": Money(
        100, [("reserve", 1, 60), ("reserve", 2, 60), ("batch", 1, 30, 3, 10)]
    ),
    "a batch of little and too much, and a release": Money(
        100, [("batch", 2, 30, 3, 60), ("release", 1)], [("reserve", 1, 60)]
    ),
    "a batch with a key that is held, and its settle": Money(
        100, [("batch", 1, 60, 2, 40), ("settle", 1, 20)], [("reserve", 1, 60)]
    ),
    "a batch on one path, and its second key": Money(100, [("batch", 1, 30, 3, 30), ("reserve", 3, 30)], crowded=True),
    "a batch on a taken path, and its second key": Money(
        100, [("batch", 3, 30, 5, 30), ("reserve", 5, 30)], [("reserve", 1, 20)], crowded=True
    ),
    "a batch whose keys share a line, and its second key": Money(
        100, [("batch", 1, 20, 3, 30), ("reserve", 3, 30)], crowded=True, roomy=True
    ),
    "a batch over the end of a segment, and a reserve": Money(
        100, [("batch", 2, 30, 3, 30), ("reserve", 4, 30)], [("reserve", 1, 10)]
    ),
    "a batch beside its second key, which settles": Money(
        120, [("batch", 1, 60, 2, 60), ("reserve", 2, 60), ("settle", 2, 10)]
    ),
    "all holds read beside a batch that gives back": Money(
        100, [("batch", 1, 20, 2, 30), ("reserve", 2, 30), ("read",)]
    ),
    "close and a batch": Money(100, [("close",), ("batch", 1, 60, 2, 40)]),
    "decide beside a batch": Money(100, [("batch", 1, 60, 2, 40), ("decide", 2)]),
    "a reader beside a batch": Money(100, [("batch", 1, 60, 2, 40), ("look", 2), ("look", 1)]),
}

# These have so many schedules that they are given one preemption and one death less than others.
LONG = {
    "a slow helper of a replacement but one",
    "a slow helper of a replacement but two",
    "what the dead hold behind a block that a pin keeps from being full",
    "a part that a death has appended to a ledger that a pin keeps from being full",
    "a batch beside another after all have lapsed",
}

PARTS: dict[str, dict] = {"ledger": SCENARIOS, "makers": MAKERS, "accounts": ACCOUNTS}
