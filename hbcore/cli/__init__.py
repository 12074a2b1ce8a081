"""The command ``hbcore``: one room a command, and what they share. It needs the extra ``cli``."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        from hbcore.cli.entry import main as run
    except ModuleNotFoundError as error:
        if error.name != "rich":
            raise
        print("hbcore: error: the command line needs rich: python -m pip install 'hbcore[cli]'", file=sys.stderr)
        return 2
    return run(argv)
