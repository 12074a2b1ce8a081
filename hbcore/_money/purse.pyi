from typing import Never

from typing_extensions import disjoint_base

@disjoint_base
class Purse:
    def __init__(self, *args: Never, **kwargs: Never) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def parent(self) -> Purse | None: ...
