"""Run the explorer over its scenarios, in a folder that ``build.py`` has filled, and print how many schedules ran.

    python tests/explorer/explore.py FOLDER [--preemptions 3] [--only NAME ...] [--deaths 1]

Exits 1 at the first schedule that breaks a promise, and prints it.
"""

import argparse
import ctypes
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from scenarios import LONG, PARTS, Makers, Money, Scenario


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="which build.py has filled")
    parser.add_argument("--preemptions", type=int, default=3, help="at most so many switches away from a ready fiber")
    parser.add_argument("--full", type=int, default=2, help="races of more operations are given one preemption less")
    parser.add_argument("--deaths", type=int, default=0, help="at most so many operations die, each at any step")
    parser.add_argument("--only", nargs="*", help="names of scenarios")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="all scenarios of these")
    parser.add_argument("--limit", type=int, default=0, help="stop a scenario after so many schedules; 0: run all")
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))
    ctypes.CDLL(str(options.folder.resolve() / "libschedule.so"), mode=ctypes.RTLD_GLOBAL)
    from account_explorer import explore_account
    from explorer import explore
    from maker import explore_makers

    explorers = {Scenario: explore, Makers: explore_makers, Money: explore_account}
    total = 0
    for name in options.only or [name for part in options.parts for name in PARTS[part]]:
        scenario = next(part[name] for part in PARTS.values() if name in part)
        fewer = (len(scenario.race) > options.full) + (name in LONG)
        preemptions = max(options.preemptions - fewer, min(options.preemptions, 1))
        deaths = max(options.deaths - (name in LONG), 0)
        runs, steps, failure = explorers[type(scenario)](
            **scenario._asdict(), preemptions=preemptions, deaths=deaths, limit=options.limit
        )
        total += runs
        print(f"{name:40} {runs:>12,} schedules, up to {steps} steps", flush=True)
        if failure:
            print(f"BROKEN: {failure[0]}\n  (operation, answer, slot or state, died): {failure[1]}")
            print(f"  schedule: {failure[2]}")
            return 1
    print(f"{total:,} schedules, no promise broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
