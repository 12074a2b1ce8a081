"""Planted bugs: one for each step of the protocol. The explorer must find every one of them.

    python tests/explorer/mutants.py [NAME ...] [--jobs 2]

builds each mutant in a temporary folder and runs the scenarios that should see it. Exits 1 if one goes unseen.
Weakenings that were tried and break nothing stand in ``harmless.md``.
"""

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import mutants_batch
import mutants_claims
import mutants_finding
import mutants_makers
import mutants_money
from build import HERE, build, build_mutant

# Where the bugs stand, and which scenarios should see them.
ROOMS = (
    (mutants_claims, "ledger"),
    (mutants_batch, "ledger"),
    (mutants_finding, "ledger"),
    (mutants_makers, "makers"),
    (mutants_money, "accounts"),
)
MUTANTS = {name: edits for room, _ in ROOMS for name, edits in room.MUTANTS.items()}
LONG_SEARCHES = {name: search for room, _ in ROOMS for name, search in room.LONG_SEARCHES.items()}
PART_OF = {name: part for room, part in ROOMS for name in room.MUTANTS}

# Searches to try in turn: preemptions and deaths.
SEARCHES = ((2, 0), (2, 1), (3, 0), (1, 2))


def try_mutant(name: str, original: Path) -> tuple[str, str | None]:
    """Return the name and what the explorer said when it found the bug, or None."""
    with tempfile.TemporaryDirectory() as folder:
        build_mutant(Path(folder) / "mutant", original, MUTANTS[name])
        limits, scenario = LONG_SEARCHES.get(name, (None, None))
        for preemptions, deaths in [limits] if limits else SEARCHES:
            command = [sys.executable, HERE / "explore.py", Path(folder) / "mutant"]
            command += ["--preemptions", str(preemptions), "--deaths", str(deaths), "--parts", PART_OF[name]]
            command += ["--only", scenario] if scenario else []
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                break
    if result.returncode == 0:
        return name, None
    if result.returncode < 0:
        return name, f"killed by signal {-result.returncode}"
    if "BROKEN" not in result.stdout:
        raise SystemExit(f"{name}: the explorer itself has failed:\n{result.stderr[-3000:]}")
    scenario = result.stdout.strip().splitlines()[-4].split("  ")[0]
    return name, f"{scenario}: {result.stdout.split('BROKEN: ')[1].splitlines()[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which of them; all if none is named")
    parser.add_argument("--original", type=Path, help="a folder that build.py has filled; built anew if not given")
    parser.add_argument("--jobs", type=int, default=2, help="so many are built and tried at a time")
    options = parser.parse_args()
    unseen = 0
    names = options.names or list(MUTANTS)
    if unknown := set(names) - set(MUTANTS):
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    with ThreadPoolExecutor(options.jobs) as pool, tempfile.TemporaryDirectory() as folder:
        original = options.original or Path(folder) / "original"
        if not original.exists():
            build(original)
        for name, finding in pool.map(lambda name: try_mutant(name, original), names):
            unseen += finding is None
            print(f"{name:48} {finding or 'NOT SEEN'}", flush=True)
    print(f"{len(names) - unseen} of {len(names)} planted bugs found")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
