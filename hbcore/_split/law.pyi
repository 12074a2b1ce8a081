import numpy as np
from numpy.typing import NDArray

from hbcore.terms import LawName, Terms

def checked_terms(
    total: int, packets: int, law: LawName, min: int, max: int | None, concentration: int, seed: bytes | None
) -> Terms:
    """Check the parameters of a split and return them as ``Terms``, with a fresh seed where there is none.

    Raises:
        TypeError, ValueError: as ``split``.

    Examples:
        >>> terms = hbcore.law.checked_terms(20_000, 50, "equal", 1, None, 3, None)
        >>> terms.max, len(terms.seed)
        (20000, 32)
    """

def split(
    total: int,
    packets: int,
    law: LawName = "double_mean",
    min: int = 1,
    max: int | None = None,
    concentration: int = 3,
    seed: bytes | None = None,
) -> NDArray[np.int64]:
    """Return the amounts of all packets of an envelope, by packet number.

    The function is pure and the same that envelopes use, so an auditor who knows the seed can recompute every amount.
    Safe in any thread; the split runs without the GIL.

    Args:
        total: sum of the packets in minor units, 1 .. 2**62 - 1.
        packets: number of packets, 1 .. 2**40 - 1.
        law: ``"equal"``, ``"double_mean"`` or ``"dirichlet"``.
        min: least amount of a packet in minor units.
        max: greatest amount of a packet in minor units; None: no bound but the total.
        concentration: parameter of ``dirichlet``, 1 .. 64. With 1 every split is equally likely; a greater number is
            gentler.
        seed: 32 bytes that fix the amounts; None draws them from the operating system.

    Returns:
        An int64 array of shape (packets,), in minor units.

    Raises:
        TypeError, ValueError: an argument is bad; the message names it.
        MemoryError: no memory for so many packets.

    Examples:
        >>> hbcore.split(100, 4, "equal").tolist()
        [25, 25, 25, 25]
        >>> amounts = hbcore.split(20_000, 50, seed=bytes(32))
        >>> int(amounts.sum()), (amounts == hbcore.split(20_000, 50, seed=bytes(32))).all().item()
        (20000, True)
    """

def packet_amount(
    packet: int,
    total: int,
    packets: int,
    law: LawName = "double_mean",
    min: int = 1,
    max: int | None = None,
    concentration: int = 3,
    seed: bytes | None = None,
) -> int:
    """Return the amount of one packet, as ``split`` would give it, from its stratum alone: O(1) in ``packets``.

    Args:
        packet: number of the packet, 0 .. packets - 1.
        total: as of ``split``, and so are the others.
        packets: number of packets.
        law: name of the law.
        min: least amount of a packet.
        max: greatest amount of a packet, or None.
        concentration: parameter of ``dirichlet``.
        seed: 32 bytes; without them the amount is one of a fresh split.

    Returns:
        The amount in minor units.

    Raises:
        TypeError, ValueError: as ``split``, or ``packet`` is not an integer within ``0 .. packets - 1``.
        MemoryError: no memory to split the stratum.

    Examples:
        >>> amounts = hbcore.split(20_000, 50, seed=bytes(32))
        >>> hbcore.law.packet_amount(7, 20_000, 50, seed=bytes(32)) == int(amounts[7])
        True
    """
