"""Which hbcore tests and benches run against: the one that is installed, unless this tree was built in place.

``python -m pytest`` and ``python -m bench`` put the root of the tree in front of all other folders. There an hbcore/
without its extensions would hide the installed one, in that process and in every Python that it starts.
"""

import os
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def prefer_installed() -> None:
    """Take the root of the tree out of sight, if an hbcore is installed and the one of the tree was not built."""
    built_in_place = any((ROOT / "hbcore" / f"engine{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    # Installed nowhere: leave the tree in sight, whose import error says what to do.
    if built_in_place or not PathFinder.find_spec("hbcore", elsewhere):
        return
    sys.path[:] = elsewhere
    os.environ["PYTHONSAFEPATH"] = "1"
    # Import it now: for tests that stand in a package, pytest may put the root in front again.
    import_module("hbcore")


def environment_of_a_bench() -> dict[str, str]:
    """Return the environment for a ``python -m bench`` that a bench starts, wherever it stands."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
