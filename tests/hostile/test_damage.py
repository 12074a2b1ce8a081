"""Damage where the format is known: each word is made wrong by hand, and the engine must say so, or still be right.

Random damage is in ``test_file_damage.py``. The offsets are those of ``format.h``: one envelope with a name of one
letter.
"""

import gc
import os
import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from engine_files import FIRST_EXTENT, envelope_layout, replace_index

import hbcore
from hbcore import Status

FRONTIER = 256
CLOSED, INDEX_STATE, SECOND_TABLE = FIRST_EXTENT + 192, FIRST_EXTENT + 200, FIRST_EXTENT + 224
LAYOUT = envelope_layout(1, 64)
STRATA = FIRST_EXTENT + LAYOUT.strata
FREE_MAP = FIRST_EXTENT + LAYOUT.free_map
INDEX = FIRST_EXTENT + LAYOUT.table
SLOTS = FIRST_EXTENT + LAYOUT.slots


class Damaged:
    """A file engine with one envelope of 64 packets, and a way to write words into it while it is open."""

    def __init__(self, path: Path) -> None:
        self.engine = hbcore.Engine(path)
        self.envelope = self.engine.envelope("e", total=6400, packets=64)
        self.file = os.open(path, os.O_RDWR)

    def read(self, offset: int) -> int:
        return struct.unpack("<Q", os.pread(self.file, 8, offset))[0]

    def write(self, offset: int, word: int) -> None:
        os.pwrite(self.file, struct.pack("<Q", word), offset)


@pytest.fixture
def damaged(tmp_path: Path):
    made = Damaged(tmp_path / "e.hb")
    yield made
    os.close(made.file)


def test_the_offsets_are_right(damaged: Damaged) -> None:
    assert damaged.read(STRATA) == 0
    damaged.envelope.claim("a")
    assert damaged.read(STRATA) == 1
    assert sum(damaged.read(INDEX + 8 * i) >> 62 == 1 for i in range(LAYOUT.table_words)) == 1
    damaged.envelope.close()
    assert damaged.read(CLOSED) != 0


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_a_replacement_that_cannot_go_on_is_an_error_at_once(damaged: Damaged, phase: int) -> None:
    """Every word of a table is damaged and a replacement is said to be under way: nobody may try for ever."""
    damaged.envelope.claim("a")
    replace_index(damaged.envelope)
    for table in (INDEX, damaged.read(SECOND_TABLE) + 64):
        for i in range(LAYOUT.table_words):
            damaged.write(table + 8 * i, 2 << 62 | 0xFFFF_FFFF_FFFF)
    damaged.write(INDEX_STATE, 5 << 2 | phase)
    began = time.process_time()
    for call in (damaged.envelope.claim, damaged.envelope.find, damaged.envelope.settle, damaged.envelope.release):
        with pytest.raises(hbcore.CorruptFileError, match="'e'"):
            call("b")
    with pytest.raises(hbcore.CorruptFileError):
        damaged.envelope.claim_many(np.arange(100))
    assert time.process_time() - began < 30  # a million scans of the table would take minutes


def test_the_audit_finds_a_replacement_that_cannot_go_on(damaged: Damaged) -> None:
    """The slot that an index word names was wiped out: nobody can say where its entry belongs in the next table."""
    replace_index(damaged.envelope)
    claim = damaged.envelope.claim("a")
    for i in range(4):
        damaged.write(SLOTS + 32 * claim.packet + 8 * i, 0)
    damaged.write(INDEX_STATE, damaged.read(INDEX_STATE) | 1)
    with pytest.raises(hbcore.AuditError, match="replacement of its index cannot go on"):
        damaged.engine.audit()


def test_words_of_another_generation_are_an_error_at_once(damaged: Damaged) -> None:
    for i in range(LAYOUT.table_words):
        damaged.write(INDEX + 8 * i, 3 << 62 | 77 << 1)
    with pytest.raises(hbcore.CorruptFileError, match="'e'"):
        damaged.envelope.claim("b")


@pytest.mark.parametrize(
    "place", ["no table", "the envelope", "another's table", "the header", "beyond the end", "odd"]
)
def test_a_second_table_that_is_not_the_envelopes_is_an_error(damaged: Damaged, tmp_path: Path, place: str) -> None:
    other = damaged.engine.envelope("o", total=6400, packets=64)
    replace_index(damaged.envelope)
    damaged.envelope.claim("a")
    if damaged.read(INDEX_STATE) >> 2 & 1 == 0:
        damaged.write(INDEX_STATE, damaged.read(INDEX_STATE) + 4)
    first, second = damaged.read(SECOND_TABLE), damaged.engine.info().used
    replace_index(other)
    offsets = {"no table": 0, "the envelope": FIRST_EXTENT, "another's table": second, "the header": 0x40}
    damaged.write(SECOND_TABLE, {**offsets, "beyond the end": 1 << 40, "odd": first + 8}[place])
    with hbcore.Engine(tmp_path / "e.hb", readonly=True) as reader:  # whose view has not met the table yet
        with pytest.raises(hbcore.CorruptFileError, match="'e'"):
            reader.envelope("e").find("a")
        with pytest.raises(hbcore.AuditError, match=r"damaged|cannot go on"):
            reader.audit()
        assert reader.envelope("o").find("a") is None


def test_a_second_table_that_nobody_uses_yet_is_audited(damaged: Damaged, tmp_path: Path) -> None:
    damaged.envelope.claim("a")
    damaged.write(SECOND_TABLE, FIRST_EXTENT)
    assert damaged.envelope.find("a")
    with pytest.raises(hbcore.AuditError, match="damaged"):
        damaged.engine.audit()


def test_a_damaged_frontier_does_not_let_envelopes_overlap(damaged: Damaged, tmp_path: Path) -> None:
    answers = damaged.envelope.claim_many(np.arange(64))
    damaged.write(FRONTIER, FIRST_EXTENT + 1024)
    with hbcore.Engine(tmp_path / "e.hb") as other:
        second = other.envelope("f", total=100, packets=10)
        assert (second.claim_many(np.arange(10))["status"] == Status.GRANTED).all()
    again = damaged.envelope.claim_many(np.arange(64))
    assert (again["packet"] == answers["packet"]).all()
    assert damaged.engine.audit().granted == 74


def test_the_audit_finds_a_packet_that_the_free_map_hides(damaged: Damaged) -> None:
    damaged.envelope.claim("a")
    damaged.write(FREE_MAP, damaged.read(FREE_MAP) | 1)
    with pytest.raises(hbcore.AuditError, match="hides it from claims"):
        damaged.engine.audit()


def test_the_audit_finds_a_wrong_amount_and_a_foreign_index_word(damaged: Damaged) -> None:
    claim = damaged.envelope.claim("a")
    entries = [i for i in range(LAYOUT.table_words) if damaged.read(INDEX + 8 * i) >> 62 == 1]
    amount = SLOTS + 32 * claim.packet + 24
    word = damaged.read(amount)
    assert word & 0x1FFF == claim.amount, "the upper bits are a check"
    damaged.write(amount, word + 1)
    with pytest.raises(hbcore.AuditError, match=f"packet {claim.packet} holds {claim.amount + 1}"):
        damaged.engine.audit()
    for call in (damaged.envelope.claim, damaged.envelope.find, damaged.envelope.settle):
        with pytest.raises(hbcore.CorruptFileError, match="'e'"):
            call("a")
    with pytest.raises(hbcore.CorruptFileError, match="'e'"):
        damaged.envelope.claims()
    damaged.write(amount, word)
    assert damaged.envelope.find("a") == hbcore.Claim(Status.REPEATED, claim.amount, claim.packet)
    damaged.engine.audit()
    word = damaged.read(INDEX + 8 * entries[0])
    damaged.write(INDEX + 8 * ((entries[0] + 40) % LAYOUT.table_words), word + 1)
    with pytest.raises(hbcore.AuditError, match="index word"):
        damaged.engine.audit()


@pytest.mark.parametrize("kind", [1, 4])
def test_nothing_is_taken_from_a_worker_that_never_was(damaged: Damaged, kind: int) -> None:
    """One bit turns a settled packet into one that is held, another into one that is being released."""
    claim = damaged.envelope.claim("a")
    damaged.envelope.settle("a")
    slot = SLOTS + 32 * claim.packet
    damaged.write(slot, damaged.read(slot) & ~(7 << 61) | kind << 61)
    with pytest.raises(hbcore.AuditError, match=f"packet {claim.packet} is in the hands of a worker that never was"):
        damaged.engine.audit()
    if kind == 1:
        for call in (damaged.envelope.claim, damaged.envelope.find):
            with pytest.raises(hbcore.CorruptFileError):
                call("a")
    answers = damaged.envelope.claim_many(np.arange(100))
    assert claim.packet not in answers["packet"]


def test_a_stratum_whose_opener_died_is_sound_also_after_a_close(damaged: Damaged) -> None:
    """What a death between the stratum's word and its amounts leaves: an open stratum without amounts."""
    damaged.write(STRATA, 1)
    damaged.engine.audit()
    assert damaged.envelope.close() == 6400
    assert damaged.engine.audit().refunded == 64
    assert damaged.envelope.stats().amounts.remaining == 0


@pytest.mark.parametrize("word", [0, 1])
def test_a_key_whose_word_is_lost_is_not_granted_twice(damaged: Damaged, word: int) -> None:
    """A word of a budget's index becomes empty, or the end of a path, though others behind it are taken."""
    keys = [f"{i}" for i in range(30)]
    budget = damaged.engine.budget("b", 1_000)
    for key in keys:
        budget.reserve(key, 10)
    raw = os.pread(damaged.file, damaged.engine.info().used, 0)
    words = np.frombuffer(raw, np.uint64)
    # An entry: the highest bit, a tag, and the number of a hold. Eight words are a line, and are taken in turn.
    is_entry = (words >> np.uint64(63) == 1) & (words & np.uint64((1 << 36) - 1) < 64)
    taken = is_entry.reshape(-1, 8).sum(axis=1)
    line = int(np.argmax(taken))
    assert taken[line] >= 3
    assert is_entry[8 * line : 8 * line + 3].all()
    before = damaged.read(8 * (8 * line + 1))
    damaged.write(8 * (8 * line + 1), word)
    answers = []
    for key in keys:
        try:
            answers.append(budget.reserve(key, 10).status)
        except hbcore.CorruptFileError:
            answers.append(None)
    assert set(answers) == {Status.REPEATED, None}
    assert budget.stats().held == 300
    damaged.write(8 * (8 * line + 1), before)
    assert {budget.reserve(key, 10).status for key in keys} == {Status.REPEATED}


def test_an_engine_that_is_closed_while_a_user_is_read_grants_nothing(damaged: Damaged) -> None:
    class Closing:
        def __index__(self) -> int:
            damaged.engine.close()
            return 7

    with pytest.raises(hbcore.EngineClosedError):
        damaged.envelope.claim(Closing())
    with hbcore.Engine(damaged.engine.path) as again:
        assert again.audit().granted == 0


def test_an_array_that_lies_about_its_length_is_read_as_it_is(damaged: Damaged) -> None:
    class Lying(np.ndarray):
        def __len__(self) -> int:
            return 1_000_000

    users = np.arange(10).view(Lying)
    assert len(damaged.envelope.claim_many(users)) == 10


def test_handles_that_are_only_read_share_one_mapping(damaged: Damaged, tmp_path: Path) -> None:
    path = tmp_path / "e.hb"
    damaged.envelope.claim("u")

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(str(path))

    before = mappings()
    with hbcore.Engine(path, readonly=True) as engine:
        pickled = pickle.dumps(engine.envelope("e"))
        handles = [pickle.loads(pickled) for _ in range(20)]
        assert mappings() == before + 1
        assert all(handle.find("u") for handle in handles)
        with pytest.raises(hbcore.ReadOnlyError):
            handles[0].claim("v")
        assert damaged.envelope.claim("v"), "it is not the one that others write to"
    assert pickle.loads(pickled).find("v"), "of an engine that is closed: opened anew"
    del engine, handles
    assert [pickle.loads(pickled) for _ in range(2)] == [damaged.envelope] * 2
    gc.collect()
    assert mappings() == before


def test_a_pickled_envelope_is_never_that_of_another_file_at_its_path(damaged: Damaged, tmp_path: Path) -> None:
    pickled = pickle.dumps(damaged.envelope)
    damaged.envelope.claim("bob")
    os.unlink(tmp_path / "e.hb")
    with hbcore.Engine(tmp_path / "e.hb") as other:
        other.envelope("e", total=6400, packets=64)
        assert pickle.loads(pickled).find("bob"), "the engine that is still open is the right one"
        damaged.engine.close()
        with pytest.raises(hbcore.ConflictError, match="another engine"):
            pickle.loads(pickled)
