"""Bugs to plant in the money of an account, and in the index of its holds."""

READ_AGAIN = """        if status != 0:
            return status
        if not read_pair(&hold.state, &state, &value):
"""
GROUP = "_money/hold_group.pyx"
COMPLETE = "        status = complete(account, operation)\n" + READ_AGAIN

# name: edits of (file, old text, new text)
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
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
            "        hb_store_release(&spare.hold.key[0], key.low)\n",
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
            "                hb_store_release(account.completed, own)\n                return HAPPENED\n",
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
            "    cdef int answer = reserve(",
            "    standing.announced = 0\n    cdef int answer = reserve(",
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
    "a pair is read without a third look": [
        (
            "_money/hold.pxd",
            "        if first[0] == before:\n            return True\n",
            "        return True\n",
        ),
    ],
    "what is decided is decided again": [
        (
            "_money/account.pyx",
            "    if not is_undecided(kind):\n        return 0\n    if operation & FAIL:",
            "    if operation & FAIL:",
        ),
    ],
    "a child that was refused meanwhile is called damage": [
        (
            "_money/account.pyx",
            "                    return 0 if hb_load_acquire(&hold.state) != state else status\n",
            "                    return status\n",
        ),
    ],
    "a hold is granted before its amount stands": [
        (
            "_money/account.pyx",
            "    hb_store_relaxed(&hold.amount, value)\n"
            "    hb_store_relaxed(&hold.link, sealed_amount(account, &key, value))\n",
            "",
        ),
        (
            "_money/account.pyx",
            " else ADDED), 0\n    )\n",
            " else ADDED), 0\n    )\n"
            "    hb_store_relaxed(&hold.amount, value)\n"
            "    hb_store_relaxed(&hold.link, sealed_amount(account, &key, value))\n",
        ),
    ],
    "a child is funded before its link stands": [
        (
            "_money/account.pyx",
            "        hb_store_relaxed(&hold.amount, amount)\n"
            "        hb_store_relaxed(&hold.link, value)\n"
            "        hb_cas_pair(&hold.state, state, value, with_kind(state, FUNDED), 0)\n",
            "        hb_cas_pair(&hold.state, state, value, with_kind(state, FUNDED), 0)\n"
            "        hb_store_relaxed(&hold.amount, amount)\n"
            "        hb_store_relaxed(&hold.link, value)\n",
        ),
    ],
    "a refund is completed before the base of the next stands": [
        (
            "_money/account.pyx",
            "        if generation != hold_generation(state):\n"
            "            hb_cas_pair(refund, generation, refunded, hold_generation(state), value)\n"
            "        hb_cas_pair(&hold.state, state, value, with_kind(state, FUNDED), value)\n",
            "        hb_cas_pair(&hold.state, state, value, with_kind(state, FUNDED), value)\n"
            "        if generation != hold_generation(state):\n"
            "            hb_cas_pair(refund, generation, refunded, hold_generation(state), value)\n",
        ),
    ],
    "a closed account says insufficient": [
        (
            "_money/account.pyx",
            "            if shortage(account, 0) != CLOSED:\n                return INSUFFICIENT\n",
            "            if True:\n                return INSUFFICIENT\n",
        ),
    ],
    "a request that the money names is called absent": [
        (
            "_money/account.pyx",
            "                if operation != operation_of(standing):\n                    if hb",
            "                if True:\n                    if hb",
        ),
    ],
    "a reader takes a refund that is under way for done": [
        (
            "_money/account.pyx",
            "        if not is_done:\n            standing.value = refunded\n",
            "",
        ),
    ],
    "a reader looks at the money after the hold": [
        (
            "_money/account.pyx",
            "    is_done = operation == operation_of(standing)\n",
            "    if not read_pair(account.money, &operation, &available):\n"
            "        return AGAIN\n"
            "    is_done = operation == operation_of(standing)\n",
        ),
    ],
    "whoever asks again to settle has forgotten what it requested": [
        (
            "_money/account.pyx",
            "            return GRANTED_NOW      # by this call, before it was asked again\n",
            "            return REPEATED\n",
        ),
    ],
    "a number is given back with its request": [
        (
            "_money/hold_index.pxd",
            "        hb_store_relaxed(&spare.hold.state, 0)\n",
            "",
        ),
    ],
    "a path that could go on is not closed": [
        (
            "_money/hold_index.pxd",
            "        hb_cas(standing.word, 0, PATH_CLOSED)\n        return AGAIN\n",
            "        pass\n",
        ),
    ],
    "a path is closed by a plain store": [
        (
            "_money/hold_index.pxd",
            "        hb_cas(standing.word, 0, PATH_CLOSED)\n        return AGAIN\n",
            "        hb_store_relaxed(standing.word, PATH_CLOSED)\n        return AGAIN\n",
        ),
    ],
    "words that are taken while a line is read are called lost": [
        (
            "_money/hold_index.pxd",
            "            if set & (set + 1) and word >> 63 == 0:\n",
            "            if set & (set + 1):\n",
        ),
    ],
    "a key is told by its word alone": [
        (
            "_money/hold_index.pxd",
            "            if (hb_load_relaxed(&standing.hold.key[0]) == key.low\n"
            "                    and hb_load_relaxed(&standing.hold.key[1]) == key.high):\n"
            "                return REPEATED\n",
            "            return REPEATED\n",
        ),
    ],
    "a closed account grants": [
        (
            "_money/account.pyx",
            "            if available & MONEY_CLOSED or available < amount:\n",
            "            if available & ~MONEY_CLOSED < amount:\n",
        ),
    ],
    "a decision leaves the request as it is": [
        (
            "_money/account.pyx",
            "            answer = decide(account, standing)\n"
            "            if answer != 0:\n"
            "                return answer\n"
            "    return account_find",
            "            pass\n    return account_find",
        ),
    ],
    "a find leaves a settle undecided": [
        (
            "_money/account.pyx",
            "            else:\n"
            "                answer = decide(account, standing)\n"
            "            if answer != 0:\n"
            "                return answer\n"
            "            continue\n",
            "            else:\n"
            "                return REPEATED\n"
            "            if answer != 0:\n"
            "                return answer\n"
            "            continue\n",
        ),
    ],
    "a refund that has arrived arrives again": [
        (
            "_money/account.pyx",
            "        if standing.value >= target:\n",
            "        if standing.value > target:\n",
        ),
    ],
    "a second request keeps the generation of the first": [
        (
            "_money/account.pyx",
            "    next_state = hold_state(kind, hold_generation(standing.state) + 1, now_ms)\n    if not",
            "    next_state = hold_state(kind, hold_generation(standing.state), now_ms)\n    if not",
        ),
    ],
    "a refund keeps the generation of the one before": [
        (
            "_money/account.pyx",
            "hold_state(REFUNDING, hold_generation(standing.state) + 1, hold_time",
            "hold_state(REFUNDING, hold_generation(standing.state), hold_time",
        ),
    ],
    "a hold that is still being cleared is taken": [
        (
            "_money/hold_index.pxd",
            "        hb_store_relaxed(&spare.hold.state, 0)\n"
            "        hb_store_relaxed(&spare.hold.key[1], 0)\n"
            "        hb_store_relaxed(&spare.hold.key[0], 0)\n"
            "        hb_cas(index.next, spare.number + 1, spare.number)\n",
            "        hb_cas(index.next, spare.number + 1, spare.number)\n"
            "        hb_store_relaxed(&spare.hold.state, 0)\n"
            "        hb_store_relaxed(&spare.hold.key[1], 0)\n"
            "        hb_store_relaxed(&spare.hold.key[0], 0)\n",
        ),
        (
            "_money/hold_index.pxd",
            "            if hb_load_relaxed(&spare.hold.key[0]) == 0 and hb_load_relaxed(&spare.hold.state) == 0:\n"
            "                return 0\n",
            "            return 0\n",
        ),
    ],
    "numbers are given back by a plain store, and believed": [
        (
            "_money/hold_index.pxd",
            "        hb_cas(index.next, spare.number + 1, spare.number)\n",
            "        hb_store_relaxed(index.next, spare.number)\n",
        ),
        (
            "_money/hold_index.pxd",
            "            if hb_load_relaxed(&spare.hold.key[0]) == 0 and hb_load_relaxed(&spare.hold.state) == 0:\n"
            "                return 0\n",
            "            return 0\n",
        ),
    ],
    "whoever is granted and settled at once is told of it as of another's": [
        (
            "_money/account.pyx",
            "    return (kind in (SETTLING, SETTLED, RELEASING, RELEASED)\n"
            "            and hold_generation(state) == (generation + 1) & ((1 << 18) - 1))\n",
            "    return False\n",
        ),
    ],
    "batch: a hold is made with a request": [
        (GROUP, "occupy(index, key, UNUSED, 0,", "occupy(index, key, PENDING, 30,"),
    ],
    "batch: a request is written by plain stores": [
        (
            "_money/account.pyx",
            "        if hb_cas_pair(&standing.hold.state, standing.state, 0, next_state, amount):\n",
            "        hb_store_relaxed(&standing.hold.value, amount)\n"
            "        hb_store_relaxed(&standing.hold.state, next_state)\n"
            "        if True:\n",
        ),
    ],
    "batch: what is held is told without a look": [
        (
            "_money/account.pyx",
            "        answer = announce_again(account, &key, PENDING, amount, amount, now_ms, standing)\n"
            "        if answer == ALREADY_HELD:\n",
            "        if True:\n",
        ),
    ],
    "batch: a request that another decides is granted": [
        (
            "_money/account.pyx",
            "            if answer == HAPPENED:\n"
            "                standing.state = with_kind(next_state, GRANTED)\n"
            "                standing.amount = amount\n",
            "            if answer == HAPPENED or answer == 0:\n"
            "                standing.state = with_kind(next_state, GRANTED)\n"
            "                standing.amount = amount\n",
        ),
    ],
    "batch: numbers are taken by a plain store": [
        (
            "_money/hold_index.pxd",
            "        if hb_cas(index.next, first, end):\n",
            "        hb_store_relaxed(index.next, end)\n        if True:\n",
        ),
    ],
    "batch: numbers are given back that were used": [
        (
            GROUP,
            "    give_numbers_back(&account.index, &spare)\n",
            "    spare.first = 0\n    give_numbers_back(&account.index, &spare)\n",
        ),
    ],
    "batch: a hold that others have made is made again": [
        (
            GROUP,
            "        answer = hold_index_locate(index, key, standing)\n        if answer != NOT_FOUND:\n",
            "        standing.word += 1\n        if False:\n",
        ),
    ],
    "batch: whoever was stopped has forgotten what it requested": [
        (GROUP, "            announced[0] = standings[i].announced\n", "            announced[0] = 0\n"),
    ],
    "batch: what was announced is told of the next key as well": [
        (
            GROUP,
            "        announced[0] = 0\n        answers[i] = answer\n",
            "        announced[0] = standings[i].announced\n        answers[i] = answer\n",
        ),
    ],
    "batch: a key that has no hold is decided": [
        (GROUP, "    return answer == 0 or answer == REPEATED\n", "    return True\n"),
    ],
    "batch: the keys are decided from the last": [
        (
            GROUP,
            "    for i in range(count):\n        if located >> i & 1:\n            answer = account",
            "    if located == 3:\n"
            "        account_reserve_located(account, &keys[1], <uint64_t>amounts[stride], now_ms, &standings[1])\n"
            "    for i in range(count):\n        if located >> i & 1:\n            answer = account",
        ),
    ],
    "a level without an empty word ends the path": [
        (
            "_money/hold_index.pxd",
            "        if answer != PATH_ENDS and answer != CROWDED:\n",
            "        if answer != PATH_ENDS:\n",
        ),
    ],
}

# What needs a longer search than most, or is found late in one: (preemptions, deaths), and the scenario that sees it.
LONG_SEARCHES: dict[str, tuple[tuple[int, int], str]] = {
    "a refusal that the money does not name": ((3, 1), "a refusal beside money that comes back"),
    "insufficient without another look at the hold": ((3, 0), "a key that was refused, asked for twice"),
    "a hold is read without another look at its key": ((4, 0), "all holds read beside one that is given back"),
    "absent without another look at the hold": ((3, 0), "find beside a hold that is known by what is missing"),
    "a reader without another look at the hold": ((3, 0), "a reader beside a hold that is known by what is missing"),
    "a child that was refused meanwhile is called damage": ((3, 0), "decide beside a child that is refused"),
    "a hold that is still being cleared is taken": ((3, 0), "three keys, money for two"),
}
