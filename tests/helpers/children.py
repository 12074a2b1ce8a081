"""What the tests of processes share: children that talk, claims that go on meanwhile, and the look at what is left.

It imports no test tools, so that a process which multiprocessing starts from nothing is soon there.
"""

import contextlib
import ctypes
import json
import mmap
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import hbcore
from hbcore import Status

HANG_SECONDS = 60
RACE_SECONDS = 600
CLAIM_THREADS = 4
PACKETS = 100_000
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
RunPython = Callable[..., subprocess.CompletedProcess[str]]  # the fixture run_python
Say = Callable[[Any], None]
Granted = list[tuple[int, int]]  # user and packet


class Child:
    """A forked child that does ``work(say)``, and is killed if it hangs. What it says comes as JSON."""

    def __init__(self, work: Callable[[Say], object]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            run_as_child(lambda: work(lambda what: tell(write, what)))
        os.close(write)
        self.pipe = os.fdopen(read)

    def hear(self) -> Any:
        line = self.pipe.readline()
        assert line, "the child has died, or it hung and was killed"
        return json.loads(line)

    def end(self, code: int = 0) -> list[Any]:
        """Wait for its end, and return what it had left to say."""
        with self.pipe:
            said = [json.loads(line) for line in self.pipe]
        assert wait(self.pid) == code
        return said

    def kill(self) -> None:
        """Kill it, whatever lives on below it."""
        os.kill(self.pid, signal.SIGKILL)
        self.pipe.close()
        assert wait(self.pid) == -signal.SIGKILL


def tell(descriptor: int, what: Any) -> None:
    line = memoryview(json.dumps(what).encode() + b"\n")
    while line:
        line = line[os.write(descriptor, line) :]


def run_as_child(work: Callable[[], object], limit_s: int = HANG_SECONDS) -> None:
    """Do the work in a process that was just forked, and end it; what hangs is killed."""
    signal.alarm(limit_s)
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def race(work: Callable[[int], bytes], workers: int) -> list[bytes]:
    """Run ``work(i)`` in forked children that start together; return the bytes that they give."""
    start_read, start_write = os.pipe()

    def start(i: int, write: int) -> None:
        os.close(start_write)
        os.read(start_read, 1)  # returns when the parent closes its end
        with os.fdopen(write, "wb") as pipe:
            pipe.write(work(i))

    children = []
    for i in range(workers):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            run_as_child(lambda i=i, write=write: start(i, write), RACE_SECONDS)
        os.close(write)
        children.append((pid, read))
    os.close(start_read)
    os.close(start_write)
    results, codes = [], []
    for pid, read in children:
        with os.fdopen(read, "rb") as pipe:
            results.append(pipe.read())
        codes.append(wait(pid))
    assert codes == [0] * workers
    return results


def race_for_json(work: Callable[[int], object], workers: int) -> list[Any]:
    return [json.loads(result) for result in race(lambda i: json.dumps(work(i)).encode(), workers)]


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and not yet seen the end of; none if it has ended itself."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def living() -> Iterator[tuple[int, int, int]]:
    """Give pid, parent and process group of every process that is not a zombie."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                state, parent, group = Path(f"/proc/{entry}/stat").read_text().rsplit(") ", 1)[1].split()[:3]
                if state not in "ZX":
                    yield int(entry), int(parent), int(group)


def send(pid: int, signal_number: int, groups: Container[int]) -> bool:
    """Send a signal to a process of these groups, and to nobody who has got its number since."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if os.getpgid(pid) in groups:
            signal.pidfd_send_signal(descriptor, signal_number)
            return True
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
    return False


def adopt_orphans(adopt: bool = True) -> None:
    """Make this process the one to which orphans below it come, so that it can wait for them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(adopt), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def shared_byte() -> mmap.mmap:
    """A byte of 0, and some more, that this process shares with those that it forks from now on."""
    return mmap.mmap(-1, mmap.PAGESIZE)


# ---- claiming -------------------------------------------------------------------------------------------------------


def make_slow_envelope(engine: hbcore.Engine, name: str) -> hbcore.Envelope:
    """Make an envelope whose claims spend most of their time with a packet in their hands, and whose end is not near.

    The first claim of each 1,024 packets computes all their amounts, which takes longest by this law; most claims of
    several threads at once are such.
    """
    return engine.envelope(name, PACKETS * 10, PACKETS, "dirichlet", concentration=64)


def claim_for_ever(envelope: hbcore.Envelope, first_user: int) -> None:
    while True:
        envelope.claim_many(np.arange(first_user, first_user + 5000))
        first_user += 5000


def claim_in_threads(envelope: hbcore.Envelope) -> None:
    """Claim in threads without the GIL for ever, and once in this one with it."""
    for i in range(CLAIM_THREADS):
        threading.Thread(target=claim_for_ever, args=(envelope, (i + 1) << 40), daemon=True).start()
    envelope.claim(1 << 50)


@contextlib.contextmanager
def claiming(envelope: hbcore.Envelope) -> Iterator[Granted]:
    """Claim in two threads meanwhile, with the GIL and without; gives what they were granted."""
    ended = threading.Event()
    granted: Granted = []
    errors: list[BaseException] = []

    def body(number: int) -> None:
        user = (number + 1) << 40
        try:
            while not ended.is_set():
                users = list(range(user, user + 100))
                user += 100
                if number:
                    packets = envelope.claim_many(np.array(users))["packet"].tolist()
                else:
                    packets = [envelope.claim(user).packet for user in users]
                granted.extend((user, packet) for user, packet in zip(users, packets, strict=True) if packet >= 0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield granted
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


def wait_for_claims(envelope: hbcore.Envelope) -> None:
    """Wait until others are claiming."""
    give_up_at = time.monotonic() + HANG_SECONDS
    while envelope.stats().granted < PACKETS // 50:
        assert time.monotonic() < give_up_at, "nobody claims"


def claim_some(envelope: hbcore.Envelope, first_user: int) -> Granted:
    """Claim for a batch of users, and for as many one by one."""
    packets = envelope.claim_many(np.arange(first_user, first_user + 200))["packet"].tolist()
    packets += [envelope.claim(user).packet for user in range(first_user + 200, first_user + 400)]
    return [(first_user + i, packet) for i, packet in enumerate(packets) if packet >= 0]


# ---- what is left ---------------------------------------------------------------------------------------------------


def claim_the_rest(envelope: hbcore.Envelope) -> int:
    """Claim until nothing is left; return how many packets somebody holds then."""
    answers = envelope.claim_many(np.arange(1 << 60, (1 << 60) + envelope.terms.packets + 1))
    assert answers["status"][-1] == Status.SOLD_OUT
    return len(envelope.claims())


def check_granted(envelope: hbcore.Envelope, granted: Granted) -> None:
    """Check that what a user was granted is there."""
    users, packets = np.array(granted, np.int64).reshape(-1, 2).T
    answers = envelope.claim_many(np.ascontiguousarray(users))
    assert (answers["status"] == Status.REPEATED).all(), "a claim is lost"
    assert (answers["packet"] == packets).all(), "a claim has become another"


def distinct_users(claims: np.ndarray) -> np.ndarray:
    """Return the users of a snapshot; half of each hash tells them apart, and is sorted a hundred times faster."""
    return np.unique(np.ascontiguousarray(claims["user"]).view("u8")[::2])


def check_sold_out(envelope: hbcore.Envelope) -> None:
    """Check that every packet is some user's, no user has two, and the sum is the total."""
    claims = envelope.claims()
    packets = envelope.terms.packets
    assert len(claims) == packets, f"{packets - len(claims)} packets are stranded"
    assert len(np.unique(claims["packet"])) == packets, "a packet is given twice"
    assert len(distinct_users(claims)) == packets, "a user has two packets"
    assert claims["amount"].sum() == envelope.terms.total


# ---- multiprocessing ------------------------------------------------------------------------------------------------


def claim_and_tell(envelope: hbcore.Envelope | None, number: int, connection: Any) -> None:
    """The target of a multiprocessing process. Without an envelope it takes the one that its server has preloaded."""
    if envelope is None:
        import server_app

        assert os.getppid() == server_app.IMPORTED_BY, "the forkserver has opened the engine before it forked"
        envelope = server_app.envelope
    signal.alarm(HANG_SECONDS)
    first_user = number << 42
    connection.send(claim_some(envelope, first_user))
    if number % 2 == 0:
        claim_for_ever(envelope, first_user + 1000)
