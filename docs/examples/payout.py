"""A claim over HTTP with a payout that cannot pay twice; docs/paying-out.md explains every line.

PROVIDER=http://127.0.0.1:9000/payments uvicorn --app-dir docs/examples payout:app
"""

import os

import httpx
from fastapi import FastAPI, HTTPException

import hbcore

PROVIDER = os.environ.get("PROVIDER", "http://127.0.0.1:9000/payments")
engine = hbcore.Engine("gala.hb")  # every worker of the server opens the same file
envelope = engine.envelope("gala-2026/20:00", total=2_000_000, packets=10_000)
app = FastAPI()


def pay(user: str, amount: int, key: str) -> bool:
    """Pay once for a key. False: declined, for good. An exception: nobody knows."""
    payment = {"user": user, "amount": amount}
    answer = httpx.post(PROVIDER, json=payment, headers={"Idempotency-Key": key})
    if answer.status_code == 402:
        return False
    answer.raise_for_status()
    return True


@app.post("/claims/{user}")
def tap(user: str) -> dict[str, str | int]:
    claim = envelope.claim(user)
    if not claim:
        return {"status": claim.status.name}  # SOLD_OUT or CLOSED
    if not pay(user, claim.amount, f"{envelope.name}/{user}/{claim.packet}"):
        if claim.status is hbcore.Status.GRANTED:  # only the first request gives back
            envelope.release(user)
        raise HTTPException(402, "declined")
    envelope.settle(user)  # final
    return {"status": "PAID", "amount": claim.amount}
