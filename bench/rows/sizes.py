"""The rows of the table that depend on the size of an envelope: the giant one, memory per packet, cost per claim."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hbcore
from bench.measure.findings import Finding, at_most
from bench.measure.limit import bare_loop, library
from bench.measure.machine import available_bytes
from bench.measure.operations import FIRST_USER, MEAN
from bench.measure.pages import allocated_bytes, descriptors, libc, new_engine, touch
from bench.measure.turns import Scale, timed, without_garbage
from bench.rows.batches import BATCH

GIANT = 10**9
CLAIMS_AT_LEAST = 200_000
"""Small envelopes are measured by the dozen: so many claims make a figure."""
FEW = 10_000
"""Users who claim one by one are made in such portions, that lie in the cache as those of a request do."""
BYTES_NEEDED = 150
"""Of free memory, for each packet of a measurement: twice what the engine takes."""


class Opened:
    """An engine in memory, and the descriptor of its memory."""

    def __init__(self) -> None:
        before = descriptors()
        self.engine = hbcore.Engine()
        self.descriptor = min(descriptors() - before)  # it has several, all of one file


def anonymous_bytes() -> int:
    """Return the private memory of this process that is in use and in RAM: everything but the pages of engines."""
    libc.malloc_trim(0)  # what was freed is not in use
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def giant(scale: Scale) -> list[Finding]:
    """An envelope of 10**9 packets: how long it takes to make, and which of its pages are touched."""
    milliseconds, touched = [], []
    for _ in range(scale.choose(25, 3)):
        opened = Opened()
        before, start = allocated_bytes(opened.descriptor), time.perf_counter_ns()
        opened.engine.envelope("giant", total=GIANT * MEAN, packets=GIANT)
        milliseconds.append((time.perf_counter_ns() - start) / 1e6)
        touched.append(allocated_bytes(opened.descriptor) - before)
    pages = max(touched) // 4096
    return [
        at_most(f"creating an envelope of {GIANT:,} packets", float(np.median(milliseconds)), 20, "{:,.2f} ms"),
        at_most("pages of 4,096 bytes that this touches", pages, 16, "{:,.0f} pages"),
    ]


def bytes_a_packet(packets: int, envelopes: int) -> float:
    """Claim all packets of so many envelopes; return what the system has given for them, for each packet."""
    opened = Opened()
    engine_alone, private = allocated_bytes(opened.descriptor), anonymous_bytes()
    for number in range(envelopes):
        envelope = opened.engine.envelope(str(number), total=MEAN * packets, packets=packets)
        for start in range(0, packets, BATCH):
            envelope.claim_many(np.arange(start, min(start + BATCH, packets)))
    del envelope
    own = max(0, anonymous_bytes() - private)
    return (allocated_bytes(opened.descriptor) - engine_alone + own) / (packets * envelopes)


def memory(scale: Scale) -> list[Finding]:
    bytes_a_packet(BATCH, 2)  # what Python and NumPy take for themselves the first time is not the packets'
    kinds = [(10, 10_000), (1_000, 1_000), (100_000, 10), (10_000_000, 1)]
    found = []
    for packets, envelopes in kinds[: scale.choose(len(kinds), 3)]:
        envelopes = max(1, envelopes // scale.choose(1, 10))
        scale.tell(f"{envelopes:,} envelopes of {packets:,} packets")
        what = f"memory a claimed packet, all in, {envelopes:,} envelope{'s'[: envelopes > 1]} of {packets:,}"
        bar = 80 if packets == 10 else 64
        found.append(at_most(what, bytes_a_packet(packets, envelopes), bar, "{:,.1f} bytes"))
    return found


def in_batches(envelope: Any, start: int, stop: int) -> Callable[[], object]:
    users = np.arange(FIRST_USER + start, FIRST_USER + stop)
    return lambda: envelope.claim_many(users)


def one_by_one(envelope: Any, start: int, stop: int) -> Callable[[], object]:
    claim, users = envelope.claim, list(range(FIRST_USER + start, FIRST_USER + stop))

    def run() -> None:
        for user in users:
            claim(user)

    return run


def claims_of_whole_envelopes(packets: int, form: Callable[..., Callable[[], object]], touched: bool) -> float:
    """Claim every packet of as many envelopes as make a figure; return nanoseconds a claim."""
    envelopes = -(-CLAIMS_AT_LEAST // packets)
    engine = new_engine()
    law = "equal" if touched else "double_mean"
    made = [engine.envelope(str(number), MEAN * packets, packets, law=law) for number in range(envelopes)]
    if touched:
        touch(engine)
    spent = 0.0
    step = FEW if form is one_by_one else BATCH
    for envelope in made:
        for start in range(0, packets, step):
            stop = min(start + step, packets)
            spent += timed(form(envelope, start, stop), 1)
    return spent / (packets * envelopes)


def bare_loops(packets: int) -> float:
    loops = -(-CLAIMS_AT_LEAST // packets)
    return sum(timed(bare_loop(packets), 1) for _ in range(loops)) / (packets * loops)


CURVES: dict[str, Callable[[int], float]] = {
    "claim, fresh": lambda packets: claims_of_whole_envelopes(packets, one_by_one, False),
    "claim, touched": lambda packets: claims_of_whole_envelopes(packets, one_by_one, True),
    "claim_many, fresh": lambda packets: claims_of_whole_envelopes(packets, in_batches, False),
    "claim_many, touched": lambda packets: claims_of_whole_envelopes(packets, in_batches, True),
    "bare C loop": bare_loops,
}


def curve(scale: Scale) -> list[Finding]:
    """Cost per claim by the number of packets, all of which are claimed; one turn where there are very many."""
    sizes = [base * 10**power for power in range(3, scale.choose(8, 5)) for base in (1, 3)] + [10 ** scale.choose(8, 5)]
    room = available_bytes() // BYTES_NEEDED
    names = [name for name in CURVES if name != "bare C loop" or library() is not None]
    costs: dict[str, list[float]] = {name: [] for name in names}
    measured = [packets for packets in sizes if packets <= room]
    for packets in measured:
        turns = 1 if scale.quick else max(1, min(9, 30_000_000 // packets))
        all_turns: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(turns):
            for name in names:
                scale.tell(f"{packets:,} packets, turn {turn + 1} of {turns}: {name}")
                with without_garbage():
                    all_turns[name].append(CURVES[name](packets))
        for name in names:
            costs[name].append(float(np.median(all_turns[name])))
    scale.pictured["curve"] = {"packets": measured, "costs": costs}
    whole = range(0, len(measured), 2)
    powers = f"ns; {', '.join(f'10^{len(str(measured[i])) - 1}' for i in whole)} packets"
    found = [
        Finding(f"{name}, by size of the envelope", " / ".join(f"{costs[name][i]:.0f}" for i in whole), figures=powers)
        for name in names
    ]
    if len(measured) < len(sizes):
        found.append(Finding("larger envelopes", "not measured: there is not enough free memory"))
    return found
