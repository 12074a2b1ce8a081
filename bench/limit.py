"""The limit: ``bare.c``, compiled when a bench runs. It does the memory operations of a claim, and nothing else."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from measuring import Run
from operations import FIRST_USER


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


def bare_loop(count: int) -> Run:
    """The tables are touched before the loop is timed, as the figure is to be a limit."""
    loop = library()
    assert loop is not None
    users = np.arange(FIRST_USER, FIRST_USER + count, dtype=np.uint64)
    words = 1 << (2 * count - 1).bit_length()
    table, records, counter = np.full(words, 1), np.full(4 * count, 1), np.zeros(1, np.uint64)
    table[:] = 0
    records[:] = 0
    arrays = (table, records, counter, users)

    def run() -> None:
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
        loop.bare_claims(
            addresses[0], ctypes.c_uint64(words - 1), addresses[1], addresses[2], addresses[3], ctypes.c_uint64(count)
        )
        assert counter[0] == count

    return run
