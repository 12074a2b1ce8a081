from typing import final
from weakref import WeakValueDictionary

from _typeshed import StrOrBytesPath

DEFAULT_CAPACITY: int
MIN_CAPACITY: int
MAX_CAPACITY: int

open_regions: WeakValueDictionary[str, Region]

@final
class Region:
    @property
    def path(self) -> str | None: ...
    @property
    def is_closed(self) -> bool: ...
    def close(self) -> None: ...
    def bytes_used(self) -> int: ...

def open_region(
    path: StrOrBytesPath | None, capacity: int | None, mode: int, key: bytes | None, create: bool = True
) -> Region: ...
def create_file(path: str, capacity: int, mode: int, key: bytes | None) -> int: ...
def boot_id() -> bytes: ...
