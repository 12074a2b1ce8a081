"""The facts of the machine that stand above the figures of a bench."""

import os
import platform
from typing import Any

import numpy as np

import hbcore


def available_bytes() -> int:
    """Return how much memory the machine could still give."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024


def machine() -> dict[str, Any]:
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "hbcore": hbcore.__version__,
        "load_at_start": round(os.getloadavg()[0], 2),
    }
