"""``hbcore replay``, run as its users run it: logs in every form, and answers that hold.

The words of the large replay are real and on every machine that runs Python: the identifiers and words of the standard
library's own sources, and the letters of the Unicode character database that ``unicodedata`` carries, most of which
are words on their own (Chinese, Japanese and Korean ideographs, Hangul syllables).
"""

import json
import re
import sys
import sysconfig
import unicodedata
from pathlib import Path

import pytest
from marks import full_but
from reports import SEED, answers_of, check_consistent, refused, run, run_json

import hbcore

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
@pytest.mark.parametrize("out", full_but(["answers.csv", "answers.jsonl"], "answers.csv"))
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


@pytest.mark.full
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
