"""Bugs to plant in the making of objects: space and names."""

# name: edits of (file, old text, new text)
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
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
            "    hb_cas, hb_fence_release, hb_load_acquire, ",
            "    hb_cas, hb_fence_release, hb_store_relaxed, hb_load_acquire, ",
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
        (
            "_file/directory.pyx",
            "region.is_nobodys(state) and not is_named(region, offset):",
            "region.is_nobodys(state):",
        ),
    ],
    "space is taken over by a plain store": [
        (
            "_file/directory.pyx",
            "            if hb_cas(&(<hb_extent *>(region.base + offset)).state, state, taken):\n",
            "            hb_store_relaxed(&(<hb_extent *>(region.base + offset)).state, taken)\n            if True:\n",
        ),
        (
            "_file/directory.pyx",
            "    hb_cas, hb_fence_release, hb_load_acquire, ",
            "    hb_cas, hb_fence_release, hb_store_relaxed, hb_load_acquire, ",
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
}

# What needs a longer search than most, or is found late in one: (preemptions, deaths), and the scenario that sees it.
LONG_SEARCHES: dict[str, tuple[tuple[int, int], str]] = {}
