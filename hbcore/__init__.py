"""hbcore: red envelopes for millions of people at once.

An engine holds envelopes, an envelope splits a sum at random into packets, and ``envelope.claim(user)`` gives each user
at most one of them: lock-free, in memory or in a file that many processes share, exact to the last minor unit.
"""

import sys

if not sys.platform.startswith("linux"):
    raise ImportError(
        f"hbcore runs on Linux only, not on {sys.platform}: it stands on memfd, OFD locks and fallocate, which have no "
        "equivalent there. Use a Linux machine, a container or WSL 2."
    )

try:
    from hbcore.budget import Budget, Hold
    from hbcore.engine import Engine
    from hbcore.envelope import Claim, Envelope
    from hbcore.law import split
except ImportError as error:
    raise ImportError(
        f"the native core of hbcore cannot be loaded ({error}); build it with: "
        "python -m pip install --force-reinstall --no-deps hbcore (in a clone: python -m pip install .)"
    ) from error

from hbcore.errors import (
    AuditError,
    ConflictError,
    CorruptFileError,
    EngineClosedError,
    EngineFullError,
    HbcoreError,
    IncompatibleFileError,
    InsufficientBudgetError,
    NotFoundError,
    ReadOnlyError,
)
from hbcore.terms import LawName, Terms
from hbcore.types import (
    CLAIM_DTYPE,
    HOLD_DTYPE,
    HOLD_SNAPSHOT_DTYPE,
    SNAPSHOT_DTYPE,
    Amounts,
    AuditReport,
    BudgetStats,
    EngineInfo,
    EnvelopeStats,
    State,
    Status,
    User,
    Users,
    WorkerInfo,
)

__version__ = "0.1.0"

__all__ = [
    "CLAIM_DTYPE",
    "HOLD_DTYPE",
    "HOLD_SNAPSHOT_DTYPE",
    "SNAPSHOT_DTYPE",
    "Amounts",
    "AuditError",
    "AuditReport",
    "Budget",
    "BudgetStats",
    "Claim",
    "ConflictError",
    "CorruptFileError",
    "Engine",
    "EngineClosedError",
    "EngineFullError",
    "EngineInfo",
    "Envelope",
    "EnvelopeStats",
    "HbcoreError",
    "Hold",
    "IncompatibleFileError",
    "InsufficientBudgetError",
    "LawName",
    "NotFoundError",
    "ReadOnlyError",
    "State",
    "Status",
    "Terms",
    "User",
    "Users",
    "WorkerInfo",
    "__version__",
    "split",
]
