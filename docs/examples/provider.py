"""A payment provider to try payout.py against: one payment for one Idempotency-Key, kept in payments.db.

uvicorn --app-dir docs/examples --port 9000 provider:app

A user whose name begins with "declined" is declined. The first answer to one whose name begins with "lost" is lost on
its way: the money has moved, and the caller hears of an error.
"""

import sqlite3

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

app = FastAPI()

with sqlite3.connect("payments.db") as database:
    database.execute("CREATE TABLE IF NOT EXISTS payments (key TEXT PRIMARY KEY, user TEXT, amount INTEGER)")


class Payment(BaseModel):
    """Name the user to be paid, and the amount in minor units."""

    user: str
    amount: int


@app.post("/payments")
def pay(payment: Payment, idempotency_key: str = Header()) -> dict[str, str]:
    """Pay, unless this key was paid before."""
    if payment.user.startswith("declined"):
        raise HTTPException(402, "declined")
    with sqlite3.connect("payments.db", timeout=60) as database:
        row = (idempotency_key, payment.user, payment.amount)
        is_new = database.execute("INSERT OR IGNORE INTO payments VALUES (?, ?, ?)", row).rowcount == 1
    if is_new and payment.user.startswith("lost"):
        raise HTTPException(500, "the answer was lost")
    return {"status": "paid"}
