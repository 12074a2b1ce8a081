from typing import final

@final
class Users:
    @property
    def count(self) -> int: ...
