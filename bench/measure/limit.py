"""The limit: ``bare.c``, compiled when a bench runs. It does the memory operations of a claim, and nothing else."""

import ctypes
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.measure.operations import FIRST_USER
from bench.measure.turns import Run


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled loop, or None where there is no C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bare.so"
        source = Path(__file__).with_name("bare.c")
        subprocess.run([*compiler.split(), "-O3", "-shared", "-fPIC", source, "-o", path], check=True)
        return ctypes.CDLL(str(path))


def shared_numbers(count: int) -> np.ndarray:
    """Zeros of 64 bits, on pages that nobody has touched, which forked children write to and their parent reads."""
    return np.frombuffer(mmap.mmap(-1, 8 * count), np.int64)


class Tables(NamedTuple):
    """What the loop works on: the index, the records and the shared counter; zeros all of them."""

    index: np.ndarray
    records: np.ndarray
    counter: np.ndarray


def tables(count: int, zeros: Callable[[int], np.ndarray]) -> Tables:
    """Return those for so many users; ``zeros`` makes an array of 64-bit words."""
    return Tables(zeros(1 << (2 * count - 1).bit_length()), zeros(4 * count), zeros(1))


def bare_claims(of: Tables, first_user: int, count: int, is_fresh: bool = False) -> Run:
    """The tables are touched before the loop is timed, unless what is measured is the loop on fresh pages."""
    loop = library()
    assert loop is not None
    if not is_fresh:
        of.index[:] = 0
        of.records[:] = 0
    users = np.arange(first_user, first_user + count, dtype=np.uint64)

    def run() -> None:
        index, records, counter, keys = (ctypes.c_void_p(array.ctypes.data) for array in (*of, users))
        loop.bare_claims(index, ctypes.c_uint64(len(of.index) - 1), records, counter, keys, ctypes.c_uint64(count))
        assert of.counter[0] >= count

    return run


def bare_loop(count: int) -> Run:
    return bare_claims(tables(count, lambda words: np.zeros(words, np.int64)), FIRST_USER, count)


def fresh_bare_loop(count: int) -> Run:
    """The same on pages of shared memory that nobody has touched, as those of a new envelope are."""
    return bare_claims(tables(count, shared_numbers), FIRST_USER, count, is_fresh=True)
