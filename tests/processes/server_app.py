"""A claim service as one would write it: the engine is opened when the module is imported.

A server that loads its application before it forks (``gunicorn --preload``) thus opens it once, and each worker process
becomes a worker of the engine at its first claim. The environment says where: HBCORE_FILE, and HBCORE_PACKETS if the
envelope is not there yet.

    POST   /claims/USER           one claim
    GET    /claims/USER           what the user holds; never grants
    DELETE /claims/USER           the payout failed: the packet goes back
    POST   /claims?from=A&to=B    claims for the users A .. B - 1, as one batch
    GET    /stats                 the sums, and which processes answer and have opened the engine
"""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import numpy as np

import hbcore

BATCH_LIMIT = 10_000

IMPORTED_BY = os.getpid()
PACKETS = int(os.environ.get("HBCORE_PACKETS", "200000"))
engine = hbcore.Engine(os.environ["HBCORE_FILE"])
envelope = engine.envelope("20:00", total=PACKETS * 10, packets=PACKETS)


def as_json(claim: hbcore.Claim | None) -> dict[str, Any] | None:
    if claim is None:
        return None
    return {"status": claim.status.name, "amount": claim.amount, "packet": claim.packet}


def answer(method: str, path: str, query: str) -> tuple[str, Any]:
    """Return the HTTP status and what becomes the JSON of the body."""
    if path == "/stats" and method == "GET":
        stats = envelope.stats()
        processes = {"worker": os.getpid(), "imported_by": IMPORTED_BY}
        return "200 OK", {**stats._asdict(), "amounts": stats.amounts._asdict(), **processes}
    if path == "/claims" and method == "POST":
        fields = parse_qs(query)
        try:
            first, end = int(fields["from"][0]), int(fields["to"][0])
        except (KeyError, ValueError):
            return "400 Bad Request", {"error": f"from and to must be integers, not {query!r}"}
        if not 0 <= end - first <= BATCH_LIMIT:
            return "400 Bad Request", {"error": f"0 .. {BATCH_LIMIT} users, not {end - first}"}
        claims = envelope.claim_many(np.arange(first, end))
        return "200 OK", {name: claims[name].tolist() for name in claims.dtype.names}
    user = path.removeprefix("/claims/")
    if user == path or not user.isdecimal():
        return "404 Not Found", {"error": f"there is nothing at {path!r}"}
    calls = {"POST": envelope.claim, "GET": envelope.find, "DELETE": envelope.release}
    if method not in calls:
        return "405 Method Not Allowed", {"error": f"one of {', '.join(calls)}, not {method}"}
    return "200 OK", as_json(calls[method](int(user)))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    status, what = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
    body = json.dumps(what).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
