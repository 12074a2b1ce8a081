"""Each operation of an engine as a pytest-benchmark group, native and reference.

    python -m pytest bench --benchmark-only

A round is ``COUNT`` operations on a fresh engine, prepared outside the clock. ``--benchmark-json`` also stores
``ns_per_operation``, the median round divided by that count. ``python -m bench compare`` prints ratios from one run.
"""

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure import operations

COUNT = 10_000
OPERATIONS = {
    "claim of an int": (operations.claim_integer, COUNT),
    "claim of a 16-character str": (operations.claim_text, COUNT),
    "claim of an int, law equal": (operations.claim_alone, COUNT),
    "claim_many of int64": (operations.claim_many, COUNT),
    "claim_many of int64, law equal": (operations.claim_many_alone, COUNT),
    "claim, repeated": (operations.repeated, COUNT),
    "claim_many, repeated": (operations.repeated_many, COUNT),
    "claim, sold out": (operations.sold_out, COUNT // 20),
    "claim_many, sold out": (operations.sold_out_many, COUNT // 20),
    "find": (operations.find, COUNT),
    "release and claim again": (operations.release_and_claim, COUNT),
    "reserve of an int": (operations.reserve, COUNT),
    "reserve_many of int64": (operations.reserve_many, COUNT),
    "reserve, repeated": (operations.reserve_repeated, COUNT),
    "reserve, insufficient": (operations.reserve_insufficient, COUNT),
    "settle all of a hold": (operations.settle_hold, COUNT),
    "settle a part of a hold": (operations.settle_part, COUNT),
    "release a hold": (operations.release_hold, COUNT),
    "create a sub-budget": (operations.create_sub_budget, COUNT // 10),
    "create a funded envelope of 10 packets": (operations.create_funded, COUNT // 10),
    "create an envelope of 10 packets": (operations.create_small, COUNT),
    "create_many of 10 packets": (operations.create_many, COUNT),
    "create an envelope of 10**9 packets": (operations.create_huge, 1),
}
ROUNDS = {"native": 25, "reference": 5}


@pytest.fixture(params=ROUNDS)
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(benchmark: BenchmarkFixture, impl: str, name: str) -> None:
    operation, count = OPERATIONS[name]
    benchmark.group = f"{name}, {count:,} a round" if count > 1 else name

    def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (operation(operations.IMPLEMENTATIONS[impl], count),), {}

    benchmark.pedantic(lambda run: run(), setup=prepare, rounds=ROUNDS[impl])
    if benchmark.stats is not None:
        benchmark.extra_info["ns_per_operation"] = benchmark.stats.stats.median / count * 1e9
