from typing import SupportsIndex

from hbcore._file.region import Region
from hbcore.budget import Hold
from hbcore.envelope import Envelope

def envelope_top_up(
    envelope: Envelope,
    key: str | bytes | int | SupportsIndex,
    amount: SupportsIndex,
    packets: SupportsIndex,
    seed: bytes | None,
) -> Hold: ...
def finish_tranche(region: Region, offset: int) -> None: ...
def finish_tranches(envelope: Envelope) -> None: ...
