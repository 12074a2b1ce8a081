from collections.abc import Callable
from weakref import WeakValueDictionary

from _typeshed import StrOrBytesPath

from hbcore._file.region import Region

DEFAULT_CAPACITY: int

open_regions: WeakValueDictionary[tuple[str, bytes, bool], Region]

def open_region(
    path: StrOrBytesPath | None,
    capacity: int | None,
    mode: int,
    key: bytes | None,
    recover: Callable[[Region], None],
    readonly: bool = False,
    create: bool = True,
    huge_pages: bool = False,
    shared: bool = True,
) -> Region: ...
def create_file(path: str, capacity: int, mode: int, key: bytes | None) -> int: ...
def link(temporary: str, path: str) -> None: ...
def boot_id() -> bytes: ...
