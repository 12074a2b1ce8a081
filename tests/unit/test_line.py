"""The look at a line of words in ``atomics.h``: with vectors it sees what the loop sees, and what Python sees."""

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

HEADER = Path(__file__).resolve().parents[2] / "hbcore" / "_lib" / "atomics.h"
COMPILER = shutil.which("cc") or shutil.which("gcc")
SOURCE = """
#include "atomics.h"
#ifdef HBCORE_SCHEDULE
void hb_schedule(const char *operation, const void *address) { (void)operation; (void)address; }
#endif
unsigned int look(const uint64_t *line, uint64_t wanted, uint64_t mask, int *like)
{
    return hb_set_words(line, 8, wanted, mask, like);
}
"""

pytestmark = pytest.mark.skipif(not HEADER.exists() or COMPILER is None, reason="needs the sources and a C compiler")

Look = Callable[[list[int], int, int], tuple[int, bool]]


def compiled(folder: Path, name: str, *flags: str) -> Look:
    source, library = folder / f"{name}.c", folder / f"{name}.so"
    source.write_text(SOURCE)
    target = ["-mcx16"] if platform.machine() == "x86_64" else []
    command = [COMPILER, "-shared", "-fPIC", "-O3", *target, *flags, f"-I{HEADER.parent}", "-o", library, source]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).look
    function.restype = ctypes.c_uint
    function.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p]

    def look(words: list[int], wanted: int, mask: int) -> tuple[int, bool]:
        memory = (ctypes.c_uint64 * 16)()
        first = -ctypes.addressof(memory) // 8 % 8  # a line begins at a multiple of 64 bytes
        memory[first : first + 8] = words
        like = ctypes.c_int(-1)
        answer = function(ctypes.addressof(memory) + 8 * first, wanted, mask, ctypes.byref(like))
        return answer, like.value != 0

    return look


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> list[Look]:
    folder = tmp_path_factory.mktemp("line")
    return [compiled(folder, "vectors"), compiled(folder, "loop", "-DHBCORE_SCHEDULE")]


BITS = st.integers(0, 63).map(lambda bit: 1 << bit)
WORDS = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1, 1 << 63, (1 << 63) - 1, (1 << 64) - 1]), BITS)


@given(
    words=st.lists(WORDS, min_size=8, max_size=8),
    wanted=WORDS,
    bits=st.integers(1, 32),
    near=st.lists(st.tuples(st.integers(0, 7), st.one_of(st.just(0), BITS)), max_size=3),
)
def test_vectors_and_the_loop_see_the_same(
    looks: list[Look], words: list[int], wanted: int, bits: int, near: list[tuple[int, int]]
) -> None:
    """``near``: words that differ from the wanted one by one bit, or not at all."""
    mask = (1 << 64) - (1 << (64 - bits))
    for place, difference in near:
        words[place] = wanted ^ difference
    set_words = sum(1 << i for i, word in enumerate(words) if word >> 63)
    is_like = any((word ^ wanted) & mask == 0 for word in words)
    for look in looks:
        assert look(words, wanted, mask) == (set_words, is_like)
