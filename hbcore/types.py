"""The values that hbcore's calls return, shared by the native core and the reference."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Status(IntEnum):
    """The answer to a claim or to a reservation."""

    GRANTED = 0
    """The packet was free and is now the user's; the money was available and is now held."""
    REPEATED = 1
    """The user already holds a packet of this envelope, or the key was granted: the same answer as the first time."""
    SOLD_OUT = 2
    """No packet is free."""
    CLOSED = 3
    """The envelope was closed or has expired; the budget was closed."""
    INSUFFICIENT = 4
    """The budget cannot cover the amount."""
    CONFLICT = 5
    """The key was granted with another amount, or the envelope exists with other terms (``reserve_many`` and
    ``create_many`` only; a single call raises ConflictError)."""


class State(IntEnum):
    """What became of a packet that somebody holds, or of a hold."""

    GRANTED = 2
    """Given to a user, or held; the payout still open."""
    SETTLED = 3
    """Paid out: final."""
    RELEASED = 6
    """A hold whose money was given back: final, the key keeps it."""


class Amounts(NamedTuple):
    """Sums of money in minor units."""

    total: int
    granted: int
    settled: int
    remaining: int


class EnvelopeStats(NamedTuple):
    """What an envelope holds, counted from its slots.

    ``granted`` counts the packets given out and not settled, ``settled`` those paid out, ``remaining`` those that
    can still be claimed (none once the envelope is closed). ``amounts`` has the same fields in minor units.
    """

    packets: int
    granted: int
    settled: int
    remaining: int
    amounts: Amounts


class BudgetStats(NamedTuple):
    """The money of a budget in minor units, counted from its holds: ``total == available + held + settled``.

    ``total`` is the base, plus what was topped up, less what a closed sub-budget has given back to its parent.
    ``settled`` was spent, by holds of the budget itself and within the envelopes and sub-budgets below it; ``held`` is
    what is neither spent nor available here, and so has in it what is available in the sub-budgets.
    """

    total: int
    available: int
    held: int
    settled: int


class AuditReport(NamedTuple):
    """What an audit that found nothing wrong has counted.

    ``amount_budgeted`` is the sum of the totals of the budgets that have no parent; it is ``amount_available`` (in all
    budgets, whoever holds it), ``amount_held`` (available nowhere) and ``amount_spent`` together. ``holds`` counts the
    keys that were ever granted.
    """

    envelopes: int
    packets: int
    granted: int
    settled: int
    refunded: int
    amount_total: int
    amount_granted: int
    amount_settled: int
    budgets: int = 0
    holds: int = 0
    amount_budgeted: int = 0
    amount_available: int = 0
    amount_held: int = 0
    amount_spent: int = 0


class WorkerInfo(NamedTuple):
    """An entry of an engine's worker table: the process that has it, or the last one that had.

    ``registered_at`` in seconds since 1970. ``pid`` is as that process saw it; ``is_alive`` is what the kernel says.
    """

    number: int
    epoch: int
    pid: int
    registered_at: float
    is_alive: bool


class EngineInfo(NamedTuple):
    """What an engine is made of; sizes in bytes, times in seconds since 1970.

    ``used`` of ``capacity`` have been handed out, ``size`` is what the file has on disk. ``is_replaced``: another file,
    or none, stands at ``path`` by now. ``workers``: the entries that were ever used.
    """

    path: str | None
    engine_id: str
    version: int
    created_at: float
    keeps_key: bool
    capacity: int
    size: int
    used: int
    is_replaced: bool
    workers: tuple[WorkerInfo, ...]


CLAIM_DTYPE = np.dtype([("status", "u1"), ("amount", "i8"), ("packet", "i8")], align=True)
"""One answer of ``claim_many``: ``status`` is a ``Status``; without a packet ``amount`` is 0 and ``packet`` -1."""

SNAPSHOT_DTYPE = np.dtype(
    [("packet", "i8"), ("user", "V16"), ("amount", "i8"), ("state", "u1"), ("granted_at", "M8[ms]")],
    align=True,
)
"""One live claim of ``Envelope.claims()``: ``user`` is the keyed hash (``Engine.user_hash``), ``state`` a ``State``,
``granted_at`` UTC."""

HOLD_DTYPE = np.dtype([("status", "u1"), ("amount", "i8")], align=True)
"""One answer of ``reserve_many``: ``status`` is a ``Status``; ``amount`` is what the key was granted with, also where
that is another than was asked for (CONFLICT) and whatever has become of it, and 0 without a hold."""

HOLD_SNAPSHOT_DTYPE = np.dtype(
    [("key", "V16"), ("amount", "i8"), ("settled", "i8"), ("state", "u1"), ("granted_at", "M8[ms]")],
    align=True,
)
"""One hold of ``Budget.holds()``: ``key`` is the keyed hash (``Engine.user_hash``), ``amount`` what was reserved,
``settled`` what of it was spent, ``state`` a ``State``, ``granted_at`` UTC."""
