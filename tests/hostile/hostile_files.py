"""What hostile files are made of: sound engine files, a plain model of each, and where in them what stands.

This belongs to ``hostile.py``. The layout is read from ``format.h``; what that does not say (where the parts of an
envelope lie) stands in ``engine_files.py``, and is checked against what the engine has written.
"""

import collections
import ctypes
import itertools
import mmap
import os
import random
import re
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from engine_files import envelope_layout

import hbcore
from hbcore import reference
from hbcore.terms import LAWS, envelope_terms

CAPACITY = 1 << 26
HANG_S = 20  # no case takes a hundredth of it
TRACEME, SINGLESTEP = 0, 9  # requests of ptrace

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

# ---- the layout: the only part of this script that knows the format -----------------------------------------------

BUCKET_WORDS, FIRST_BUCKETS = 8, 512
FREE, HELD, GRANTED, SETTLED, RELEASING, REFUNDED = range(6)
GONE = 3  # in the upper two bits of an index word
SIZES = {"uint64_t": 8, "uint32_t": 4, "uint16_t": 2, "unsigned char": 1, "char": 1}


def parse_format(text: str) -> tuple[dict[str, int], dict[str, dict[str, tuple[int, int]]]]:
    """Return the constants of format.h and, for each struct, offset and size of each field; "" is the whole."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    constants = {name: int(value) for name, value in re.findall(r"\b(HB_\w+)\s*=?\s+(\d+)\b", text)}
    structs: dict[str, dict[str, tuple[int, int]]] = {}
    for name, body in re.findall(r"struct (hb_\w+) \{(.*?)\};", text, re.DOTALL):
        fields, at = {}, 0
        for kind, field, count in re.findall(r"(?:struct )?(unsigned char|\w+) (\w+)(?:\[(.+?)\])?;", body):
            unit = SIZES.get(kind) or structs[kind][""][1]
            at = -(-at // min(unit, 8)) * min(unit, 8)
            size = unit * (eval(count, {}, constants) if count else 1)
            fields[field] = (at, size)
            at += size
        structs[name] = {**fields, "": (0, at)}
    return constants, structs


def format_text() -> str:
    """Return the file format as one text: the terms of an envelope, a macro in a header of their own, are put in."""
    package = Path(hbcore.__file__).parent
    terms = (package / "_split" / "terms.h").read_text()
    fields = re.search(r"#define HB_TERMS_FIELDS(.*?\n)\n", terms, re.DOTALL)
    assert fields is not None
    text = (package / "_file" / "format.h").read_text()
    assert text.count("struct hb_terms terms;") == 1
    return text.replace("struct hb_terms terms;", fields[1].replace("\\\n", "\n"))


CONSTANTS, STRUCTS = parse_format(format_text())
UNIT, HEADER_SIZE = CONSTANTS["HB_UNIT"], CONSTANTS["HB_HEADER_SIZE"]
BOOT = slice(56, 72)  # the boot id in the header
WORKERS = range(HEADER_SIZE, HEADER_SIZE + CONSTANTS["HB_WORKER_LIMIT"] * UNIT, UNIT)
BUCKETS = range(WORKERS.stop, WORKERS.stop + FIRST_BUCKETS * UNIT, UNIT)
HEAD, SLOT = STRUCTS["hb_envelope"][""][1], STRUCTS["hb_slot"][""][1]


class Block(NamedTuple):
    """Bytes that mean the same: ``count`` pieces of ``size``, one every ``stride``."""

    start: int
    size: int
    count: int = 1
    stride: int = 0

    def place(self, number: int) -> int:
        return self.start + number // self.size * self.stride + number % self.size


class Layout:
    """Where what stands in a sound file: ``blocks`` by structure and field, ``noise``, and the ``boundaries``."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.blocks: dict[str, dict[str, list[Block]]] = {}
        self.noise = bytearray(len(content))  # the bits that mean nothing are set; see MEANINGLESS
        self.boundaries = [0, HEADER_SIZE, BUCKETS.start, BUCKETS.stop]
        self.leftovers: collections.Counter[str] = collections.Counter()
        self.slots: dict[str, int] = {}  # where the slots of an envelope begin
        self.marks: dict[str, range] = {}  # all that claims have marked: strata, free map, first table and slots
        self.tables: dict[str, tuple[slice, slice]] = {}  # the tables of the index; the second is empty if not made yet
        self.extents: dict[str, range] = {}
        self._fields("header", "hb_header", 0)
        for at in WORKERS:
            self._fields("worker", "hb_worker", at)
        for at in BUCKETS:
            self._add("directory", "used" if any(content[at : at + UNIT]) else "unused", Block(at, UNIT))
        at = BUCKETS.stop
        while state := self.word(at):
            self._extent(at, state)
            at += (state >> 28) * UNIT
            self.boundaries.append(at)
        self.end = at
        self._add("space", "next extent", Block(at, UNIT))
        self._add("space", "rest", Block(at + UNIT, min(len(content) - at - UNIT, 4096)))

    def word(self, at: int) -> int:
        return struct.unpack_from("<Q", self.content, at)[0]

    def field(self, name: str, field: str, at: int) -> int:
        start, size = STRUCTS[name][field]
        return int.from_bytes(self.content[at + start : at + start + size], "little")

    def had_worker(self, state: int) -> bool:
        """Whether the worker in the state word of a slot, number and epoch, is one that there ever was."""
        number, epoch = state & 0xFFF, state >> 12 & (1 << 30) - 1
        return number < len(WORKERS) and 0 < epoch <= self.field("hb_worker", "epoch", WORKERS[number])

    def _add(self, structure: str, field: str, block: Block) -> None:
        self.blocks.setdefault(structure, {}).setdefault(field, []).append(block)
        if f"{structure}.{re.sub('[0-9]+$', '', field)}" in MEANINGLESS:
            for i in range(block.count):
                at = block.start + i * block.stride
                self.noise[at : at + block.size] = b"\xff" * block.size

    def _fields(self, structure: str, name: str, at: int) -> None:
        for field, (start, size) in STRUCTS[name].items():
            if field and field not in ("extent", "hints"):
                self._add(structure, field, Block(at + start, size))

    def _extent(self, at: int, state: int) -> None:
        self._fields("extent", "hb_extent", at)
        size = (state >> 28) * UNIT
        if state & 15 == CONSTANTS["HB_PHASE_LIVE"]:
            self.noise[at] |= 0xF0  # the worker, bits 4 to 27 of the state, is for who finishes the making
            self.noise[at + 1 : at + 4] = b"\xff\xff\x0f"
        else:
            self.leftovers["MAKING"] += state & 15 == CONSTANTS["HB_PHASE_MAKING"]
        if self.field("hb_extent", "kind", at) == CONSTANTS["HB_KIND_DIRECTORY"]:
            self._add("directory", "level 1", Block(at + UNIT, size - UNIT))
        elif self.field("hb_extent", "kind", at) == CONSTANTS["HB_KIND_TABLE"]:
            self._add("index", "second table", Block(at + UNIT, size - UNIT))
        elif self.field("hb_envelope", "packets", at):
            self._envelope(at)
        else:
            self._add("space", "half made", Block(at + UNIT, size - UNIT))

    def _envelope(self, at: int) -> None:
        self._fields("envelope", "hb_envelope", at)
        packets = self.field("hb_envelope", "packets", at)
        name_length = self.field("hb_extent", "name_length", at)
        parts = envelope_layout(name_length, packets)
        place, table = at + parts.slots, slice(at + parts.table, at + parts.slots)
        self._fields("hints", "hb_hints", at + parts.hints)
        self._add("name", "name", Block(at + HEAD, name_length))
        self._add("strata", "strata", Block(at + parts.strata, 8 * reference.stratum_count(packets)))
        self._add("free_map", "free_map", Block(at + parts.free_map, 8 * parts.map_words))
        self._add("index", "index", Block(table.start, 8 * parts.table_words))
        self.boundaries += [at + HEAD, *(at + part for part in parts[:5])]
        assert at + parts.end <= at + (self.word(at) >> 28) * UNIT, "the layout of this script is wrong"
        name = self.content[at + HEAD : at + HEAD + name_length].decode()
        second = self.field("hb_envelope", "second_table", at) + UNIT
        self.slots[name] = place
        self.tables[name] = table, slice(second, second + 8 * parts.table_words) if second != UNIT else slice(0, 0)
        self.marks[name] = range(at + parts.strata, at + parts.end)
        self.extents[name] = range(at, at + (self.word(at) >> 28) * UNIT)
        for field, (start, size) in STRUCTS["hb_slot"].items():
            if field:
                self._add("slot", field, Block(place + start, size, packets, SLOT))
        if self.field("hb_envelope", "index_state", at) & 3:
            self.leftovers["index being replaced"] += 1
        for slot in range(place, place + SLOT * packets, SLOT):
            kind = self.word(slot) >> 61
            if kind in (HELD, RELEASING):
                self.leftovers["HELD" if kind == HELD else "RELEASING"] += 1
                continue
            self.noise[slot : slot + 8] = b"\xff" * 7 + b"\x1f"
            if kind == FREE:
                self.noise[slot + 8 : slot + 24] = b"\xff" * 16


# Damage that changes nothing but these may not even make an answer wrong. Further bits that mean nothing are set where
# the layout is read: the worker in the state of an extent; in the state word of a free slot and of a claim all but its
# kind, that is the generation (only compared with itself) and the time of the grant (for people); the user of a free
# slot, which whoever takes it overwrites.
MEANINGLESS = {
    "header.created_at_ms": "for people",
    "header.reserved": "never read, except that the check of the header may cover it",
    "header.boot_id": "another boot means that the index is made anew from the slots, which is always right",
    "header.frontier": "a hint; the chain of extents is the truth",
    "worker.pid": "for people; proves nothing",
    "worker.registered_at_ms": "for people",
    "worker.reserved": "never read",
    "extent.created_at_ms": "for people",
    "extent.reserved": "never read",
    "envelope.reserved": "never read",
    "hints.tombstones": "a hint when to replace an index",
}


def is_named(content: bytes, extent: int) -> bool:
    words = np.frombuffer(content[BUCKETS.start : BUCKETS.stop], np.uint64)
    return extent // UNIT in words & (1 << 36) - 1


def untold(layout: Layout, before: bytes, after: bytes) -> str:
    """Return how damage has made of a valid state another valid one, which nothing in the format could tell apart."""
    start, size = STRUCTS["hb_header"]["engine_id"]
    if before[start : start + size] != after[start : start + size]:
        return "it is the file of another engine"  # whose header carries a check
    for name, marks in layout.marks.items():
        extent = layout.extents[name].start
        if after[extent : extent + 8] != before[extent : extent + 8] or len(after) < marks.stop:
            continue  # there is no such envelope any more
        if before[extent] & 15 == CONSTANTS["HB_PHASE_MAKING"] and is_named(before, extent) > is_named(after, extent):
            return f"the making of {name!r} has not come so far"
        closed, index_state = (extent + STRUCTS["hb_envelope"][field][0] for field in ("closed", "index_state"))
        if any(before[closed : closed + 8]) != any(after[closed : closed + 8]):
            return f"{name!r} was closed, or opened again"
        slots = layout.slots[name]
        old, new = (np.frombuffer(c[slots : marks.stop], np.uint64)[:: SLOT // 8] for c in (before, after))
        pairs = set(zip((old >> 61).tolist(), (new >> 61).tolist(), strict=True))
        if {(HELD, SETTLED), (GRANTED, SETTLED), (SETTLED, GRANTED)} & pairs:
            return f"{name!r}: a claim was settled, or is settled no more"
        is_anew = before[BOOT] != after[BOOT]  # as after a reboot: the index is made anew from the slots
        if is_anew and any(new in (GRANTED, SETTLED) and old not in (GRANTED, SETTLED) for old, new in pairs):
            return f"{name!r}: a slot is a claim, and gets an index word"
        had_claims = any(kind in (HELD, GRANTED, SETTLED) for kind, _ in pairs)
        # What a death leaves before a claim is published, or after its word was buried, needs no index word either.
        if had_claims and {kind for _, kind in pairs} <= {FREE, HELD, RELEASING, REFUNDED}:
            generation = int.from_bytes(after[index_state : index_state + 8], "little") >> 2
            table = np.frombuffer(after[layout.tables[name][generation & 1]], np.uint64)
            if set(table.tolist()) <= {generation >> 1, GONE << 62 | generation << 1}:
                return f"{name!r} is as new"
        for was, word in zip(old.tolist(), new.tolist(), strict=True):
            is_taken = was >> 61 in (HELD, GRANTED, SETTLED) and word >> 61 in (HELD, RELEASING)
            if is_taken and was != word and layout.had_worker(word):
                return f"{name!r}: a claim is in the hands of a worker that has been"
    return ""


def went_back(layout: Layout, sound: bytes, before: bytes, after: bytes, writes: list[tuple[int, bytes]]) -> str:
    """Return what damage to an open file has made again what it was: an envelope with all its claims, or a claim.

    Calls may be under way: what was as at the opening just before may not be so when the damage comes.
    """
    for name, marks in layout.marks.items():
        start, size = STRUCTS["hb_envelope"]["index_state"]
        state = slice(layout.extents[name].start + start, layout.extents[name].start + start + size)
        generation = int.from_bytes(sound[state], "little") >> 2
        claims = [layout.tables[name][generation & 1], slice(layout.slots[name], marks.stop)]
        is_covered = all(
            any(at <= part.start and part.stop <= at + len(data) for at, data in writes) for part in claims
        )
        is_back = all(after[part] == sound[part] for part in [state, *claims])
        if is_back and (is_covered or any(before[part] != sound[part] for part in claims)):
            return f"{name!r} is again as it was when the file was opened"
        for slot in range(layout.slots[name], marks.stop, SLOT):
            is_written = any(at <= slot + 7 and slot < at + len(data) for at, data in writes)
            if is_written and {before[slot + 7] >> 5, after[slot + 7] >> 5} <= {GRANTED, SETTLED}:
                return f"{name!r}: a claim that is settled just now is not, or the other way"
    return ""


# ---- the sound files ----------------------------------------------------------------------------------------------


class Books:
    """What the model knows of one envelope: who holds what, and what is free."""

    def __init__(self, name: str, terms: dict[str, Any], is_closed: bool = False) -> None:
        self.name, self.terms = name, terms
        self.total, self.packets = terms["total"], terms["packets"]
        given = {key: value for key, value in terms.items() if key != "expires_at"}
        self.amounts = reference.split(**given).tolist()
        self.checked = envelope_terms(**terms)
        self.held: dict[Any, int] = {}
        self.settled: set[Any] = set()
        self.free = set(range(self.packets))
        self.is_refunded = is_closed
        self.is_closed = is_closed or "expires_at" in terms
        self.unknown: set[Any] = set()  # users about whom a call ended in an error
        self.is_exact = True  # no such error so far

    def copy(self) -> "Books":
        other = Books.__new__(Books)
        other.__dict__.update(self.__dict__, held=dict(self.held), settled=set(self.settled), free=set(self.free))
        other.unknown = set()
        return other

    def stats(self) -> tuple[int, ...]:
        settled = sum(self.amounts[self.held[user]] for user in self.settled)
        granted = sum(map(self.amounts.__getitem__, self.held.values())) - settled
        left = 0 if self.is_refunded else self.packets - len(self.held)
        amount_left = 0 if self.is_refunded else self.total - granted - settled
        counts = (self.packets, len(self.held) - len(self.settled), len(self.settled), left)
        return (*counts, self.total, granted, settled, amount_left)


class World(NamedTuple):
    """A sound file and its model."""

    name: str
    content: bytes
    key: bytes | None
    books: list[Books]
    hashes: dict[Any, bytes]
    layout: Layout


USERS = [*range(3000), *(f"user-{i}" for i in range(20))]
STRANGERS = range(10**15, 10**15 + 3000)


def some_terms(number: int, total: int, packets: int, law: str, **more: Any) -> dict[str, Any]:
    return {"total": total, "packets": packets, "law": law, "seed": random.Random(number).randbytes(32), **more}


NEW = Books("new", some_terms(99, 1000, 10, "double_mean"))


def build_small(engine: hbcore.Engine, path: Path) -> list[Books]:
    """Every state that an envelope can be in, in the space that a new file begins with."""
    mixed, churned, closed = (
        Books("mixed", some_terms(1, 4000, 40, "double_mean", min=2)),
        Books("churned", some_terms(2, 2400, 24, "dirichlet", concentration=1)),
        Books("closed", some_terms(3, 3000, 30, "double_mean"), is_closed=True),
    )
    one, sold_out, vast = (
        Books("one", some_terms(4, 7, 1, "equal")),
        Books("sold out", some_terms(5, 1234, 20, "equal", min=3, max=100)),
        Books("vast", some_terms(6, 2**44 + 1, 16, "dirichlet")),
    )
    untouched = Books("红" * 70, some_terms(7, 99_999, 33, "double_mean", max=4000))
    expired = Books("expired", some_terms(8, 100, 10, "equal", expires_at=10**9), is_closed=True)
    everything = [mixed, untouched, one, churned, sold_out, expired, vast, closed]
    made = {books.name: engine.envelope(books.name, **books.terms) for books in everything}
    made["mixed"].claim_many(USERS[-20:] + USERS[:10])
    made["closed"].claim_many(range(12))
    made["sold out"].claim_many(range(20))
    made["churned"].claim_many(range(14))
    made["one"].claim(0)
    made["vast"].claim_many(range(5))
    for user in (0, 2, "user-3", "user-5"):
        for envelope in made.values():
            envelope.settle(user)
    for user in (1, 4, "user-4", "user-9"):
        made["mixed"].release(user)
    for turn in range(60):  # a quarter of tombstones replaces an index
        made["churned"].claim(100 + turn)
        made["churned"].release(100 + turn)
    made["expired"].claim(0)  # who meets it first closes it
    made["closed"].close()
    made["closed"].release(7)
    return everything


def build_large(engine: hbcore.Engine, path: Path) -> list[Books]:
    """Several strata, indexes that were replaced, and a directory with a second level."""
    everything = [
        Books("equal", some_terms(11, 10**6, 1500, "equal")),
        Books("double mean", some_terms(12, 10**6, 2100, "double_mean", min=10, max=1000)),
        Books("dirichlet", some_terms(13, 10**7, 1030, "dirichlet")),
    ]
    for books, claims in zip(everything, (1400, 1000, 1030), strict=True):
        envelope = engine.envelope(books.name, **books.terms)
        for turn in range(3):
            envelope.claim_many(range(claims))
            for user in range(turn * 100, claims - 100):
                envelope.release(user)
        for user in range(claims - 50, claims, 2):
            envelope.settle(user)
        envelope.claim_many(range(claims // 2, claims))
    # Names that meet in one bucket of the first level; the hash of a name is that of ``directory.pyx``.
    key = path.read_bytes()[slice(*np.add(STRUCTS["hb_header"]["directory_key"], (0, 128)))][:16]
    crowd: dict[int, list[str]] = collections.defaultdict(list)
    for number in itertools.count():
        message = CONSTANTS["HB_KIND_ENVELOPE"].to_bytes(4, "little") + bytes(8) + f"n{number}".encode()
        low = int.from_bytes(reference.siphash128(key, message)[:8], "little")
        bucket = crowd[low * FIRST_BUCKETS >> 64]
        bucket.append(f"n{number}")
        if len(bucket) == BUCKET_WORDS + 2:
            break
    for number, name in enumerate(bucket):
        everything.append(Books(name, some_terms(20 + number, 10, 1 + number % 3, "double_mean")))
        engine.envelope(name, **everything[-1].terms).claim(number)
    return everything


def can_trace() -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(libc.ptrace(TRACEME, 0, None, None) != 0)
    return os.waitpid(pid, 0)[1] == 0


def die_in(path: Path, work: Callable[[hbcore.Engine], Callable[[], object]], is_time: Callable[[], object]) -> None:
    """Kill a process at the instruction of its work after which it ``is_time``: it is stepped through until then."""
    pid = os.fork()
    if pid == 0:
        try:
            with hbcore.Engine(path) as engine:
                operation = work(engine)
                libc.ptrace(TRACEME, 0, None, None)
                os.kill(os.getpid(), signal.SIGSTOP)
                operation()
        finally:
            os._exit(1)
    assert os.WIFSTOPPED(os.waitpid(pid, 0)[1])
    while not is_time():
        assert libc.ptrace(SINGLESTEP, pid, None, None) == 0
        assert os.WIFSTOPPED(os.waitpid(pid, 0)[1]), "the work was done before it was time to die"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def build_dead(engine: hbcore.Engine, path: Path) -> list[Books]:
    """What workers leave that were killed in the middle of a claim, a release, a replacement, a close and a making."""
    everything = [Books(f"dead {n}", some_terms(30 + n, 6000, 40, LAWS[n % 3]), is_closed=n == 3) for n in range(4)]
    envelopes = [engine.envelope(books.name, **books.terms) for books in everything]
    for envelope in envelopes:
        envelope.claim_many(range(20))
        for user in range(5):
            envelope.settle(user)
    for user in range(100, 119):  # 19 tombstones: with the 20th, an index of 80 words is replaced
        envelopes[2].claim(user)
        envelopes[2].release(user)
    if not can_trace():
        print("ptrace is not allowed here: no file with what the dead leave")
        return everything
    made = [Books(f"made {n}", some_terms(40 + n, 90, 9, "dirichlet")) for n in range(2)]
    layout = Layout(path.read_bytes())
    before = np.frombuffer(layout.content, np.uint64)
    with open(path, "rb") as file:
        now = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint64)

    def count(kind: int, number: int) -> int:
        marks, slots = layout.marks[f"dead {number}"], layout.slots[f"dead {number}"]
        return np.count_nonzero(now[slots // 8 : marks.stop // 8 : SLOT // 8] >> 61 == kind)

    def changed(start: int, stop: int) -> int:
        return np.count_nonzero(now[start // 8 : stop // 8] != before[start // 8 : stop // 8])

    def changed_index(number: int) -> int:
        return changed(layout.indexes[f"dead {number}"], layout.slots[f"dead {number}"])

    def make(books: Books) -> Callable[[hbcore.Engine], Callable[[], object]]:
        return lambda engine: lambda: engine.envelope(books.name, **books.terms)

    die_in(path, lambda e: partial(e.envelope("dead 0").claim, 60), lambda: count(HELD, 0) == 1)
    die_in(path, lambda e: partial(e.envelope("dead 0").claim, 61), lambda: count(HELD, 0) == 2 and changed_index(0))
    die_in(path, lambda e: partial(e.envelope("dead 1").release, 6), lambda: count(RELEASING, 1) == 1)
    die_in(path, lambda e: partial(e.envelope("dead 1").release, 7), lambda: changed_index(1))
    die_in(path, lambda e: partial(e.envelope("dead 2").release, 8), lambda: changed_index(2) > 40)
    die_in(path, lambda e: e.envelope("dead 3").close, lambda: count(REFUNDED, 3) == 3)
    die_in(path, make(made[0]), lambda: changed(layout.end, layout.end + UNIT))
    die_in(path, make(made[1]), lambda: changed(BUCKETS.start, BUCKETS.stop))
    return everything + made


BUILDERS: dict[str, tuple[bytes | None, Callable[[hbcore.Engine, Path], list[Books]]]] = {
    "small": (None, build_small),
    "large": (bytes(range(32)), build_large),
    "dead": (None, build_dead),
}


def build_world(name: str, folder: Path) -> World:
    """Make a sound file, and its model from what a copy of it says."""
    key, build = BUILDERS[name]
    path, copy = folder / f"{name}.hb", folder / "copy.hb"
    with hbcore.Engine(path, key=key, capacity=CAPACITY) as engine:
        everything = build(engine, path)
    content = path.read_bytes()
    copy.write_bytes(content)
    with hbcore.Engine(copy, key=key) as engine:
        engine.audit()
        hashes = {user: engine.user_hash(user) for user in [*USERS, *STRANGERS]}
        user_of = {hashes[user]: user for user in hashes}
        there = []
        for books in everything:  # what a maker had named before it died is there, also if nobody has looked yet
            with suppress(hbcore.NotFoundError):
                engine.envelope(books.name)
                there.append(books)
        assert [envelope.name for envelope in engine.envelopes()] == [books.name for books in there]
        for books in there:
            for packet, user, amount, state, _ in engine.envelope(books.name).claims().tolist():
                assert amount == books.amounts[packet]
                books.held[user_of[user]] = packet
                books.free.remove(packet)
                if state == SETTLED:
                    books.settled.add(user_of[user])
    copy.unlink()
    layout = Layout(content)
    for books in there:  # the layout is right: each user stands where it says
        for user, packet in books.held.items():
            at = layout.slots[books.name] + SLOT * packet + STRUCTS["hb_slot"]["user"][0]
            assert content[at : at + 16] == hashes[user], "the layout of this script is not that of the format"
    return World(name, content, key, there, hashes, layout)
