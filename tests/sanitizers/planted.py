"""Planted faults: what races and sanitizers are there for, put into a copy of the sources. Each must be reported.

    python tests/sanitizers/planted.py [NAME ...] [--thread FOLDER] [--address FOLDER]

The folders are those that ``build.py`` has filled, and are built anew if not given. Exits 1 if a fault goes unreported.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from build import SANITIZERS, build, build_planted, missing, run_python

ATTEMPTS = 5


class Fault(NamedTuple):
    """Edits of (file, old text, new text), the scenario of races.py that meets them, and what is then reported."""

    sanitizer: str
    scenario: str
    report: str
    edits: list[tuple[str, str, str]]


FAULTS = {
    "a plain store of the user's key": Fault(
        "thread",
        "ledger",
        "data race",
        [("_claims/claim.pyx", "    hb_store_relaxed(&slot.user[0], key.low)\n", "    slot.user[0] = key.low\n")],
    ),
    "a plain load of the index word": Fault(
        "thread",
        "ledger",
        "data race",
        [
            (
                "_claims/ledger.pxd",
                "        word = hb_load_acquire(&table[at])      # pairs",
                "        word = table[at]    # pairs",
            )
        ],
    ),
    "a compare-and-swap that orders nothing": Fault(
        "thread",
        "ledger",
        "data race",
        [
            (
                "_lib/atomics.h",
                "desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE)",
                "desired, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)",
            )
        ],
    ),
    "two holders of one slot": Fault(
        "thread",
        "ledger",
        "data race",
        [
            (
                "_claims/claim.pyx",
                "            if hb_cas(&ledger.slots[slot].state, state, slot_taken(state, worker)):\n",
                "            hb_store_relaxed(&ledger.slots[slot].state, slot_taken(state, worker))\n"
                "            if True:\n",
            )
        ],
    ),
    "reclaiming from a living worker": Fault(
        "thread",
        "deaths",
        "data race",
        [("_claims/transitions.pyx", "not ledger.is_dead(ledger.file, slot_payload(state))", "False")],
    ),
    "a plain store of a child's offset": Fault(
        "thread",
        "money",
        "data race",
        [("_money/account.pyx", "        hb_store_relaxed(&hold.link, value)\n", "        hold.link = value\n")],
    ),
    "a level that is not there yet": Fault(
        "address",
        "money",
        "SEGV",
        [
            (
                "_money/hold_index.pxd",
                "        if words == NULL:\n"
                "            if hb_load_acquire(&index.level_offsets[level]) != 0:\n"
                "                return LACKING\n"
                "            return CORRUPT if answer == PATH_ENDS else CROWDED\n",
                "",
            )
        ],
    ),
    "a slot beyond the last": Fault(
        "address",
        "ledger",
        "heap-buffer-overflow",
        [("_claims/claim.pyx", "cursor.slot = slot if slot < open_count else 0", "cursor.slot = slot")],
    ),
    "a batch of whole groups": Fault(
        "address",
        "memory",
        "heap-buffer-overflow",
        [
            (
                "_claims/packets.pyx",
                "        size = min(count - base, <Py_ssize_t>GROUP)\n",
                "        size = <Py_ssize_t>GROUP\n",
            )
        ],
    ),
    "a shift by more than a word": Fault(
        "address",
        "ledger",
        "shift exponent",
        [("_claims/free_map.pyx", "min(count, <uint64_t>FAN_OUT)", "count")],
    ),
    "an unaligned load": Fault(
        "address",
        "memory",
        "misaligned address",
        [
            (
                "_keys/batch.pyx",
                "        memcpy(&number32, place, 4)\n",
                "        number32 = (<const int32_t *>place)[0]\n",
            )
        ],
    ),
    "a mapping that is not let go": Fault(
        "address",
        "handles",
        "AssertionError: (mappings, descriptors)",
        [("_file/region.pyx", "            munmap(self.base, self.capacity)\n", "            pass\n")],
    ),
    "a descriptor that is not let go": Fault(
        "address",
        "handles",
        "AssertionError: (mappings, descriptors)",
        [("_file/region.pyx", "            close(self.fd)\n", "            pass\n")],
    ),
}


def try_fault(name: str, original: Path, folder: Path) -> str | None:
    """Build with the fault and run until it is reported; return the line that does, or None."""
    fault = FAULTS[name]
    build_planted(folder, original, fault.edits)
    # A run ends at the first answer that the fault makes wrong, which may come before the first race.
    for seed in range(1, ATTEMPTS + 1):
        outcome = run_python(fault.sanitizer, folder, ["races.py", "--only", fault.scenario, "--seed", seed])
        lines = [line for line in (outcome.report + outcome.output).splitlines() if fault.report in line]
        if outcome.status and lines:
            return lines[-1].strip()
        print(f"seed {seed} has ended with {outcome.status} and no report: {outcome.output[-500:]}", flush=True)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which faults; all if none is named")
    for sanitizer in SANITIZERS:
        parser.add_argument(f"--{sanitizer}", type=Path, help=f"a folder that build.py has filled for {sanitizer}")
    options = parser.parse_args()
    names = options.names or list(FAULTS)
    unseen = 0
    with tempfile.TemporaryDirectory() as temporary:
        for sanitizer in {FAULTS[name].sanitizer for name in names}:
            if reason := missing(sanitizer):
                raise SystemExit(reason)
        for number, name in enumerate(names):
            sanitizer = FAULTS[name].sanitizer
            original = getattr(options, sanitizer) or Path(temporary) / sanitizer
            if not original.exists():
                build(sanitizer, original)
            finding = try_fault(name, original, Path(temporary) / f"planted-{number}")
            unseen += finding is None
            print(f"{name:40} {finding or 'NOT REPORTED'}", flush=True)
    print(f"{len(names) - unseen} of {len(names)} planted faults reported")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
