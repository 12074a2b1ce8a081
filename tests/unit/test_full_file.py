"""Capacity and full disks: an engine without space says so, takes nothing, and goes on."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import race_for_json
from engine_files import envelope_layout
from furnished import seen

import hbcore
from hbcore import Status


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
    for packets in (2**40 - 1, 2**34, 10**6, 20_000):
        with pytest.raises(hbcore.EngineFullError, match="bytes are more than what is left of the capacity"):
            engine.envelope("e", 2**41, packets)
    envelope = engine.envelope("e", 2**41, 19_800)
    assert (envelope.claim_many(range(19_800))["status"] == Status.GRANTED).all()


def left(engine: hbcore.Engine) -> int:
    """The bytes that are left for extents, whose end has room for the header of another."""
    return engine.info().capacity - engine.info().used - 64


def fill_up(engine: hbcore.Engine) -> None:
    """Make envelopes until not a line is left: one of two packets and a short name has 448 bytes."""

    def make(name: str, packets: int = 2) -> None:
        # A name that needs the next level of the directory fails, and others need none.
        with contextlib.suppress(hbcore.EngineFullError):
            engine.envelope(name, packets, packets)

    number = 0
    while left(engine) >= 896:
        make(f"{(number := number + 1)}")
    packets, size = (2, 448) if left(engine) < 704 else (8, 704)
    while left(engine) >= 64:
        make(f"{(number := number + 1)}".zfill(left(engine) - size + 48), packets)
    for number in range(1_000):  # what those names left that failed
        make(f"again {number}")


@pytest.mark.parametrize("packets", [1, 6, 10, 64, 65, 500])
@pytest.mark.parametrize("way", ["claim", "claim_many"])
@pytest.mark.parametrize("settle_within", [None, 60])
def test_an_index_without_space_for_its_second_table(packets: int, way: str, settle_within: int | None) -> None:
    """Claims and releases go on until no word of the first table is empty. Then claims say so, and nothing is lost."""
    engine = hbcore.Engine(capacity=1 << 20)
    envelope = engine.envelope("e", packets * 10, packets, hold_seconds=settle_within)
    stay = [envelope.claim(f"stays {i}") for i in range(packets // 2)]
    if stay:
        envelope.settle("stays 0")
    fill_up(engine)
    before = engine.audit()
    words = envelope_layout(1, packets).table_words

    def claim(user: str) -> bool:
        if way == "claim":
            return bool(envelope.claim(user))
        return bool((envelope.claim_many([user])["status"] == Status.GRANTED).all())

    for turn in range(words - len(stay)):
        assert claim(f"comes and goes {turn}")
        assert envelope.release(f"comes and goes {turn}")
    for _ in range(2):  # every word was used
        with pytest.raises(hbcore.EngineFullError, match="bytes are more than what is left of the capacity of 1048576"):
            claim("another")
        assert envelope.find("another") is None
        assert [envelope.find(f"stays {i}").packet for i in range(len(stay))] == [one.packet for one in stay]
    assert engine.audit() == before
    if len(stay) > 1:
        assert envelope.settle("stays 1")
    if len(stay) > 2:
        assert envelope.release("stays 2")
    engine.audit()
    assert envelope.stats().remaining == packets - len(stay) + (len(stay) > 2)
    envelope.close()
    assert envelope.claim("another").status is Status.CLOSED
    assert envelope.claim_many(["another"])["status"].tolist() == [Status.CLOSED]
    engine.audit()


def test_who_finds_nothing_left_is_told_so_though_there_is_no_space() -> None:
    engine = hbcore.Engine(capacity=1 << 20)
    envelope = engine.envelope("e", 60, 6)
    for i in range(2):
        assert envelope.claim(f"comes and goes {i}")
        assert envelope.release(f"comes and goes {i}")
    fill_up(engine)
    assert (envelope.claim_many(range(6))["status"] == Status.GRANTED).all()
    assert envelope_layout(1, 6).table_words == 8, "no word is empty"
    assert envelope.claim("another").status is Status.SOLD_OUT
    assert envelope.claim_many(["another", 0])["status"].tolist() == [Status.SOLD_OUT, Status.REPEATED]
    envelope.release(0)
    with pytest.raises(hbcore.EngineFullError):
        envelope.claim("another")
    engine.audit()


def check_full_disk(path: Path, spare: Callable[[], None]) -> None:
    """On a disk with room for one large envelope and no more; ``spare`` makes room for another."""
    engine = hbcore.Engine(path)
    envelope = engine.envelope("early", 20_000, 10_000)
    before = seen(engine)
    for _ in range(2):
        with pytest.raises(hbcore.EngineFullError, match=r"^no disk space for .* more bytes of the engine"):
            engine.envelope("late", 100_000, 40_000)
    with pytest.raises(hbcore.NotFoundError):
        engine.envelope("late")
    assert seen(engine) == before
    assert (envelope.claim_many(range(10_000))["status"] == Status.GRANTED).all()
    for user in range(6000):
        envelope.release(user)
    assert (envelope.claim_many([f"u{i}" for i in range(6000)])["status"] == Status.GRANTED).all()
    engine.audit()
    spare()
    late = engine.envelope("late", 100_000, 40_000)
    assert (late.claim_many(range(40_000))["status"] == Status.GRANTED).all()
    assert engine.audit()[:3] == (2, 50_000, 50_000)


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
