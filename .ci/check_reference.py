"""Check that a built site has every public docstring in its API reference: ``check_reference.py SITE``.

mkdocs --strict fails on a link or a name that leads nowhere, but not on a page that has lost what it was to show.
"""

import ast
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "hbcore"
SIGNATURES = ("envelope(name: str", "Unpack[EnvelopeTerms]", "claim(user: User")


def letters(text: str) -> str:
    """Return what is left of a text whatever way it is set: its letters and digits."""
    return re.sub(r"\W", "", text)


def exported() -> dict[str, str]:
    """Return what hbcore exports, and the module that each name comes from."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hbcore."):
            found |= dict.fromkeys((name.name for name in node.names), node.module or "")
    return found


def public_docstrings(names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Return the name and the docstring of every class, method, property and function that is exported."""
    for module in sorted(set(names.values())):
        path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".pyi")
        path = path if path.exists() else path.with_suffix(".py")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and names.get(node.name) == module:
                yield from of_node(node)


def of_node(node: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """Return the name and the docstring of a class or function, and of a class's methods and properties."""
    yield node.name, ast.get_docstring(node) or ""
    for member in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            yield f"{node.name}.{member.name}", ast.get_docstring(member) or ""


def main(site: Path) -> int:
    page = (site / "api" / "index.html").read_text()
    text = letters(html.unescape(re.sub(r"<[^>]+>", "", page)))
    names = exported()
    missing = [f"no heading for hbcore.{name}" for name in sorted(names) if f'id="hbcore.{name}"' not in page]
    count = 0
    for name, docstring in public_docstrings(names):
        count += 1
        lines = [line for line in docstring.splitlines() if line.strip()]
        prose = [lines[0], *(line for line in lines if line.strip().startswith(">>> "))] if lines else [""]
        for line in prose:
            if not letters(line) or letters(line) not in text:
                missing.append(f"{name}: not on the page: {line.strip() or 'no docstring'}")
    missing += [f"no signature with {part}" for part in SIGNATURES if letters(part) not in text]
    print(*missing, sep="\n", end="\n" if missing else "")
    print(f"{count} public docstrings looked for in {site}")
    return 1 if missing or count < 70 else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
