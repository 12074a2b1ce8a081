"""A preloading server whose workers are killed and replaced while real requests come in: server_storm.py in short."""

import os
from pathlib import Path

import pytest
from running import run_script

pytestmark = pytest.mark.full

SCRIPT = Path(__file__).with_name("server_storm.py")
KILLS = os.environ.get("HBCORE_SERVER_KILLS", "40")


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_workers_of_a_preloading_server_are_killed_under_load(worker_class: str) -> None:
    run_script(SCRIPT, "--kills", KILLS, "--worker-class", worker_class, "--seed", 20)
