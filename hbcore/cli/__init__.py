"""The command ``hbcore``: one room a command, and what they share. Needs the extra ``cli`` (rich)."""

from hbcore.cli.main import main

__all__ = ["main"]
