"""The parts that the commands share: their arguments, the errors for wrong ones, and the printing of a result."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol, TypeVar

from rich.console import Console

from hbcore.terms import (
    KEY_SIZE,
    LAWS,
    PACKET_LIMIT,
    SEED_SIZE,
    TOTAL_LIMIT,
    Terms,
    envelope_terms,
    integer,
)

MEAN_AMOUNT = 100

DUPLICATES_LIMIT = 0.9
KEY_FILE_LIMIT = 4096

EXIT_STATUS = """\
exit status:
  0    the audit and every check hold
  1    they do not, or a process died: nothing is proven
  2    a bad argument, a bad line or an unusable file
  130  interrupted
"""

JSON_KEYS = """\
keys of the JSON object (one object on standard output; amounts in minor units):
  command        "rain" or "replay"
  holds          whether the audit and every check hold
  run            rain: users, processes, batch, duplicates, file; replay: log, format, lines, out, engine
  envelope       name, total, packets, law, min, max, concentration, seed (hex, or null where it may still be needed);
                 an existing envelope that is used as it is: name, total, packets
  answers        requests, granted, repeated, sold_out, closed, remaining_packets
  speed          rain: single, batch; replay: whole, claiming. Each: requests, granted, seconds (wall clock),
                 requests_per_second, granted_per_second, processes (the same for each process)
  amounts        of the packets granted: count, total, mean, min, max, histogram [low, high, packets]
  luckiest       the best packet granted: amount, packet, user, arrival (from 1); null if there is none
  arrival        for each tenth of the grants by arrival: packets, mean, best_share (its part of the best 1 %; 0.1 if
                 position is no advantage); empty below 20,480 grants
  checks         for each check: holds, detail
  audit          envelopes, packets, granted, settled, refunded, amount_total, amount_granted, amount_settled;
                 null if it failed
"""


class Found(Protocol):
    """The result of a command."""

    @property
    def holds(self) -> bool:
        """Whether all is as it should be."""


AnyFound = TypeVar("AnyFound", bound=Found)


class UsageError(Exception):
    """An argument is wrong; the message names it and says what would be right."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the whole usage."""
        raise UsageError(message.removeprefix("argument "))


def say(
    arguments: argparse.Namespace,
    found: AnyFound,
    json_of: Callable[[AnyFound], dict[str, object]],
    text_of: Callable[[AnyFound], str],
) -> bool:
    """Print what was found in the form that was asked for, and return whether it holds."""
    sys.stdout.write(json.dumps(json_of(found)) + "\n" if arguments.json else text_of(found))
    sys.stdout.flush()
    return found.holds


# ---- the arguments ----------------------------------------------------------------------------------------------


def grouped_integer(text: str) -> int:
    """Read an integer argument; underscores and commas may group its digits."""
    try:
        return int(text.replace(",", "_"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, not {text[:40]!r}") from None


def seed(text: str) -> bytes:
    """Read a seed. The text is not repeated in the error: a seed is a secret."""
    digits = 2 * SEED_SIZE
    if len(text) != digits or not all(c in "0123456789abcdefABCDEF" for c in text):
        raise argparse.ArgumentTypeError(f"must be {digits} hexadecimal digits, not these {len(text)} characters")
    return bytes.fromhex(text)


def share(text: str) -> float:
    """Read the share of the requests that come again."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= DUPLICATES_LIMIT:  # false for NaN as well
        raise argparse.ArgumentTypeError(f"must be a number within 0 .. {DUPLICATES_LIMIT}, not {text[:40]!r}")
    return value


def add_command(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    summary: str,
    more: str,
    statuses: str = EXIT_STATUS,
    keys: str = JSON_KEYS,
) -> Parser:
    """Add a command with the options that all have. ``statuses`` and ``keys`` explain its exit status and its JSON."""
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n{more}",
        allow_abbrev=False,  # an abbreviation in a script breaks when an option is added
        epilog=f"{statuses}\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of the report, no display")
    return command


def add_terms(command: Parser, packets: int) -> None:
    """Add the options that describe an envelope; an option that is not given is None."""
    group = command.add_argument_group("the envelope (amounts in minor units)")
    group.add_argument("--packets", type=grouped_integer, metavar="N", help=f"packets (default: {packets:,})")
    group.add_argument(
        "--total",
        type=grouped_integer,
        metavar="AMOUNT",
        help=f"the sum of all packets (default: {MEAN_AMOUNT} times the packets; --min and --max may change that)",
    )
    group.add_argument("--law", choices=LAWS, help="how it is split (default: double_mean)")
    group.add_argument("--min", type=grouped_integer, metavar="AMOUNT", help="the least a packet holds (default: 1)")
    group.add_argument(
        "--max", type=grouped_integer, metavar="AMOUNT", help="the most a packet holds (default: no bound)"
    )
    group.add_argument(
        "--concentration", type=grouped_integer, metavar="C", help="how gentle dirichlet is (default: 3)"
    )
    group.add_argument("--seed", type=seed, metavar="HEX", help="64 hexadecimal digits (default: fresh ones)")


def add_key(command: Parser) -> None:
    """Add the option that gives the key of a file whose owner keeps it."""
    command.add_argument(
        "--key-file",
        metavar="PATH",
        help="the key of an engine that was made with one: 32 bytes, or 64 hexadecimal digits",
    )


# ---- the commands -----------------------------------------------------------------------------------------------


def within(name: str, value: int, low: int, high: int) -> int:
    """Return an argument, or raise UsageError if it is not within its bounds."""
    if not low <= value <= high:
        raise UsageError(f"{name} must be within {low:,} .. {high:,}, not {value:,}")
    return value


def default_total(packets: int, lowest: int, highest: int | None) -> int:
    """Return a total that fits the other options. If one of them is wrong, the error names it and not this total."""
    integer("packets", packets, 1, PACKET_LIMIT - 1)
    mean = max(MEAN_AMOUNT, 2 * integer("min", lowest, 1, TOTAL_LIMIT - 1))
    if highest is not None:
        mean = min(mean, integer("max", highest, 1, (1 << 64) - 1))
    return min(packets * mean, TOTAL_LIMIT - 1)


def terms_of(arguments: argparse.Namespace, default_packets: int) -> Terms:
    """Return the terms of the envelope; a seed is drawn here, so that it can be shown and used again."""
    packets = default_packets if arguments.packets is None else arguments.packets
    lowest = 1 if arguments.min is None else arguments.min
    try:
        return envelope_terms(
            default_total(packets, lowest, arguments.max) if arguments.total is None else arguments.total,
            packets,
            arguments.law or "double_mean",
            lowest,
            arguments.max,
            3 if arguments.concentration is None else arguments.concentration,
            os.urandom(SEED_SIZE) if arguments.seed is None else arguments.seed,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"--{error}") from None  # the message begins with the parameter, named as the option is


def display_console(arguments: argparse.Namespace) -> Console | None:
    """Return the console for the display: standard error if that is a terminal, else None."""
    return None if arguments.json or not sys.stderr.isatty() else Console(stderr=True, markup=False, emoji=False)


def key_of(arguments: argparse.Namespace) -> bytes | None:
    """Return the key in --key-file. It is a secret: no error repeats it, and no argument contains it."""
    if arguments.key_file is None:
        return None
    with open(arguments.key_file, "rb") as file:
        content = file.read(KEY_FILE_LIMIT)
    if len(content) == KEY_SIZE:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise UsageError(
            f"--key-file must hold {KEY_SIZE} bytes or {2 * KEY_SIZE} hexadecimal digits, and {arguments.key_file!r} "
            "does not"
        )
    return key


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn an engine's error about a path or a key into an error about the argument."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for parameter, option in (("path", "FILE"), ("key", "--key-file")):
            if message.startswith(f"{parameter} "):
                message = option + message.removeprefix(parameter)
        raise UsageError(message) from None
