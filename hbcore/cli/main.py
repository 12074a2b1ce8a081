"""The command line: ``hbcore rain``, ``replay``, ``inspect`` and ``audit``.

This room reads the arguments, checks them before anything is created, and turns every expected failure into one line
on standard error and an exit status. What the commands do is in ``rain`` and ``replay``, and what these print in
``report``; ``inspect`` and ``audit`` are the other two.
"""

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NoReturn, Protocol, TypeVar

from rich.console import Console

import hbcore
from hbcore.cli import inspection, proof, rain, replay
from hbcore.cli.arrivals import EXTENSIONS, FORMATS, BadLine
from hbcore.cli.inspect import View
from hbcore.cli.report import as_json, as_text
from hbcore.cli.snapshot import alike, build_tree, chosen
from hbcore.cli.terminal import escaped, new_console
from hbcore.errors import HbcoreError
from hbcore.terms import (
    KEY_SIZE,
    LAWS,
    PACKET_LIMIT,
    SEED_SIZE,
    TOTAL_LIMIT,
    Terms,
    envelope_terms,
    integer,
    object_name,
)

OK, UNPROVEN, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

MEAN_AMOUNT = 100
RAIN_PACKETS = 3_000_000
REPLAY_PACKETS = 10_000
USERS_PER_PACKET = 1.25
BATCH = 1000
DUPLICATES = 0.2

USER_LIMIT = 1 << 40
PROCESS_LIMIT = 256
BATCH_LIMIT = 1_000_000
DUPLICATES_LIMIT = 0.9
KEY_FILE_LIMIT = 4096
SUGGESTIONS = 3

EXIT_STATUS = """\
exit status:
  0    the audit and every check hold
  1    they do not, or a process died: nothing is proven
  2    a bad argument, a bad line or an unusable file
  130  interrupted
"""

INSPECT_STATUS = """\
exit status:
  0    what is in the file was shown; --watch was interrupted
  1    a budget or an envelope is damaged; the others were shown
  2    a bad argument or an unusable file
  130  interrupted
"""

AUDIT_STATUS = """\
exit status:
  0    the audit holds
  1    it does not: the report names the first thing that is wrong
  2    a bad argument or an unusable file
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
    """What a command has found out."""

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
        # Whoever read the report has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except rain.WorkerError as error:
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
    """Read the share of requests that come again."""
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
    """Add a command with what all have in common. ``statuses`` and ``keys`` explain its exit status and its JSON."""
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
    """Add the options that make an envelope; None where the user said nothing."""
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


def add_rain(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add ``hbcore rain``."""
    summary = "let processes race for the packets of one shared envelope, and prove that nothing was given twice"
    more = "A fifth of the requests goes one by one, the rest in batches; some users come again."
    command = add_command(commands, "rain", summary, more)
    add_terms(command, RAIN_PACKETS)
    command.add_argument(
        "--users", type=grouped_integer, metavar="N", help=f"users (default: {USERS_PER_PACKET} times the packets)"
    )
    command.add_argument(
        "--processes", type=grouped_integer, metavar="N", help="processes (default: one a core, at least 2)"
    )
    command.add_argument(
        "--batch", type=grouped_integer, default=BATCH, metavar="N", help=f"users a batch (default: {BATCH:,})"
    )
    command.add_argument(
        "--duplicates",
        type=share,
        default=DUPLICATES,
        metavar="SHARE",
        help=f"the share of requests that come again, 0 .. {DUPLICATES_LIMIT} (default: {DUPLICATES})",
    )
    command.add_argument("--file", metavar="PATH", help="rain into a new envelope of this file (default: in memory)")
    command.set_defaults(run=run_rain)


def add_replay(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add ``hbcore replay``."""
    summary = "let the users of an arrival log claim in order, and write down every answer"
    more = "The log is UTF-8, one user a line; in a CSV or JSON-lines log --column names the user."
    command = add_command(commands, "replay", summary, more)
    command.add_argument("log", metavar="FILE", help="the arrival log; - is standard input")
    command.add_argument("--format", choices=FORMATS, help="the log's format (default: by extension, else text)")
    command.add_argument(
        "--column", metavar="NAME", help="the column of a CSV, or the key of JSON lines, that is the user"
    )
    extensions = " or ".join(replay.OUT_EXTENSIONS)
    command.add_argument("--out", metavar="FILE", help=f"write every answer to this new file, {extensions}")
    add_terms(command, REPLAY_PACKETS)
    command.add_argument("--engine", metavar="PATH", help="the file of the engine (default: in memory)")
    command.add_argument(
        "--name",
        default="replay",
        help="the envelope's name (default: replay); one that --engine holds already is used as it is where no other "
        "option of the envelope is given",
    )
    command.set_defaults(run=run_replay)


def add_key(command: Parser) -> None:
    """Add the option that gives the key of a file whose owner keeps it."""
    command.add_argument(
        "--key-file",
        metavar="PATH",
        help="the key of an engine that was made with one: 32 bytes, or 64 hexadecimal digits",
    )


def add_inspect(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add ``hbcore inspect``."""
    summary = "show what is in the file of an engine: its workers, budgets and envelopes, and what became of the money"
    more = "The file is only read: workers that run on it notice nothing, and you need no right to write to it."
    command = add_command(commands, "inspect", summary, more, INSPECT_STATUS, inspection.JSON_KEYS)
    command.add_argument("file", metavar="FILE", help="the file of the engine")
    command.add_argument(
        "--name",
        metavar="PATH",
        help="show one budget with what is below it, or one envelope: its name after those of the budgets above it, as "
        "gala/taobao/20:00",
    )
    command.add_argument(
        "--all",
        action="store_true",
        help=f"show all budgets and envelopes, not some {inspection.ROWS} of them with the latest; JSON has all",
    )
    command.add_argument("--largest", action="store_true", help="show the largest first, not the latest")
    command.add_argument(
        "--workers", action="store_true", help="show each worker: the living, and the dead (killed, or just ended)"
    )
    command.add_argument(
        "--watch",
        action="store_true",
        help="look again each second, with the packets given a second, until interrupted (which is then no error)",
    )
    add_key(command)
    command.set_defaults(run=run_inspect)


def add_audit(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add ``hbcore audit``."""
    summary = "prove from the slots of a file that nothing was given twice and nothing is missing"
    more = (
        "Exact once no worker is alive; of a file at work, what is under way is left out. The file is opened\n"
        "for writing, and what dead workers have left is finished or given back; where that may not be, it is read."
    )
    command = add_command(commands, "audit", summary, more, AUDIT_STATUS, proof.JSON_KEYS)
    command.add_argument("file", metavar="FILE", help="the file of the engine")
    command.add_argument("--readonly", action="store_true", help="never write to the file")
    add_key(command)
    command.set_defaults(run=run_audit)


# ---- the commands -----------------------------------------------------------------------------------------------


def within(name: str, value: int, low: int, high: int) -> int:
    """Return an argument that is within bounds."""
    if not low <= value <= high:
        raise UsageError(f"{name} must be within {low:,} .. {high:,}, not {value:,}")
    return value


def default_total(packets: int, lowest: int, highest: int | None) -> int:
    """Return a sum that fits the other options; a wrong one of them is named here, not blamed on this sum."""
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
    """Return where the display goes: standard error, if somebody looks at it."""
    return None if arguments.json or not sys.stderr.isatty() else Console(stderr=True, markup=False, emoji=False)


def run_rain(arguments: argparse.Namespace) -> bool:
    """Check the arguments of the rain, then let it rain."""
    users = arguments.users
    if users is not None:
        within("--users", users, 1, USER_LIMIT)
    default_packets = RAIN_PACKETS if users is None else max(1, round(users / USERS_PER_PACKET))
    terms = terms_of(arguments, default_packets)
    cores = len(os.sched_getaffinity(0))
    plan = rain.Plan(
        users=max(1, round(terms.packets * USERS_PER_PACKET)) if users is None else users,
        terms=terms,
        processes=max(2, cores)
        if arguments.processes is None
        else within("--processes", arguments.processes, 1, PROCESS_LIMIT),
        batch=within("--batch", arguments.batch, 1, BATCH_LIMIT),
        duplicates=arguments.duplicates,
        file=arguments.file,
    )
    needed, memory = rain.memory_needed(plan), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UsageError(
            f"--users and --packets must be smaller: {plan.users:,} users and {terms.packets:,} packets need about "
            f"{needed / 1e9:,.0f} GB of memory, and this machine has {memory / 1e9:,.0f}"
        )
    return say(arguments, rain.rain(plan, display_console(arguments)), as_json, as_text)


def run_replay(arguments: argparse.Namespace) -> bool:
    """Check the arguments of the replay, then replay."""
    form = arguments.format or EXTENSIONS.get(os.path.splitext(arguments.log)[1].lower(), "text")
    if form == "text" and arguments.column is not None:
        raise UsageError("--column is for a CSV or JSON-lines log: give --format csv or jsonl too, or leave it out")
    if form != "text" and arguments.column is None:
        raise UsageError(f"--column must name the user in a {form} log (or give --format text)")
    if arguments.out is not None:
        if not arguments.out.endswith(replay.OUT_EXTENSIONS):
            raise UsageError(f"--out must end in {' or '.join(replay.OUT_EXTENSIONS)}, not {arguments.out!r}")
        if os.path.lexists(arguments.out):
            raise UsageError(f"--out must be a new file: {arguments.out!r} exists")
    try:
        object_name(arguments.name)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    options = ("packets", "total", "law", "min", "max", "concentration", "seed")
    plan = replay.Plan(
        log=arguments.log,
        form=form,
        column=arguments.column,
        out=arguments.out,
        engine=arguments.engine,
        name=arguments.name,
        terms=terms_of(arguments, REPLAY_PACKETS),
        adopt=all(getattr(arguments, option) is None for option in options),
    )
    return say(arguments, replay.replay(plan, display_console(arguments)), as_json, as_text)


def key_of(arguments: argparse.Namespace) -> bytes | None:
    """Return the key of --key-file. It is a secret: no error repeats it, and no argument holds it."""
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
    """Turn what an engine says of a path or a key into what is wrong with an argument."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for parameter, option in (("path", "FILE"), ("key", "--key-file")):
            if message.startswith(f"{parameter} "):
                message = option + message.removeprefix(parameter)
        raise UsageError(message) from None


def run_inspect(arguments: argparse.Namespace) -> bool:
    """Look into the file, once or again and again."""
    if arguments.name == "":
        raise UsageError("--name must be the path of a budget or an envelope, as gala/taobao/20:00, and is empty")
    view = View(all=arguments.all, largest=arguments.largest, workers=arguments.workers)
    with engine_errors():
        engine = hbcore.Engine(arguments.file, readonly=True, key=key_of(arguments))
    say_it = partial(say, arguments, json_of=inspection.as_json, text_of=inspection.as_text)
    with engine:
        if arguments.name is not None:
            check_name(engine, arguments.name)
        if not arguments.watch:
            return say_it(inspection.look(engine, arguments.name, view))
        looks = inspection.watch(engine, arguments.name, view)
        if arguments.json or not sys.stdout.isatty():
            return inspection.watch_in_lines(looks, say_it).holds
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the terminal must be put back as it was
        return say_it(inspection.watch_on_terminal(looks, new_console()))


def check_name(engine: hbcore.Engine, name: str) -> None:
    """Raise UsageError if nothing in the engine has that path."""
    inspection.checked_info(engine)
    roots = build_tree(engine)
    if not chosen(roots, name):
        paths = alike(roots, name)
        hint = f"; there is {' and '.join(map(repr, paths[:SUGGESTIONS]))}" if paths else ""
        raise UsageError(f"--name: there is no budget or envelope {name!r} in {engine.path!r}{hint}")


def run_audit(arguments: argparse.Namespace) -> bool:
    """Prove the file."""
    key = key_of(arguments)
    with engine_errors():
        found = proof.audit(arguments.file, key, arguments.readonly, display_console(arguments))
    return say(arguments, found, proof.as_json, proof.as_text)
