"""The tree of budgets as people see it: each with its sub-budgets and envelopes below it, and a bar of its money.

Where there is no room for all, every budget shows some of the entries below it, the latest or the largest, and one row
for the sum of the rest; if no row is left for those below a budget, it says how many they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from hbcore.cli.snapshot import AnyEntry, BudgetEntry, Entry, Money, flat, money_of, rate_of
from hbcore.cli.terminal import Column, Page, bar, column, cut, fitted, percentage, plain, when_shortly

NAME_WIDTH, NAME_LEAST = 40, 12
BAR_WIDTH, BAR_LEAST = 30, 8
BRANCH, LAST, DOWN, NOTHING = 0, 1, 2, 3
LINES = {True: ("├ ", "└ ", "│ ", "  "), False: ("|- ", "`- ", "|  ", "   ")}


@dataclass(eq=False)
class Row:
    """A row to be shown: an entry, or the sum of those that are folded. ``lines`` are drawn before its name."""

    entry: AnyEntry | None
    folded: Sequence[AnyEntry] = ()
    rows: "list[Row]" = field(default_factory=list)
    hidden: int = 0
    """The number of entries below it for which there is no row at all."""
    lines: tuple[int, ...] = ()


def ordered(entries: Sequence[AnyEntry], largest: bool) -> list[AnyEntry]:
    """Return siblings in the order of their rows: the largest first, or budgets before envelopes, the latest first."""
    latest = list(reversed(entries))
    return sorted(latest, key=lambda entry: -entry.total if largest else isinstance(entry, Entry))


def folded(roots: Sequence[AnyEntry], limit: int | None, largest: bool) -> list[Row]:
    """Return the rows for roots and what is below them, at most ``limit`` in all (None: one for each).

    Rows are given out level by level, and on each level the same number to each parent; rows that one does not need are
    there for the next.
    """
    left = sum(1 for _ in flat(roots)) if limit is None else max(limit, 1)
    top = Row(None)
    parents: list[tuple[Row, Sequence[AnyEntry]]] = [(top, roots)]
    while parents:
        below: list[tuple[Row, Sequence[AnyEntry]]] = []
        for i, (parent, entries) in enumerate(parents):
            share = -(-left // (len(parents) - i))
            count = len(entries) if len(entries) <= share else max(share - 1, 0)
            siblings = ordered(entries, largest)
            parent.rows = [Row(entry) for entry in siblings[:count]]
            if count < len(entries):
                if share:
                    parent.rows.append(Row(None, siblings[count:]))
                else:
                    parent.hidden = len(entries)
            left -= len(parent.rows)
            below += [(row, row.entry.children) for row in parent.rows if isinstance(row.entry, BudgetEntry)]
        parents = [(row, entries) for row, entries in below if entries]
    return top.rows


def in_order(rows: Sequence[Row], above: tuple[int, ...] | None = None) -> list[Row]:
    """Return rows from top to bottom, and set the lines that are drawn before their names."""
    found = []
    for i, row in enumerate(rows):
        is_last = i == len(rows) - 1
        if above is not None:
            row.lines = (*above, LAST if is_last else BRANCH)
        found.append(row)
        found += in_order(row.rows, () if above is None else (*above, NOTHING if is_last else DOWN))
    return found


# ---- words ------------------------------------------------------------------------------------------------------


def state_text(entry: AnyEntry, now: float) -> str:
    """Return the state of an envelope or a budget as text, and the time of its end if it has one."""
    expires_at = entry.terms.expires_at_ms / 1000 if isinstance(entry, Entry) and entry.terms else 0
    if expires_at and entry.state in ("open", "expired"):
        return f"{'till' if entry.state == 'open' else 'expired'} {when_shortly(expires_at, now)}"
    return entry.state.replace("_", " ")


def rate_text(rate: float | None) -> str:
    """Return a number of packets given a second as text."""
    return "" if rate is None else f"{rate:,.0f}"


def name_text(row: Row, page: Page, is_root: bool) -> tuple[str, str]:
    """Return the lines before a name, and the name. A root is named in full: it may be far below the engine."""
    lines = "".join(LINES[page.unicode][line] for line in row.lines)
    if row.entry is None:
        return lines, f"{len(row.folded):,} more"
    name = "/".join(plain(part, page.unicode) for part in (row.entry.path if is_root else row.entry.path[-1:]))
    return lines, name + (f" ({row.hidden:,} below)" if row.hidden else "")


def names_column(rows: Sequence[Row], title: str, page: Page, sums: Sequence[str]) -> Column:
    """Return the column of the tree itself. Where it is cut, the names are cut, not the lines before them."""
    pairs = [name_text(row, page, not row.lines) for row in rows] + [("", text) for text in sums]
    if page.width is not None:
        pairs = [(lines, cut(name, NAME_WIDTH, page.unicode)) for lines, name in pairs]

    def cells(width: int) -> list[Text]:
        texts = []
        for lines, name in pairs:
            text = Text(cut(lines, width, page.unicode), style="bright_black" if lines else "")
            text.append(cut(name, max(0, width - cell_len(lines)), page.unicode), style="not dim default")
            texts.append(text)
        return texts

    width = max(cell_len(title), *(cell_len(lines + name) for lines, name in pairs))
    deepest = max((cell_len(lines) for lines, _ in pairs), default=0)
    return Column(title, cells, width, min(width, max(NAME_LEAST, deepest + 6)))


# ---- the table --------------------------------------------------------------------------------------------------


def tree_table(roots: Sequence[AnyEntry], page: Page, limit: int | None, largest: bool, now: float) -> Table:
    """Return the tree, at most ``limit`` rows of it (None: all), and one for the sum if there are more roots than one.

    ``now`` is the time of day of the look, for envelopes that have an end.
    """
    rows = in_order(folded(roots, limit, largest))
    sums = [f"all {len(roots):,}"] if len(roots) > 1 else []
    money: list[tuple[int, int, int, int] | None] = []
    packets, rates, states = [], [], []
    for row in rows:
        entries = row.folded if row.entry is None else (row.entry,)
        counts = [entry.packets for entry in entries if isinstance(entry, Entry) and entry.terms]
        money.append(money_of(row.folded) if row.entry is None else row.entry.amounts)
        packets.append(f"{sum(counts):,}" if counts else "")
        rates.append(rate_text(rate_of(entries)))
        states.append("" if row.entry is None else state_text(row.entry, now))
    if sums:
        money.append(money_of(roots))
        packets.append("")
        rates.append(rate_text(rate_of(roots)))
        states.append("")
    totals = ["?" if parts is None else f"{sum(parts):,}" for parts in money]

    def bars(width: int) -> list[Text]:
        return [Text("?" * width) if parts is None else bar(Money(*parts).drawn(), width, page) for parts in money]

    def amounts(i: int) -> Column:
        title = Money._fields[i]
        return column(title, ["?" if row is None else f"{row[i]:,}" for row in money], is_number=True, worth=0)

    def share(i: int) -> Column:
        cells = ["?" if row is None else percentage(row[i], sum(row)) for row in money]
        return column(Money(0, 0, 0, 0).drawn()[i].cell(page), cells, is_number=True, worth=2)

    columns = [
        names_column(rows, "budget", page, sums),
        column("packets", packets, is_number=True, worth=1),
        column("total", totals, is_number=True),
        *map(amounts, range(3)),
        Column("", bars, BAR_WIDTH, BAR_LEAST, worth=4),
        *map(share, range(3)),
        column("state", states, worth=6),
    ]
    if rate_of(roots) is not None:
        columns.insert(-1, column("given/s", rates, is_number=True, worth=7))
    return fitted(columns, page, sums=len(sums))
