"""The list of extensions; everything else about the package is in pyproject.toml."""

import platform
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    raise SystemExit(
        f"hbcore runs on Linux only, not on {sys.platform}: it stands on memfd, OFD locks and fallocate, which have no "
        "equivalent there. Use a Linux machine, a container or WSL 2."
    )

MODULES = [
    "stream",
    "law",
    "user",
    "region",
    "opening",
    "directory",
    "batch",
    "index",
    "vacancy",
    "ledger",
    "ending",
    "claiming",
    "part",
    "deck",
    "account",
    "tally",
    "purse",
    "funding",
    "budget",
    "envelope",
    "growth",
    "wish",
    "creation",
    "audit_envelope",
    "audit_budget",
    "recovery",
    "engine",
]

FLAGS = ["-O3", "-fno-strict-aliasing"]
if platform.machine() == "x86_64":
    # Every x86-64 processor but the first has them: a compare-and-swap of 16 bytes, and a prefetch that takes a cache
    # line away from other cores, without which the compare-and-swap that follows would have to.
    FLAGS += ["-mcx16", "-mprfchw"]

setup(
    ext_modules=cythonize(
        [Extension(f"hbcore.{name}", [f"hbcore/{name}.pyx"], extra_compile_args=FLAGS) for name in MODULES],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "freethreading_compatible": True,
            "autotestdict": False,
        },
    ),
    options={"build_ext": {"parallel": True}},  # a compiler for each core
)
