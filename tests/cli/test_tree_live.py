"""The tree of budgets while its workers run, are killed and spend: looks under load, and ``--watch``."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import (
    TIME_LIMIT_S,
    Worker,
    check_sums,
    in_process,
    make_gala,
    on_terminal,
    run_json,
    watched,
    without_colours,
)

import hbcore

pytestmark = pytest.mark.full


def make_rain(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        engine.budget("gala", 10**9).budget("app", 10**8).envelope("e", 10**6, 400)


SPENDER = """if 1:
    import sys, hbcore
    engine = hbcore.Engine(sys.argv[1])
    gala = engine.budget("gala")
    app, envelope = gala.budget("app"), gala.budget("app").envelope("e")
    print("ready", flush=True)
    first = int(sys.argv[2])
    for i in range(1 << 40):
        key = first + i % 300
        for budget in (gala, app):
            if budget.reserve(key + i // 300 * 1000, 7):
                (budget.release if i % 3 else budget.settle)(key + i // 300 * 1000)
        if envelope.claim(key) and i % 2:
            envelope.release(key)
        if i % 1000 == 0:
            app.top_up(first + i, 11)
            app.budget(str(first + i), 10).close()
"""


@pytest.fixture
def spenders(path: Path) -> Iterator[Callable[[int], Worker]]:
    started: list[Worker] = []

    def start(first: int) -> Worker:
        started.append(Worker(SPENDER, path, first))
        return started[-1]

    yield start
    for worker in started:
        worker.__exit__()


def test_looks_under_load_and_after_kills(
    path: Path, spenders: Callable[[int], Worker], capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts are never negative and sum to the total, whoever reserves, settles, tops up, closes or dies meanwhile."""
    make_rain(path)
    crew = [spenders(10**9 * (i + 1)) for i in range(2)]
    settled = 0
    for turn in range(30):
        if turn % 10 == 9:
            crew.pop(0).kill()
            crew.append(spenders(10**9 * (turn + 3)))
        report = run_json("inspect", path) if turn % 10 == 0 else look_at(path, capsys)
        of_gala = report["budgets"][0]
        assert (of_gala["total"], of_gala["state"]) == (10**9, "open")
        assert of_gala["amounts"]["settled"] >= settled  # final
        settled = of_gala["amounts"]["settled"]
        assert len(report["budgets"]) >= 2
    assert settled > 0
    for worker in crew:
        worker.kill()
    before = path.read_bytes()
    dead = look_at(path, capsys)
    assert path.read_bytes() == before
    assert dead["workers"]["alive"] == 0
    status, out, error = in_process(capsys, "audit", path, "--json")
    assert (status, error) == (0, "")
    proved = json.loads(out)
    assert proved["audit"]["budgets"] == len(proved["budgets"]) == len(dead["budgets"])
    assert proved["audit"]["amount_budgeted"] == 10**9
    assert proved["audit"]["amount_spent"] == proved["budgets"][0]["amounts"]["settled"] >= settled


def look_at(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Look in this process, as run_json does in another."""
    status, out, error = in_process(capsys, "inspect", path, "--json")
    assert (status, error) == (0, "")
    report: dict[str, object] = json.loads(out)
    check_sums(report)
    return report


def test_watch_tells_the_rate_of_every_budget(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        gala = engine.budget("gala", 10**6)
        for name in ("busy", "idle"):
            gala.budget(name, 10**5).envelope("e", 50_000, 500)
    with hbcore.Engine(path) as engine, watched(path) as (process, next_look):
        first, busy = next_look(), engine.budget("gala").budget("busy").envelope("e")
        busy.claim_many(range(100))
        second = next_look()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=TIME_LIMIT_S)
    assert (process.returncode, error) == (0, "")
    assert [budget["grants_per_second"] for budget in first["budgets"]] == [None] * 3
    seconds = second["looked_at"] - first["looked_at"]
    rates = {budget["name"]: budget["grants_per_second"] for budget in second["budgets"]}
    assert rates["gala"] == rates["busy"] == pytest.approx(100 / seconds, rel=0.05)
    assert rates["idle"] == 0
    assert second["sums"]["grants_per_second"] == rates["gala"]


def test_watch_fits_two_tables_on_a_terminal(path: Path) -> None:
    make_gala(path)
    with hbcore.Engine(path) as engine:
        gala = engine.budget("gala", 10**6)
        for i in range(50):
            gala.envelope(f"e{i}", 1_000, 10)
            engine.envelope(f"alone {i}", 1_000, 10)

    def act(process: object, seen: bytes) -> bool:
        if b"given/s" in seen:
            process.send_signal(signal.SIGINT)  # type: ignore[attr-defined]
            return True
        return False

    text = on_terminal("inspect", path, "--watch", rows=24, act=act)
    live = without_colours(text[text.index("\x1b[?1049h") : text.index("\x1b[?1049l")])
    for frame in live.split("hbcore inspect: ")[1:]:
        assert frame.count("\n") < 24
        assert " more " in frame
        assert "all 55" in frame
        assert "of the amount" in frame
