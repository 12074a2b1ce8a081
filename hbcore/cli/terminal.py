"""Text for people, made to fit: names that cannot do harm, bars of parts of a sum, and tables as wide as the terminal.

A number is never cut: where a table has too little room, its bars and names are made shorter first, and then whole
columns are left out.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2
NARROW_GAP = 1
LINE_LIMIT = 10_000
"""Width in cells that rich is given for a line without an end."""


@dataclass(frozen=True)
class Page:
    """The page that text is made to fit: ``width`` cells a line (None: lines have no end), with or without Unicode."""

    width: int | None
    unicode: bool

    @staticmethod
    def of(console: Console) -> "Page":
        """Return the page of a console. It has a width if the console is a terminal or COLUMNS gives one."""
        width = console.width if console.is_terminal or "COLUMNS" in os.environ else None
        return Page(width, console.encoding.lower().startswith("utf"))


class Part(NamedTuple):
    """A part of a sum, with two characters for its cells in a bar: one that needs Unicode, and one that does not."""

    title: str
    amount: int
    unicode_cell: str
    ascii_cell: str
    style: str

    def cell(self, page: Page) -> str:
        """Return the character of the part's cells on a page."""
        return self.unicode_cell if page.unicode else self.ascii_cell


@dataclass(frozen=True)
class Column:
    """A column of a table: its cells, or the function that makes them once it is known how wide they may be.

    ``width`` is the width that the column would like, ``least`` the one that it needs, in cells. Where even the least
    is too much, the columns of the lowest ``worth`` are left out first, all of them.
    """

    title: str
    cells: Sequence[str] | Callable[[int], Sequence[Text]]
    width: int
    least: int
    is_number: bool = False
    worth: int = 9


def column(
    title: str, cells: Sequence[str], *, is_number: bool = False, least: int | None = None, worth: int = 9
) -> Column:
    """Return a column of text, as wide as its widest cell; ``least`` is the width to which it may be cut, if at all."""
    width = max(map(cell_len, [title, *cells]))
    return Column(title, cells, width, width if least is None else min(least, width), is_number, worth)


def cut(text: str, width: int, unicode: bool) -> str:
    """Return text cut to at most ``width`` cells; a mark at its end shows where something is missing."""
    if cell_len(text) <= width:
        return text
    mark = "…" if unicode else "..."
    return set_cell_size(text, max(0, width - len(mark))).rstrip(" ") + mark[:width]


def widths_of(columns: list[Column], limit: int | None) -> tuple[int, list[int]]:
    """Leave columns out until the others fit; return the gap between them and their widths."""
    if limit is None:
        return GAP, [column.width for column in columns]

    def needed(gap: int) -> int:
        return sum(column.least + gap for column in columns) - gap

    gap = GAP if needed(GAP) <= limit else NARROW_GAP
    while len(columns) > 1 and needed(gap) > limit:
        least = min(column.worth for column in columns)
        others = [column for column in columns if column.worth > least]
        columns[:] = others or columns[1:]  # columns that belong together are left out together
    spare = max(0, limit - needed(gap))
    widths = []
    for each in columns:  # from the left: names are whole before bars are long
        more = min(each.width - each.least, spare)
        widths.append(each.least + more)
        spare -= more
    return gap, widths


def fitted(columns: Sequence[Column], page: Page, sums: int = 0) -> Table:
    """Return a table that fits the page. ``sums`` is the number of rows at the end that stand out."""
    chosen = list(columns)
    gap, widths = widths_of(chosen, page.width)
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    rows: list[Sequence[str | Text]] = []
    for each, width in zip(chosen, widths, strict=True):
        table.add_column(each.title, justify="right" if each.is_number else "left", width=width, no_wrap=True)
        cells = each.cells
        rows.append(cells(width) if callable(cells) else [cut(cell, width, page.unicode) for cell in cells])
    lines = list(zip(*rows, strict=True))
    for i, line in enumerate(lines):
        table.add_row(*line, style="bold" if i >= len(lines) - sums else None)
    return table


def cells_of(amounts: Sequence[int], width: int) -> list[int]:
    """Share ``width`` cells among amounts in proportion; each that is not 0 gets at least one as long as they last."""
    total = sum(amounts)
    if total == 0:
        return [0] * len(amounts)
    cells = [max(amount * width // total, 1 if amount else 0) for amount in amounts]
    while sum(cells) != width:
        # The amount that is furthest from its exact share gives or takes a cell. The last cell of an amount is not
        # taken while others have two.
        step = 1 if sum(cells) < width else -1
        cells[
            max(
                range(len(cells)),
                key=lambda i: (step > 0 or cells[i] > 1, step * (amounts[i] * width - cells[i] * total)),
            )
        ] += step
    return cells


def bar(parts: Sequence[Part], width: int, page: Page) -> Text:
    """Return the parts of a sum as a bar of ``width`` cells; each part has a character of its own, and a colour."""
    text = Text()
    for part, cells in zip(parts, cells_of([part.amount for part in parts], width), strict=True):
        text.append(part.cell(page) * cells, style=part.style)
    return text


def percentage(amount: int, total: int) -> str:
    """Return a part in percent, rounded so that only the whole is 100 % and only nothing is 0 %."""
    if total == 0:
        return ""
    whole = amount * 100 // total
    return "<1%" if amount and whole == 0 else f"{whole}%"


def plain(name: str, unicode: bool) -> str:
    """Return a name in a form that may be printed: as it is, or quoted and escaped where a terminal would obey it."""
    if not unicode and not name.isascii():
        return ascii(name)
    if name.isprintable() and "\\" not in name and name == name.strip() and name[:1] not in ("'", '"'):
        return name
    return repr(name)


def escaped(text: str) -> str:
    """Return a line with every character that is not printable escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: int) -> str:
    """Return a number of bytes in words."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count:,} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def moment(seconds: float) -> datetime | None:
    """Return a point in time in the local zone; None for a number that is no time, as a damaged file may have."""
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return None


def when(seconds: float) -> str:
    """Return a point in time in full, with its zone."""
    at = moment(seconds)
    return f"{seconds:g} s since 1970" if at is None else at.strftime("%Y-%m-%d %H:%M:%S %z")


def when_shortly(seconds: float, now: float) -> str:
    """Return a point in time as short as it is understood ``now``: for today only the time of day."""
    at, today = moment(seconds), moment(now)
    if at is None or today is None:
        return f"{seconds:g}"
    if at.date() == today.date():
        return at.strftime("%H:%M:%S" if at.second else "%H:%M")
    return at.strftime("%m-%d %H:%M" if at.year == today.year else "%Y-%m-%d")


def new_console() -> Console:
    """Return a console for standard output that takes text as it is, no markup."""
    return Console(markup=False, emoji=False, highlight=False)


def text_of(render: Callable[[Page], RenderableType]) -> str:
    """Return what ``render`` makes for a page as text for standard output, in colour if that is a terminal."""
    console = new_console()
    page = Page.of(console)
    if page.width is None:
        console.width = LINE_LIMIT
    with console.capture() as captured:
        console.print(render(page), soft_wrap=True)
    return "".join(f"{line.rstrip(' ')}\n" for line in captured.get().split("\n")[:-1])
