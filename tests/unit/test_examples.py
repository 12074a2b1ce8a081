"""The documents do what they say: every example runs as a process of its own, and so does the Python of every document.

The blocks of one document are one program, in the order in which they stand, as a reader would try them.
"""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import hbcore

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = ROOT / "docs" / "examples"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TIME_LIMIT_S = 120

Run = Callable[..., str]


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that imports the hbcore under test, and not a source tree that is near."""
    package_root = str(Path(hbcore.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": package_root, "PYTHONSAFEPATH": "", "NO_PROXY": "127.0.0.1", **more}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program in an empty folder and return what it prints."""

    def run(program: Path, *arguments: object) -> str:
        process = subprocess.run(
            [sys.executable, str(program), *map(str, arguments)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


def blocks(document: Path) -> list[str]:
    return BLOCK.findall(document.read_text())


# ---- the documents --------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("document", [ROOT / "README.md", *DOCUMENTS], ids=lambda path: path.name)
def test_the_python_of_a_document_runs(document: Path, run: Run, tmp_path: Path) -> None:
    program = "\n".join(blocks(document))
    if not program:
        pytest.skip("this document has no Python")
    for package in ("fastapi", "httpx"):
        if re.search(rf"^(import|from) {package}\b", program, re.MULTILINE):
            pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[examples]'")
    script = tmp_path / "document.py"
    script.write_text(program)
    run(script)


def test_the_commands_of_the_command_line_run(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "hbcore"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hbcore "$@"\n')
    command.chmod(0o755)
    (script,) = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs" / "cli.md").read_text(), re.DOTALL | re.MULTILINE)
    process = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=environment(PATH=f"{command.parent}{os.pathsep}{os.environ['PATH']}", PYTHONUTF8="1"),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    answers = [line.split(",")[1:3] for line in process.stdout.splitlines()[-3:]]
    assert answers == [['"ann"', '"GRANTED"'], ['"bob"', '"GRANTED"'], ['"ann"', '"REPEATED"']]


@pytest.mark.parametrize("document", [ROOT / "README.md", *DOCUMENTS], ids=lambda path: path.name)
def test_the_links_of_a_document_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)", document.read_text()):
        if "://" in target or Path(target).name == "api.md":  # which is written when the reference is built
            continue
        assert (document.parent / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (document.parent / target).read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 800


@pytest.mark.parametrize("name", ["ten_lines.py", "payout.py"])
def test_the_readme_shows_an_example_as_it_is(name: str) -> None:
    """What a reader copies is what the tests below have run."""
    program = (EXAMPLES / name).read_text().split('"""', 2)[2]
    assert program.strip() in [block.strip() for block in blocks(ROOT / "README.md")]


def test_every_example_is_named_in_a_document() -> None:
    text = "".join(document.read_text() for document in DOCUMENTS)
    assert [path.name for path in EXAMPLES.glob("*.py") if f"examples/{path.name}" not in text] == []


# ---- the examples ---------------------------------------------------------------------------------------------------


def test_ten_lines(run: Run) -> None:
    output = run(EXAMPLES / "ten_lines.py")
    assert re.match(
        r"user-42 got \d+ fen: packet 0, GRANTED\n49 of 1000 were in time\nAuditReport\(envelopes=1", output
    )


def test_budget_tree(run: Run) -> None:
    lines = run(EXAMPLES / "budget_tree.py").splitlines()
    assert lines[0].startswith("100000 fen go back from 23:00 to BudgetStats(total=500000, available=500000,")
    assert lines[1].startswith("500000 fen go back from night to BudgetStats(total=3000000, available=2000000,")
    assert lines[2] == "order-17: GRANTED, and once more: REPEATED"
    assert "settled=4200" in lines[3]
    assert "amount_budgeted=3000000" in lines[4]


def test_workers(run: Run) -> None:
    assert run(EXAMPLES / "workers.py").splitlines() == [
        f"exit codes: [{-signal.SIGKILL}, 0, 0, 0]",
        "200000 of 200000 packets granted, 20000000 of 20000000 fen",
    ]


def test_event_loop(run: Run) -> None:
    assert run(EXAMPLES / "event_loop.py").splitlines() == [
        "1000 of 1200 taps were answered with a packet; 500 packets are granted",
        "1000000 packets granted while the loop turned: True",
    ]


def test_rain_from_eight_to_five_past(run: Run) -> None:
    lines = run(EXAMPLES / "rain.py", 0.5, 0.5).splitlines()
    assert lines[:3] + lines[4:] == ["before: NOT_YET", "during: GRANTED", "again: REPEATED", "after: CLOSED"]
    back = int(lines[3].removeprefix("back in the campaign: "))
    assert 3_000_000 - 200_000 < back < 3_000_000  # all but the one packet that was claimed


def test_coupon_codes(run: Run) -> None:
    assert run(EXAMPLES / "coupon_codes.py").splitlines() == [
        "user-1: TEA-000000",
        "user-2: TEA-000001",
        "user-1: TEA-000000",
        "used: ['TEA-000000']",
        "998 more codes, each once",
        "too late: None",
    ]


def test_prizes(run: Run) -> None:
    first = run(EXAMPLES / "prizes.py")
    assert first.splitlines()[0] == "the same ticket again: True"
    assert first.splitlines()[2:] == ["[('bubble tea', 50), ('free order', 3), ('nothing', 947)]", "too late: None"]
    assert run(EXAMPLES / "prizes.py") == first  # everything was given before, and stays what it was


# ---- the payout over HTTP -------------------------------------------------------------------------------------------


class Server:
    """A uvicorn of an example on a port of its own; a killed one is started again on the same port."""

    def __init__(self, name: str, folder: Path, **more: str) -> None:
        self.name, self.folder, self.environment = name, folder, environment(**more)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        fd = self.socket.fileno()
        command = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--fd", str(fd), "--log-level", "error"]
        self.process = subprocess.Popen(
            [sys.executable, *command, f"{self.name}:app"], cwd=self.folder, env=self.environment, pass_fds=[fd]
        )

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(TIME_LIMIT_S)
            self.process = None


@pytest.fixture
def payouts(tmp_path: Path) -> Iterator[Server]:
    for package in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[examples]'")
    provider = Server("provider", tmp_path)
    shop = Server("payout", tmp_path, PROVIDER=f"{provider.url}/payments")
    try:
        provider.start()
        shop.start()
        yield shop
    finally:
        for server in (shop, provider):
            server.stop()
            server.socket.close()


def payments(folder: Path) -> list[tuple[str, str, int]]:
    with closing(sqlite3.connect(folder / "payments.db")) as database:  # alone, it would not close itself
        return database.execute("SELECT key, user, amount FROM payments ORDER BY user").fetchall()


def test_a_payout_worker_pays_what_a_server_left(
    payouts: Server, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    program, provider = EXAMPLES / "payout_worker.py", payouts.environment["PROVIDER"]
    monkeypatch.setenv("PROVIDER", provider)
    assert httpx.get(provider, timeout=TIME_LIMIT_S, trust_env=False).status_code == 405  # it has started, and answers
    assert run(program, "claim", "ann", "bob", "declined-dan", "lost-lea", "ann").splitlines() == [
        *(f"{user} GRANTED" for user in ("ann", "bob", "declined-dan", "lost-lea")),
        "ann REPEATED",
    ]
    with hbcore.Engine(tmp_path / "gala.hb") as engine:
        engine.envelope("gala-2026/20:00").claim("somebody else's")
    assert run(program, "pay") == "2 paid, 1 declined, 1 unclear, 1 unknown\n"
    assert run(program, "pay") == "1 paid, 0 declined, 0 unclear, 1 unknown\n"  # under the key whose answer was lost
    assert run(program, "claim", "ann", "eve") == "ann REPEATED\neve GRANTED\n"
    assert run(program, "pay") == "1 paid, 0 declined, 0 unclear, 1 unknown\n"
    assert [user for _, user, _ in payments(tmp_path)] == ["ann", "bob", "eve", "lost-lea"]
    with hbcore.Engine(tmp_path / "gala.hb", readonly=True) as engine:
        stats = engine.envelope("gala-2026/20:00").stats()
        assert (stats.granted, stats.settled) == (1, 4)
        assert stats.amounts.settled == sum(amount for *_, amount in payments(tmp_path))


@pytest.mark.full
def test_a_payout_over_http_pays_nobody_twice(payouts: Server, tmp_path: Path) -> None:
    import httpx

    def claim(user: str) -> httpx.Response:
        deadline = time.monotonic() + TIME_LIMIT_S
        while True:
            try:
                return client.post(f"{payouts.url}/claims/{user}", timeout=TIME_LIMIT_S)
            except httpx.TransportError:  # a server that was killed with the connection in its queue
                if time.monotonic() > deadline:
                    raise

    with httpx.Client(trust_env=False) as client:
        first = claim("ann")
        assert first.status_code == 200
        assert first.json()["status"] == "PAID"
        assert claim("ann").json() == first.json()

        assert claim("declined-dan").status_code == 402
        assert claim("declined-dan").status_code == 402

        assert claim("lost-lea").status_code == 500  # paid, and the answer was lost
        again = claim("lost-lea")  # so the claim is still there, and its payment is repeated under the same key
        assert again.json()["status"] == "PAID"

        payouts.stop(signal.SIGKILL)
        payouts.start()
        assert claim("ann").json() == first.json()

    paid = payments(tmp_path)
    assert [(user, amount) for _, user, amount in paid] == [
        ("ann", first.json()["amount"]),
        ("lost-lea", again.json()["amount"]),
    ]
    with hbcore.Engine(tmp_path / "gala.hb", readonly=True) as engine:
        stats = engine.envelope("gala-2026/20:00").stats()
        assert (stats.granted, stats.settled) == (0, 2)
        assert stats.amounts.settled == sum(amount for _, _, amount in paid)
