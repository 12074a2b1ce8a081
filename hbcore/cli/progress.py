"""The live display: progress bars on a terminal, and nothing at all elsewhere."""

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

REFRESH_SECONDS = 0.1

State = Callable[[float], tuple[int, str]]
"""Returns, for the seconds since the bar began, how much is done and what to write beside the bar."""

Draw = Callable[[bool], None]
"""Draws a bar anew: at most ten times a second, unless it is told that this is the last time."""


class Display:
    """A context in which bars may be drawn. Without a console it draws nothing and never asks for a bar's state."""

    def __init__(self, console: Console | None) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            disable=console is None,
            expand=True,
            transient=True,
            auto_refresh=False,  # no thread takes turns with the work; the code that works says when to draw
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def bar(self, title: str, total: int | None, state: State) -> Draw:
        """Add a bar and return the function that draws it anew. ``total`` may be None where it is not known."""
        task = self.progress.add_task(title, total=total, state="")
        started_at = drawn_at = time.monotonic()

        def draw(last: bool) -> None:
            nonlocal drawn_at
            now = time.monotonic()
            if self.progress.disable or (not last and now - drawn_at < REFRESH_SECONDS):
                return
            drawn_at = now
            completed, text = state(max(now - started_at, 1e-9))
            self.progress.update(task, completed=completed, state=text, refresh=True)

        draw(True)
        return draw
