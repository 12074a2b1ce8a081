import numpy as np
from numpy.typing import NDArray

from hbcore.terms import Terms

def checked_terms(
    total: int, packets: int, law: str, min: int, max: int | None, concentration: int, seed: bytes | None
) -> Terms: ...
def split(
    total: int,
    packets: int,
    law: str = "double_mean",
    min: int = 1,
    max: int | None = None,
    concentration: int = 3,
    seed: bytes | None = None,
) -> NDArray[np.int64]: ...
def packet_amount(
    packet: int,
    total: int,
    packets: int,
    law: str = "double_mean",
    min: int = 1,
    max: int | None = None,
    concentration: int = 3,
    seed: bytes | None = None,
) -> int: ...
