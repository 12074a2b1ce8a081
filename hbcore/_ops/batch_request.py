"""The arguments of ``create_many``: each is checked, named in its error with its index, and put in one plain form.

The native core and the reference both begin here, so that they refuse the same things in the same words. (The native
core reads arguments that are plain already by itself, and comes here with the rest.)
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from hbcore.terms import (
    PACKET_LIMIT,
    SEED_SIZE,
    TOTAL_LIMIT,
    Terms,
    array_list,
    envelope_terms,
    exact_bytes,
    index,
    integer,
    integer_list,
    object_name,
)


class CheckedBatch(NamedTuple):
    """The envelopes to be made: a name, a total, a number of packets and a seed (or no seeds) for each."""

    names: list[str]
    totals: list[int]
    packets: list[int]
    seeds: list[bytes] | None

    def __repr__(self) -> str:
        return f"<CheckedBatch of {len(self.names)} envelopes>"  # without the seeds


def common_terms(
    law: object,
    min: object,
    max: object,
    concentration: object,
    expires_at: object,
    per_user: object,
    hold_seconds: object,
    max_packets: object,
) -> Terms:
    """Check the terms that all envelopes of a batch have in common, and return them.

    ``total`` and ``packets`` of the result belong to no envelope; ``max`` is what was asked for, or the highest total
    there can be; ``max_packets`` is 0 where every envelope has room for just its packets.

    Raises:
        TypeError, ValueError: an argument is bad, as in ``envelope_terms``.
    """
    lowest = index(min)
    total = lowest if lowest is not None and 0 < lowest < TOTAL_LIMIT else 1  # one packet that any bounds allow
    terms = envelope_terms(
        total, 1, law, min, max, concentration, None, expires_at, per_user, hold_seconds, max_packets
    )
    highest = TOTAL_LIMIT - 1 if max is None else integer("max", max, 1, (1 << 64) - 1)
    highest = highest if highest < TOTAL_LIMIT else TOTAL_LIMIT - 1
    return terms._replace(max=highest, max_packets=0 if max_packets is None else terms.max_packets)


def checked_batch(
    names: Any,
    totals: Any,
    packets: Any,
    law: object,
    min: object,
    max: object,
    concentration: object,
    seeds: Any,
    expires_at: object,
    per_user: object,
    hold_seconds: object,
    max_packets: object,
) -> CheckedBatch:
    """Check the arguments of ``create_many`` and return them in plain form.

    Raises:
        TypeError, ValueError: an argument is bad; where it is bad for one envelope only, the message names its index.
    """
    common_terms(law, min, max, concentration, expires_at, per_user, hold_seconds, max_packets)
    name_list = names_of(names)
    count = len(name_list)
    plain = CheckedBatch(
        name_list,
        integer_list("totals", totals, count, TOTAL_LIMIT - 1, "names"),
        integer_list("packets", packets, count, PACKET_LIMIT - 1, "names"),
        None if seeds is None else seeds_of(seeds, count),
    )
    for i, (name, total, packet_count) in enumerate(zip(*plain[:3], strict=True)):
        try:
            envelope_terms(total, packet_count, law, min, max, max_packets=max_packets)
        except ValueError as error:
            raise ValueError(f"names[{i}], {name!r}: {error}") from None
    return plain


def names_of(names: Any) -> list[str]:
    """Return the names of a batch as plain ``str``, each of them checked."""
    if isinstance(names, np.ndarray):
        if isinstance(names, np.ma.MaskedArray):
            raise TypeError("names must be an array without a mask; drop what is masked first (names.compressed())")
        if names.ndim != 1:
            raise ValueError(f"names must have one dimension, not {names.ndim}")
        if names.dtype.kind not in "UOT":
            raise TypeError(f"names must be an array of str, not of {names.dtype}")
        names = array_list(names, "name")
    if isinstance(names, (str, bytes, bytearray, memoryview)) or not isinstance(names, Iterable):
        raise TypeError(f"names must be a sequence of str, not {type(names).__name__}")
    plain = []
    for i, name in enumerate(names):
        try:
            plain.append(object_name(name).decode())  # a plain str, where a subclass was given too
        except (TypeError, ValueError) as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(f"names[{i}]: {error}") from None
    return plain


def seeds_of(seeds: Any, count: int) -> list[bytes]:
    """Return the seeds of a batch as plain ``bytes``, from a sequence of them or from the rows of a uint8 array."""
    if isinstance(seeds, np.ma.MaskedArray):
        raise TypeError("seeds must be an array without a mask")
    if isinstance(seeds, np.ndarray) and seeds.dtype != np.dtype(object):
        if seeds.dtype != np.dtype(np.uint8) or seeds.ndim != 2 or seeds.shape[1] != SEED_SIZE:
            raise TypeError(
                f"seeds must be a sequence of bytes or a uint8 array of shape ({count}, {SEED_SIZE}), not an array of "
                f"{seeds.dtype} of shape {seeds.shape}"
            )
        seeds = [row.tobytes() for row in seeds]
    if isinstance(seeds, (str, bytes, bytearray, memoryview)) or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a sequence of bytes, or None, not {type(seeds).__name__}")
    seeds = list(seeds)
    if len(seeds) != count:
        raise ValueError(f"seeds must be one for each of the {count} names, not {len(seeds)}")
    return [exact_bytes(f"seeds[{i}]", seed, SEED_SIZE) for i, seed in enumerate(seeds)]
