"""Tests and benches run against the hbcore that is installed, unless this tree was built in place.

``bench/installed.py`` decides that when ``bench`` is imported, for ``python -m bench`` as well.
"""

import bench  # noqa: F401
