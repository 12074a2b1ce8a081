from collections.abc import Iterable
from typing import Any, Never, SupportsIndex, TypeAlias, Unpack, final

import numpy as np
from numpy.typing import NDArray

from hbcore._file.region import Region
from hbcore._money.budget_base import BudgetBase
from hbcore.envelope import Envelope
from hbcore.terms import BatchTerms, EnvelopeTerms, LawName
from hbcore.types import BudgetStats, State, Status, User, Users

_Amounts: TypeAlias = SupportsIndex | NDArray[np.integer[Any] | np.object_] | Iterable[SupportsIndex]
_Names: TypeAlias = NDArray[np.str_ | np.object_] | Iterable[str]

@final
class Hold:
    """The answer to a reservation or a top-up: truthy if the key has its money, held or spent.

    Immutable, comparable and hashable; it can be pickled.

    Examples:
        >>> gala = engine.budget("gala", total=300_000)
        >>> gala.reserve("order-17", 5_000)
        Hold(status=Status.GRANTED, amount=5000, settled=0, state=State.GRANTED)
        >>> bool(gala.release("order-17")), bool(gala.reserve("order-18", 400_000))
        (False, False)
    """

    def __init__(self, status: int, amount: int, settled: int, state: int | None) -> None: ...
    @property
    def status(self) -> Status:
        """Why the key has a hold, or has none, as a ``Status``.

        Examples:
            >>> engine.budget("gala", total=300_000).reserve("order-17", 400_000).status.name
            'INSUFFICIENT'
        """

    @property
    def amount(self) -> int:
        """Sum that was reserved, in minor units; 0 without a hold.

        Examples:
            >>> engine.budget("gala", total=300_000).reserve("order-17", 5_000).amount
            5000
        """

    @property
    def settled(self) -> int:
        """Part of the amount that was spent, in minor units; 0 unless the hold was settled.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).settled, gala.settle("order-17", 4_200).settled
            (0, 4200)
        """

    @property
    def state(self) -> State | None:
        """What became of the hold, as a ``State``: GRANTED, SETTLED or RELEASED; None without a hold.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).state.name, gala.settle("order-17").state.name
            ('GRANTED', 'SETTLED')
        """

    def __bool__(self) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Budget(BudgetBase):
    """Money that can be reserved, in minor units; made by ``Engine.budget`` or, as a hold of another, by ``budget``.

    ``reserve(key, amount)`` holds money, ``settle`` spends all or a part of it, ``release`` gives it back. Every key is
    idempotent for ever. ``total == available + held + settled`` at every moment.

    All methods are safe to call from any thread of any process that has the engine open, with or without the GIL, and
    no call waits for another: what one has begun, any other can finish. Two handles are equal if they speak of the
    same budget. A budget of a file can be pickled; a budget of a memory engine cannot.

    Attributes:
        name: name of the budget, unique among the budgets of its parent, or of the engine.
        parent: budget that holds this one's money; None for a budget of the engine.

    Examples:
        >>> gala = engine.budget("gala", total=300_000)
        >>> taobao = gala.budget("taobao", total=100_000)
        >>> envelope = taobao.envelope("20:00", total=20_000, packets=50)
        >>> gala.stats(), taobao.stats().available
        (BudgetStats(total=300000, available=200000, held=100000, settled=0), 80000)
    """

    def __init__(self, *args: Never, **kwargs: Never) -> None: ...
    def reserve(self, key: User, /, amount: SupportsIndex) -> Hold:
        """Hold money under a key, or say why not; the same answer when asked again.

        Args:
            key: the caller's own number of what the money is for: ``str``, ``bytes`` or ``int``, as a user of
                ``Envelope.claim``. A key keeps its outcome for ever, also when it was settled or released.
            amount: minor units, 1 .. 2**62 - 1.

        Returns:
            A ``Hold``: GRANTED the first time, REPEATED from then on, INSUFFICIENT or CLOSED (which leave no trace: the
            key can be tried again, with any amount).

        Raises:
            ConflictError: the key was granted with another amount.
            TypeError, ValueError: key or amount is bad.
            EngineFullError: no space for another hold; nothing was reserved.
            EngineClosedError, ReadOnlyError, CorruptFileError: nothing was reserved.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).status.name, gala.reserve("order-17", 5_000).status.name
            ('GRANTED', 'REPEATED')
            >>> gala.stats().available
            295000
        """

    def reserve_many(self, keys: Users, /, amounts: _Amounts) -> NDArray[np.void]:
        """Hold money under many keys, one after another, without the GIL.

        Args:
            keys: an integer array, or a sequence of ``str``, ``bytes`` and ``int``, as the users of ``claim_many``.
            amounts: one integer for all, or a sequence or integer array of the same length, in minor units.

        Returns:
            A ``HOLD_DTYPE`` array of shape (keys,): ``status`` as of ``reserve``, or CONFLICT for a key that was
            granted with another amount; ``amount`` is what the key was granted with.

        Raises:
            TypeError, ValueError: a key or an amount is bad; the message names its index, and nothing was reserved.
            EngineFullError, EngineClosedError, ReadOnlyError, CorruptFileError: some may have been reserved; asking
                again gives every key the answer that stands.

        Examples:
            >>> gala = engine.budget("gala", total=300)
            >>> answers = gala.reserve_many(np.array([17, 18, 19]), [100, 150, 100])
            >>> [(hbcore.Status(row["status"]).name, int(row["amount"])) for row in answers]
            [('GRANTED', 100), ('GRANTED', 150), ('INSUFFICIENT', 0)]
        """

    def find(self, key: User, /) -> Hold | None:
        """Return the key's hold, with status REPEATED, or None; never reserves. Arguments and errors as ``reserve``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> print(gala.find("order-17"))
            None
            >>> gala.reserve("order-17", 5_000).amount == gala.find("order-17").amount
            True
        """

    def settle(self, key: User, /, amount: SupportsIndex | None = None) -> Hold | None:
        """Spend what a key holds, all of it or a part; the rest is available again. Final.

        Args:
            key: as of ``reserve``.
            amount: 0 .. what is held, minor units; None: all of it.

        Returns:
            The hold, also when it was settled with the same amount before; None if the key holds nothing.

        Raises:
            ConflictError: the key was settled with another amount, or released.
            ValueError: the amount is more than what is held.
            TypeError, EngineClosedError, ReadOnlyError, CorruptFileError: as ``reserve``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).amount, gala.settle("order-17", 4_200).settled
            (5000, 4200)
            >>> gala.stats()
            BudgetStats(total=300000, available=295800, held=0, settled=4200)
        """

    def release(self, key: User, /) -> Hold | None:
        """Give back all that a key holds. Final: the key keeps this outcome. Arguments as ``reserve``.

        Returns:
            The hold, also when it was released before; None if the key holds nothing.

        Raises:
            ConflictError: the key is settled, which is final.
            TypeError, ValueError, EngineClosedError, ReadOnlyError, CorruptFileError: as ``reserve``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.reserve("order-17", 5_000).state.name, gala.release("order-17").state.name
            ('GRANTED', 'RELEASED')
            >>> gala.stats().available
            300000
        """

    def holds(self) -> NDArray[np.void]:
        """Return every key that was ever granted, in no particular order; children and top-ups are not among them.

        Each row is right at the moment it is read; the whole is a snapshot only while nobody reserves, settles or
        releases. O(holds).

        Returns:
            A ``HOLD_SNAPSHOT_DTYPE`` array of shape (holds,): ``key`` (the keyed hash, see ``Engine.user_hash``),
            ``amount`` and ``settled`` in minor units, ``state`` and ``granted_at`` (UTC).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> hold = gala.reserve("order-17", 5_000)
            >>> row = gala.holds()[0]
            >>> int(row["amount"]), row["key"].tobytes() == engine.user_hash("order-17")
            (5000, True)
        """

    def stats(self) -> BudgetStats:
        """Sum the money by reading the holds, and what is below: O(holds and touched packets).

        Returns:
            A ``BudgetStats``.

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> hold = gala.reserve("order-17", 5_000)
            >>> gala.stats()
            BudgetStats(total=300000, available=295000, held=5000, settled=0)
        """

    def budget(self, name: str, total: int | None = None) -> Budget:
        """Get the sub-budget of that name, or create it as a hold of this budget. As ``Engine.budget``.

        Raises:
            InsufficientBudgetError: this budget is closed, or has less available; nothing was made.
            TypeError, ValueError, ConflictError, NotFoundError, EngineFullError: as ``Engine.budget``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> taobao = gala.budget("taobao", total=100_000)
            >>> taobao.parent.name, gala.stats().held
            ('gala', 100000)
        """

    def envelope(
        self,
        name: str,
        total: int | None = None,
        packets: int | None = None,
        law: LawName = "double_mean",
        **terms: Unpack[EnvelopeTerms],
    ) -> Envelope:
        """Get the envelope of that name, or create it as a hold of this budget. As ``Engine.envelope``.

        Raises:
            InsufficientBudgetError: this budget is closed, or has less available; nothing was made.
            TypeError, ValueError, ConflictError, NotFoundError, EngineFullError: as ``Engine.envelope``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> envelope = gala.envelope("20:00", total=20_000, packets=50)
            >>> envelope.close(), gala.stats().available
            (20000, 300000)
        """

    def create_many(
        self,
        names: _Names,
        totals: _Amounts,
        packets: _Amounts,
        **terms: Unpack[BatchTerms],
    ) -> NDArray[np.uint8]:
        """Create many envelopes as holds of this budget, one after another, without the GIL. As ``Engine.create_many``.

        Each is funded by itself: an envelope that the budget cannot fund any more is answered INSUFFICIENT (or CLOSED,
        once the budget is) and not made, its name stays free, and those after it are tried as well. To make all or
        none, look at ``stats().available`` before, or make a sub-budget of their sum.

        Returns:
            A uint8 array of shape (names,) with the ``Status`` of each name: GRANTED, REPEATED, CONFLICT, INSUFFICIENT
            or CLOSED.

        Raises:
            TypeError, ValueError, EngineFullError, EngineClosedError, ReadOnlyError, CorruptFileError: as
                ``Engine.create_many``.

        Examples:
            >>> gala = engine.budget("gala", total=50_000)
            >>> statuses = gala.create_many(["20:00", "21:00", "22:00"], 20_000, 50)
            >>> [hbcore.Status(status).name for status in statuses]
            ['GRANTED', 'GRANTED', 'INSUFFICIENT']
        """

    def top_up(self, key: User, /, amount: SupportsIndex) -> Hold:
        """Add money: to a budget without a parent from outside, to a sub-budget from its parent, as a hold there.

        Args:
            key: the caller's number of the top-up, as of ``reserve`` but in a name space of its own.
            amount: minor units, 1 .. 2**62 - 1.

        Returns:
            A ``Hold``: GRANTED the first time, REPEATED from then on, INSUFFICIENT (the parent has less) or CLOSED.

        Raises:
            ConflictError: the key was used with another amount.
            TypeError, ValueError: a bad argument, or the total would reach 2**62.
            EngineFullError, EngineClosedError, ReadOnlyError, CorruptFileError: asking again finishes what was begun.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.top_up("second sponsor", 100_000).status.name, gala.total
            ('GRANTED', 400000)
        """

    def close(self) -> int:
        """End the reserving, and give what is available to the parent; holds that exist can be settled or released.

        Returns:
            The sum that was refunded so far, in minor units; of a budget without a parent, what is available.
            Idempotent: what comes back later goes up as well, at once, and adds to it.

        Raises:
            EngineClosedError, ReadOnlyError, CorruptFileError: as ``reserve``.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> taobao = gala.budget("taobao", total=100_000)
            >>> taobao.close(), gala.stats().available, taobao.reserve("order-17", 1).status.name
            (100000, 300000, 'CLOSED')
        """

    @property
    def name(self) -> str:
        """Name of the budget, unique among the budgets of its parent, or of the engine.

        Examples:
            >>> engine.budget("gala", total=300_000).name
            'gala'
        """

    @property
    def total(self) -> int:
        """Sum in minor units that the budget was made with and topped up by, whatever it has given back; O(holds).

        Raises:
            EngineClosedError, CorruptFileError: nothing can be read.

        Examples:
            >>> engine.budget("gala", total=300_000).total
            300000
        """

    @property
    def parent(self) -> Budget | None:
        """Budget that holds this one's money; None for a budget of the engine.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.parent is None, gala.budget("taobao", total=100_000).parent == gala
            (True, True)
        """

    @property
    def closed(self) -> bool:
        """Whether a new key would hear CLOSED: ``close`` was called. O(1).

        Raises:
            EngineClosedError: the engine was closed in this process.

        Examples:
            >>> gala = engine.budget("gala", total=300_000)
            >>> gala.closed, gala.close(), gala.closed
            (False, 300000, True)
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def figures_of(budget: Budget) -> tuple[int, int, int, int, bool]:
    """Return the figures of a budget itself, without what is below it.

    Returns:
        Its number of holds, what was spent of them, what is available, its total, and whether it is closed. They are
        read in this order, so what is spent and what is available are together never more than the total, except where
        money was added meanwhile.
    """

def names_of(budget: Budget) -> tuple[str, ...]:
    """Return the names from the root to a budget."""

def budget_get(region: Region, parent: Budget | None, name: str, total: int | None) -> Budget:
    """Get or create a budget below ``parent``, or below the engine if ``parent`` is None."""
