"""Coupon codes, one for each user: the number of the packet is the number of the code.

python docs/examples/coupon_codes.py
"""

import numpy as np

import hbcore

WORTH = 1_500  # fen
CODES = [f"TEA-{number:06d}" for number in range(1_000)]  # from a file or a table, in an order that never changes

engine = hbcore.Engine("coupons.hb")
drop = engine.envelope("tea", total=WORTH * len(CODES), packets=len(CODES), law="equal", min=WORTH, max=WORTH)


def code_for(user: str) -> str | None:
    """Return the user's code, always the same one; None if all are gone."""
    claim = drop.claim(user)
    return CODES[claim.packet] if claim else None


print("user-1:", code_for("user-1"))
print("user-2:", code_for("user-2"))
print("user-1:", code_for("user-1"))
drop.settle("user-1")  # the code was used
claims = drop.claims()
used = claims[claims["state"] == hbcore.State.SETTLED]
print("used:", [CODES[packet] for packet in used["packet"]])
packets = drop.claim_many(np.arange(2_000))["packet"]
print(len({CODES[packet] for packet in packets[packets >= 0]}), "more codes, each once")
print("too late:", code_for("user-3"))
