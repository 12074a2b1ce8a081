"""A preloading server whose workers are killed and replaced while real requests come in: server_storm.py in short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hbcore

SCRIPT = Path(__file__).with_name("server_storm.py")
KILLS = os.environ.get("HBCORE_SERVER_KILLS", "40")


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_workers_of_a_preloading_server_are_killed_under_load(worker_class: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(hbcore.__file__).parent.parent)}
    command = [sys.executable, str(SCRIPT), "--kills", KILLS, "--worker-class", worker_class, "--seed", "20"]
    storm = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    assert storm.returncode == 0, storm.stdout + storm.stderr
