"""Hostile files: real engine files are damaged in every way, and used through the whole API.

    python tests/hostile/hostile.py [--files 2000] [--every-byte] [--seed 1] [--processes 2] [--folder F] [--only CASE]

The long form is ``--every-byte --files 60000``: more than 100,000 files, of which the first 41,000 have one wrong byte
each, so that every byte of every structure has its turn.

A file is damaged before it is opened, for use or for reading only, or while it is open and at work. Accepted are
hbcore's errors, right answers, and wrong ones that the audit names; right is what a plain model says, and
``hbcore.reference`` gives the amounts. Each file ends as one of these:

- refused: it could not be opened.
- right, or "right, named": all answers were right, and the audit found nothing, or named the damage.
- error: a call said that something is damaged, and no answer was wrong.
- wrong, named: an answer was wrong, and the audit, asked at once or at the end, says why.
- FAIL amount: an amount that the law did not give to that packet, or more than the total.
- untold: a wrong answer that the audit does not name, because the damage has made a valid state of another
  (``hostile_files.untold`` says which these are: an open envelope closed, a granted packet settled, all marks of an
  envelope gone, or an open file's envelope as it was when that was opened): nothing in the file contradicts it.
  Counted and printed, and no failure.
- FAIL unnamed: any other wrong answer that the audit does not name.
- FAIL noise: a wrong answer after damage to bits that mean nothing (``hostile_files.MEANINGLESS``).
- FAIL sound: an undamaged file gave something else than right answers.
- FAIL exception, exit, hang, SIG...: another exception than hbcore's, or the process ended, hung or crashed.
- FAIL memory, disk, leak: too much was taken, or files stayed open.

Any failure makes the exit status 1. The sound files have random keys: with ``--folder`` they and what failed are kept,
and ``--only`` tries single cases of theirs again.
"""

import argparse
import collections
import faulthandler
import gc
import json
import os
import pickle
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))
from hostile_files import BUCKETS, BUILDERS, HANG_S, HEADER_SIZE, UNIT, WORKERS, World, build_world
from hostile_use import Damage, examine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

MEMORY_LIMIT = 256 << 20  # bytes of private memory that a process may add
BATCH = 64  # files for each forked process

# ---- damage -------------------------------------------------------------------------------------------------------


def some_place(chance: random.Random, world: World) -> tuple[str, int]:
    """Choose a structure, then a field, then one of its bytes, so that none is too small to be met."""
    structure = chance.choice(list(world.layout.blocks))
    fields = world.layout.blocks[structure]
    field = chance.choice(list(fields))
    block = chance.choice(fields[field])
    return f"{structure}.{field}", block.place(chance.randrange(block.size * block.count))


def damaged_byte(chance: random.Random, old: int) -> bytes:
    return bytes([old ^ (1 << chance.randrange(8) if chance.random() < 0.5 else chance.randrange(1, 256))])


def some_word(chance: random.Random, world: World, old: int) -> int:
    """Return what is likely to be taken for something: bounds, neighbours, and other words and offsets of the file."""
    boundary = chance.choice(world.layout.boundaries)
    other = world.layout.word(some_place(chance, world)[1] // 8 * 8)
    words = [0, 2**64 - 1, chance.randrange(70), 1 << chance.randrange(64), old + 1, old - 1, old ^ 1 << 63, other]
    words += [old ^ (1 << chance.randrange(64)), boundary, boundary // UNIT, old ^ other, chance.getrandbits(64)]
    return chance.choice(words) % 2**64


def damage_byte(chance: random.Random, world: World) -> Damage:
    place, at = some_place(chance, world)
    return Damage("byte", place, [(at, damaged_byte(chance, world.content[at]))])


def damage_word(chance: random.Random, world: World) -> Damage:
    place, at = some_place(chance, world)
    at = at // 8 * 8
    return Damage("word", place, [(at, some_word(chance, world, world.layout.word(at)).to_bytes(8, "little"))])


def damage_run(chance: random.Random, world: World) -> Damage:
    """A run of zeros, of ones, of rubbish, or of what stands elsewhere."""
    place, at = some_place(chance, world)
    length = min(int(2 ** chance.uniform(1, 13)), len(world.content) - at)
    kind = chance.choice(["zeros", "ones", "rubbish", "copied run"])
    if chance.random() < 0.5:
        at = at // UNIT * UNIT
    if kind == "copied run":
        start = some_place(chance, world)[1] // UNIT * UNIT + at % UNIT
        return Damage(kind, place, [(at, world.content[start : start + length])])
    data = chance.randbytes(length) if kind == "rubbish" else bytes(length)
    return Damage(kind, place, [(at, b"\xff" * length if kind == "ones" else data)])


def damage_several(chance: random.Random, world: World) -> Damage:
    parts = [chance.choice(LIVE[:3])(chance, world) for _ in range(chance.randrange(2, 5))]
    return Damage("several", "", [write for part in parts for write in part.writes])


def damage_swap(chance: random.Random, world: World) -> Damage:
    size = chance.choice([UNIT, 512, 4096, 4096])
    here, there = (some_place(chance, world)[1] // size * size for _ in range(2))
    writes = [(here, world.content[there : there + size]), (there, world.content[here : here + size])]
    return Damage("swapped pages", f"{size} bytes", writes)


def damage_size(chance: random.Random, world: World) -> Damage:
    """Cut the file, at a structure or anywhere, or append rubbish."""
    if chance.random() < 0.3:
        return Damage("appended", "", [(len(world.content), chance.randbytes(chance.randrange(1, 1 << 16)))])
    boundary = chance.choice(world.layout.boundaries) + chance.choice([-4096, -64, -8, -1, 0, 1, 8, 64, 4096])
    size = boundary if chance.random() < 0.7 else chance.randrange(len(world.content))
    return Damage("truncated", "", [], max(0, min(size, len(world.content))))


def damage_all(chance: random.Random, world: World) -> Damage:
    """A file of rubbish, with nothing, the magic, the version, the header, or all but the objects as it should be."""
    keep = chance.choice([0, 8, 12, 24, HEADER_SIZE, WORKERS.stop, BUCKETS.stop])
    size = chance.choice([chance.randrange(1 << 12), 1 << 17, chance.randrange(1 << 18)])
    rubbish = bytes(size) if chance.random() < 0.2 else chance.randbytes(size)
    return Damage("rubbish file", f"{keep} bytes kept", [(keep, rubbish[keep:])], max(size, keep))


def damage_splice(chance: random.Random, world: World) -> Damage:
    """The head of one file and the tail of another, or a part of another in the middle."""
    other = chance.choice([other for other in worlds.values() if other is not world or len(worlds) == 1])
    at, start = (chance.choice(w.layout.boundaries) // 8 * 8 for w in (world, other))
    if chance.random() < 0.5:
        start = at = at // 4096 * 4096
    length = chance.choice([UNIT, 4096, 1 << 20])
    return Damage("spliced", other.name, [(at, other.content[start : start + length])])


LIVE = [damage_byte, damage_word, damage_run, damage_several, damage_swap]
KINDS = [*LIVE[:3], *LIVE[:3], *LIVE, damage_size, damage_all, damage_splice]
worlds: dict[str, World] = {}


def swept_places(world: World) -> list[int]:
    """Return every byte of every structure in use, and some of the unused entries of tables."""
    used = [at for at in WORKERS if any(world.content[at : at + UNIT])]
    buckets = [at for at in BUCKETS if any(world.content[at : at + UNIT])]
    lines = [*used, *WORKERS[len(used) :][:2], *buckets, *BUCKETS[:2]]
    lines += [*range(0, HEADER_SIZE, UNIT), *range(BUCKETS.stop, world.layout.end + 2 * UNIT, UNIT)]
    return [at + i for at in lines for i in range(UNIT)]


# ---- running ------------------------------------------------------------------------------------------------------


MODES = {"closed": "", "open": ", open", "readonly": ", read-only"}


class Result(NamedTuple):
    case: str
    kind: str
    place: str
    outcome: str
    reason: str = ""


def plan(case: str, seed: int) -> tuple[World, Damage, str, random.Random]:
    """Return what is done in a case, and how the file is used: damaged before it is opened, or while it is open."""
    chance = random.Random(f"{seed} {case}")
    name, kind, offset = re.fullmatch(r"([a-z]*)([@<]?)(\d+)", case).groups()
    if kind == "@":
        old = worlds[name].content[int(offset)]
        return worlds[name], Damage("every byte", name, [(int(offset), damaged_byte(chance, old))]), "closed", chance
    if kind == "<":
        return worlds[name], Damage("truncated", name, [], int(offset)), "open", chance
    world = worlds[chance.choice([name for name in ("small", "small", "dead", "large") if name in worlds])]
    mode = chance.choice(["closed"] * 6 + ["open"] * 2 + ["readonly"])
    if chance.random() < 0.02:
        return world, Damage("none", "", []), mode, chance
    return world, chance.choice(LIVE if mode == "open" else KINDS)(chance, world), mode, chance


def run_batch(cases: list[str], seed: int, folder: Path, out: int) -> None:
    """Run in a process of its own; say what comes of each case as soon as it is known."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + MEMORY_LIMIT,) * 2)
    resident, files = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(os.listdir("/proc/self/fd"))
    for case in cases:
        world, damage, mode, chance = plan(case, seed)
        outcome, reason = examine(world, folder / f"{os.getpid()}.hb", damage, mode, chance)
        if (damage.kind == "none" and outcome != "right") or (mode == "open" and outcome == "refused"):
            outcome = "failure: sound"
        if case == cases[-1]:
            gc.collect()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident << 10
            if grown > MEMORY_LIMIT:
                outcome, reason = "failure: memory", f"the batch from {cases[0]} on takes {grown} bytes"
            if len(os.listdir("/proc/self/fd")) != files:
                outcome, reason = "failure: leak", f"the batch from {cases[0]} on leaves files open"
        result = Result(case, f"{damage.kind}{MODES[mode]}", damage.place, outcome, reason[:2000])
        os.write(out, json.dumps(result).encode() + b"\n")


class Child:
    """A forked process with a batch of cases."""

    def __init__(self, cases: list[str], seed: int, folder: Path) -> None:
        self.cases = collections.deque(cases)
        self.pipe, out = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                run_batch(cases, seed, folder, out)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(out)
        self.seed = seed
        self.rest = b""
        self.is_over = False
        self.deadline = time.monotonic() + HANG_S

    def read(self) -> list[Result]:
        """Return what has been said; at the end of the pipe, what the process died of."""
        data = os.read(self.pipe, 1 << 16)
        if not data:
            return self.end()
        self.deadline = time.monotonic() + HANG_S
        *lines, self.rest = (self.rest + data).split(b"\n")
        for _ in lines:
            self.cases.popleft()
        return [Result(*json.loads(line)) for line in lines]

    def check(self) -> list[Result]:
        """End a process that hangs; it prints where."""
        if time.monotonic() < self.deadline:
            return []
        os.kill(self.pid, signal.SIGABRT)
        return self.end("failure: hang")

    def end(self, outcome: str = "") -> list[Result]:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.pipe)
        self.is_over = True
        if not self.cases:
            return []
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        _, damage, mode, _ = plan(self.cases[0], self.seed)
        return [Result(self.cases.popleft(), damage.kind + MODES[mode], damage.place, outcome or f"failure: {how}")]


def run_all(cases: list[str], seed: int, folder: Path, processes: int) -> Iterator[Result]:
    """Run cases in forked processes, each of which may crash or hang alone."""
    waiting = collections.deque(cases[i : i + BATCH] for i in range(0, len(cases), BATCH))
    children: dict[int, Child] = {}
    while waiting or children:
        while waiting and len(children) < processes:
            child = Child(waiting.popleft(), seed, folder)
            children[child.pipe] = child
        ready = select.select(list(children), [], [], 1)[0]
        for pipe, child in list(children.items()):
            yield from child.read() if pipe in ready else child.check()
            if child.is_over:
                del children[pipe]
                if child.cases:
                    waiting.appendleft(list(child.cases))


def report(results: list[Result], seconds: float) -> None:
    """Print how many files of each kind of damage ended how."""
    outcomes = sorted({result.outcome for result in results}, key=lambda o: (o.startswith("failure"), o))
    by_kind = collections.Counter((result.kind, result.outcome) for result in results)
    by_place = collections.Counter(
        (result.place.partition(".")[0], result.outcome) for result in results if result.kind[:4] in ("byte", "word")
    )
    for title, counts in (("damage", by_kind), ("a byte or word of", by_place)):
        print(f"{title:26}", *(f"{outcome.replace('failure:', 'FAIL'):>14}" for outcome in outcomes))
        for row in sorted({row for row, _ in counts}):
            print(f"{row:26}", *(f"{counts[row, outcome]:14}" for outcome in outcomes))
    failures = [result for result in results if result.outcome.startswith("failure")]
    for result in failures[:40]:
        print(f"case {result.case} ({result.kind}, {result.place}): {result.outcome}: {result.reason}")
    print(f"files: {len(results)}")
    print(f"files a second: {len(results) / seconds:.0f}")
    print(f"untold: {sum(result.outcome == 'untold' for result in results)}")
    print(f"failures: {len(failures)}")


def prepare(folder: Path, names: list[str]) -> None:
    """Make the sound files, or take those that an earlier run has left in the folder."""
    kept = folder / "worlds.pickle"
    if kept.exists():
        worlds.update(pickle.loads(kept.read_bytes()))
    else:
        worlds.update((name, build_world(name, folder)) for name in names)
        kept.write_bytes(pickle.dumps(worlds))


def options_of(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="how many files with damage of any kind (2000)")
    parser.add_argument("--every-byte", action="store_true", help="and a file for each byte of every structure")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="keeps the sound files, the failures and why, and is used again")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="CASE",
        help="a number; WORLD@OFFSET: one wrong byte; WORLD<SIZE: cut while it is open, a SIGBUS by nature",
    )
    parser.add_argument("--worlds", nargs="+", choices=BUILDERS, default=list(BUILDERS), help="all if not given")
    return parser.parse_args(arguments)


def keep_failure(folder: Path, result: Result, seed: int) -> None:
    """Keep the damaged file, as it was before its use, and what came of it."""
    world, damage, mode, _ = plan(result.case, seed)
    name = re.sub(r"\W", "-", result.case)
    if mode != "open":
        (folder / f"failure-{name}.hb").write_bytes(damage.apply(world.content))
    (folder / f"failure-{name}.txt").write_text("\n".join(result) + "\n")


def main() -> int:
    options = options_of(sys.argv[1:])
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hostile-", dir=fast))
    folder.mkdir(exist_ok=True)
    try:
        prepare(folder, options.worlds)
        for world in worlds.values():
            leftovers = "".join(f", {count} {what}" for what, count in sorted(world.layout.leftovers.items()))
            print(f"sound file {world.name}: {world.layout.end} bytes, {len(world.books)} envelopes{leftovers}")
        print(f"seed: {options.seed}")
        cases = options.only or [str(number) for number in range(options.files)]
        if options.every_byte and not options.only:
            swept = [world for world in worlds.values() if world.name != "large"]
            cases = [f"{world.name}@{at}" for world in swept for at in swept_places(world)] + cases
        gc.freeze()
        began = time.monotonic()
        results = []
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            for result in progress.track(run_all(cases, options.seed, folder, options.processes), len(cases)):
                results.append(result)
                if options.folder and result.outcome.startswith("failure"):
                    keep_failure(folder, result, options.seed)
        report(results, time.monotonic() - began)
        return int(any(result.outcome.startswith("failure") for result in results))
    finally:
        if not options.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
