"""Planted bugs: one for each step of the protocol. The explorer must find every one of them.

    python tests/explorer/mutants.py [NAME ...] [--jobs 2]

builds each mutant in a temporary folder and runs the scenarios that should see it. Exits 1 if one goes unseen.
"""

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from build import HERE, build, build_mutant

PUBLISH = """            if hb_cas(&table[position], empty_word(generation),
                      entry_prefix(&ledger.index, generation, key.high) | held.slot):"""
BURY = """    if not bury(ledger, key, slot):
        return False
"""
FREE_IT = """    hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0))
"""
GRANT = """    hb_cas(&ledger.slots[found.slot].state, found.state, slot_state(GRANTED, found.state, now_ms))"""

# name: edits of (file, old text, new text)
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "grant before publish": [
        ("ledger.pyx", PUBLISH, "            make_granted(ledger, &held, now_ms)\n" + PUBLISH),
    ],
    "free before tombstone": [
        ("ledger.pyx", FREE_IT, ""),
        ("ledger.pyx", BURY, FREE_IT + BURY),
    ],
    "no second look at the index word": [
        ("ledger.pyx", "                if hb_load_acquire(&table[at]) == word:", "                if True:"),
    ],
    "acting for a living worker": [
        (
            "ledger.pyx",
            "        if slot_kind(state) == FREE:\n            # From",
            "        if slot_kind(state) == FREE or slot_kind(state) == HELD:\n            # From",
        ),
    ],
    "no generation": [
        ("slot.pxd", "free_state + (<uint64_t>1 << 42)", "free_state"),
    ],
    "a tombstone reused": [
        ("ledger.pyx", "        if word == empty:\n", "        if word == empty or word == tombstone:\n"),
        ("ledger.pyx", PUBLISH, PUBLISH.replace("empty_word(generation)", "hb_load_acquire(&table[position])", 1)),
    ],
    "a plain store of the grant": [
        ("ledger.pyx", GRANT, GRANT.replace("hb_cas(", "hb_store_relaxed(").replace(" found.state, slot", " slot")),
    ],
    "a plain store of the index word": [
        (
            "ledger.pyx",
            PUBLISH,
            """            if hb_load_acquire(&table[position]) == empty_word(generation):
                hb_store_relaxed(&table[position],
                                 entry_prefix(&ledger.index, generation, key.high) | held.slot)""",
        ),
    ],
    "a plain store of the hold": [
        (
            "ledger.pyx",
            "            if hb_cas(&ledger.slots[slot].state, state, slot_taken(state, worker)):\n",
            "            hb_store_relaxed(&ledger.slots[slot].state, slot_taken(state, worker))\n"
            "            if True:\n",
        ),
    ],
    "the slot is not put back": [
        ("ledger.pyx", "    if is_holding:\n        put_back(ledger, &held)\n", ""),
    ],
    "sold out without another look": [
        ("ledger.pyx", "if answer < 0 or hb_load_acquire(&table[position]) == empty_word(generation):", "if True:"),
    ],
    "publish past a lost word": [
        (
            "ledger.pyx",
            "            # Somebody published here first: look at what it is.\n",
            "            position += 1\n"
            "            if position == ledger.index.word_count:\n                position = 0\n",
        ),
    ],
    "release without RELEASING": [
        (
            "ledger.pyx",
            "        releasing = slot_state(RELEASING, found.state, worker)",
            "        releasing = slot_state(FREE, found.state, 0)",
        ),
    ],
    "the vacancy tree is not cleared": [
        ("ledger.pyx", "    vacancy_clear(&ledger.vacancy, slot // BLOCK_SIZE)\n", ""),
    ],
    "the vacancy tree is cleared without a version": [
        ("vacancy.pyx", " + (<uint64_t>1 << VERSION_SHIFT)", ""),
    ],
    "a held block is called full": [
        (
            "vacancy.pyx",
            "        if not slot_is_final(hb_load_acquire(&vacancy.slots[slot].state)):",
            "        if hb_load_acquire(&vacancy.slots[slot].state) >> 61 == 0:",
        ),
    ],
    "entries are copied without being frozen": [
        (
            "index.pyx",
            "                hb_cas(&table[i], word, frozen)\n                continue\n",
            "                word = word\n",
        ),
        ("index.pyx", "if word_kind(word) != FROZEN or not copy_entry", "if not copy_entry"),
    ],
    "entries are copied without another look": [
        (
            "index.pyx",
            "            if hb_load_acquire(place) != frozen:\n"
            "                return True     # somebody has copied it\n",
            "",
        ),
    ],
    "empty words are not moved": [
        (
            "index.pyx",
            "            if word == empty_word(generation) or word == tombstone_word(generation):\n",
            "            if word == empty_word(generation):\n                break\n"
            "            if word == tombstone_word(generation):\n",
        ),
    ],
    "a late reset overwrites the next table": [
        ("index.pyx", "        if word == moved_word(generation - 1):", "        if word != empty:"),
    ],
    "a put-back slot is forgotten by the close": [
        (
            "ledger.pyx",
            "    refund_if_closed(ledger, held.slot)\n",
            "",
        ),
    ],
}


def try_mutant(name: str, original: Path, preemptions: int) -> tuple[str, str | None]:
    """Return the name and what the explorer said when it found the bug, or None."""
    with tempfile.TemporaryDirectory() as folder:
        build_mutant(Path(folder) / "mutant", original, MUTANTS[name])
        command = [sys.executable, HERE / "explore.py", Path(folder) / "mutant", "--preemptions", str(preemptions)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return name, None
    if "BROKEN" not in result.stdout:
        return name, f"crashed with status {result.returncode}: {result.stderr[-300:]}"
    scenario = result.stdout.strip().splitlines()[-4].split("  ")[0]
    return name, f"{scenario}: {result.stdout.split('BROKEN: ')[1].splitlines()[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which mutants; all if none is named")
    parser.add_argument("--preemptions", type=int, default=3)
    parser.add_argument("--original", type=Path, help="a folder that build.py has filled; built anew if not given")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    unseen = 0
    names = options.names or list(MUTANTS)
    with ThreadPoolExecutor(options.jobs) as pool, tempfile.TemporaryDirectory() as folder:
        original = options.original or Path(folder) / "original"
        if not original.exists():
            build(original)
        for name, finding in pool.map(lambda name: try_mutant(name, original, options.preemptions), names):
            unseen += finding is None
            print(f"{name:48} {finding or 'NOT SEEN'}", flush=True)
    print(f"{len(names) - unseen} of {len(names)} planted bugs found")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
