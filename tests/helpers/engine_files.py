"""Where words stand in an engine's file, as ``format.h`` has it, and how tests read and write them there."""

from pathlib import Path

BOOT_ID = 56
FIRST_EXTENT = 4096 + 1024 * 64 + 512 * 64


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
