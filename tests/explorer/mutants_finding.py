"""Bugs to plant in how a slot is found: the index, and the free map."""

# name: edits of (file, old text, new text)
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "a pinned word is marked": [
        ("_claims/free_map.pyx", "        if pins(word):\n            return\n", ""),
        ("_claims/free_map.pyx", "version or pins(word):", "version:"),
        ("_claims/free_map.pyx", " and pins(word) == 0", ""),
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
    "slots are opened under the bits of before": [
        (
            "_claims/free_map.pyx",
            "        uncover(free_map, block, True)\n",
            "",
        ),
        ("_claims/free_map.pyx", "        free_map_unpin(free_map, block)\n", ""),
    ],
    "an opening is called finished before it is": [
        (
            "_claims/free_map.pyx",
            """        uncover(free_map, block, True)
        hb_cas(free_map.cleared_count, cleared, count)
""",
            """        hb_cas(free_map.cleared_count, cleared, count)
        uncover(free_map, block, True)
""",
        ),
    ],
    "a look with the count of before": [
        (
            "_claims/free_map.pyx",
            "    cdef uint64_t children = all_children(open_slots(free_map), level, word_number)\n",
            "    cdef uint64_t children = all_children(hb_load_acquire(free_map.cleared_count), level, word_number)\n",
        ),
    ],
    "a word is marked that was pinned when it was read": [
        (
            "_claims/free_map.pyx",
            "        if pins(word):\n            return\n",
            "",
        ),
    ],
    "a block is looked at before its word is read": [
        (
            "_claims/free_map.pyx",
            "        word = hb_load_acquire(place)\n        version = word",
            "        is_final = level > 0 or block_is_final(free_map, block)\n"
            "        word = hb_load_acquire(place)\n"
            "        version = word",
        ),
        (
            "_claims/free_map.pyx",
            "                if not block_is_final(free_map, block):\n",
            "                if not is_final:\n",
        ),
        (
            "_claims/free_map.pyx",
            "    cdef uint64_t *place\n"
            "    cdef int level\n"
            "    for level in range(free_map.level_count):\n"
            "        number",
            "    cdef uint64_t *place\n"
            "    cdef int level\n"
            "    cdef bint is_final\n"
            "    for level in range(free_map.level_count):\n"
            "        number",
        ),
    ],
    "a block is looked at with the count of before": [
        (
            "_claims/free_map.pyx",
            "    cdef uint64_t end = min(slot + BLOCK_SIZE, open_slots(free_map))\n"
            "    while slot < end:\n"
            "        if not slot_is",
            "    cdef uint64_t end = min(slot + BLOCK_SIZE, hb_load_acquire(free_map.cleared_count))\n"
            "    while slot < end:\n"
            "        if not slot_is",
        ),
    ],
    "a parent is marked without another look at the child": [
        (
            "_claims/free_map.pyx",
            "            elif not is_full(free_map, level - 1, child, hb_load_acquire(",
            "            elif level > free_map.level_count "
            "and not is_full(free_map, level - 1, child, hb_load_acquire(",
        ),
    ],
    "bits are cleared from the root": [
        (
            "_claims/free_map.pyx",
            "    for level in range(free_map.level_count):\n"
            "        place = free_map.levels[level] + child // FAN_OUT\n"
            "        while True:\n"
            "            word = hb",
            "    for level in range(free_map.level_count - 1, -1, -1):\n"
            "        child = block >> FAN_OUT_BITS * level\n"
            "        place = free_map.levels[level] + child // FAN_OUT\n"
            "        while True:\n"
            "            word = hb",
        ),
    ],
    "the version stays where no bit was set": [
        (
            "_claims/free_map.pyx",
            "            if hb_cas(place, word, cleared):\n                break\n",
            "            if not (word >> (child % FAN_OUT) & 1) and not (level == 0 and is_pinned):\n"
            "                break\n"
            "            if hb_cas(place, word, cleared):\n"
            "                break\n",
        ),
    ],
    "bits are cleared by one try": [
        (
            "_claims/free_map.pyx",
            "            if hb_cas(place, word, cleared):\n                break\n",
            "            hb_cas(place, word, cleared)\n            break\n",
        ),
    ],
    "a pin is taken away by one try": [
        (
            "_claims/free_map.pyx",
            "    while 0 < pins(word) < PIN_LIMIT and not hb_cas(place, word, word - (<uint64_t>1 << PIN_SHIFT)):\n"
            "        word = hb_load_acquire(place)\n",
            "    if 0 < pins(word) < PIN_LIMIT:\n        hb_cas(place, word, word - (<uint64_t>1 << PIN_SHIFT))\n",
        ),
    ],
    "a full count of pins overflows": [
        (
            "_claims/free_map.pyx",
            " and pins(word) < PIN_LIMIT:",
            ":",
        ),
    ],
    "a full count of pins is lowered": [
        (
            "_claims/free_map.pyx",
            "    while 0 < pins(word) < PIN_LIMIT and",
            "    while 0 < pins(word) and",
        ),
    ],
    "an opening is left to others": [
        (
            "_claims/free_map.pyx",
            "        hb_cas(free_map.open_count, count, new_count)\n        free_map_opened(free_map)\n",
            "        hb_cas(free_map.open_count, count, new_count)\n",
        ),
    ],
    "slots are opened by a plain store": [
        (
            "_claims/free_map.pyx",
            "        hb_cas(free_map.open_count, count, new_count)\n        free_map_opened(free_map)\n",
            "        hb_store_relaxed(free_map.open_count, new_count)\n        free_map_opened(free_map)\n",
        ),
        (
            "_claims/free_map.pyx",
            "import hb_cas, hb_load_acquire\n",
            "import hb_cas, hb_load_acquire, hb_store_relaxed\n",
        ),
    ],
    "a late helper does not look at the state": [
        (
            "_claims/index.pyx",
            "            if hb_load_acquire(index.state) != state:\n"
            "                return False\n"
            "            if word_kind(word) == ENTRY:",
            "            if word_kind(word) == ENTRY:",
        ),
    ],
    "a late helper looks at the state before the word": [
        (
            "_claims/index.pyx",
            "            word = hb_load_acquire(&table[i])\n            if word == moved:\n                break\n",
            "            if hb_load_acquire(index.state) != state:\n"
            "                return False\n"
            "            word = hb_load_acquire(&table[i])\n"
            "            if word == moved:\n"
            "                break\n",
        ),
        (
            "_claims/index.pyx",
            "            if hb_load_acquire(index.state) != state:\n"
            "                return False\n"
            "            if word_kind(word) == ENTRY:",
            "            if word_kind(word) == ENTRY:",
        ),
    ],
    "an entry is copied twice": [
        (
            "_claims/index.pyx",
            "            if word == entry:\n                return True\n",
            "",
        ),
    ],
    "an entry is copied by a plain store": [
        (
            "_claims/index.pyx",
            "            if hb_cas(&table[position], empty, entry):\n                return True\n",
            "            hb_store_relaxed(&table[position], entry)\n            return True\n",
        ),
    ],
    "a replacement goes on by a plain store": [
        (
            "_claims/index.pyx",
            "        hb_cas(index.state, state, generation << PHASE_BITS | PHASE_MOVE)\n",
            "        hb_store_relaxed(index.state, generation << PHASE_BITS | PHASE_MOVE)\n",
        ),
    ],
    "a replacement ends by a plain store": [
        (
            "_claims/index.pyx",
            "        hb_cas(index.state, state, (generation + 1) << PHASE_BITS)\n",
            "        hb_store_relaxed(index.state, (generation + 1) << PHASE_BITS)\n",
        ),
    ],
    "empty words have no generation": [
        (
            "_claims/index.pxd",
            "    return generation >> 1\n",
            "    return 0\n",
        ),
    ],
    "entries have no generation": [
        (
            "_claims/index.pxd",
            "generation << TAG_BITS | tag_of(key)",
            "tag_of(key)",
        ),
    ],
    "tombstones have no generation": [
        (
            "_claims/index.pxd",
            "<uint64_t>GONE << 62 | ((generation << 1) & (((<uint64_t>1) << 62) - 1))",
            "<uint64_t>GONE << 62",
        ),
    ],
}

# What needs a longer search than most, or is found late in one: (preemptions, deaths), and the scenario that sees it.
LONG_SEARCHES: dict[str, tuple[tuple[int, int], str]] = {
    "a late helper does not look at the state": ((4, 0), "a slow helper of a replacement but one"),
    "a late helper looks at the state before the word": ((4, 0), "a slow helper of a replacement but one"),
    "entries have no generation": (
        (3, 0),
        "a slow reclaim of a release that others have finished, two replacements ago",
    ),
    "tombstones have no generation": ((4, 0), "a slow helper of a replacement but two"),
}
