"""Build the explorer: hbcore's own sources with HBCORE_SCHEDULE, a clock that stands until a scenario moves it, and
blocks so small that the free map has levels, and a budget two.

    python tests/explorer/build.py FOLDER

copies the sources into FOLDER and compiles them there, apart from any installed hbcore.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent / "hbcore"
MODULES = (
    "_keys/user",
    "_file/region",
    "_file/opening",
    "_file/directory",
    "_claims/index",
    "_claims/free_map",
    "_claims/ledger",
    "_claims/transitions",
    "_claims/claim",
    "_claims/group",
    "_money/account",
    "_money/account_scan",
    "_money/hold_group",
)
EXPLORERS = ("explorer", "maker", "account_explorer")
INCLUDED = ("common.pxd", "ledger_book.pxd", "schedule.c", "schedule.h")
# What each scenario chooses: how far its keys may be from their homes,
CROWDED_AT = """cdef extern from *:
    "extern int explore_crowded_at;"
    int CROWDED_AT "explore_crowded_at"

"""
# how many tombstones crowd an index,
CROWDED_PARTS = """cdef extern from *:
    "extern int explore_crowded_parts;"
    int CROWDED_PARTS "explore_crowded_parts"

"""
# and whether reading what lies in a child is a step of the scheduler, before which others may run.
EXTERN_STEP = """cdef extern from *:
    "extern int explore_watches_children; extern void hb_schedule(const char *operation, const void *address);"
    int explore_watches_children
    void hb_schedule(const char *operation, const void *address) nogil

"""
CHILD_STEP = """    if explore_watches_children:
        hb_schedule(b"child", extent)
"""
SMALL = (
    ("_claims/free_map.pxd", "BLOCK_BITS = 6", "BLOCK_BITS = 1"),
    ("_claims/free_map.pxd", "FAN_OUT_BITS = 5", "FAN_OUT_BITS = 1"),
    ("_claims/claim.pyx", "FAR_LOOKS = 4\n", "FAR_LOOKS = 1\n"),
    ("_claims/claim.pyx", "NEAR_LOOKS = 32\n", "NEAR_LOOKS = 1\n"),
    ("_claims/ledger.pxd", "FAR_WORDS = 16\n", "FAR_WORDS = 2\n"),
    ("_claims/ledger.pxd", "PATIENCE_MS = 1000\n", "PATIENCE_MS = 0\n"),
    # Each operation has a cursor that is new; so that they look for blocks that nobody has begun all the same.
    ("_claims/claim.pyx", "not is_new and cursor.late_at", "cursor.late_at"),
    ("_file/directory.pyx", "BUCKET_WORDS = 8", "BUCKET_WORDS = 1"),
    ("_file/directory.pyx", "FIRST_BUCKETS = 512", "FIRST_BUCKETS = 1"),
    ("_claims/index.pyx", "    CROWDED_PARTS = 4 ", "    CROWDED_IN_EARNEST = 4 "),
    ("_claims/index.pyx", "cdef enum:\n    CROWDED_IN", CROWDED_PARTS + "cdef enum:\n    CROWDED_IN"),
    (
        "_money/account.pyx",
        "    if heading_of(extent).kind not in (HB_KIND_BUDGET,",
        CHILD_STEP + "    if heading_of(extent).kind not in (HB_KIND_BUDGET,",
    ),
    ("_money/account.pyx", "cdef enum:\n    RETRY_LIMIT", EXTERN_STEP + "cdef enum:\n    RETRY_LIMIT"),
    ("_money/hold_index.pxd", "FIRST_LEVEL = 64 ", "FIRST_LEVEL = 2 "),
    ("_money/hold_index.pxd", "(6 * level if level < 3 else 2 * level + 8)", "4 * level"),
    ("_money/hold_index.pxd", "LINE_WORDS = 8 ", "LINE_WORDS = 2 "),
    ("_money/hold_index.pxd", "    CROWDED_AT = 24 ", "    CROWDED_IN_EARNEST = 24 "),
    ("_money/hold_index.pxd", "cdef enum:\n    FIRST_LEVEL", CROWDED_AT + "cdef enum:\n    FIRST_LEVEL"),
)

SETUP = """
import platform

from Cython.Build import cythonize
from setuptools import Extension, setup

flags = ["-O1", "-DHBCORE_SCHEDULE", "-fno-strict-aliasing", "-Wno-sign-compare"]
flags += ["-mcx16"] if platform.machine() == "x86_64" else []
modules = [
    Extension("hbcore." + name.replace("/", "."), [f"hbcore/{name}.pyx"], extra_compile_args=flags) for name in %r
]
modules += [Extension(name, [f"{name}.pyx"], extra_compile_args=flags) for name in %r]
setup(name="explorer", packages=[], ext_modules=cythonize(modules, quiet=True, compiler_directives={
    "language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True, "initializedcheck": False}))
"""


def replace_once(path: Path, old: str, new: str) -> None:
    """Replace a text that must stand in the file exactly once."""
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{path.name}: {text.count(old)} times instead of once:\n{old}")
    path.write_text(text.replace(old, new))


def copy_sources(folder: Path) -> None:
    package = folder / "hbcore"
    names = {f"{name}.pyx" for name in MODULES} | {"terms.py", "errors.py", "types.py", "_file/namespace.py"}
    for path in PACKAGE.rglob("*"):
        name = path.relative_to(PACKAGE)
        if path.suffix in (".pxd", ".h") or path.name == "__init__.py" or str(name) in names:
            (package / name.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, package / name)
    (package / "__init__.py").write_text("")
    for name in (*(f"{name}.pyx" for name in EXPLORERS), *INCLUDED):
        shutil.copy(HERE / name, folder)
    shutil.copy(HERE / "clock.h", package / "_file")
    (folder / "setup.py").write_text(SETUP % (MODULES, EXPLORERS))
    for name, old, new in SMALL:
        replace_once(package / name, old, new)


def build(folder: Path) -> None:
    """Build in a missing folder."""
    copy_sources(folder)
    compiler = os.environ.get("CC", "cc")
    run([compiler, "-O1", "-shared", "-fPIC", "schedule.c", "-o", "libschedule.so"], folder)
    compile_modules(folder)


def build_mutant(folder: Path, original: Path, edits: list[tuple[str, str, str]]) -> None:
    """Build in a missing folder what differs from an original by edits: (file, old text, new text)."""
    shutil.copytree(original, folder)
    for name, old, new in edits:
        replace_once(folder / "hbcore" / name, old, new)
    compile_modules(folder)


def compile_modules(folder: Path) -> None:
    run([sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", "2"], folder)


def run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}\n{result.stdout[-3000:]}{result.stderr[-5000:]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    build(parser.parse_args().folder)
