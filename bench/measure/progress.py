"""A bar on the terminal of stderr that says how far a bench is; where stderr is something else, nothing is written."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from hbcore.cli.progress import Display


class Progress:
    """Steps of a work: how many are behind, and what is being done now."""

    def __init__(self, display: Display, title: str, total: int | None) -> None:
        self.begun = self.finished = 0
        self.text = ""
        self.draw = display.bar(title, total, lambda seconds: (self.finished, self.text))

    def next(self, text: str) -> None:
        """Begin the next step; the one before is behind."""
        self.finished = self.begun
        self.begun += 1
        self.tell(text)

    def tell(self, text: str) -> None:
        """Say what is being done within the step."""
        self.text = text
        self.draw(False)


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Progress]:
    """Show a bar of ``total`` steps, or of nobody knows how many. It is gone at the end.

    Nothing should be printed in here: on a terminal, the bar would send it to stderr.
    """
    terminal = Console(stderr=True)
    with Display(terminal if terminal.is_terminal else None) as display:
        yield Progress(display, title, total)
