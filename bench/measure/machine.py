"""The facts of the machine that stand above the figures of a bench."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

import hbcore


def available_bytes() -> int:
    """Return how much memory the machine could still give."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024


def cores_of(text: str) -> set[int]:
    """Return the cores of a list of the kernel's, as in ``0-3,8``."""
    parts = [part.partition("-")[::2] for part in text.strip().split(",")]
    return {core for first, last in parts for core in range(int(first), int(last or first) + 1)}


def shared_caches() -> str:
    """Return which caches the cores of this process share, as the kernel has it: ``L3`` for example."""
    mine = os.sched_getaffinity(0)
    caches = list(Path("/sys/devices/system/cpu").glob(f"cpu{min(mine)}/cache/index*"))
    shared = {
        f"L{(cache / 'level').read_text().strip()}"
        for cache in caches
        if mine <= cores_of((cache / "shared_cpu_list").read_text())
    }
    return "+".join(sorted(shared)) or ("none" if caches else "unknown")


def machine() -> dict[str, Any]:
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cache of all": shared_caches(),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "hbcore": hbcore.__version__,
        "load_at_start": round(os.getloadavg()[0], 2),
    }
