"""What the machine lacks or limits: the error names it, and no file is left that could not be opened later."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import RunPython
from denied_calls import can_deny

import hbcore

HELPERS = Path(__file__).resolve().parents[1] / "helpers"

OPEN = """if 1:
    import errno, os, resource, sys
    sys.path.insert(0, sys.argv[1])
    from denied_calls import F_ADD_SEALS, F_OFD_SETLK, deny
    import hbcore
    exec(sys.argv[2])
    path = sys.argv[3] or None
    try:
        engine = hbcore.Engine(path)
        for number in range(3):
            engine.envelope(str(number), 10**6, 10**5)
        print("no error")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


def answer(run_python: RunPython, before: str, path: Path | None) -> str:
    """What opening an engine, and then filling it, comes to after a statement that takes something away."""
    return run_python(OPEN, HELPERS, before, "" if path is None else path).stdout.strip()


@pytest.mark.skipif(not can_deny(), reason="this machine has no seccomp filters")
@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("deny('memfd_create', errno.ENOSYS)", "OSError: [Errno 38] an engine in memory needs memfd_create"),
        ("deny('fcntl', errno.EINVAL, F_ADD_SEALS)", "OSError: [Errno 22] an engine in memory needs file seals"),
        ("deny('fcntl', errno.EINVAL, F_OFD_SETLK)", "HbcoreError: hbcore needs locks of open file descriptions"),
    ],
)
def test_a_kernel_that_lacks_something_is_told_of(run_python: RunPython, before: str, words: str) -> None:
    assert answer(run_python, before, None).startswith(words)


@pytest.mark.skipif(not can_deny(), reason="this machine has no seccomp filters")
@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP"])
def test_a_file_system_without_hard_links_is_told_of(run_python: RunPython, path: Path, code: str) -> None:
    said = answer(run_python, f"deny('link', errno.{code}), deny('linkat', errno.{code})", path)
    assert "a new file gets its name by a hard link, and this file system makes none" in said
    assert said.endswith(f"'{path}'")
    assert os.listdir(path.parent) == []


def test_without_proc_the_error_asks_for_it(path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("this user may make no mount namespace")
    program = f'mount -t tmpfs tmpfs /proc && exec "{sys.executable}" -c "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", program, OPEN, HELPERS, "pass", path]
    environment = os.environ | {"PYTHONPATH": str(Path(hbcore.__file__).parents[1])}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert said.startswith("HbcoreError: hbcore needs /proc, which tells one boot from the next: [Errno 2]")
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("is_file", [False, True])
def test_too_little_address_space_leaves_no_file(run_python: RunPython, path: Path, is_file: bool) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))"
    said = answer(run_python, limit, path if is_file else None)
    assert said.startswith("OSError: [Errno 12] cannot map 274877906944 bytes of address space: ")
    assert said.endswith("; a smaller capacity may help, or higher limits of memory (ulimit -v and -d)")
    assert os.listdir(path.parent) == [], "what the advice says would be a conflict with this file"
    if is_file:
        assert answer(run_python, f"{limit}; hbcore.Engine(sys.argv[3], capacity=2**30)", path) == "no error"


def test_a_file_that_cannot_be_mapped_here_names_the_limit(run_python: RunPython, path: Path) -> None:
    hbcore.Engine(path).close()
    said = answer(run_python, "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))", path)
    assert said.endswith(
        "; the file was made with this capacity, so a limit of address space (ulimit -v) must be raised"
    )
    with hbcore.Engine(path) as engine:
        engine.audit()


@pytest.mark.parametrize(
    ("limit", "is_file", "words"),
    [
        (2**20, False, "no engine in memory can have a capacity of 274877906944 bytes here: File too large: this"),
        (2**16, True, "no disk space for a new engine: File too large: this"),
        (2**20, True, "more bytes of the engine "),
    ],
)
def test_a_limit_of_file_sizes_is_named(
    run_python: RunPython, path: Path, limit: int, is_file: bool, words: str
) -> None:
    before = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    said = answer(run_python, before, path if is_file else None)
    assert said.startswith("EngineFullError: ")
    assert words in said
    assert f"this process may not make files beyond {limit} bytes (ulimit -f)" in said
    if limit == 2**16:
        assert os.listdir(path.parent) == []
