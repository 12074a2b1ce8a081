"""Settle, release and expiry of one claim race, and settle and release of one hold: each has exactly one winner.

    python tests/processes/races.py [--races 1000000] [--threads 2] [--processes 2]

In every race all threads of all processes speak of the same claim (or hold) at about the same time: some settle it,
some release it, and of claims the hour runs out meanwhile, by a clock that is set when they do. Afterwards the
answers, and what is there, must name one outcome: settled for all who ask, or given back once. Prints its figures,
and exits 0 only if that held in every race.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from mmap import mmap
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))
import numpy as np
from controlled_clock import Clock, clock_of_this_script

import hbcore
from hbcore import State

BATCH = 500  # races between two meetings of the processes
SETTLED, RELEASED, NEITHER = 1, 2, 0
HOLD_S = 3_600
APART_S = 0.002  # of the claims of one batch
SPIN_LIMIT = 2_000


def settle_of(target: hbcore.Envelope | hbcore.Budget, key: int) -> int:
    """Return what a settle that is answered says of the outcome."""
    try:
        return NEITHER if target.settle(key) is None else SETTLED
    except hbcore.ConflictError:  # of a hold that was released
        return RELEASED


def release_of(target: hbcore.Envelope | hbcore.Budget, key: int) -> int:
    try:
        return NEITHER if target.release(key) is None else RELEASED
    except hbcore.ConflictError:
        return SETTLED


class Racers:
    """The threads of all processes, and what each was answered in each race of a batch."""

    def __init__(self, options: argparse.Namespace, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.count = options.processes * options.threads
        self.answers = np.frombuffer(mmap(-1, self.count * BATCH), np.uint8).reshape(self.count, BATCH)
        self.meeting = multiprocessing.get_context("fork").Barrier(self.count + 1)
        self.places = memoryview(mmap(-1, 64 * self.count)).cast("q")
        self.engine = hbcore.Engine()
        self.budget = self.engine.budget("races", 1 << 60)
        self.counted: Counter[str] = Counter()

    def targets(self, batch: int) -> hbcore.Envelope | hbcore.Budget:
        """Every second batch is about claims that expire, the others about holds."""
        if batch % 2:
            return self.budget
        return self.engine.envelope(f"batch {batch}", BATCH * 10, BATCH, "equal", hold_seconds=HOLD_S)

    def run(self, batches: int) -> None:
        pids = []
        for process in range(self.options.processes):
            pid = os.fork()
            if pid == 0:
                try:
                    self.work(process, batches)
                finally:
                    os._exit(0)
            pids.append(pid)
        try:
            for batch in range(batches):
                self.judge(batch)
        except BaseException:
            for pid in pids:  # they would wait for the next batch
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            for pid in pids:
                os.waitpid(pid, 0)

    def work(self, process: int, batches: int) -> None:
        numbers = range(process * self.options.threads, (process + 1) * self.options.threads)
        threads = [threading.Thread(target=self.race, args=(number, batches)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def race(self, number: int, batches: int) -> None:
        for batch in range(batches):
            self.meeting.wait()
            target = self.targets(batch)
            ask = (settle_of, release_of)[number % 2]
            self.answers[number] = self.side_by_side(number, batch, ask, target)
            self.meeting.wait()

    def side_by_side(self, number: int, batch: int, ask: Callable, target: object) -> list[int]:
        """Ask for each key when the rival, who asks the other thing in another process, is about to ask for it too."""
        places, rival = self.places, 8 * (self.count - 1 - number)
        answers = []
        for key in range(batch * BATCH, (batch + 1) * BATCH):
            places[8 * number] = key
            for _ in range(SPIN_LIMIT):  # but not for ever: the rival may not be running
                if places[rival] >= key:
                    break
            answers.append(ask(target, key))
        return answers

    def judge(self, batch: int) -> None:
        target = self.targets(batch)
        keys = np.arange(batch * BATCH, (batch + 1) * BATCH)
        if batch % 2:
            self.budget.reserve_many(keys, 10)
        else:
            for key in keys.tolist():
                target.claim(key)
                self.clock.move(boot_s=APART_S)
        self.meeting.wait()
        if batch % 4 == 0:
            self.let_expire(keys.tolist())
        self.meeting.wait()
        (self.judge_holds if batch % 2 else self.judge_claims)(target, keys.tolist())

    def let_expire(self, keys: list[int]) -> None:
        """Let the time of a claim run out when the racers come to it, of one after another."""
        self.clock.move(boot_s=HOLD_S - APART_S * len(keys))  # that of the first is over in a moment
        last = keys[0] - 1
        while last < keys[-1]:  # they come to the end, whatever happens here
            reached = max(self.places[::8])
            if reached > last:
                self.clock.move(boot_s=APART_S * (reached - last))
                last = reached
            os.sched_yield()

    def judge_holds(self, budget: hbcore.Budget, keys: list[int]) -> None:
        for i, key in enumerate(keys):
            answers = set(self.answers[:, i].tolist())
            hold = budget.find(key)
            final = SETTLED if hold.state is State.SETTLED else RELEASED
            assert answers == {final}, f"hold {key} is {hold}, and was told {self.answers[:, i]}"
            self.counted[f"hold {'settled' if final == SETTLED else 'released'}"] += 1

    def judge_claims(self, envelope: hbcore.Envelope, keys: list[int]) -> None:
        self.clock.move(boot_s=HOLD_S + 1)
        assert not (envelope.claims()["state"] == State.GRANTED).any(), "what was not decided does not expire"
        for i, key in enumerate(keys):
            answers = self.answers[:, i]
            is_settled = envelope.find(key) is not None
            if is_settled:
                assert (answers == SETTLED).any(), f"claim {key} is settled, and nobody was told: {answers}"
                assert not (answers == RELEASED).any(), f"claim {key} is settled, and was released: {answers}"
            else:
                assert not (answers == SETTLED).any(), f"claim {key} is not settled, and was: {answers}"
                assert (answers == RELEASED).sum() <= 1, f"claim {key} was released more than once: {answers}"
            is_released = not is_settled and (answers == RELEASED).any()
            self.counted[f"claim {'settled' if is_settled else 'released' if is_released else 'expired'}"] += 1
            self.counted["claims about which answers differ"] += len(set(answers.tolist())) > 1
        envelope.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--races", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    clock = clock_of_this_script()
    sys.setswitchinterval(1e-5)
    began = time.monotonic()
    racers = Racers(options, clock)
    batches = -(-options.races // BATCH)
    racers.run(batches)
    racers.engine.audit()
    stats = racers.budget.stats()
    assert stats.settled == 10 * racers.counted["hold settled"]
    assert stats.held == 0
    print(f"races: {batches * BATCH:,} of {racers.count} threads in {options.processes} processes")
    print(", ".join(f"{name} {count:,}" for name, count in sorted(racers.counted.items())))
    print(f"{time.monotonic() - began:,.0f} s; every race had one winner")


if __name__ == "__main__":
    main()
