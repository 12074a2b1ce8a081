"""Rain from 20:00 to 20:05: nobody gets a packet before or after, and what is left goes back to the budget.

    python docs/examples/rain.py [SECONDS_TO_THE_START SECONDS_OF_RAIN]

One process makes the envelope when the time has come: a claim finds no envelope before that, whatever the clocks of the
servers say. The end is in the terms (``expires_at``), and every process of the machine goes by the same clock.
"""

import sys
import time
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import hbcore

NAME, TOTAL, PACKETS = "20:00", 200_000, 2_000
TICK = 0.01  # the engine reads the kernel's coarse clock, which is up to one tick behind


def times() -> tuple[float, float]:
    """Return when it begins and ends: 20:00 and 20:05 in Shanghai, or what the command line says."""
    if len(sys.argv) == 3:
        begin = time.time() + float(sys.argv[1])
        return begin, begin + float(sys.argv[2])
    start = datetime.now(ZoneInfo("Asia/Shanghai")).replace(hour=20, minute=0, second=0, microsecond=0)
    return start.timestamp(), (start + timedelta(minutes=5)).timestamp()


def prepare(engine: hbcore.Engine) -> hbcore.Budget:
    """Set the money aside, long before."""
    return engine.budget("gala", total=3_000_000).budget(NAME, total=TOTAL)


def begin(engine: hbcore.Engine, end: float) -> hbcore.Envelope:
    """Make the envelope: a job of one process at 20:00. Done twice, it is the same envelope."""
    return prepare(engine).envelope(NAME, total=TOTAL, packets=PACKETS, expires_at=end)


def claim(engine: hbcore.Engine, user: str) -> str:
    """Claim for a user: what every server does, at any time."""
    try:
        envelope = prepare(engine).envelope(NAME)
    except hbcore.NotFoundError:
        return "NOT_YET"
    return envelope.claim(user).status.name


def finish(engine: hbcore.Engine) -> int:
    """Give back what nobody claimed: a job after 20:05. Return what is available in the campaign then."""
    engine.sweep()  # closes what has expired
    prepare(engine).close()
    return engine.budget("gala").stats().available


def wait(until: float) -> None:
    """Wait for a point in time, as a cron job would."""
    while (left := until - time.time()) > 0:
        time.sleep(left)


engine = hbcore.Engine("gala.hb")
start, end = times()
prepare(engine)
print("before:", claim(engine, "early"))
wait(start)
begin(engine, end)
print("during:", claim(engine, "user-42"))
print("again:", claim(engine, "user-42"))
wait(end + TICK)
print("back in the campaign:", finish(engine))
print("after:", claim(engine, "late"))
