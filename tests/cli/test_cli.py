"""The command line, run as its users run it: real processes, real files, real terminals.

The words of the large replay are real and on every machine that runs Python: the identifiers and words of the standard
library's own sources, and the letters of the Unicode character database that ``unicodedata`` carries, most of which
are words on their own (Chinese, Japanese and Korean ideographs, Hangul syllables).
"""

import csv
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import sysconfig
import time
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hbcore
from hbcore.cli.checker import cross_check
from hbcore.cli.summary import BARS, FAIRNESS_MINIMUM, fairness, histogram
from hbcore.terms import envelope_terms
from hbcore.types import Status

COMMAND = [sys.executable, "-m", "hbcore"]
SEED = "5eed" * 16
PACKAGE_ROOT = str(Path(hbcore.__file__).parent.parent)
TIME_LIMIT_S = 120


def environment() -> dict[str, str]:
    """The environment of a command: the package under test, whatever the current directory."""
    path = os.pathsep.join(filter(None, [PACKAGE_ROOT, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", "COLUMNS": "100", "TERM": "xterm"}


def run(*arguments: object, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(),
        cwd=cwd,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    return subprocess.CompletedProcess(
        result.args, result.returncode, result.stdout.decode(), result.stderr.decode(errors="backslashreplace")
    )


def run_json(*arguments: object) -> dict[str, Any]:
    """Run a command that must succeed and say nothing but its JSON object."""
    result = run(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def refused(*arguments: object, cwd: Path | None = None) -> str:
    """Run a command that must be refused with one line and nothing on standard output; return the line."""
    result = run(*arguments, cwd=cwd)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"hbcore[a-z ]*: error: [^\n]+\n", result.stderr), result.stderr
    return result.stderr


def answers_of(path: Path) -> list[dict[str, Any]]:
    """Read a file of answers back, with the numbers as numbers."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, quoting=csv.QUOTE_NONNUMERIC)
    assert header == ["line", "user", "status", "amount", "packet"]
    return [dict(zip(header, row, strict=True)) for row in rows]


def check_consistent(report: dict[str, Any]) -> None:
    """Check that the figures of a report that holds agree with each other."""
    answers, amounts, envelope = report["answers"], report["amounts"], report["envelope"]
    assert report["holds"]
    assert all(check["holds"] for check in report["checks"].values())
    kinds = ("granted", "repeated", "sold_out", "closed")
    assert answers["requests"] == sum(answers[kind] for kind in kinds)
    assert answers["granted"] + answers["remaining_packets"] == envelope["packets"]
    assert amounts["count"] == answers["granted"] == report["audit"]["granted"]
    assert amounts["total"] == report["audit"]["amount_granted"]
    if answers["remaining_packets"] == 0:
        assert amounts["total"] == envelope["total"]
    assert sum(bar["packets"] for bar in amounts["histogram"]) == amounts["count"]
    assert amounts["histogram"][0]["low"] == amounts["min"]
    assert amounts["histogram"][-1]["high"] == amounts["max"] == report["luckiest"]["amount"]
    assert envelope["min"] <= amounts["min"] <= amounts["max"] <= envelope["max"]


# ---- rain -------------------------------------------------------------------------------------------------------


def test_rain_adds_up() -> None:
    report = run_json("rain", "--packets", 30_000, "--processes", 3, "--batch", 64)
    check_consistent(report)
    answers, speed = report["answers"], report["speed"]
    assert report["run"] == {"users": 37_500, "processes": 3, "batch": 64, "duplicates": 0.2, "file": None}
    assert answers["granted"] == 30_000
    assert answers["sold_out"] >= 7_500
    assert answers["repeated"] > 0
    assert answers["requests"] == pytest.approx(37_500 / 0.8, abs=3)
    assert sum(phase["requests"] for phase in speed.values()) == answers["requests"]
    assert sum(phase["granted"] for phase in speed.values()) == 30_000
    for phase in speed.values():
        assert len(phase["processes"]) == 3
        assert sum(process["requests"] for process in phase["processes"]) == phase["requests"]
        assert max(process["seconds"] for process in phase["processes"]) <= phase["seconds"] + 1e-6
    assert speed["single"]["requests"] == pytest.approx(answers["requests"] / 5, abs=3)
    assert sum(tenth["packets"] for tenth in report["arrival"]) == 30_000
    assert sum(tenth["best_share"] for tenth in report["arrival"]) == pytest.approx(1)


@pytest.mark.parametrize(
    "law",
    [
        ["--law", "equal"],
        ["--law", "double_mean", "--min", 40, "--max", 180],
        ["--law", "dirichlet", "--concentration", 1],
        ["--law", "dirichlet", "--min", 10, "--max", 400],
    ],
    ids=str,
)
def test_rain_of_every_law(law: list[object]) -> None:
    report = run_json("rain", "--packets", 5_000, "--processes", 2, *law)
    check_consistent(report)
    assert report["envelope"]["law"] == law[1]
    assert report["amounts"]["total"] == report["envelope"]["total"] == 500_000
    if law[1] == "equal":
        assert report["amounts"]["histogram"] == [{"low": 100, "high": 100, "packets": 5_000}]
    if "--max" in law:
        assert (report["envelope"]["min"], report["envelope"]["max"]) == (law[3], law[5])


@pytest.mark.parametrize(
    ("bounds", "total"), [(["--min", 500], 1_000_000), (["--max", 7], 7_000), (["--min", 60, "--max", 100], 100_000)]
)
def test_default_total_follows_the_bounds(bounds: list[object], total: int) -> None:
    report = run_json("rain", "--packets", 1_000, *bounds)
    check_consistent(report)
    assert report["envelope"]["total"] == total


def test_rain_amounts_are_those_of_the_seed() -> None:
    report = run_json("rain", "--packets", 4_000, "--total", 987_654, "--seed", SEED)
    amounts = hbcore.split(987_654, 4_000, seed=bytes.fromhex(SEED))
    assert report["envelope"]["seed"] == SEED
    assert report["amounts"]["histogram"] == [bar._asdict() for bar in histogram(amounts)]
    assert report["luckiest"]["amount"] == amounts.max() == amounts[report["luckiest"]["packet"]]


def test_rain_draws_another_seed_each_time() -> None:
    seeds = {run_json("rain", "--packets", 10)["envelope"]["seed"] for _ in range(2)}
    assert len(seeds) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", seed) for seed in seeds)


def test_rain_with_fewer_users_than_packets_leaves_some() -> None:
    report = run_json("rain", "--packets", 5_000, "--users", 3_000, "--total", 777_777)
    check_consistent(report)
    assert report["answers"]["granted"] == 3_000
    assert report["answers"]["remaining_packets"] == 2_000
    assert report["answers"]["sold_out"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--users", 1, "--packets", 1, "--total", 1],
        ["--users", 1, "--packets", 1, "--processes", 9, "--duplicates", 0.9],
        ["--users", 100, "--packets", 7, "--batch", 1, "--duplicates", 0],
        ["--users", 1_000, "--packets", 2, "--processes", 1, "--batch", 1_000_000],
        ["--packets", 1, "--total", (1 << 62) - 1],
    ],
    ids=str,
)
def test_rain_of_extreme_sizes(arguments: list[object]) -> None:
    report = run_json("rain", *arguments)
    check_consistent(report)


def test_rain_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gala.hb"
    report = run_json("rain", "--packets", 5_000, "--file", path)
    check_consistent(report)
    with hbcore.Engine(str(path)) as engine:
        claims = engine.envelope("rain").claims()
        assert len(claims) == len(np.unique(claims["packet"])) == 5_000
        assert claims["amount"].sum() == 500_000
        (claim,) = claims[claims["user"] == np.void(engine.user_hash(report["luckiest"]["user"]))]
        assert (claim["packet"], claim["amount"]) == (report["luckiest"]["packet"], report["luckiest"]["amount"])
    assert "--file" in refused("rain", "--packets", 5_000, "--file", path)


def test_rain_report_says_it_in_words() -> None:
    result = run("rain", "--packets", 30_000, "--seed", SEED)
    assert (result.returncode, result.stderr) == (0, "")
    for words in (
        "30,000 packets, 3,000,000 in all, law double_mean",
        SEED,
        "one by one",
        "in batches of 1,000",
        "GRANTED",
        "REPEATED",
        "SOLD_OUT",
        "█",
        "the luckiest packet",
        "first tenth",
        "✓ the engine's audit",
        "The audit holds: every packet once, every user once, sum equals total.",
    ):
        assert words in result.stdout


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and not yet seen the end of."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def interrupted_rain(act: Callable[[subprocess.Popen[str], list[int]], None]) -> tuple[int, str, list[int]]:
    """Start a rain of several seconds, act on it as soon as it has all its workers, and see how it ends."""
    arguments = [*COMMAND, "rain", "--packets", "3000000", "--processes", "3", "--duplicates", "0.9"]
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        limit = time.monotonic() + TIME_LIMIT_S
        while len(workers := children_of(process.pid)) < 3 and process.poll() is None and time.monotonic() < limit:
            pass
        act(process, workers)
        out, error = process.communicate(timeout=TIME_LIMIT_S)
    assert out == ""
    return process.returncode, error, workers


def test_rain_whose_worker_is_killed_says_so() -> None:
    status, error, workers = interrupted_rain(lambda _, workers: os.kill(workers[1], signal.SIGKILL))
    assert status == 1
    assert error == "hbcore rain: error: process 2 was killed by SIGKILL\n"
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Where the tests run in the background of a shell, Ctrl-C is ignored, and children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_rain() -> None:
    # As a terminal does it: the signal goes to every process of the group.
    status, error, workers = interrupted_rain(lambda process, _: os.killpg(process.pid, signal.SIGINT))
    assert status == 130
    assert error == "hbcore rain: error: interrupted\n"
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def on_terminal(*arguments: object) -> str:
    """Run a command with a terminal as its standard error, and return what was written there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs, env=environment()
    ) as process:
        os.close(theirs)
        seen = b""
        while select.select([ours], [], [], TIME_LIMIT_S)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the terminal's other side is closed
                break
            seen += piece
        process.wait(TIME_LIMIT_S)
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()


def test_display_is_seen_on_a_terminal_only(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"user {i}\n" for i in range(5_000)))
    seen = on_terminal("rain", "--packets", 100_000)
    assert "one by one" in seen
    assert "in batches of 1,000" in seen
    assert "100,000 packets" in seen
    assert "5,000 lines" in on_terminal("replay", log)
    assert on_terminal("rain", "--packets", 100_000, "--json") == ""


# ---- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--packets", "0"], "--packets must be within"),
        (["--packets", "-5"], "--packets must be within"),
        (["--packets", "many"], "--packets: must be an integer, not 'many'"),
        (["--packets", "1.5"], "--packets: must be an integer"),
        (["--packets", str(1 << 40)], "--packets must be within"),
        (["--packets", "10", "--total", "9"], "--total must be at least packets * min = 10, not 9"),
        (["--total", "0"], "--total must be within"),
        (["--total", str(1 << 62)], "--total must be within"),
        (["--packets", "10", "--total", "99", "--max", "9"], "--total must be at most packets * max = 90, not 99"),
        (["--min", "0"], "--min must be within"),
        (["--min", "9", "--max", "8"], "--max must be at least min (9), not 8"),
        (["--law", "fair"], "--law: invalid choice: 'fair'"),
        (["--concentration", "65"], "--concentration must be within 1 .. 64, not 65"),
        (["--seed", "5eed"], "--seed: must be 64 hexadecimal digits, not these 4 characters"),
        (["--seed", "g" * 64], "--seed: must be 64 hexadecimal digits"),
        (["--users", "0"], "--users must be within"),
        (["--users", "1_000_000_000_000"], "--users and --packets must be smaller"),
        (["--processes", "0"], "--processes must be within 1 .. 256, not 0"),
        (["--processes", "257"], "--processes must be within 1 .. 256, not 257"),
        (["--batch", "0"], "--batch must be within 1 .. 1,000,000, not 0"),
        (["--duplicates", "nan"], "--duplicates: must be a number within 0 .. 0.9, not 'nan'"),
        (["--duplicates", "1"], "--duplicates: must be a number within 0 .. 0.9, not '1'"),
        (["--duplicates", "-0.1"], "--duplicates: must be a number"),
        (["--file", "/nowhere/gala.hb"], "/nowhere/gala.hb"),
        (["--file", "/"], "/"),
        (["--fils", "gala.hb"], "--fils"),
    ],
    ids=str,
)
def test_bad_arguments_of_rain(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hbcore.cli import main

    assert main(["rain", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"hbcore( rain)?: error: [^\n]+\n", error)
    assert words in error


def test_bad_arguments_end_the_process_with_2(tmp_path: Path) -> None:
    assert "--packets must be within" in refused("rain", "--packets", 0)
    assert "rain | replay" in refused()
    assert "invalid choice: 'rein'" in refused("rein")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.txt"], "nowhere.txt: No such file or directory"),
        (["."], ".: Is a directory"),
        ([], "FILE"),
        (["log.csv"], "--column must name the user in a csv log"),
        (["log.jsonl"], "--column must name the user in a jsonl log"),
        (["log.txt", "--column", "user"], "--column is for a CSV or JSON-lines log"),
        (["log.txt", "--format", "xml"], "--format: invalid choice: 'xml'"),
        (["log.txt", "--name", ""], "--name must be 1 .. 255 bytes"),
        (["log.txt", "--name", "x" * 256], "--name must be 1 .. 255 bytes"),
        (["log.txt", "--packets", "0"], "--packets must be within"),
        (["log.txt", "--out", "answers.txt"], "--out must end in .csv or .jsonl, not 'answers.txt'"),
        (["log.txt", "--out", "log.csv"], "--out must be a new file: 'log.csv' exists"),
        (["log.txt", "--out", "nowhere/answers.csv"], "nowhere/answers.csv: No such file or directory"),
        (["log.txt", "--engine", "log.csv"], "log.csv"),
    ],
    ids=str,
)
def test_bad_arguments_of_replay(arguments: list[str], words: str, tmp_path: Path) -> None:
    for name in ("log.txt", "log.csv", "log.jsonl"):
        (tmp_path / name).write_text("user\nalice\n")
    assert words in refused("replay", *arguments, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"log.txt", "log.csv", "log.jsonl"}
    assert (tmp_path / "log.csv").read_text() == "user\nalice\n"


def test_unknown_out_is_refused_before_anything_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("alice\n")
    assert "--out" in refused("replay", "log.txt", "--out", "answers.xls", "--engine", "gala.hb", cwd=tmp_path)
    assert not (tmp_path / "gala.hb").exists()


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith("hbcore ")
    for command in ("rain", "replay"):
        text = run(command, "--help").stdout
        for key in ("holds", "envelope", "answers", "speed", "amounts", "luckiest", "arrival", "checks", "audit"):
            assert f"\n  {key} " in text


# ---- replay -----------------------------------------------------------------------------------------------------

PEOPLE = ["alice", " 张伟 ", "Ōno\tYōko", "بحر", "👩‍👩‍👧", "alice", "[red]x[/red]", "7", "e\u0301", "\u00e9", " 张伟 "]


def text_log(ending: str) -> bytes:
    return ending.join(PEOPLE).encode()


def csv_log() -> bytes:
    return ("time,user,city\r\n" + "".join(f'{i},"{user}",Xi\'an\r\n' for i, user in enumerate(PEOPLE))).encode()


def json_log() -> bytes:
    return "".join(json.dumps({"at": i, "who": user}) + "\n" for i, user in enumerate(PEOPLE)).encode()


@pytest.mark.parametrize(
    ("name", "content", "options", "first_line"),
    [
        ("log.txt", text_log("\n"), [], 1),
        ("log", text_log("\r\n") + b"\r\n", [], 1),
        ("log.txt", b"\xef\xbb\xbf" + text_log("\n"), [], 1),
        ("log.csv", csv_log(), ["--column", "user"], 2),
        ("log.csv", b"\xef\xbb\xbfuser\n" + text_log("\n"), ["--column", "user"], 2),
        ("log.jsonl", json_log(), ["--column", "who"], 1),
        ("log.txt", json_log(), ["--column", "who", "--format", "jsonl"], 1),
        ("log.csv", text_log("\n"), ["--format", "text"], 1),
    ],
    ids=["text", "crlf", "mark", "csv", "csv-mark", "jsonl", "format-jsonl", "format-text"],
)
@pytest.mark.parametrize("out", ["answers.csv", "answers.jsonl"])
def test_replay_answers_every_line_in_order(
    name: str, content: bytes, options: list[str], first_line: int, out: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    terms = ["--packets", 8, "--total", 1_000, "--seed", SEED]
    result = run("replay", name, *options, *terms, "--out", out, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "The audit holds" in result.stdout
    rows = answers_of(tmp_path / out)
    assert [row["user"] for row in rows] == PEOPLE
    assert [row["line"] for row in rows] == list(range(first_line, first_line + len(PEOPLE)))
    amounts = hbcore.split(1_000, 8, seed=bytes.fromhex(SEED)).tolist()
    granted = [row for row in rows if row["status"] == "GRANTED"]
    # Nine different people and eight packets: the ninth, é as one character and not as two, comes too late.
    assert [row["user"] for row in granted] == list(dict.fromkeys(PEOPLE))[:8]
    assert sorted(row["packet"] for row in granted) == list(range(8))
    assert sorted(row["amount"] for row in granted) == sorted(amounts)
    first = {row["user"]: (row["amount"], row["packet"]) for row in granted}
    for row in rows:
        if row["status"] == "REPEATED":
            assert (row["amount"], row["packet"]) == first[row["user"]]
    assert [row["status"] for row in rows[-6:]] == ["REPEATED", "GRANTED", "GRANTED", "GRANTED", "SOLD_OUT", "REPEATED"]
    assert (rows[-2]["amount"], rows[-2]["packet"]) == (0, -1)


def test_replay_from_standard_input(tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    result = run("replay", "-", "--json", "--out", out, stdin="张伟\nbob\n张伟\n".encode())
    report = json.loads(result.stdout)
    check_consistent(report)
    assert (report["run"]["log"], report["run"]["lines"], report["answers"]["repeated"]) == ("<stdin>", 3, 1)
    assert [row["status"] for row in answers_of(out)] == ["GRANTED", "GRANTED", "REPEATED"]


def test_integers_and_strings_of_json_are_different_users(tmp_path: Path) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "answers.jsonl"
    users = [7, "7", -1, (1 << 64) - 1, -(1 << 63), "-1", 7]
    log.write_text("".join(json.dumps({"user": user}) + "\n" for user in users))
    assert run_json("replay", log, "--column", "user", "--out", out)["answers"]["granted"] == 6
    assert [row["user"] for row in answers_of(out)] == users
    assert [row["status"] for row in answers_of(out)] == ["GRANTED"] * 6 + ["REPEATED"]


def test_csv_records_may_span_lines(tmp_path: Path) -> None:
    log, out = tmp_path / "log.csv", tmp_path / "answers.csv"
    log.write_text('user,note\n"a\nb","two\nlines"\n"c,""d""",x\n')
    assert run("replay", log, "--column", "user", "--out", out).returncode == 0
    assert [(row["line"], row["user"]) for row in answers_of(out)] == [(2, "a\nb"), (5, 'c,"d"')]


def test_lone_carriage_return_belongs_to_the_user(tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    assert run("replay", "-", "--out", out, stdin=b"a\rb\r\r\na\rb\r").returncode == 0
    assert [(row["user"], row["status"]) for row in answers_of(out)] == [("a\rb\r", "GRANTED"), ("a\rb\r", "REPEATED")]


@pytest.mark.parametrize("content", [b"", b"user\n"], ids=["nothing", "header"])
def test_a_log_of_nobody_claims_nothing(content: bytes, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_bytes(content)
    form = ["--column", "user"] if content else ["--format", "text"]
    report = run_json("replay", log, *form)
    assert report["answers"]["requests"] == report["amounts"]["count"] == 0
    assert report["luckiest"] is None


BAD_LINES = {
    "utf8": ("log.txt", b"alice\nbob\n\xff\xfe\n", 3, "byte 1 is 0xff, which is not UTF-8"),
    "utf8-cut": ("log.txt", b"alice\nbob\nca\xc3\n", 3, "byte 3 is 0xc3"),
    "empty": ("log.txt", b"alice\nbob\n\ncarol\n", 3, "the user is empty"),
    "empty-crlf": ("log.txt", b"alice\r\nbob\r\n\r\n", 3, "the user is empty"),
    "long-user": ("log.txt", b"alice\nbob\n" + b"x" * 65_537, 3, "the user is 65,537 bytes long"),
    "long-line": ("log.txt", b"alice\nbob\n" + b"x" * 3_000_000, 3, "longer than 1,048,576 bytes"),
    "csv-utf8": ("log.csv", b"user\nalice\n\x80\n", 3, "not UTF-8"),
    "csv-empty": ("log.csv", b"user,n\nalice,1\n,2\n", 3, "the user is empty"),
    "csv-blank": ("log.csv", b"user\nalice\n\nbob\n", 3, "0 fields where the header has 1"),
    "csv-few": ("log.csv", b"n,user\n1,alice\n2\n", 3, "1 fields where the header has 2"),
    "csv-many": ("log.csv", b"n,user\n1,alice\n2,b,c\n", 3, "3 fields where the header has 2"),
    "csv-quote": ("log.csv", b'user\nalice\n"bob\ncarol\n', 3, "this is not CSV"),
    "csv-after-quote": ("log.csv", b'user\n"a\nlice"\n"bob"x\n', 4, "this is not CSV"),
    "csv-column": ("log.csv", b"usr,n\nalice,1\n", 1, "no column 'user': --column must be one of 'usr', 'n'"),
    "csv-twice": ("log.csv", b"user,user\na,b\n", 1, "the column 'user' is in the header 2 times"),
    "csv-nothing": ("log.csv", b"", 1, "the log is empty"),
    "json-broken": ("log.jsonl", b'{"user": "alice"}\n{"user": "bob"}\n{"user": \n', 3, "this is not JSON"),
    "json-blank": ("log.jsonl", b'{"user": "alice"}\n\n', 2, "this is not JSON"),
    "json-deep": ("log.jsonl", b'{"user": "alice"}\n' + b"[" * 200_000 + b"\n", 2, "not to be read"),
    "json-array": ("log.jsonl", b'{"user": "alice"}\n["bob"]\n', 2, "the line is ['bob']: it must be an object"),
    "json-key": ("log.jsonl", b'{"user": "alice"}\n{"name": "bob"}\n', 2, "no key 'user': the object has 'name'"),
    "json-twice": ("log.jsonl", b'{"user": "alice", "user": "bob"}\n', 1, "a key occurs twice"),
    "json-null": ("log.jsonl", b'{"user": null}\n', 1, "the user is None: it must be a string or an integer"),
    "json-bool": ("log.jsonl", b'{"user": true}\n', 1, "the user is True"),
    "json-float": ("log.jsonl", b'{"user": 7.0}\n', 1, "the user is 7.0"),
    "json-nan": ("log.jsonl", b'{"user": NaN}\n', 1, "the user is nan"),
    "json-list": ("log.jsonl", b'{"user": [1]}\n', 1, "the user is [1]"),
    "json-empty": ("log.jsonl", b'{"user": ""}\n', 1, "the user is empty"),
    "json-big": ("log.jsonl", b'{"user": 18446744073709551616}\n', 1, "an integer must be within -2**63 .. 2**64 - 1"),
    "json-surrogate": ("log.jsonl", b'{"user": "\\ud800"}\n', 1, "has a lone surrogate"),
}


@pytest.mark.parametrize(("name", "content", "line", "words"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_and_what_came_before_is_answered(
    name: str, content: bytes, line: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hbcore.cli import main

    log, out = tmp_path / name, tmp_path / "answers.jsonl"
    log.write_bytes(content)
    column = [] if name == "log.txt" else ["--column", "user"]
    assert main(["replay", str(log), *column, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hbcore replay: error: {log}:{line}: ")
    assert words in error
    assert error.count("\n") == 1
    rows = answers_of(out)
    before = {"log.txt": ["alice", "bob"], "log.csv": ["alice"], "log.jsonl": ["alice", "bob"]}[name]
    if name == "log.csv" and line == 4:
        before = ["a\nlice"]
    first = 2 if name == "log.csv" else 1
    assert [row["user"] for row in rows] == before[: max(0, line - first)]


def test_what_came_before_a_bad_line_is_on_disk(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"".join(b"user %d\n" % i for i in range(2_500)) + b"\xff\n" + b"late\n")
    error = refused("replay", "log.txt", "--out", "answers.csv", "--engine", "gala.hb", cwd=tmp_path)
    assert "log.txt:2501: byte 1 is 0xff" in error
    rows = answers_of(tmp_path / "answers.csv")
    assert [row["user"] for row in rows] == [f"user {i}" for i in range(2_500)]
    with hbcore.Engine(str(tmp_path / "gala.hb")) as engine:
        envelope = engine.envelope("replay")
        assert envelope.stats().granted == 2_500
        assert envelope.find("late") is None
        for row in rows[::100]:
            claim = envelope.find(row["user"])
            assert claim is not None
            assert (claim.amount, claim.packet) == (row["amount"], row["packet"])


def test_replay_goes_on_in_the_engine_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("alice\nbob\n")
    (tmp_path / "two.txt").write_text("bob\ncarol\ndave\n")
    engine = ["--engine", tmp_path / "gala.hb", "--name", "20:00"]
    first = run_json("replay", tmp_path / "one.txt", *engine, "--packets", 3, "--total", 100)
    assert first["envelope"]["seed"] is None  # claims may still come
    assert "REPEATED" in run("replay", tmp_path / "one.txt", *engine).stdout
    again = run_json("replay", tmp_path / "two.txt", *engine, "--out", tmp_path / "two.csv")
    assert again["envelope"] == {"name": "20:00", "total": 100, "packets": 3}
    assert [row["status"] for row in answers_of(tmp_path / "two.csv")] == ["REPEATED", "GRANTED", "SOLD_OUT"]
    error = refused("replay", tmp_path / "two.txt", *engine, "--packets", 4, "--total", 100)
    assert "'20:00' exists with packets = 3, not 4" in error


def test_a_failed_audit_is_status_1(tmp_path: Path) -> None:
    """One bit of one user's hash is turned over in the file, as a bad disk might do."""
    log, path = tmp_path / "log.txt", tmp_path / "gala.hb"
    log.write_text("alice\nbob\n")
    assert run("replay", log, "--engine", path, "--packets", 3, "--total", 1000).returncode == 0
    with hbcore.Engine(path) as engine:
        user = engine.user_hash("bob")
    engine_file = path.read_bytes()
    assert engine_file.count(user) == 1
    path.write_bytes(engine_file.replace(user, bytes([user[0] ^ 1]) + user[1:]))
    result = run("replay", "-", "--engine", path)
    assert result.returncode == 1
    assert "✗ the engine's audit: " in result.stdout
    assert "the index does not lead from its user to it" in " ".join(result.stdout.split())
    assert "The audit holds" not in result.stdout
    result = run("replay", "-", "--engine", path, "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["holds"], report["checks"]["audit"]["holds"]) == (1, False, False)
    assert report["audit"] is None


def test_no_user_is_printed_as_markup_or_as_an_escape_code() -> None:
    for user in ("[bold]x[/bold] :smile: [/]", "\x1b[31mred a\u202eb", "\x9b31m" + "x" * 5_000):
        result = run("replay", "-", "--packets", 1, "--total", 5, stdin=user.encode() + b"\n")
        assert result.returncode == 0
        assert repr(user)[:40] in result.stdout
        assert not set(result.stdout) & {"\x1b", "\u202e", "\x9b"}


# ---- a hundred thousand real words ------------------------------------------------------------------------------


def real_words(count: int) -> list[str]:
    """Different real words of this machine: those of the standard library's sources, then letters of all scripts."""
    words: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            words.update(dict.fromkeys(re.findall(r"\w+", path.read_text("utf-8", errors="ignore"))))
        if len(words) >= count * 6 // 10:
            break
    letters = (chr(code) for code in range(0x80, sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Lo")
    words.update(dict.fromkeys(letters))
    return list(words)[:count]


def test_a_hundred_thousand_real_words_get_one_answer_each_and_twice_the_same(tmp_path: Path) -> None:
    words = real_words(100_000)
    assert len(set(words)) == 100_000
    assert sum(not word.isascii() for word in words) > 20_000
    log = tmp_path / "words.txt"
    late = words[::10]  # every tenth comes again at the end
    log.write_text("".join(f"{word}\n" for word in words + late), encoding="utf-8")
    outs = [tmp_path / "first.csv", tmp_path / "second.csv"]
    terms = ["--packets", 90_000, "--total", 12_345_678, "--seed", SEED]
    reports = [run_json("replay", log, *terms, "--out", out) for out in outs]
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert len({json.dumps([report["amounts"], report["answers"], report["arrival"]]) for report in reports}) == 1
    check_consistent(reports[0])
    rows = answers_of(outs[0])
    assert [row["user"] for row in rows] == words + late
    assert [row["status"] for row in rows[:100_000]] == ["GRANTED"] * 90_000 + ["SOLD_OUT"] * 10_000
    assert sorted(row["packet"] for row in rows[:90_000]) == list(range(90_000))
    amounts = hbcore.split(12_345_678, 90_000, seed=bytes.fromhex(SEED))
    assert [row["amount"] for row in rows[:90_000]] == [amounts[int(row["packet"])] for row in rows[:90_000]]
    first = {row["user"]: row for row in rows[:100_000]}
    for row in rows[100_000:]:
        expected = first[row["user"]]
        assert row["status"] == ("REPEATED" if expected["status"] == "GRANTED" else "SOLD_OUT")
        assert (row["amount"], row["packet"]) == (expected["amount"], expected["packet"])


# ---- the checks themselves --------------------------------------------------------------------------------------


def broken(change: Callable[[np.ndarray, np.ndarray], None], remaining: int = 0, seconds_each: int = 1) -> set[str]:
    """Answer 300 requests for 200 packets truly, falsify the answers, and return which checks fail.

    Request i is sent at second i and takes ``seconds_each``; every request has a process of its own.
    """
    terms = envelope_terms(20_000, 200, seed=bytes.fromhex(SEED))
    users = np.concatenate([np.arange(250), np.arange(50)])
    with hbcore.Engine() as engine:
        answers = engine.envelope("e", total=20_000, packets=200, seed=terms.seed).claim_many(users)
    change(users, answers)
    checks = cross_check(terms, 250, remaining, users, answers, lambda rows: (rows, rows, rows + seconds_each))
    return {check.key for check in checks if not check.holds}


def swap(name: str, a: int, b: int) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(users: np.ndarray, answers: np.ndarray) -> None:
        assert answers[name][a] != answers[name][b]
        answers[name][[a, b]] = answers[name][[b, a]]

    return change


def put(name: str, row: int, value: int) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(users: np.ndarray, answers: np.ndarray) -> None:
        assert answers[name][row] != value
        answers[name][row] = value

    return change


def grant_twice(users: np.ndarray, answers: np.ndarray) -> None:
    answers[1] = answers[0]


def one_user_twice(users: np.ndarray, answers: np.ndarray) -> None:
    users[1] = users[0]


def turn_away(users: np.ndarray, answers: np.ndarray) -> None:
    """The last who got a packet is told SOLD_OUT, although it is free."""
    answers[199] = (Status.SOLD_OUT, 0, -1)


def turn_away_first(users: np.ndarray, answers: np.ndarray) -> None:
    """User 150 is told SOLD_OUT, and then gets a packet; that of user 60 goes to user 220."""
    users[60] = users[150]
    answers[220], answers[60] = answers[60], (Status.SOLD_OUT, 0, -1)


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (lambda users, answers: None, set()),
        (put("status", 3, 255), {"answers"}),
        (put("packet", 3, 200), {"answers"}),
        (put("packet", 3, -1), {"answers"}),
        (put("amount", 3, 0), {"answers"}),
        (put("packet", 220, 5), {"answers"}),
        (grant_twice, {"packets", "sum", "repeated"}),
        (one_user_twice, {"users", "repeated"}),
        (swap("packet", 250, 251), {"repeated"}),
        (swap("amount", 250, 251), {"repeated"}),
        (swap("amount", 60, 61), {"seed"}),
        (swap("packet", 60, 61), {"seed"}),
        (turn_away, {"sold_out", "sum"}),
        (lambda users, answers: users.__setitem__(220, 60), {"sold_out"}),
        (turn_away_first, {"sold_out"}),
    ],
)
def test_cross_check_sees(change: Callable[[np.ndarray, np.ndarray], None], failing: set[str]) -> None:
    assert broken(change) == failing


def test_one_user_may_get_both_answers_only_at_the_same_time() -> None:
    def turn_away_a_holder(users: np.ndarray, answers: np.ndarray) -> None:
        users[220] = users[180]

    assert broken(turn_away_a_holder, seconds_each=40) == {"sold_out"}
    assert broken(turn_away_a_holder, seconds_each=41) == set()


def test_cross_check_sees_money_that_is_not_there() -> None:
    assert broken(lambda users, answers: None, remaining=1) == {"sum"}


@pytest.mark.parametrize("law", ["equal", "double_mean", "dirichlet"])
@pytest.mark.parametrize(("total", "packets"), [(1, 1), (2, 2), (500, 100), (123_456, 1_000), ((1 << 62) - 1, 3_000)])
def test_histogram_holds_every_amount_once(law: str, total: int, packets: int) -> None:
    amounts = hbcore.split(total, packets, law, seed=bytes.fromhex(SEED))
    bars = histogram(amounts)
    assert 1 <= len(bars) <= BARS
    assert (bars[0].low, bars[-1].high) == (amounts.min(), amounts.max())
    assert all(one.high + 1 == other.low for one, other in pairwise(bars))
    for bar in bars:
        assert bar.packets == np.count_nonzero((amounts >= bar.low) & (amounts <= bar.high))


def test_fairness_would_show_an_advantage() -> None:
    amounts = np.sort(hbcore.split(10_000_000, 100_000, seed=bytes.fromhex(SEED)))[::-1]
    found = fairness(amounts)
    assert found is not None
    assert found.deciles[0].best_share == pytest.approx(1)
    assert found.deciles[0].mean - found.deciles[-1].mean > 100
    assert fairness(amounts[: FAIRNESS_MINIMUM - 1]) is None


def test_fairness_does_not_see_an_advantage_where_there_is_none() -> None:
    """Ties at the border of the best hundredth are shared, not given to whoever comes first."""
    found = fairness(np.full(100_000, 7))
    assert found is not None
    assert {(tenth.mean, round(tenth.best_share, 9)) for tenth in found.deciles} == {(7.0, 0.1)}
    assert (found.mean_noise, round(found.best_noise, 9)) == (0, 0)
