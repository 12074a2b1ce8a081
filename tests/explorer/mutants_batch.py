"""Bugs to plant in the plain claims of a batch."""

FILE = "_claims/group.pyx"
TAKE = """        held = slot_taken(state, worker)
        if not hb_cas(&slot.state, state, held):
            break
"""
KEY = """        hb_store_relaxed(&slot.user[0], keys[i].low)
        hb_store_relaxed(&slot.user[1], keys[i].high)
"""
PUBLISH = """        if not hb_cas(&table[at], empty, prefix | next_slot):
            give_up(ledger, next_slot, held)
            break
"""
GRANT = "            hb_cas(&slot.state, held, slot_state(GRANTED, held, now_ms))\n"
CLOCK = "        now_ms = time_of_grant(ledger)      # after the last of them was published\n"
SECOND_PASS = """            hb_cas(&ledger.slots[slots[published]].state, states[published],
                   slot_state(GRANTED, states[published], now_ms))
"""
STORE = ("    hb_cas, hb_fence_release,", "    hb_cas, hb_fence_release, hb_store_release,")

# name: edits of (file, old text, new text)
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "batch: what is gone does not lapse": [
        (FILE, "ledger.grow == NULL and not may_lapse and free_map_none", "ledger.grow == NULL and free_map_none"),
    ],
    "batch: what is gone does not grow": [
        (FILE, "ledger.grow == NULL and not may_lapse and free_map_none", "not may_lapse and free_map_none"),
    ],
    "batch: grant before publish": [
        (FILE, PUBLISH, GRANT[4:] + PUBLISH),
        (FILE, GRANT, "            pass\n"),
    ],
    "batch: the slot is taken by a plain store": [
        (FILE, TAKE, "        held = slot_taken(state, worker)\n        hb_store_release(&slot.state, held)\n"),
        (FILE, *STORE),
    ],
    "batch: a slot is taken whatever its state": [
        (FILE, "        if slot_kind(state) != FREE or not amount_read(", "        if not amount_read("),
    ],
    "batch: a user that stands in the index is given another slot": [
        (FILE, "word & ~mask != prefix and (word_kind", "(word_kind"),
    ],
    "batch: a key is written after its word": [
        (FILE, KEY, ""),
        (FILE, PUBLISH, PUBLISH + KEY),
    ],
    "batch: the word is written by a plain store": [
        (FILE, PUBLISH, "        hb_store_release(&table[at], prefix | next_slot)\n"),
        (FILE, *STORE),
    ],
    "batch: who was slower keeps the slot": [
        (FILE, PUBLISH, PUBLISH.replace("            give_up(ledger, next_slot, held)\n", "")),
    ],
    "batch: who was slower has a claim": [
        (FILE, PUBLISH, "        hb_cas(&table[at], empty, prefix | next_slot)\n"),
    ],
    "batch: the grant is a plain store": [
        (FILE, GRANT, "            hb_store_release(&slot.state, slot_state(GRANTED, held, now_ms))\n"),
        (FILE, *STORE),
    ],
    "batch: nothing is granted": [
        (FILE, GRANT, "            pass\n"),
    ],
    "batch: the grants of the second pass are plain stores": [
        (
            FILE,
            SECOND_PASS,
            "            hb_store_release(&ledger.slots[slots[published]].state,\n"
            "                             slot_state(GRANTED, states[published], now_ms))\n",
        ),
        (FILE, *STORE),
    ],
    "batch: the second pass misses the first": [
        (
            FILE,
            "        while published != 0:\n            published -= 1\n            hb_cas",
            "        while published > 1:\n            published -= 1\n            hb_cas",
        ),
    ],
    "batch: the clock is read before the group is published": [
        (FILE, CLOCK, ""),
        (
            FILE,
            "    next_slot = cursor.slot\n",
            "    next_slot = cursor.slot\n    if may_lapse:\n        now_ms = time_of_grant(ledger)\n",
        ),
    ],
    "batch: another's claim of the same tag is the user's own": [
        (FILE, "            or slot_key.low != key.low or slot_key.high != key.high\n", ""),
    ],
    "batch: a frozen word is passed over": [
        (FILE, " and (word_kind(word) == ENTRY or word == tombstone):", ":"),
    ],
    "batch: two users are given one slot": [
        (FILE, "        next_slot += 1\n        i += 1\n", "        i += 1\n"),
        (FILE, "if slot_kind(state) != FREE or", "if slot_kind(state) != FREE and i == 0 or"),
    ],
    "batch: what may lapse is repeated without a look at the clock": [
        (
            FILE,
            "            if may_lapse or word & ~mask != prefix or not",
            "            if word & ~mask != prefix or not",
        ),
    ],
    "batch: a slot that was never opened is taken": [
        (FILE, "    end = min(open_count, plain.end)\n", "    end = plain.end\n"),
    ],
}

# name: the only search that finds it, and its scenario
LONG_SEARCHES: dict[str, tuple[tuple[int, int], str]] = {
    "batch: what may lapse is repeated without a look at the clock": (
        (1, 0),
        "a batch after its user's claim and another have lapsed",
    ),
}
