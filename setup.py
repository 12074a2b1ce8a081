"""How the extensions are compiled; everything else about the package is in pyproject.toml."""

import os
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    raise SystemExit(
        f"hbcore runs on Linux only, not on {sys.platform}: it stands on memfd, OFD locks and fallocate, which have no "
        "equivalent there. Use a Linux machine, a container or WSL 2."
    )

# Without debug information, which takes a quarter of the compiler's time; for a debugger, take -g0 out.
FLAGS = ["-O3", "-g0", "-fno-strict-aliasing"]
if sysconfig.get_platform().endswith("-x86_64"):  # the target, which is another than this machine in a cross build
    # Every x86-64 processor but the first ones has these two instructions: a compare-and-swap of 16 bytes, and a
    # prefetch that takes a cache line away from other cores, which the compare-and-swap that follows would otherwise
    # have to do.
    FLAGS += ["-mcx16", "-mprfchw"]

if __name__ == "__main__":  # Cython's processes may import this file
    setup(
        ext_modules=cythonize(
            [Extension("*", ["hbcore/**/*.pyx"], extra_compile_args=FLAGS)],
            build_dir="build/cython",
            nthreads=len(os.sched_getaffinity(0)),
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
