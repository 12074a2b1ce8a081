"""The command line: ``hbcore rain``, ``replay``, ``inspect`` and ``audit``.

This module hands the arguments to their command, and turns every expected failure into one line on standard error and
an exit status. Each command has a module of its own, which checks the arguments before anything is created.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

import hbcore
from hbcore.cli.arrivals import BadLine
from hbcore.cli.audit import add_audit
from hbcore.cli.inspect import add_inspect
from hbcore.cli.options import Parser, UsageError
from hbcore.cli.rain import WorkerError, add_rain
from hbcore.cli.replay import add_replay
from hbcore.cli.terminal import escaped
from hbcore.errors import HbcoreError

OK, UNPROVEN, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a user's name must not end the report on a Latin terminal
    program = "hbcore"
    try:
        arguments = parser().parse_args(argv)
        program = f"hbcore {arguments.command}"
        command: Callable[[argparse.Namespace], bool] = arguments.run
        holds = command(arguments)
    except KeyboardInterrupt:
        return failure(program, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The process that read the report has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except WorkerError as error:
        return failure(program, str(error), UNPROVEN)
    except (UsageError, BadLine, HbcoreError) as error:
        return failure(program, str(error), UNUSABLE)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return failure(program, f"{place}{error.strerror or error}", UNUSABLE)
    return OK if holds else UNPROVEN


def failure(program: str, message: str, status: int) -> int:
    """Print one line that says what went wrong, and return the exit status."""
    print(f"{program}: error: {escaped(message)}", file=sys.stderr)
    return status


def parser() -> Parser:
    """Return the parser of all commands."""
    result = Parser(
        prog="hbcore",
        description="Claim red envelopes: a rain to watch, a replay of who came; look into a file, and prove it.",
    )
    result.add_argument("--version", action="version", version=f"hbcore {hbcore.__version__}")
    commands = result.add_subparsers(
        dest="command", required=True, metavar="rain | replay | inspect | audit", parser_class=Parser
    )
    add_rain(commands)
    add_replay(commands)
    add_inspect(commands)
    add_audit(commands)
    return result
