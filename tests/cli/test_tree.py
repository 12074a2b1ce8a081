"""The tree of budgets as ``hbcore inspect`` and ``hbcore audit`` show it: whole, folded, damaged, and in every width.

What is shown of a budget is compared with what the budget says of itself, ``Budget.stats()``.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import (
    CHINESE,
    HOSTILE,
    MONEY,
    SEED,
    in_process,
    on_terminal,
    run,
    run_json,
    without_colours,
)
from engine_files import turn_bit
from hypothesis import given
from hypothesis import strategies as st
from marks import full_but
from rich.cells import cell_len

import hbcore
from hbcore.cli.audit import check_agreement
from hbcore.cli.inspect import View, look
from hbcore.cli.snapshot import AnyEntry, BudgetEntry, Money, alike, build_tree, chosen, flat
from hbcore.cli.tree import Row, folded, in_order
from hbcore.types import AuditReport

pytestmark = pytest.mark.full


def make_campaign(path: Path) -> None:
    """Make a tree of three levels in which money is in every state, beside an envelope of no budget."""
    with hbcore.Engine(path) as engine:
        gala = engine.budget("gala", 10_000)
        taobao, alipay = gala.budget("taobao", 4_000), gala.budget("alipay", 2_000)
        for hour in (20, 21):
            envelope = taobao.envelope(f"{hour}:00", 1_000, 10, law="equal", seed=SEED, per_user=2, hold_seconds=60.5)
            envelope.claim_many(range(hour - 16))
            envelope.settle(0)
        closed = alipay.envelope("20:00", 500, 5, law="equal")
        closed.claim(1)
        closed.settle(1)
        closed.close()
        alipay.reserve("k", 300)
        alipay.reserve("released", 700)
        alipay.release("released")
        alipay.close()
        gala.reserve("poster", 500)
        gala.settle("poster", 450)
        gala.top_up("more", 1_000)
        engine.budget("party", 777).reserve("band", 700)
        engine.envelope("alone", 50, 5, law="equal").claim(1)


def money(settled: int, held: int, available: int, refunded: int) -> dict[str, int]:
    return dict(zip(MONEY, (settled, held, available, refunded), strict=True))


def rows_of(text: str) -> dict[str, str]:
    """Return the rows of the table of budgets by the name in them, without what is drawn before it."""
    table = re.split(r"\n(?=budget  )", text)[1].split("\n\n")[0].split("\nof ")[0].splitlines()[1:]
    found = {}
    for line in table:
        drawn = re.match(r"[├└│ |`-]*", line)
        assert drawn is not None
        found[line[drawn.end() :].split("  ")[0]] = line
    return found


# ---- what is there ----------------------------------------------------------------------------------------------


def test_the_json_of_budgets_is_what_they_say_of_themselves(path: Path) -> None:
    make_campaign(path)
    report = run_json("inspect", path)

    def budget(
        name: str, above: list[str] | None, state: str, holds: int, amounts: dict[str, int]
    ) -> dict[str, object]:
        total = sum(amounts.values())
        rest = {"state": state, "holds": holds, "amounts": amounts, "grants_per_second": None}
        return {"name": name, "budget": above, "total": total, **rest}

    assert report["budgets"] == [
        budget("gala", None, "open", 1, money(750, 4_100, 6_150, 0)),
        budget("taobao", ["gala"], "open", 0, money(200, 1_800, 2_000, 0)),
        budget("alipay", ["gala"], "closed", 2, money(100, 300, 0, 1_600)),
        budget("party", None, "open", 1, money(0, 700, 77, 0)),
    ]
    assert [(envelope["budget"], envelope["name"]) for envelope in report["envelopes"]] == [
        (["gala", "taobao"], "20:00"),
        (["gala", "taobao"], "21:00"),
        (["gala", "alipay"], "20:00"),
        (None, "alone"),
    ]
    assert [report["envelopes"][0][key] for key in ("per_user", "hold_seconds")] == [2, 60.5]
    sums = report["sums"]
    assert (sums["budgets"], sums["budgeted"]) == (4, 11_777)
    assert sums["money"] == {"settled": 750, "held": 4_800, "available": 6_227}
    with hbcore.Engine(path) as engine:
        for shown, is_so in zip(report["budgets"], engine.budgets(), strict=True):
            stats, amounts = is_so.stats(), shown["amounts"]
            assert (amounts["settled"], amounts["held"], amounts["available"]) == (
                stats.settled,
                stats.held,
                stats.available,
            )
            assert (shown["total"], shown["total"] - amounts["refunded"]) == (is_so.total, stats.total)


def test_the_tree_in_words(path: Path) -> None:
    make_campaign(path)
    result = run("inspect", path)
    assert (result.returncode, result.stderr) == (0, "")
    table = re.split(r"\n(?=budget  )", result.stdout)[1].split("\n\n")[0].splitlines()
    names = [line.split("  ")[0] if line[0] not in " │" else line[:9].rstrip() for line in table]
    assert names == [
        "budget",
        "party",
        "gala",
        "├ alipay",
        "│ └ 20:00",
        "└ taobao",
        "  ├ 21:00",
        "  └ 20:00",
        "all 2",
    ]
    numbers = r" +11,000 +750 +4,100 +6,150  ██▓{11}░{17} +6% +37% +55%  open"
    assert re.fullmatch("gala" + numbers, table[2])
    assert re.fullmatch(r"├ alipay +2,000 +100 +300 +0  ██▓{4}·{24} +5% +15% +0%  closed", table[3])
    assert re.fullmatch(r"│ └ 20:00 +5 +500 +100 +0 +0  █{6}·{24} +20% +0% +0%  closed", table[4])
    assert re.fullmatch(r"all 2 +11,777 +750 +4,800 +6,227 .* 6% +40% +52%", table[8])
    assert "\nenvelope  law" in result.stdout
    assert re.search(r"^alone +equal +5 +50 ", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("\nof the amount: █ settled  ▓ held  ░ available  · refunded\n")


def test_without_unicode_the_tree_is_legible_still(path: Path) -> None:
    make_campaign(path)
    result = run("inspect", path, PYTHONUTF8="0", PYTHONIOENCODING="ascii", COLUMNS="90")
    assert result.stdout.isascii()
    for line in (r"\|- alipay +2,000 .* #=+-+ ", r"\|  `- 20:00 +5 +500 ", r"`- taobao ", r"   \|- 21:00 "):
        assert re.search(f"^{line}", result.stdout, re.MULTILINE), line
    assert "# settled  = held  . available  - refunded" in result.stdout


def test_what_a_name_shows(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_campaign(path)
    with hbcore.Engine(path) as engine:
        engine.envelope("gala/taobao", 70, 7)  # a name may look like a path: both are shown
        engine.budget("solo", 5)
    cases = {
        "gala": (["gala", "taobao", "alipay"], ["20:00", "21:00", "20:00"]),
        "gala/taobao": (["taobao"], ["20:00", "21:00", "gala/taobao"]),
        "gala/taobao/20:00": ([], ["20:00"]),
        "alone": ([], ["alone"]),
        "solo": (["solo"], []),
    }
    for name, (budgets, envelopes) in cases.items():
        status, out, error = in_process(capsys, "inspect", path, "--name", name, "--json")
        assert (status, error) == (0, "")
        report = json.loads(out)
        assert [budget["name"] for budget in report["budgets"]] == budgets
        assert [envelope["name"] for envelope in report["envelopes"]] == envelopes
        assert in_process(capsys, "inspect", path, "--name", name)[0] == 0
    _, out, _ = in_process(capsys, "inspect", path, "--name", "gala/taobao/20:00")
    assert re.search(r"^gala/taobao/20:00  equal +10 +1,000 ", out, re.MULTILINE)
    assert "party" not in out
    assert in_process(capsys, "inspect", path, "--name", "20:00")[2] == (
        f"hbcore inspect: error: --name: there is no budget or envelope '20:00' in '{path}'; "
        "there is 'gala/taobao/20:00' and 'gala/alipay/20:00'\n"
    )
    for name, words in (
        ("gala/", "there is no budget"),
        ("galA", "there is no budget"),
        ("", "--name must be"),
    ):
        status, out, error = in_process(capsys, "inspect", path, "--name", name)
        assert (status, out) == (2, "")
        assert words in error
        assert "there is '" not in error


def test_names_do_no_harm_in_a_tree(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        engine.budget(HOSTILE, 100).budget(CHINESE, 50).envelope("\x1b[2J", 10, 1)
    result = run("inspect", path)
    assert all(c.isprintable() or c == "\n" for c in result.stdout)
    assert repr(HOSTILE) in result.stdout
    assert f"└ {CHINESE}" in result.stdout
    assert r"  └ '\x1b[2J'" in result.stdout


@pytest.mark.parametrize("columns", full_but([60, 80, 100, 132, 200], 60, 132))
def test_a_terminal_is_not_overrun_by_a_tree(columns: int, path: Path) -> None:
    make_campaign(path)
    with hbcore.Engine(path) as engine:
        budget = engine.budget("b" * 255, 2**61)
        for level in range(6):
            budget = budget.budget(f"{CHINESE * 2}{level}", 2**60 - level)
        budget.envelope("deep", 12_345_678_901, 1_234_567)
    text = without_colours(on_terminal("inspect", path, columns=columns, rows=50))
    table = text[text.index("\nbudget ") + 1 :].split("\n\n")[0].splitlines()
    assert len(table) == 1 + 4 + 3 + 8 + 1
    assert max(map(cell_len, table)) <= columns
    assert "12,345,678,901" in text
    assert sum("…" in line for line in table) >= 5 * (columns < 200)
    assert re.search(r"│? +└ de", text)
    # The amounts are there all three, or none of them.
    assert ("settled " in table[0]) == ("available" in table[0]) == (columns == 200)


# ---- many -------------------------------------------------------------------------------------------------------


def branch(number: int, total: int, children: list[AnyEntry]) -> BudgetEntry:
    parts = Money(0, total, 0, 0)
    return BudgetEntry((f"b{number}",), number, total, parts, 0, None, "open", None, children)


@st.composite
def forests(draw: st.DrawFn) -> list[AnyEntry]:
    """Trees of budgets and envelopes of every shape, each entry with an offset and a total of its own."""
    shapes = draw(
        st.recursive(st.just(None), lambda below: st.lists(below, max_size=12), max_leaves=60).filter(lambda s: s)
    )
    numbers = iter(range(100_000))

    def grown(shape: object) -> AnyEntry:
        if not isinstance(shape, list):
            return branch(next(numbers), draw(st.integers(1, 100)), [])
        children = [grown(below) for below in shape]
        return branch(next(numbers), draw(st.integers(1, 100)), children)

    return [grown(shape) for shape in shapes]


def all_rows(rows: list[Row]) -> Iterator[Row]:
    for row in rows:
        yield row
        yield from all_rows(row.rows)


@given(forests(), st.integers(1, 40), st.booleans())
def test_a_folded_tree_fits_and_leaves_nothing_out(roots: list[AnyEntry], limit: int, largest: bool) -> None:
    rows = folded(roots, limit, largest)
    every = list(flat(roots))
    shown = list(all_rows(rows))
    assert len(shown) <= limit
    assert len(in_order(rows)) == len(shown)
    if len(every) <= limit:
        assert [row.entry for row in shown if row.entry is None] == []
        assert len(shown) == len(every)
    seen: list[AnyEntry] = []

    def check(parent: list[AnyEntry], rows: list[Row], hidden: int) -> None:
        # Each child is in one place: a row of its own, the sum of the rest, or the number of those for whom is no row.
        ones = [row.entry for row in rows if row.entry is not None]
        rest = [entry for row in rows for entry in row.folded]
        assert len(ones) + len(rest) + hidden == len(parent)
        assert {id(entry) for entry in [*ones, *rest]} <= {id(entry) for entry in parent}
        if rest:
            assert rows[-1].folded == rest
            key = (lambda entry: entry.total) if largest else (lambda entry: entry.offset)
            assert not ones or min(map(key, ones)) >= max(map(key, rest))
        for row in rows:
            if row.entry is not None:
                seen.append(row.entry)
                check(row.entry.children, row.rows, row.hidden)  # type: ignore[union-attr]

    check(roots, rows, 0)
    assert len(seen) == len({id(entry) for entry in seen})


def test_of_many_children_the_latest_or_the_largest_are_shown_and_a_sum(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        gala = engine.budget("gala", 2_000_000)
        for part in range(2):
            below = gala.budget(f"part {part}", 800_000)
            for i in range(500):
                below.envelope(f"e{part}-{i}", 1_000 - i, 10)
    text = run("inspect", path).stdout
    rows = rows_of(text)
    assert len(rows) <= 20
    assert {"e0-499", "e0-498", "e1-499", "e1-498"} < set(rows)
    assert not {"e0-0", "e1-0"} & set(rows)
    (more,) = [line for line in text.splitlines() if line.startswith("│ └ 4")]
    count = int(more.split(" more")[0].split("└ ")[1])
    shown = sum(name.startswith("e1-") for name in rows)
    assert shown + count == 500
    assert re.search(rf" {10 * count:,} +{sum(1000 - i for i in range(count)):,} ", more)
    assert "of 1,003 budgets and envelopes the latest; --all shows all, --name all below one" in text
    assert {"e0-0", "e1-0"} < set(rows_of(run("inspect", path, "--largest").stdout))
    assert len(rows_of(run("inspect", path, "--all").stdout)) == 1_003
    only = rows_of(run("inspect", path, "--name", "gala/part 1").stdout)
    assert sum(name.startswith("e") for name in only) == 18
    assert len(run_json("inspect", path)["envelopes"]) == 1_000


def test_a_budget_for_which_no_row_is_left_says_how_many_are_below_it(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        gala = engine.budget("gala", 1_000)
        for i in range(19):
            gala.budget(f"b{i}", 10).envelope("e", 5, 1)
    rows = rows_of(run("inspect", path).stdout)
    assert len(rows) == 20
    assert {f"b{i} (1 below)" for i in range(19)} < set(rows)


# ---- damaged ----------------------------------------------------------------------------------------------------


def test_a_damaged_budget_hides_neither_what_is_beside_it_nor_what_is_below(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        gala = engine.budget("gala", 1_000)
        bad = gala.budget("the-spoilt-one", 300)
        bad.budget("below it", 100).envelope("far below", 50, 5)
        good = gala.budget("good", 200)
        good.envelope("e", 100, 10, law="equal").claim("u")
        good.reserve("k", 20)
        good.settle("k")
    turn_bit(path, b"the-spoilt-one")
    report = run_json("inspect", path, status=1)
    found = {budget["name"]: budget for budget in report["budgets"]}
    assert list(found) == ["gala", "uhe-spoilt-one", "below it", "good"]
    assert found["good"]["amounts"] == money(20, 100, 80, 0)
    assert found["gala"]["amounts"] == money(20, 480, 500, 0)
    for name in ("uhe-spoilt-one", "below it"):
        assert (found[name]["state"], found[name]["amounts"], found[name]["total"]) == ("damaged", None, None)
    below, e = report["envelopes"]
    assert (below["name"], below["state"], below["counts"], below["law"]) == ("far below", "damaged", None, None)
    assert below["budget"] == ["gala", "uhe-spoilt-one", "below it"]
    assert (e["state"], e["counts"]["granted"]) == ("open", 1)
    assert report["sums"]["budgets"] == 2
    result = run("inspect", path)
    assert (result.returncode, result.stderr) == (1, "")
    assert re.search(r"^└ uhe-spoilt-one +\? +\? +\? +\?  \?{30} +\? +\? +\?  damaged$", result.stdout, re.MULTILINE)
    assert re.search(r"^  └ below it .* damaged$", result.stdout, re.MULTILINE)
    assert re.search(r"^├ good .* open$", result.stdout, re.MULTILINE)
    assert result.stdout.count("DAMAGED: the budget at byte ") == 1
    assert run("audit", path).returncode != 0


def test_a_damaged_hold_or_envelope_is_its_own_and_nobody_elses(path: Path, tmp_path: Path) -> None:
    with hbcore.Engine(path) as engine:
        gala = engine.budget("gala", 1_000)
        app = gala.budget("app", 500)
        app.envelope("e", 100, 10, law="equal").claim("u")
        app.reserve("k", 77)
        gala.reserve("k", 33)
        gala.settle("k", 30)
        user = engine.user_hash("u")
    copy = tmp_path / "copy.hb"
    shutil.copyfile(path, copy)
    turn_bit(copy, user, 16)  # the amount of the claim
    report = run_json("inspect", copy, status=1)
    assert [budget["state"] for budget in report["budgets"]] == ["open", "open"]
    assert report["budgets"][1]["amounts"] == money(0, 177, 323, 0)
    assert report["budgets"][0]["amounts"] == money(30, 500, 470, 0)
    assert report["envelopes"][0]["state"] == "damaged"
    content = bytearray(path.read_bytes())
    money_at = place_of_money(content, 323)
    content[money_at : money_at + 8] = (10**6).to_bytes(8, "little")
    path.write_bytes(content)
    report = run_json("inspect", path, status=1)
    assert [budget["state"] for budget in report["budgets"]] == ["open", "damaged"]
    assert report["budgets"][0]["amounts"] == money(30, 500, 470, 0)
    assert report["envelopes"][0]["state"] == "open"
    assert "DAMAGED: budget 'app' has 1000000 available and 0 spent of 500" in run("inspect", path).stdout


def place_of_money(content: bytearray, available: int) -> int:
    """Return where the money of the one budget that has so much available stands in a file."""
    wanted = available.to_bytes(8, "little")
    places = [match.start() for match in re.finditer(re.escape(wanted), content) if match.start() % 8 == 0]
    assert len(places) == 1
    return places[0]


def test_what_a_damaged_file_puts_below_itself_is_shown_at_the_top(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        first = engine.budget("first", 100)
        second = first.budget("second", 50)
        second.budget("third", 5)
    with hbcore.Engine(path, readonly=True) as engine:
        offsets = {node.name: node.offset for root in build_tree(engine) for node in root.all()}
    content = bytearray(path.read_bytes())
    parent = offsets["second"].to_bytes(8, "little")  # whose third is: make it first's parent as well
    at = content.index(offsets["first"].to_bytes(8, "little"), offsets["second"])
    shift = at - offsets["second"]
    assert content[offsets["third"] + shift :][:8] == parent
    content[offsets["first"] + shift : offsets["first"] + shift + 8] = parent
    path.write_bytes(content)
    report = run_json("inspect", path, status=1)
    assert [(budget["name"], budget["state"]) for budget in report["budgets"]] == [
        ("first", "damaged"),
        ("second", "damaged"),
        ("third", "damaged"),
    ]
    assert run("inspect", path).returncode == 1


# ---- the audit --------------------------------------------------------------------------------------------------


def test_the_audit_says_what_became_of_the_money(path: Path) -> None:
    make_campaign(path)
    audit = run("audit", path)
    assert (audit.returncode, audit.stderr) == (0, "")
    assert "\nproved   4 budgets with 4 holds and 4 envelopes, from their slots\n" in audit.stdout
    table = audit.stdout.split("\n\n")[1].splitlines()
    assert [line.split() for line in table] == [
        ["budgets", "amount", "of", "the", "total"],
        ["settled", "750", "6%"],
        ["held", "2,800", "23%"],
        ["available", "8,227", "69%"],
        ["total", "11,777", "100%"],
    ]
    assert audit.stdout.endswith("the parts sum to the total, on every level.\n")
    report = run_json("audit", path)
    assert {name: report["audit"][name] for name in AuditReport._fields[-6:]} == {
        "budgets": 4,
        "holds": 4,
        "amount_budgeted": 11_777,
        "amount_available": 8_227,
        "amount_held": 2_800,
        "amount_spent": 750,
    }
    seen = run_json("inspect", path)
    assert [report[key] for key in ("budgets", "envelopes", "sums")] == [
        seen[key] for key in ("budgets", "envelopes", "sums")
    ]


@pytest.mark.parametrize("change", full_but([-1, 1, 1_000], -1))
def test_missing_money_and_money_from_nowhere_fail_the_audit(path: Path, change: int) -> None:
    make_campaign(path)
    content = bytearray(path.read_bytes())
    at = place_of_money(content, 6_150)
    content[at : at + 8] = (6_150 + change).to_bytes(8, "little")
    path.write_bytes(content)
    for options in ([], ["--readonly"]):
        result = run("audit", path, *options)
        assert (result.returncode, result.stderr) == (1, "")
        which = f"{abs(change):,} are missing" if change < 0 else f"{change:,} are too many"
        assert result.stdout.splitlines()[-1] == (
            f"FAILED: budget 'gala': {6150 + change} available and 4850 held or spent are not 11000 in all: {which}"
        )
        assert "The audit holds" not in result.stdout
    report = run_json("audit", path, status=1)
    assert (report["budgets"], report["envelopes"], report["audit"], report["sums"]) == ([], [], None, None)


def test_an_audit_that_counts_other_than_the_budgets_fails(path: Path) -> None:
    make_campaign(path)
    with hbcore.Engine(path) as engine:
        report, after = engine.audit(), look(engine, None, View())
        check_agreement(report, after)
        for field in AuditReport._fields[-6:]:
            wrong = report._replace(**{field: getattr(report, field) + 1})
            with pytest.raises(hbcore.AuditError, match=f"^{field} is .* by the audit, and .* by the budgets one"):
                check_agreement(wrong, after)


# ---- paths ------------------------------------------------------------------------------------------------------


def test_paths_name_what_is_where_it_is() -> None:
    engine = hbcore.Engine()
    engine.budget("a", 100).budget("b", 50).envelope("c", 10, 1)
    engine.budget("a/b", 100).envelope("c", 10, 1)
    roots = build_tree(engine)
    assert [node.path for node in chosen(roots, "a/b/c")] == [("a", "b", "c"), ("a/b", "c")]
    assert [node.path for node in chosen(roots, "a/b")] == [("a", "b"), ("a/b",)]
    assert chosen(roots, "b") == chosen(roots, "") == []
    assert alike(roots, "c") == ["a/b/c", "a/b/c"]
    assert chosen(roots, None) == roots
