"""The terms of an envelope: every argument is checked, named in its error, and put in one canonical form.

The native core and the reference both begin here, so that they refuse the same things in the same words.
"""

import math
import operator
import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from hbcore.errors import ConflictError

TOTAL_LIMIT = 1 << 62
PACKET_LIMIT = 1 << 40
CONCENTRATION_LIMIT = 64
PER_USER_LIMIT = 1 << 16
TOP_UP_LIMIT = 1024
HOLD_LIMIT_SECONDS = 10 * 366 * 24 * 3600
NAME_LIMIT = 255
USER_LIMIT = 1 << 16
KEY_SIZE = 32
SEED_SIZE = 32
EXPIRY_LIMIT_MS = 1 << 42
MIN_CAPACITY = 1 << 20
MAX_CAPACITY = 1 << 42
OWNER_MODE = 0o600

HIDING_LENGTH = 32
MAYBE_SECRET = (str, bytes, bytearray, memoryview, list, tuple, set, frozenset, dict, np.ndarray, np.void)
BOOLS = (bool, np.bool_)  # both have __index__, NumPy's below 2.3

LawName: TypeAlias = Literal["equal", "double_mean", "dirichlet"]
"""The name of a law: ``"equal"``, ``"double_mean"`` or ``"dirichlet"``."""

LAWS: tuple[LawName, ...] = get_args(LawName)
"""The names of the laws; the index of a name is the law's number in an engine's file."""


class CommonTerms(TypedDict, total=False):
    """Terms of an envelope that all envelopes of one ``create_many`` have in common.

    Attributes:
        min: least amount of a packet in minor units; 1 if absent.
        max: greatest amount of a packet in minor units; None or absent: no bound but the total.
        concentration: parameter of ``dirichlet``, 1 .. 64; 3 if absent. With 1 every split is equally likely; a
            greater number is gentler.
        expires_at: seconds since 1970 or an aware datetime, from which on claims are answered CLOSED; None or absent:
            never.
        per_user: number of packets that a user may claim, 1 .. 65536; 1 if absent.
        hold_seconds: time in seconds after which a claim that was not settled goes to others; None or absent: claims
            stay.
        max_packets: room for so many packets, those of top-ups included; None or absent: no room for any top-up.
    """

    min: int
    max: int | None
    concentration: int
    expires_at: float | datetime | None
    per_user: int
    hold_seconds: float | None
    max_packets: int | None


class EnvelopeTerms(CommonTerms, total=False):
    """Keyword arguments of ``Engine.envelope`` and ``Budget.envelope``: ``CommonTerms`` and the seed.

    Attributes:
        seed: 32 bytes that fix the amounts; None or absent: drawn from the operating system.
    """

    seed: bytes | None


class BatchTerms(CommonTerms, total=False):
    """Keyword arguments of ``Engine.create_many`` and ``Budget.create_many``: ``CommonTerms``, the law and the seeds.

    Attributes:
        law: name of the law; ``"double_mean"`` if absent.
        seeds: 32 bytes for each envelope, as a sequence of ``bytes`` or a uint8 array of shape (names, 32); None or
            absent: drawn from the operating system.
    """

    law: LawName
    seeds: NDArray[np.uint8] | Iterable[bytes] | None


class Terms(NamedTuple):
    """The terms of an envelope, checked and in canonical form.

    Two are equal if all their fields are. ``repr`` and ``str`` hide the seed, because whoever has it can compute every
    amount; ``terms.seed`` gives it.

    Attributes:
        total: sum of the packets in minor units.
        packets: number of packets.
        law: name of the law, ``"equal"``, ``"double_mean"`` or ``"dirichlet"``.
        min: least amount of a packet in minor units.
        max: greatest amount of a packet in minor units; the total if none was asked for.
        concentration: parameter of ``dirichlet``.
        seed: 32 bytes that fix the amounts; None: not drawn yet.
        expires_at_ms: end of the claiming in milliseconds since 1970; 0: never.
        per_user: number of packets that a user may claim.
        hold_ms: time in milliseconds after which a claim that was not settled goes to others; 0: claims stay.
        max_packets: room for packets, those of top-ups included.

    Examples:
        >>> engine.envelope("20:00", total=20_000, packets=50, law="equal").terms.law
        'equal'
    """

    total: int
    packets: int
    law: LawName
    min: int
    max: int
    concentration: int
    seed: bytes | None
    expires_at_ms: int
    per_user: int = 1
    hold_ms: int = 0
    max_packets: int = 0

    def __repr__(self) -> str:
        pairs = zip(self._fields, self, strict=True)
        shown = (
            f"{name}={'<hidden>' if name == 'seed' and value is not None else repr(value)}" for name, value in pairs
        )
        return f"Terms({', '.join(shown)})"


def index(value: object) -> int | None:
    """Return ``value`` as an int, or None if it is no integer. A bool is none, and an array of one integer is none."""
    if isinstance(value, BOOLS) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:  # NumPy's arrays have __index__ and refuse to use it
        return None


def shown(number: int) -> str:
    """Return a number for an error message. A very large one is described: Python prints no more than 4,300 digits."""
    return str(number) if number.bit_length() <= 256 else f"an integer of {number.bit_length()} bits"


def described(value: object) -> str:
    """Return a value of a wrong type and that type for an error message.

    Long text, long bytes and a large container are described by their type alone, so that no message shows a seed or a
    key that was passed in the place of another argument.
    """
    text = repr(value)
    if isinstance(value, MAYBE_SECRET) and len(text) > HIDING_LENGTH:
        return type(value).__name__
    return f"{text} ({type(value).__name__})"


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return ``value`` as an int within ``low .. high``, or raise TypeError or ValueError naming it."""
    number = index(value)
    if number is None:
        raise TypeError(f"{name} must be an integer, not {described(value)}")
    if not low <= number <= high:
        raise ValueError(f"{name} must be within {low} .. {high}, not {shown(number)}")
    return number


def array_list(users: Any, word: str = "user") -> list[object]:
    """Return the elements of a one-dimensional NumPy array as Python objects, or name the one that cannot be one."""
    try:
        return users.tolist()  # type: ignore[no-any-return]
    except (SystemError, ValueError):  # what NumPy raises for a character beyond the last of Unicode
        for position in range(len(users)):
            try:
                users[position : position + 1].tolist()
            except (SystemError, ValueError):
                raise ValueError(f"{word}s[{position}]: {word} is not valid Unicode: beyond U+10FFFF") from None
        raise


def amount_list(amounts: Any, count: int) -> list[int]:
    """Return the amounts of a batch, one for each of ``count`` keys: an integer stands for all of them.

    Raises:
        TypeError: neither an integer nor a sequence or array of integers; an element is named by its index.
        ValueError: an amount is out of range, or there are more or fewer than keys.
    """
    return integer_list("amounts", amounts, count, TOTAL_LIMIT - 1, "keys")


def integer_list(name: str, values: Any, count: int, high: int, whose: str) -> list[int]:
    """Return ``count`` integers within ``1 .. high``, one for each of ``whose``: an integer stands for all of them.

    Raises:
        TypeError: neither an integer nor a sequence or array of integers; an element is named by its index.
        ValueError: an integer is out of range, or there are more or fewer than ``count``.
    """
    if index(values) is not None:
        return [integer(name, values, 1, high)] * count
    if isinstance(values, np.ndarray):
        if isinstance(values, np.ma.MaskedArray):
            raise TypeError(f"{name} must be an array without a mask; drop what is masked first ({name}.compressed())")
        if values.ndim != 1:
            raise ValueError(f"{name} must have one dimension, not {values.ndim}")
        if values.dtype.kind not in "iuO":
            raise TypeError(f"{name} must be an array of integers, not of {values.dtype}")
        values = values.tolist()
    if isinstance(values, (bool, str, bytes, bytearray, memoryview)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be an integer or a sequence of integers, not {type(values).__name__}")
    values = list(values)
    if len(values) != count:
        raise ValueError(f"{name} must be one integer, or one for each of the {count} {whose}, not {len(values)}")
    return [integer(f"{name}[{i}]", value, 1, high) for i, value in enumerate(values)]


def exact_bytes(name: str, value: object, size: int) -> bytes:
    """Return ``value`` if it is ``size`` bytes."""
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be {size} bytes or None, not {type(value).__name__}")
    plain = bytes.__getitem__(value, slice(None))  # the bytes of a subclass too, whatever it made of len() and bytes()
    if len(plain) != size:
        raise ValueError(f"{name} must be {size} bytes, not {len(plain)}")
    return plain


def file_path(path: object) -> str:
    """Return a path (``str``, ``bytes`` or ``os.PathLike``) as a str, or raise TypeError or ValueError naming it."""
    try:
        text = os.fsdecode(path)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"path must be a str, bytes or os.PathLike, not {path!r} ({type(path).__name__})") from None
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"path {text!r} is not valid Unicode: {error.reason}") from None
    if not encoded or b"\0" in encoded:
        raise ValueError(f"path must name a file: neither empty nor with a NUL character, not {text!r}")
    return text


def file_mode(mode: object) -> int:
    """Return the permissions of a new file, or raise ValueError where its owner could not read and write it."""
    bits = integer("mode", mode, 0, 0o777)
    if bits & OWNER_MODE != OWNER_MODE:
        raise ValueError(f"mode must let the owner read and write (at least 0o600), not 0o{bits:o}")
    return bits


def object_name(name: object) -> bytes:
    """Return the UTF-8 form of the name of a budget or an envelope."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {described(name)}")
    try:
        encoded = str.encode(name)
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
    seconds = expires_at if isinstance(expires_at, float) else index(expires_at)
    if seconds is None:
        raise TypeError(f"expires_at must be seconds since 1970 or an aware datetime, not {type(expires_at).__name__}")
    if not 0 < seconds < EXPIRY_LIMIT_MS // 1000:  # false for NaN as well
        value = shown(seconds) if isinstance(seconds, int) else seconds
        raise ValueError(f"expires_at must be within 0 .. {EXPIRY_LIMIT_MS // 1000} seconds since 1970, not {value}")
    return max(1, int(seconds * 1000))


def hold_ms(hold_seconds: object) -> int:
    """Return a duration in seconds as milliseconds, rounded up so that nothing lapses early. None is 0: for ever."""
    if hold_seconds is None:
        return 0
    seconds = hold_seconds if isinstance(hold_seconds, float) else index(hold_seconds)
    if seconds is None:
        raise TypeError(f"hold_seconds must be a number of seconds or None, not {type(hold_seconds).__name__}")
    if not 0 < seconds <= HOLD_LIMIT_SECONDS:  # false for NaN as well
        value = shown(seconds) if isinstance(seconds, int) else seconds
        raise ValueError(f"hold_seconds must be more than 0 and at most {HOLD_LIMIT_SECONDS}, not {value}")
    return max(1, math.ceil(seconds * 1000))


def envelope_terms(
    total: object,
    packets: object,
    law: object = "double_mean",
    min: object = 1,
    max: object = None,
    concentration: object = 3,
    seed: object = None,
    expires_at: object = None,
    per_user: object = 1,
    hold_seconds: object = None,
    max_packets: object = None,
) -> Terms:
    """Check the parameters of an envelope and return them in canonical form (``max=None`` becomes ``total``).

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, or ``packets * min <= total <= packets * max`` does not hold.
    """
    total_units = integer("total", total, 1, TOTAL_LIMIT - 1)
    packet_count = integer("packets", packets, 1, PACKET_LIMIT - 1)
    room = packet_count if max_packets is None else integer("max_packets", max_packets, packet_count, PACKET_LIMIT - 1)
    if not isinstance(law, str):
        raise TypeError(f"law must be one of {', '.join(LAWS)}, not {described(law)}")
    name = next((name for name in LAWS if name == law), None)
    if name is None:
        wrong = repr(law) if len(repr(law)) <= HIDING_LENGTH else f"a str of {len(law)} characters"
        raise ValueError(f"law must be one of {', '.join(LAWS)}, not {wrong}")
    lowest = integer("min", min, 1, TOTAL_LIMIT - 1)
    highest = total_units if max is None else integer("max", max, 1, (1 << 64) - 1)
    if max is not None and highest < lowest:
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
        law=name,
        min=lowest,
        max=highest if highest < total_units else total_units,
        concentration=integer("concentration", concentration, 1, CONCENTRATION_LIMIT),
        seed=None if seed is None else exact_bytes("seed", seed, SEED_SIZE),
        expires_at_ms=expiry_ms(expires_at),
        per_user=integer("per_user", per_user, 1, PER_USER_LIMIT),
        hold_ms=hold_ms(hold_seconds),
        max_packets=room,
    )


def top_up_terms(first: Terms, amount: object, packets: object, seed: object) -> Terms:
    """Check the parameters of a top-up of an envelope; return the terms of what it adds.

    A ``max`` that is no less than the envelope's first total bounds nothing here either.
    """
    units = integer("amount", amount, 1, TOTAL_LIMIT - 1)
    highest = first.max if first.max < first.total else None
    try:
        return envelope_terms(units, packets, first.law, first.min, highest, first.concentration, seed)
    except ValueError as error:
        raise ValueError(str(error).replace("total must", "amount must", 1)) from None


def check_room(name: str, first: Terms, tranches: int, total: int, present: int, added: Terms) -> None:
    """Raise ValueError if an envelope of so many ``tranches``, units and packets has no room for more."""
    if present + added.packets > first.max_packets:
        raise ValueError(
            f"packets must be at most {first.max_packets - present}, not {added.packets}: envelope {name!r} has "
            f"{present} packets and was made with max_packets = {first.max_packets}"
        )
    if total + added.total >= TOTAL_LIMIT:
        raise ValueError(
            f"the total of envelope {name!r} must stay below 2**62: it is {total}, and {added.total} is too much"
        )
    if tranches > TOP_UP_LIMIT:
        raise ValueError(f"envelope {name!r} has been topped up {TOP_UP_LIMIT} times, and cannot be again")


def check_same_top_up(name: str, key: object, existing: Terms, wanted: Terms) -> None:
    """Raise ConflictError if a key has topped up an envelope by another amount, number of packets or seed."""
    what = f"top-up {key!r} of envelope {name!r} was {existing.total} in {existing.packets} packets"
    if (existing.total, existing.packets) != (wanted.total, wanted.packets):
        raise ConflictError(f"{what}, not {wanted.total} in {wanted.packets}")
    if wanted.seed is not None and existing.seed != wanted.seed:
        raise ConflictError(f"{what}, with another seed")


LOOKUP = {
    "law": "double_mean",
    "min": 1,
    "max": None,
    "concentration": 3,
    "seed": None,
    "expires_at": None,
    "per_user": 1,
    "hold_seconds": None,
    "max_packets": None,
}


def check_lookup(*values: object) -> None:
    """Refuse terms of an envelope that is only looked up by its name: they would silently have no effect."""
    for (name, default), value in zip(LOOKUP.items(), values):  # noqa: B905
        if value is not default and not (type(value) is type(default) and value == default):
            raise TypeError(
                f"total and packets must be given where {name} is; without them an envelope is only looked up"
            )


def check_same_total(name: str, existing: int, wanted: int) -> None:
    """Raise ConflictError if a budget exists with another total than the one asked for."""
    if existing != wanted:
        raise ConflictError(f"budget {name!r} exists with total = {existing}, not {wanted}")


def check_same_terms(name: str, existing: Terms, wanted: Terms) -> None:
    """Raise ConflictError if an envelope exists with other terms than those asked for."""
    for field, is_value, wanted_value in zip(Terms._fields, existing, wanted, strict=True):
        if is_value != wanted_value and not (field == "seed" and wanted_value is None):
            if field == "seed":
                raise ConflictError(f"envelope {name!r} exists with another seed")
            pair: tuple[object, object] = (is_value, wanted_value)
            raise ConflictError(f"envelope {name!r} exists with {field} = {pair[0]}, not {pair[1]}")
