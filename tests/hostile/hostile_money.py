"""Hostile files with budgets: damaged in every field that money depends on, and used through the whole API.

    python tests/hostile/hostile_money.py [--files 1000] [--seed 1] [--only CASE ...]

The sound file has a tree of budgets and envelopes with holds in every state, also those that deaths have left. Each
case damages a byte, a word or several (a field of one kind gets what another field has, too) and asks everything that
can be asked, with the file open before or after the damage. Accepted: hbcore's errors, and any answers as long as no
more money is handed out than there is, or the audit names what is wrong. A signal, a hang, another exception, or money
out of nothing that no audit names is a failure, and makes the exit status 1. So is a forgery (forgeries.py: damage that
the sums agree with) that the audit does not name.
"""

import argparse
import collections
import faulthandler
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))
from engine_files import whole_units
from forgeries import FORGERIES
from hostile_files import BUCKETS, CONSTANTS, STRUCTS, UNIT
from stepping import can_trace, die, swaps_of

import hbcore
from hbcore import State

HANG_S = 20
MEMORY_LIMIT = 512 << 20
ROOT_TOTAL, ROOT_TOP_UP = 100_000, 500
KEYS = [*range(100), "dead reserve", "dead settle", "dead release"]
NEW_KEYS = range(1000, 1010)
ERRORS = (hbcore.CorruptFileError, hbcore.AuditError, hbcore.IncompatibleFileError, hbcore.EngineFullError)
ANSWERS = (hbcore.NotFoundError, hbcore.ConflictError, hbcore.InsufficientBudgetError)
FIRST_WORDS, FIRST_HOLDS = 64, 64
FORGED = 0.1  # share of the files
LINK_TO_STATE = STRUCTS["hb_hold"]["link"][0] - STRUCTS["hb_hold"]["state"][0]
KIND_OF = {number: name for name, number in CONSTANTS.items() if name.startswith("HB_KIND_")}


def build(path: Path) -> None:
    """Make the sound file."""
    with hbcore.Engine(path, capacity=1 << 22) as engine:
        root = engine.budget("root", ROOT_TOTAL)
        root.top_up("more", ROOT_TOP_UP)
        middle = root.budget("middle", 20_000)
        leaf = middle.budget("leaf", 3_000)
        closed = root.budget("closed", 5_000)
        leaf.top_up("more", 300)
        closed.top_up("more", 40)
        for budget in (root, middle, leaf, closed):
            for key in range(100 if budget is root else 12):  # a hundred need a second level
                budget.reserve(key, 10 + key)
            for key in range(0, 12, 4):
                budget.settle(key, key)
                budget.settle(key + 1)
                budget.release(key + 2)
            for key in ("dead settle", "dead release"):
                budget.reserve(key, 400)
            for name in ("open envelope", "closed envelope"):
                envelope = budget.envelope(name, 400, 8, "equal", max_packets=24)
                envelope.claim_many(range(4))
                for number in range(2):
                    envelope.top_up(number, 50, 5)
                envelope.claim_many(range(12))
                envelope.settle(0)
            envelope.close()
            envelope.release(1)
        closed.close()
        closed.release("dead release")
    if can_trace():
        swaps = swaps_of("account")
        for number, (key, work) in enumerate({
            "dead reserve": lambda engine: lambda: engine.budget("root").reserve("dead reserve", 400),
            "dead settle": lambda engine: lambda: engine.budget("root").settle("dead settle", 100),
            "dead release": lambda engine: lambda: engine.budget("root").budget("middle").release("dead release"),
        }.items()):  # fmt: skip
            assert die(path, work, swaps, 2 + number % 2), f"{key}: nobody has died"


class Place(NamedTuple):
    """A field of the file."""

    name: str
    at: int
    size: int


def places_of(content: bytes) -> list[Place]:
    """Return all fields that money depends on."""
    found = []

    def add(struct_name: str, at: int) -> None:
        for field, (start, size) in STRUCTS[struct_name].items():
            if field and field != "extent" and not field.startswith("reserved"):
                found.extend(
                    Place(f"{struct_name}.{field}", at + start + word, min(8, size - word))
                    for word in range(0, size, 8)
                )

    def add_words(at: int, count: int) -> None:
        words = struct.unpack_from(f"<{count}Q", content, at)
        found.extend(Place("index word", at + 8 * number, 8) for number in range(count) if words[number] or number < 4)

    def add_holds(at: int, count: int) -> None:
        size = STRUCTS["hb_hold"][""][1]
        for number in range(count):
            if any(content[at + size * number : at + size * (number + 1)]) or number < 4:
                add("hb_hold", at + size * number)

    def pointers(field: str) -> set[int]:
        start, size = STRUCTS["hb_budget"][field]
        return {at for budget in budgets for at in struct.unpack_from(f"<{size // 8}Q", content, budget + start)} - {0}

    budgets = []
    at = BUCKETS.stop
    while (state := struct.unpack_from("<Q", content, at)[0]) != 0:
        if struct.unpack_from("<I", content, at + STRUCTS["hb_extent"]["kind"][0])[0] == CONSTANTS["HB_KIND_BUDGET"]:
            budgets.append(at)
        at += (state >> 28) * UNIT
    segments = pointers("segments")
    for field in ("clock_offset_ms", "clock_check", "boot_id"):
        start, size = STRUCTS["hb_header"][field]
        found.append(Place(f"hb_header.{field}", start, size))
    at = BUCKETS.stop
    while (state := struct.unpack_from("<Q", content, at)[0]) != 0:
        add("hb_extent", at)
        head = STRUCTS["hb_extent"][""][1]
        kind = KIND_OF.get(struct.unpack_from("<I", content, at + STRUCTS["hb_extent"]["kind"][0])[0])
        if kind == "HB_KIND_BUDGET":
            add("hb_budget", at)
            length = struct.unpack_from("<H", content, at + STRUCTS["hb_extent"]["name_length"][0])[0]
            words = at + STRUCTS["hb_budget"][""][1] + whole_units(length)
            add_words(words, FIRST_WORDS)
            add_holds(words + 8 * FIRST_WORDS, FIRST_HOLDS)
        elif kind == "HB_KIND_LEVEL":
            room = (state >> 28) * UNIT - head
            if at in segments:
                add_holds(at + head, room // STRUCTS["hb_hold"][""][1])
            else:
                add_words(at + head, room // 8)
        elif kind == "HB_KIND_TOP_UP":
            add("hb_top_up", at)
        elif kind == "HB_KIND_ENVELOPE":
            add("hb_envelope", at)
        elif kind == "HB_KIND_TRANCHE":
            add("hb_tranche", at)
            add_words(at + STRUCTS["hb_tranche"][""][1], 1)
        at += (state >> 28) * UNIT
    return found


# ---- damage ---------------------------------------------------------------------------------------------------------


def damage(chance: random.Random, content: bytes, places: list[Place]) -> list[tuple[str, int, bytes]]:
    """Draw what is written where."""
    by_name = collections.defaultdict(list)
    for place in places:
        by_name[place.name].append(place)
    offsets = [place.at - STRUCTS["hb_extent"]["kind"][0] for place in by_name["hb_extent.kind"]]
    writes = []
    if chance.random() < FORGED:
        name = chance.choice(list(FORGERIES))
        return [(name, at, data) for _, at, data in FORGERIES[name](content, chance)]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.choice(by_name[chance.choice(list(by_name))])
        old = content[place.at : place.at + place.size]
        number = int.from_bytes(old, "little")
        other = chance.choice(by_name[place.name])
        words = [
            0, 1, 2**64 - 1, number + 1, number - 1, number ^ 1 << chance.randrange(64), number * 2, 1 << 61, 100,
            chance.choice(offsets), number ^ chance.randrange(16) << 60, chance.getrandbits(64), number + 1000,
            int.from_bytes(content[other.at : other.at + other.size], "little"),
        ]  # fmt: skip
        words.append(chance.choice(offsets))
        new = (chance.choice(words) % (1 << 8 * place.size)).to_bytes(place.size, "little")
        writes.append((place.name, place.at, new))
        if place.name == "hb_hold.state" and chance.random() < 0.5:  # another kind of state, with a value to it
            kind, value = chance.randrange(16), chance.choice((0, 1, 100, 5_000, 1 << 61, chance.choice(offsets)))
            state = (number & (1 << 60) - 1 | kind << 60).to_bytes(8, "little")
            writes[-1] = (place.name, place.at, state + value.to_bytes(8, "little"))
        if place.name == "hb_hold.link" and chance.random() < 0.5:  # a child's link to any other object
            state = struct.unpack_from("<Q", content, place.at - LINK_TO_STATE)[0]
            writes[-1] = ("child link", place.at, chance.choice(offsets).to_bytes(8, "little"))
            if state >> 60 != 8 and chance.random() < 0.5:
                funded = (state & (1 << 60) - 1 | 8 << 60).to_bytes(8, "little")
                writes.append(("made a child", place.at - LINK_TO_STATE, funded))
    return writes


# ---- use ------------------------------------------------------------------------------------------------------------


class Use:
    """Everything that can be asked of one damaged file."""

    def __init__(self, path: Path, chance: random.Random, spoil: Callable[[], None] | None) -> None:
        self.path, self.chance = path, chance
        self.errors: list[str] = []
        self.named = ""
        self.spoil = spoil

    def ask(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        try:
            return call(*arguments, **more)
        except ERRORS as error:
            self.errors.append(f"{getattr(call, '__name__', call)}: {error}")
        except ANSWERS:
            pass
        except ValueError as error:
            if not any(words in str(error) for words in ("must stay below 2**62", "amount must be", "packets must be")):
                raise
        return None

    def audit(self, engine: hbcore.Engine) -> None:
        try:
            engine.audit()
        except ERRORS as error:
            self.named = self.named or str(error)

    def run(self) -> str:
        try:
            engine = hbcore.Engine(self.path, readonly=self.chance.random() < 0.1)
        except ERRORS:
            return "refused"
        with engine:
            names = self.ask(engine.budgets) or []
            self.ask(engine.envelopes)
            root = self.ask(engine.budget, "root")
            known: list[Any] = [root]
            for names in (("middle",), ("middle", "leaf"), ("closed",)):
                budget = root
                for name in names:
                    budget = budget and self.ask(budget.budget, name)
                known.append(budget)
            budgets = [budget for budget in known if budget is not None]
            envelopes = [
                self.ask(budget.envelope, name) for budget in budgets for name in ("open envelope", "closed envelope")
            ]
            envelopes = [envelope for envelope in envelopes if envelope is not None]
            if self.spoil:
                self.spoil()
            if self.chance.random() < 0.5:
                self.audit(engine)
            try:
                self.use(engine, budgets, envelopes)
            except hbcore.ReadOnlyError:
                self.audit(engine)
                return "read only"
            handed = self.handed(budgets, envelopes)
            self.audit(engine)
        if handed > ROOT_TOTAL + ROOT_TOP_UP + 7 * len(budgets):
            return "named" if self.named else f"failure: {handed} handed out, and nothing is named; {self.errors[:3]}"
        return "named" if self.named else "error" if self.errors else "right"

    def use(self, engine: hbcore.Engine, budgets: list[hbcore.Budget], envelopes: list[hbcore.Envelope]) -> None:
        chance = self.chance
        for budget in chance.sample(budgets, len(budgets)):
            calls = [
                (budget.stats,), (budget.holds,), (lambda budget=budget: budget.total,), (budget.reserve, 3, 13),
                *((budget.find, key) for key in chance.sample(KEYS, 5)),
                *((budget.settle, key) for key in chance.sample(KEYS, 4)),
                *((budget.release, key) for key in chance.sample(KEYS, 4)),
                *((budget.reserve, key, 5) for key in chance.sample(NEW_KEYS, 3)),
                (budget.settle, "dead settle", 100), (budget.release, "dead release"),
                (budget.reserve_many, [3, 7], 17),
                (budget.top_up, "again", 7), (budget.top_up, "more", 300), (budget.budget, "new", 11),
                (budget.envelope, "new", 12, 3),
            ]  # fmt: skip
            for call in chance.sample(calls, len(calls)):
                self.ask(*call)
        for envelope in envelopes:
            calls = [
                (envelope.claim, 9), (envelope.claim, 17), (envelope.release, 2), (envelope.settle, 3),
                (envelope.stats,), (envelope.top_up, 0, 50, 5), (envelope.top_up, "again", 30, 3),
            ]  # fmt: skip
            for call in chance.sample(calls, len(calls)):
                self.ask(*call)
            if chance.random() < 0.3:
                self.ask(envelope.close)
        self.ask(engine.sweep)
        if chance.random() < 0.5:
            self.ask(chance.choice(budgets).close) if budgets else None
        for budget in budgets:
            for turn in range(3):  # to the last unit, as far as one can see
                if (stats := self.ask(budget.stats)) is not None and stats.available > 0:
                    self.ask(budget.reserve, f"rest {turn}", stats.available)

    def handed(self, budgets: list[hbcore.Budget], envelopes: list[hbcore.Envelope]) -> int:
        """Return how much money holders of keys and packets have by what they are told."""
        sum_ = 0
        for budget in budgets:
            for key in (*KEYS, *NEW_KEYS, *(f"rest {turn}" for turn in range(3))):
                hold = self.ask(budget.find, key)
                if hold is not None and hold.state is not State.RELEASED:
                    sum_ += hold.settled if hold.state is State.SETTLED else hold.amount
        for envelope in envelopes:
            for user in range(20):
                claim = self.ask(envelope.find, user)
                sum_ += claim.amount if claim is not None else 0
        return sum_


def examine(content: bytes, places: list[Place], folder: Path, seed: int, case: int) -> tuple[str, str]:
    """Damage a copy of the file and use it; return what came of it, and the damage."""
    chance = random.Random(f"{seed} {case}")
    writes = damage(chance, content, places) if case else []
    path = folder / f"case-{os.getpid()}.hb"

    def spoil() -> None:
        with open(path, "rb+", buffering=0) as file:
            for _, at, data in writes:
                os.pwrite(file.fileno(), data, at)

    path.write_bytes(content)
    is_open = chance.random() < 0.4
    if not is_open:
        spoil()
    try:
        use = Use(path, chance, spoil if is_open else None)
        outcome = use.run()
        if writes and writes[0][0] in FORGERIES and not use.named:
            outcome = f"failure: {writes[0][0]}, and the audit does not name it: {outcome}"
    except Exception:
        outcome = f"failure: {traceback.format_exc()}"
    path.unlink()
    return outcome, f"{'open, ' * is_open}{[(name, at, data.hex()) for name, at, data in writes]}"


def run_batch(content: bytes, places: list[Place], folder: Path, seed: int, cases: range, out: int) -> None:
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + MEMORY_LIMIT,) * 2)
    for case in cases:
        signal.alarm(HANG_S)
        outcome, what = examine(content, places, folder, seed, case)
        os.write(out, f"{case}\t{outcome}\t{what}".encode().replace(b"\n", b"\\n")[:4000] + b"\n")


def run_cases(content: bytes, places: list[Place], folder: Path, seed: int, cases: range) -> list[tuple[str, str, str]]:
    """Run cases in children: one that dies is one case that has failed."""
    results: list[tuple[str, str, str]] = []
    at = cases.start
    while at < cases.stop:
        read, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            status = 1
            try:
                run_batch(content, places, folder, seed, range(at, cases.stop), out)
                status = 0
            finally:
                os._exit(status)
        os.close(out)
        with os.fdopen(read, "rb") as pipe:
            for line in pipe:
                case, outcome, what = line.decode().rstrip("\n").split("\t", 2)
                results.append((case, outcome, what))
                at = int(case) + 1
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != 0:
            chance = random.Random(f"{seed} {at}")
            how = "hang" if code == -signal.SIGALRM else signal.Signals(-code).name if code < 0 else f"exit {code}"
            results.append((str(at), f"failure: {how}", str(damage(chance, content, places))))
            at += 1
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", metavar="CASE")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hostile-money-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        build(folder / "sound.hb")
        content = (folder / "sound.hb").read_bytes()
        places = places_of(content)
        wanted = [range(case, case + 1) for case in options.only] if options.only else [range(options.files)]
        results = [result for cases in wanted for result in run_cases(content, places, folder, options.seed, cases)]
    finally:
        shutil.rmtree(folder)
    counted = collections.Counter(outcome.partition(":")[0] for _, outcome, _ in results)
    fields = collections.Counter(place.name for place in places)
    print(f"fields: {len(fields)} kinds, {len(places)} places; files: {len(results)}")
    print(", ".join(f"{name} {count}" for name, count in counted.most_common()))
    for case, outcome, what in results:
        if outcome.startswith("failure"):
            print(f"case {case}: {outcome}\n    {what}")
    print(f"failures: {counted['failure']}")
    return int(counted["failure"] > 0)


if __name__ == "__main__":
    sys.exit(main())
