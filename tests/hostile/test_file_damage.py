"""Damage to files: the audit finds it, and a file that is damaged at random never makes a call crash or hang."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from children import RunPython
from engine_files import overwrite
from furnished import furnish

import hbcore

SEED = bytes(range(32))


def test_an_envelope_whose_name_is_damaged_is_not_made_again(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        engine.envelope("midnight", 100, 10).claim("u")
    place = path.read_bytes().index(b"midnight")
    overwrite(path, place, b"M")
    with hbcore.Engine(path) as engine:
        for terms in ({}, {"total": 100, "packets": 10}):
            with pytest.raises(hbcore.CorruptFileError, match="the way to 'midnight' leads to no object"):
                engine.envelope("midnight", **terms)


def test_the_audit_finds_what_was_changed_by_hand(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("e", 1000, 10, seed=SEED)
        claims = [envelope.claim(user) for user in range(5)]
        engine.audit()
    sound = path.read_bytes()
    user_hash = hbcore.Engine(path).user_hash(0)
    slot = sound.index(user_hash) - 8
    amount = int.from_bytes(sound[slot + 24 : slot + 32], "little")
    assert amount & 1023 == claims[0].amount, "the upper bits are a check"
    free = bytes([0x00])
    damages = {
        "packet 0 holds": (slot + 24, (amount ^ 1).to_bytes(8, "little")),
        "packet 0 is granted, but the index does not lead": (slot + 8, b"\xaa" * 16),
        "index word .* names packet 0": (slot + 7, free),
        "impossible state": (slot + 7, bytes([0xE0])),
        "is refunded, but the envelope is open": (slot + 7, bytes([0xA0])),
    }
    for words, (offset, data) in damages.items():
        path.write_bytes(sound)
        overwrite(path, offset, data)
        with hbcore.Engine(path) as engine, pytest.raises(hbcore.AuditError, match=f"^envelope 'e': .*{words}"):
            engine.audit()
    path.write_bytes(sound)
    with hbcore.Engine(path) as engine:
        engine.audit()


def places_of(content: bytes) -> list[np.ndarray]:
    """Where words stand that are in use: in the header, the directory, the heads of envelopes, and in all the rest."""
    in_use = np.flatnonzero(np.frombuffer(content, np.uint64)) * 8
    heads = [content.index(SEED) - 112]
    while (at := content.find(SEED, heads[-1] + 200)) >= 0:
        heads.append(at - 112)
    head_of = in_use - np.array([0, *heads])[np.searchsorted(heads, in_use, side="right")]
    is_head = (in_use >= heads[0]) & (head_of < 640)  # the terms, the name, the strata and the free map
    is_directory = (in_use >= 69_632) & (in_use < 102_400)
    is_header = in_use < 4096
    return [
        in_use[is_header],
        in_use[is_directory],
        in_use[is_head],
        np.arange(heads[1], heads[1] + 640, 8),
        in_use[~is_header & ~is_directory & ~is_head],
        np.arange(0, in_use[-1], 8),
    ]


def damage(content: bytearray, places: list[np.ndarray], random: np.random.Generator) -> str:
    """Change a bit, a byte, a word or a line; return what was done."""
    where = int(random.choice(places[random.integers(0, len(places))]))
    line = where // 64 * 64
    kind = random.choice(["bit", "byte", "word", "zero", "zeros", "ones", "copy", "swap"])
    if kind == "bit":
        content[where + random.integers(0, 8)] ^= 1 << int(random.integers(0, 8))
    elif kind == "byte":
        content[where + random.integers(0, 8)] = int(random.integers(0, 256))
    elif kind in ("word", "zero"):
        content[where : where + 8] = random.bytes(8) if kind == "word" else bytes(8)
    elif kind in ("zeros", "ones"):
        content[line : line + 64] = bytes(64) if kind == "zeros" else b"\xff" * 64
    else:
        other = int(random.choice(places[random.integers(0, len(places))])) // 64 * 64
        here, there = content[line : line + 64], content[other : other + 64]
        content[line : line + 64] = there
        if kind == "swap":
            content[other : other + 64] = here
    return f"{kind} at {where}"


def use(path: Path) -> None:
    """Use a damaged file in every way: only errors of hbcore's own, and no answer that contradicts itself."""
    errors = (hbcore.HbcoreError, ValueError, MemoryError, OSError)
    with contextlib.suppress(*errors), hbcore.Engine(path) as engine:
        with contextlib.suppress(*errors):
            engine.audit()
        with contextlib.suppress(*errors):
            engine.envelopes()
        for number in range(3):
            with contextlib.suppress(*errors):
                use_envelope(engine.envelope(f"envelope {number} 红包"))
        with contextlib.suppress(*errors):
            assert engine.envelope("new", 100, 10).claim_many(range(10))["amount"].sum() <= 100
        with contextlib.suppress(*errors):
            report = engine.audit()
            assert report.amount_granted + report.amount_settled <= report.amount_total


def use_envelope(envelope: hbcore.Envelope) -> None:
    terms = envelope.terms
    holder: dict[int, object] = {}
    calls: list[Callable[[], object]] = [envelope.stats, envelope.claims, lambda: envelope.claim_many(np.arange(50))]
    for user in [*(f"user-{i}" for i in (0, 1, 2, 3, 4, 5, 701, 702, 1199)), 10**15, *(f"new-{i}" for i in range(8))]:
        calls += [lambda user=user: (user, envelope.find(user)), lambda user=user: (user, envelope.claim(user))]
    calls += [lambda: envelope.settle("new-1"), lambda: envelope.release("new-2"), lambda: envelope.release("user-701")]
    calls += [envelope.close, lambda: envelope.claim("later"), envelope.stats, envelope.claims]
    for call in calls:
        with contextlib.suppress(hbcore.HbcoreError, MemoryError):
            answer = call()
            if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], hbcore.Claim) and answer[1]:
                user, claim = answer
                assert 0 <= claim.packet < terms.packets
                assert terms.min <= claim.amount <= terms.max
                assert holder.setdefault(claim.packet, user) == user, "a packet was given to two users"


def use_many(folder: Path, first: int, count: int) -> None:
    """Run in a process of its own: each damaged file is used in a forked child, which may crash or hang alone."""
    import signal

    sound = (folder / "sound.hb").read_bytes()
    places = places_of(sound)
    for case in range(first, first + count):
        random = np.random.default_rng(case)
        content = bytearray(sound)
        done = [damage(content, places, random) for _ in range(random.integers(1, 4))]
        path = folder / f"{case}.hb"
        path.write_bytes(content)
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)  # kills a child that hangs
            try:
                use(path)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        path.unlink()
        if code != 0:
            sys.exit(f"case {case} ({', '.join(done)}) ended with {code}")


@pytest.mark.parametrize(("first", "count"), [(0, 30), pytest.param(30, 270, marks=pytest.mark.full)])
def test_a_damaged_file_gives_an_error_or_a_right_answer_and_never_a_crash(
    tmp_path: Path, run_python: RunPython, first: int, count: int
) -> None:
    with hbcore.Engine(tmp_path / "sound.hb", capacity=1 << 30) as engine:
        furnish(engine)
    program = "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; import test_file_damage as test"
    run_python(f"{program}; test.use_many(Path(sys.argv[1]), {first}, {count})", tmp_path, Path(__file__).parent)
