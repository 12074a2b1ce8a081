"""Files that are opened again: after a reboot, for reading only, from a sparse copy, with objects that were half made.

A reboot is made by what it leaves: a file whose boot id is another one, of which no process has anything open.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_files import FIRST_EXTENT, envelope_layout, overwrite, reboot, replace_index, word, write_word

import hbcore
from hbcore import Status

MAKING, LIVE, RETIRED = 1, 2, 3

# ---- reboot ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packets", [1, 3, 64, 5000])
@pytest.mark.parametrize("index", ["kept", "zeros", "rubbish"])
def test_after_a_reboot_the_index_is_made_anew_from_the_slots(path: Path, packets: int, index: str) -> None:
    before = a_third_released_and_a_third_settled(path, packets)
    reboot(path)
    if index != "kept":
        damage_index(path, packets, zeros=index == "zeros")
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("e")
        for user in range(packets):
            found = envelope.find(user)
            if user % 3 == 0:
                assert found is None
            else:
                assert (found.packet, found.amount) == (before[user]["packet"], before[user]["amount"])
        report = engine.audit()
        assert report.settled == len(range(1, packets, 3))
        free = len(range(0, packets, 3))
        late = envelope.claim_many(np.arange(10**6, 10**6 + free + 1))
        assert (late["status"][:free] == Status.GRANTED).all()
        assert late["status"][free] == Status.SOLD_OUT
        engine.audit()


def a_third_released_and_a_third_settled(path: Path, packets: int) -> np.ndarray:
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("e", packets * 10, packets)
        answers = envelope.claim_many(np.arange(packets))
        for user in range(0, packets, 3):
            envelope.release(user)
        for user in range(1, packets, 3):
            envelope.settle(user)
    return answers


def damage_index(path: Path, packets: int, zeros: bool) -> None:
    """Overwrite free map and index of the file's only envelope, whose name has one letter."""
    layout = envelope_layout(1, packets)
    size = layout.slots - layout.free_map
    overwrite(path, FIRST_EXTENT + layout.free_map, bytes(size) if zeros else np.random.default_rng(1).bytes(size))


def test_of_many_who_open_a_file_after_a_reboot_one_puts_it_right(path: Path) -> None:
    hbcore.Engine(path).envelope("e", 300_000, 100_000).claim_many(np.arange(50_000))
    reboot(path)
    program = """if 1:
        import sys, numpy as np, hbcore
        with hbcore.Engine(sys.argv[1]) as engine:
            envelope = engine.envelope("e")
            users = np.arange(100_000)
            print((envelope.claim_many(users)["status"] == hbcore.Status.GRANTED).sum())
    """
    children = [
        subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert sum(int(child.communicate()[0]) for child in children) == 50_000
    with hbcore.Engine(path) as engine:
        assert engine.audit().granted == 100_000


def test_a_file_with_living_workers_of_another_boot_is_refused(path: Path) -> None:
    engine = hbcore.Engine(path)
    reboot(path)
    with pytest.raises(hbcore.HbcoreError, match="in use by processes that were started under another boot"):
        hbcore.Engine(path)
    engine.close()
    del engine
    hbcore.Engine(path)


# ---- space that nobody finished -------------------------------------------------------------------------------------


def half_made(path: Path, dead_worker: int) -> int:
    """Leave what a maker leaves that dies before the name: an extent in phase MAKING. Return its offset."""
    with hbcore.Engine(path) as engine:
        engine.envelope("first", 10, 10)
        offset = FIRST_EXTENT + (word(path, FIRST_EXTENT) >> 28) * 64
        engine.envelope("half", 600, 300)
    state = word(path, offset)
    write_word(path, offset, state >> 28 << 28 | dead_worker << 4 | MAKING)
    for bucket in range(4096 + 1024 * 64, FIRST_EXTENT, 8):  # take the name out of the directory again
        if word(path, bucket) & ((1 << 36) - 1) == offset // 64:
            write_word(path, bucket, 0)
    return offset


def fill(engine: hbcore.Engine) -> None:
    for i in range(1000):
        engine.envelope(f"e{i}", 300, 290)


@pytest.mark.parametrize("dead_worker", [0x001000 | 1000, 0x123000 | 7, 0xFFFFFF])
def test_half_made_space_is_taken_over_when_space_is_short(path: Path, dead_worker: int) -> None:
    hbcore.Engine(path, capacity=1 << 20).close()
    offset = half_made(path, dead_worker)
    with hbcore.Engine(path) as engine:
        assert [envelope.name for envelope in engine.envelopes()] == ["first"]
        with pytest.raises(hbcore.EngineFullError):
            engine.envelope("too large", 10**6, 10**5)
        i = 0
        while word(path, offset) & 15 == MAKING:
            engine.envelope(f"e{i}", 300, 290)
            i += 1
        new = engine.envelopes()[1]
        assert (new.claim_many(np.arange(291))["status"] == [Status.GRANTED] * 290 + [Status.SOLD_OUT]).all()
        engine.audit()


def test_half_made_space_of_a_living_worker_is_left_alone(path: Path) -> None:
    hbcore.Engine(path, capacity=1 << 20).close()
    offset = half_made(path, 0)
    with hbcore.Engine(path) as engine:
        worker = next(worker for worker in engine.info().workers if worker.is_alive)
        write_word(path, offset, word(path, offset) | (worker.number | worker.epoch << 12 & 0xFFF000) << 4)
        with pytest.raises(hbcore.EngineFullError):
            fill(engine)
        assert word(path, offset) & 15 == MAKING


def test_a_reboot_decides_what_was_half_made(path: Path) -> None:
    offset = half_made(path, 0)
    reboot(path)
    with hbcore.Engine(path) as engine:
        assert word(path, offset) & 15 == RETIRED
        engine.envelope("half", 600, 300)
        engine.audit()


def end_of_the_chain(path: Path) -> int:
    """Make a file with one envelope, and return where its chain of extents ends."""
    with hbcore.Engine(path) as engine:
        engine.envelope("first", 10, 10)
        return engine.info().used


def test_after_a_reboot_a_chain_may_end_with_the_disk_space(path: Path) -> None:
    """A copy may be cut where an extent ends: nothing can be appended to it, and what is there is given out."""
    end = end_of_the_chain(path)
    write_word(path, end, (path.stat().st_size - end) // 64 << 28 | RETIRED)
    reboot(path)
    with hbcore.Engine(path) as engine:
        assert engine.envelope("first").claim("u").status is Status.GRANTED


def test_after_a_reboot_a_chain_that_goes_on_beyond_the_disk_space_is_damage(path: Path) -> None:
    end = end_of_the_chain(path)
    write_word(path, end, (path.stat().st_size - end) // 64 + 1 << 28 | RETIRED)
    reboot(path)
    with pytest.raises(hbcore.CorruptFileError, match=r"the chain of extents of .* is damaged at byte"):
        hbcore.Engine(path)


# ---- for reading only -----------------------------------------------------------------------------------------------


def filled(path: Path) -> None:
    with hbcore.Engine(path) as engine:
        envelope = engine.envelope("e", 5000, 500)
        envelope.claim_many(np.arange(400))
        for user in range(100):
            envelope.settle(user)
            envelope.release(399 - user)
        engine.envelope("closed", 100, 10).close()


def test_an_engine_for_reading_shows_everything_and_writes_nothing(path: Path) -> None:
    filled(path)
    content = path.read_bytes()
    with hbcore.Engine(path) as writing, hbcore.Engine(path, readonly=True) as engine:
        envelope, same = engine.envelope("e"), writing.envelope("e")
        assert envelope.stats() == same.stats()
        assert (envelope.claims() == same.claims()).all()
        assert envelope.find(7) == same.find(7)
        assert envelope.find(399) is None
        assert envelope.terms == same.terms
        assert engine.audit() == writing.audit()
        assert [e.name for e in engine.envelopes()] == ["e", "closed"]
        assert sum(worker.is_alive for worker in engine.info().workers) == 1, "a reader is no worker"
    with hbcore.Engine(path, readonly=True) as engine:
        engine.audit()
        engine.envelope("e").stats()
    changed = {i // 64 for i, (a, b) in enumerate(zip(content, path.read_bytes(), strict=True)) if a != b}
    assert changed <= {64, 65}, "only the writer's entry in the table of workers"


@pytest.mark.parametrize("call", ["claim", "claim_many", "settle", "release", "close", "make"])
def test_what_would_write_is_refused(path: Path, call: str) -> None:
    filled(path)
    content = path.read_bytes()
    with hbcore.Engine(path, readonly=True) as engine:
        envelope = engine.envelope("e")
        calls = {
            "claim": lambda: envelope.claim("new"),
            "claim_many": lambda: envelope.claim_many([1, 2]),
            "settle": lambda: envelope.settle(200),
            "release": lambda: envelope.release(200),
            "close": envelope.close,
            "make": lambda: engine.envelope("new", 10, 1),
        }
        with pytest.raises(hbcore.ReadOnlyError, match="was opened with readonly=True"):
            calls[call]()
    assert path.read_bytes() == content


def test_reading_needs_a_file_that_is_there(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hbcore.Engine(path, readonly=True)
    with pytest.raises(ValueError, match="readonly needs a path"):
        hbcore.Engine(readonly=True)
    os.mkfifo(path)
    with pytest.raises(hbcore.CorruptFileError, match="is not a regular file"):
        hbcore.Engine(path, readonly=True)


def test_a_reader_finds_claims_while_the_index_is_half_replaced(path: Path) -> None:
    """A worker dies in the middle of a replacement, and no writer comes to finish it."""
    filled(path)
    with hbcore.Engine(path) as engine:
        used = engine.info().used
        replace_index(engine.envelope("e"), 2_000)
        assert engine.info().used > used, "there is a second table"
    state = FIRST_EXTENT + 200
    write_word(path, state, word(path, state) | 1)
    with hbcore.Engine(path, readonly=True) as engine:
        envelope = engine.envelope("e")
        assert envelope.find(7).packet >= 0
        assert envelope.find(10**6) is None
        assert envelope.stats().granted + envelope.stats().settled == len(envelope.claims()) == 300
        engine.audit()
    assert word(path, state) & 3 == 1
    with hbcore.Engine(path) as engine:
        engine.audit()
    assert word(path, state) & 3 == 0


# ---- sparse copies --------------------------------------------------------------------------------------------------


def test_the_holes_of_a_sparse_copy_are_allocated_before_anything_is_granted(tmp_path: Path, path: Path) -> None:
    with hbcore.Engine(path) as engine:
        engine.envelope("e", 10**6, 10**5).claim("u")
    copy = tmp_path / "copy.hb"
    subprocess.run(["cp", "--sparse=always", path, copy], check=True)
    if os.stat(copy).st_blocks * 512 >= os.stat(copy).st_size:
        pytest.skip("this file system has no holes")
    with hbcore.Engine(copy) as engine:
        assert os.stat(copy).st_blocks * 512 >= os.stat(copy).st_size
        assert engine.envelope("e").find("u")


# ---- who may not become a worker ------------------------------------------------------------------------------------


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_child_that_gives_up_its_rights_is_told_what_to_do(path: Path) -> None:
    engine = hbcore.Engine(path)
    envelope = engine.envelope("e", 10, 10)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            envelope.claim("u")
        except PermissionError as error:
            os.write(write, f"{error.errno} {error}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    message = os.read(read, 10_000).decode()
    os.close(read)
    assert message.startswith(str(errno.EACCES))
    assert "a server that changes its user after the fork must give the file to that user" in message
    assert envelope.claim("u")
