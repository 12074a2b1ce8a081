from typing import final

@final
class Order: ...
