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
                      entry_prefix(&ledger.index, generation, key) | held.slot):"""
BURY = """    if not bury(ledger, key, slot, releasing):
        return False
"""
FREE_IT = """    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):
        free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)
        refund_if_closed(ledger, slot)
"""
PIN = "    free_map_pin(&ledger.free_map, found.slot // BLOCK_SIZE)\n"
RELEASE = """        return REPEATED if finish_release(ledger, key, found.slot, releasing) else CORRUPT
"""
READ_KEY = """    if not read_slot(&ledger.slots[slot], &key, &found.state) or found.state != state:
        return
"""
IS_DEAD = "not ledger.is_dead(ledger.file, slot_payload(state))"
UNNAMED = "    elif answer == NOT_FOUND and hb_cas(&ledger.slots[slot].state, state, slot_state(FREE, state, 0)):\n"
GRANT = """    hb_cas(&ledger.slots[found.slot].state, found.state, slot_state(GRANTED, found.state, now_ms))"""

READ_AGAIN = """        if status != 0:
            return status
        if not read_pair(&hold.state, &state, &value):
"""
COMPLETE = "        status = complete(account, operation)\n" + READ_AGAIN

# name: edits of (file, old text, new text)
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "grant before publish": [
        ("_claims/claim.pyx", PUBLISH, "            make_granted(ledger, &held, now_ms)\n" + PUBLISH),
    ],
    "free before tombstone": [
        ("_claims/transitions.pyx", FREE_IT, ""),
        ("_claims/transitions.pyx", BURY, FREE_IT + BURY),
    ],
    "no second look at the index word": [
        ("_claims/ledger.pxd", "                if hb_load_acquire(&table[at]) == word:", "                if True:"),
    ],
    "acting for a living worker": [
        (
            "_claims/claim.pyx",
            "        if slot_kind(state) == FREE:\n            # From",
            "        if slot_kind(state) == FREE or slot_kind(state) == HELD:\n            # From",
        ),
    ],
    "no generation": [
        ("_claims/slot.pxd", "free_state + (<uint64_t>1 << 42)", "free_state"),
    ],
    "a tombstone reused": [
        ("_claims/ledger.pxd", "        if word == empty:\n", "        if word == empty or word == tombstone:\n"),
        (
            "_claims/claim.pyx",
            PUBLISH,
            PUBLISH.replace("empty_word(generation)", "hb_load_acquire(&table[position])", 1),
        ),
    ],
    "a plain store of the grant": [
        (
            "_claims/ledger.pxd",
            GRANT,
            GRANT.replace("hb_cas(", "hb_store_relaxed(").replace(" found.state, slot", " slot"),
        ),
        ("_claims/ledger.pxd", "import hb_cas, ", "import hb_cas, hb_store_relaxed, "),
    ],
    "a plain store of the index word": [
        (
            "_claims/claim.pyx",
            PUBLISH,
            """            if hb_load_acquire(&table[position]) == empty_word(generation):
                hb_store_relaxed(&table[position],
                                 entry_prefix(&ledger.index, generation, key) | held.slot)""",
        ),
    ],
    "a plain store of the hold": [
        (
            "_claims/claim.pyx",
            "            if hb_cas(&ledger.slots[slot].state, state, slot_taken(state, worker)):\n",
            "            hb_store_relaxed(&ledger.slots[slot].state, slot_taken(state, worker))\n"
            "            if True:\n",
        ),
    ],
    "the slot is not put back": [
        ("_claims/claim.pyx", "    if is_holding:\n        put_back(ledger, &held)\n", ""),
    ],
    "sold out without another look": [
        (
            "_claims/claim.pyx",
            "if answer < 0 or hb_load_acquire(&table[position]) == empty_word(generation):",
            "if True:",
        ),
    ],
    "publish past a lost word": [
        (
            "_claims/claim.pyx",
            "            # Somebody published here first: look at what it is.\n",
            "            position += 1\n"
            "            if position == ledger.index.word_count:\n                position = 0\n",
        ),
    ],
    "release without RELEASING": [
        (
            "_claims/transitions.pyx",
            "releasing = slot_state(RELEASING, found.state, worker)",
            "releasing = slot_state(FREE, found.state, 0)",
        ),
    ],
    "the free map is not cleared": [
        ("_claims/transitions.pyx", PIN, ""),
    ],
    "the free map is cleared when it is too late": [
        ("_claims/transitions.pyx", PIN, ""),
        ("_claims/transitions.pyx", RELEASE, "    " + PIN + RELEASE),
    ],
    "a pinned word is marked": [
        ("_claims/free_map.pyx", "        if pins(word):\n            return\n", ""),
        ("_claims/free_map.pyx", "version or pins(word):", "version:"),
        ("_claims/free_map.pyx", " and pins(word) == 0", ""),
    ],
    "reclaiming from a living worker": [
        ("_claims/transitions.pyx", IS_DEAD, "False"),
    ],
    "reclaiming without looking at the index": [
        ("_claims/transitions.pyx", UNNAMED, UNNAMED.replace("elif answer == NOT_FOUND and", "elif")),
        (
            "_claims/transitions.pyx",
            "    answer = locate(ledger, &key, slot, &entry)\n    found.slot",
            "    answer = NOT_FOUND\n    found.slot",
        ),
    ],
    "reclaiming by a key that was read before the death": [
        ("_claims/transitions.pyx", READ_KEY, ""),
        (
            "_claims/transitions.pyx",
            "    if kind != HELD and kind != RELEASING or not",
            READ_KEY + "    if kind != HELD and kind != RELEASING or not",
        ),
    ],
    "reclaiming by a plain store": [
        (
            "_claims/transitions.pyx",
            UNNAMED,
            "    elif answer == NOT_FOUND:\n"
            "        hb_store_relaxed(&ledger.slots[slot].state, slot_state(FREE, state, 0))\n",
        ),
        ("_claims/transitions.pyx", "    hb_cas, hb_fence_full, ", "    hb_cas, hb_fence_full, hb_store_relaxed, "),
    ],
    "what was released is freed without its tombstone": [
        (
            "_claims/transitions.pyx",
            "        finish_release(ledger, &key, slot, state)\n",
            "        hb_cas(&ledger.slots[slot].state, state, slot_state(FREE, state, 0))\n",
        ),
    ],
    "a later claim is buried for the dead": [
        (
            "_claims/transitions.pyx",
            "        if hb_load_acquire(&ledger.slots[slot].state) != releasing:\n            return True\n",
            "",
        ),
    ],
    "sold out without reclaiming": [
        ("_claims/claim.pyx", "        if look.in_hands:\n            reclaim_all(ledger)\n", ""),
    ],
    "the free map is cleared without a version": [
        ("_claims/free_map.pyx", " + (<uint64_t>1 << VERSION_SHIFT)", ""),
    ],
    "a held block is called full": [
        (
            "_claims/free_map.pyx",
            "        if not slot_is_final(hb_load_acquire(&free_map.slots[slot].state)):",
            "        if hb_load_acquire(&free_map.slots[slot].state) >> 61 == 0:",
        ),
    ],
    "entries are copied without being frozen": [
        (
            "_claims/index.pyx",
            "                hb_cas(&table[i], word, frozen)\n                continue\n",
            "                word = word\n",
        ),
        ("_claims/index.pyx", "if word_kind(word) != FROZEN or not copy_entry", "if not copy_entry"),
    ],
    "entries are copied without another look": [
        (
            "_claims/index.pyx",
            "            if hb_load_acquire(place) != frozen:\n"
            "                return True     # somebody has copied it\n",
            "",
        ),
    ],
    "empty words are not moved": [
        (
            "_claims/index.pyx",
            "            if word == empty_word(generation) or word == tombstone_word(generation):\n",
            "            if word == empty_word(generation):\n                break\n"
            "            if word == tombstone_word(generation):\n",
        ),
    ],
    "a late reset overwrites the next table": [
        ("_claims/index.pyx", "        if word == moved_word(generation - 1):", "        if word != empty:"),
    ],
    "space is taken by a plain store": [
        (
            "_file/region.pyx",
            "                if hb_cas(&extent.state, 0, units << 28 | worker_bits << 4 | HB_PHASE_MAKING):\n",
            "                hb_store_relaxed(&extent.state, units << 28 | worker_bits << 4 | HB_PHASE_MAKING)\n"
            "                if True:\n",
        ),
    ],
    "a name is written by a plain store": [
        (
            "_file/directory.pyx",
            "                if hb_cas(&words[i], 0, tag | offset // HB_UNIT):\n",
            "                hb_store_relaxed(&words[i], tag | offset // HB_UNIT)\n                if True:\n",
        ),
        (
            "_file/directory.pyx",
            "import hb_cas, hb_load_acquire, ",
            "import hb_cas, hb_load_acquire, hb_store_relaxed, ",
        ),
    ],
    "the loser of a name goes on with its own object": [
        (
            "_file/directory.pyx",
            "    publish_extent(region, <uint64_t>winner)\n    return winner",
            "    return <int64_t>offset",
        ),
    ],
    "space of a living maker is taken over": [
        (
            "_file/region.pyx",
            "        return epoch != UINT64_MAX and (epoch == 0 or (epoch ^ state >> 16) & 0xFFF)",
            "        return True",
        ),
    ],
    "space that a name leads to is taken over": [
        ("_file/directory.pyx", "\n                and not is_named(region, offset)):", "):"),
    ],
    "space is taken over by a plain store": [
        (
            "_file/directory.pyx",
            "            if hb_cas(&extent.state, state, taken):\n",
            "            hb_store_relaxed(&extent.state, taken)\n            if True:\n",
        ),
        (
            "_file/directory.pyx",
            "import hb_cas, hb_load_acquire, ",
            "import hb_cas, hb_load_acquire, hb_store_relaxed, ",
        ),
    ],
    "half-made space is never taken over": [
        (
            "_file/region.pyx",
            "        return epoch != UINT64_MAX and (epoch == 0 or (epoch ^ state >> 16) & 0xFFF)",
            "        return False",
        ),
    ],
    "the loser does not give its space back": [
        ("_file/directory.pyx", "    if <uint64_t>winner != offset:\n        retire_extent(region, offset)\n", ""),
    ],
    "sold out over what others gave back": [
        ("_claims/transitions.pyx", "next_expiry)\n    return True\n", "next_expiry)\n    return may_expire[0]\n"),
    ],
    "slots are opened under the bits of before": [
        (
            "_claims/free_map.pyx",
            "        uncover(free_map, min(cleared, free_map.slot_count - 1) // BLOCK_SIZE, False)\n",
            "",
        ),
    ],
    "an opening is called finished before it is": [
        (
            "_claims/free_map.pyx",
            """        uncover(free_map, min(cleared, free_map.slot_count - 1) // BLOCK_SIZE, False)
        hb_cas(free_map.cleared_count, cleared, count)
""",
            """        hb_cas(free_map.cleared_count, cleared, count)
        uncover(free_map, min(cleared, free_map.slot_count - 1) // BLOCK_SIZE, False)
""",
        ),
    ],
    "sold out beside a dead opener": [
        (
            "_claims/claim.pyx",
            "        open_count = free_map_opened(&ledger.free_map)\n        if free_map_none",
            "        open_count = hb_load_acquire(ledger.free_map.open_count)\n        if free_map_none",
        ),
    ],
    "a look with the count of before": [
        (
            "_claims/free_map.pyx",
            "    cdef uint64_t children = all_children(open_slots(free_map), level, word_number)\n",
            "    cdef uint64_t children = all_children(hb_load_acquire(free_map.cleared_count), level, word_number)\n",
        ),
    ],
    "expiry by a plain store": [
        (
            "_claims/transitions.pyx",
            "    if hb_cas(&ledger.slots[found.slot].state, found.state, releasing):\n",
            "    hb_store_relaxed(&ledger.slots[found.slot].state, releasing)\n    if True:\n",
        ),
        ("_claims/transitions.pyx", "    hb_cas, hb_fence_full, ", "    hb_cas, hb_fence_full, hb_store_relaxed, "),
    ],
    "what has expired is settled": [
        (
            "_claims/transitions.pyx",
            "        answer = ledger_look(ledger, worker, key, found)\n        if answer != REPEATED or slot",
            "        answer = ledger_find(ledger, key, found)\n"
            "        answer = REPEATED if answer == EXPIRED else answer\n"
            "        if answer != REPEATED or slot",
        ),
    ],
    "a put-back slot is forgotten by the close": [
        (
            "_claims/transitions.pyx",
            "    refund_if_closed(ledger, held.slot)\n",
            "",
        ),
    ],
    "the operation before is not completed": [
        ("_money/account.pyx", COMPLETE, "        status = 0\n" + READ_AGAIN),
    ],
    "completed without looking at the generation": [
        ("_money/account.pyx", "    if hold_generation(state) != operation & ((1 << 18) - 1):\n        return 0\n", ""),
    ],
    "the hold is not read again": [
        (
            "_money/account.pyx",
            "        if state != standing.state:\n            return 0\n        amount = value\n",
            "        state = standing.state\n        amount = value = standing.value\n",
        ),
    ],
    "a settle keeps the generation of the grant": [
        (
            "_money/account.pyx",
            "final if returned == 0 else kind, hold_generation(standing.state) + 1,",
            "final if returned == 0 else kind, hold_generation(standing.state),",
        ),
    ],
    "a refusal that the money does not name": [
        (
            "_money/account.pyx",
            "                if hb_cas_pair(account.money, operation, available, own | FAIL, available):\n"
            "                    return complete(account, own | FAIL)\n",
            "                hb_cas_pair(&hold.state, state, value, with_kind(state, UNUSED), 0)\n"
            "                return 0\n",
        ),
    ],
    "a key's word is written by a plain store": [
        (
            "_money/hold_index.pxd",
            "    if not hb_cas(standing.word, 0, entry_of(key) | spare.number):\n        return AGAIN\n",
            "    hb_store_relaxed(standing.word, entry_of(key) | spare.number)\n",
        ),
    ],
    "a hold's number is taken by a plain store": [
        (
            "_money/hold_index.pxd",
            "        if hb_cas(index.next, spare.number, spare.number + 1):\n",
            "        hb_store_relaxed(index.next, spare.number + 1)\n        if True:\n",
        ),
    ],
    "a hold that others have is given back": [
        (
            "_money/hold_index.pxd",
            "    standing.value = value\n    spare.hold = NULL\n",
            "    standing.value = value\n",
        ),
    ],
    "a key is written after its word": [
        (
            "_money/hold_index.pxd",
            "        hb_store_relaxed(&spare.hold.key[1], key.high)\n"
            "        hb_store_relaxed(&spare.hold.key[0], key.low)\n",
            "",
        ),
        (
            "_money/hold_index.pxd",
            "    standing.hold = spare.hold\n    standing.number",
            "    hb_store_relaxed(&spare.hold.key[1], key.high)\n    hb_store_relaxed(&spare.hold.key[0], key.low)\n"
            "    standing.hold = spare.hold\n    standing.number",
        ),
    ],
    "a request is written after its word": [
        (
            "_money/hold_index.pxd",
            "        hb_store_release(&spare.hold.value, value)\n",
            "",
        ),
        (
            "_money/hold_index.pxd",
            "        hb_store_release(&spare.hold.state, spare.state)\n",
            "",
        ),
        (
            "_money/hold_index.pxd",
            "    standing.hold = spare.hold\n    standing.number",
            "    hb_store_release(&spare.hold.value, value)\n"
            "    hb_store_release(&spare.hold.state, spare.state)\n"
            "    standing.hold = spare.hold\n    standing.number",
        ),
    ],
    "a line is counted and not looked at again": [
        ("_money/hold_index.pxd", "            if word == PATH_CLOSED:\n", "            if word != 0:\n"),
    ],
    "a hold is read without another look at its key": [
        (
            "_money/account.pyx",
            "        if answer != REPEATED and answer != CORRUPT:\n            return answer\n",
            "        return answer\n",
        ),
    ],
    "an operation is known to be complete before it is": [
        (
            "_money/account.pyx",
            "                grant(account, hold, state, value)\n",
            "                hb_store_private(&account.granted, own)\n                return HAPPENED\n",
        ),
    ],
    "a path goes on without being closed": [
        (
            "_money/hold_index.pxd",
            "            if word == 0:\n",
            "            if (word == 0 and level + 1 < HB_LEVELS\n"
            "                    and hb_load_acquire(&index.level_offsets[level + 1]) != 0):\n"
            "                return PATH_ENDS\n"
            "            if word == 0:\n",
        ),
    ],
    "a path is closed before there is a next level": [
        (
            "_money/hold_index.pxd",
            "    if standing.distance >= CROWDED_AT:\n        return CROWDED\n",
            "    if standing.distance >= CROWDED_AT:\n"
            "        hb_cas(standing.word, 0, PATH_CLOSED)\n        return CROWDED\n",
        ),
    ],
    "insufficient without another look at the key": [
        (
            "_money/account.pyx",
            "                    if hb_load_acquire(standing.word) == 0:\n",
            "                    if True:\n",
        ),
    ],
    "insufficient without another look at the hold": [
        (
            "_money/account.pyx",
            "            return answer if hb_load_acquire(&standing.hold.state) == standing.state else AGAIN\n",
            "            return answer\n",
        ),
    ],
    "closed without another look at the hold": [
        (
            "_money/account.pyx",
            "            if hb_load_acquire(&standing.hold.state) == standing.state:\n                return CLOSED\n",
            "            if True:\n                return CLOSED\n",
        ),
    ],
    "every refund brings all of them": [
        ("_money/account.pyx", "            amount = value - refunded\n", "            amount = value\n"),
    ],
    "the base of refunds is kept by a plain store": [
        (
            "_money/account.pyx",
            "            hb_cas_pair(refund, generation, refunded, hold_generation(state), value)\n",
            "            hb_store_relaxed(&refund[0], hold_generation(state))\n"
            "            hb_store_relaxed(&refund[1], value)\n",
        ),
    ],
    "a late helper puts the base of refunds back": [
        (
            "_money/account.pyx",
            "        if hb_load_acquire(&hold.state) != state:\n            return 0\n        if generation",
            "        if generation",
        ),
    ],
    "a refund that another completes is called damage": [
        (
            "_money/account.pyx",
            "                if hb_load_acquire(&account.money[0]) != operation:\n                    continue\n",
            "",
        ),
    ],
    "a close drops the operation of the money": [
        (
            "_money/account.pyx",
            "operation, available, operation, available | MONEY_CLOSED",
            "operation, available, 0, available | MONEY_CLOSED",
        ),
    ],
    "a close by a plain store": [
        (
            "_money/account.pyx",
            "        if hb_cas_pair(account.money, operation, available, operation, available | MONEY_CLOSED):\n",
            "        hb_store_relaxed(&account.money[1], available | MONEY_CLOSED)\n        if True:\n",
        ),
    ],
    "a hold is granted before its money is taken": [
        (
            "_money/account.pyx",
            "            elif hb_cas_pair(account.money",
            "            elif complete(account, own) == 0 and hb_cas_pair(account.money",
        ),
    ],
    "money is taken by plain stores": [
        (
            "_money/account.pyx",
            "            elif hb_cas_pair(account.money, operation, available, own, available - amount):\n",
            "            else:\n"
            "                hb_store_relaxed(&account.money[1], available - amount)\n"
            "                hb_store_relaxed(&account.money[0], own)\n",
        ),
    ],
    "a request is written by plain stores": [
        (
            "_money/account.pyx",
            "    if not hb_cas_pair(&standing.hold.state, standing.state, standing.value, next_state, value):\n"
            "        return AGAIN\n",
            "    hb_store_relaxed(&standing.hold.value, value)\n"
            "    hb_store_relaxed(&standing.hold.state, next_state)\n",
        ),
    ],
    "a settle is written by plain stores": [
        (
            "_money/account.pyx",
            "        if not hb_cas_pair(&standing.hold.state, standing.state, standing.value, next_state, returned):\n"
            "            continue\n",
            "        hb_store_relaxed(&standing.hold.value, returned)\n"
            "        hb_store_relaxed(&standing.hold.state, next_state)\n",
        ),
    ],
    "who is granted is told by the kind alone": [
        (
            "_money/account.pyx",
            "    return standing.announced != 0 and is_granted(standing.state, hold_generation(standing.announced))\n",
            "    return standing.announced != 0 and hold_kind(standing.state) == GRANTED\n",
        ),
    ],
    "who is asked again has forgotten what it requested": [
        (
            "_money/account.pyx",
            "    spare.hold = NULL\n    answer = reserve(",
            "    spare.hold = NULL\n    standing.announced = 0\n    answer = reserve(",
        ),
    ],
    "absent without another look at the hold": [
        (
            "_money/account.pyx",
            "                    if hb_load_acquire(&standing.hold.state) == standing.state:\n"
            "                        return NOT_FOUND\n                    continue\n",
            "                    return NOT_FOUND\n",
        ),
    ],
    "a find that is told of a request": [
        (
            "_money/account.pyx",
            "                if operation != operation_of(standing):\n",
            "                if operation & ~FAIL != operation_of(standing):\n",
        ),
        (
            "_money/account.pyx",
            "                answer = complete(account, operation)\n",
            "                answer = complete(account, operation & ~FAIL)\n",
        ),
    ],
    "a reader without another look at the hold": [
        (
            "_money/account.pyx",
            "    if hb_load_acquire(&standing.hold.state) != standing.state:\n        return AGAIN\n",
            "",
        ),
    ],
    "a reader takes a settle that is under way for done": [
        ("_money/account.pyx", "    elif is_done:\n", "    elif True:\n"),
    ],
}


# Searches to try in turn: preemptions and deaths.
SEARCHES = ((2, 0), (2, 1), (3, 0), (1, 2))
# What needs more than these, and one scenario for it.
LONG_SEARCHES = {
    "a refusal that the money does not name": ((3, 1), "a refusal beside money that comes back"),
    "insufficient without another look at the hold": ((3, 0), "a key that was refused, asked for twice"),
    "a hold is read without another look at its key": ((4, 0), "all holds read beside one that is given back"),
    "absent without another look at the hold": ((3, 0), "find beside a hold that is known by what is missing"),
    "a reader without another look at the hold": ((3, 0), "a reader beside a hold that is known by what is missing"),
}


def tranche_of(name: str) -> str:
    """Return which scenarios should see a mutant."""
    files = {file for file, _, _ in MUTANTS[name]}
    if files & {"_money/account.pyx", "_money/hold_index.pxd"}:
        return "accounts"
    return "makers" if files & {"_file/directory.pyx", "_file/region.pyx"} else "ledger"


def try_mutant(name: str, original: Path) -> tuple[str, str | None]:
    """Return the name and what the explorer said when it found the bug, or None."""
    with tempfile.TemporaryDirectory() as folder:
        build_mutant(Path(folder) / "mutant", original, MUTANTS[name])
        limits, scenario = LONG_SEARCHES.get(name, (None, None))
        for preemptions, deaths in [limits] if limits else SEARCHES:
            command = [sys.executable, HERE / "explore.py", Path(folder) / "mutant"]
            command += ["--preemptions", str(preemptions), "--deaths", str(deaths), "--parts", tranche_of(name)]
            command += ["--only", scenario] if scenario else []
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                break
    if result.returncode == 0:
        return name, None
    if "BROKEN" not in result.stdout:
        return name, f"crashed with status {result.returncode}: {result.stderr[-300:]}"
    scenario = result.stdout.strip().splitlines()[-4].split("  ")[0]
    return name, f"{scenario}: {result.stdout.split('BROKEN: ')[1].splitlines()[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which mutants; all if none is named")
    parser.add_argument("--original", type=Path, help="a folder that build.py has filled; built anew if not given")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    unseen = 0
    names = options.names or list(MUTANTS)
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
