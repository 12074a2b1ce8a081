"""Engines in files: shared by processes that know only the path, kept as they were, refused when they are damaged."""

import json
import os
import re
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import RunPython, race_for_json
from furnished import furnish, seen

import hbcore
from hbcore import Status

KEY = bytes(range(100, 132))
WORKERS = 4

# ---- making and opening ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o777, None])
def test_a_file_is_made_with_the_mode_that_was_asked_for(path: Path, mode: int | None) -> None:
    mask = os.umask(0)
    try:
        with hbcore.Engine(path, **({} if mode is None else {"mode": mode})):
            assert stat.S_IMODE(path.stat().st_mode) == (0o600 if mode is None else mode)
        with hbcore.Engine(path, mode=0o644):
            assert stat.S_IMODE(path.stat().st_mode) == (0o600 if mode is None else mode), "it was there already"
    finally:
        os.umask(mask)
    assert os.listdir(path.parent) == ["gala.hb"]


def test_the_umask_counts(path: Path) -> None:
    mask = os.umask(0o027)
    try:
        hbcore.Engine(path, mode=0o666).close()
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("form", [str, Path, os.fsencode, os.path.relpath])
def test_every_form_of_a_path_opens_the_same_file(path: Path, form: Callable[[Path], Any]) -> None:
    with hbcore.Engine(path) as engine, hbcore.Engine(form(path)) as same:
        engine.envelope("e", 10, 1).claim("u")
        assert same.envelope("e").find("u")
        assert same.path == engine.path == os.path.realpath(path)
        assert repr(same) == f"<Engine {engine.path!r}>"
    assert os.listdir(path.parent) == ["gala.hb"]


def test_a_name_that_is_not_unicode_is_a_name(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff.hb"
    hbcore.Engine(raw).close()
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff.hb"]


def test_another_process_finds_everything_as_it_was_left(path: Path, run_python: RunPython) -> None:
    with hbcore.Engine(path) as engine:
        furnish(engine)
        before = seen(engine)
    program = "import json, sys, hbcore, furnished; json.dump(furnished.seen(hbcore.Engine(sys.argv[1])), sys.stdout)"
    assert json.loads(run_python(program, path).stdout) == before
    with hbcore.Engine(path) as engine:
        assert seen(engine) == before


def test_processes_that_have_it_open_see_each_others_claims(path: Path, run_python: RunPython) -> None:
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("e", 100, 3)
        mine = envelope.claim("a")
        program = """if 1:
            import sys, hbcore
            engine = hbcore.Engine(sys.argv[1])
            envelope = engine.envelope("e")
            print(*(f"{claim.status.name} {claim.packet}" for claim in map(envelope.claim, "abb")))
            envelope.release("a")
            engine.envelope("theirs", 7, 1)
        """
        their_b = envelope_answers = run_python(program, path).stdout.split()
        assert envelope_answers[:2] == ["REPEATED", str(mine.packet)]
        assert envelope_answers[2:] == ["GRANTED", their_b[3], "REPEATED", their_b[3]]
        assert envelope.find("b").packet == int(their_b[3])
        assert envelope.find("a") is None
        assert engine.envelope("theirs").terms.total == 7


@pytest.mark.parametrize("huge_pages", [False, True])
@pytest.mark.parametrize("in_memory", [False, True])
def test_the_kernel_is_asked_for_huge_pages_where_they_are_wanted(
    path: Path, in_memory: bool, huge_pages: bool, run_python: RunPython
) -> None:
    program = """if 1:
        import sys, hbcore
        engine = hbcore.Engine(sys.argv[1] or None, huge_pages=bool(int(sys.argv[2])))
        assert engine.envelope("e", 3, 3).claim_many(range(4))["amount"].tolist() == [1, 1, 1, 0]
        with open("/proc/self/smaps") as smaps:
            _, _, rest = smaps.read().partition(sys.argv[1] or "memfd:hbcore")
        print("hg" in rest.partition("VmFlags:")[2].partition("\\n")[0].split())
    """
    assert run_python(program, "" if in_memory else path, int(huge_pages)).stdout.strip() == str(huge_pages)


def test_two_engines_of_one_process_share_a_file(path: Path) -> None:
    one, two = hbcore.Engine(path), hbcore.Engine(path)
    envelope = one.envelope("e", 10, 2)
    same = two.envelope("e", 10, 2)
    assert (envelope, hash(envelope)) == (same, hash(same))
    assert one.envelope("f", 10, 2) != same
    assert envelope.claim("a").packet == same.find("a").packet
    one.close()
    assert same.claim("b").status is Status.GRANTED, "the other one goes on"
    assert two.audit().granted == 2


def test_a_copy_of_a_file_is_another_engine(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("e", 10, 2)
    copy = shutil.copy(path, path.with_name("copy.hb"))
    with hbcore.Engine(path) as engine, hbcore.Engine(copy) as another:
        assert engine.envelope("e") == envelope
        assert another.envelope("e") != envelope
        another.envelope("e").claim("u")
        assert engine.audit().granted == 0


def test_the_file_is_let_go_when_nothing_holds_it(path: Path) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    engine = hbcore.Engine(path)
    envelope = engine.envelope("e", 10, 1)
    engine.close()
    del engine
    assert str(path) in Path("/proc/self/maps").read_text(), "an envelope holds its mapping"
    del envelope
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_file_that_is_removed_lives_on_for_those_who_have_it(path: Path) -> None:
    engine = hbcore.Engine(path)
    envelope = engine.envelope("e", 10, 2)
    path.unlink()
    assert envelope.claim("u")
    with hbcore.Engine(path) as another, pytest.raises(hbcore.NotFoundError):
        another.envelope("e")
    assert envelope.stats().granted == 1
    with pytest.raises(hbcore.AuditError, match="is not the file that this engine has open"):
        engine.audit()


def test_a_file_that_is_renamed_over_is_noticed(path: Path) -> None:
    engine = hbcore.Engine(path)
    assert not engine.info().is_replaced
    other = path.with_name("other.hb")
    hbcore.Engine(other).close()
    other.rename(path)
    assert engine.info().is_replaced
    with pytest.raises(hbcore.AuditError, match="is not the file that this engine has open"):
        engine.audit()


def test_a_file_that_is_truncated_while_it_is_open_is_noticed_by_the_audit(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        engine.envelope("e", 10**6, 10**5)
        os.truncate(path, 128 * 1024)
        with pytest.raises(hbcore.CorruptFileError, match="was truncated while it was open"):
            engine.audit()


def test_a_thread_starts_anew_in_every_engine_it_opens(path: Path, run_python: RunPython) -> None:
    """A service that opens the file for each request: what it remembers of one engine must not reach into another."""
    program = """if 1:
        import sys, hbcore
        hbcore.Engine(sys.argv[1]).envelope("large", 70_000, 70_000).claim_many(range(60_000))
        for i in range(200):
            claim = hbcore.Engine(sys.argv[1]).envelope("small", 1000, 100).claim(i)
            assert claim.status.name == ("GRANTED" if i < 100 else "SOLD_OUT"), (i, claim)
            assert claim.packet < 100, (i, claim)
        hbcore.Engine(sys.argv[1]).audit()
    """
    run_python(program, path)


def test_disk_is_taken_when_envelopes_are_made(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        assert path.stat().st_size <= 128 << 10
        envelope = engine.envelope("e", 10**6, 10**5)
        size = path.stat().st_size
        assert 47 * 10**5 < size < 48 * 10**5 + (2 << 20)
        assert path.stat().st_blocks * 512 >= size, "so that no claim can meet a full disk"
        envelope.claim_many(np.arange(10**5))
        assert path.stat().st_size == size


@pytest.mark.parametrize("kind", ["capacity", "disk"])
def test_a_file_grows_by_whole_grains(path: Path, kind: str) -> None:
    """ext4 zeroes the rest of the block in which a file ended when others have already seen that it is longer, and may
    have written there: two threads that took space lost it, or had the same. No file ends within a block.

    What is refused at the end is an envelope, less than a grain, but in two of a hundred engines the next level of the
    directory, 262,208 bytes: the names are hashed with a key of the file's own, which decides when a bucket is full.
    """
    sizes = set()
    limit = 32 << 20
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if kind == "disk":  # where the last growth is as small as can be
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with hbcore.Engine(path, capacity=limit - 1 if kind == "capacity" else None) as engine:
            refused = 0
            for i in range(10_000):
                try:
                    engine.envelope(f"e{i}", 10**6, 1 + 37 * i % 1000)
                except hbcore.EngineFullError as error:
                    refused = int(re.search(r"(\d+) (?:more )?bytes", str(error))[1])
                    break
                finally:
                    sizes.add(path.stat().st_size)
            for envelope in engine.envelopes():
                assert envelope.claim(7)
            engine.audit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(sizes) > 3
    assert {size % 65536 for size in sizes} == {0}
    assert limit - max(sizes) < refused, "there was room for what was refused"


def test_what_lies_beyond_the_last_whole_grain_is_not_used(path: Path) -> None:
    hbcore.Engine(path).close()
    os.truncate(path, 128 * 1024 + 60_000)  # as a growth leaves it that was cut off in the middle
    with hbcore.Engine(path) as engine:
        for i in range(200):
            assert engine.envelope(f"e{i}", 10, 10).claim("u")
            info = engine.info()
            assert info.used <= info.size - info.size % 65536
        assert info.size > 1 << 20
        assert engine.audit().granted == 200


@pytest.mark.full
def test_the_worker_table_is_full_when_1024_have_the_file_open(path: Path, run_python: RunPython) -> None:
    program = """if 1:
        import resource, sys, hbcore
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        engines = [hbcore.Engine(sys.argv[1], capacity=1 << 20) for _ in range(1024)]
        try:
            hbcore.Engine(sys.argv[1])
        except hbcore.EngineFullError as error:
            print(error)
        del engines[500]
        print(hbcore.Engine(sys.argv[1]).envelope("e", 10, 1).claim("u").status.name)
    """
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 3000:
        pytest.skip("this machine allows too few open files")
    assert run_python(program, path).stdout.splitlines() == [
        "all 1024 entries of the engine's worker table are held by living processes; close some",
        "GRANTED",
    ]


# ---- races ----------------------------------------------------------------------------------------------------------


def test_of_processes_that_make_one_file_at_once_one_wins_and_all_share_it(tmp_path: Path) -> None:
    rounds = 40

    def work(number: int) -> list[list[str]]:
        answers = []
        for round_number in range(rounds):
            engine = hbcore.Engine(tmp_path / f"{round_number}.hb")
            engine.envelope(f"of {number}", 10, 1).claim("u")
            answers.append([engine.user_hash("u").hex()])
        return answers

    answers = race_for_json(work, WORKERS)
    assert sorted(os.listdir(tmp_path)) == sorted(f"{round_number}.hb" for round_number in range(rounds))
    for round_number in range(rounds):
        with hbcore.Engine(tmp_path / f"{round_number}.hb") as engine:
            assert {envelope.name for envelope in engine.envelopes()} == {f"of {number}" for number in range(WORKERS)}
            assert [answer[round_number] for answer in answers] == [[engine.user_hash("u").hex()]] * WORKERS
            assert engine.audit().granted == WORKERS


def test_of_processes_that_make_one_envelope_at_once_one_wins_and_all_share_it(path: Path) -> None:
    names = [f"e{i}" for i in range(4000)]

    def work(number: int) -> list[list[Any]]:
        engine = hbcore.Engine(path)
        envelopes = [engine.envelope(name, 10_000, WORKERS, min=10) for name in names]
        claims = [envelope.claim(number) for envelope in envelopes]
        return [
            [envelope.terms.seed.hex(), claim.status.name, claim.packet]
            for envelope, claim in zip(envelopes, claims, strict=True)
        ]

    answers = race_for_json(work, WORKERS)
    for i, name in enumerate(names):
        seeds, statuses, packets = zip(*(answer[i] for answer in answers), strict=True)
        assert len(set(seeds)) == 1, f"{name} has been made twice"
        assert set(statuses) == {"GRANTED"}
        assert sorted(packets) == list(range(WORKERS))
    with hbcore.Engine(path) as engine:
        assert sorted(envelope.name for envelope in engine.envelopes()) == sorted(names)
        assert engine.audit().amount_granted == 10_000 * len(names)


def test_of_processes_that_make_one_envelope_with_other_terms_one_wins_and_the_others_are_told(path: Path) -> None:
    names = [f"e{i}" for i in range(1500)]

    def work(number: int) -> list[int]:
        engine = hbcore.Engine(path)
        totals = []
        for name in names:
            try:
                totals.append(engine.envelope(name, 1000 + number, 10).terms.total)
            except hbcore.ConflictError as error:
                conflict = str(error)
                winner = engine.envelope(name).terms.total
                assert conflict == f"envelope {name!r} exists with total = {winner}, not {1000 + number}"
                totals.append(-winner)
        return totals

    for totals in zip(*race_for_json(work, WORKERS), strict=True):
        winners = [total for total in totals if total > 0]
        assert len(winners) == 1
        assert totals == tuple(total if total > 0 else -winners[0] for total in totals)


def test_processes_claim_every_packet_of_a_file_exactly_once(path: Path) -> None:
    packets = 4000

    def work(number: int) -> list[list[int]]:
        envelope = hbcore.Engine(path).envelope("e", 10**6, packets)
        users = np.random.default_rng(number).permutation(packets + 100)
        return np.stack([users, *(envelope.claim_many(users)[field] for field in ("packet", "amount"))]).tolist()

    of_user: dict[int, tuple[int, int]] = {}
    for answers in race_for_json(work, WORKERS):
        for user, packet, amount in zip(*answers, strict=True):
            if packet >= 0:
                assert of_user.setdefault(user, (packet, amount)) == (packet, amount)
    assert sorted(packet for packet, _ in of_user.values()) == list(range(packets))
    assert sum(amount for _, amount in of_user.values()) == 10**6


# ---- keys and privacy -----------------------------------------------------------------------------------------------


def test_a_file_keeps_a_key_of_its_own_where_none_is_given(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        kept = engine.user_hash("u")
        packet = engine.envelope("e", 10, 2).claim("u").packet
    with hbcore.Engine(path) as engine:
        assert engine.user_hash("u") == kept
        assert engine.envelope("e").claim("u").packet == packet


def test_a_key_that_is_given_must_be_given_again(path: Path, run_python: RunPython) -> None:
    with hbcore.Engine(path, key=KEY) as engine:
        engine.envelope("e", 10, 2).claim("u")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^key must be given"):
        hbcore.Engine(path)
    for place in (0, 7, 15, 16, 31):
        wrong = bytearray(KEY)
        wrong[place] ^= 1
        with pytest.raises(ValueError, match=r"^key is not the one"):
            hbcore.Engine(path, key=bytes(wrong))
    assert path.read_bytes() == before
    program = (
        'import sys, hbcore; print(hbcore.Engine(sys.argv[1], key=bytes.fromhex(sys.argv[2])).envelope("e").find("u"))'
    )
    assert "REPEATED" in run_python(program, path, KEY.hex()).stdout


def test_a_wrong_key_is_refused_by_a_file_that_keeps_its_own(path: Path) -> None:
    hbcore.Engine(path).close()
    with pytest.raises(ValueError, match=r"^key is not the one"):
        hbcore.Engine(path, key=KEY)


def test_a_file_names_nobody(path: Path) -> None:
    """Neither the key nor any user stands in the file: not as text, not as a number, not under another known key."""
    texts = [f"{name}@example.com" for name in ("alice", "bob", "carol", "大卫")]
    numbers = [0x5EC2E75EC2E7 * i for i in range(1, 6)]
    with hbcore.Engine(path, key=KEY) as engine:
        for i in range(3):
            envelope = engine.envelope(f"e{i}", 1000, 100)
            envelope.claim_many(texts)
            envelope.claim_many(np.array(numbers))
            envelope.settle(texts[0])
            envelope.release(texts[1])
            envelope.find(texts[2])
    raw = path.read_bytes()
    assert engine.path == str(path)
    for half in (KEY, KEY[:16], KEY[16:], KEY[:8], KEY[-8:]):
        assert half not in raw
    for text in texts:
        assert text.encode() not in raw
        assert text.encode("utf-16-le") not in raw
    for number in numbers:
        assert number.to_bytes(8, "little") not in raw
        assert number.to_bytes(8, "big") not in raw
        assert str(number).encode() not in raw
    assert hbcore.Engine(key=bytes(32)).user_hash(texts[0]) not in raw
