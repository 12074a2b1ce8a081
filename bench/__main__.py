"""The entry of the benches: ``python -m bench`` names the commands, ``python -m bench COMMAND --help`` explains one."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """A module of this package with ``add_options(parser)`` and ``run(options)``, which returns the exit status."""

    measures: str
    lasts: str  # on two cores


COMMANDS = {
    "table": Command("how fast hbcore is, row by row beside what is asked of it", "10 to 20 minutes"),
    "compare": Command("every operation beside the reference and beside a lock and a dict", "3 minutes"),
    "peers": Command("claims beside Valkey, SQLite, a lock and a dict, and a bare loop in C", "1 minute"),
    "instructions": Command("instructions of the hot paths, counted by callgrind", "30 seconds"),
    "pictures": Command("what docs/throughput.png, cost.png and latency.png show, and draw them", "5 to 10 minutes"),
    "fairness": Command("what a packet's number says about its amount; docs/laws.png, fairness.png", "30 seconds"),
    "budgets": Command("holds beside claims: reserve, settle, release, and what is below a budget", "20 seconds"),
    "creating": Command("the making of envelopes, one by one and many at once", "1 minute"),
    "files": Command("a claim in a file beside a claim in memory", "10 seconds"),
    "mixing": Command("how fast the re-splits of a capped Dirichlet law come to it", "10 seconds"),
}

EPILOG = """\
`python -m bench COMMAND --help` says what a command measures, and how. Every command has --quick,
which shows in some seconds that it runs, and judges nothing. No other work should be running meanwhile.

Scalar and batch operations and the laws, native beside reference, are also a pytest-benchmark suite:

    python -m pytest bench --benchmark-only
"""


def listed() -> str:
    """Return the commands as the help shows them."""
    width = max(len(command.measures) for command in COMMANDS.values())
    return "\n".join(f"  {name:<13} {command.measures:<{width}}  {command.lasts}" for name, command in COMMANDS.items())


def parser_of(chosen: str) -> argparse.ArgumentParser:
    """Return the parser of everything; only of the command that was chosen, the module is imported."""
    plain = argparse.RawDescriptionHelpFormatter
    description = (
        f"How fast hbcore is.\n\ncommands, what they measure, and how long that takes on two cores:\n{listed()}"
    )
    parser = argparse.ArgumentParser("python -m bench", None, description, EPILOG, formatter_class=plain)
    parser.add_argument("--list", action="store_true", help="print the names of the commands, one a line")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help="one of the above")
    for name in COMMANDS:
        command = commands.add_parser(name, formatter_class=plain)
        command.add_argument("--quick", action="store_true", help="short rounds, to see that it runs; judges nothing")
        if name == chosen:
            module = import_module(f"bench.{name}")
            command.description = module.__doc__
            module.add_options(command)
    return parser


def main(arguments: Sequence[str]) -> int:
    parser = parser_of(arguments[0] if arguments else "")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(COMMANDS))
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    status: int = import_module(f"bench.{options.command}").run(options)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
