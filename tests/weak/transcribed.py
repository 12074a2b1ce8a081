"""What the kernels transcribe: a digest of the code of each function, so that a change of it is noticed.

    python tests/weak/transcribed.py            # print what has changed; exit 1 if anything has
    python tests/weak/transcribed.py --accept   # the kernels are right for what the functions are now: keep that

Only code counts: comments, docstrings, blank space and the breaking of lines do not. The digests stand in
``transcribed.json``.
"""

import argparse
import hashlib
import json
import re
import sys
from functools import cache
from pathlib import Path

from kernels import ROOT, kernels

TABLE = Path(__file__).resolve().parent / "transcribed.json"
Function = tuple[str, str]  # a file below the root, and a name

CYTHON_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>[bru]{0,2}(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
  | (?P<word>\w+)
  | (?P<line>\n[ \t]*)
  | (?P<blank>[ \t]+)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
C_TOKEN = re.compile(
    r"""
    (?P<comment>/\*.*?\*/|//[^\n]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<word>\w+)
  | (?P<blank>\s+)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def cython_source(text: str, name: str) -> str | None:
    """Return the source of a function of a .pyx or .pxd: from the line that names it to the end of its block."""
    for match in re.finditer(rf"^([ ]*)(?:cdef|cpdef|def)\b(?:[^\n(]*[\s*])?{name}\(", text, re.MULTILINE):
        depth, at = 1, match.end()
        while depth:  # the head may take several lines
            depth += (text[at] == "(") - (text[at] == ")")
            at += 1
        head, *lines = text[at:].split("\n")
        if not head.split("#")[0].rstrip().endswith(":"):
            continue  # a declaration
        end = 0
        while end < len(lines) and (not lines[end].strip() or indentation(lines[end]) > len(match[1])):
            end += 1
        return text[match.start() : at] + "\n".join([head, *lines[:end]])
    return None


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def c_source(text: str, name: str) -> str | None:
    """Return the source of a function of a C header: from the line that names it to the brace that ends it."""
    match = re.search(rf"^\w[^\n;]*\b{name}\([^;{{]*\)\s*\{{", text, re.MULTILINE)
    if match is None:
        return None
    depth = 1
    for token in C_TOKEN.finditer(text, match.end()):
        depth += (token[0] == "{") - (token[0] == "}")
        if depth == 0:
            return text[match.start() : token.end()]
    return None


def cython_code(source: str) -> list[str]:
    """Return the tokens of a Cython function, with the depth of each line that begins a statement."""
    code: list[str] = []
    depth = 0  # of brackets
    begins = True  # whether the next token begins a statement
    line = ""
    for match in CYTHON_TOKEN.finditer("\n" + source):
        kind, token = match.lastgroup, match[0]
        if kind == "line" and depth == 0:
            line, begins = token, True
        if kind in ("comment", "line", "blank"):
            continue
        if kind == "string" and begins:
            continue  # a docstring
        if begins:
            code.append(f"\n{len(line) - 1}")
            begins = False
        depth += (token in "([{") - (token in ")]}") if kind == "sign" else 0
        code.append(token)
    return code


def c_code(source: str) -> list[str]:
    return [match[0] for match in C_TOKEN.finditer(source) if match.lastgroup not in ("comment", "blank")]


@cache
def text_of(file: str) -> str:
    return (ROOT / file).read_text()


def digest_of(function: Function) -> str | None:
    """Return a digest of the code of a function, or None if there is no such function."""
    file, name = function
    if not (ROOT / file).is_file():
        return None
    if file.endswith(".h"):
        source = c_source(text_of(file), name)
        code = c_code(source) if source is not None else []
    else:
        source = cython_source(text_of(file), name)
        code = cython_code(source) if source is not None else []
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16] if source is not None else None


def transcribed() -> dict[Function, list[str]]:
    """Return the functions that the kernels name, each with the kernels that name it."""
    found: dict[Function, list[str]] = {}
    for name, kernel in kernels().items():
        for function in kernel.transcribes:
            found.setdefault(function, []).append(name)
    return found


def accepted() -> dict[Function, str]:
    table = json.loads(TABLE.read_text())
    return {(file, name): digest for file, functions in table.items() for name, digest in functions.items()}


def changes() -> list[str]:
    """Return a line for each function that is not what it was when its kernels were last looked at."""
    known, lines = accepted(), []
    for function, names in sorted(transcribed().items()):
        digest = digest_of(function)
        if digest is None:
            lines.append(f"{function[0]} has no function {function[1]}, which {', '.join(names)} transcribes")
        elif known.get(function) != digest:
            what = "is new here" if function not in known else "has changed"
            lines.append(
                f"{function[0]}: {function[1]} {what}: look at the kernel {' and at '.join(names)}, change it if need "
                "be, then run `python tests/weak/transcribed.py --accept`"
            )
    lines += [
        f"{file}: {name} is in transcribed.json, and no kernel names it"
        for file, name in known.keys() - transcribed().keys()
    ]
    return lines


def accept() -> None:
    table: dict[str, dict[str, str]] = {}
    for file, name in sorted(transcribed()):
        digest = digest_of((file, name))
        if digest is None:
            raise SystemExit(f"{file} has no function {name}")
        table.setdefault(file, {})[name] = digest
    TABLE.write_text(json.dumps(table, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="keep the digests of the functions as they are now")
    if parser.parse_args().accept:
        accept()
    lines = changes()
    print("\n".join(lines) if lines else f"{len(transcribed())} functions are what they were")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
