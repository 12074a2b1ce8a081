"""Arrival logs: the users who came, in order, read from a text, CSV or JSON-lines file.

A log decides who gets money, so nothing in it is guessed or skipped: the first line that does not name exactly one
user ends the reading with a ``BadLine`` that says where, what is wrong and what would be right.
"""

import csv
import json
from collections.abc import Iterator
from typing import BinaryIO

from hbcore.terms import USER_LIMIT

LINE_LIMIT = 1 << 20
"""The longest line in bytes: a file that is no log at all must not be read into memory as one line."""
QUOTE_WIDTH = 40
BYTE_ORDER_MARK = "\ufeff"

FORMATS = ("text", "csv", "jsonl")
EXTENSIONS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

Arrival = tuple[int, str | int]
"""The number of a line, from 1, and the user it names."""


class BadLine(Exception):
    """A line of a log does not name exactly one user; the text is FILE:LINE: what is wrong."""

    def __init__(self, name: str, number: int, problem: str) -> None:
        super().__init__(f"{name}:{number}: {problem}")


class Lines:
    """The lines of a log, decoded and with their endings, and how far the reader has come."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.stream = stream
        self.name = name
        self.number = 0
        self.bytes_read = 0

    def bad(self, problem: str, number: int | None = None) -> BadLine:
        """Return the error for the current line, or for another."""
        return BadLine(self.name, self.number if number is None else number, problem)

    def __iter__(self) -> Iterator[str]:
        while raw := self.stream.readline(LINE_LIMIT + 1):
            self.number += 1
            self.bytes_read += len(raw)
            if len(raw) > LINE_LIMIT:
                raise self.bad(f"longer than {LINE_LIMIT:,} bytes: a log has one arrival a line")
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                byte, place = raw[error.start], error.start + 1
                raise self.bad(
                    f"byte {place} is 0x{byte:02x}, which is not UTF-8 there: save the log as UTF-8"
                ) from None
            # A byte order mark at the very start tells the encoding; left in, it would make the first user another one.
            yield line.removeprefix(BYTE_ORDER_MARK) if self.number == 1 else line


def quoted(value: object) -> str:
    """Return a value for an error message, with what is not printable escaped, and cut short."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= QUOTE_WIDTH else text[: QUOTE_WIDTH - 1] + "…"


def checked_user(lines: Lines, user: object, number: int) -> str | int:
    """Return the user of a line if hbcore takes it as one; the rules are those of ``Envelope.claim``."""
    if isinstance(user, bool) or not isinstance(user, (str, int)):
        raise lines.bad(f"the user is {quoted(user)}: it must be a string or an integer", number)
    if isinstance(user, int):
        if not -(1 << 63) <= user < 1 << 64:
            raise lines.bad(f"the user is {quoted(user)}: an integer must be within -2**63 .. 2**64 - 1", number)
        return user
    if not user:
        raise lines.bad("the user is empty: every line must name one", number)
    try:
        size = len(user.encode())
    except UnicodeEncodeError:
        raise lines.bad(f"the user {quoted(user)} has a lone surrogate: it must be valid Unicode", number) from None
    if size > USER_LIMIT:
        raise lines.bad(f"the user is {size:,} bytes long: it must be at most {USER_LIMIT:,}", number)
    return user


def text_arrivals(lines: Lines) -> Iterator[Arrival]:
    """Read one user from each line. Only the line ending is taken off: spaces belong to the user."""
    for line in lines:
        user = line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")
        yield lines.number, checked_user(lines, user, lines.number)


def csv_arrivals(lines: Lines, column: str) -> Iterator[Arrival]:
    """Read the users of one column of a CSV with a header. A record may span lines; its number is that of the first."""
    reader = csv.reader(lines, strict=True)
    first, header, index = 1, None, 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise lines.bad(f"this is not CSV: {error}", first) from None
        if header is None:
            header, index = fields, column_index(lines, fields, column)
        elif len(fields) != len(header):
            raise lines.bad(
                f"{len(fields)} fields where the header has {len(header)}: quote a field with a comma", first
            )
        else:
            yield first, checked_user(lines, fields[index], first)
        first = lines.number + 1
    if header is None:
        raise lines.bad(f"the log is empty: a CSV begins with a header that has the column {quoted(column)}", 1)


def column_index(lines: Lines, header: list[str], column: str) -> int:
    """Return the index of the field of a CSV that is the user."""
    if header.count(column) == 1:
        return header.index(column)
    if column in header:
        raise lines.bad(
            f"the column {quoted(column)} is in the header {header.count(column)} times: it must be once", 1
        )
    names = ", ".join(map(quoted, header))
    raise lines.bad(f"there is no column {quoted(column)}: --column must be one of {names}", 1)


def json_arrivals(lines: Lines, column: str) -> Iterator[Arrival]:
    """Read the users from one key of JSON lines; an integer there is an integer user."""
    for line in lines:
        try:
            row = json.loads(line, object_pairs_hook=unambiguous)
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at column {error.colno}"
            raise lines.bad(f"this is not JSON ({problem}): every line must be one object") from None
        except (ValueError, RecursionError) as error:
            raise lines.bad(f"this is not to be read ({error}): every line must be one simple object") from None
        if not isinstance(row, dict):
            raise lines.bad(f"the line is {quoted(row)}: it must be an object with the key {quoted(column)}")
        if column not in row:
            names = ", ".join(map(quoted, row)) or "nothing"
            raise lines.bad(f"there is no key {quoted(column)}: the object has {names}")
        yield lines.number, checked_user(lines, row[column], lines.number)


def unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the pairs of a JSON object as a dict; refuse a key that occurs twice, which could name two users."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key occurs twice")
    return row


def arrivals(lines: Lines, form: str, column: str | None) -> Iterator[Arrival]:
    """Read a log of one of ``FORMATS``; ``column`` is needed for all but text."""
    if form == "text":
        return text_arrivals(lines)
    assert column is not None
    return csv_arrivals(lines, column) if form == "csv" else json_arrivals(lines, column)
