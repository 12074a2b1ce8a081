"""Budgets in plain Python: money that can be reserved, keyed holds of it, and the tree of budgets and envelopes.

This is the twin of ``budget.pyx``. A dictionary stands for its holds and their index, and one integer for its pair of
money words, because no process dies here between the two.

Money moves in two ways only. ``_take`` takes from what is available: for a hold, a sub-budget, an envelope, a top-up.
``_give`` brings back what one of these no longer needs; in a closed sub-budget it goes on to the parent, so that it
climbs a chain of closed budgets up to the first that is open. Everything else only writes down whose money it is.
"""

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from hbcore.errors import AuditError, ConflictError, InsufficientBudgetError
from hbcore.reference.envelope import Envelope
from hbcore.reference.hold import Hold
from hbcore.reference.user import user_identity, user_key, user_list
from hbcore.terms import TOTAL_LIMIT, LawName, amount_list, integer
from hbcore.types import HOLD_DTYPE, HOLD_SNAPSHOT_DTYPE, BudgetStats, State, Status

if TYPE_CHECKING:
    from hbcore.reference.engine import Engine


class Slot:
    """The record that the reference keeps of one hold."""

    __slots__ = ("amount", "granted_at_ms", "settled", "state")

    def __init__(self, amount: int, granted_at_ms: int) -> None:
        self.amount = amount
        self.settled = 0
        self.state = State.GRANTED
        self.granted_at_ms = granted_at_ms

    def kept(self) -> int:
        """Return how much of the budget's money is this hold's."""
        return {State.GRANTED: self.amount, State.SETTLED: self.settled, State.RELEASED: 0}[self.state]

    def hold(self, status: Status = Status.REPEATED) -> Hold:
        """Return the answer about this hold."""
        return Hold(status, self.amount, self.settled, self.state)


class Budget:
    """Money that can be reserved; made by ``Engine.budget`` or ``Budget.budget``.

    Keys identify holds as users identify claims: a key is a ``str``, ``bytes`` or ``int``, and is shown as a keyed
    hash. What a key was granted stands for ever: asking again gives the same answer, also when the budget is closed by
    then. Keys of holds, keys of top-ups, names of sub-budgets and names of envelopes are four name spaces.
    """

    def __init__(self, engine: "Engine", name: str, total: int, parent: "Budget | None") -> None:
        self._engine = engine
        self.name = name
        self.parent = parent
        self._base = total
        self._available = total
        self._refunded = 0  # to the parent
        self._closed = False
        self._holds: dict[bytes | int, Slot] = {}
        self._top_ups: dict[bytes | int, int] = {}
        self._children: list[Budget | Envelope] = []

    @property
    def total(self) -> int:
        """The sum that the budget was made with and topped up by, in minor units, whatever it has given back since."""
        self._engine._check_open()
        return self._base + sum(self._top_ups.values())

    @property
    def closed(self) -> bool:
        """Whether nothing more can be reserved."""
        self._engine._check_open()
        return self._closed

    # ---- money ------------------------------------------------------------------------------------------------------

    def _take(self, amount: int) -> Status:
        """Take money out of what is available; return GRANTED, or CLOSED or INSUFFICIENT if that cannot be."""
        if self._closed:
            return Status.CLOSED
        if amount > self._available:
            return Status.INSUFFICIENT
        self._available -= amount
        return Status.GRANTED

    def _give(self, amount: int) -> None:
        """Bring money back: to what is available, or on to the parent of a closed sub-budget."""
        if self._closed and self.parent is not None:
            self._refunded += amount
            self.parent._give(amount)
        else:
            self._available += amount

    def _fund(self, total: int, what: str) -> None:
        """Take the total of a sub-budget or an envelope, or raise InsufficientBudgetError."""
        status = self._take(total)
        if status == Status.CLOSED:
            raise InsufficientBudgetError(f"budget {self.name!r} is closed")
        if status == Status.INSUFFICIENT:
            raise InsufficientBudgetError(
                f"budget {self.name!r} has {self._available} available, not the {total} for {what}"
            )

    def budget(self, name: str, total: int | None = None) -> "Budget":
        """Get the sub-budget of that name, or create it: a hold of ``total`` in this budget.

        Raises:
            InsufficientBudgetError: this budget cannot fund it, or is closed. Nothing was made, and the name is free.
            TypeError, ValueError, ConflictError, NotFoundError: as ``Engine.budget``.
        """
        return self._engine._budget(self, name, total)

    def envelope(
        self,
        name: str,
        total: int | None = None,
        packets: int | None = None,
        law: LawName = "double_mean",
        min: int = 1,
        max: int | None = None,
        concentration: int = 3,
        seed: bytes | None = None,
        expires_at: object = None,
        per_user: int = 1,
        hold_seconds: float | None = None,
        max_packets: int | None = None,
    ) -> Envelope:
        """Get the envelope of that name, or create it: funded by a hold of ``total`` in this budget.

        Raises:
            InsufficientBudgetError: this budget cannot fund it, or is closed. Nothing was made; the name is free.
            TypeError, ValueError, ConflictError, NotFoundError: as ``Engine.envelope``.
        """
        optional = (law, min, max, concentration, seed, expires_at, per_user, hold_seconds, max_packets)
        return self._engine._envelope(self, name, total, packets, *optional)

    def create_many(
        self,
        names: object,
        totals: object,
        packets: object,
        *,
        law: LawName = "double_mean",
        min: int = 1,
        max: int | None = None,
        concentration: int = 3,
        seeds: object = None,
        expires_at: object = None,
        per_user: int = 1,
        hold_seconds: float | None = None,
        max_packets: int | None = None,
    ) -> np.ndarray:
        """Create many envelopes in order, each as a hold of its total in this budget; return the ``Status`` of each.

        An envelope that cannot be funded is answered INSUFFICIENT or CLOSED and not made; those after it are tried as
        well.
        """
        common = (law, min, max, concentration, seeds, expires_at, per_user, hold_seconds, max_packets)
        return self._engine._create_many(self, names, totals, packets, *common)

    def close(self) -> int:
        """End the reserving, and give what is available to the parent. Idempotent.

        Holds, sub-budgets and envelopes keep what they have, and what they give back later goes up at once. The money
        of a root budget has nowhere to go and stays available, though nothing can be reserved.

        Returns:
            The sum that was refunded to the parent so far; for a root budget, the sum that is available.
        """
        self._engine._check_open()
        if not self._closed:
            self._closed = True
            if self.parent is not None:
                available, self._available = self._available, 0
                self._give(available)
        return self._available if self.parent is None else self._refunded

    def top_up(self, key: object, /, amount: int) -> Hold:
        """Add money: new money to a root budget, a hold of the parent's to a sub-budget. Keyed and idempotent.

        Returns:
            A ``Hold``: GRANTED the first time and REPEATED from then on; INSUFFICIENT if the parent has less; CLOSED if
            this budget or its parent is closed. The last two leave no trace.

        Raises:
            ConflictError: the key has topped up by another amount.
            ValueError: the total would reach 2**62. This is checked before the parent is asked, and after REPEATED and
                the CLOSED of this budget itself.
        """
        self._engine._check_open()
        identity = user_identity(key, "key")
        amount = integer("amount", amount, 1, TOTAL_LIMIT - 1)
        present = self._top_ups.get(identity)
        if present is not None:
            if present != amount:
                raise ConflictError(f"top-up {key!r} of budget {self.name!r} was {present}, not {amount}")
            return Hold(Status.REPEATED, amount, 0, State.GRANTED)
        if self._closed:
            return Hold(Status.CLOSED, 0, 0, None)
        if self.total + amount >= TOTAL_LIMIT:
            raise ValueError(
                f"the total of budget {self.name!r} must stay below 2**62: it is {self.total}, and {amount} is too much"
            )
        if self.parent is not None:
            status = self.parent._take(amount)
            if status != Status.GRANTED:
                return Hold(status, 0, 0, None)
        self._top_ups[identity] = amount
        self._give(amount)
        return Hold(Status.GRANTED, amount, 0, State.GRANTED)

    # ---- holds ------------------------------------------------------------------------------------------------------

    def reserve(self, key: object, /, amount: int) -> Hold:
        """Hold money under a key, or say why not; the answer is the same when asked again.

        Returns:
            A ``Hold``: GRANTED the first time; REPEATED from then on, with what became of the hold; INSUFFICIENT or
            CLOSED, which leave no trace.

        Raises:
            ConflictError: the key was granted with another amount.
        """
        self._engine._check_open()
        identity = user_identity(key, "key")
        amount = integer("amount", amount, 1, TOTAL_LIMIT - 1)
        hold = self._reserve(identity, amount)
        if hold.status == Status.CONFLICT:
            raise ConflictError(f"key {key!r} of budget {self.name!r} was granted {hold.amount}, not {amount}")
        return hold

    def _reserve(self, identity: bytes | int, amount: int) -> Hold:
        slot = self._holds.get(identity)
        if slot is not None:
            return slot.hold(Status.REPEATED if slot.amount == amount else Status.CONFLICT)
        status = self._take(amount)
        if status != Status.GRANTED:
            return Hold(status, 0, 0, None)
        slot = self._holds[identity] = Slot(amount, self._engine._now_ms())
        return slot.hold(Status.GRANTED)

    def reserve_many(self, keys: object, /, amounts: object) -> np.ndarray:
        """Reserve for every key in order; return one ``HOLD_DTYPE`` row each. A bad key or amount reserves nothing.

        ``amounts`` is one integer for all, or a sequence or an integer array of as many as keys. A key that was granted
        with another amount answers CONFLICT with the amount it has, and the others go on.
        """
        self._engine._check_open()
        identities = user_list(keys, "key")
        answers = np.zeros(len(identities), HOLD_DTYPE)
        for i, pair in enumerate(zip(identities, amount_list(amounts, len(identities)), strict=True)):
            hold = self._reserve(*pair)
            answers[i] = (hold.status, hold.amount)
        return answers

    def find(self, key: object, /) -> Hold | None:
        """Return the key's hold, with status REPEATED, or None if it was never granted."""
        self._engine._check_open()
        slot = self._holds.get(user_identity(key, "key"))
        return None if slot is None else slot.hold()

    def settle(self, key: object, /, amount: int | None = None) -> Hold | None:
        """Spend what the key holds, or ``amount`` of it, and make the rest available again. Final.

        Returns:
            The hold, also when it was settled with the same amount before (None is the whole amount); None if the key
            was never granted.

        Raises:
            ValueError: the amount is more than the key holds.
            ConflictError: the hold is released, or settled with another amount.
        """
        self._engine._check_open()
        identity = user_identity(key, "key")
        if amount is not None:
            amount = integer("amount", amount, 0, TOTAL_LIMIT - 1)
        slot = self._holds.get(identity)
        if slot is None:
            return None
        if slot.state == State.RELEASED:
            raise ConflictError(f"key {key!r} of budget {self.name!r} is released: final, not to be settled")
        spent = slot.amount if amount is None else integer("amount", amount, 0, slot.amount)
        if slot.state == State.GRANTED:
            slot.state = State.SETTLED
            slot.settled = spent
            self._give(slot.amount - spent)
        elif slot.settled != spent:
            raise ConflictError(f"key {key!r} of budget {self.name!r} is settled with {slot.settled}, not {spent}")
        return slot.hold()

    def release(self, key: object, /) -> Hold | None:
        """Give back what the key holds. Final and idempotent.

        Returns:
            The hold; None if the key was never granted.

        Raises:
            ConflictError: the hold is settled.
        """
        self._engine._check_open()
        slot = self._holds.get(user_identity(key, "key"))
        if slot is None:
            return None
        if slot.state == State.SETTLED:
            raise ConflictError(f"key {key!r} of budget {self.name!r} is settled: final, not to be released")
        if slot.state == State.GRANTED:
            slot.state = State.RELEASED
            self._give(slot.amount)
        return slot.hold()

    # ---- the books --------------------------------------------------------------------------------------------------

    def holds(self) -> np.ndarray:
        """Return every hold that was ever granted, as ``HOLD_SNAPSHOT_DTYPE`` rows; sub-budgets are not among them."""
        self._engine._check_open()
        rows = [
            (
                user_key(self._engine._key, identity),
                slot.amount,
                slot.settled,
                int(slot.state),
                np.datetime64(slot.granted_at_ms, "ms"),
            )
            for identity, slot in self._holds.items()
        ]
        answers = np.zeros(len(rows), HOLD_SNAPSHOT_DTYPE)  # np.array would leave old memory between the fields
        answers[:] = rows
        return answers

    def stats(self) -> BudgetStats:
        """Sum up the money of the budget and of all that is below it. See ``BudgetStats``."""
        self._engine._check_open()
        total = self._base + sum(self._top_ups.values()) - self._refunded
        settled = sum(slot.settled for slot in self._holds.values())
        held = sum(slot.amount for slot in self._holds.values() if slot.state == State.GRANTED)
        for child in self._children:
            child_total, child_settled = share(child)
            settled += child_settled
            held += child_total - child_settled
        return BudgetStats(total, self._available, held, settled)

    def _audit(self) -> None:
        for identity, slot in self._holds.items():
            if not 0 <= slot.settled <= slot.kept() <= slot.amount:
                key = user_key(self._engine._key, identity).hex()
                raise AuditError(f"budget {self.name!r}: hold {key} of {slot.amount} is settled with {slot.settled}")
        stats = self.stats()
        if stats.available < 0 or stats.available + stats.held + stats.settled != stats.total:
            raise AuditError(
                f"budget {self.name!r}: {stats.available} available, {stats.held} held and {stats.settled} settled are "
                f"not {stats.total} in all"
            )
        if self._closed and self.parent is not None and stats.available:
            raise AuditError(f"budget {self.name!r} is closed and has not refunded {stats.available}")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"budget {self.name!r} lives in a memory engine, which other processes cannot open; use a file "
            "(hbcore.Engine(path)) to pickle it, or fork"
        )

    def __repr__(self) -> str:
        return f"<Budget {self.name!r}: {self._base}, engine in memory>"


def share(child: Budget | Envelope) -> tuple[int, int]:
    """Return how much of its budget's money is a child's (its total less its refunds), and how much was settled."""
    if isinstance(child, Budget):
        stats = child.stats()
        return stats.total, stats.settled
    return child._total - child._refunded, child.stats().amounts.settled
