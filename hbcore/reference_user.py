"""Users and keys in plain Python: what they may be, and their keyed hashes.

The twin of ``user.pyx``. It relies on ``terms.py`` alone.
"""

from collections.abc import Iterable

import numpy as np

from hbcore.terms import USER_LIMIT, array_list, index, shown

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


def user_identity(user: object) -> bytes | int:
    """Return what identifies a user: its bytes (a str as UTF-8), or its integer. The two never meet."""
    if isinstance(user, str):
        try:
            user = str.encode(user)
        except UnicodeEncodeError as error:
            raise ValueError(f"user {user!r} is not valid Unicode: {error.reason}") from None
    if isinstance(user, bytes):
        if not 1 <= len(user) <= USER_LIMIT:
            raise ValueError(f"user must be 1 .. {USER_LIMIT} bytes long, not {len(user)}")
        return bytes(user)
    number = index(user)
    if number is None:
        raise TypeError(f"user must be a str, bytes or int, not {user!r} ({type(user).__name__})")
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"user must be within -2**63 .. 2**64 - 1, not {shown(number)}")
    return number


def user_key(key: bytes, identity: bytes | int) -> bytes:
    """Return the 16-byte keyed hash of a user.

    Bytes are hashed under the first half of the key. Integers are hashed under the second half, as the 8 bytes of
    their two's complement and one byte that tells the sign, so that -1 and 2**64 - 1 are two users.
    """
    if isinstance(identity, bytes):
        return siphash128(key[:16], identity)
    return siphash128(key[16:], (identity & MASK64).to_bytes(8, "little") + bytes([identity < 0]))


def user_list(users: object) -> list[bytes | int]:
    """Return the identities of all users of a batch, or raise for the first bad one, naming its index."""
    if isinstance(users, np.ndarray):
        if isinstance(users, np.ma.MaskedArray):
            raise TypeError("users must be an array without a mask; drop the masked users first (users.compressed())")
        if users.ndim != 1:
            raise ValueError(f"users must have one dimension, not {users.ndim}")
        if users.dtype.kind not in "iuSUOT":
            raise TypeError(f"users must be an array of integers, bytes or str, not of {users.dtype}")
        users = array_list(users)
    if isinstance(users, (str, bytes, bytearray, memoryview)) or not isinstance(users, Iterable):
        raise TypeError(f"users must be an integer array or a sequence of users, not {type(users).__name__}")
    identities = []
    for position, user in enumerate(users):
        try:
            identities.append(user_identity(user))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"users[{position}]: {error}") from None
    return identities
