"""The values that hbcore's calls return, shared by the native core and the reference."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

User: TypeAlias = str | bytes | int | SupportsIndex
"""A user, or the key of a hold or top-up: ``str``, ``bytes`` or an integer (NumPy's too) of ``-2**63 .. 2**64 - 1``."""

Users: TypeAlias = NDArray[np.integer[Any] | np.bytes_ | np.str_ | np.object_] | Iterable[User]
"""Many users or keys: an array of shape (users,) of integers or of fixed-width bytes or strings, or many ``User``."""


class Status(IntEnum):
    """The answer to a claim, a reservation or a creation."""

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
    """Sums of money in minor units.

    Attributes:
        total: sum of all packets.
        granted: sum of the packets given out and not settled.
        settled: sum of the packets paid out.
        remaining: sum of the packets that can still be claimed.
    """

    total: int
    granted: int
    settled: int
    remaining: int


class EnvelopeStats(NamedTuple):
    """What an envelope holds, counted from its slots.

    Attributes:
        packets: number of packets, those of top-ups included.
        granted: number of packets given out and not settled.
        settled: number of packets paid out.
        remaining: number of packets that can still be claimed; 0 once the envelope is closed. One that has expired
            counts as before until a claim, a close, a sweep or an audit closes it.
        amounts: the same sums in minor units, as ``Amounts``.
    """

    packets: int
    granted: int
    settled: int
    remaining: int
    amounts: Amounts


class BudgetStats(NamedTuple):
    """The money of a budget in minor units, counted from its holds: ``total == available + held + settled``.

    Attributes:
        total: sum that the budget was made with and topped up by, less what a closed sub-budget has given back.
        available: sum that can be reserved now.
        held: sum that is neither spent nor available here; what is available in the sub-budgets is part of it.
        settled: sum that was spent, by holds of the budget and within the envelopes and sub-budgets below it.
    """

    total: int
    available: int
    held: int
    settled: int


class AuditReport(NamedTuple):
    """What an audit that found nothing wrong has counted.

    ``amount_budgeted == amount_available + amount_held + amount_spent``; amounts are in minor units.

    Attributes:
        envelopes: number of envelopes.
        packets: number of their packets.
        granted: number of packets given out and not settled.
        settled: number of packets paid out.
        refunded: number of packets whose money went back.
        amount_total: sum of all packets.
        amount_granted: sum of the packets given out and not settled.
        amount_settled: sum of the packets paid out.
        budgets: number of budgets.
        holds: number of keys that were ever granted.
        amount_budgeted: sum of the totals of the budgets that have no parent.
        amount_available: sum that can be reserved, in all budgets.
        amount_held: sum that is neither spent nor available in any budget.
        amount_spent: sum that was spent.
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

    Attributes:
        number: number of the entry.
        epoch: how often the entry was taken.
        pid: number of the process, as the process itself saw it.
        registered_at: time of the registration in seconds since 1970.
        is_alive: whether the process lives, as the kernel says.
    """

    number: int
    epoch: int
    pid: int
    registered_at: float
    is_alive: bool


class EngineInfo(NamedTuple):
    """What an engine is made of; sizes in bytes, times in seconds since 1970.

    Attributes:
        path: path of the file; None in memory.
        engine_id: identity of the engine, in hexadecimal digits.
        version: version of the file's format.
        created_at: time when the engine was made.
        keeps_key: whether the key that hashes users is kept in the engine itself.
        capacity: bytes of address space.
        size: bytes that the file has on disk.
        used: bytes of the capacity that have been handed out.
        is_replaced: whether another file, or none, stands at ``path`` by now.
        workers: a ``WorkerInfo`` for each entry of the worker table that was ever used.
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
another amount was asked for (CONFLICT) and whatever became of the hold since, and 0 without a hold."""

HOLD_SNAPSHOT_DTYPE = np.dtype(
    [("key", "V16"), ("amount", "i8"), ("settled", "i8"), ("state", "u1"), ("granted_at", "M8[ms]")],
    align=True,
)
"""One hold of ``Budget.holds()``: ``key`` is the keyed hash (``Engine.user_hash``), ``amount`` what was reserved,
``settled`` the part of it that was spent, ``state`` a ``State``, ``granted_at`` UTC."""
