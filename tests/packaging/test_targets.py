"""The flags of the compiler follow the machine that is built for, not the one that builds."""

import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CROSS_COMPILER = "aarch64-linux-gnu-gcc"
AARCH64 = 183  # e_machine of an ELF header
X86_FLAGS = {"-mcx16", "-mprfchw"}
SOME_SOURCES = {"hbcore/_claims/claim.pyx", "hbcore/_keys/batch.pyx", "hbcore/_money/account.pyx"}


def target(machine: str, **more: str) -> dict[str, str]:
    """Return the environment of a build for another machine: `sysconfig.get_platform` goes by this variable."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return plain | {"_PYTHON_HOST_PLATFORM": f"linux-{machine}"} | more


@pytest.mark.parametrize(("machine", "expected"), [("x86_64", X86_FLAGS), ("aarch64", set()), ("riscv64", set())])
def test_only_a_build_for_x86_gets_its_flags(machine: str, expected: set[str]) -> None:
    program = "import setup; print(*setup.FLAGS)"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=target(machine), capture_output=True, text=True, check=True
    ).stdout
    assert "-O3" in printed.split()
    assert {flag for flag in printed.split() if flag.startswith("-m")} == expected


@pytest.mark.full
def test_a_cross_build_is_one_of_the_other_machine(tmp_path: Path) -> None:
    if shutil.which(CROSS_COMPILER) is None:
        pytest.skip(f"there is no {CROSS_COMPILER} on the PATH")
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so"))
    for source in tree.rglob("*.pyx"):  # a few are enough, and take a tenth of the time
        if str(source.relative_to(tree)) not in SOME_SOURCES:
            source.unlink()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, tree]
    result = subprocess.run(
        command, env=target("aarch64", CC=CROSS_COMPILER), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*-linux_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        extensions = [archive.read(name) for name in archive.namelist() if name.endswith(".so")]
    assert len(extensions) == len(SOME_SOURCES)
    for extension in extensions:
        (machine,) = struct.unpack_from("<H", extension, 18)
        assert machine == AARCH64
