"""Pay whoever is owed: the second half of a payout, in a process of its own.

    python docs/examples/payout_worker.py claim USER ...    what a server does: remember the user, then claim
    python docs/examples/payout_worker.py pay               what this worker does, again and again

An engine keeps users as keyed hashes only. So the server writes (hash, user) into a table of its own before it claims,
and the worker finds there whom a claim belongs to. The table ``payments`` stands for a payment provider that takes an
idempotency key.
"""

import sqlite3
import sys
import time

import numpy as np

import hbcore

GRACE_MS = 0  # in production longer than any request takes, so that no request is still paying

engine = hbcore.Engine("gala.hb")
envelope = engine.envelope("gala-2026/20:00", total=20_000, packets=50)
database = sqlite3.connect("shop.db", isolation_level=None)
database.execute("CREATE TABLE IF NOT EXISTS users (hash BLOB PRIMARY KEY, user TEXT)")
database.execute("CREATE TABLE IF NOT EXISTS payments (key TEXT PRIMARY KEY, user TEXT, amount INTEGER)")


def claim(user: str) -> hbcore.Claim:
    """Remember who the user is, then claim: in this order, so that every claim has a known user."""
    database.execute("INSERT OR IGNORE INTO users VALUES (?, ?)", (engine.user_hash(user), user))
    return envelope.claim(user)


def pay(user: str, amount: int, key: str) -> None:
    """Pay once for a key."""
    database.execute("INSERT OR IGNORE INTO payments VALUES (?, ?, ?)", (key, user, amount))


def pay_all() -> int:
    """Pay every claim that is granted and not settled; return how many there were."""
    claims = envelope.claims()
    is_due = claims["granted_at"] <= np.datetime64(time.time_ns() // 1_000_000 - GRACE_MS, "ms")
    owed = claims[(claims["state"] == hbcore.State.GRANTED) & is_due]
    for row in owed:
        (user,) = database.execute("SELECT user FROM users WHERE hash = ?", (row["user"].tobytes(),)).fetchone()
        pay(user, int(row["amount"]), f"{envelope.name}/{user}/{row['packet']}")
        envelope.settle(user)
    return len(owed)


if sys.argv[1] == "claim":
    for name in sys.argv[2:]:
        print(name, claim(name).status.name)
else:
    print(f"{pay_all()} claims paid; {database.execute('SELECT count(*) FROM payments').fetchone()[0]} payments in all")
