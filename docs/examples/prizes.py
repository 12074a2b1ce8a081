"""Prizes of fixed stock, drawn without replacement: a ticket is a packet, and a secret order says what it wins.

    python docs/examples/prizes.py

1,000 tickets, of which 3 win a free order and 50 a bubble tea. Every ticket has the same chance, whatever its number,
and a user who asks again gets the same ticket.
"""

import hashlib
import hmac
from collections import Counter

import numpy as np

import hbcore

SECRET = b"at least 32 bytes that nobody knows, kept as a password is kept"
STOCK = {"free order": 3, "bubble tea": 50}
TICKETS = 1_000


def deal(secret: bytes) -> list[str]:
    """Return what each ticket wins: the prizes and blanks in an order that only the secret gives."""
    pile = [prize for prize, stock in STOCK.items() for _ in range(stock)]
    pile += ["nothing"] * (TICKETS - len(pile))
    places = sorted(range(TICKETS), key=lambda number: hmac.digest(secret, number.to_bytes(8, "big"), hashlib.sha256))
    return [pile[place] for place in places]


engine = hbcore.Engine("spin.hb")
tickets = engine.envelope("spin", total=TICKETS, packets=TICKETS, law="equal", min=1, max=1)
prizes = deal(SECRET)


def spin(user: str | int) -> str | None:
    """Return what the user wins; None if all tickets are gone."""
    claim = tickets.claim(user)
    return prizes[claim.packet] if claim else None


print("the same ticket again:", spin("user-42") == spin("user-42"))
packets = tickets.claim_many(np.arange(TICKETS - 1))["packet"]
winners = [user for user, packet in enumerate(packets) if prizes[packet] == "free order"]
print("free orders go to the users", winners)
given = Counter(prizes[packet] for packet in packets) + Counter([spin("user-42")])
print(sorted(given.items()))
print("too late:", spin("user-43"))
