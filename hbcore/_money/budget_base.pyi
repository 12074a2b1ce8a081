from typing import Never

from typing_extensions import disjoint_base

@disjoint_base
class BudgetBase:
    def __init__(self, *args: Never, **kwargs: Never) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def parent(self) -> BudgetBase | None: ...
