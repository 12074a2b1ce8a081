"""A preloading server under load, with its workers killed and replaced: gunicorn, real requests, kill -9.

    python tests/processes/server_storm.py [--kills 100] [--workers 4] [--worker-class sync|gthread]
        [--clients 4] [--seed N]

gunicorn imports ``server_app.py``, which opens an engine file, and then forks its workers (``--preload``). Clients open
a connection for each request, as behind a proxy without keep-alive, and ask again when it breaks, until they are
answered. Meanwhile workers are killed at random, which gunicorn replaces; some are stopped for a while, and once a
round gunicorn itself is killed and started again, while its orphaned workers may still answer.

In the end the file must hold exactly what the clients were told: none missing, none twice, nothing that nobody was told
of; the audit holds, and what is left can be claimed to the last packet.

Exits 1 at the first promise that is broken, and shows what gunicorn has logged.
"""

import argparse
import contextlib
import http.client
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))
from children import check_sold_out, claim_the_rest, living, send
from rich.console import Console
from rich.progress import Progress

import hbcore

HERE = Path(__file__).resolve().parent
PACKETS = 1_000_000
BATCH = 500
COMMON_USERS = 2000  # all clients ask for these
HANG_SECONDS = 60
STOP_SECONDS = 1  # so long a worker stays stopped if nobody is answered meanwhile
KILLS_A_ROUND = 100
ATTEMPTS_LIMIT = 1000
# Errors of a request that was in the hands of a worker that dies, and of nothing else.
BROKEN = (ConnectionError, http.client.HTTPException)


class PromiseBrokenError(Exception):
    """What happened is not what hbcore promises."""


class Server:
    """gunicorn on a socket that it inherits, so that connections wait there while nobody serves them."""

    def __init__(self, folder: Path, listener: socket.socket, worker_class: str, workers: int) -> None:
        self.folder = folder
        self.listener = listener
        self.options = ["--workers", str(workers), "--worker-class", worker_class]
        if worker_class == "gthread":
            self.options += ["--threads", "4"]
        self.config = folder / "gunicorn.conf.py"
        # Older versions have no control socket, and take no notice of settings that they do not know in a file.
        self.config.write_text("control_socket_disable = True\n")
        self.log = folder / "gunicorn.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        descriptor = self.listener.fileno()
        with self.log.open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "gunicorn", "--preload", *self.options),
                        *("--bind", f"fd://{descriptor}", "--backlog", "1024", "--worker-tmp-dir", str(self.folder)),
                        *("--pythonpath", str(HERE), "--config", str(self.config), "server_app:application"),
                    ],
                    env={
                        **os.environ,
                        "PYTHONPATH": str(Path(hbcore.__file__).parent.parent),
                        "HBCORE_FILE": str(self.folder / "gala.hb"),
                        "HBCORE_PACKETS": str(PACKETS),
                    },
                    # gunicorn looks for modules in its working folder first: in a source tree that is not built, it
                    # would find that one's hbcore and not the one under test.
                    cwd=self.folder,
                    pass_fds=[descriptor],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # a group of its own, so that nothing of it can be left behind
                )
            )

    @property
    def pid(self) -> int:
        return self.processes[-1].pid

    def workers(self) -> list[int]:
        """The pids of the present workers, dead ones that were not yet waited for excepted."""
        return sorted(pid for pid, parent, _ in living() if parent == self.pid)

    def send(self, worker: int, signal_number: int) -> bool:
        return send(worker, signal_number, [process.pid for process in self.processes])

    def kill(self) -> None:
        """Kill gunicorn alone. It is not waited for, so that its group keeps its number."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> int:
        """End it as one should, and return its exit status; what has been orphaned is killed."""
        self.processes[-1].terminate()
        code = self.processes[-1].wait(HANG_SECONDS)
        self.end()
        return code

    def end(self) -> None:
        for process in self.processes:
            if process.returncode is None:  # not waited for, so the number of its group is its own
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Client(threading.Thread):
    """Asks one thing after another, each until it is answered, and remembers what it was told."""

    def __init__(self, number: int, seed: int, port: int, answered: "queue.SimpleQueue[int]") -> None:
        super().__init__(daemon=True)
        self.number = number
        self.chance = random.Random(seed * 1000 + number)
        self.port = port
        self.answered = answered
        self.ended = threading.Event()
        self.holds: dict[int, tuple[int, int]] = {}  # user -> amount, packet
        self.figures: Counter[str] = Counter()
        self.longest = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            next_user = (self.number + 1) << 40
            while not self.ended.is_set():
                next_user = self.ask_something(next_user)
                self.answered.put(self.number)
        except BaseException as error:
            self.error = error
            self.answered.put(-1)

    def ask_something(self, next_user: int) -> int:
        kind = self.chance.random()
        if kind < 0.5:
            self.claim(next_user)
            return next_user + 1
        if kind < 0.6:
            self.claim(self.chance.randrange(COMMON_USERS))
        elif kind < 0.8:
            claims = self.ask("POST", f"/claims?from={next_user}&to={next_user + BATCH}")
            for i, packet in enumerate(claims["packet"]):
                self.told(next_user + i, {"amount": claims["amount"][i], "packet": packet})
            return next_user + BATCH
        elif self.holds:
            # Only this client asks for its own users, so it knows what it must be told.
            user = self.chance.choice([*self.holds]) if len(self.holds) < 100 else next(iter(self.holds))
            if user < COMMON_USERS or kind < 0.9:
                self.told(user, self.ask("GET", f"/claims/{user}"))
            else:
                self.ask("DELETE", f"/claims/{user}")  # null if the worker that has released it could not say so
                del self.holds[user]
                if self.ask("GET", f"/claims/{user}") is not None:
                    raise PromiseBrokenError(f"user {user} holds a packet after its release")
        return next_user

    def claim(self, user: int) -> None:
        self.told(user, self.ask("POST", f"/claims/{user}"))

    def told(self, user: int, claim: dict[str, Any] | None) -> None:
        if claim is None or claim["packet"] < 0:
            raise PromiseBrokenError(f"user {user} has no packet, and packets are left")
        packet = (claim["amount"], claim["packet"])
        if self.holds.setdefault(user, packet) != packet:
            raise PromiseBrokenError(f"user {user} was told of {self.holds[user]} and then of {packet}")

    def ask(self, method: str, path: str) -> Any:
        """Send a request on a connection of its own, again and again until it is answered."""
        began_at = time.monotonic()
        for _ in range(ATTEMPTS_LIMIT):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
            try:
                connection.request(method, path, headers={"Connection": "close"})
                response = connection.getresponse()
                body = response.read()
            except BROKEN:
                self.figures["requests that broke"] += 1
                continue
            finally:
                connection.close()
            if response.status != 200:
                raise PromiseBrokenError(f"{method} {path} was answered {response.status}: {body!r}")
            self.figures["requests that were answered"] += 1
            self.longest = max(self.longest, time.monotonic() - began_at)
            return json.loads(body)
        raise PromiseBrokenError(f"{method} {path} was not answered in {ATTEMPTS_LIMIT} attempts")


# ---- the storm ------------------------------------------------------------------------------------------------------


def storm(
    server: Server, clients: list[Client], answered: "queue.SimpleQueue[int]", kills: int, chance: random.Random
) -> Counter[str]:
    """Kill and stop workers, and gunicorn once, while the clients go on."""
    figures: Counter[str] = Counter()
    stopped = 0
    deadline_kill = chance.randrange(kills // 3, kills) if kills > 2 else -1
    while figures["workers killed"] < kills:
        for _ in range(chance.randrange(5, 40)):
            try:
                if answered.get(timeout=STOP_SECONDS if stopped else HANG_SECONDS) < 0:
                    raise next(client.error for client in clients if client.error)
            except queue.Empty:
                if not stopped:
                    raise PromiseBrokenError(f"nobody was answered for {HANG_SECONDS} seconds") from None
                figures["times that all clients were in the hands of a stopped worker"] += 1
                break
        if stopped:
            server.send(stopped, signal.SIGCONT)
            stopped = 0
        workers = server.workers()
        if not workers:
            continue
        worker = chance.choice(workers)
        if chance.random() < 0.15:
            if server.send(worker, signal.SIGSTOP):
                stopped = worker
                figures["workers stopped"] += 1
        elif server.send(worker, signal.SIGKILL):
            figures["workers killed"] += 1
            if figures["workers killed"] == deadline_kill:
                server.kill()
                server.start()
                figures["servers killed"] += 1
    if stopped:
        server.send(stopped, signal.SIGCONT)
    return figures


def check_the_books(path: Path, clients: list[Client]) -> int:
    """What the clients were told is what stands in the file; return how many claims that is."""
    holds: dict[int, tuple[int, int]] = {}
    for client in clients:
        for user, packet in client.holds.items():
            if holds.setdefault(user, packet) != packet:
                raise PromiseBrokenError(f"user {user} was told of {holds[user]} and of {packet}")
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("20:00")
        claims = envelope.claims()
        told = sorted((engine.user_hash(user), *packet) for user, packet in holds.items())
        users = [user.tobytes() for user in claims["user"]]
        there = sorted(zip(users, claims["amount"].tolist(), claims["packet"].tolist(), strict=True))
        if told != there:
            missing, more = set(told) - set(there), set(there) - set(told)
            raise PromiseBrokenError(f"{len(missing)} claims are missing, and nobody was told of {len(more)}")
        engine.audit()
        claim_the_rest(envelope)
        check_sold_out(envelope)
        engine.audit()
    return len(told)


def run_round(options: argparse.Namespace, number: int, kills: int) -> tuple[Counter[str], float]:
    """Serve from a new file until so many workers have been killed; return the figures and the longest request."""
    chance = random.Random(options.seed * 1_000_003 + number)
    answered: queue.SimpleQueue[int] = queue.SimpleQueue()
    with (
        tempfile.TemporaryDirectory(prefix="server-storm-") as folder,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
    ):
        server = Server(Path(folder), listener, options.worker_class, options.workers)
        clients = [
            Client(i, chance.randrange(10**9), listener.getsockname()[1], answered) for i in range(options.clients)
        ]
        try:
            stats = clients[0].ask("GET", "/stats")
            if not stats["imported_by"] == server.pid != stats["worker"]:
                raise PromiseBrokenError(f"the application was not loaded before the fork: {stats}")
            for client in clients:
                client.start()
            figures = storm(server, clients, answered, kills, chance)
            for client in clients:
                client.ended.set()
            for client in clients:
                client.join(HANG_SECONDS)
                if client.error or client.is_alive():
                    raise client.error or PromiseBrokenError("a request hangs")
                figures += client.figures
            if code := server.stop():
                raise PromiseBrokenError(f"gunicorn has ended with {code}")
            figures["claims that the clients were told of"] += check_the_books(Path(folder, "gala.hb"), clients)
        except BaseException:
            print(server.log.read_text()[-5000:], file=sys.stderr)
            raise
        finally:
            server.end()
    figures["rounds"] += 1
    return figures, max(client.longest for client in clients)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=100, help="of workers (default 100)")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--worker-class", choices=("sync", "gthread"), default="sync")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    options = parser.parse_args()
    totals: Counter[str] = Counter()
    longest = 0.0
    number = 0
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("workers killed", total=options.kills)
            while totals["workers killed"] < options.kills:
                kills = min(KILLS_A_ROUND, options.kills - totals["workers killed"])
                figures, longest_now = run_round(options, number, kills)
                totals += figures
                longest = max(longest, longest_now)
                progress.update(task, completed=totals["workers killed"])
                number += 1
    except (PromiseBrokenError, AssertionError) as error:
        print(f"seed {options.seed}, round {number}: a promise is broken: {error}")
        return 1
    print(f"seed: {options.seed}")
    print(f"gunicorn workers: {options.workers} of class {options.worker_class}")
    for name in sorted(totals):
        print(f"{name}: {totals[name]:,}")
    print(f"longest request, retries included: {longest:.3f} s")
    print("every promise held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
