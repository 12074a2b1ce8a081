"""Bugs to plant in a claim and in how it ends."""

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
        ("_claims/transitions.pyx", " hb_cas, hb_fence_full, ", " hb_cas, hb_fence_full, hb_store_relaxed, "),
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
    "sold out over what others gave back": [
        ("_claims/transitions.pyx", "next_expiry)\n    return True\n", "next_expiry)\n    return may_expire[0]\n"),
    ],
    "sold out beside a dead opener": [
        (
            "_claims/claim.pyx",
            "        open_count = free_map_opened(&ledger.free_map)\n        if free_map_none",
            "        open_count = hb_load_acquire(ledger.free_map.open_count)\n        if free_map_none",
        ),
    ],
    "expiry by a plain store": [
        (
            "_claims/transitions.pyx",
            "    if hb_cas(&ledger.slots[found.slot].state, found.state, releasing):\n",
            "    hb_store_relaxed(&ledger.slots[found.slot].state, releasing)\n    if True:\n",
        ),
        ("_claims/transitions.pyx", " hb_cas, hb_fence_full, ", " hb_cas, hb_fence_full, hb_store_relaxed, "),
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
    "what the dead held is not refunded after the close": [
        (
            "_claims/transitions.pyx",
            "    elif answer == NOT_FOUND and hb_cas(&ledger.slots[slot].state, state, slot_state(FREE, state, 0)):\n"
            "        refund_if_closed(ledger, slot)\n",
            "    elif answer == NOT_FOUND:\n"
            "        hb_cas(&ledger.slots[slot].state, state, slot_state(FREE, state, 0))\n",
        ),
    ],
    "what is released is not refunded after the close": [
        (
            "_claims/transitions.pyx",
            "    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):\n"
            "        free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)\n"
            "        refund_if_closed(ledger, slot)\n",
            "    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):\n"
            "        free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)\n",
        ),
    ],
    "the close is looked for before the slot is freed": [
        (
            "_claims/transitions.pyx",
            "    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):\n"
            "        free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)\n"
            "        refund_if_closed(ledger, slot)\n",
            "    cdef bint is_closed = hb_load_acquire(ledger.closed) != 0\n"
            "    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):\n"
            "        free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)\n"
            "        if is_closed:\n"
            "            refund_if_closed(ledger, slot)\n",
        ),
    ],
    "a late refund is not counted": [
        (
            "_claims/transitions.pyx",
            "        hb_fetch_add_relaxed(ledger.late_refunds, 1)\n",
            "",
        ),
    ],
    "the pin of a release is taken away by everybody who finishes it": [
        (
            "_claims/transitions.pyx",
            "    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):\n"
            "        free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)\n"
            "        refund_if_closed(ledger, slot)\n",
            "    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):\n"
            "        refund_if_closed(ledger, slot)\n"
            "    free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)\n",
        ),
    ],
    "a release that lost leaves its pin": [
        (
            "_claims/transitions.pyx",
            "    free_map_unpin(&ledger.free_map, found.slot // BLOCK_SIZE)\n    return BUSY",
            "    return BUSY",
        ),
    ],
    "whoever frees a slot leaves the pin": [
        (
            "_claims/transitions.pyx",
            "    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):\n"
            "        free_map_unpin(&ledger.free_map, slot // BLOCK_SIZE)\n"
            "        refund_if_closed(ledger, slot)\n",
            "    if hb_cas(&ledger.slots[slot].state, releasing, slot_state(FREE, releasing, 0)):\n"
            "        refund_if_closed(ledger, slot)\n",
        ),
    ],
    "a replacement is begun in the middle of another": [
        (
            "_claims/transitions.pyx",
            "    if not is_moving(state):\n        index_start",
            "    if True:\n        index_start",
        ),
    ],
    "a releaser never climbs": [
        ("_claims/free_map.pyx", "return word & children == children or pins(word) != 0", "return False"),
    ],
    "a releaser does not climb where others have pinned the word": [
        (
            "_claims/free_map.pyx",
            "return word & children == children or pins(word) != 0",
            "return word & children == children",
        ),
    ],
    "a releaser does not climb where the word was full": [
        ("_claims/free_map.pyx", "return word & children == children or pins(word) != 0", "return pins(word) != 0"),
    ],
    "an opening climbs only where the word was full": [
        ("_claims/free_map.pyx", "level == 0 and not is_opening and not may", "level == 0 and not may"),
    ],
    "an opening does not pin": [
        ("_claims/free_map.pyx", "if level == 0 and pins(word) <", "if level == 0 and not is_opening and pins(word) <"),
        ("_claims/free_map.pyx", "        free_map_unpin(free_map, block)\n", ""),
    ],
    "a claim that finds no room is not told that all is gone": [
        ("_claims/claim.pyx", "if answer == NO_SPACE and not is_holding:", "if False:"),
    ],
    "a replacement begins before its second table is there": [
        (
            "_claims/ledger.pxd",
            "    cdef int answer = 0\n    if table_of(&ledger.index, 1) == NULL:\n        answer",
            "    cdef int answer = 0\n    index_start_replacement(&ledger.index, index_state)\n"
            "    if table_of(&ledger.index, 1) == NULL:\n        answer",
        ),
    ],
    "a release begins a replacement without a second table": [
        (
            "_claims/transitions.pyx",
            "    if table_of(index, 1) == NULL and ledger.meet(ledger.context, False) != 0:\n        return\n",
            "",
        ),
    ],
    "a claim that finds no room keeps its slot": [
        (
            "_claims/claim.pyx",
            "            if answer != 0:\n                if is_holding:\n",
            "            if answer != 0:\n                if False:\n",
        ),
    ],
    "a claim that goes far is refused for want of room": [
        (
            "_claims/claim.pyx",
            "begin_replacement(ledger, index_state) == 0:",
            "begin_replacement(ledger, index_state) < 9:",
        ),
    ],
    "a frozen word is taken for buried": [
        (
            "_claims/transitions.pyx",
            "            return True\n        # The word is frozen, or another thread has buried it.\n",
            "            return True\n        return True\n",
        ),
    ],
    "only the first block is searched for what the dead have left": [
        (
            "_claims/transitions.pyx",
            "        block = free_map_next(&ledger.free_map, <uint64_t>block + 1, &unused)\n",
            "        block = -1\n",
        ),
    ],
    "what the dead were releasing is left": [
        (
            "_claims/transitions.pyx",
            "    if kind == RELEASING:\n        finish_release(ledger, &key, slot, state)\n        return\n",
            "    if kind == RELEASING:\n        return\n",
        ),
    ],
    "what the dead have published is left undecided": [
        (
            "_claims/transitions.pyx",
            "        make_granted(ledger, &found, hb_now_ms())\n    elif",
            "        return\n    elif",
        ),
    ],
    "a settle that was overtaken gives up": [
        (
            "_claims/transitions.pyx",
            "                  slot_state(SETTLED, found.state, slot_payload(found.state))):\n"
            "            return REPEATED\n",
            "                  slot_state(SETTLED, found.state, slot_payload(found.state))):\n"
            "            return REPEATED\n"
            "        return NOT_FOUND\n",
        ),
    ],
    "a release that was overtaken gives up": [
        (
            "_claims/transitions.pyx",
            "        if answer != BUSY:\n            return answer\n    return CORRUPT\n\n\ncdef int give_back",
            "        return answer if answer != BUSY else NOT_FOUND\n    return CORRUPT\n\n\ncdef int give_back",
        ),
    ],
    "what has expired is called gone before it is": [
        (
            "_claims/transitions.pyx",
            "        if give_back(ledger, worker, key, found) == CORRUPT:\n"
            "            return CORRUPT\n"
            "    return CORRUPT\n",
            "        return NOT_FOUND\n    return CORRUPT\n",
        ),
    ],
    "a key that is older than its state": [
        (
            "_claims/ledger.pxd",
            "        if state[0] == before:\n            return True\n",
            "        return True\n",
        ),
    ],
    "a key that is newer than its state": [
        (
            "_claims/ledger.pxd",
            "        if state[0] == before:\n            return True\n",
            "        state[0] = before\n        return True\n",
        ),
    ],
    "a find answers before the claim is granted": [
        (
            "_claims/ledger.pyx",
            "                make_granted(ledger, found, hb_now_ms())\n                continue\n",
            "                return REPEATED\n",
        ),
    ],
    "a claim repeats before the claim is granted": [
        (
            "_claims/claim.pyx",
            "                make_granted(ledger, found, now_ms)     # before it is answered: ledger_find says why\n",
            "",
        ),
    ],
    "a word that has changed is passed over": [
        (
            "_claims/ledger.pxd",
            "                continue    # the word has become GONE or FROZEN: look at it again\n",
            "",
        ),
    ],
    "what is being released passes for a claim": [
        (
            "_claims/ledger.pxd",
            "                    and slot_is_claim(found.state) and",
            "                    and",
        ),
    ],
    "a user is told by the tag alone": [
        (
            "_claims/ledger.pxd",
            " and slot_key.low == key.low and slot_key.high == key.high):",
            "):",
        ),
    ],
    "a table that was replaced is called damage by a find": [
        (
            "_claims/ledger.pyx",
            "        if outcome == PROBE_MOVING and hb_load_acquire(ledger.index.state) == index_state:",
            "        if outcome == PROBE_MOVING:",
        ),
    ],
    "a table that was replaced is called damage by a claim": [
        (
            "_claims/claim.pyx",
            "        elif hb_load_acquire(ledger.index.state) == index_state:\n",
            "        else:\n",
        ),
    ],
    "the beginning of a block is not searched": [
        (
            "_claims/claim.pyx",
            "        if slot < 0:\n            slot = take_in(ledger, start, cursor, worker, &look)\n",
            "",
        ),
    ],
    "the blocks before the first are not searched": [
        (
            "_claims/claim.pyx",
            "        if slot < 0:\n            slot = search_blocks(ledger, 0, block, worker, &look)\n",
            "",
        ),
    ],
    "two equal looks do not ask for more slots": [
        (
            "_claims/claim.pyx",
            "        if look.digest == before and not has_grown(ledger, open_count):",
            "        if look.digest == before:",
        ),
    ],
    "a full tree does not ask for more slots": [
        (
            "_claims/claim.pyx",
            "            if has_grown(ledger, open_count):\n                continue\n",
            "",
        ),
    ],
    "sold out after one look": [
        (
            "_claims/claim.pyx",
            "        if look.digest == before and not has",
            "        if not has",
        ),
    ],
    "a closed ledger says sold out": [
        (
            "_claims/claim.pyx",
            "        return CLOSED if hb_load_acquire(ledger.closed) else SOLD_OUT\n",
            "        return SOLD_OUT\n",
        ),
    ],
    "slots are taken before they are open": [
        (
            "_claims/claim.pyx",
            "take_in(ledger, cursor, min(start + BLOCK_SIZE, open_slots(&ledger.free_map)), worker, &look)",
            "take_in(ledger, cursor, min(start + BLOCK_SIZE, ledger.slot_count), worker, &look)",
        ),
    ],
    "a slot that was refused is not put back": [
        (
            "_claims/claim.pyx",
            "    if answer != 0:\n        put_back(ledger, held)\n        return answer\n",
            "    if answer != 0:\n        return answer\n",
        ),
    ],
}

# What needs a longer search than most, or is found late in one: (preemptions, deaths), and the scenario that sees it.
LONG_SEARCHES: dict[str, tuple[tuple[int, int], str]] = {
    "the pin of a release is taken away by everybody who finishes it": (
        (3, 0),
        "a claim and a reclaim of what was being released, beside a release",
    ),
    "no second look at the index word": ((2, 1), "release, settle and claim"),
    "sold out over what others gave back": ((3, 0), "expired, release and two others"),
    "what the dead held is not refunded after the close": ((2, 1), "close, claim and reclaim"),
    "a replacement is begun in the middle of another": ((3, 1), "a slow helper of a replacement"),
}
