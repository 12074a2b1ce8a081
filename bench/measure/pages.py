"""The pages of engines in memory: have them huge, touch them, count them, and forbid to write to them."""

import ctypes
import faulthandler
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hbcore

PAGE = 4096
READ = 1  # of mprotect
POPULATE_WRITE = 23  # of madvise: touch the pages, and change nothing

SHARED = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")

libc = ctypes.CDLL(None, use_errno=True)
huge = False


def are_lent() -> bool:
    """Return whether the kernel lends huge pages to shared memory that asks for them."""
    try:
        chosen = re.search(r"\[(\w+)\]", SHARED.read_text())
    except OSError:
        return False
    return chosen is not None and chosen[1] not in ("never", "deny")


@contextmanager
def on_huge_pages() -> Iterator[None]:
    """Engines that are made in here ask for huge pages."""
    global huge
    huge = True
    try:
        yield
    finally:
        huge = False


def new_engine() -> hbcore.Engine:
    return hbcore.Engine(huge_pages=huge)


def mappings() -> list[tuple[int, int]]:
    """Return first and last address of the engines in memory of this process."""
    with open("/proc/self/maps") as maps:
        found = [re.match(r"([0-9a-f]+)-([0-9a-f]+) .*memfd:hbcore", line) for line in maps]
    return [(int(match[1], 16), int(match[2], 16)) for match in found if match]


def checked(result: int, call: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


def populate(start: int, size: int) -> None:
    """Touch the pages of ``size`` bytes, from the one of the address ``start`` on."""
    begin = start & -PAGE
    checked(libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(start + size - begin), POPULATE_WRITE), "madvise")


def touch(engine: hbcore.Engine, ahead: int = 0) -> None:
    """Touch every page of an engine that has been given to something, and as many of all others of the process.

    ``ahead``: bytes that have not been given to anything yet, and are touched as well.
    """
    size = engine.info().used + ahead  # its file is as large as its capacity, and mostly a hole
    for start, _ in mappings():
        populate(start, size)


def touched_envelope(packets: int, law: str = "equal", hold_seconds: float | None = None) -> Any:
    """An envelope whose pages are touched, and none of whose packets was ever claimed.

    With ``equal`` there is next to nothing to split, so that its claims are the claims alone.
    """
    engine = new_engine()
    envelope = engine.envelope("bench", total=100 * packets, packets=packets, law=law, hold_seconds=hold_seconds)
    touch(engine)
    return envelope


def descriptors() -> set[int]:
    """Return the open engines in memory of this process."""
    result = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{entry}").startswith("/memfd:hbcore"):
                result.add(int(entry))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return result


def allocated_bytes(descriptor: int) -> int:
    """Return what the kernel has given to a file: its pages that were touched."""
    return os.fstat(descriptor).st_blocks * 512


def survives_without_writing(first: Callable[[], object], then: Callable[[], object]) -> bool:
    """Return whether a forked child can do ``then`` when each write to an engine is a fault.

    It does ``first`` before: a child registers as a worker of its own at its first call, which writes.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.disable()
            first()
            for start, end in mappings():
                checked(libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - start), READ), "mprotect")
            then()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status > 0:
        raise RuntimeError(f"a child that only claims has failed with status {status}")
    return status == 0
