"""A bar on stderr that shows how far a bench is. If stderr is not a terminal, nothing is written."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from hbcore.cli.progress import Display


class Progress:
    """Counts the steps of a bench that are done, and shows what is being done now."""

    def __init__(self, display: Display, title: str, total: int | None) -> None:
        self.begun = self.finished = 0
        self.text = ""
        self.draw = display.bar(title, total, lambda seconds: (self.finished, self.text))

    def next(self, text: str) -> None:
        """Begin the next step; the one before is done."""
        self.finished = self.begun
        self.begun += 1
        self.tell(text)

    def tell(self, text: str) -> None:
        """Say what is being done within the step."""
        self.text = text
        self.draw(False)


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Progress]:
    """Show a bar of ``total`` steps until the end of the block. ``total=None``: their number is unknown.

    Print nothing within the block: while a bar is shown, rich sends what goes to stdout to stderr.
    """
    terminal = Console(stderr=True)
    with Display(terminal if terminal.is_terminal else None) as display:
        yield Progress(display, title, total)
