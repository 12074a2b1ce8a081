"""Other Pythons that tests start: they import the hbcore under test, and the helpers in this folder."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hbcore

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
ROOT = TESTS.parent
PACKAGE_ROOT = Path(hbcore.__file__).parent.parent


def environment(*folders: Path, **changes: str) -> dict[str, str]:
    """Return the environment of a Python that also imports from these folders."""
    path = os.pathsep.join(map(str, (PACKAGE_ROOT, HELPERS, *folders)))
    return {**os.environ, "PYTHONPATH": path, **changes}


def script_command(script: Path, *arguments: object) -> dict[str, Any]:
    """Return the arguments of ``subprocess`` that run a script, which imports from its own folder too."""
    return {"args": [sys.executable, str(script), *map(str, arguments)], "env": environment(script.parent)}


def run_script(script: Path, *arguments: object, timeout: float = 3600) -> str:
    """Run a script, which must end well; return what it printed."""
    command = script_command(script, *arguments)
    result = subprocess.run(**command, capture_output=True, text=True, timeout=timeout, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
