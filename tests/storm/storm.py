"""The storm: workers of one engine are killed and stopped at random moments, and nothing that was answered may be lost.

    python tests/storm/storm.py [--kills 10000] [--seed N] [--memory] [--workers 8] [--folder DIR]

Round after round, worker processes claim, repeat, settle, release, make and close envelopes of one new engine, while a
controller kills them (SIGKILL) and replaces them at once, and stops and continues them (SIGSTOP, SIGCONT): at random
moments, at instructions inside hbcore where a stop has found them, or microseconds later. Every answer is acknowledged
through a pipe. After each round one living process audits the engine, looks for every claim and takes every last
packet; ``storm_model`` checks all answers of the round against each other.

Prints its figures and exits 0 only if all promises held. At the first that is broken it prints how to play that round
again and keeps the file. The same seed draws the same plans, weathers and rounds; when the processes run is up to the
machine.
"""

import argparse
import contextlib
import gc
import os
import pickle
import secrets
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from storm_crew import Plan, die_with_parent
from storm_round import WEATHER_IS_OVER, WEATHERS, Outcome, Settings, play_apart

KILLS_A_ROUND = 50
CALM_EVERY = 12
HANG_SECONDS = 180
"""A round takes a second or two; one that takes so long hangs."""
BINS_AN_OCTAVE = 64


class Times:
    """How long calls took: a histogram in logarithmic bins, and the longest exactly."""

    def __init__(self) -> None:
        self.counts = np.zeros(64 * BINS_AN_OCTAVE, np.int64)
        self.longest = 0

    def add(self, values: np.ndarray) -> None:
        if len(values):
            bins = np.ceil(np.log2(np.maximum(values, 1)) * BINS_AN_OCTAVE).astype(np.int64)
            self.counts += np.bincount(bins, minlength=len(self.counts))
            self.longest = max(self.longest, int(values.max()))

    def line(self, scale: float) -> str:
        """Return the percentiles in microseconds; ``scale`` is how many of them a unit is."""
        total = int(self.counts.sum())
        if not total:
            return "none measured"
        above = np.cumsum(self.counts)
        cuts = [
            f"p{share:g} {2 ** (int(np.searchsorted(above, share / 100 * total)) / BINS_AN_OCTAVE) * scale:,.2f}"
            for share in (50, 99, 99.9, 99.99)
        ]
        return f"{', '.join(cuts)}, max {self.longest * scale:,.1f} us ({total:,} claims)"


class Playing:
    """A round that is being played in a child."""

    def __init__(self, settings: Settings, plans: Any, play_apart: Callable = play_apart) -> None:
        self.settings = settings
        self.until = time.monotonic() + HANG_SECONDS
        self.said: list[bytes] = []
        self.fd, write = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)  # the whole round can be killed at once, and Ctrl-C is not for it
                die_with_parent(parent)
                os.close(self.fd)
                play_apart(settings, plans, write)
            finally:
                os._exit(0)
        os.close(write)

    def hear(self) -> bool:
        """Read what the child has to say; return whether that was all."""
        said = os.read(self.fd, 1 << 20)
        self.said.append(said)
        return not said

    @property
    def is_reckoning(self) -> bool:
        """Whether the weather is over: the next round may begin."""
        return bool(self.said)

    def outcome(self) -> Outcome:
        raw = b"".join(self.said).removeprefix(WEATHER_IS_OVER)
        return pickle.loads(raw) if raw else Outcome(broken="the controller of the round has died")

    def end(self) -> None:
        """End the child and all of its own, whatever state they are in."""
        os.close(self.fd)
        for kill in (os.killpg, os.kill):  # a round that is not yet a group of its own has no children either
            with contextlib.suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Storm:
    """Plays rounds in child processes and adds up what they show.

    While one round is reckoned up, the weather of the next begins.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.next = 0
        self.broken = ""
        self.playing: dict[int, Playing] = {}  # by file descriptor
        self.counted: Counter[str] = Counter()
        self.calm_counted: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.graves: Counter[str] = Counter()
        self.claims = {name: Times() for name in (*WEATHERS, "calm")}
        self.claims_cpu = {name: Times() for name in (*WEATHERS, "calm")}
        self.plans = {
            is_crowded: [Plan(options.seed, slot, is_crowded) for slot in range(options.workers)]
            for is_crowded in (False, True)
        }

    def settings(self, number: int) -> Settings:
        options = self.options
        is_calm = options.round is None and number % CALM_EVERY == CALM_EVERY - 1
        return Settings.drawn(
            options.seed, number, options.kills_a_round, options.workers, self.folder, options.memory, is_calm
        )

    def begin(self) -> None:
        """Begin the next round, unless enough have been killed or are about to be."""
        kills = self.counted["kills"] + sum(
            playing.settings.kills for playing in self.playing.values() if playing.settings.weather != "calm"
        )
        if self.broken or kills >= self.options.kills:
            return
        if any(not playing.is_reckoning for playing in self.playing.values()) or len(self.playing) > 1:
            return
        playing = Playing(self.settings(self.next if self.options.round is None else self.options.round), self.plans)
        self.next += 1
        self.playing[playing.fd] = playing

    def go_on(self) -> bool:
        """Wait until something happens to a round, and see to it; return whether there is anything left to do."""
        self.begin()
        if not self.playing:
            return False
        until = min(playing.until for playing in self.playing.values())
        for fd in select.select(list(self.playing), [], [], max(0.0, until - time.monotonic()))[0]:
            if self.playing[fd].hear():
                self.finish(self.playing.pop(fd))
        for playing in [one for one in self.playing.values() if one.until < time.monotonic()]:
            del self.playing[playing.fd]
            self.finish(playing, f"the round has not ended after {HANG_SECONDS} s: somebody hangs")
        return True

    def finish(self, playing: Playing, broken: str = "") -> None:
        outcome = Outcome(broken=broken) if broken else playing.outcome()
        playing.end()
        self.add(playing.settings, outcome)
        if outcome.broken and not self.broken:
            self.broken = f"round {playing.settings.number}: {outcome.broken}\n{playing.settings}"
            self.broken += f"\nplay it again: {self.again(playing.settings.number)}\nkept: {self.folder}"

    def again(self, number: int) -> str:
        """Return the command that plays a round again."""
        options = self.options
        return (
            f"python tests/storm/storm.py --seed {options.seed} --round {number} --workers {options.workers} "
            f"--kills-a-round {options.kills_a_round}{' --memory' * options.memory}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for playing in self.playing.values():
            playing.end()

    def add(self, settings: Settings, outcome: Outcome) -> None:
        is_calm = settings.weather == "calm"
        (self.calm_counted if is_calm else self.counted).update(outcome.counted)
        self.counted[f"weather {settings.weather}"] += not is_calm
        self.places += outcome.places
        self.graves += outcome.graves
        self.claims[settings.weather].add(outcome.claim_ns)
        self.claims_cpu[settings.weather].add(outcome.claim_cpu_us)

    def report(self, seconds: float) -> None:
        """Print what has been seen, in plain lines."""
        counted, calm, both = self.counted, self.calm_counted, self.counted + self.calm_counted
        inside = sum(n for place, n in self.graves.items() if place not in ("elsewhere", "a system call", "unknown"))
        weathers = ", ".join(f"{name} {counted[f'weather {name}']}" for name in WEATHERS)
        lines = [
            f"engine: {'memory, shared with forked children' if self.options.memory else 'a file'}",
            f"rounds: {counted['rounds']:,} in storm ({weathers}), {calm['rounds']:,} calm; {seconds:,.0f} s",
            f"kills: {counted['kills']:,} ({counted['kills'] / max(seconds, 1e-9):,.0f} a second)",
            f"stops: {counted['stops']:,}; where they found the worker: {shares(self.places)}",
            f"killed where it had stopped: {sum(self.graves.values()):,}, {inside:,} of them inside hbcore: "
            f"{shares(self.graves)}",
            f"workers: {both['workers']:,}",
            f"acknowledged answers: {both['answers']:,}; granted {both['GRANTED']:,}, repeated {both['REPEATED']:,}, "
            f"released {both['RELEASED']:,}, sold out {both['sold out']:,}, closed {both['CLOSED']:,}",
            f"under way at a death: {both['calls cut off']:,} users' calls, of which {both['done before a death']:,} "
            "are known to have happened",
            f"answers that overlap others about the same user: {both['overlapping']:,}; too many orders to search: "
            f"{both['not searched']:,} times",
        ]
        longest = max(self.claims[name].longest for name in WEATHERS) / 1000
        lines.append(
            f"longest claim of a running worker while others were killed and stopped: {longest:,.1f} us; while nobody "
            f"was: {self.claims['calm'].longest / 1000:,.1f} us"
        )
        for what, times, scale in (("a claim", self.claims, 1e-3), ("processor time of a claim", self.claims_cpu, 1)):
            lines += [f"{what} in {name} weather: {times[name].line(scale)}" for name in times]
        print("\n".join(lines))


def shares(counter: Counter[str]) -> str:
    """Return the shares of a counter in words, the largest first."""
    total = max(1, sum(counter.values()))
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counter.most_common()) or "none"


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=10_000, help="how many workers to kill in all (10000)")
    parser.add_argument("--kills-a-round", type=int, default=KILLS_A_ROUND, help=f"({KILLS_A_ROUND})")
    parser.add_argument("--workers", type=int, default=8, help="how many work at one time (8)")
    parser.add_argument("--seed", type=int, default=None, help="draws plans and weathers (random)")
    parser.add_argument("--round", type=int, default=None, help="play this round only, again and again")
    parser.add_argument("--memory", action="store_true", help="a memory engine, shared with forked children")
    parser.add_argument("--folder", type=Path, default=None, help="where the files of the rounds lie (temporary)")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = secrets.randbelow(1 << 32)
    return options


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that shows how much is done, if there is a terminal to show it on."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    # Not before: every worker would be forked with it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # No refreshing thread, because this process forks.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda done: progress.update(bar, completed=min(done, total), refresh=True)


def storm(options: argparse.Namespace, folder: Path) -> bool:
    """Let the storm blow; print the figures; return whether all promises held."""
    print(f"seed: {options.seed}", flush=True)
    with Storm(options, folder) as whole, progress_bar("kills", options.kills) as show:
        # What is forked every few milliseconds must be small and share its pages.
        gc.freeze()
        gc.disable()
        started = time.monotonic()
        while whole.go_on():
            show(whole.counted["kills"])
    whole.report(time.monotonic() - started)
    print(f"PROMISE BROKEN in {whole.broken}" if whole.broken else "no promise broken")
    return not whole.broken


def main() -> None:
    """Run the storm of the command line."""
    options = arguments()
    # A plain kill ends this process like Ctrl-C: with all of its children.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="storm-", dir=options.folder))
    held = True
    try:
        held = storm(options, folder)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if held:
            shutil.rmtree(folder)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
