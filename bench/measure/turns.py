"""How the benches measure: clocks, cases that take turns, and what is made of the turns.

Machines are noisy. So whatever is compared takes turns, in slices of some milliseconds, each on something that is
prepared afresh outside the clock.

- One thread is measured by its processor time: what other processes take from it meanwhile is not counted. A figure is
  the median over the turns, and a ratio is the median of the ratios of single turns, neighbours in time.
- Several processes, and servers, are measured by the clock on the wall, to which others only ever add. A figure is the
  least over the turns, and a ratio is that of two least.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

Run = Callable[[], object]
Clock = Callable[[], int]

PROCESSOR: Clock = time.thread_time_ns
WALL: Clock = time.perf_counter_ns


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
