"""hbcore on an event loop: single claims where they stand, a large batch in a thread.

python docs/examples/event_loop.py
"""

import asyncio

import numpy as np

import hbcore

USERS = 1_000_000

engine = hbcore.Engine()
small = engine.envelope("20:00", total=50_000, packets=500)
large = engine.envelope("midnight", total=100 * USERS, packets=USERS)


async def one(user: str) -> bool:
    """Claim for one user, on the loop: it is over before a switch to a thread would have begun."""
    return bool(small.claim(user))


async def many() -> int:
    """Claim for all users in a thread. A batch works without the GIL, so the loop goes on meanwhile."""
    answers = await asyncio.to_thread(large.claim_many, np.arange(USERS))
    return int(np.count_nonzero(answers["packet"] >= 0))


async def main() -> None:
    taps = [one(f"user-{number % 600}") for number in range(1_200)]  # 600 users, each twice
    granted = sum(await asyncio.gather(*taps))
    print(f"{granted} of {len(taps)} taps were answered with a packet; {small.stats().granted} packets are granted")
    batch = asyncio.create_task(many())
    ticks = 0
    while not batch.done():  # the loop is free
        await asyncio.sleep(0)
        ticks += 1
    print(f"{batch.result()} packets granted while the loop turned: {ticks > 10}")


asyncio.run(main())
