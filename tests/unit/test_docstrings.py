"""Docstrings: an editor shows those of the stubs, ``help()`` those of the compiled modules, and both are the same.

Every public class, method, property and function has one, with an example that runs here as it stands there.
"""

import ast
import doctest
import importlib
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import hbcore
import hbcore.law

PACKAGE = Path(hbcore.__file__).parent
STUBBED = ("engine", "budget", "envelope", "_split.law")
WRITTEN = tuple(thing.__module__.removeprefix("hbcore.") for thing in (hbcore.Status, hbcore.Terms, hbcore.HbcoreError))

# Cython gives a `cdef readonly` attribute no docstring; the docstring of its class has it among its attributes.
WITHOUT_DOCSTRING = {"Budget.name", "Budget.parent", "Envelope.name", "Envelope.budget"}


class Documented(NamedTuple):
    """A class, function or property of a stub or a module."""

    module: str
    name: str
    """Its name in the module: ``Claim`` or ``Claim.amount``."""
    docstring: str | None

    @property
    def is_public(self) -> bool:
        """Whether a user of hbcore meets it, by ``hbcore`` or by ``hbcore.law``."""
        return self.module == "_split.law" or self.name.split(".")[0] in hbcore.__all__


def documented(module: str, suffix: str) -> Iterator[Documented]:
    """Return what a file defines, but for names with an underscore: what a class means by them, its docstring says."""
    path = PACKAGE / f"{module.replace('.', '/')}.{suffix}"
    for node in ast.parse(path.read_text(), path).body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        yield Documented(module, node.name, ast.get_docstring(node))
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                yield Documented(module, f"{node.name}.{member.name}", ast.get_docstring(member))


STUBS = [found for module in STUBBED for found in documented(module, "pyi")]
MODULES = [found for module in WRITTEN for found in documented(module, "py")]


def label(found: Documented) -> str:
    return f"{found.module}.{found.name}"


class Failed(Exception):
    """What an example gave instead of what it says."""


class Runner(doctest.DebugRunner):
    """Raises Failed at the first line of an example that gives something else."""

    def report_failure(self, out: Any, test: doctest.DocTest, example: doctest.Example, got: str) -> None:
        raise Failed(f"{test.name}: {example.source}gave\n{got}and not\n{example.want}")

    def report_unexpected_exception(
        self, out: Any, test: doctest.DocTest, example: doctest.Example, error: Any
    ) -> None:
        raise Failed(f"{test.name}: {example.source}raised {error[1]!r}") from error[1]


def run_examples(name: str, docstring: str) -> int:
    """Run the examples of a docstring in the small world that the reference promises; return their number of lines."""
    with hbcore.Engine() as engine:
        world = {"hbcore": hbcore, "np": np, "engine": engine}
        test = doctest.DocTestParser().get_doctest(docstring, world, name, None, None)
        Runner().run(test, clear_globs=False)
    return len(test.examples)


@pytest.mark.parametrize("found", STUBS + MODULES, ids=label)
def test_it_has_a_docstring(found: Documented) -> None:
    assert found.docstring, f"{label(found)} has no docstring"
    first = found.docstring.splitlines()[0]
    assert first[0].isupper() or first[0].isdigit() or first.startswith(("hbcore", "``")), first
    assert first.endswith("."), f"the first line of {label(found)} is no sentence: {first!r}"


@pytest.mark.parametrize("found", [found for found in STUBS if found.is_public], ids=label)
def test_what_is_public_has_an_example(found: Documented) -> None:
    assert ">>> " in (found.docstring or ""), f"{label(found)} has no example"


@pytest.mark.parametrize("found", [found for found in STUBS + MODULES if ">>> " in (found.docstring or "")], ids=label)
def test_an_example_gives_what_it_says(found: Documented) -> None:
    assert found.docstring is not None
    assert run_examples(label(found), found.docstring) in range(1, 6)


def test_an_example_that_is_wrong_is_told() -> None:
    claim = next(found.docstring for found in STUBS if found.name == "Envelope.claim")
    assert claim is not None
    assert "    400" in claim
    with pytest.raises(Failed, match=r"gave\n400\nand not\n401"):
        run_examples("claim", claim.replace("    400", "    401"))
    with pytest.raises(Failed, match="raised AttributeError"):
        run_examples("claim", claim.replace(".claim(", ".take("))
    with pytest.raises(Failed, match="raised NameError"):
        run_examples("claim", ">>> unknown\n1\n")


@pytest.mark.parametrize("found", STUBS, ids=label)
def test_help_says_what_the_stub_says(found: Documented) -> None:
    thing: Any = importlib.import_module(f"hbcore.{found.module}")
    for name in found.name.split("."):
        thing = inspect.getattr_static(thing, name)
    if found.name in WITHOUT_DOCSTRING:
        assert isinstance(thing, types.GetSetDescriptorType)
        assert not thing.__doc__, f"{found.name} has a docstring at run time: take it off this list"
        owner, name = found.name.split(".")
        said = next(other.docstring for other in STUBS if other.name == owner)
        assert said is not None
        line = next(line.strip() for line in said.splitlines() if line.strip().startswith(f"{name}: "))
        assert found.docstring is not None
        first = found.docstring.splitlines()[0]
        assert line.split(": ", 1)[1].lower() == first.lower()
        return
    assert thing.__doc__ is not None, f"{label(found)} has no docstring at run time"
    assert inspect.cleandoc(thing.__doc__) == found.docstring


def test_what_is_exported_has_a_docstring_at_run_time() -> None:
    modules = [importlib.import_module(f"hbcore.{name}") for name in (*STUBBED, *WRITTEN)]
    for name in hbcore.__all__:
        thing = getattr(hbcore, name)
        if isinstance(thing, (type, types.BuiltinFunctionType)):
            assert thing.__doc__, name
        assert name == "__version__" or any(hasattr(module, name) for module in modules), name


def test_no_public_name_of_a_class_is_without_a_stub() -> None:
    known = {found.name for found in STUBS}
    for owner in (hbcore.Engine, hbcore.Budget, hbcore.Envelope, hbcore.Claim, hbcore.Hold):
        for name in dir(owner):
            if not name.startswith("_"):
                assert f"{owner.__name__}.{name}" in known, f"{owner.__name__}.{name} is in no stub"
