"""Hostile files in their short form, and whether ``hostile.py`` sees what it must.

The long form is ``python tests/hostile/hostile.py --every-byte --files 60000``; see there.
"""

import random
import subprocess
from pathlib import Path

import hostile_files
import pytest
from hostile_use import Damage, examine
from marks import full_but
from running import run_script, script_command

HERE = Path(__file__).parent
NOTHING = Damage("none", "", [])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> hostile_files.World:
    return hostile_files.build_world("small", tmp_path_factory.mktemp("hostile"))


def come_of(world: hostile_files.World, folder: Path, damage: Damage, mode: str = "closed") -> str:
    return examine(world, folder / "case.hb", damage, mode, random.Random(1))[0]


@pytest.mark.parametrize(
    ("files", "worlds"), [(100, ["small"]), pytest.param(1200, ["small", "large"], marks=pytest.mark.full)]
)
def test_hostile_files_give_an_error_a_right_answer_or_one_that_the_audit_names(files: int, worlds: list[str]) -> None:
    assert "failures: 0" in run_script(HERE / "hostile.py", "--files", files, "--worlds", *worlds)


def test_a_signal_is_seen() -> None:
    """A file that is cut short while it is open is a SIGBUS by nature: nothing else gives one on purpose."""
    # Not each of them is cut while there is still something to be done.
    cases = [f"small<{64 * i}" for i in range(16)]
    command = script_command(HERE / "hostile.py", "--worlds", "small", "--only", *cases)
    result = subprocess.run(**command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "failure: SIGBUS" in result.stdout


@pytest.mark.parametrize("mode", ["closed", "open", "readonly"])
def test_a_sound_file_gives_right_answers_only(world: hostile_files.World, tmp_path: Path, mode: str) -> None:
    assert come_of(world, tmp_path, NOTHING, mode) == "right"


def test_a_model_that_knows_otherwise_is_seen(world: hostile_files.World, tmp_path: Path) -> None:
    """What the engine says of the sound file is compared with a model in which one thing is different."""
    books = world.books[0].copy()
    others = [other for other in world.books if other.name != books.name]
    user, packet = books.held.popitem()
    assert come_of(world._replace(books=[books, *others]), tmp_path, NOTHING) == "failure: unnamed"
    books = world.books[0].copy()
    books.settled ^= {user}
    assert come_of(world._replace(books=[books, *others]), tmp_path, NOTHING) == "failure: unnamed"
    books = world.books[0].copy()
    books.amounts = [amount + (i == packet) for i, amount in enumerate(books.amounts)]
    assert come_of(world._replace(books=[books, *others]), tmp_path, NOTHING) == "failure: amount"
    assert come_of(world._replace(books=others), tmp_path, NOTHING) == "failure: unnamed"
    assert come_of(world, tmp_path, NOTHING) == "right"


def test_a_wrong_answer_that_the_audit_names_is_told_from_one_that_it_does_not(
    world: hostile_files.World, tmp_path: Path
) -> None:
    layout = world.layout
    sold_out, closed = layout.slots["sold out"], layout.extents["closed"].start
    no_claim = Damage(
        "zeros", "slot.state", [(sold_out + hostile_files.SLOT * packet, bytes(8)) for packet in range(20)]
    )
    assert come_of(world, tmp_path, no_claim) == "wrong, named"
    no_envelope = Damage("zeros", "extent", [(closed, bytes(64))])
    assert come_of(world, tmp_path, no_envelope) in ("wrong, named", "error")


def test_every_structure_of_the_format_is_damaged(world: hostile_files.World) -> None:
    structures = {"header", "worker", "directory", "extent", "envelope", "name", "hints", "strata", "free_map", "index"}
    assert structures | {"slot", "space"} == set(world.layout.blocks)
    assert "second table" in world.layout.blocks["index"]
    covered = bytearray(len(world.content))
    for fields in world.layout.blocks.values():
        for block in (block for blocks in fields.values() for block in blocks):
            for number in range(block.size * block.count):
                covered[block.place(number)] = 1
    padding = [at for at in range(world.layout.end) if not covered[at] and world.content[at]]
    assert padding == [], "bytes in use that no damage would meet"


@pytest.mark.parametrize("files", full_but([40, 500], 40))
def test_hostile_files_hand_out_no_money_that_the_audit_does_not_name(files: int) -> None:
    """The long form is ``python tests/hostile/hostile_money.py --files 20000``."""
    assert "failures: 0" in run_script(HERE / "hostile_money.py", "--files", files)
