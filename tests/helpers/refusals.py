"""The check that a call is refused with exactly one error, and that nothing is half done."""

from collections.abc import Callable
from typing import Any, Self

import pytest


class WholeOrNothing:
    """What can be seen as a whole by ``seen()``, and must look the same after a call that is refused."""

    def seen(self) -> Any:
        raise NotImplementedError

    def refuses(self, call: Callable[[Self], object], error: type[Exception], words: str) -> None:
        before = self.seen()
        with pytest.raises(error) as caught:
            call(self)
        assert type(caught.value) is error
        assert str(caught.value) == words
        assert self.seen() == before
