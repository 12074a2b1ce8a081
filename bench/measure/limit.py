"""The limit: ``bare.c`` for claims in batches, ``stub.pyx`` for single claims, compiled when a bench runs.

They do the memory operations of a claim, and nothing else.
"""

import ctypes
import functools
import importlib.machinery
import importlib.util
import mmap
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import hbcore
from bench.measure.operations import FIRST_USER, for_each, integers
from bench.measure.turns import Run


def compiler() -> list[str]:
    """Return the command of the C compiler; empty where there is none."""
    return (os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "").split()


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled loop, or None where there is no C compiler."""
    if not compiler():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bare.so"
        source = Path(__file__).with_name("bare.c")
        subprocess.run([*compiler(), "-O3", "-shared", "-fPIC", source, "-o", path], check=True)
        return ctypes.CDLL(str(path))


@functools.cache
def stub() -> Any:
    """Return the module of ``stub.pyx``, or None where there is no C compiler, no header of Python, or no Cython."""
    include = Path(sysconfig.get_path("include"))
    if not compiler() or importlib.util.find_spec("Cython") is None or not (include / "Python.h").exists():
        return None
    package = Path(hbcore.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "stub.c", Path(folder) / "stub.so"
        translate = [sys.executable, "-m", "cython", "-3", "-I", package.parent, "-o", source]
        subprocess.run([*translate, Path(__file__).with_name("stub.pyx")], check=True, cwd=package.parent)
        includes = [f"-I{folder}" for folder in (include, package / "_lib", package / "_file")]
        flags = ["-O3", "-shared", "-fPIC", *(["-mcx16"] if platform.machine() == "x86_64" else [])]
        subprocess.run([*compiler(), *flags, *includes, source, "-o", path], check=True)
        loader = importlib.machinery.ExtensionFileLoader("stub", str(path))
        spec = importlib.util.spec_from_file_location("stub", path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module


def stub_claims(count: int, packets: int) -> Run:
    """So many claims of the stub, in envelopes of so many packets whose pages are touched, as hbcore's are."""

    def touched(words: int) -> np.ndarray:
        numbers = shared_numbers(words)
        numbers[:] = 0
        return numbers

    words = max((31 * packets + 64) // 128, 1) * 8  # as in the index of an envelope
    envelopes = [stub().StubEnvelope(touched(words), touched(4 * packets)) for _ in range(count // packets)]
    return in_envelopes([envelope.claim for envelope in envelopes], packets)


def in_envelopes(claims: list[Callable[[int], object]], packets: int) -> Run:
    """Claim in each envelope for as many users as it has packets."""
    users = integers(len(claims) * packets)
    parts = [for_each(claim, users[i * packets : (i + 1) * packets]) for i, claim in enumerate(claims)]

    def run() -> None:
        for part in parts:
            part()

    return run


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
