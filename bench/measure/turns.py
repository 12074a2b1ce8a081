"""What the benches measure with: clocks, turns, the findings they print, and the facts of the machine.

Machines are noisy. So whatever is compared takes turns, in slices of some milliseconds, each on something that is
prepared afresh outside the clock.

- One thread is measured by its processor time: what other processes take from it meanwhile is not counted. A figure is
  the median over the turns, and a ratio is the median of the ratios of single turns, neighbours in time.
- Several processes, and servers, are measured by the clock on the wall, to which others only ever add. A figure is the
  least over the turns, and a ratio is that of two least.
"""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

import hbcore

Run = Callable[[], object]
Clock = Callable[[], int]

PROCESSOR: Clock = time.thread_time_ns
WALL: Clock = time.perf_counter_ns

NANOSECONDS = "{:,.1f} ns"
TIMES = "{:,.2f} times"


class Case(NamedTuple):
    """Something to be measured: ``prepare`` returns a call that does ``count`` operations."""

    prepare: Callable[[], Run]
    count: int


class Times(NamedTuple):
    """Nanoseconds an operation, by case, turn by turn; and whether by the clock on the wall."""

    turns: dict[str, list[float]]
    by_wall: bool = False

    def figure(self, name: str) -> float:
        return min(self.turns[name]) if self.by_wall else statistics.median(self.turns[name])

    def ratio(self, name: str, other: str) -> float:
        """Return how many times as long as the other it took."""
        if self.by_wall:
            return self.figure(name) / self.figure(other)
        return statistics.median(a / b for a, b in zip(self.turns[name], self.turns[other], strict=True))


def timed(run: Run, count: int, clock: Clock = PROCESSOR) -> float:
    """Return nanoseconds for each of ``count`` operations."""
    start = clock()
    run()
    return (clock() - start) / count


@contextmanager
def without_garbage() -> Iterator[None]:
    """No pause for the collection of garbage in here, and none that is due from before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Scale:
    """How much is measured, whom to tell, and what was found for the pictures."""

    def __init__(self, quick: bool, tell: Callable[[str], None] = lambda text: None) -> None:
        self.quick = quick
        self.tell = tell
        self.pictured: dict[str, Any] = {}

    def choose(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def take_turns(self, cases: Mapping[str, Case], turns: int, clock: Clock = PROCESSOR) -> Times:
        times: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(turns):
            for name, case in cases.items():
                self.tell(f"turn {turn + 1} of {turns}: {name}")
                run = case.prepare()
                with without_garbage():
                    times[name].append(timed(run, case.count, clock))
                del run  # and its engine, whose pages the next case may want
        return Times(times, clock is WALL)


class Finding(NamedTuple):
    """One line of a table: what was measured, how much it was, what is asked for, whether it is met, and what of."""

    what: str
    measured: str
    bar: str = ""
    met: bool | None = None  # None where nothing is asked for
    figures: str = ""


def at_most(what: str, value: float, bar: float, form: str, figures: str = "") -> Finding:
    """``form`` has one place for a number, as in ``"{:,.0f} ns"``."""
    return Finding(what, form.format(value), f"at most {bar:,.9g}{form.partition('}')[2]}", value <= bar, figures)


def at_least(what: str, value: float, bar: float, form: str, figures: str = "") -> Finding:
    return Finding(what, form.format(value), f"at least {bar:,.9g}{form.partition('}')[2]}", value >= bar, figures)


def beside(times: Times, name: str, other: str) -> str:
    return f"{times.figure(name):,.1f} and {times.figure(other):,.1f} ns"


def slower(what: str, times: Times, name: str, other: str, bar: float) -> Finding:
    """The bar is how many times as long as the other it may take."""
    return at_most(what, times.ratio(name, other), bar, TIMES, beside(times, name, other))


def faster(what: str, times: Times, name: str, other: str, bar: float) -> Finding:
    """The bar is how many times as fast as the other it must be."""
    return at_least(what, times.ratio(other, name), bar, TIMES, beside(times, name, other))


def available_bytes() -> int:
    """Return how much memory the machine could still give."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024


def machine() -> dict[str, Any]:
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "hbcore": hbcore.__version__,
        "load_at_start": round(os.getloadavg()[0], 2),
    }
