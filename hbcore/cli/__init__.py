"""The command ``hbcore``: one module for each command, and what they share. It needs the extra ``cli``."""

import sys
from collections.abc import Sequence

try:
    from hbcore.cli.entry import main
except ModuleNotFoundError as missing:
    if missing.name != "rich":
        raise

    def main(argv: Sequence[str] | None = None) -> int:
        """Say which extra the command line lacks, and return the exit status of an unusable argument."""
        print("hbcore: error: the command line needs rich: python -m pip install 'hbcore[cli]'", file=sys.stderr)
        return 2


__all__ = ["main"]
