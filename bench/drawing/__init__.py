"""The pictures of the documents: where they go, how they look, and what is drawn.

matplotlib is imported when something is drawn: a bench measures without it as well.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.installed import ROOT


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="folder of the pictures (docs; with --quick a temporary one)")


def folder_of(options: argparse.Namespace) -> Path:
    """Return the folder of the pictures, and make it: rough pictures do not replace good ones."""
    folder = Path(options.out or (tempfile.mkdtemp() if options.quick else ROOT / "docs"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def draw_measured(pictured: dict[str, Any], options: argparse.Namespace, facts: dict[str, Any]) -> dict[Path, str]:
    """Draw what can be drawn of what was measured; return the pictures and their titles."""
    try:
        from bench.drawing import measured
    except ImportError as error:
        print(f"bench: no pictures: {error}; pip install '.[bench]'", file=sys.stderr)
        return {}
    drawn = measured.draw(pictured, folder_of(options), facts)
    for path in drawn:
        print(f"Wrote {path}.", file=sys.stderr)
    return drawn
