"""Pay whoever is owed: the second half of payout.py, in a process of its own. Run one, again and again.

    python docs/examples/payout_worker.py pay               pay every claim that a request has left unpaid
    python docs/examples/payout_worker.py claim USER ...    for trying it: what a request does that dies before it pays

The engine, the table of users and the provider are those of payout.py, so both halves pay under the same keys.
"""

import sqlite3
import sys
import time

import httpx
import numpy as np
from payout import envelope, pay, remember

import hbcore

GRACE_MS = 0  # in production longer than any request takes, so that no request is still paying


def users() -> dict[bytes, str]:
    """Return whose hash is whose, as the server has written it down before each claim."""
    with sqlite3.connect("users.db", timeout=60) as database:
        return dict(database.execute("SELECT hash, user FROM users"))


def work_off() -> dict[str, int]:
    """Pay and settle every claim that is granted and old enough, release what is declined; return how many of each."""
    counts = {"paid": 0, "declined": 0, "unclear": 0, "unknown": 0}
    claims = envelope.claims()
    is_due = claims["granted_at"] <= np.datetime64(time.time_ns() // 1_000_000 - GRACE_MS, "ms")
    names = users()
    for row in claims[(claims["state"] == hbcore.State.GRANTED) & is_due]:
        user = names.get(row["user"].tobytes())
        if user is None:  # a claim that was made without remember(): a person has to look at it
            counts["unknown"] += 1
            continue
        try:
            is_paid = pay(user, int(row["amount"]), int(row["packet"]))
        except httpx.HTTPError:  # nobody knows: the next run tries the same key again
            counts["unclear"] += 1
            continue
        if is_paid:
            envelope.settle(user)
        else:
            envelope.release(user)  # the request that was GRANTED is dead, or it would have done this
        counts["paid" if is_paid else "declined"] += 1
    return counts


if sys.argv[1] == "claim":
    for name in sys.argv[2:]:
        remember(name)
        print(name, envelope.claim(name).status.name)
else:
    print(", ".join(f"{count} {what}" for what, count in work_off().items()))
