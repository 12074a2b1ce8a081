"""``hbcore rain`` and the arguments of all commands, run as users run them: real processes, files and terminals."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from children import children_of
from commands import COMMAND, TIME_LIMIT_S, environment
from reports import SEED, check_consistent, refused, run, run_json

import hbcore
from hbcore.cli.summary import histogram

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


@pytest.mark.full
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


def interrupted_rain(act: Callable[[subprocess.Popen[str], list[int]], None]) -> tuple[int, str, list[int]]:
    """Start a rain of several seconds, act on it as soon as it has all its workers, and see how it ends."""
    arguments = [*COMMAND, "rain", "--packets", "3000000", "--processes", "3", "--duplicates", "0.9"]
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(COLUMNS="100", TERM="xterm"),
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
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(COLUMNS="100", TERM="xterm"),
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


@pytest.mark.full
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


@pytest.mark.full
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
