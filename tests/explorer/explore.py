"""Run the explorer over its scenarios, in a folder that ``build.py`` has filled, and print how many schedules ran.

    python tests/explorer/explore.py FOLDER [--preemptions 3] [--only NAME ...] [--deaths 1]

Exits 1 at the first schedule that breaks a promise, and prints it.
"""

import argparse
import ctypes
import sys
from pathlib import Path
from typing import NamedTuple


class Scenario(NamedTuple):
    """Operations that race, each a kind and a user, in a ledger of so many slots, after others were done in order."""

    slots: int
    race: list
    before: tuple | list = ()
    colliding: bool = False
    expiring: bool = False  # claims that are not settled when the clock moves ("expire") go back


def churn(user: int, times: int) -> list:
    """Claims and releases in turn: they fill the index with tombstones and bring it to a later generation."""
    return [("claim", user), ("release", user)] * times


SCENARIOS = {
    "one user twice": Scenario(2, [("claim", 1), ("claim", 1)]),
    "one user twice, one packet": Scenario(1, [("claim", 1), ("claim", 1)]),
    "two users, one packet": Scenario(1, [("claim", 1), ("claim", 2)]),
    "two users on one path": Scenario(2, [("claim", 1), ("claim", 2)], colliding=True),
    "one user twice on a shared path": Scenario(3, [("claim", 1), ("claim", 1), ("claim", 2)], colliding=True),
    "claim and release": Scenario(2, [("claim", 1), ("release", 1)], [("claim", 1)]),
    "claim and release, one packet": Scenario(1, [("claim", 1), ("release", 1)], [("claim", 1)]),
    "another's claim and release": Scenario(1, [("claim", 2), ("release", 1)], [("claim", 1)]),
    "two releases": Scenario(2, [("release", 1), ("release", 1)], [("claim", 1)]),
    "release and settle": Scenario(2, [("release", 1), ("settle", 1)], [("claim", 1)]),
    "release, settle and claim": Scenario(2, [("release", 1), ("settle", 1), ("claim", 1)], [("claim", 1)]),
    "claim, claim and release": Scenario(2, [("claim", 1), ("claim", 1), ("release", 1)], [("claim", 1)]),
    "settle beside release and another's claim": Scenario(
        1, [("settle", 1), ("release", 1), ("claim", 2)], [("claim", 1)]
    ),
    "first claim and release": Scenario(2, [("claim", 1), ("release", 1)]),
    "first claim and settle": Scenario(2, [("claim", 1), ("settle", 1)]),
    "first claim, claim and release": Scenario(1, [("claim", 1), ("claim", 2), ("release", 1)]),
    "find beside release and claim": Scenario(1, [("find", 1), ("release", 1), ("claim", 1)], [("claim", 1)]),
    "a full tree and a release": Scenario(
        4, [("release", 3), ("claim", 5)], [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4), ("claim", 6)]
    ),
    "a tree that fills beside a release": Scenario(
        4, [("claim", 5), ("release", 3), ("claim", 6)], [("claim", 1), ("claim", 2), ("claim", 3)]
    ),
    "first replacement": Scenario(1, [("release", 1), ("claim", 2)], [*churn(3, 1), ("claim", 1)]),
    "second replacement": Scenario(1, [("release", 1), ("claim", 2)], [*churn(3, 3), ("claim", 1)]),
    "third replacement, one user": Scenario(2, [("release", 1), ("claim", 2)], [*churn(3, 5), ("claim", 1)]),
    "replacement beside a first claim": Scenario(2, [("release", 1), ("claim", 2)], [*churn(3, 1), ("claim", 1)]),
    "replacement beside one user twice": Scenario(
        3, [("release", 1), ("claim", 2), ("claim", 2)], [*churn(3, 1), ("claim", 1)], True
    ),
    "two releases and a replacement": Scenario(
        2, [("release", 1), ("release", 2)], [*churn(3, 1), ("claim", 1), ("claim", 2)]
    ),
    "a slow helper of a replacement": Scenario(
        3, [("release", 2), ("claim", 5), ("release", 1)], [*churn(3, 1), ("claim", 1), ("claim", 2)]
    ),
    "a slow helper of a later replacement": Scenario(
        3, [("release", 2), ("claim", 5), ("release", 1)], [*churn(3, 3), ("claim", 1), ("claim", 2)]
    ),
    "settle beside release and one user twice": Scenario(
        2, [("settle", 1), ("release", 1), ("claim", 1), ("claim", 1)], [("claim", 1)]
    ),
    "two claims of one packet, then another": Scenario(1, [("claim", 1), ("claim", 2), ("claim", 3)]),
    "two releases of one packet, then a claim": Scenario(
        1, [("release", 1), ("claim", 2), ("claim", 3)], [("claim", 1)]
    ),
    "reclaim beside a claim": Scenario(2, [("claim", 1), ("reclaim", 0), ("claim", 2)]),
    "two reclaims beside a claim": Scenario(1, [("claim", 1), ("reclaim", 0), ("reclaim", 0)]),
    "two reclaims beside a release": Scenario(2, [("release", 1), ("reclaim", 0), ("reclaim", 0)], [("claim", 1)]),
    "reclaim beside a release and the same user": Scenario(
        1, [("release", 1), ("reclaim", 0), ("claim", 1)], [("claim", 1)]
    ),
    "two reclaims beside a release and the same user": Scenario(
        1, [("release", 1), ("reclaim", 0), ("reclaim", 0), ("claim", 1)], [("claim", 1)]
    ),
    "reclaim beside a replacement": Scenario(
        2, [("release", 1), ("reclaim", 0), ("claim", 2)], [*churn(3, 1), ("claim", 1)]
    ),
    "a full tree, a release and a claim": Scenario(
        4,
        [("release", 3), ("claim", 5), ("claim", 6)],
        [("claim", 1), ("claim", 2), ("claim", 3), ("claim", 4), ("claim", 7)],
    ),
    "close, claim and reclaim": Scenario(1, [("close", 0), ("claim", 1), ("reclaim", 0)]),
    "close and claim": Scenario(2, [("close", 0), ("claim", 1)]),
    "close and release": Scenario(2, [("close", 0), ("release", 1)], [("claim", 1)]),
    "close and one user twice": Scenario(2, [("close", 0), ("claim", 1), ("claim", 1)]),
    "two closes and a claim": Scenario(2, [("close", 0), ("close", 0), ("claim", 1)]),
    "expiry and settle": Scenario(1, [("expire", 0), ("settle", 1)], [("claim", 1)], expiring=True),
    "expiry and release": Scenario(1, [("expire", 0), ("release", 1)], [("claim", 1)], expiring=True),
    "expiry and another's claim": Scenario(1, [("expire", 0), ("claim", 2)], [("claim", 1)], expiring=True),
    "expiry, settle and another's claim": Scenario(
        1, [("expire", 0), ("settle", 1), ("claim", 2)], [("claim", 1)], expiring=True
    ),
    "expiry, release and another's claim": Scenario(
        1, [("expire", 0), ("release", 1), ("claim", 2)], [("claim", 1)], expiring=True
    ),
    "expiry, settle and release": Scenario(
        1, [("expire", 0), ("settle", 1), ("release", 1)], [("claim", 1)], expiring=True
    ),
    "expiry, settle and the same user": Scenario(
        1, [("expire", 0), ("settle", 1), ("claim", 1)], [("claim", 1)], expiring=True
    ),
    "expired, release and two others": Scenario(
        2, [("release", 1), ("claim", 3), ("claim", 4)], [("claim", 1), ("claim", 2), ("expire", 0)], expiring=True
    ),
    "expired, find and close": Scenario(
        1, [("find", 1), ("close", 0), ("claim", 2)], [("claim", 1), ("expire", 0)], expiring=True
    ),
}


class Makers(NamedTuple):
    """Makers of envelopes that race, each a name, after others were made; with so many bytes left (0: enough)."""

    race: list
    before: tuple | list = ()
    room: int = 0


MAKERS = {
    "two makers of one name": Makers([1, 1]),
    "two makers of two names": Makers([1, 2]),
    "two makers of one name on a new level": Makers([1, 1], [3]),
    "two makers of two names on a new level": Makers([1, 2], [3]),
    "two makers of one name and one of another": Makers([1, 1, 2]),
    "two makers with room for one": Makers([1, 2], [3, 4], 128),
    "two makers of one name with room for one": Makers([1, 1], [3, 4], 128),
    "three makers with room for one": Makers([1, 1, 2], [3, 4], 128),
    "three makers with room for two": Makers([1, 1, 2], [3, 4], 256),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preemptions", type=int, default=3, help="at most so many switches away from a ready fiber")
    parser.add_argument("--full", type=int, default=2, help="races of more operations are given one preemption less")
    parser.add_argument("--deaths", type=int, default=0, help="at most so many operations die, each at any step")
    parser.add_argument("--only", nargs="*", help="names of scenarios")
    parser.add_argument("--limit", type=int, default=0, help="stop a scenario after so many schedules; 0: run all")
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))
    ctypes.CDLL(str(options.folder.resolve() / "libschedule.so"), mode=ctypes.RTLD_GLOBAL)
    from explorer import explore
    from maker import explore_makers

    total = 0
    for name in options.only or [*SCENARIOS, *MAKERS]:
        scenario = SCENARIOS.get(name) or MAKERS[name]
        preemptions = options.preemptions if len(scenario.race) <= options.full else max(1, options.preemptions - 1)
        if isinstance(scenario, Makers):
            runs, steps, failure = explore_makers(
                scenario.race, scenario.before, preemptions, options.deaths, scenario.room
            )
        else:
            runs, steps, failure = explore(
                scenario.slots,
                scenario.race,
                scenario.before,
                preemptions,
                options.deaths,
                scenario.colliding,
                scenario.expiring,
                options.limit,
            )
        total += runs
        print(f"{name:40} {runs:>12,} schedules, up to {steps} steps", flush=True)
        if failure:
            print(f"BROKEN: {failure[0]}\n  (operation, answer, slot, died): {failure[1]}\n  schedule: {failure[2]}")
            return 1
    print(f"{total:,} schedules, no promise broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
