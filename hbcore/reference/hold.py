"""Holds in plain Python: the answer to a reservation or a top-up. This is the twin of ``Hold`` in ``budget.pyx``."""

from hbcore.types import State, Status


class Hold:
    """The answer to a reservation: truthy if the key's money is held or spent."""

    __slots__ = ("_amount", "_settled", "_state", "_status")

    def __init__(self, status: Status, amount: int, settled: int, state: State | None) -> None:
        self._status = status
        self._amount = amount
        self._settled = settled
        self._state = state

    @property
    def status(self) -> Status:
        """Why the key has a hold, or has none."""
        return self._status

    @property
    def amount(self) -> int:
        """Sum that was reserved, in minor units; 0 without a hold."""
        return self._amount

    @property
    def settled(self) -> int:
        """Part of the amount that was spent, in minor units; 0 unless the hold was settled."""
        return self._settled

    @property
    def state(self) -> State | None:
        """What became of the hold: GRANTED, SETTLED or RELEASED; None without a hold."""
        return self._state

    def __bool__(self) -> bool:
        return self.state in (State.GRANTED, State.SETTLED)

    def _fields(self) -> tuple[Status, int, int, State | None]:
        return self.status, self.amount, self.settled, self.state

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Hold) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        state = None if self.state is None else f"State.{self.state.name}"
        return f"Hold(status=Status.{self.status.name}, amount={self.amount}, settled={self.settled}, state={state})"
