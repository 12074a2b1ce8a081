"""Whether a history of concurrent calls on an envelope is linearizable: the sequential specification, and the search.

A history is right if some order of its calls, each at a moment between its beginning and its end, gives every answer
under the sequential specification below (linearizability: Herlihy and Wing, "Linearizability: A Correctness Condition
for Concurrent Objects", 1990). The search is that of Wing and Gong, "Testing and Verifying Concurrent Objects", 1993,
with the memory of visited configurations that Lowe has added ("Testing for Linearizability", 2017). What the dead were
at has taken effect before their death or never (strict linearizability: Aguilera and Frølund, 2003).
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple, Protocol

from hbcore import Status

FOREVER = 1 << 62  # ns; when a pending call ends
ANY = -1  # any packet
NOTHING, FINAL = 10, 11  # answers beside those of Status: None, and ConflictError because the claim is settled

# ---- what was recorded ------------------------------------------------------------------------------------------


class Operation(NamedTuple):
    """One call, or one claim of a batch. A close is two of them: the closing, and the sum that it reads afterwards."""

    kind: str
    user: int = 0
    outcome: int = NOTHING  # a Status, NOTHING or FINAL
    packet: int = -1
    invoked: int = 0
    returned: int = FOREVER
    amount: int = 0
    rows: tuple[tuple[int, int, int], ...] = ()  # of a snapshot: user, packet, whether it is settled

    @property
    def is_pending(self) -> bool:
        return self.returned == FOREVER

    @property
    def hand(self) -> int | None:
        """The packet that the call may have in its hands while it is nobody's; ANY; None: it has none."""
        if self.kind == "claim" and self.outcome != Status.SOLD_OUT:
            # What it will be granted, or anything before it finds that its user holds another.
            return self.packet if self.outcome == Status.GRANTED else ANY
        if self.kind == "release" and (self.is_pending or self.outcome == Status.REPEATED):
            return ANY if self.is_pending else self.packet
        return None

    def __str__(self) -> str:
        answer = {NOTHING: "None", FINAL: "ConflictError"}.get(self.outcome) or Status(self.outcome).name
        if self.kind == "snapshot":
            answer = str(self.rows)
        elif self.kind == "refund":
            answer = str(self.amount)
        elif self.packet >= 0:
            answer += f" packet {self.packet}, {self.amount}"
        what = self.kind if self.kind in ("close", "refund", "snapshot") else f"{self.kind}({self.user})"
        return f"{what} -> {'?' if self.is_pending else answer if self.kind != 'close' else '...'}"


class History(NamedTuple):
    """What every client did, in its own order. ``died``: when a dead client was seen to be dead; by client."""

    amounts: tuple[int, ...]
    clients: list[list[Operation]]
    died: dict[int, int]


# ---- the sequential specification -------------------------------------------------------------------------------

NOBODY = -1


class Book(NamedTuple):
    """The state of an envelope: who holds what. A holding is packet << 1 | is_settled."""

    holdings: tuple[int, ...]
    taken: int = 0  # bits of the packets that somebody holds
    refunded: int = 0  # bits of the packets that a close has answered are refunded: nobody gets them any more
    closed_by: int = 0  # 0: open. Otherwise the last moment at which the close can have taken effect

    def hold(self, user: int, holding: int) -> "Book":
        before = self.holdings[user]
        taken = self.taken if before == NOBODY else self.taken & ~(1 << (before >> 1))
        if holding != NOBODY:
            taken |= 1 << (holding >> 1)
        return self._replace(holdings=(*self.holdings[:user], holding, *self.holdings[user + 1 :]), taken=taken)


def may_grant(book: Book, call: Operation, packet: int) -> bool:
    """Whether a claim by a user who holds nothing may be granted that packet, which the call itself has chosen.

    A closed envelope grants it too, if the call began before the close took effect: it may have had the packet in hand.
    """
    return not (book.taken | book.refunded) >> packet & 1 and (not book.closed_by or call.invoked <= book.closed_by)


def effects(book: Book, call: Operation, packets: int, moment: int) -> Iterator[Book]:
    """The states that a pending call may lead to if it takes effect at this moment."""
    holding = book.holdings[call.user]
    if call.kind == "claim" and holding == NOBODY:
        for packet in range(packets):
            if may_grant(book, call, packet):
                yield book.hold(call.user, packet << 1)
    elif call.kind == "settle" and holding != NOBODY:
        yield book.hold(call.user, holding | 1)
    elif call.kind == "release" and holding != NOBODY and not holding & 1:
        yield book.hold(call.user, NOBODY)
    elif call.kind == "close" and not book.closed_by:
        yield book._replace(closed_by=moment)


class Call(Protocol):
    """What the search must know of an operation."""

    @property
    def invoked(self) -> int: ...
    @property
    def returned(self) -> int: ...
    @property
    def is_pending(self) -> bool: ...


class Search:
    """The search for an order of calls that a specification follows; the specification is a subclass."""

    def __init__(self, clients: list[list[Any]]) -> None:
        self.clients = clients
        self.visited: set[tuple[tuple[int, ...], Any]] = set()
        self.backtracked = False

    def first_book(self) -> Any:
        """The state before the first call; a value that can be hashed."""
        raise NotImplementedError

    def place(self, book: Any, places: tuple[int, ...], client: int, call: Any, first_end: int) -> Iterator[Any]:
        """The states after the call if it takes effect now, that is, not after ``first_end``: none, one or several."""
        raise NotImplementedError

    def is_linearizable(self) -> bool:
        """Place the calls one by one, each time one that began before any other unplaced one has ended."""
        stack = [((0,) * len(self.clients), self.first_book())]
        while stack:
            places, book = stack.pop()
            heads = [
                (i, calls[place])
                for i, (calls, place) in enumerate(zip(self.clients, places, strict=True))
                if place < len(calls)
            ]
            if all(call.is_pending for _, call in heads):
                return True  # a dead client's last calls need not have taken effect
            if (places, book) in self.visited:
                continue
            self.visited.add((places, book))
            first_end = min(call.returned for _, call in heads)
            found = False
            # On top of the stack, and so tried first: the call that ended first.
            for client, call in sorted(heads, key=lambda head: -head[1].returned):
                if call.invoked <= first_end:
                    next_places = (*places[:client], places[client] + 1, *places[client + 1 :])
                    for next_book in self.place(book, places, client, call, first_end):
                        stack.append((next_places, next_book))
                        found = True
            self.backtracked = self.backtracked or not found
        return False

    def begun(self, places: tuple[int, ...], call: Call) -> int:
        """The first moment at which a call can take effect: all that are placed, and itself, have begun."""
        return max([call.invoked, *(self.clients[i][p - 1].invoked for i, p in enumerate(places) if p)])


class Checker(Search):
    """The search for an order of the calls of an envelope's history."""

    def __init__(self, history: History) -> None:
        super().__init__(history.clients)
        self.history = history
        self.packets = len(history.amounts)
        self.sums = {
            sum(history.amounts[packet] for packet in chosen): sum(1 << packet for packet in chosen)
            for size in range(self.packets + 1)
            for chosen in combinations(range(self.packets), size)
        }
        assert len(self.sums) == 1 << self.packets, "a sum must tell its packets"

    def is_linearizable(self) -> bool:
        """Whether some order explains the calls."""
        if not all(self.has_right_amount(call) for client in self.clients for call in client):
            return False
        return super().is_linearizable()

    def first_book(self) -> Book:
        users = 1 + max((call.user for client in self.clients for call in client), default=0)
        return Book((NOBODY,) * users)

    def has_right_amount(self, call: Operation) -> bool:
        if call.is_pending or call.kind in ("refund", "snapshot"):
            return True
        if call.outcome in (Status.GRANTED, Status.REPEATED):
            return 0 <= call.packet < self.packets and call.amount == self.history.amounts[call.packet]
        return (call.packet, call.amount) == (-1, 0)

    def place(
        self, book: Book, places: tuple[int, ...], client: int, call: Operation, first_end: int
    ) -> Iterator[Book]:
        if call.is_pending:
            if places[client] + 1 < len(self.clients[client]):
                yield book  # it never took effect, and the next of the same batch may have
            if self.begun(places, call) <= self.history.died[client]:
                yield from effects(book, call, self.packets, min(first_end, self.history.died[client]))
        elif call.kind == "claim":
            yield from self.place_claim(book, places, client, call, first_end)
        elif call.kind == "close":
            yield book if book.closed_by else book._replace(closed_by=first_end)
        elif call.kind == "refund":
            refunded = self.sums.get(call.amount, -1)
            if refunded >= 0 and self.is_right_refund(book, client, call, refunded):
                yield book._replace(refunded=book.refunded | refunded)
        elif call.kind == "snapshot":
            held = ((user, holding >> 1, holding & 1) for user, holding in enumerate(book.holdings) if holding >= 0)
            if call.rows == tuple(sorted(held)):
                yield book
        else:
            yield from self.place_lookup(book, call)

    def place_lookup(self, book: Book, call: Operation) -> Iterator[Book]:
        """Find, settle and release, which answer with the user's claim."""
        holding = book.holdings[call.user]
        if holding == NOBODY:
            if call.outcome == NOTHING:
                yield book
        elif call.kind == "release" and holding & 1:
            if call.outcome == FINAL:
                yield book
        elif call.outcome == Status.REPEATED and call.packet == holding >> 1:
            if call.kind == "release":
                yield book.hold(call.user, NOBODY)
            else:
                yield book.hold(call.user, holding | 1) if call.kind == "settle" else book

    def place_claim(
        self, book: Book, places: tuple[int, ...], client: int, call: Operation, first_end: int
    ) -> Iterator[Book]:
        holding = book.holdings[call.user]
        if holding != NOBODY:
            if call.outcome == Status.REPEATED and call.packet == holding >> 1:
                yield book
        elif call.outcome == Status.GRANTED:
            if may_grant(book, call, call.packet):
                yield book.hold(call.user, call.packet << 1)
        elif call.outcome == Status.CLOSED:
            if book.closed_by:
                yield book
        elif call.outcome == Status.SOLD_OUT and not book.closed_by:
            free = ((1 << self.packets) - 1) & ~book.taken
            if not free or self.are_in_hands(free, places, client, call, first_end):
                yield book

    def are_in_hands(self, free: int, places: tuple[int, ...], client: int, call: Operation, first_end: int) -> bool:
        """Whether there is a moment at which each of these packets can be in the hands of a call of another client.

        Among the calls that are placed only the last of each client can still be under way, as a release that has not
        freed its packet yet, or a claim that has not put its packet back; among the others only the next. The hands of
        a client that was seen to be dead are empty.
        """
        hands: list[tuple[int, int, int, int]] = []  # client, from, to, packet
        start = self.begun(places, call)
        for i, place in enumerate(places):
            if i == client:
                continue
            last = self.clients[i][place - 1] if place else None
            coming = self.clients[i][place] if place < len(self.clients[i]) else None
            dead = self.history.died.get(i, FOREVER)
            if last and last.hand is not None and (last.kind, last.outcome) != ("claim", Status.GRANTED):
                hands.append((i, start, min(last.returned, dead), last.hand))
            if coming and coming.hand is not None and coming.kind == "claim" and coming.invoked <= first_end:
                hands.append((i, max(start, coming.invoked), min(coming.returned, dead), coming.hand))
        for moment in {begin for _, begin, _, _ in hands}:
            there = [(i, packet) for i, begin, end, packet in hands if begin <= moment <= end]
            anything = {i for i, packet in there if packet == ANY}
            known = {packet for i, packet in there if i not in anything}
            if (free & ~sum(1 << packet for packet in known)).bit_count() <= len(anything):
                return True
        return False

    def is_right_refund(self, book: Book, client: int, call: Operation, refunded: int) -> bool:
        """Whether a close, in its own time, can have counted exactly these packets as refunded.

        None of them is anybody's. Each of the others that are nobody's was in somebody's hands, or was still to be
        released, when it was looked at; and they are not looked at in one moment.
        """
        if refunded & book.taken:
            return False
        missing = ((1 << self.packets) - 1) & ~book.taken & ~refunded
        for i, calls in enumerate(self.clients):
            for other in calls if i != client and missing else ():
                end = min(other.returned, self.history.died.get(i, FOREVER))
                if other.hand is not None and other.invoked <= call.returned and end >= call.invoked:
                    missing = 0 if other.hand == ANY else missing & ~(1 << other.hand)
        return not missing
