"""The storm in its short form, and that its check sees every kind of broken promise.

The long form is ``python tests/storm/storm.py --kills 10000``, for a memory engine with ``--memory``.
"""

import os
import select
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from children import children_of
from marks import full_but
from running import run_script, script_command
from storm_model import HISTORY, Answer, Broken, Kind, check_history

SCRIPT = Path(__file__).parent / "storm.py"
AMOUNTS = {0: np.array([60, 40])}


def command(folder: Path, *options: str) -> dict:
    """Return what runs the storm with the hbcore under test."""
    return script_command(SCRIPT, "--folder", folder, *options)


@pytest.mark.parametrize("kills", full_but([20, 150], 20))
@pytest.mark.parametrize("options", full_but([[], ["--memory"]], []), ids=["file", "memory"])
def test_nothing_is_lost_in_a_storm(options: list[str], kills: int, tmp_path: Path) -> None:
    printed = run_script(SCRIPT, "--folder", tmp_path, "--kills", kills, "--seed", 1, *options, timeout=300)
    assert "no promise broken" in printed
    assert not any(tmp_path.iterdir()), "a storm that has broken nothing leaves nothing behind"


@pytest.mark.parametrize("number", full_but([signal.SIGINT, signal.SIGTERM, signal.SIGKILL], signal.SIGKILL))
def test_a_storm_that_is_ended_leaves_nobody_behind(number: int, tmp_path: Path) -> None:
    """Also not those that are stopped, and also not when the storm itself is killed."""
    ours, theirs = os.pipe()
    # Every process of the storm inherits their end; ours reads its end of file when the last of them is dead.
    endless = command(tmp_path, "--kills", "1000000", "--kills-a-round", "1000000")
    # What runs in the background of a script ignores SIGINT, and so would the storm.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        storm = subprocess.Popen(**endless, stdout=subprocess.DEVNULL, pass_fds=[theirs])
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(theirs)
    try:
        while sum(len(children_of(child)) for child in children_of(storm.pid)) < 4:
            assert storm.poll() is None
        storm.send_signal(number)
        storm.wait(60)
        assert select.select([ours], [], [], 60)[0], "a process of the storm lives on"
        assert os.read(ours, 1) == b""
    finally:
        storm.kill()
        storm.wait()
        os.close(ours)


def history(*calls: tuple) -> np.ndarray:
    """Return a history: (began, ended, worker, user, kind, answer, packet) of each call, all about one envelope."""
    return np.array(
        [
            (began, ended, worker, 0, user, packet, AMOUNTS[0][packet] if packet >= 0 else 0, kind, answer, 0)
            for began, ended, worker, user, kind, answer, packet in calls
        ],
        HISTORY,
    )


GRANTED = (0, 10, 0, 7, Kind.CLAIM, Answer.GRANTED, 1)
OTHER = (0, 10, 1, 8, Kind.CLAIM, Answer.GRANTED, 0)
RELEASED = (20, 30, 0, 7, Kind.RELEASE, Answer.RELEASED, 1)
SETTLED = (20, 30, 0, 7, Kind.SETTLE, Answer.HELD, 1)
CLOSED = (20, 30, 0, -1, Kind.CLOSE, Answer.DONE, -1)
CUT_OFF_RELEASE = (20, 35, 0, 7, Kind.RELEASE, Answer.CUT_OFF, -1)
WAITING = (0, 60, 0, 7, Kind.CLAIM, Answer.GRANTED, 1)
CUT_OFF_CLAIM = (20, 35, 0, 9, Kind.CLAIM, Answer.CUT_OFF, -1)

RIGHT = {
    "claimed, released, claimed anew": [GRANTED, RELEASED, (40, 50, 1, 9, Kind.CLAIM, Answer.GRANTED, 1)],
    "a retry": [GRANTED, (20, 30, 1, 7, Kind.CLAIM, Answer.REPEATED, 1)],
    "a race that the later one won": [
        (0, 30, 0, 7, Kind.CLAIM, Answer.REPEATED, 1),
        (10, 20, 1, 7, Kind.CLAIM, Answer.GRANTED, 1),
    ],
    "a release that a death has cut off, and happened": [
        GRANTED,
        CUT_OFF_RELEASE,
        (40, 50, 1, 7, Kind.FIND, Answer.NONE, -1),
    ],
    "a release that a death has cut off, and did not happen": [
        GRANTED,
        CUT_OFF_RELEASE,
        (40, 50, 1, 7, Kind.CLAIM, Answer.REPEATED, 1),
    ],
    "a claim that a death has cut off, and happened": [CUT_OFF_CLAIM, (40, 50, 1, 9, Kind.FIND, Answer.HELD, 0)],
    "sold out": [GRANTED, OTHER, (20, 30, 2, 9, Kind.CLAIM, Answer.SOLD_OUT, -1)],
    "sold out while a release is under way": [
        GRANTED,
        OTHER,
        RELEASED,
        (25, 35, 2, 9, Kind.CLAIM, Answer.SOLD_OUT, -1),
    ],
    "sold out while a claim of a user who has another packet is under way": [
        WAITING,
        (10, 20, 1, 7, Kind.CLAIM, Answer.GRANTED, 0),
        (25, 30, 2, 9, Kind.CLAIM, Answer.SOLD_OUT, -1),
        (40, 50, 1, 7, Kind.RELEASE, Answer.RELEASED, 0),
    ],
    "settled": [GRANTED, SETTLED, (40, 50, 0, 7, Kind.RELEASE, Answer.CONFLICT, 1)],
    "closed": [GRANTED, CLOSED, (40, 50, 0, 9, Kind.CLAIM, Answer.CLOSED, -1)],
}

WRONG = {  # the name, and what the check says
    ("a claim that is missing", "contradicts the one before"): [GRANTED, (20, 30, 0, 7, Kind.FIND, Answer.NONE, -1)],
    ("a claim that has changed", "contradicts the one before"): [
        GRANTED,
        (20, 30, 1, 7, Kind.CLAIM, Answer.REPEATED, 0),
    ],
    ("a user granted two packets", "contradicts the one before"): [
        GRANTED,
        (20, 30, 1, 7, Kind.CLAIM, Answer.GRANTED, 0),
    ],
    ("a user granted two packets at once", "no order"): [GRANTED, (5, 15, 1, 7, Kind.CLAIM, Answer.GRANTED, 0)],
    ("a packet of two users", "held by users 7 and 8"): [
        GRANTED,
        (20, 30, 1, 8, Kind.CLAIM, Answer.GRANTED, 1),
        (40, 50, 0, 7, Kind.FIND, Answer.HELD, 1),
        (60, 70, 1, 8, Kind.FIND, Answer.HELD, 1),
    ],
    ("a claim out of nothing", "contradicts the one before"): [(0, 10, 0, 7, Kind.FIND, Answer.HELD, 1)],
    ("a release that was undone", "contradicts the one before"): [
        GRANTED,
        RELEASED,
        (40, 50, 1, 7, Kind.FIND, Answer.HELD, 1),
    ],
    ("released twice", "contradicts the one before"): [
        GRANTED,
        RELEASED,
        (40, 50, 1, 7, Kind.RELEASE, Answer.RELEASED, 1),
    ],
    ("missing without anybody's release", "asked next contradicts"): [
        GRANTED,
        (20, 35, 0, 7, Kind.CLAIM, Answer.CUT_OFF, -1),
        (40, 50, 1, 7, Kind.FIND, Answer.NONE, -1),
    ],
    ("a death that has released and granted", "asked next contradicts"): [
        GRANTED,
        CUT_OFF_RELEASE,
        (40, 50, 1, 7, Kind.FIND, Answer.HELD, 0),
    ],
    ("sold out with a free packet", "at most 1 of 2"): [GRANTED, (20, 30, 2, 9, Kind.CLAIM, Answer.SOLD_OUT, -1)],
    ("sold out after a release", "at most 1 of 2"): [
        GRANTED,
        OTHER,
        RELEASED,
        (40, 50, 2, 9, Kind.CLAIM, Answer.SOLD_OUT, -1),
    ],
    ("sold out after a claim that was under way", "at most 1 of 2"): [
        WAITING,
        (10, 20, 1, 7, Kind.CLAIM, Answer.GRANTED, 0),
        (40, 50, 1, 7, Kind.RELEASE, Answer.RELEASED, 0),
        (70, 80, 2, 9, Kind.CLAIM, Answer.SOLD_OUT, -1),
    ],
    ("a settled claim released", "settled claim has changed"): [
        GRANTED,
        SETTLED,
        (40, 50, 1, 7, Kind.RELEASE, Answer.RELEASED, 1),
    ],
    ("settled by nobody", "nobody has settled"): [GRANTED, (20, 30, 1, 7, Kind.RELEASE, Answer.CONFLICT, 1)],
    ("granted after the close", "after the close"): [GRANTED, CLOSED, (40, 50, 1, 9, Kind.CLAIM, Answer.GRANTED, 0)],
    ("closed by nobody", "nobody has closed"): [GRANTED, (20, 30, 1, 9, Kind.CLAIM, Answer.CLOSED, -1)],
    ("closed too early", "before the close"): [(0, 10, 1, 9, Kind.CLAIM, Answer.CLOSED, -1), CLOSED],
    ("a death that has done the second before the first", "came before it, has not"): [
        GRANTED,
        CUT_OFF_RELEASE,
        CUT_OFF_CLAIM,
        (40, 50, 1, 7, Kind.FIND, Answer.HELD, 1),
        (40, 50, 1, 9, Kind.FIND, Answer.HELD, 0),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_check_allows_what_may_happen(name: str) -> None:
    check_history(history(*RIGHT[name]), AMOUNTS)


@pytest.mark.parametrize(("name", "message"), WRONG)
def test_the_check_sees_a_broken_promise(name: str, message: str) -> None:
    with pytest.raises(Broken, match=message):
        check_history(history(*WRONG[name, message]), AMOUNTS)


def test_the_check_sees_a_wrong_amount() -> None:
    rows = history(GRANTED)
    rows["amount"] += 1
    with pytest.raises(Broken, match="give 40"):
        check_history(rows, AMOUNTS)


def test_the_check_finds_its_way_through_many_deaths_at_once() -> None:
    """Eight workers die, each in the midst of thirty claims and releases of one user: the orders are past counting."""
    others = [
        (20, 30, 8, 7, Kind.CLAIM, Answer.GRANTED, 1),
        (40, 50, 8, 7, Kind.FIND, Answer.HELD, 0),
        (60, 70, 8, 7, Kind.CLAIM, Answer.GRANTED, 0),
        (200, 210, 9, 7, Kind.FIND, Answer.HELD, 1),
    ]

    def cut_off(kinds: list[Kind]) -> list[tuple]:
        return [(worker, 100, worker, 7, kind, Answer.CUT_OFF, -1) for worker in range(8) for kind in kinds]

    counted = check_history(history(*cut_off([Kind.CLAIM, Kind.RELEASE] * 15), *others), AMOUNTS)
    assert counted["not searched"] == 0
    with pytest.raises(Broken, match="no order"):
        check_history(history(*cut_off([Kind.CLAIM] * 30), *others), AMOUNTS)
