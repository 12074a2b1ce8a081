"""Tests and benches run against the hbcore that is installed, unless this tree was built in place."""

import bench  # noqa: F401  (importing it is all: bench/installed.py)
