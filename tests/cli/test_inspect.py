"""``hbcore inspect`` and ``hbcore audit`` on real files: at rest, under load, after their makers were killed, damaged.

A claim that a worker has answered for is one that inspect and audit must count, whatever became of the worker. How it
looks on a terminal is in ``test_layout.py``.
"""

import errno
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from commands import (
    AUDIT_KEYS,
    CHINESE,
    HAMMER,
    HOSTILE,
    INSPECT_KEYS,
    PARTS,
    SEED,
    TIME_LIMIT_S,
    WORKER,
    Worker,
    check_sums,
    in_process,
    make_gala,
    run,
    run_json,
    watched,
)
from engine_files import turn_bit

import hbcore
from hbcore.cli.audit import check_agreement
from hbcore.cli.inspect import View, look
from hbcore.types import AuditReport


@pytest.fixture
def workers() -> Iterator[Callable[..., Worker]]:
    """Start workers; those that are left are killed."""
    with ExitStack() as started:
        yield lambda *arguments: started.enter_context(Worker(*arguments))


# ---- what is there ----------------------------------------------------------------------------------------------


def test_inspect_json_is_what_is_in_the_file(path: Path) -> None:
    before = time.time()
    make_gala(path)
    report = run_json("inspect", path)
    file = report["file"]
    assert file.pop("size") == path.stat().st_size >= file.pop("used") > 0
    assert before - 2 < file.pop("created_at") <= report["looked_at"] <= time.time()
    assert re.fullmatch("[0-9a-f]{32}", file.pop("engine_id"))
    assert isinstance(file.pop("version"), int)
    assert file == {"path": str(path), "capacity": 2**38, "keeps_key": True, "is_replaced": False, "strays": []}
    (worker,) = report["workers"].pop("entries")
    assert report["workers"] == {"alive": 0, "dead": 1}
    assert before - 2 < worker.pop("registered_at") <= time.time()
    assert worker == {"number": 0, "epoch": 1, "pid": os.getpid(), "is_alive": False}

    def entry(
        name: str, law: str, total: int, packets: int, state: str, *parts: tuple[int, ...], **others: object
    ) -> object:
        terms = {
            "name": name,
            "budget": None,
            "law": law,
            "min": 1,
            "max": total,
            "concentration": 3,
            "packets": packets,
            "total": total,
            "max_packets": packets,
            "per_user": 1,
            "hold_seconds": None,
        }
        counts, amounts = (dict(zip(PARTS, part, strict=True)) for part in parts)
        rest = {"state": state, "expires_at": None, "counts": counts, "amounts": amounts, "grants_per_second": None}
        return {**terms, **rest, **others}

    most = 2**62 - 1
    assert report["envelopes"] == [
        entry("20:00", "equal", 1000, 10, "open", (2, 3, 5, 0), (200, 300, 500, 0), min=5, max=500),
        entry(CHINESE, "dirichlet", most, 3, "open", (0, 0, 3, 0), (0, 0, most, 0), concentration=7, expires_at=2e9),
        entry("late", "equal", 50, 5, "expired", (0, 0, 5, 0), (0, 0, 50, 0), expires_at=1000.5),
        entry("closed", "equal", 400, 4, "closed", (1, 0, 0, 3), (100, 0, 0, 300)),
        entry(HOSTILE, "double_mean", 7, 1, "sold_out", (0, 1, 0, 0), (0, 7, 0, 0)),
    ]
    assert report["sums"] == {
        "envelopes": 5,
        "packets": 23,
        "total": most + 1457,
        "counts": dict(zip(PARTS, (3, 4, 13, 3), strict=True)),
        "amounts": dict(zip(PARTS, (300, 307, most + 550, 300), strict=True)),
        "grants_per_second": None,
        "budgets": 0,
        "budgeted": 0,
        "money": {"settled": 0, "held": 0, "available": 0},
    }
    assert report["budgets"] == []
    assert SEED.hex() not in json.dumps(report)


def test_audit_json_is_what_is_proved(path: Path) -> None:
    make_gala(path)
    report = run_json("audit", path)
    assert (report["failure"], report["is_readonly"], report["because"]) == (None, False, None)
    assert report["audit"] == {
        "envelopes": 5,
        "packets": 23,
        "granted": 4,
        "settled": 3,
        "refunded": 8,  # of those that were closed, and of what has expired, which the audit closes
        "amount_total": 2**62 - 1 + 1457,
        "amount_granted": 307,
        "amount_settled": 300,
        "budgets": 0,
        "holds": 0,
        "amount_budgeted": 0,
        "amount_available": 0,
        "amount_held": 0,
        "amount_spent": 0,
    }
    seen = run_json("inspect", path)
    assert (report["envelopes"], report["sums"]) == (seen["envelopes"], seen["sums"])


def test_an_audit_that_counts_other_than_the_envelopes_fails(path: Path) -> None:
    make_gala(path)
    with hbcore.Engine(path) as engine:
        after, report = look(engine, None, View()), engine.audit()
        check_agreement(report, after)
        for field in AuditReport._fields:
            if field != "refunded":
                wrong = report._replace(**{field: getattr(report, field) + 1})
                with pytest.raises(hbcore.AuditError, match=f"^{field} is .* by the audit, and"):
                    check_agreement(wrong, after)


def test_what_is_said_in_words(path: Path) -> None:
    make_gala(path)
    result = run("inspect", path, "--workers")
    assert (result.returncode, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.startswith(f"hbcore inspect: {path}, 20")
    assert f"workers  0 alive, 1 dead (pid {os.getpid()})" in lines
    assert any(re.fullmatch(rf" +0 +1 +{os.getpid()}  20\d\d-.* \+0000  dead", line) for line in lines)
    rows = {
        name: next(line for line in lines if line.startswith(name)) for name in ("20:00", CHINESE, "late", "closed")
    }
    assert re.fullmatch(r"20:00 +equal +10 +1,000  █{6}▓{9}░{15} +20% +30% +50%  open", rows["20:00"])
    assert re.search(r" +dirichlet +3  4,611,686,018,427,387,903  ░{30}  .*till 2033-05-18", rows[CHINESE])
    assert rows["late"].endswith("0%    0%  100%  expired 1970-01-01")
    assert re.search(r"█{8}·{22} +25% +0% +0%  closed", rows["closed"])
    assert [line.split("  ")[0] for line in lines if line.startswith("all ")] == ["all 5"]
    audit = run("audit", path)
    assert (audit.returncode, audit.stderr) == (0, "")
    assert re.search(r"^total +23 +4,611,686,018,427,389,360 +100%$", audit.stdout, re.MULTILINE)
    assert audit.stdout.endswith("\nThe audit holds: every packet once, every user once, the parts sum to the total.\n")
    assert "Workers are alive" not in audit.stdout
    for report in (result, audit):
        assert all(c.isprintable() or c == "\n" for c in report.stdout)
        assert SEED.hex() not in report.stdout
    assert repr(HOSTILE) in result.stdout


@pytest.mark.full
def test_of_many_the_latest_or_the_largest_are_shown_and_the_sum_is_of_all(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        for i in range(3000):
            engine.envelope(f"e{i}", total=10_000 - i, packets=10)
    names = re.compile(r"^(e\d+) ", re.MULTILINE)
    text = run("inspect", path).stdout
    assert names.findall(text) == [f"e{i}" for i in range(2999, 2979, -1)]
    assert re.search(rf"^all 3,000 +30,000 +{sum(range(7001, 10_001)):,} ", text, re.MULTILINE)
    assert "20 of 3,000 envelopes, the latest; --all shows all" in text
    assert names.findall(run("inspect", path, "--largest").stdout) == [f"e{i}" for i in range(20)]
    assert names.findall(run("inspect", path, "--all").stdout) == [f"e{i}" for i in range(2999, -1, -1)]
    report = run_json("inspect", path)
    assert [envelope["name"] for envelope in report["envelopes"]] == [f"e{i}" for i in range(3000)]
    (only,) = run_json("inspect", path, "--name", "e77")["envelopes"]
    assert (only["name"], only["total"]) == ("e77", 9923)
    assert run_json("audit", path)["audit"]["packets"] == 30_000


def test_an_engine_without_envelopes(path: Path) -> None:
    hbcore.Engine(path).close()
    assert run("inspect", path).stdout.endswith("\nno envelopes\n")
    report = run_json("audit", path)
    assert set(report["audit"].values()) == {0}
    assert run_json("inspect", path)["sums"]["total"] == 0


def test_help_documents_every_key() -> None:
    for command, keys in (("inspect", INSPECT_KEYS), ("audit", AUDIT_KEYS)):
        text = run(command, "--help").stdout
        for key in keys:
            assert re.search(rf"(^  |; ){key} ", text, re.MULTILINE) or f"; {key}:" in text, key
        assert "exit status:\n  0 " in text
        assert f"hbcore {command}" in text
        for option in set(re.findall(r"(?<![-\w])--[a-z-]+", text)) - {"--help"}:
            assert text.count(option) >= 2, f"{option} is not explained"


# ---- the living and the dead ------------------------------------------------------------------------------------


def make_rain(path: Path, packets: int) -> None:
    with hbcore.Engine(path) as engine:
        engine.envelope("rain", total=100 * packets, packets=packets)
        engine.envelope("quiet", total=1000, packets=10).claim(1)


@pytest.mark.full
def test_a_file_whose_makers_were_killed(path: Path, workers: Callable[..., Worker]) -> None:
    make_rain(path, 100_000)
    crew = [workers(WORKER, path) for _ in range(3)]
    for number, worker in enumerate(crew):
        worker.tell("rain", number * 1_000_000, 1_000_000)
    acknowledged = [answer for worker in crew for answer in worker.answers(500)]
    alive = run_json("inspect", path)  # in the middle of it
    assert alive["workers"]["alive"] == 3
    assert {entry["pid"] for entry in alive["workers"]["entries"] if entry["is_alive"]} == {
        worker.process.pid for worker in crew
    }
    for worker in crew:
        acknowledged += worker.kill()
    assert len(acknowledged) >= 1500
    assert len({packet for _, _, packet in acknowledged}) == len(acknowledged)
    seen = run_json("inspect", path)
    assert (seen["workers"]["alive"], seen["workers"]["dead"]) == (0, 3)  # one has the place of who made the file
    assert {worker.process.pid for worker in crew} <= {entry["pid"] for entry in seen["workers"]["entries"]}
    proved = run_json("audit", path)
    assert proved["workers"] == seen["workers"]  # as it was before the audit itself became a worker
    # What a worker had published when it died counts although nobody was told, one claim each at the most.
    for report in (seen, proved):
        envelope = report["envelopes"][0]
        assert len(acknowledged) <= envelope["counts"]["granted"] <= len(acknowledged) + 3
        assert envelope["amounts"]["granted"] >= sum(amount for _, amount, _ in acknowledged)
    assert proved["envelopes"][0]["counts"]["granted"] >= seen["envelopes"][0]["counts"]["granted"]
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("rain")
        for user, amount, packet in acknowledged:
            claim = envelope.find(user)
            assert claim is not None
            assert (claim.amount, claim.packet) == (amount, packet)


@pytest.mark.full
def test_fifty_looks_under_load(path: Path, workers: Callable[..., Worker], capsys: pytest.CaptureFixture[str]) -> None:
    """Looks while two workers claim, settle, release, and are killed and replaced."""
    with hbcore.Engine(path) as engine:
        engine.envelope("grow", total=30_000_000, packets=300_000)
        engine.envelope("churn", total=100_000, packets=1000)  # sold out again and again
        closing = engine.envelope("closing", total=100_000, packets=10_000)
        crew = [workers(HAMMER, path, 10**9 * (i + 1)) for i in range(2)]
        given, settled = 0, 0
        for turn in range(50):
            if turn % 10 == 9:
                crew.pop(0).process.kill()
                crew.append(workers(HAMMER, path, 10**9 * (turn + 3)))
            if turn == 25:
                closing.close()
            if turn % 10 == 0:
                report = run_json("inspect", path)
            else:
                status, out, error = in_process(capsys, "inspect", path, "--json")
                assert (status, error) == (0, "")
                report = json.loads(out)
                check_sums(report)
            grow, churn, closed = report["envelopes"]
            assert grow["counts"]["granted"] >= given  # nobody releases here
            assert churn["counts"]["settled"] >= settled  # and settled is final
            assert closed["state"] == ("open" if turn < 25 else "closed")
            assert report["workers"]["alive"] >= 3
            given, settled = grow["counts"]["granted"], churn["counts"]["settled"]
        assert given > 50
        assert settled > 0
        for _ in range(3):
            status, out, error = in_process(capsys, "audit", path, "--json")
            assert (status, error) == (0, "")
            check_sums(json.loads(out))
            status, out, error = in_process(capsys, "audit", path, "--readonly")
            assert (status, error) == (0, "")
            assert "\nWorkers are alive: what they had under way was left out.\n" in out


@pytest.mark.full
def test_watch_tells_how_many_packets_are_given_a_second(path: Path, workers: Callable[..., Worker]) -> None:
    make_rain(path, 1000)
    worker = workers(WORKER, path)
    with watched(path) as (process, next_look):
        looks = [next_look()]
        worker.tell("rain", 0, 700)
        worker.answers(700)
        while looks[-1]["envelopes"][0]["counts"]["granted"] < 700:
            looks.append(next_look())
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=TIME_LIMIT_S)
    assert (process.returncode, error) == (0, "")
    assert looks[0]["envelopes"][0]["grants_per_second"] is None
    assert looks[0]["sums"]["grants_per_second"] is None
    counted = 0.0
    for before, after in pairwise(looks):
        seconds = after["looked_at"] - before["looked_at"]
        assert seconds >= 0.9
        counted += after["sums"]["grants_per_second"] * seconds
        assert after["envelopes"][1]["grants_per_second"] == 0
    assert counted == pytest.approx(700, rel=0.05)


@pytest.mark.full
def test_a_file_renamed_over_under_its_workers_is_noticed(path: Path, workers: Callable[..., Worker]) -> None:
    made_it, opened_it = workers(WORKER, path), workers(WORKER, path)
    strays = sorted([made_it.process.pid, opened_it.process.pid])
    with watched(path) as (_, next_look):
        seen = next_look()
        assert (seen["file"]["is_replaced"], seen["file"]["strays"], seen["workers"]["alive"]) == (False, [], 2)
        hbcore.Engine(path.with_name("copy.hb")).close()
        os.replace(path.with_name("copy.hb"), path)
        while not seen["file"]["is_replaced"]:
            seen = next_look()
    report = run_json("inspect", path)
    assert report["file"]["strays"] == strays
    assert report["workers"]["alive"] == 0
    text = run("inspect", path).stdout
    assert "WARNING  what stood at this path before was renamed over or removed, and is still open somewhere" in text
    assert f"pid {strays[0]}, {strays[1]}\n" in text
    report = run_json("audit", path, status=1)
    assert "renamed over or removed" in report["failure"]
    made_it.kill()
    opened_it.kill()
    assert run_json("audit", path)["file"]["strays"] == []
    assert run_json("inspect", path)["file"]["strays"] == []


# ---- reading only -----------------------------------------------------------------------------------------------


@pytest.mark.full
def test_inspect_and_a_readonly_audit_write_nothing(path: Path, workers: Callable[..., Worker]) -> None:
    make_gala(path)
    worker = workers(WORKER, path)
    worker.tell("20:00", 100, 1)
    worker.answers(1)
    worker.kill()
    before, changed_at = path.read_bytes(), path.stat().st_mtime_ns
    for arguments in (("inspect",), ("inspect", "--json"), ("audit", "--readonly")):
        assert run(arguments[0], path, *arguments[1:]).returncode == 0
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == changed_at
    report = run_json("audit", path, "--readonly")
    assert (report["is_readonly"], report["because"]) == (True, "as asked")
    assert run_json("audit", path)["is_readonly"] is False
    assert path.read_bytes() != before  # the audit was one of its workers


def test_who_may_not_write_can_inspect_and_audit(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    program = """if 1:
        import json, os, sys
        import hbcore.cli
        if os.getuid() == 0:
            os.setuid(65534)
        for command in ("inspect", "audit"):
            status = hbcore.cli.main([command, sys.argv[1], "--json"])
            assert status == 0, status
        sys.exit(hbcore.cli.main(["audit", sys.argv[1]]))
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "gala.hb"
        make_gala(path)
        os.chmod(path, 0o444)
        before = path.read_bytes()
        process = run_python(program, path)
        assert path.read_bytes() == before
    assert process.stderr == ""
    seen, proved = map(json.loads, process.stdout.splitlines()[:2])
    assert proved["holds"]
    assert (proved["is_readonly"], proved["because"]) == (True, os.strerror(errno.EACCES))
    assert seen["sums"]["packets"] == proved["audit"]["packets"] == 23
    assert "opened   read only (Permission denied): what dead workers have left is where they left it" in process.stdout


def test_a_key_is_read_from_a_file_only(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = bytes(range(100, 132))
    with hbcore.Engine(path, key=key) as engine:
        engine.envelope("e", total=10, packets=2).claim("alice")
    contents = {"raw": key, "hex": key.hex().encode(), "line": key.hex().upper().encode() + b"\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        for command in ("inspect", "audit"):
            status, out, error = in_process(capsys, command, path, "--key-file", tmp_path / name, "--json")
            assert (status, error) == (0, "")
            assert json.loads(out)["file"]["keeps_key"] is False
            assert key.hex() not in out
    for content in (b"", key[:-1], key + b"\n", key.hex().encode()[:-1], key[::-1], b"\xff" * 9999):
        (tmp_path / "bad").write_bytes(content)
        for command in ("inspect", "audit"):
            status, out, error = in_process(capsys, command, path, "--key-file", tmp_path / "bad")
            assert (status, out, error.count("\n")) == (2, "", 1)
            assert "--key-file" in error
            assert content.hex() not in error or not content


# ---- what is wrong ----------------------------------------------------------------------------------------------


def damage(path: Path, user: object, name: str, offset: int) -> None:
    """Turn one bit of the slot of a user's claim over; ``offset`` counts from where the user's hash stands."""
    with hbcore.Engine(path) as engine:
        hashed = engine.user_hash(user)
        assert engine.envelope(name).find(user)
    turn_bit(path, hashed, offset)


def test_an_audit_that_fails_says_what_is_wrong_first(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        for name in ("sound", "bad", "worse"):
            engine.envelope(name, total=1000, packets=10).claim(f"user of {name}")
    damage(path, "user of bad", "bad", 0)
    damage(path, "user of worse", "worse", 0)
    result = run("audit", path)
    assert (result.returncode, result.stderr) == (1, "")
    last = result.stdout.splitlines()[-1]
    assert last.startswith("FAILED: envelope 'bad': ")
    assert "worse" not in result.stdout
    assert "The audit holds" not in result.stdout
    report = run_json("audit", path, status=1)
    assert f"FAILED: {report['failure']}" == last
    assert report["audit"] is report["sums"] is None
    assert report["envelopes"] == []


def test_a_damaged_envelope_does_not_hide_the_others(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        for name in ("first", HOSTILE, "last"):
            engine.envelope(name, total=1000, packets=10).claim("alice of " + name)
    damage(path, "alice of " + HOSTILE, HOSTILE, 16)  # the amount
    report = run_json("inspect", path, status=1)
    assert [envelope["state"] for envelope in report["envelopes"]] == ["open", "damaged", "open"]
    assert report["envelopes"][1]["counts"] is report["envelopes"][1]["amounts"] is None
    assert (report["sums"]["envelopes"], report["sums"]["total"]) == (2, 2000)
    result = run("inspect", path)
    assert (result.returncode, result.stderr) == (1, "")
    assert all(c.isprintable() or c == "\n" for c in result.stdout)
    assert re.search(r"^DAMAGED: envelope 'x\\x1b.* is damaged$", result.stdout, re.MULTILINE)
    assert re.search(r"^last .*open$", result.stdout, re.MULTILINE)
    assert run_json("audit", path, status=1)["failure"].startswith("envelope 'x\\x1b")


@pytest.mark.parametrize("command", ["inspect", "audit"])
def test_an_unusable_file_is_one_line_and_status_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_gala(tmp_path / "good.hb")
    content = (tmp_path / "good.hb").read_bytes()
    with hbcore.Engine(tmp_path / "good.hb", readonly=True) as engine:
        used = engine.info().used
    unusable = {
        "missing.hb": (None, "No such file or directory"),
        "missing/gala.hb": (None, "No such file or directory"),
        "empty.hb": (b"", "is not an hbcore file"),
        "text.hb": (b"hbcore\n" * 99999, "is not an hbcore file"),
        "cut.hb": (content[:100_000], "is truncated"),
        "cut\x1b[31m.hb": (content[:used], "is truncated"),
        "version.hb": (content[:8] + b"\x77" + content[9:], "has version 119 of the format"),
        "header.hb": (content[:40] + bytes([content[40] ^ 0xFF]) + content[41:], "has a damaged header"),
    }
    os.symlink(tmp_path / "good.hb", tmp_path / "link.hb")
    os.mkdir(tmp_path / "folder.hb")
    os.mkfifo(tmp_path / "pipe.hb")
    cases = {name: words for name, (_, words) in unusable.items()}
    cases |= {"link.hb": "is a symbolic link", "folder.hb": "is not a regular file", "pipe.hb": "is not a regular file"}
    for name, (bad, _) in unusable.items():
        if bad is not None:
            (tmp_path / name).write_bytes(bad)
    there = sorted(os.listdir(tmp_path))
    for name, words in cases.items():
        for options in ([], ["--json"]):
            status, out, error = in_process(capsys, command, tmp_path / name, *options)
            assert (status, out) == (2, ""), name
            assert re.fullmatch(rf"hbcore {command}: error: [^\n]+\n", error)
            assert words in error
            assert error[:-1].isprintable()
    assert sorted(os.listdir(tmp_path)) == there  # nothing was made
    if command == "inspect":
        status, _, error = in_process(capsys, "inspect", tmp_path / "good.hb", "--name", "21:00")
        assert status == 2
        assert "--name: there is no budget or envelope '21:00'" in error
        status, _, error = in_process(capsys, "inspect", tmp_path / "good.hb", "--name", "")
        assert status == 2
        assert "--name must be" in error


def test_a_file_that_is_cut_while_it_is_watched(path: Path) -> None:
    make_gala(path)
    with watched(path) as (process, next_look):
        next_look()
        os.truncate(path, 100_000)
        _, error = process.communicate(timeout=TIME_LIMIT_S)
    assert process.returncode == 2
    assert re.fullmatch(r"hbcore inspect: error: '[^\n]*' was truncated: [^\n]*\n", error)
