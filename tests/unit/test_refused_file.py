"""What is no engine, or cannot be opened, is refused in words that say why, and left as it was."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from children import RunPython
from engine_files import overwrite
from furnished import furnish

import hbcore


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


@pytest.mark.parametrize("version", [0, 1, 2, 255, 2**32 - 1])
def test_another_version_is_refused(path: Path, version: int) -> None:
    hbcore.Engine(path).close()
    overwrite(path, 8, version.to_bytes(4, "little"))
    words = f"has version {version} of the format; this hbcore reads version 3$"
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


def test_another_capacity_is_a_conflict(path: Path) -> None:
    hbcore.Engine(path, capacity=2**20 + 1).close()
    refuses(path, hbcore.ConflictError, f"has a capacity of {2**20 + 65536} bytes, not {2**21}$", capacity=2**21)
    for same in (None, 2**20 + 1, 2**20 + 65536):
        hbcore.Engine(path, capacity=same).close()
