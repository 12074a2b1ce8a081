"""Where words stand in an engine's file, as ``format.h`` has it, and how tests read and write them there."""

from pathlib import Path
from typing import NamedTuple

import hbcore

BOOT_ID = 56
FIRST_EXTENT = 4096 + 1024 * 64 + 512 * 64
ENVELOPE_HEADER = 256
SMALL = 64  # packets that a small envelope has room for at most


def whole_units(size: int) -> int:
    return -(-size // 64) * 64


class EnvelopeLayout(NamedTuple):
    """Where the parts of an envelope lie, in bytes from its start; and how large some are."""

    hints: int
    strata: int
    free_map: int
    table: int
    slots: int
    end: int
    map_words: int
    table_words: int


def envelope_layout(name_length: int, packets: int) -> EnvelopeLayout:
    """Return the layout of an envelope without room for more packets, as ``packets.pxd`` has it."""
    children, map_words = -(-packets // 64), 0
    while map_words == 0 or children > 1:
        children = -(-children // 32)
        map_words += children
    table_words = max((31 * packets + 64) // 128, 1) * 8
    name_end = ENVELOPE_HEADER + name_length
    if packets <= SMALL:
        hints, strata = 232, -(-name_end // 8) * 8
        free_map = strata + 8
        table = whole_units(free_map + 8)
    else:
        hints = whole_units(name_end)
        strata = hints + 64
        free_map = strata + whole_units(8 * -(-packets // 1024))
        table = free_map + whole_units(8 * map_words)
    slots = table + 8 * table_words
    return EnvelopeLayout(hints, strata, free_map, table, slots, slots + 32 * packets, map_words, table_words)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def reboot(path: Path) -> None:
    """Leave what a reboot leaves: another boot id. No process may have the file open."""
    overwrite(path, BOOT_ID, b"another boot id!")


def word(path: Path, offset: int) -> int:
    with open(path, "rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(8), "little")


def write_word(path: Path, offset: int, value: int) -> None:
    overwrite(path, offset, value.to_bytes(8, "little"))


def turn_bit(path: Path, found: bytes, shift: int = 0) -> None:
    """Turn one bit over, ``shift`` bytes from where something is found that is in the file once."""
    content = bytearray(path.read_bytes())
    assert content.count(found) == 1
    content[content.index(found) + shift] ^= 1
    path.write_bytes(content)


def replace_index(envelope: hbcore.Envelope, claims: int = 200) -> None:
    """Claim and release so often that the index is replaced, for which its second table is made first."""
    for number in range(claims):
        assert envelope.claim(f"churn {number}")
        assert envelope.release(f"churn {number}")
