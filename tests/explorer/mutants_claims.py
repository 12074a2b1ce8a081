"""Bugs to plant in the ledger: a claim, how it ends, the index and the free map."""

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
            "    # The count comes after the word: that of after a clearing meets the children of after it.\n"
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
}

# What needs a longer search than most, and one scenario for it: (preemptions, deaths), scenario.
LONG_SEARCHES: dict[str, tuple[tuple[int, int], str]] = {}
