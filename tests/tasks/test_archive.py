"""Only the competition's zip is taken, whole."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import PermanentError
from tasks.support import archive
from tests.kaggle_server import zipped

GOOD = {"train": "label,pixel0\n1,2\n" * 50, "test": "pixel0\n2\n", "sample_submission": "a\n"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "digit-recognizer.zip"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_takes_the_three_files(path: Path, folder: Path) -> None:
    path.write_bytes(zipped(**GOOD))
    archive.extract(path, folder)
    assert {file.name for file in folder.iterdir()} == set(archive.MEMBERS)
    assert {file.stem: file.read_text() for file in folder.iterdir()} == GOOD


def make(path: Path, members: list[tuple[str, str]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in members:
            file.writestr(name, text)


WHOLE = [(f"{name}.csv", text) for name, text in GOOD.items()]


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        (WHOLE[1:], "train.csv 0 times"),
        ([], "train.csv 0 times"),
        ([*WHOLE, ("../train.csv", "x")], "leaves its folder"),
        ([*WHOLE, ("/etc/passwd", "x")], "leaves its folder"),
        ([*WHOLE, ("..\\train.csv", "x")], "leaves its folder"),
        ([*WHOLE, ("readme.txt", "x")], "is unexpected"),
        ([*WHOLE, ("folder/", "")], "is unexpected"),
        ([("digits/" + name, text) for name, text in WHOLE], "is unexpected"),
        ([("train.csv", "0" * 5_000_000), *WHOLE[1:]], "absurdly large"),
    ],
)
def test_refuses_what_is_not_the_competition(
    path: Path, folder: Path, members: list[tuple[str, str]], cause: str
) -> None:
    make(path, members)
    with pytest.raises(PermanentError, match=cause):
        archive.extract(path, folder)
    assert not list(folder.iterdir())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_refuses_a_file_that_is_there_twice(path: Path, folder: Path) -> None:
    make(path, [*WHOLE, WHOLE[0]])
    with pytest.raises(PermanentError, match="2 times"):
        archive.extract(path, folder)


def test_refuses_a_member_that_is_too_large(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 100)
    path.write_bytes(zipped(**GOOD))
    with pytest.raises(PermanentError, match="of 850 bytes, which is absurdly large"):
        archive.extract(path, folder)


def test_a_bomb_that_lies_about_its_size_is_cut_short(path: Path, folder: Path) -> None:
    make(path, [("train.csv", "0" * 5_000_000), *WHOLE[1:]])
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):  # both places that state the size
        struct.pack_into("<I", content, content.index(signature) + offset, 1000)
    path.write_bytes(content)
    with pytest.raises(archive.DamagedError):
        archive.extract(path, folder)
    assert not list(folder.iterdir())


def test_refuses_encrypted_members(path: Path, folder: Path) -> None:
    content = bytearray(zipped(**GOOD))
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        struct.pack_into("<H", content, content.index(signature) + offset, 1)
    path.write_bytes(content)
    with pytest.raises(PermanentError, match="encrypted"):
        archive.extract(path, folder)


def test_a_name_that_is_no_text_is_damaged(path: Path, folder: Path) -> None:
    make(path, [("träin.csv", ""), *WHOLE[1:]])
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    with pytest.raises(archive.DamagedError):
        archive.extract(path, folder)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\3\4", zipped(**GOOD)[:-30]])
def test_what_is_no_zip_is_damaged(path: Path, folder: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(archive.DamagedError, match="no whole zip"):
        archive.extract(path, folder)


@settings(deadline=None)
@given(st.integers(0, len(zipped(**GOOD)) - 1), st.integers(1, 255))
def test_an_altered_byte_never_alters_the_files(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    content = bytearray(zipped(**GOOD))
    content[position] ^= change
    (folder / "c.zip").write_bytes(content)
    try:
        archive.extract(folder / "c.zip", folder)
    except PermanentError:
        return
    assert {file.stem: file.read_text() for file in folder.glob("*.csv")} == GOOD


def test_memory_is_constant(path: Path, folder: Path) -> None:
    lines = "".join(f"{number * 7919 % 100_003},{number}\n" for number in range(400_000))
    path.write_bytes(zipped(**GOOD | {"train": lines}))
    del lines
    tracemalloc.start()
    archive.extract(path, folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (folder / "train.csv").stat().st_size > 4_000_000
    assert peak < 3_500_000
