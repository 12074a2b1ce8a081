"""``python -m hbcore``: the same as the command ``hbcore``."""

import sys

from hbcore.cli import main

sys.exit(main())
