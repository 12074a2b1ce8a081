from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, final

import numpy as np
from _typeshed import StrOrBytesPath
from numpy.typing import NDArray

from hbcore.budget import Budget, _Amounts, _Names, _Seeds
from hbcore.envelope import Envelope, _User
from hbcore.types import AuditReport, EngineInfo

@final
class Engine:
    def __init__(
        self,
        path: StrOrBytesPath | None = None,
        *,
        capacity: int | None = None,
        mode: int = 0o600,
        key: bytes | None = None,
        readonly: bool = False,
        huge_pages: bool = False,
    ) -> None: ...
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
        expires_at: float | datetime | None = None,
        per_user: int = 1,
        hold_seconds: float | None = None,
        max_packets: int | None = None,
    ) -> Envelope: ...
    def create_many(
        self,
        names: _Names,
        totals: _Amounts,
        packets: _Amounts,
        *,
        law: str = "double_mean",
        min: int = 1,
        max: int | None = None,
        concentration: int = 3,
        seeds: _Seeds | None = None,
        expires_at: float | datetime | None = None,
        per_user: int = 1,
        hold_seconds: float | None = None,
        max_packets: int | None = None,
    ) -> NDArray[np.uint8]: ...
    def budget(self, name: str, total: int | None = None) -> Budget: ...
    def user_hash(self, user: _User, /, nth: int = 0) -> bytes: ...
    def envelopes(self) -> list[Envelope]: ...
    def budgets(self) -> list[Budget]: ...
    def sweep(self) -> int: ...
    def audit(self) -> AuditReport: ...
    def info(self) -> EngineInfo: ...
    def close(self) -> None: ...
    @property
    def path(self) -> str | None: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

def survey(engine: Engine) -> list[tuple[int, int, bool, str, Budget | Envelope | None, str | None]]: ...
def reopen_budget(path: str, engine_id: bytes, names: Sequence[str], readonly: bool = False) -> Budget: ...
def reopen_envelope(path: str, engine_id: bytes, names: Sequence[str], readonly: bool = False) -> Envelope: ...
