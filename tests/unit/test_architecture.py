"""The layers: every import and cimport points down, what goes up is registered, and architecture.md says the same.

Read from the sources, ``.py``, ``.pyx`` and ``.pxd`` alike, and an import inside a function counts as one at the top.
Imports for the type checker alone (stubs, ``if TYPE_CHECKING:``) are no arrows.
"""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hbcore
import hbcore.terms
from hbcore import Status

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hbcore"
SUFFIXES = {".py", ".pyx", ".pxd"}

# From the lowest. What stands in one row does not know each other.
LAYERS = (
    ("errors",),
    ("terms", "types"),
    ("_lib",),
    ("_keys",),
    ("_split",),
    ("_file",),
    ("_claims", "_money"),
    ("budget",),
    ("envelope",),
    ("_ops",),
    ("engine",),
    ("law", "stream", "user"),  # the public cimport paths, and hbcore.law
    ("reference", "__init__"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}

# What a layer needs from one above it is registered there when that one is imported: the function that registers it,
# and the module that calls it. Nothing else goes upwards.
REGISTERED = {
    "directory_set_funded": ("_file.directory", "_money.funding"),  # whether a budget has funded an extent
    "directory_set_appended": ("_file.directory", "_ops.top_up"),  # whether a tranche is in its chain
    "budget_set_envelopes": ("budget", "_ops.creation"),  # Budget.envelope, Budget.create_many
    "budget_set_settled": ("budget", "envelope"),  # what was spent of an envelope
    "budget_set_reopen": ("budget", "engine"),  # for pickle
    "envelope_set_top_up": ("envelope", "_ops.top_up"),  # Envelope.top_up
    "envelope_set_reopen": ("envelope", "engine"),  # for pickle
}
# One callback is an argument: opening a file after a reboot calls what the engine hands it.
HANDED_OVER = ("_file.opening", "recover", "_ops.recovery", "engine")

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")


def sources() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in SUFFIXES:
            yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def code(path: Path) -> str:
    """Return a native source without comments and docstrings, its continued lines joined."""
    text = re.sub(r'"""(?:.|\n)*?"""', '""', path.read_text())
    text = re.sub(r"#[^\n]*", "", text)
    return re.sub(r"\(([^()]*)\)", lambda match: "(" + " ".join(match[1].split()) + ")", text)


def imported(path: Path) -> set[str]:
    """Return the modules of hbcore that a source imports or cimports, as dotted names below hbcore."""
    if path.suffix == ".py":
        return imported_by_python(ast.parse(path.read_text()))
    found = set()
    for module, names in re.findall(r"^\s*from hbcore((?:\.\w+)*) c?import ([^\n]+)", code(path), re.M):
        found |= targets(module.lstrip("."), re.findall(r"\w+", re.sub(r"\bas \w+", "", names)))
    for module in re.findall(r"^\s*c?import hbcore\.([\w.]+)", code(path), re.M):
        found.add(module)
    assert not re.search(r"^\s*from \.+\w* c?import", code(path), re.M), f"{path}: a relative import"
    return found


def imported_by_python(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            if node.module and node.module.split(".")[0] == "hbcore":
                found |= targets(node.module.removeprefix("hbcore").lstrip("."), [name.name for name in node.names])
        elif isinstance(node, ast.Import):
            found |= {name.name.removeprefix("hbcore").lstrip(".") for name in node.names if is_ours(name.name)}
        found |= imported_by_python(node)
    return found


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "hbcore"


def targets(module: str, names: list[str]) -> set[str]:
    """Return what ``from hbcore.<module> import <names>`` imports: submodules where they are, else the module."""
    below = {f"{module}.{name}".lstrip(".") for name in names}
    modules = {
        name for name in below if any((PACKAGE / name.replace(".", "/")).with_suffix(s).exists() for s in SUFFIXES)
    }
    return modules if modules == below else modules | {module}


def layer(module: str) -> str:
    return module.split(".")[0] if module else "__init__"


def test_every_module_has_a_layer() -> None:
    assert {layer(module) for module, _ in sources()} == set(RANK)


def test_every_arrow_points_down() -> None:
    wrong = [
        f"{module} ({path.suffix}) -> {target or 'hbcore'}"
        for module, path in sources()
        for target in imported(path)
        if layer(target) != layer(module) and RANK[layer(target)] >= RANK[layer(module)]
    ]
    assert not wrong, "arrows against the layers: " + "; ".join(wrong)


def test_no_modules_know_each_other_in_a_circle() -> None:
    arrows: dict[str, set[str]] = {}
    for module, path in sources():
        arrows.setdefault(module, set()).update(imported(path) - {module, ""})
    list(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle


def test_what_goes_up_is_registered_and_in_the_table() -> None:
    defined, called = {}, {}
    for module, path in sources():
        if path.suffix != ".pyx":
            continue
        text = code(path)
        for name in re.findall(r"^cdef void (\w+_set_\w+)\(", text, re.M):
            defined[name] = module
        for name in re.findall(r"^(\w+_set_\w+)\(", text, re.M):
            assert name not in called, f"{name} is registered twice"
            called[name] = module
    assert {name: (defined[name], called[name]) for name in defined | called} == REGISTERED
    rows = re.findall(
        r"^\| `(\w+)` \| `([\w/]+)` \| `([\w/]+)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.M
    )
    assert {name: (low.replace("/", "."), high.replace("/", ".")) for name, low, high in rows} == REGISTERED
    taker, argument, giver, middle = HANDED_OVER
    opening, engine = PACKAGE / f"{taker.replace('.', '/')}.pyx", PACKAGE / f"{middle}.pyx"
    assert re.search(rf"\b{argument}\b", code(opening))
    assert f"from hbcore.{giver} import {argument}" in code(engine)


def test_nothing_is_imported_inside_a_function() -> None:
    """It would hide an arrow from a reader of the top. The command line may: it says which extra it lacks."""
    late = []
    for module, path in sources():
        for line in path.read_text().splitlines() if path.suffix in {".pyx", ".py"} else ():
            if re.match(r"\s{4,}(from hbcore|import hbcore)", line) and module not in {"__init__", "cli.__init__"}:
                late.append(f"{module}: {line.strip()}")
    assert [line for line in late if not line.startswith(("reference.", "cli."))] == []
    assert {line.split(":")[0] for line in late} <= {"reference.budget", "reference.envelope"}  # for the type checker


def test_every_table_of_layers_says_the_same() -> None:
    """docs/architecture.md has every module of every layer, in an order in which none needs a later one."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = dict(re.findall(r"^(\w+): ((?:\w+ ?)+)$", text, re.M))
    modules: dict[str, set[str]] = {}
    for module, _ in sources():
        *folder, name = module.split(".")
        if name != "__init__":
            modules.setdefault(folder[0] if folder else name, set()).add(name)
    for path in PACKAGE.rglob("*.h"):
        modules[path.parent.name].add(path.stem)
    for name in ("errors", "terms", "types", "law", "stream", "user", "reference", "__main__"):
        modules.pop(name)
    assert {name: set(row.split()) for name, row in rows.items()} == modules
    ranks = [RANK[name] for name in rows]
    assert ranks == sorted(ranks)
    for name, row in rows.items():
        order = row.split()
        for module, path in sources():
            if layer(module) == name and module.count(".") == 1 and not module.endswith("__init__"):
                for target in imported(path):
                    if layer(target) == name and target != module and target.count(".") == 1:
                        assert order.index(target.split(".")[1]) < order.index(module.split(".")[1]), (module, target)


def test_every_function_of_the_flows_is_where_they_say() -> None:
    """docs/architecture.md names each step as ``file: function`` or ``file: Class.method``."""
    text = " ".join((ROOT / "docs" / "architecture.md").read_text().split())
    steps = re.findall(r"`([\w/]+\.(?:pyx|pxd|py)): ([\w.]+)`", text)
    assert len(steps) > 50
    for file, name in steps:
        function = name.split(".")[-1]
        source = (PACKAGE / file).read_text()
        assert re.search(rf"^ *(def|cdef)\b[^\n]*\b{function}\(", source, re.M), f"{file} has no {name}"
        assert "." not in name or re.search(rf"^cdef class {name.split('.')[0]}\b", source, re.M), f"{file}: {name}"


def test_a_status_has_the_number_of_its_answer() -> None:
    answers = dict(re.findall(r"^    ([A-Z_]+) = (-?\d+)", (PACKAGE / "_lib" / "answers.pxd").read_text(), re.M))
    assert len(set(answers.values())) == len(answers), "a number with two meanings"
    assert {
        status.name.replace("GRANTED", "GRANTED_NOW"): str(int(status)) for status in Status
    }.items() <= answers.items()


def test_the_core_has_the_limits_of_the_terms() -> None:
    text = (PACKAGE / "_lib" / "limits.pxd").read_text()
    limits = {name: eval(value) for name, value in re.findall(r"^    ([A-Z_]+) = ([\d <]+)", text, re.M)}
    limits |= {name: 1 << int(bits) for name, bits in re.findall(r"#define HB_(\w+) \(U?INT64_C\(1\) << (\d+)\)", text)}
    assert limits == {name: getattr(hbcore.terms, name) for name in limits}
    assert len(limits) == 7
