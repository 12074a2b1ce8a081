"""Engines in files: shared by processes that know only the path, kept as they were, refused when they are damaged."""

import contextlib
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import RunPython, race_for_json

import hbcore
from hbcore import Status

SEED = bytes(range(32))
KEY = bytes(range(100, 132))
WORKERS = 4


def seen(engine: hbcore.Engine) -> list[Any]:
    """Everything that can be seen of an engine, in a form that JSON gives back unchanged."""
    return [
        [
            [
                envelope.name,
                [value.hex() if isinstance(value, bytes) else value for value in envelope.terms],
                [*envelope.stats()[:4], list(envelope.stats().amounts)],
                [
                    [row["user"].tobytes().hex(), str(row["granted_at"]), *map(int, row[["packet", "amount", "state"]])]
                    for row in envelope.claims()
                ],
            ]
            for envelope in engine.envelopes()
        ],
        list(engine.audit()),
        engine.user_hash("someone").hex(),
    ]


def furnish(engine: hbcore.Engine) -> None:
    """Make envelopes with claims in every state."""
    for number, law in enumerate(("equal", "double_mean", "dirichlet")):
        envelope = engine.envelope(f"envelope {number} 红包", 30_000, 3000 if number else 5, law, min=2, seed=SEED)
        envelope.claim_many([f"user-{i}" for i in range(1200 if number else 4)])
        envelope.claim_many(np.arange(10**15, 10**15 + 100))
        for i in range(0, 700, 2):
            envelope.release(f"user-{i}")
        for i in range(1, 100, 2):
            envelope.settle(f"user-{i}")
    envelope.close()


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
    show = "import json, hbcore, test_file; json.dump(test_file.seen(hbcore.Engine(sys.argv[1])), sys.stdout)"
    program = f"import sys; sys.path.insert(0, sys.argv[2]); {show}"
    assert json.loads(run_python(program, path, Path(__file__).parent).stdout) == before
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
        assert 63 * 10**5 < size < 64 * 10**5 + (2 << 20)
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


# ---- what is no engine ----------------------------------------------------------------------------------------------


def refuses(path: Path, error: type[Exception], words: str, **more: Any) -> None:
    """The file is refused in these words, and left as it was."""
    before, names = path.read_bytes(), os.listdir(path.parent)
    with pytest.raises(error, match=words):
        hbcore.Engine(path, **more)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == names


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"h", b"hbcore\n", bytes(4096), bytes(1 << 20), b"hello world\n" * 20_000]
)
def test_what_is_not_an_hbcore_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refuses(path, hbcore.CorruptFileError, "gala.hb' is not an hbcore file, or its beginning is damaged")


@pytest.mark.parametrize("size", [1, 7, 8, 100, 4095, 4096, 8192, 102_400, 131_071])
def test_a_truncated_file_is_refused(path: Path, size: int) -> None:
    hbcore.Engine(path).close()
    os.truncate(path, size)
    refuses(path, hbcore.CorruptFileError, "is truncated|is not an hbcore file")


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
def test_a_file_cut_short_in_the_middle_is_refused(path: Path, keep: float) -> None:
    with hbcore.Engine(path) as engine:
        furnish(engine)
        engine.envelope("large", 10**5, 10**5)
    os.truncate(path, int(path.stat().st_size * keep))
    refuses(path, hbcore.CorruptFileError, "is truncated or damaged")


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("version", [0, 1, 255, 2**32 - 1])
def test_another_version_is_refused(path: Path, version: int) -> None:
    hbcore.Engine(path).close()
    overwrite(path, 8, version.to_bytes(4, "little"))
    words = f"has version {version} of the format; this hbcore reads version 2$"
    refuses(path, hbcore.IncompatibleFileError, words)


def test_another_byte_order_is_refused(path: Path) -> None:
    hbcore.Engine(path).close()
    overwrite(path, 16, path.read_bytes()[16:24][::-1])
    refuses(path, hbcore.IncompatibleFileError, "was written on a machine of another byte order$")


@pytest.mark.parametrize("capacity", [0, 1, 2**20 - 1, 2**20 + 1, 2**42 + 4096, 2**64 - 4096])
def test_an_impossible_capacity_is_refused(path: Path, capacity: int) -> None:
    hbcore.Engine(path).close()
    overwrite(path, 24, capacity.to_bytes(8, "little"))
    refuses(path, hbcore.CorruptFileError, "has a damaged header$")


@pytest.mark.parametrize("offset", [*range(24, 56, 8), *range(72, 160, 8)])
def test_a_damaged_header_is_refused(path: Path, offset: int) -> None:
    hbcore.Engine(path).close()
    word = int.from_bytes(path.read_bytes()[offset : offset + 8], "little")
    overwrite(path, offset, (word ^ 1 << offset % 64).to_bytes(8, "little"))
    refuses(path, hbcore.CorruptFileError, "has a damaged header$")


def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.hb"
    for is_dangling in (True, False):
        link.symlink_to(path)
        with pytest.raises(ValueError, match=r"link.hb' is a symbolic link; name the file itself$"):
            hbcore.Engine(link)
        assert os.path.lexists(path) is not is_dangling, "a dangling link makes nothing"
        link.unlink()
        hbcore.Engine(path).close()


def test_a_link_to_the_folder_is_no_matter(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.symlink_to(tmp_path)
    with hbcore.Engine(folder / "gala.hb") as engine:
        assert engine.path == str(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        hbcore.Engine(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hbcore.Engine(tmp_path / "nowhere" / "gala.hb")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        hbcore.Engine(tmp_path / "file" / "gala.hb")
    with pytest.raises(hbcore.CorruptFileError, match="/dev/null"):
        hbcore.Engine("/dev/null")
    assert os.listdir(tmp_path) == ["file"]


def test_without_permission_there_is_an_error_and_no_file(run_python: RunPython) -> None:
    program = """if 1:
        import os, sys, hbcore
        if os.getuid() == 0:
            os.setuid(65534)
        for name in ("unreadable.hb", "readonly.hb", "folder/new.hb"):
            try:
                hbcore.Engine(f"{sys.argv[1]}/{name}")
            except PermissionError as error:
                print(name in str(error))
        with hbcore.Engine(f"{sys.argv[1]}/theirs.hb") as engine:
            print(engine.envelope("e", 10, 1).claim("u").status.name)
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        for name, mode in (("unreadable.hb", 0o000), ("readonly.hb", 0o444)):
            hbcore.Engine(f"{folder}/{name}").close()
            os.chmod(f"{folder}/{name}", mode)
        os.mkdir(f"{folder}/folder", 0o555)
        assert run_python(program, folder).stdout.split() == ["True"] * 3 + ["GRANTED"]
        assert os.listdir(f"{folder}/folder") == []


# ---- capacity and full disks ----------------------------------------------------------------------------------------


def test_another_capacity_is_a_conflict(path: Path) -> None:
    hbcore.Engine(path, capacity=2**20 + 1).close()
    refuses(path, hbcore.ConflictError, f"has a capacity of {2**20 + 65536} bytes, not {2**21}$", capacity=2**21)
    for same in (None, 2**20 + 1, 2**20 + 65536):
        hbcore.Engine(path, capacity=same).close()


def fill(engine: hbcore.Engine, packets: int) -> list[hbcore.Envelope]:
    """Make envelopes until the engine is full."""
    made = []
    for i in range(10_000):
        try:
            made.append(engine.envelope(f"e{i}", packets * 2, packets))
        except hbcore.EngineFullError as error:
            # No room for the next level of the directory is bad luck of this name; another may still go in.
            if not str(error).startswith(f"{64 + (4096 * 64)} bytes"):
                return made
    pytest.fail("it never was full")


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("packets", [1, 70, 1500, 10_000])
def test_a_full_engine_says_so_and_goes_on(path: Path, kind: str, packets: int) -> None:
    engine = hbcore.Engine(None if kind == "memory" else path, capacity=1 << 20)
    envelopes = fill(engine, packets)
    assert len(envelopes) * packets * 64 > 400_000 // (12 if packets == 1 else 1)
    for _ in range(2):
        with pytest.raises(
            hbcore.EngineFullError, match=r"more than what is left of the capacity of 1048576 bytes .* larger capacity$"
        ):
            engine.envelope("one too many", packets * 2, packets)
    with pytest.raises(hbcore.NotFoundError):
        engine.envelope("one too many")
    # One that found no room in the directory left its space to a later one.
    assert sorted(map(repr, engine.envelopes())) == sorted(map(repr, envelopes))
    assert [engine.envelope(envelope.name) for envelope in envelopes] == envelopes
    for envelope in envelopes:
        assert (envelope.claim_many(range(packets))["status"] == Status.GRANTED).all()
        assert envelope.claim("late").status is Status.SOLD_OUT
        envelope.release(0)
        assert envelope.claim("late").status is Status.GRANTED
    assert engine.audit()[:3] == (len(envelopes), len(envelopes) * packets, len(envelopes) * packets)
    if kind == "file":
        assert path.stat().st_size <= 1 << 20


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_what_does_not_fit_takes_nothing_from_what_does(path: Path, kind: str) -> None:
    engine = hbcore.Engine(None if kind == "memory" else path, capacity=1 << 20)
    for packets in (2**40 - 1, 2**34, 10**6, 15_100):
        with pytest.raises(hbcore.EngineFullError, match="bytes are more than what is left of the capacity"):
            engine.envelope("e", 2**41, packets)
    envelope = engine.envelope("e", 2**41, 15_000)
    assert (envelope.claim_many(range(15_000))["status"] == Status.GRANTED).all()


def check_full_disk(path: Path, spare: Callable[[], None]) -> None:
    """On a disk with room for one large envelope and no more; ``spare`` makes room for another."""
    engine = hbcore.Engine(path)
    envelope = engine.envelope("early", 20_000, 10_000)
    before = seen(engine)
    for _ in range(2):
        with pytest.raises(hbcore.EngineFullError, match=r"^no disk space for .* more bytes of the engine"):
            engine.envelope("late", 100_000, 25_000)
    with pytest.raises(hbcore.NotFoundError):
        engine.envelope("late")
    assert seen(engine) == before
    assert (envelope.claim_many(range(10_000))["status"] == Status.GRANTED).all()
    for user in range(6000):  # replaces the index: its other table has never been touched before
        envelope.release(user)
    assert (envelope.claim_many([f"u{i}" for i in range(6000)])["status"] == Status.GRANTED).all()
    engine.audit()
    spare()
    late = engine.envelope("late", 100_000, 25_000)
    assert (late.claim_many(range(25_000))["status"] == Status.GRANTED).all()
    assert engine.audit()[:3] == (2, 35_000, 35_000)


def test_a_limit_of_the_file_size_is_a_full_disk(path: Path) -> None:
    def work(number: int) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
        check_full_disk(path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        with pytest.raises(hbcore.EngineFullError, match=r"^no disk space for a new engine"):
            hbcore.Engine(path.with_name("another.hb"))

    race_for_json(work, workers=1)
    assert os.listdir(path.parent) == ["gala.hb"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk, and not everywhere")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_an_error_before_anything_is_granted(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1 << 20))
    check_full_disk(small_disk / "gala.hb", filler.unlink)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    names = os.listdir(small_disk)
    with pytest.raises(hbcore.EngineFullError, match=r"^no disk space for a new engine"):
        hbcore.Engine(small_disk / "another.hb")
    assert os.listdir(small_disk) == names


# ---- damage ---------------------------------------------------------------------------------------------------------


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


def test_a_damaged_file_gives_an_error_or_a_right_answer_and_never_a_crash(
    tmp_path: Path, run_python: RunPython
) -> None:
    with hbcore.Engine(tmp_path / "sound.hb", capacity=1 << 30) as engine:
        furnish(engine)
    program = "import sys; sys.path.insert(0, sys.argv[2]); import pathlib, test_file"
    run_python(f"{program}; test_file.use_many(pathlib.Path(sys.argv[1]), 0, 300)", tmp_path, Path(__file__).parent)
