"""The storm with money: workers of one engine are killed and stopped while they reserve, settle, release and refund.

    python tests/storm/money_storm.py [--kills 10000] [--seed N] [--memory] [--workers 8] [--folder DIR]

A campaign with sub-budgets and envelopes, and more of them made, topped up and closed all the while; claims and
envelopes that expire. Workers are killed (SIGKILL) and stopped (SIGSTOP) as in ``storm.py``. After each round one
living process compares every answer that was acknowledged with what is there, derives what every budget must have from
its holds and children, audits, and reserves what is available to the last unit.

Prints its figures and exits 0 only if all promises held; else it prints the round and keeps its file.
"""

import argparse
import gc
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))
import money_round
from controlled_clock import clock_of_this_script
from storm import HANG_SECONDS, Playing, arguments, progress_bar, shares
from storm_round import Outcome, Settings


def play(options: argparse.Namespace, number: int, folder: Path) -> tuple[Settings, Outcome]:
    """Play one round in a child of its own."""
    settings = Settings.drawn(
        options.seed, number, options.kills_a_round, options.workers, folder, options.memory, is_calm=False
    )
    playing = Playing(settings, list(range(options.workers)), money_round.play_apart)
    try:
        is_over = False
        while not is_over:
            left = playing.until - time.monotonic()
            if left <= 0 or not select.select([playing.fd], [], [], left)[0]:
                return settings, Outcome(broken=f"the round has not ended after {HANG_SECONDS} s: somebody hangs")
            is_over = playing.hear()
        return settings, playing.outcome()
    finally:
        playing.end()


def storm(options: argparse.Namespace, folder: Path) -> str:
    """Let the storm blow; print the figures; return what promise was broken."""
    print(f"seed: {options.seed}", flush=True)
    counted: Counter[str] = Counter()
    places: Counter[str] = Counter()
    graves: Counter[str] = Counter()
    broken = ""
    started = time.monotonic()
    number = options.round or 0
    with progress_bar("kills", options.kills) as show:
        gc.freeze()
        gc.disable()
        while not broken and counted["kills"] < options.kills:
            settings, outcome = play(options, number, folder)
            counted += outcome.counted
            places += outcome.places
            graves += outcome.graves
            if outcome.broken:
                again = f"python tests/storm/money_storm.py --seed {options.seed} --round {number}"
                broken = f"round {number}: {outcome.broken}\n{settings}\nplay it again: {again}\nkept: {folder}"
            number += options.round is None
            show(counted["kills"])
    seconds = time.monotonic() - started
    print(
        f"engine: {'memory, shared with forked children' if options.memory else 'a file'}\n"
        f"rounds: {counted['rounds']:,}; {seconds:,.0f} s; workers: {counted['workers']:,}\n"
        f"kills: {counted['kills']:,}; where a stop had found them: {shares(graves)}\n"
        f"stops: {counted['stops']:,}: {shares(places)}\n"
        f"acknowledged answers: {counted['answers']:,}; cut off by a death: {counted['calls cut off']:,}; "
        f"keys looked for in the end: {counted['keys']:,}\n"
        "asked: " + ", ".join(f"{name} {counted[name]:,}" for name in money_round.NAMES.values()) + "\n"
        "answered: "
        + ", ".join(
            f"{name} {counted[name]:,}"
            for name in ("granted", "repeated", "insufficient", "closed", "conflict", "refused to make")
        )
    )
    print(f"PROMISE BROKEN in {broken}" if broken else "no promise broken")
    return broken


def main() -> None:
    """Run the storm of the command line."""
    clock_of_this_script()
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="money-storm-", dir=options.folder))
    broken = ""
    try:
        broken = storm(options, folder)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if not broken:
            shutil.rmtree(folder)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
