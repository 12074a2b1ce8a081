"""What the benches stand on: that nothing is written where they say so, and that their figures are what they say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hbcore
from bench import instructions, table
from bench.installed import ROOT
from bench.measure import findings, pages, turns
from bench.measure.machine import cores_of, machine
from bench.rows import claims, processes, sizes
from hbcore import Status


@pytest.fixture
def sold() -> hbcore.Envelope:
    envelope = hbcore.Engine().envelope("sold", total=200_000, packets=2_000)
    envelope.claim_many(np.arange(2_000))
    return envelope


@pytest.mark.parametrize("way", ["one by one", "batch"])
@pytest.mark.parametrize("first", [0, 10_000], ids=["repeated", "sold out"])
def test_an_answer_without_a_grant_writes_nothing_shared(sold: hbcore.Envelope, first: int, way: str) -> None:
    users, expected = np.arange(first, first + 2_000), Status.SOLD_OUT if first else Status.REPEATED

    def ask() -> None:
        if way == "batch":
            assert (sold.claim_many(users)["status"] == expected).all()
        else:
            assert all(sold.claim(user).status is expected for user in users.tolist())

    # The first who is told SOLD_OUT notes it for all others.
    assert pages.survives_without_writing(lambda: sold.claim(-1), ask)


def test_a_grant_writes_and_that_is_seen() -> None:
    envelope = hbcore.Engine().envelope("two", total=2, packets=2)
    assert not pages.survives_without_writing(lambda: envelope.claim(1), lambda: envelope.claim(2))


def test_the_table_says_that_a_sold_out_envelope_is_not_written_to() -> None:
    assert claims.writes_nothing(turns.Scale(quick=True)).met


def test_processor_time_counts_by_its_median_and_the_wall_by_its_least() -> None:
    taken = {"a": [10.0, 20.0, 90.0], "b": [10.0, 10.0, 30.0]}
    assert turns.Times(taken).figure("a") == 20
    assert turns.Times(taken).ratio("a", "b") == 2
    assert turns.Times(taken, by_wall=True).figure("a") == 10
    assert turns.Times(taken, by_wall=True).ratio("a", "b") == 1
    assert findings.slower("w", turns.Times(taken), "a", "b", 1.5)[1:4] == (
        "2.00 times",
        "at most 1.5 times",
        False,
    )
    assert findings.faster("w", turns.Times(taken), "b", "a", 1.5)[1:4] == (
        "2.00 times",
        "at least 1.5 times",
        True,
    )


def test_claims_of_two_processes_are_those_of_one_envelope() -> None:
    for touched in (True, False):
        for batch in (processes.ONE_BY_ONE, 100):
            one = processes.race(2, 2_000, batch, touched)
            assert one.wall > 0
            assert one.processor > 0


def test_a_worker_that_fails_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="1 of 1 workers"):
        processes.side_by_side([lambda: lambda: [][0]])


def test_memory_a_packet_is_what_the_engine_takes() -> None:
    assert 32 <= sizes.bytes_a_packet(100_000, 1) <= 64


def test_an_engine_of_a_bench_is_on_huge_pages_if_it_is_told_so() -> None:
    def flags() -> list[bool]:
        engine = pages.new_engine()
        assert engine.envelope("e", 1, 1).claim("a")
        found = Path("/proc/self/smaps").read_text().split("memfd:hbcore")[1:]
        return ["hg" in text.partition("VmFlags:")[2].partition("\n")[0].split() for text in found]

    assert True not in flags()
    with pages.on_huge_pages():
        assert True in flags()
    assert True not in flags()


def test_the_table_goes_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    done = {"scalar": [findings.at_most("claim", 100.0, 150, "{:.0f} ns")], "giant": []}
    text = "\n".join(table.lines(done, {}, quick=False))
    assert "| claim | 100 ns   | at most 150 ns | yes |" in text
    huge = {"scalar": [findings.at_most("claim", 200.0, 150, "{:.0f} ns")]}
    assert "| yes | 200 ns     | **no** |" in "\n".join(table.lines(done, huge, quick=False))
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        table.put_into(document, text)
        assert document.read_text() == f"before\n{table.BEGIN}\n{text}\n{table.END}\nafter\n"
    document.write_text("no marks")
    with pytest.raises(SystemExit, match="no lines"):
        table.put_into(document, text)


def run_bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m bench`` as one does: from the root, where the sources of hbcore lie."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.full
def test_marks_that_are_missing_are_told_before_anything_is_measured(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    for text in ("no marks", f"{table.END}\n{table.BEGIN}", f"{table.BEGIN}\nand no end"):
        document.write_text(text)
        asked = run_bench("table", "--into", document)
        assert (asked.returncode, asked.stdout) == (1, "")
        assert f"{document} has no lines '{table.BEGIN}'" in asked.stderr
        assert "Traceback" not in asked.stderr
        assert document.read_text() == text
    asked = run_bench("table", "--into", tmp_path / "nowhere.md")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "No such file" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_without_a_command_the_help_names_them_all_and_the_suite_of_pytest() -> None:
    asked = run_bench()
    assert asked.returncode == 0
    names = run_bench("--list").stdout.split()
    assert set(names) >= {"table", "compare", "peers", "instructions", "pictures", "fairness"}
    shown = asked.stdout.partition("\ncommands")[2]
    assert [line.split()[0] for line in shown.splitlines()[1 : len(names) + 1]] == names
    assert "python -m pytest bench --benchmark-only" in asked.stdout


@pytest.mark.full
def test_every_command_has_a_quick_form_and_says_what_it_prints() -> None:
    for name in run_bench("--list").stdout.split():
        asked = run_bench(name, "--help")
        assert asked.returncode == 0, asked.stderr
        assert "--quick" in asked.stdout
        assert len(asked.stdout.splitlines()) > 8, name


def test_the_machine_says_what_its_cores_share() -> None:
    assert cores_of("0") == {0}
    assert cores_of("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert re.fullmatch(r"unknown|none|L\d(\+L\d)*", machine()["cache of all"])


def test_a_command_that_there_is_not_is_refused() -> None:
    asked = run_bench("nonsense")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "invalid choice: 'nonsense'" in asked.stderr


def test_a_command_runs_from_the_root() -> None:
    asked = run_bench("table", "--quick", "--only", "laws", "processes", "--json")
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)["rows"]
    assert [row["what"].partition(",")[0] for row in found["laws"]] == ["law equal", "law double_mean", "law dirichlet"]
    assert found["processes"][0]["what"].startswith("two processes beside one")


def test_the_document_gets_what_is_printed(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{table.BEGIN}\n{table.END}\nafter\n")
    asked = run_bench("table", "--quick", "--only", "laws", "--into", document)
    assert asked.returncode == 0, asked.stderr
    assert "| law equal, per packet " in asked.stdout
    assert document.read_text() == f"before\n{table.BEGIN}\n{asked.stdout}{table.END}\nafter\n"


def test_a_bench_and_its_children_measure_the_hbcore_under_test() -> None:
    program = """
import os, subprocess, sys
import bench
where = "import hbcore.engine; print(hbcore.__file__, hbcore.engine.__file__, flush=True)"
exec(where)
if os.fork() == 0:
    exec(where)
    os._exit(0)
os.wait()
subprocess.run([sys.executable, "-c", where], check=True)
from bench.installed import environment_of_a_bench
subprocess.run([sys.executable, "-c", "import bench; " + where], check=True, cwd="/", env=environment_of_a_bench())
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines() == [f"{hbcore.__file__} {hbcore.engine.__file__}"] * 4


def annotated(*symbols: str) -> str:
    lines = [f"{1_000 * (9 - i):,} (9.00%)  build/envelope.c:{symbol} [/x.so]" for i, symbol in enumerate(symbols)]
    return "\n".join(["Ir", *lines])


@pytest.mark.parametrize("module", ["8envelope", "7_public_8envelope", "7_public_2it_8envelope"])
def test_instructions_are_those_of_the_method_whatever_module_its_class_is_in(module: str) -> None:
    def symbol(owner: str, method: str) -> str:
        return f"__pyx_pw_6hbcore_{module}_{len(owner)}{owner}_17{method}"

    text = annotated(
        symbol("Envelope", "claim_many"), symbol("MyEnvelope", "claim"), symbol("Budget", "claim"),
        symbol("Envelope", "claim"), symbol("Envelope", "claim"),
    )  # fmt: skip
    assert instructions.inclusive(text, "Envelope.claim") == 6_000
    assert instructions.inclusive(text, "Envelope.claim_many") == 9_000
    with pytest.raises(SystemExit, match=r"has not seen Envelope\.find"):
        instructions.inclusive(text, "Envelope.find")
