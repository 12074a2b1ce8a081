"""What is to be done in a history, drawn from a seed: envelopes, programs of calls, and who is killed when."""

from functools import cache
from itertools import combinations
from random import Random
from typing import Any, NamedTuple

import hbcore
import hbcore.reference

TOPOLOGIES = ((1, 1), (1, 1, 1), (2,), (2, 1), (1, 1), (1, 1, 1, 1), (1, 2), (2, 2), (1, 1), (4,))  # threads by process
CLIENT_LIMIT = max(map(sum, TOPOLOGIES))
PACKET_LIMIT = 4
WORLD_SIZE = 100  # histories of one engine
ROUND_SIZE = 25  # histories that the clients run without hearing from anybody; a kill ends a round
VARIANTS = 8  # of terms, for each number of packets
CLOSES = 0.15  # share of histories in which somebody closes the envelope
STOPS = 0.7  # of those without deaths: in which processes are stopped for a while
MIXES = (
    {"claim": 2, "release": 3, "settle": 1, "claim_many": 4},
    {"claim": 5, "release": 4, "find": 1},
    {"claim": 4, "release": 2, "settle": 1, "find": 1, "claim_many": 2},
    {"claim": 3, "release": 2, "settle": 2, "find": 2},
)


class Step(NamedTuple):
    """One step of a program. ``claim_many`` claims for each user ``repeats`` times."""

    kind: str
    users: tuple[int, ...] = ()
    repeats: int = 1


class Plan(NamedTuple):
    """One history, before it happens.

    Processes are killed while they run the first of two programs; the second begins when they are dead. Processes are
    stopped while they run their last program; the others run theirs while these stand still, and then continue them.
    """

    terms: dict[str, Any]
    amounts: tuple[int, ...]
    users: int
    programs: list[list[list[Step]]]  # by client, one or two
    finals: list[Step]  # what a survivor does at last
    killed: tuple[int, ...]
    stopped: tuple[int, ...]
    is_waiting: bool  # whether the others begin only when those are stopped
    after_ns: int  # from the beginning of a program to when the timer of the signal is set
    delays_ns: list[int]  # by client, before its first call
    is_text: bool

    def releases(self, user: int) -> int:
        return sum(
            step == Step("release", (user,)) for client in self.programs for program in client for step in program
        )


@cache
def terms_of(packets: int, variant: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Terms of an envelope whose packets are told by their sums, and the amounts as the reference splits them."""
    for attempt in range(100):
        terms = {
            "total": 1000 * packets,
            "packets": packets,
            "law": ("dirichlet", "double_mean")[variant % 2],
            "seed": bytes([packets, variant, attempt]) + bytes(29),
        }
        amounts = tuple(hbcore.reference.split(**terms).tolist())
        sums = {sum(chosen) for size in range(packets + 1) for chosen in combinations(amounts, size)}
        if len(sums) == 1 << packets:
            return terms, amounts
    raise AssertionError(f"no seed splits {packets} packets so that sums tell them")


def random_program(random: Random, mix: dict[str, int], users: int, size: int, repeats: tuple[int, ...]) -> list[Step]:
    program = []
    for kind in random.choices(list(mix), list(mix.values()), k=size):
        if kind == "claim_many":
            some = tuple(random.sample(range(users), random.randint(1, users)))
            program.append(Step(kind, some, random.choice(repeats)))
        else:
            program.append(Step(kind, (random.randrange(users),)))
    return program


def draw_victims(random: Random, topology: tuple[int, ...], kills: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw the processes that are to be killed, and those that are to be stopped."""
    processes = range(len(topology))
    killed: tuple[int, ...] = ()
    if random.random() < kills:
        killed = tuple(random.sample(processes, min(random.choice((1, 1, 1, 2)), len(topology))))
    living = [process for process in processes if process not in killed]
    stopped: tuple[int, ...] = ()
    if len(living) > 1 and random.random() < STOPS:
        stopped = tuple(random.sample(living, random.randint(1, len(living) - 1)))
    return killed, stopped


def draw_moments(
    random: Random, killed: tuple[int, ...], stopped: tuple[int, ...], clients: int, latest_ns: int = 40_000
) -> dict[str, Any]:
    """Draw when that happens, as fields of a plan."""
    return {
        "killed": killed,
        "stopped": stopped,
        "is_waiting": bool(stopped) and random.random() < 0.7,
        "after_ns": random.randint(4_000, latest_ns) if killed else random.randint(1_000, 9_000),
        "delays_ns": [random.choice((0, 0, 300, 1000, 3000)) for _ in range(clients)],
    }


def plan_history(seed: int, number: int, topology: tuple[int, ...], kills: float) -> Plan:
    """Draw a history; the programs are the same for the same arguments, in whichever process."""
    random = Random(f"{seed}/{number}")
    packets, users = random.randint(1, PACKET_LIMIT), random.randint(1, 4)
    terms, amounts = terms_of(packets, random.randrange(VARIANTS))
    processes = range(len(topology))
    killed, stopped = draw_victims(random, topology, kills)
    # Threads of one process overlap only where the GIL is released, for long enough that another gets it.
    mix = random.choice(MIXES if len(topology) > 1 else MIXES[:1])
    repeats = (1, 2, 40, 800) if len(topology) > 1 else (500, 5000)
    programs = [
        [
            random_program(random, mix, users, random.randint(2, 9 if process in killed + stopped else 6), repeats)
            for _ in range(2 if killed else 1)
        ]
        for process in processes
        for _ in range(topology[process])
    ]
    if random.random() < CLOSES:
        program = random.choice(random.choice(programs))
        program.insert(random.randint(0, len(program)), Step("close"))
    everybody = list(range(users + packets + 1))  # the users, and strangers who take what is free
    random.shuffle(everybody)
    finals = [*(Step("find", (user,)) for user in range(users)), Step("snapshot")]
    if random.random() < 0.5:
        finals += [Step("close"), Step("snapshot")]
    finals += [*(Step("claim", (user,)) for user in everybody), Step("snapshot"), Step("close")]
    return Plan(
        terms=terms,
        amounts=amounts,
        users=users,
        programs=programs,
        finals=finals,
        **draw_moments(random, killed, stopped, len(programs)),
        is_text=random.random() < 0.3,
    )
