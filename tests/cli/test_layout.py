"""What people are shown fits: whatever the names, the numbers and the width, on a terminal and elsewhere."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import CHINESE, WORKER, Worker, make_gala, on_terminal, run, without_colours
from hypothesis import given
from hypothesis import strategies as st
from marks import full_but
from rich.cells import cell_len
from rich.console import Console

import hbcore
from hbcore.cli.terminal import Column, Page, cells_of, column, fitted, percentage, size, when

# ---- terminals --------------------------------------------------------------------------------------------------


def make_wide(path: Path) -> None:
    make_gala(path)
    with hbcore.Engine(path) as engine:
        engine.envelope(CHINESE * 3, total=3_000_000, packets=1000)
        engine.envelope("e" * 255, total=12_345_678_901, packets=1_234_567, expires_at=time.time() + 86_400)


@pytest.mark.parametrize("columns", full_but([60, 80, 100, 132, 200], 60, 132))
def test_a_terminal_is_not_overrun(columns: int, path: Path) -> None:
    make_wide(path)
    text = without_colours(on_terminal("inspect", path, "--workers", columns=columns))
    table = text[text.index("\nenvelope ") :].splitlines()[1:]
    assert len(table) == 10
    assert max(map(cell_len, table)) <= columns
    assert "\x1b" not in text
    assert any("…" in line for line in table)
    for number in ("4,611,686,018,427,387,903", "12,345,678,901", "1,234,567"):
        # Whatever is left out, a number is there as a whole or not at all.
        assert number in text or (columns < 80 and number[:5] not in text.replace("1,234,591", ""))
    if columns >= 132:
        assert "double_mean" in text


@pytest.mark.full
def test_colours_are_seen_on_a_terminal_only(path: Path) -> None:
    make_gala(path)
    assert "\x1b[32m█" in on_terminal("inspect", path)
    assert "\x1b[1;32mThe audit holds" in on_terminal("audit", path)
    assert "auditing" in on_terminal("audit", path)
    for command in ("inspect", "audit"):
        result = run(command, path)
        assert "\x1b" not in result.stdout
        assert result.stderr == ""


def test_without_unicode_it_is_legible_still(path: Path) -> None:
    make_gala(path)
    result = run("inspect", path, PYTHONUTF8="0", PYTHONIOENCODING="ascii", COLUMNS="90")
    assert result.returncode == 0
    assert result.stdout.isascii()
    assert re.search(r"^20:00 .* #{2,}={2,}\.{4,} +20% +30% +50% +open", result.stdout, re.MULTILINE)
    assert "# settled  = granted  . left  - refunded" in result.stdout


@pytest.mark.full
def test_watch_redraws_a_terminal_and_puts_it_back(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        for i in range(30):
            engine.envelope(f"e{i}", total=1000, packets=10)
    claimed: list[object] = []

    def act(process: subprocess.Popen[bytes], seen: bytes) -> bool:
        if b"all 30" in seen and not claimed:
            worker.tell("e29", 0, 10)
            claimed.extend(worker.answers(10))
        if b"sold out" in seen:
            process.send_signal(signal.SIGINT)
            return True
        return False

    with Worker(WORKER, path) as worker:
        text = on_terminal("inspect", path, "--watch", rows=24, act=act)
    enter, leave = "\x1b[?1049h", "\x1b[?1049l"
    assert text.count(enter) == text.count(leave) == 1
    assert "\x1b[?25h" in text  # the cursor is back
    live, last = text[text.index(enter) : text.index(leave)], without_colours(text[text.index(leave) :])
    assert "given/s" in live
    assert re.search(r"^e29 .*sold out$", last, re.MULTILINE)
    frames = without_colours(live).split("hbcore inspect: ")[1:]
    assert len(frames) >= 2
    for frame in frames:
        assert frame.count("\n") < 24
        assert "all 30" in frame  # the sum is never what does not fit


# ---- tables and bars --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1 << 62), min_size=1, max_size=5), st.integers(1, 60))
def test_cells_of_a_bar_are_in_proportion(amounts: list[int], width: int) -> None:
    cells, total = cells_of(amounts, width), sum(amounts)
    if total == 0:
        assert cells == [0] * len(amounts)
        return
    assert sum(cells) == width
    there = sum(amount > 0 for amount in amounts)
    for amount, count in zip(amounts, cells, strict=True):
        assert count >= 0
        assert amount > 0 or count == 0
        if there <= width:
            assert count > 0 or amount == 0  # what is there shows
            assert abs(count - amount * width / total) <= len(amounts)


@given(st.integers(0, 1 << 62), st.integers(1, 1 << 62))
def test_only_all_is_a_hundred_percent(amount: int, more: int) -> None:
    assert percentage(amount, amount) == ("100%" if amount else "")
    text = percentage(amount, amount + more)
    assert text != "100%"
    assert (text == "0%") == (amount == 0)


@given(
    st.lists(st.text("aé·红🧧", max_size=30), min_size=1, max_size=4),
    st.lists(st.integers(0, 1 << 62), min_size=4, max_size=4),
    st.integers(1, 120),
    st.booleans(),
)
def test_a_table_fits_and_cuts_no_number(names: list[str], numbers: list[int], width: int, unicode: bool) -> None:
    texts = [f"{number:,}" for number in numbers][: len(names)]
    columns: list[Column] = [
        column("name", names, least=6),
        column("law", ["equal"] * len(names), worth=1),
        column("number", texts, is_number=True, worth=10),
    ]
    console = Console(width=max(width, 40))
    with console.capture() as captured:
        console.print(fitted(columns, Page(width, unicode)))
    lines = captured.get().splitlines()
    assert len(lines) == len(names) + 1
    needed = max(map(len, [*texts, "number"]))
    assert max(map(cell_len, lines)) <= max(width, needed)
    for line, text in zip(lines[1:], texts, strict=True):
        assert line.rstrip().endswith(text)


def test_times_and_sizes_are_said_so_that_people_read_them() -> None:
    assert size(0) == "0 bytes"
    assert size(999) == "999 bytes"
    assert size(1000) == "1.0 kB"
    assert size(2**38) == "274.9 GB"
    assert "since 1970" in when(2.0**62)  # a damaged file may say anything
