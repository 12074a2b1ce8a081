"""The terms of an envelope: every argument checked, named in its error, and put in one canonical form.

The native core and the reference both begin here, so that they refuse the same things in the same words.
"""

import operator
from datetime import datetime
from typing import NamedTuple

from hbcore.errors import ConflictError

TOTAL_LIMIT = 1 << 62
PACKET_LIMIT = 1 << 40
CONCENTRATION_LIMIT = 64
NAME_LIMIT = 255
USER_LIMIT = 1 << 16
KEY_SIZE = 32
SEED_SIZE = 32
EXPIRY_LIMIT_MS = 1 << 42

LAWS = ("equal", "double_mean", "dirichlet")


class Terms(NamedTuple):
    """What an envelope is made of. Amounts in minor units, ``expires_at_ms`` in milliseconds since 1970 (0: never)."""

    total: int
    packets: int
    law: int
    min: int
    max: int
    concentration: int
    seed: bytes | None
    expires_at_ms: int


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return ``value`` as an int within ``low .. high``, or raise TypeError or ValueError naming it."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r} ({type(value).__name__})")
    number = operator.index(value)  # type: ignore[arg-type]
    if not low <= number <= high:
        raise ValueError(f"{name} must be within {low} .. {high}, not {number}")
    return number


def exact_bytes(name: str, value: object, size: int) -> bytes:
    """Return ``value`` if it is ``size`` bytes."""
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be {size} bytes or None, not {type(value).__name__}")
    if len(value) != size:
        raise ValueError(f"{name} must be {size} bytes, not {len(value)}")
    return value


def object_name(name: object) -> bytes:
    """Return the UTF-8 form of the name of a budget or an envelope."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {name!r} ({type(name).__name__})")
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"name {name!r} is not valid Unicode: {error.reason}") from None
    if not 1 <= len(encoded) <= NAME_LIMIT:
        raise ValueError(f"name must be 1 .. {NAME_LIMIT} bytes of UTF-8, not {len(encoded)}")
    if b"\0" in encoded:
        raise ValueError(f"name {name!r} must not contain a NUL character")
    return encoded


def expiry_ms(expires_at: object) -> int:
    """Return a point in time (seconds since 1970, or an aware datetime) as milliseconds; None is 0, never."""
    if expires_at is None:
        return 0
    if isinstance(expires_at, datetime):
        if expires_at.tzinfo is None:
            raise ValueError(f"expires_at must be an aware datetime, not the naive {expires_at!r}")
        expires_at = expires_at.timestamp()
    if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)):
        raise TypeError(f"expires_at must be seconds since 1970 or an aware datetime, not {type(expires_at).__name__}")
    if not 0 < expires_at < EXPIRY_LIMIT_MS // 1000:  # false for NaN as well
        raise ValueError(f"expires_at must be within 0 .. {EXPIRY_LIMIT_MS // 1000} seconds since 1970, not {expires_at!r}")
    return max(1, int(expires_at * 1000))


def envelope_terms(
    total: object,
    packets: object,
    law: object = "double_mean",
    min: object = 1,
    max: object = None,
    concentration: object = 3,
    seed: object = None,
    expires_at: object = None,
) -> Terms:
    """Check the parameters of an envelope and return them in canonical form (``max=None`` becomes ``total``).

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, or ``packets * min <= total <= packets * max`` does not hold.
    """
    total_units = integer("total", total, 1, TOTAL_LIMIT - 1)
    packet_count = integer("packets", packets, 1, PACKET_LIMIT - 1)
    if not isinstance(law, str):
        raise TypeError(f"law must be one of {', '.join(LAWS)}, not {law!r} ({type(law).__name__})")
    if law not in LAWS:
        raise ValueError(f"law must be one of {', '.join(LAWS)}, not {law!r}")
    lowest = integer("min", min, 1, TOTAL_LIMIT - 1)
    highest = total_units if max is None else integer("max", max, 1, (1 << 64) - 1)
    if highest < lowest:
        raise ValueError(f"max must be at least min ({lowest}), not {highest}")
    if packet_count * lowest > total_units:
        raise ValueError(
            f"total must be at least packets * min = {packet_count * lowest}, not {total_units}: "
            f"{packet_count} packets of at least {lowest} cost more"
        )
    if packet_count * highest < total_units:
        raise ValueError(
            f"total must be at most packets * max = {packet_count * highest}, not {total_units}: "
            f"{packet_count} packets of at most {highest} hold less"
        )
    return Terms(
        total=total_units,
        packets=packet_count,
        law=LAWS.index(law),
        min=lowest,
        max=highest if highest < total_units else total_units,
        concentration=integer("concentration", concentration, 1, CONCENTRATION_LIMIT),
        seed=None if seed is None else exact_bytes("seed", seed, SEED_SIZE),
        expires_at_ms=expiry_ms(expires_at),
    )


def check_same_terms(name: str, existing: Terms, wanted: Terms) -> None:
    """Raise ConflictError if an envelope exists with other terms than those asked for."""
    for field, is_value, wanted_value in zip(Terms._fields, existing, wanted, strict=True):
        if is_value != wanted_value and not (field == "seed" and wanted_value is None):
            if field == "seed":
                raise ConflictError(f"envelope {name!r} exists with another seed")
            shown = (LAWS[existing.law], LAWS[wanted.law]) if field == "law" else (is_value, wanted_value)
            raise ConflictError(f"envelope {name!r} exists with {field} = {shown[0]}, not {shown[1]}")
