"""How long a claim takes while another process claims from the same envelope in batches: the tail of the table."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from bench.measure.findings import Finding, at_most
from bench.measure.limit import shared_numbers
from bench.measure.operations import FIRST_USER, MEAN
from bench.measure.pages import new_engine
from bench.measure.turns import Run, Scale
from bench.rows import peers
from bench.rows.processes import ONE_BY_ONE, OTHER_BATCH, claimer, side_by_side

PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "p99.99": 99.99}


def latencies(call: Callable[[object], object], users: Sequence[int], out: np.ndarray) -> None:
    """Fill ``out`` with the nanoseconds of each call, one reading of the clock and the loop included."""
    clock = time.perf_counter_ns
    stamps = memoryview(out)
    last = clock()
    for number, user in enumerate(users):
        call(user)
        now = clock()
        stamps[number] = now - last
        last = now


def claims_beside_batches(claims: int, packets: int, touched: bool) -> np.ndarray:
    """Nanoseconds of each scalar claim of one process, while another claims from the same envelope in batches."""
    engine = new_engine()
    engine.envelope("race", total=MEAN * packets, packets=packets)
    engine.envelope("warm-up", total=MEAN * 1_000, packets=1_000)
    out, done = shared_numbers(claims), shared_numbers(1)
    users = range(FIRST_USER, FIRST_USER + claims)
    others = range(users[-1] + 1, users[-1] + 1 + packets - claims)  # leaves a packet for everybody

    def one() -> Run:
        claimer(engine, users, ONE_BY_ONE, touched)()
        envelope, numbers = engine.envelope("race"), list(users)

        def run() -> None:
            latencies(envelope.claim, numbers, out)
            done[0] = 1

        return run

    def other() -> Run:
        claimer(engine, others, OTHER_BATCH, touched)()
        envelope, keys = engine.envelope("race"), np.arange(others[0], others[-1] + 1)

        def run() -> None:
            for start in range(0, len(keys), OTHER_BATCH):
                if done[0]:
                    return
                envelope.claim_many(keys[start : start + OTHER_BATCH])

        return run

    side_by_side([one, other])
    return out


def nothing_timed(claims: int) -> np.ndarray:
    """Nanoseconds of calls of a built-in method: what the clock, the loop and the machine's other work add."""
    out = shared_numbers(claims)
    side_by_side([lambda: lambda: latencies(().count, list(range(claims)), out)])
    return out


def server_latencies(scale: Scale) -> np.ndarray | None:
    """Nanoseconds of Lua claims on a server of our own, one by one, with no other client."""
    with ExitStack() as stack:
        try:
            client = stack.enter_context(peers.valkey_server())
        except ImportError:
            return None
        count = scale.choose(20_000, 500)
        peers.fill(client, count)
        script = client.register_script(peers.LUA)
        out = np.zeros(count, np.int64)
        latencies(lambda user: script(keys=("packets", "claims"), args=(user,)), range(count), out)
        return out


def tail(scale: Scale) -> list[Finding]:
    """Fresh is the worst case: the first claims of a large envelope, many of which meet a page that is new.

    The law is ``double_mean`` in both, whose strata are split at their first claims.
    """
    claims, packets = scale.choose(100_000, 5_000), scale.choose(4_000_000, 500_000)
    turns = scale.choose(15, 2)
    rounds: dict[str, list[np.ndarray]] = {"fresh": [], "touched": [], "built-in": []}
    for turn in range(turns):
        scale.tell(f"turn {turn + 1} of {turns}: claims beside batches")
        rounds["fresh"].append(claims_beside_batches(claims, packets, False))
        rounds["touched"].append(claims_beside_batches(claims, packets, True))
        rounds["built-in"].append(nothing_timed(claims))
    server = server_latencies(scale)
    together = {name: np.concatenate(many) for name, many in rounds.items()}
    scale.pictured["tail"] = together if server is None else {**together, "server": server}
    found = []
    bars = {"p99": 2_000, "p99.9": 50_000}
    for kind in ("touched", "fresh"):
        for name, percentile in PERCENTILES.items():
            value, empty = (
                float(np.median([np.percentile(times, percentile) for times in rounds[of]]))
                for of in (kind, "built-in")
            )
            what, figures = f"{name} of claim beside batches, {kind}", f"of a built-in method {empty:,.0f} ns"
            if name in bars:
                found.append(at_most(what, value, bars[name], "{:,.0f} ns", figures))
            else:
                found.append(Finding(what, f"{value:,.0f} ns", figures=figures))
    return found
