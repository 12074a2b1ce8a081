"""Users and keys in plain Python: what they may be, and their keyed hashes.

This is the twin of ``user.pyx``. It relies on ``terms.py`` alone.
"""

from collections.abc import Iterable

import numpy as np

from hbcore.terms import USER_LIMIT, array_list, described, index, shown

MASK64 = (1 << 64) - 1


def siphash128(key: bytes, message: bytes) -> bytes:
    """Return SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012)."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(i: int, shift: int) -> None:
        v[i] = ((v[i] << shift) | (v[i] >> (64 - shift))) & MASK64

    def rounds(count: int) -> None:
        for _ in range(count):
            for a, b, shift, turn in ((0, 1, 13, True), (2, 3, 16, False), (0, 3, 21, False), (2, 1, 17, True)):
                v[a] = (v[a] + v[b]) & MASK64
                rotate(b, shift)
                v[b] ^= v[a]
                if turn:
                    rotate(a, 32)

    tail = len(message) % 8
    padded = message + bytes(7 - tail) + bytes([len(message) & 0xFF])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(4)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    high = v[0] ^ v[1] ^ v[2] ^ v[3]
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def user_identity(user: object, word: str = "user") -> bytes | int:
    """Return what identifies a user or a key: its bytes (a str as UTF-8), or its integer. The two are never equal.

    Error messages call it ``word``.
    """
    if isinstance(user, str):
        try:
            user = str.encode(user)
        except UnicodeEncodeError as error:
            raise ValueError(f"{word} {user!r} is not valid Unicode: {error.reason}") from None
    if isinstance(user, bytes):
        plain = bytes.__getitem__(user, slice(None))  # the bytes of a subclass too, whatever it says of itself
        if not 1 <= len(plain) <= USER_LIMIT:
            raise ValueError(f"{word} must be 1 .. {USER_LIMIT} bytes long, not {len(plain)}")
        return plain
    number = index(user)
    if number is None:
        raise TypeError(f"{word} must be a str, bytes or int, not {described(user)}")
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"{word} must be within -2**63 .. 2**64 - 1, not {shown(number)}")
    return number


def user_key(key: bytes, identity: bytes | int, nth: int = 0) -> bytes:
    """Return the 16-byte keyed hash of a user, for its packet number ``nth`` where it may have several.

    Bytes are hashed under the first half of the key. Integers are hashed under the second half, as the 8 bytes of
    their two's complement and one byte that tells the sign, so that -1 and 2**64 - 1 are two users. From the second
    packet on, that hash and the 8 bytes of ``nth`` are hashed again under the second half, under which nothing else of
    24 bytes is hashed.
    """
    if isinstance(identity, bytes):
        user_hash = siphash128(key[:16], identity)
    else:
        user_hash = siphash128(key[16:], (identity & MASK64).to_bytes(8, "little") + bytes([identity < 0]))
    return user_hash if nth == 0 else siphash128(key[16:], user_hash + nth.to_bytes(8, "little"))


def user_list(users: object, word: str = "user") -> list[bytes | int]:
    """Return the identities of all users (or keys) of a batch, or raise for the first bad one, naming its index."""
    if isinstance(users, np.ndarray):
        if isinstance(users, np.ma.MaskedArray):
            raise TypeError(
                f"{word}s must be an array without a mask; drop the masked {word}s first ({word}s.compressed())"
            )
        if users.ndim != 1:
            raise ValueError(f"{word}s must have one dimension, not {users.ndim}")
        if users.dtype.kind not in "iuSUOT":
            raise TypeError(f"{word}s must be an array of integers, bytes or str, not of {users.dtype}")
        users = array_list(users, word)
    if isinstance(users, (str, bytes, bytearray, memoryview)) or not isinstance(users, Iterable):
        raise TypeError(f"{word}s must be an integer array or a sequence of {word}s, not {type(users).__name__}")
    identities = []
    for position, user in enumerate(users):
        try:
            identities.append(user_identity(user, word))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{word}s[{position}]: {error}") from None
    return identities
