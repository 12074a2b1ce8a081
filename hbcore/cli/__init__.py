"""The command ``hbcore``: one room a command, and what they share. It needs the extra ``cli``."""

import sys
from collections.abc import Callable, Sequence

_run: Callable[[Sequence[str] | None], int] | None
try:
    from hbcore.cli.entry import main as _entry
except ModuleNotFoundError as error:
    if error.name != "rich":
        raise
    _run = None
else:
    _run = _entry


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    if _run is None:
        print("hbcore: error: the command line needs rich: python -m pip install 'hbcore[cli]'", file=sys.stderr)
        return 2
    return _run(argv)
