"""Four processes share one file; one of them is killed at work, and the others go on.

python docs/examples/workers.py
"""

import multiprocessing
import os
import signal

import hbcore

PATH, PACKETS = "workers.hb", 200_000


def work(number: int) -> None:
    """Claim for users of its own until the packets are gone. Every process opens the file and is a worker of it."""
    envelope = hbcore.Engine(PATH).envelope("20:00")
    for user in range(number * PACKETS, (number + 1) * PACKETS):
        if not envelope.claim(user):
            break


def die(number: int) -> None:
    """Claim for 1,000 users and die: no handler runs, and nothing is cleaned up."""
    envelope = hbcore.Engine(PATH).envelope("20:00")
    for user in range(number * PACKETS, number * PACKETS + 1_000):
        envelope.claim(user)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    engine = hbcore.Engine(PATH)
    engine.envelope("20:00", total=100 * PACKETS, packets=PACKETS)
    targets = (die, work, work, work)
    workers = [multiprocessing.Process(target=target, args=(number,)) for number, target in enumerate(targets)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("exit codes:", [worker.exitcode for worker in workers])
    report = engine.audit()  # raises AuditError if anything does not add up
    print(f"{report.granted} of {report.packets} packets granted, {report.amount_granted} of {report.amount_total} fen")
