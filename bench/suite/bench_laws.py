"""What a law costs: whole envelopes split, native and reference.

    python -m pytest bench/suite/bench_laws.py --benchmark-only

A round is one call of ``split``. ``--benchmark-json`` also stores ``ns_per_packet``, the median round divided by its
packets. The arguments are checked in Python once a split, in about two microseconds: next to nothing in 10,240
packets, most of the time in 10.
"""

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from hbcore import law, reference

LAWS: dict[str, dict[str, Any]] = {
    "equal": {"law": "equal"},
    "double_mean": {"law": "double_mean"},
    "dirichlet, c = 1": {"law": "dirichlet", "concentration": 1},
    "dirichlet, c = 3": {"law": "dirichlet", "concentration": 3},
    "dirichlet, c = 3, tight maximum": {"law": "dirichlet", "concentration": 3, "max": 300},
}
MEAN = 200
SEED = bytes(range(32))
SPLITS = {"native": law.split, "reference": reference.split}
LARGE = {"native": 10_240, "reference": 128}


@pytest.fixture(params=SPLITS)
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("size", ["large", "ten"])
@pytest.mark.parametrize("name", LAWS)
def test_split(benchmark: BenchmarkFixture, impl: str, name: str, size: str) -> None:
    packets = LARGE[impl] if size == "large" else 10
    total = packets * MEAN + packets // 2  # odd units for half of the packets: what costs `equal` most
    benchmark.group = f"law {name}" if size == "large" else f"law {name}, 10 packets"
    benchmark.pedantic(
        SPLITS[impl],
        args=(total, packets),
        kwargs={"seed": SEED, **LAWS[name]},
        rounds=25 if impl == "native" else 3,
        warmup_rounds=1,
        iterations=200 if size == "ten" and impl == "native" else 1,
    )
    if benchmark.stats is not None:
        benchmark.extra_info["ns_per_packet"] = benchmark.stats.stats.median / packets * 1e9
