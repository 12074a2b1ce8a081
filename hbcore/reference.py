"""hbcore in plain Python: the oracle of the tests, the baseline of the benches, and the place to learn the algorithms.

The functions and classes mirror the native modules name by name (``reference_law``, ``reference_user``,
``reference_envelope``, and the engine here) and give the same answers and the same amounts, bit for bit. The reference
keeps its promises single-threaded and in memory; the lock-free protocol of slots, index and vacancy tree, which exists
for races and deaths only, has no twin here: dictionaries of claims and holds stand for it. It is never a fallback for
the native core.
"""

from os import urandom
from typing import NoReturn, Self

from hbcore.errors import EngineClosedError, NotFoundError
from hbcore.records import AuditReport
from hbcore.reference_envelope import BLOCK_SIZE, Claim, Envelope, Held
from hbcore.reference_law import (
    DIRICHLET,
    DOMAIN_ROTATION,
    DOMAIN_SPLIT,
    DOUBLE_MEAN,
    EQUAL,
    REJECTION_CELLS,
    ROUNDS,
    SHUFFLE_STEPS,
    STRATUM_SIZE,
    Stream,
    chacha20_block,
    checked_terms,
    composition,
    distinct,
    packet_amount,
    pair_share,
    resplit,
    rotation,
    split,
    split_dirichlet,
    split_double_mean,
    split_equal,
    split_stratum,
    stratum_count,
    stratum_of,
    stratum_share,
    stratum_start,
    sum_cells,
)
from hbcore.reference_user import siphash128, user_identity, user_key, user_list
from hbcore.terms import (
    KEY_SIZE,
    MAX_CAPACITY,
    MIN_CAPACITY,
    check_lookup,
    check_same_terms,
    envelope_terms,
    exact_bytes,
    file_mode,
    integer,
    object_name,
)

__all__ = [
    "BLOCK_SIZE",
    "DIRICHLET",
    "DOMAIN_ROTATION",
    "DOMAIN_SPLIT",
    "DOUBLE_MEAN",
    "EQUAL",
    "REJECTION_CELLS",
    "ROUNDS",
    "SHUFFLE_STEPS",
    "STRATUM_SIZE",
    "Claim",
    "Engine",
    "Envelope",
    "Held",
    "Stream",
    "chacha20_block",
    "checked_terms",
    "composition",
    "distinct",
    "packet_amount",
    "pair_share",
    "resplit",
    "rotation",
    "siphash128",
    "split",
    "split_dirichlet",
    "split_double_mean",
    "split_equal",
    "split_stratum",
    "stratum_count",
    "stratum_of",
    "stratum_share",
    "stratum_start",
    "sum_cells",
    "user_identity",
    "user_key",
    "user_list",
]


class Engine:
    """One world of envelopes in private memory."""

    def __init__(
        self, path: None = None, *, capacity: int | None = None, mode: int = 0o600, key: bytes | None = None
    ) -> None:
        if capacity is not None:
            integer("capacity", capacity, MIN_CAPACITY, MAX_CAPACITY)
        file_mode(mode)
        if path is not None:
            raise ValueError(f"path must be None: the reference keeps its engines in memory, not in {path!r}")
        self._key = urandom(KEY_SIZE) if key is None else exact_bytes("key", key, KEY_SIZE)
        self._envelopes: dict[bytes, Envelope] = {}
        self.closed = False

    def _check_open(self) -> None:
        if self.closed:
            raise EngineClosedError("the engine is closed; open it anew with hbcore.Engine(...)")

    def envelope(
        self,
        name: str,
        total: int | None = None,
        packets: int | None = None,
        law: str = "double_mean",
        min: int = 1,
        max: int | None = None,
        concentration: int = 3,
        seed: bytes | None = None,
        expires_at: object = None,
    ) -> Envelope:
        """Get the envelope of that name, or create it."""
        self._check_open()
        encoded = object_name(name)
        name = encoded.decode()
        envelope = self._envelopes.get(encoded)
        if total is None and packets is None:
            check_lookup(law, min, max, concentration, seed, expires_at)
            if envelope is None:
                raise NotFoundError(f"there is no envelope {name!r}; give total and packets to create it")
            return envelope
        terms = envelope_terms(total, packets, law, min, max, concentration, seed, expires_at)
        if envelope is not None:
            check_same_terms(name, envelope.terms, terms)
            return envelope
        if terms.seed is None:
            terms = terms._replace(seed=urandom(32))
        envelope = self._envelopes[encoded] = Envelope(self, name, terms)
        return envelope

    def envelopes(self) -> list[Envelope]:
        """Return all envelopes of the engine, in the order of their making."""
        self._check_open()
        return list(self._envelopes.values())

    def user_hash(self, user: object, /) -> bytes:
        """Return the 16-byte keyed hash under which a user appears in ``Envelope.claims()``."""
        self._check_open()
        return user_key(self._key, user_identity(user))

    def audit(self) -> AuditReport:
        """Prove that what was given out and what is left add up; raise AuditError naming the first thing wrong."""
        self._check_open()
        stats = []
        refunded = 0
        for envelope in self._envelopes.values():
            envelope._audit()
            stats.append(envelope.stats())
            refunded += stats[-1].packets - stats[-1].granted - stats[-1].settled - stats[-1].remaining
        return AuditReport(
            len(stats),
            sum(s.packets for s in stats),
            sum(s.granted for s in stats),
            sum(s.settled for s in stats),
            refunded,
            sum(s.amounts.total for s in stats),
            sum(s.amounts.granted for s in stats),
            sum(s.amounts.settled for s in stats),
        )

    def close(self) -> None:
        """Close the engine; what is asked of it or its envelopes afterwards raises EngineClosedError."""
        self.closed = True

    @property
    def path(self) -> None:
        """None: the reference keeps its engines in memory."""
        return None

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle an engine; open it anew with hbcore.Engine(...)")

    def __repr__(self) -> str:
        return f"<{'closed ' if self.closed else ''}Engine in memory>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
