from typing import final

@final
class BatchRequest: ...
