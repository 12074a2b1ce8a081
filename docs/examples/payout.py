"""A claim over HTTP with a payout that cannot pay twice; docs/paying-out.md explains every line.

PROVIDER=http://127.0.0.1:9000/payments uvicorn --app-dir docs/examples payout:app
"""

import json
import os
import sqlite3

import httpx
from fastapi import FastAPI, HTTPException

import hbcore

PROVIDER = os.environ.get("PROVIDER", "http://127.0.0.1:9000/payments")
engine = hbcore.Engine("gala.hb")  # every worker opens this file
envelope = engine.envelope("gala-2026/20:00", total=2_000_000, packets=10_000)
app = FastAPI()


def remember(user: str) -> None:
    """Note whose hash it is: the engine keeps no names."""
    with sqlite3.connect("users.db", timeout=60) as users:
        users.execute("CREATE TABLE IF NOT EXISTS users (hash BLOB PRIMARY KEY, user TEXT)")
        users.execute("INSERT OR IGNORE INTO users VALUES (?, ?)", (engine.user_hash(user), user))


def pay(user: str, amount: int, packet: int) -> bool:
    """Pay once for a key. False: declined, for good. An exception: nobody knows."""
    key = json.dumps([envelope.name, user, packet])
    answer = httpx.post(PROVIDER, json={"user": user, "amount": amount}, headers={"Idempotency-Key": key})
    if answer.status_code == 402:
        return False
    answer.raise_for_status()
    return True


@app.post("/claims/{user}")
def tap(user: str) -> dict[str, str | int]:
    remember(user)
    claim = envelope.claim(user)
    if not claim:
        return {"status": claim.status.name}  # SOLD_OUT or CLOSED
    if not pay(user, claim.amount, claim.packet):
        if claim.status is hbcore.Status.GRANTED:  # a repeated request never gives back
            envelope.release(user)
        raise HTTPException(402, "declined")
    envelope.settle(user)  # final
    return {"status": "PAID", "amount": claim.amount}
