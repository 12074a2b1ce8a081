"""Forged holds: what the sums of a budget agree with, and only its parent, or a child, can contradict.

Each forgery changes a hold that a key had, and the money of the budget with it, so that what is available and what was
granted are the total as before: the audit has to see it by other means.
"""

import random
import struct
from collections.abc import Iterator
from typing import NamedTuple

from engine_files import whole_units
from hostile_files import BUCKETS, CONSTANTS, STRUCTS, UNIT

GRANTED, SETTLED, RELEASED, FUNDED, ADDED = 2, 3, 6, 8, 11
"""Kinds of the state of a hold, as in hold.pxd."""
CLOSED = 1 << 63
Writes = list[tuple[str, int, bytes]]


class Hold(NamedTuple):
    """A hold as it stands in a file."""

    budget: int
    at: int
    kind: int
    state: int
    value: int
    amount: int
    link: int


def word(content: bytes, at: int) -> int:
    """Read one word."""
    return struct.unpack_from("<Q", content, at)[0]


def extents(content: bytes, kind: str) -> list[int]:
    """Return the places of all extents of a kind."""
    found = []
    at = BUCKETS.stop
    while (state := word(content, at)) != 0:
        if struct.unpack_from("<I", content, at + STRUCTS["hb_extent"]["kind"][0])[0] == CONSTANTS[kind]:
            found.append(at)
        at += (state >> 28) * UNIT
    return found


def parent_of(content: bytes, at: int) -> int:
    """Return the place of what an object belongs to, 0: the engine."""
    return word(content, at + STRUCTS["hb_extent"]["parent"][0])


def first_holds(content: bytes) -> Iterator[Hold]:
    """Walk through the holds of all budgets, those that stand behind the budget itself: the first 64 of each."""
    fields = STRUCTS["hb_hold"]
    for budget in extents(content, "HB_KIND_BUDGET"):
        length = struct.unpack_from("<H", content, budget + STRUCTS["hb_extent"]["name_length"][0])[0]
        begin = budget + STRUCTS["hb_budget"][""][1] + whole_units(length) + 8 * 64
        for number in range(64):
            at = begin + fields[""][1] * number
            state, value, amount, link = (
                word(content, at + fields[f][0]) for f in ("state", "value", "amount", "link")
            )
            yield Hold(budget, at, state >> 60, state, value, amount, link)


def rewritten(hold: Hold, kind: int, value: int) -> tuple[str, int, bytes]:
    """Return what makes another kind of hold of it."""
    state = hold.state & (1 << 60) - 1 | kind << 60
    return f"hold made {kind}", hold.at + STRUCTS["hb_hold"]["state"][0], struct.pack("<2Q", state, value)


def added_by_nobody(content: bytes, chance: random.Random) -> Writes:
    """Make a top-up that no parent has paid of the hold of a key, and have as much more available."""
    hold = chance.choice([
        hold for hold in first_holds(content)
        if hold.kind in (GRANTED, SETTLED, RELEASED) and parent_of(content, hold.budget) != 0
    ])  # fmt: skip
    money = hold.budget + STRUCTS["hb_budget"]["money"][0] + 8
    taken = hold.amount - hold.value
    available = struct.pack("<Q", word(content, money) + hold.amount + taken)
    return [rewritten(hold, ADDED, 0), ("available", money, available)]


def linked_twice(content: bytes, chance: random.Random) -> Writes:
    """Make of the hold of a key a second one for what its budget has funded already."""
    holds = list(first_holds(content))
    real = chance.choice([hold for hold in holds if hold.kind == FUNDED])
    keys = [hold for hold in holds if hold.kind in (GRANTED, SETTLED, RELEASED) and hold.budget == real.budget]
    hold = chance.choice(keys)
    # A child's hold has an amount without a check, so it may as well be the right one, which the money agrees with.
    fields, money = STRUCTS["hb_hold"], hold.budget + STRUCTS["hb_budget"]["money"][0] + 8
    available = word(content, money) + hold.amount - hold.value - real.amount
    writes = [
        ("amount", hold.at + fields["amount"][0], struct.pack("<2Q", real.amount, real.link)),
        ("available", money, struct.pack("<Q", available)),
    ]
    if available & ~CLOSED >= 1 << 62:  # it has not got so much: another amount then
        writes = [("link", hold.at + fields["link"][0], struct.pack("<Q", real.link))]
        return [rewritten(hold, FUNDED, hold.value), *writes]
    return [rewritten(hold, FUNDED, 0), *writes]


FORGERIES = {"added by nobody": added_by_nobody, "linked twice": linked_twice}
