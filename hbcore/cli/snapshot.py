"""The findings of one look into an engine: its budgets and envelopes, what they hold, and which of them are damaged.

Each is read once. What was spent within a budget is put together from what was found below it, so a child that cannot
be read does not hide its parent: what that child has spent then counts as held, which is all that the parent knows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import hbcore
from hbcore.budget import figures_of
from hbcore.cli.terminal import Part
from hbcore.engine import survey
from hbcore.errors import CorruptFileError
from hbcore.terms import Terms
from hbcore.types import EnvelopeStats

LOOKS = 8
"""Limit of the readings of one budget; a top-up in the middle of a reading costs another one."""
DEPTH_LIMIT = 128
"""Limit of the budgets above each other: more than any engine makes."""


def drawn(parts: tuple[int, int, int, int], titles: tuple[str, str, str, str]) -> list[Part]:
    """Return parts as they are drawn in a bar."""
    looks = (("█", "#", "green"), ("▓", "=", "yellow"), ("░", ".", "bright_black"), ("·", "-", "bright_black"))
    return [Part(title, amount, *look) for title, amount, look in zip(titles, parts, looks, strict=True)]


class Parts(NamedTuple):
    """The parts of an envelope's packets, or of their amounts, by what became of them."""

    settled: int
    granted: int
    remaining: int
    refunded: int

    def drawn(self) -> list[Part]:
        """Return the parts as they are drawn."""
        return drawn(self, ("settled", "granted", "left", "refunded"))


class Money(NamedTuple):
    """The parts of a budget's money by what became of it; ``refunded`` was given back to the parent."""

    settled: int
    held: int
    available: int
    refunded: int

    def drawn(self) -> list[Part]:
        """Return the parts as they are drawn."""
        return drawn(self, ("settled", "held", "available", "refunded"))


@dataclass(frozen=True)
class Entry:
    """An envelope as it was found; ``stats`` is None and ``damage`` says why if it could not be read."""

    path: tuple[str, ...]
    offset: int
    terms: Terms | None
    stats: EnvelopeStats | None
    damage: str | None
    state: str
    rate: float | None

    @property
    def name(self) -> str:
        """The envelope's own name, without those of its budgets."""
        return self.path[-1]

    @property
    def total(self) -> int:
        """The sum of the packets, those of top-ups included; 0 if it is not known."""
        if self.stats is not None:
            return self.stats.amounts.total
        return 0 if self.terms is None else self.terms.total

    @property
    def packets(self) -> int:
        """The number of packets, those of top-ups included; 0 if it is not known."""
        if self.stats is not None:
            return self.stats.packets
        return 0 if self.terms is None else self.terms.packets

    @property
    def counts(self) -> Parts | None:
        """The packets by what became of them; None if they could not be read."""
        if self.terms is None or self.stats is None:
            return None
        return parts_of(self.packets, self.stats.settled, self.stats.granted, self.state)

    @property
    def amounts(self) -> Parts | None:
        """The amounts of the packets by what became of them; None if they could not be read."""
        if self.terms is None or self.stats is None:
            return None
        return parts_of(self.total, self.stats.amounts.settled, self.stats.amounts.granted, self.state)

    @property
    def given(self) -> int:
        """The number of packets that users hold."""
        return 0 if self.stats is None else self.stats.granted + self.stats.settled


@dataclass(frozen=True)
class BudgetEntry:
    """A budget as it was found, with what is below it; ``money`` is None and ``damage`` says why if it is damaged.

    ``total`` is what it was made with and topped up by; ``holds`` counts the keys that were ever granted.
    """

    path: tuple[str, ...]
    offset: int
    total: int
    money: Money | None
    holds: int
    damage: str | None
    state: str
    rate: float | None
    children: "list[AnyEntry]"

    @property
    def name(self) -> str:
        """The budget's own name, without those of its parents."""
        return self.path[-1]

    @property
    def amounts(self) -> Money | None:
        """The parts of the budget's money; None if it is damaged."""
        return self.money


AnyEntry: TypeAlias = Entry | BudgetEntry


def parts_of(total: int, settled: int, granted: int, state: str) -> Parts:
    """Return the parts of an envelope's packets or amounts. In a closed envelope, what was not given is refunded."""
    left = total - settled - granted
    return Parts(settled, granted, *((0, left) if state == "closed" else (left, 0)))


def sum_of(parts: Iterable[Parts | None]) -> Parts:
    """Return the sum of the parts of many envelopes; those that could not be read are left out."""
    return Parts(*sums_of(parts))


def money_of(entries: Iterable[AnyEntry]) -> Money:
    """Return the sum of the parts of budgets and envelopes; those that could not be read are left out."""
    return Money(*sums_of(entry.amounts for entry in entries))


def sums_of(parts: Iterable[tuple[int, int, int, int] | None]) -> tuple[int, ...]:
    """Add parts up, each to its kind."""
    rows = [row for row in parts if row is not None]
    return tuple(sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0, 0)


class HasRate(Protocol):
    """An object that gives packets, or has such objects below it."""

    @property
    def rate(self) -> float | None:
        """The number of packets given a second; None if this is the first look."""


AnyRate = TypeVar("AnyRate", bound=HasRate)


def rate_of(entries: Iterable[AnyRate]) -> float | None:
    """Return how many packets are given a second in all of them together."""
    rates = [entry.rate for entry in entries if entry.rate is not None]
    return sum(rates) if rates else None


# ---- the tree ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Node:
    """A budget or an envelope in its place, before it is read. Without ``handle`` it is damaged, as ``damage`` says."""

    offset: int
    is_budget: bool
    name: str
    handle: hbcore.Budget | hbcore.Envelope | None
    damage: str | None
    path: tuple[str, ...] = ()
    children: "list[Node]" = field(default_factory=list)

    def all(self) -> "Iterator[Node]":
        """Yield this node and all that are below it."""
        yield self
        for child in self.children:
            yield from child.all()


def build_tree(engine: hbcore.Engine) -> list[Node]:
    """Return the nodes that belong to no budget, each with those below it, in the order of their making, budgets first.

    A node that a damaged file puts below itself, or below one that is not there, belongs to no budget.
    """
    nodes: dict[int, Node] = {}
    owners: dict[int, int] = {}
    for offset, above, is_budget, name, handle, damage in survey(engine):
        nodes[offset] = Node(offset, is_budget, name, handle, damage)
        owners[offset] = above
    roots = []
    for offset, node in nodes.items():
        owner, above = nodes.get(owners[offset]), owners[offset]
        for _ in range(DEPTH_LIMIT):  # above is 0 then if the way up ends at the engine, and not if it goes in a circle
            above = owners.get(above, 0)
        if owner is None or not owner.is_budget or above != 0:
            roots.append(node)
        else:
            owner.children.append(node)
    name_paths(roots, ())
    return roots


def name_paths(nodes: list[Node], above: tuple[str, ...]) -> None:
    """Set the path of all nodes."""
    for node in nodes:
        node.path = (*above, node.name)
        name_paths(node.children, node.path)


def chosen(roots: list[Node], name: str | None) -> list[Node]:
    """Return the nodes whose path, joined by slashes, is ``name``; all roots if ``name`` is None."""
    if name is None:
        return roots
    return [node for root in roots for node in root.all() if "/".join(node.path) == name]


def alike(roots: list[Node], name: str) -> list[str]:
    """Return the paths of all nodes of that name, as a hint for a user who has left out the path."""
    return ["/".join(node.path) for root in roots for node in root.all() if node.name == name]


# ---- reading ----------------------------------------------------------------------------------------------------


def state_of(terms: Terms, stats: EnvelopeStats, now: float) -> str:
    """Return the state of an envelope, which says what a new user's claim would be told."""
    given = stats.granted + stats.settled
    if given == stats.packets:
        return "sold_out"
    if stats.remaining == 0:
        return "closed"
    return "expired" if 0 < terms.expires_at_ms <= now * 1000 else "open"


@dataclass(frozen=True)
class Reader:
    """Reads nodes at a time of day.

    ``before`` says how many packets each had given ``seconds`` ago; ``seconds`` is None at the first look.
    """

    now: float
    before: dict[int, int]
    seconds: float | None

    def read(self, node: Node) -> AnyEntry:
        """Read a node and all that are below it."""
        if node.is_budget:
            return self.read_budget(node)
        return self.read_envelope(node)

    def read_envelope(self, node: Node) -> Entry:
        """Count an envelope."""
        envelope = node.handle
        if not isinstance(envelope, hbcore.Envelope):
            return Entry(node.path, node.offset, None, None, node.damage, "damaged", None)
        terms = envelope.terms._replace(seed=None)  # whoever has the seed can compute every amount, so it stays here
        try:
            stats = envelope.stats()
        except CorruptFileError as error:
            return Entry(node.path, node.offset, terms, None, str(error), "damaged", None)
        given = stats.granted + stats.settled - self.before.get(node.offset, 0)
        rate = None if self.seconds is None else given / self.seconds
        return Entry(node.path, node.offset, terms, stats, None, state_of(terms, stats, self.now), rate)

    def read_budget(self, node: Node) -> BudgetEntry:
        """Read a budget after all that is below it: what was spent below only grows, so it is never too much."""
        children = [self.read(child) for child in node.children]
        rate, below = rate_of(children), money_of(children).settled
        try:
            if isinstance(node.handle, hbcore.Budget):
                total, money, holds, is_closed = money_in(node.handle, below)
                state = "closed" if is_closed else "open"
                return BudgetEntry(node.path, node.offset, total, money, holds, None, state, rate, children)
        except CorruptFileError as error:
            node.damage = str(error)
        return BudgetEntry(node.path, node.offset, 0, None, 0, node.damage, "damaged", rate, children)


def money_in(budget: hbcore.Budget, below: int) -> tuple[int, Money, int, bool]:
    """Return a budget's total, its money, the number of its holds, and whether it is closed.

    ``below`` is what was spent in all that is below it, and was read before.
    """
    for _ in range(LOOKS):
        holds, settled, available, total, is_closed = figures_of(budget)
        if below + settled + available <= total:  # else it was topped up meanwhile
            refunded = available if is_closed and budget.parent is not None else 0
            held = total - below - settled - available
            return total, Money(below + settled, held, available - refunded, refunded), holds, is_closed
    raise CorruptFileError(f"budget {budget.name!r} has {available} available and {below + settled} spent of {total}")


def flat(entries: Iterable[AnyEntry]) -> Iterator[AnyEntry]:
    """Yield entries and all that are below them."""
    for entry in entries:
        yield entry
        if isinstance(entry, BudgetEntry):
            yield from flat(entry.children)
