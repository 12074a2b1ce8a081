"""What the benches stand on: that nothing is written where they say so, and that their figures are what they say."""

import sys
from pathlib import Path

import numpy as np
import pytest

import hbcore
from hbcore import Status

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import claims
import measuring
import pages
import processes
import sizes
import table


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
    assert claims.writes_nothing(measuring.Scale(quick=True)).met


def test_processor_time_counts_by_its_median_and_the_wall_by_its_least() -> None:
    turns = {"a": [10.0, 20.0, 90.0], "b": [10.0, 10.0, 30.0]}
    assert measuring.Times(turns).figure("a") == 20
    assert measuring.Times(turns).ratio("a", "b") == 2
    assert measuring.Times(turns, by_wall=True).figure("a") == 10
    assert measuring.Times(turns, by_wall=True).ratio("a", "b") == 1
    assert measuring.slower("w", measuring.Times(turns), "a", "b", 1.5)[1:4] == (
        "2.00 times",
        "at most 1.5 times",
        False,
    )
    assert measuring.faster("w", measuring.Times(turns), "b", "a", 1.5)[1:4] == (
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
    done = {"scalar": [measuring.at_most("claim", 100.0, 150, "{:.0f} ns")], "giant": []}
    text = "\n".join(table.lines(done, {}, quick=False))
    assert "| claim | 100 ns   | at most 150 ns | yes |" in text
    huge = {"scalar": [measuring.at_most("claim", 200.0, 150, "{:.0f} ns")]}
    assert "| yes | 200 ns     | **no** |" in "\n".join(table.lines(done, huge, quick=False))
    document = tmp_path / "README.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        table.put_into(document, text)
        assert document.read_text() == f"before\n{table.BEGIN}\n{text}\n{table.END}\nafter\n"
    document.write_text("no marks")
    with pytest.raises(SystemExit, match="no lines"):
        table.put_into(document, text)
