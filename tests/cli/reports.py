"""What the tests of ``hbcore rain`` and ``hbcore replay`` share: their reports and answers, read and checked."""

import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import commands

SEED = "5eed" * 16


def run(*arguments: object, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return commands.run(*arguments, stdin=stdin, cwd=cwd, COLUMNS="100", TERM="xterm")


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
