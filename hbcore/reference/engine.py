"""The engine in plain Python: one world of budgets and envelopes in private memory."""

import time
from collections.abc import Callable
from os import urandom
from typing import NoReturn, Self

import numpy as np

from hbcore._ops.batch_request import checked_batch
from hbcore.errors import EngineClosedError, NotFoundError
from hbcore.reference.budget import Budget
from hbcore.reference.envelope import Envelope
from hbcore.reference.user import user_identity, user_key
from hbcore.terms import (
    KEY_SIZE,
    MAX_CAPACITY,
    MIN_CAPACITY,
    PER_USER_LIMIT,
    TOTAL_LIMIT,
    LawName,
    Terms,
    check_lookup,
    check_same_terms,
    check_same_total,
    envelope_terms,
    exact_bytes,
    file_mode,
    integer,
    object_name,
)
from hbcore.types import AuditReport, Status


def now_ms() -> int:
    """Return the time of day: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """Return the milliseconds since the machine was started, asleep or awake: nobody can set this clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Engine:
    """One world of budgets and envelopes in private memory."""

    def __init__(
        self, path: None = None, *, capacity: int | None = None, mode: int = 0o600, key: bytes | None = None
    ) -> None:
        if capacity is not None:
            integer("capacity", capacity, MIN_CAPACITY, MAX_CAPACITY)
        file_mode(mode)
        if path is not None:
            raise ValueError(f"path must be None: the reference keeps its engines in memory, not in {path!r}")
        self._key = urandom(KEY_SIZE) if key is None else exact_bytes("key", key, KEY_SIZE)
        self._now_ms: Callable[[], int] = now_ms  # a test may put its own clocks here
        self._boot_ms: Callable[[], int] = boot_ms
        # Both are keyed by parent and name, in the order of making.
        self._budgets: dict[tuple[Budget | None, bytes], Budget] = {}
        self._envelopes: dict[tuple[Budget | None, bytes], Envelope] = {}
        self.closed = False

    def _check_open(self) -> None:
        if self.closed:
            raise EngineClosedError("the engine is closed; open it anew with hbcore.Engine(...)")

    def budget(self, name: str, total: int | None = None) -> Budget:
        """Get the root budget of that name, or create it with ``total`` minor units (1 .. 2**62 - 1).

        ``total`` is compared with what the budget was made with, so a budget that was topped up since is the same.

        Raises:
            TypeError, ValueError: an argument is bad; the message names it.
            ConflictError: the name exists with another total.
            NotFoundError: no total was given, and the name does not exist.
        """
        return self._budget(None, name, total)

    def _budget(self, parent: Budget | None, name: str, total: int | None) -> Budget:
        self._check_open()
        encoded = object_name(name)
        name = encoded.decode()
        if total is not None:
            total = integer("total", total, 1, TOTAL_LIMIT - 1)
        budget = self._budgets.get((parent, encoded))
        if total is None:
            if budget is None:
                raise NotFoundError(f"there is no budget {name!r}; give total to create it")
            return budget
        if budget is not None:
            check_same_total(name, budget._base, total)
            return budget
        if parent is not None:
            parent._fund(total, f"budget {name!r}")
        budget = self._budgets[parent, encoded] = Budget(self, name, total, parent)
        if parent is not None:
            parent._children.append(budget)
        return budget

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
        """Get the envelope of that name that belongs to no budget, or create it."""
        optional = (law, min, max, concentration, seed, expires_at, per_user, hold_seconds, max_packets)
        return self._envelope(None, name, total, packets, *optional)

    def _envelope(
        self, budget: Budget | None, name: str, total: int | None, packets: int | None, *optional: object
    ) -> Envelope:
        self._check_open()
        encoded = object_name(name)
        name = encoded.decode()
        envelope = self._envelopes.get((budget, encoded))
        if total is None and packets is None:
            check_lookup(*optional)
            if envelope is None:
                raise NotFoundError(f"there is no envelope {name!r}; give total and packets to create it")
            return envelope
        terms = envelope_terms(total, packets, *optional)
        if envelope is not None:
            check_same_terms(name, envelope.terms, terms)
            return envelope
        if terms.seed is None:
            terms = terms._replace(seed=urandom(32))
        if budget is not None:
            budget._fund(terms.total, f"envelope {name!r}")
        envelope = self._envelopes[budget, encoded] = Envelope(self, name, terms, budget)
        if budget is not None:
            budget._children.append(envelope)
        return envelope

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
        """Create many envelopes in order; return the ``Status`` of each: GRANTED, REPEATED or CONFLICT.

        If an argument is bad, for whichever envelope, no envelope is made.
        """
        common = (law, min, max, concentration, seeds, expires_at, per_user, hold_seconds, max_packets)
        return self._create_many(None, names, totals, packets, *common)

    def _create_many(
        self,
        budget: Budget | None,
        names: object,
        totals: object,
        packets: object,
        law: object,
        min: object,
        max: object,
        concentration: object,
        seeds: object,
        expires_at: object,
        per_user: object,
        hold_seconds: object,
        max_packets: object,
    ) -> np.ndarray:
        self._check_open()
        common = (expires_at, per_user, hold_seconds, max_packets)
        plain = checked_batch(names, totals, packets, law, min, max, concentration, seeds, *common)
        self._check_open()
        statuses = np.empty(len(plain.names), np.uint8)
        for i, name in enumerate(plain.names):
            seed = None if plain.seeds is None else plain.seeds[i]
            terms = envelope_terms(plain.totals[i], plain.packets[i], law, min, max, concentration, seed, *common)
            statuses[i] = self._create(budget, name, terms)
        return statuses

    def _create(self, budget: Budget | None, name: str, terms: Terms) -> Status:
        """Make an envelope, or say why not: REPEATED or CONFLICT if the name exists, else INSUFFICIENT or CLOSED."""
        envelope = self._envelopes.get((budget, name.encode()))
        if envelope is not None:
            given = envelope.terms if terms.seed is not None else envelope.terms._replace(seed=None)
            return Status.REPEATED if given == terms else Status.CONFLICT
        status = Status.GRANTED if budget is None else budget._take(terms.total)
        if status == Status.GRANTED:
            if terms.seed is None:
                terms = terms._replace(seed=urandom(32))
            envelope = self._envelopes[budget, name.encode()] = Envelope(self, name, terms, budget)
            if budget is not None:
                budget._children.append(envelope)
        return status

    def budgets(self) -> list[Budget]:
        """Return all budgets of the engine, also those below others, in the order of their making."""
        self._check_open()
        return list(self._budgets.values())

    def envelopes(self) -> list[Envelope]:
        """Return all envelopes of the engine, also those of budgets, in the order of their making."""
        self._check_open()
        return list(self._envelopes.values())

    def user_hash(self, user: object, /, nth: int = 0) -> bytes:
        """Return the 16-byte keyed hash under which a user, or a key, appears in snapshots."""
        self._check_open()
        return user_key(self._key, user_identity(user), integer("nth", nth, 0, PER_USER_LIMIT - 1))

    def sweep(self) -> int:
        """End what is due: close envelopes that have expired, and give back claims that were not settled in time.

        Returns:
            The number of envelopes closed and of claims given back.
        """
        self._check_open()
        return sum(envelope._sweep() for envelope in self._envelopes.values())

    def audit(self) -> AuditReport:
        """Prove that what was given out and what is left add up; raise AuditError naming the first thing wrong.

        Envelopes that have expired are closed first.
        """
        self._check_open()
        stats = []
        for envelope in self._envelopes.values():
            envelope._has_ended()
            envelope._audit()
            stats.append(envelope.stats())
        for budget in self._budgets.values():
            budget._audit()
        roots = [budget.stats() for budget in self._budgets.values() if budget.parent is None]
        budgeted = sum(root.total for root in roots)
        available = sum(budget.stats().available for budget in self._budgets.values())
        spent = sum(root.settled for root in roots)
        return AuditReport(
            envelopes=len(stats),
            packets=sum(s.packets for s in stats),
            granted=sum(s.granted for s in stats),
            settled=sum(s.settled for s in stats),
            refunded=sum(s.packets - s.granted - s.settled - s.remaining for s in stats),
            amount_total=sum(s.amounts.total for s in stats),
            amount_granted=sum(s.amounts.granted for s in stats),
            amount_settled=sum(s.amounts.settled for s in stats),
            budgets=len(self._budgets),
            holds=sum(len(budget._holds) for budget in self._budgets.values()),
            amount_budgeted=budgeted,
            amount_available=available,
            amount_held=budgeted - available - spent,
            amount_spent=spent,
        )

    def close(self) -> None:
        """Close the engine; later calls on it and its envelopes raise EngineClosedError."""
        self.closed = True

    @property
    def path(self) -> None:
        """Always None: the reference keeps its engines in memory."""
        return None

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle an engine; open it anew with hbcore.Engine(...)")

    def __repr__(self) -> str:
        return f"<{'closed ' if self.closed else ''}Engine in memory>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
