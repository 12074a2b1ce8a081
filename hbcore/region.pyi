from collections.abc import Callable
from typing import final
from weakref import WeakValueDictionary

from _typeshed import StrOrBytesPath

from hbcore.records import EngineInfo

DEFAULT_CAPACITY: int
MIN_CAPACITY: int
MAX_CAPACITY: int

open_regions: WeakValueDictionary[tuple[str, bytes, bool], Region]

@final
class Region:
    @property
    def path(self) -> str | None: ...
    @property
    def is_closed(self) -> bool: ...
    def close(self) -> None: ...
    def check_file(self) -> None: ...
    def is_replaced(self) -> bool: ...
    def info(self) -> EngineInfo: ...
    def bytes_used(self) -> int: ...
    def engine_id(self) -> bytes: ...

def open_region(
    path: StrOrBytesPath | None,
    capacity: int | None,
    mode: int,
    key: bytes | None,
    recover: Callable[[Region], None],
    readonly: bool = False,
    create: bool = True,
    huge_pages: bool = False,
) -> Region: ...
def create_file(path: str, capacity: int, mode: int, key: bytes | None) -> int: ...
def boot_id() -> bytes: ...
