"""The sequential specification of two budgets, one below the other, for the search of ``linearizability.py``.

A call that does several things one after another is recorded as several operations of the same span: a top-up of the
child takes money from the parent (``fund``) and puts it into the child (``add``); a call that gives back to a closed
child looks how much that is in all (``see``) and lets it arrive in the parent (``refund``); a close reads a sum
(``sum``).

What a dead client has left half-way happens when another next looks at that key, not before and not by itself: a
request to reserve or to add (REQUESTED) is decided by a client that asks for the same, and a hold that is being settled
or released (SETTLING, RELEASING) by any client that looks at it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from linearizability import FINAL, FOREVER, NOTHING, Search

from hbcore import State, Status

PARENT, CHILD = 0, 1
NONE, REQUESTED, SETTLING, RELEASING = 0, 10, 11, 12  # states of a hold beside those of State
FUNDED, ADDED = 1, 2  # of a top-up, beside NONE and REQUESTED
CONFLICT = 5
ANY_STATE = -1  # a row of a batch does not say it
Hold = tuple[int, int, int]  # state, amount, spent
NO_HOLD: Hold = (NONE, 0, 0)


class Operation(NamedTuple):
    """One call, or one thing that it does."""

    kind: str
    budget: int = PARENT
    key: int = 0
    outcome: int = NOTHING  # a Status, NOTHING, FINAL or CONFLICT
    state: int = NONE
    amount: int = 0
    spent: int = 0
    wanted: int = 0  # the amount that was asked for; of a settle without one -1
    invoked: int = 0
    returned: int = FOREVER
    rows: tuple[int, ...] = ()

    @property
    def is_pending(self) -> bool:
        return self.returned == FOREVER

    def __str__(self) -> str:
        what = f"{self.kind} {('parent', 'child')[self.budget]}"
        if self.kind in ("reserve", "settle", "release", "find", "fund", "add"):
            what += f" key {self.key}" + (f" of {self.wanted}" if self.wanted else "")
        if self.is_pending:
            return f"{what} -> ?"
        if self.kind in ("stats", "sum"):
            return f"{what} -> {self.rows or self.amount}"
        name = {NOTHING: "None", FINAL: "ConflictError"}.get(self.outcome) or Status(self.outcome).name
        return f"{what} -> {name} {State(self.state).name if self.state > 0 else ''} {self.amount} {self.spent}"


class History(NamedTuple):
    """What every client did, in its own order; ``died``: when a dead client was seen to be dead, by client."""

    totals: tuple[int, int]  # of parent and child
    keys: int
    clients: list[list[Operation]]
    died: dict[int, int]


class Book(NamedTuple):
    """The state of both budgets."""

    available: tuple[int, int]  # of a closed child: all that it has given back
    holds: tuple[tuple[Hold, ...], tuple[Hold, ...]]
    top_ups: tuple[tuple[int, ...], tuple[int, ...]]
    closed_by: tuple[int, int] = (0, 0)  # 0: open; else the last moment at which the close can have taken effect
    refunded: int = 0  # what has arrived in the parent
    owed: tuple[int, ...] = ()  # by client: 0 nothing, 1 to see what is to be refunded, 2 + that once it has seen it

    def pay(self, budget: int, amount: int) -> "Book":
        return self._replace(available=replaced(self.available, budget, self.available[budget] + amount))

    def hold(self, budget: int, key: int, hold: Hold) -> "Book":
        return self._replace(holds=replaced(self.holds, budget, replaced(self.holds[budget], key, hold)))

    def top_up(self, budget: int, key: int, state: int) -> "Book":
        return self._replace(top_ups=replaced(self.top_ups, budget, replaced(self.top_ups[budget], key, state)))

    def owe(self, client: int, what: int) -> "Book":
        return self._replace(owed=replaced(self.owed, client, what))

    def decided(self, budget: int, key: int) -> "Book":
        """After a look at a key that somebody has died over while he settled or released it."""
        state, amount, spent = self.holds[budget][key]
        if state not in (SETTLING, RELEASING):
            return self
        final = State.SETTLED if state == SETTLING else State.RELEASED
        return self.pay(budget, amount - spent).hold(budget, key, (final, amount, spent))

    def requests_decided(self, budget: int, key: int) -> "Book":
        """After a request for the same key as well."""
        book = self.decided(budget, key)
        state, amount, _ = book.holds[budget][key]
        if state != REQUESTED:
            return book
        if book.closed_by[budget] or book.available[budget] < amount:
            return book.hold(budget, key, NO_HOLD)
        return book.pay(budget, -amount).hold(budget, key, (State.GRANTED, amount, 0))


def replaced(values: tuple, place: int, value: object) -> tuple:
    return (*values[:place], value, *values[place + 1 :])


def shown(hold: Hold) -> bool:
    """Whether a look at it finds a hold. A request that nobody has fulfilled is none."""
    return hold[0] not in (NONE, REQUESTED)


class Checker(Search):
    """The search for an order of one history's calls on two budgets."""

    def __init__(self, history: History) -> None:
        super().__init__(history.clients)
        self.history = history

    def first_book(self) -> Book:
        parent, child = self.history.totals
        return Book(
            (parent - child, child),
            ((NO_HOLD,) * self.history.keys,) * 2,
            ((NONE,) * self.history.keys,) * 2,
            owed=(0,) * len(self.clients),
        )

    def place(
        self, book: Book, places: tuple[int, ...], client: int, call: Operation, first_end: int
    ) -> Iterator[Book]:
        if call.is_pending:
            if places[client] + 1 < len(self.clients[client]):
                yield book  # it never took effect, and the next of the same call may have
            if self.begun(places, call) <= self.history.died[client]:
                moment = min(first_end, self.history.died[client])
                yield from getattr(self, f"{call.kind}_of_the_dead")(book, client, call, moment)
        else:
            yield from getattr(self, call.kind)(book, client, call, first_end)

    # ---- holds

    def answers(self, call: Operation, hold: Hold) -> bool:
        """Whether the answer to a call is this hold."""
        if call.state == ANY_STATE:
            return (call.outcome, call.amount) == (Status.REPEATED, hold[1])
        return (call.outcome, call.state, call.amount, call.spent) == (Status.REPEATED, *hold)

    def reserve(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        budget, wanted = call.budget, call.wanted
        book = book.requests_decided(budget, call.key)
        hold = book.holds[budget][call.key]
        if shown(hold):
            if hold[1] != wanted and call.outcome == CONFLICT and call.amount in (0, hold[1]):
                yield book  # the error of a reserve does not say the amount, a row does
            elif hold[1] == wanted and self.answers(call, hold):
                yield book
        elif book.closed_by[budget]:
            if call.outcome == Status.CLOSED:
                yield book
        elif book.available[budget] < wanted:
            if call.outcome == Status.INSUFFICIENT:
                yield book
        elif call.outcome == Status.GRANTED and call.amount == wanted and call.state in (ANY_STATE, State.GRANTED):
            yield book.pay(budget, -wanted).hold(budget, call.key, (State.GRANTED, wanted, 0))

    def reserve_of_the_dead(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        book = book.requests_decided(call.budget, call.key)
        yield book
        if book.holds[call.budget][call.key] == NO_HOLD and not book.closed_by[call.budget]:
            if book.available[call.budget] >= call.wanted:
                granted = (int(State.GRANTED), call.wanted, 0)
                yield book.pay(call.budget, -call.wanted).hold(call.budget, call.key, granted)
            yield book.hold(call.budget, call.key, (REQUESTED, call.wanted, 0))

    def find(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        book = book.decided(call.budget, call.key)
        hold = book.holds[call.budget][call.key]
        if self.answers(call, hold) if shown(hold) else call.outcome == NOTHING:
            yield book

    def find_of_the_dead(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        yield book.decided(call.budget, call.key)

    def settle(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        yield from self.finish(book, client, call, State.SETTLED)

    def release(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        yield from self.finish(book, client, call, State.RELEASED)

    def finish(self, book: Book, client: int, call: Operation, final: int) -> Iterator[Book]:
        book = book.decided(call.budget, call.key)
        hold = book.holds[call.budget][call.key]
        if not shown(hold):
            if call.outcome == NOTHING:
                yield book
            return
        state, amount, spent = hold
        wanted = 0 if final == State.RELEASED else amount if call.wanted < 0 else call.wanted
        if state == State.GRANTED:
            if self.answers(call, (final, amount, wanted)):
                book = book.pay(call.budget, amount - wanted).hold(call.budget, call.key, (final, amount, wanted))
                yield book.owe(client, int(call.budget == CHILD))
        elif state == final and spent == wanted:
            if self.answers(call, hold):
                yield book
        elif call.outcome == FINAL:
            yield book

    def settle_of_the_dead(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        yield from self.finish_of_the_dead(book, client, call, SETTLING)

    def release_of_the_dead(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        yield from self.finish_of_the_dead(book, client, call, RELEASING)

    def finish_of_the_dead(self, book: Book, client: int, call: Operation, unfinished: int) -> Iterator[Book]:
        book = book.decided(call.budget, call.key)
        yield book
        state, amount, _ = book.holds[call.budget][call.key]
        if state == State.GRANTED:
            spent = 0 if unfinished == RELEASING else amount if call.wanted < 0 else call.wanted
            book = book.hold(call.budget, call.key, (unfinished, amount, spent))
            yield book
            yield book.decided(call.budget, call.key).owe(client, int(call.budget == CHILD))

    # ---- top-ups

    def was_open(self, book: Book, budget: int, call: Operation) -> bool:
        """Whether the call can have seen the budget open; it looks that up before it does anything."""
        return not book.closed_by[budget] or call.invoked <= book.closed_by[budget]

    def is_contended(self, client: int, call: Operation) -> bool:
        """Whether somebody else tops up under the same key meanwhile: both may look it up before either has done it."""
        return any(
            other.kind in ("fund", "add") and (other.budget, other.key) == (call.budget, call.key)
            and other.invoked <= call.returned and call.invoked <= other.returned
            for i, calls in enumerate(self.clients) if i != client for other in calls
        )  # fmt: skip

    def is_refused(self, book: Book, client: int, call: Operation) -> bool:
        """Whether a top-up can be told CLOSED now."""
        is_closed = book.closed_by[call.budget] or (call.budget == CHILD and book.closed_by[PARENT])
        is_new = book.top_ups[call.budget][call.key] == NONE
        is_new |= call.budget == PARENT and book.top_ups[PARENT][call.key] == REQUESTED
        return bool(is_closed) and (is_new or self.is_contended(client, call))

    def fund(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        """The first half of a top-up of the child."""
        if call.outcome == Status.CLOSED:
            if self.is_refused(book, client, call):
                yield book
            return
        is_new = book.top_ups[CHILD][call.key] == NONE and self.was_open(book, CHILD, call)
        is_new = is_new and not book.closed_by[PARENT]
        if call.outcome == Status.INSUFFICIENT:
            if is_new and book.available[PARENT] < call.wanted:
                yield book
        elif book.top_ups[CHILD][call.key] != NONE:
            yield book
        elif is_new and book.available[PARENT] >= call.wanted:
            yield book.pay(PARENT, -call.wanted).top_up(CHILD, call.key, FUNDED)

    def fund_of_the_dead(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        yield book
        if (book.top_ups[CHILD][call.key] == NONE and self.was_open(book, CHILD, call) and not book.closed_by[PARENT]
                and book.available[PARENT] >= call.wanted):  # fmt: skip
            yield book.pay(PARENT, -call.wanted).top_up(CHILD, call.key, FUNDED)

    def add(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        """The second half, or all of a top-up of the parent."""
        budget, state = call.budget, book.top_ups[call.budget][call.key]
        if call.outcome in (Status.INSUFFICIENT, Status.CLOSED):
            if budget == CHILD or self.is_refused(book, client, call):
                yield book
            return
        if call.amount != call.wanted:
            return
        if call.outcome == Status.GRANTED:
            if state == FUNDED or (budget == PARENT and state == NONE and self.was_open(book, PARENT, call)):
                book = book.pay(budget, call.wanted).top_up(budget, call.key, ADDED)
                yield book.owe(client, int(budget == CHILD))
        elif state == ADDED:
            yield book
            if budget == CHILD:  # it was not there yet at the first look
                yield book.owe(client, 1)
        elif state == REQUESTED and (budget == CHILD or self.was_open(book, PARENT, call)):
            book = book.pay(budget, call.wanted).top_up(budget, call.key, ADDED)
            yield book.owe(client, int(budget == CHILD))

    def add_of_the_dead(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        state = book.top_ups[call.budget][call.key]
        yield book
        yield book.owe(client, int(call.budget == CHILD))
        if state == (FUNDED if call.budget == CHILD else NONE) and (
            call.budget == CHILD or self.was_open(book, 0, call)
        ):
            yield book.top_up(call.budget, call.key, REQUESTED)
        if state == REQUESTED or (state == (FUNDED if call.budget == CHILD else NONE)
                             and (call.budget == CHILD or self.was_open(book, PARENT, call))):  # fmt: skip
            yield (
                book.pay(call.budget, call.wanted)
                .top_up(call.budget, call.key, ADDED)
                .owe(client, int(call.budget == CHILD))
            )

    # ---- closing, refunds

    def close(self, book: Book, client: int, call: Operation, first_end: int) -> Iterator[Book]:
        if not book.closed_by[call.budget]:
            book = book._replace(closed_by=replaced(book.closed_by, call.budget, first_end))
        yield book.owe(client, int(call.budget == CHILD))

    close_of_the_dead = close

    def sum(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        if book.available[call.budget] == call.amount:
            yield book

    def sum_of_the_dead(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        yield book

    def see(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        """Look how much a closed child has given back in all."""
        if book.owed[client]:
            book = book.owe(client, 2 + book.available[CHILD] if book.closed_by[CHILD] else 0)
        yield book

    see_of_the_dead = see

    def refund(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        """Let it arrive in the parent, if no more than that has. What a dead client was about to let arrive may too."""
        if not book.owed[client]:
            yield book
            return
        for target in {book.owed[client], *(book.owed[i] for i in self.history.died if book.owed[i] >= 2)}:
            if target >= book.owed[client]:
                arrived = max(book.refunded, target - 2)
                paid = book.pay(PARENT, arrived - book.refunded)._replace(refunded=arrived)
                yield paid.owe(client, 0)

    def refund_of_the_dead(self, book: Book, client: int, call: Operation, first_end: int) -> Iterator[Book]:
        yield book
        yield from self.refund(book, client, call, first_end)

    # ---- when nobody else is there

    def sweep(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        """Everything that was begun is done."""
        for budget in (PARENT, CHILD):
            for key in range(self.history.keys):
                book = book.decided(budget, key)
        for key, state in enumerate(book.top_ups[CHILD]):
            if state in (FUNDED, REQUESTED):
                # The amount stands in the call of the client that has died over it.
                amount = next(
                    other.wanted for calls in self.clients for other in calls
                    if (other.kind, other.budget, other.key) == ("fund", CHILD, key)
                )  # fmt: skip
                book = book.pay(CHILD, amount).top_up(CHILD, key, ADDED)
        if book.closed_by[CHILD]:
            back = book.available[CHILD]
            book = book.pay(PARENT, back - book.refunded)._replace(refunded=back)
        yield book

    def stats(self, book: Book, client: int, call: Operation, _: int) -> Iterator[Book]:
        """Total, available, held and settled of a budget."""
        added = sum(
            self.amount_of_top_up(call.budget, key)
            for key, state in enumerate(book.top_ups[call.budget]) if state == ADDED
        )  # fmt: skip
        total, available = self.history.totals[call.budget] + added, book.available[call.budget]
        if call.budget == CHILD and book.closed_by[CHILD]:
            total, available = total - available, 0
        below = (CHILD,) if call.budget == PARENT else ()
        settled = sum(
            spent
            for budget in (call.budget, *below)
            for state, _, spent in book.holds[budget]
            if state == State.SETTLED
        )
        if call.rows == (total, available, total - available - settled, settled):
            yield book

    def amount_of_top_up(self, budget: int, key: int) -> int:
        return next(
            other.wanted for calls in self.clients for other in calls
            if (other.kind, other.budget, other.key) == ("add", budget, key)
        )  # fmt: skip
