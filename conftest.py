"""Tests and benches run against the hbcore that is installed, unless this tree was built in place.

``python -m pytest`` puts this folder in front of all others, where an hbcore/ without its extensions would hide the
installed one, here and in every Python that a test starts.
"""

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parent
built_in_place = any((ROOT / "hbcore" / f"engine{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
elsewhere = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

# Installed nowhere: leave the tree in sight, whose import error says what to do.
if not built_in_place and PathFinder.find_spec("hbcore", elsewhere):
    sys.path[:] = elsewhere
    os.environ["PYTHONSAFEPATH"] = "1"
