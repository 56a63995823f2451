from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import digits
from model.errors import PermanentError

properties = settings(deadline=None, max_examples=50)

ROWS = digits.BLOCK_ROWS + 12
BAD_CELLS = ["", " ", "x", "NaN", "nan", "1.0", "-1", "+1", "256", "999", "0256", "1000", "1e2"]
BAD_CELLS += ['"7"', " 7", "7 ", "0x1", "\u0663", "\u00b2", "\0", "9" * 5000]


def images_of(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random images, half of their pixels black and some white."""
    drawn = np.random.default_rng(seed).integers(-255, 300, (count, 28, 28, 1))
    return drawn.clip(0, 255).astype(np.uint8)


def labels_of(count: int) -> NDArray[np.uint8]:
    return (np.arange(count) % 10).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the examples of a property may share."""
    return tmp_path_factory.mktemp("digits")


CELLS = np.column_stack([labels_of(ROWS), images_of(ROWS).reshape(ROWS, -1)]).tolist()
HEADER = ["label", *(f"pixel{i}" for i in range(784))]
TRAIN = [",".join(map(str, row)) for row in (HEADER, *CELLS)]  # the lines of good files
TEST = [",".join(map(str, row[1:])) for row in (HEADER, *CELLS)]


def error_of(read: Callable[[Path], object], path: Path, content: str | bytes | list[str]) -> str:
    """The message with which a file of that content is refused."""
    if isinstance(content, list):
        content = "\n".join([*content, ""])
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(PermanentError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.remedy
    return str(caught.value)


def changed(lines: list[str], row: int, change: Callable[[list[str]], list[str]]) -> list[str]:
    """The lines with the cells of one row (0 is the header) changed."""
    return [*lines[:row], ",".join(change(lines[row].split(","))), *lines[row + 1 :]]


def with_cell(lines: list[str], row: int, column: int, text: str) -> list[str]:
    return changed(lines, row, lambda cells: [*cells[:column], text, *cells[column + 1 :]])


# Good files


@properties
@given(count=st.integers(10, ROWS), seed=st.integers(0, 99))
@example(count=digits.BLOCK_ROWS, seed=0)
@example(count=2 * digits.BLOCK_ROWS + 1, seed=0)
def test_train_is_read_as_written(folder: Path, count: int, seed: int) -> None:
    path = folder / "train.csv"
    digits.write_train(path, images_of(count, seed), labels_of(count))
    images, labels = digits.read_train(path)
    assert images.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(images, images_of(count, seed), strict=True)
    np.testing.assert_array_equal(labels, labels_of(count), strict=True)


@properties
@given(count=st.integers(1, 60), chunk=st.integers(1, 70))
def test_test_is_read_as_written_in_chunks_of_any_size(
    folder: Path, count: int, chunk: int
) -> None:
    path = folder / "test.csv"
    digits.write_test(path, images_of(count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "BLOCK_ROWS", chunk)
        chunks = list(digits.iterate_test(path))
    assert [len(part) for part in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    np.testing.assert_array_equal(np.concatenate(chunks), images_of(count), strict=True)


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["", "byte order mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("end", ["", "\n"], ids=["open end", "last newline"])
def test_any_way_to_write_lines_is_read(tmp_path: Path, start: str, newline: str, end: str) -> None:
    path = tmp_path / "test.csv"
    path.write_bytes((start + newline.join(TEST) + end.replace("\n", newline)).encode())
    np.testing.assert_array_equal(all_of(path), images_of(ROWS))


def test_every_value_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    values = np.arange(256, dtype=np.uint8)
    images = np.resize(values, (10, 28, 28, 1))
    digits.write_train(path, images, labels_of(10))
    frame = pd.read_csv(path)
    read, labels = digits.read_train(path)
    np.testing.assert_array_equal(read.reshape(10, -1), frame.drop(columns="label"))
    np.testing.assert_array_equal(labels, frame["label"])
    assert set(read.flat) == set(values)


def test_leading_zeros_count_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("\n".join(with_cell(with_cell(TEST, 1, 0, "007"), 1, 1, "00")))
    assert all_of(path)[0].ravel()[:2].tolist() == [7, 0]


def all_of(path: Path) -> NDArray[np.uint8]:
    return np.concatenate(list(digits.iterate_test(path)))


def drain(path: Path) -> None:
    for _ in digits.iterate_test(path):
        pass


def test_memory_is_the_result_and_a_few_blocks(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"

    def peak(read: Callable[[Path], object]) -> int:
        tracemalloc.start()
        read(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    digits.write_test(path, images_of(300))
    a_few_blocks = 1.1 * peak(drain)
    digits.write_test(path, images_of(1500))
    assert peak(drain) < a_few_blocks
    digits.write_train(path, images_of(1500), labels_of(1500))
    assert peak(digits.read_train) < 1.5 * 1500 * 784 + a_few_blocks


# Bad cells and rows


@properties
@given(row=st.integers(1, ROWS), column=st.integers(0, 784), text=st.sampled_from(BAD_CELLS))
@example(row=1, column=0, text="")
@example(row=1, column=0, text="10")
@example(row=2, column=5, text="1000")
@example(row=ROWS, column=784, text="256")
@example(row=ROWS, column=784, text="")
@example(row=digits.BLOCK_ROWS + 1, column=1, text="NaN")
def test_a_bad_cell_is_named(folder: Path, row: int, column: int, text: str) -> None:
    message = error_of(digits.read_train, folder / "bad.csv", with_cell(TRAIN, row, column, text))
    name = HEADER[column]
    highest = 9 if name == "label" else 255
    assert f"bad.csv, row {row} (line {row + 1}), column {name}: " in message
    assert f"a whole number from 0 to {highest}" in message
    assert (repr(text) if text else "an empty cell") in message or len(text) > 20
    assert len(message) < 300 + len(str(folder))


@properties
@given(row=st.integers(1, ROWS), column=st.integers(0, 783), extra=st.integers(1, 3))
@example(row=ROWS, column=0, extra=1)
@example(row=digits.BLOCK_ROWS, column=783, extra=1)
def test_a_short_or_long_row_is_named(folder: Path, row: int, column: int, extra: int) -> None:
    path = folder / "bad.csv"
    short = error_of(drain, path, changed(TEST, row, lambda cells: cells[:column] or [""]))
    place = rf"row {row} \(line {row + 1}\), column "
    what = f"the row has {column} cells" if column else "the line is empty"
    assert re.search(f"{place}pixel{column} is missing: {what}", short)
    long = error_of(drain, path, changed(TEST, row, lambda cells: cells + ["0"] * extra))
    assert re.search(place + f"pixel783 is not the last: .* {784 + extra} cells", long)


def test_an_empty_cell_before_the_first_is_one_too_many(tmp_path: Path) -> None:
    longer = changed(TEST, 1, lambda cells: ["", *cells])
    message = error_of(drain, tmp_path / "bad.csv", longer)
    assert "row 1 (line 2), column pixel783 is not the last: the row has 785 cells" in message


def test_cells_that_move_to_the_next_row_are_found(tmp_path: Path) -> None:
    moved = changed(changed(TEST, 5, lambda cells: cells[:-1]), 6, lambda cells: ["0", *cells])
    message = error_of(drain, tmp_path / "bad.csv", moved)
    assert "row 5 (line 6), column pixel783 is missing" in message


@properties
@given(data=st.data(), byte=st.sampled_from(b"0123459,,,\r\n\n -.\0\xff"), insert=st.booleans())
def test_one_changed_byte_is_read_as_a_plain_reader_would(
    folder: Path, data: st.DataObject, byte: int, insert: bool
) -> None:
    content = bytearray("\n".join(TEST[:4]).encode())
    position = data.draw(st.integers(len(TEST[0]) + 1, len(content) - 1))
    content[position : position + (not insert)] = bytes([byte])
    path = folder / "changed.csv"
    path.write_bytes(content)
    rows = [
        line.removesuffix(b"\r").split(b",")
        for line in content.removesuffix(b"\n").split(b"\n")[1:]
    ]
    if all(
        len(row) == 784 and all(re.fullmatch(rb"\d{1,3}", cell) and int(cell) < 256 for cell in row)
        for row in rows
    ):
        expected = np.array([[int(cell) for cell in row] for row in rows], np.uint8)
        read = all_of(path)
        np.testing.assert_array_equal(read.reshape(-1, 784), expected, strict=True)
    else:
        with pytest.raises(PermanentError, match=r"row \d \(line \d\), column pixel\d+"):
            all_of(path)


@pytest.mark.parametrize("blank", ["", "\r"])
def test_a_blank_line_is_a_short_row(tmp_path: Path, blank: str) -> None:
    message = error_of(drain, tmp_path / "bad.csv", "\n".join([*TEST, blank]) + "\n")
    assert f"row {ROWS + 1} (line {ROWS + 2})" in message


def test_a_chunk_with_a_fault_names_its_row_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "BLOCK_ROWS", 7)
    message = error_of(drain, tmp_path / "bad.csv", with_cell(TEST, 100, 9, "?"))
    assert "row 100 (line 101), column pixel9: '?'" in message


def test_a_class_without_a_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    digits.write_train(path, images_of(30), labels_of(30) // 2 + 1)
    with pytest.raises(PermanentError, match=r"column label: no row has the label 0, 6, 7, 8, 9\."):
        digits.read_train(path)


# Bad files


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda names: [*names[:6], *names[7:]], "column 7: 'pixel6' .* 'pixel5'.* 784 "),
        (lambda names: names[:-1], "column 785: the end of the line .* 'pixel783'.* 784 "),
        (lambda names: [*names, "pixel784"], "column 786: 'pixel784' .* the end .* 786 "),
        (lambda names: [*names, ""], "column 786: an empty cell .* the end of the line.* 786 "),
        (lambda names: ["Label", *names[1:]], "column 1: 'Label' stands where 'label' belongs"),
        (lambda names: [*names[1:], names[0]], "column 1: 'pixel0' stands where 'label' belongs"),
        (lambda _: ["5", *["0"] * 784], "column 1: '5' stands where 'label' belongs"),
        (lambda names: [";".join(names)], "column 1: 'label;pixel0;pixel1;.*' stands where"),
        (lambda _: ["ImageId", "Label"], "column 1: 'ImageId' .* 2 columns of 785"),
        (lambda _: [""], "column 1: an empty cell stands where 'label'"),
    ],
    ids=["one missing", "last missing", "one more", "comma", "case", "order", "none", "semicolons",
         "submission", "blank"],
)  # fmt: skip
def test_a_wrong_header_is_shown(
    tmp_path: Path, change: Callable[[list[str]], list[str]], problem: str
) -> None:
    message = error_of(digits.read_train, tmp_path / "bad.csv", changed(TRAIN, 0, change))
    assert re.search(r"header \(line 1\), " + problem, message)


def test_swapped_files_are_called_swapped(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    assert "has the columns of test.csv" in error_of(digits.read_train, path, TEST)
    message = error_of(drain, path, TRAIN)
    assert "has the columns of train.csv" in message
    assert "Check whether train.csv and test.csv are swapped." in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"PK\x03\x04\x14\0\0\0", "is a zip archive"),
        (b"\n<!DOCTYPE html><html>".lstrip(), "is a web page"),
        (b"\x1f\x8b\x08\0\xff\xfe", "is binary data"),
        ("label,pixel0".encode("utf-16"), "is binary data"),
        (b"\0" * 10**6, "is binary data"),
    ],
    ids=["0 bytes", "only a mark", "zip", "HTML", "gzip", "UTF-16", "zeros"],
)
def test_a_file_that_is_not_csv_is_called_what_it_is(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    for read in (digits.read_train, drain, digits.read_submission):
        assert problem in error_of(read, tmp_path / "bad.csv", content)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_header_alone_has_no_row(tmp_path: Path, end: str) -> None:
    message = error_of(drain, tmp_path / "bad.csv", TEST[0] + end)
    assert "has a header but no row" in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, problem in {
        tmp_path / "none.csv": "No such file",
        tmp_path: "Is a directory",
    }.items():
        for read in (digits.read_train, drain, digits.read_submission):
            with pytest.raises(PermanentError, match=f"{path} cannot be read: {problem}"):
                read(path)


# Submissions


@properties
@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_a_submission_is_read_as_written(folder: Path, labels: list[int]) -> None:
    path, sample = folder / "submission.csv", folder / "sample_submission.csv"
    digits.write_submission(path, np.array(labels, np.uint8))
    digits.write_submission(sample, np.zeros(len(labels), np.uint8))
    assert digits.read_submission(path).tolist() == labels
    assert pd.read_csv(path).to_dict("list") == {
        "ImageId": list(range(1, len(labels) + 1)),
        "Label": labels,
    }
    digits.check_submission(path, sample)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("ImageId,Label\n1,5\n3,5\n", r"row 2 \(line 3\), column ImageId: '3' stands where 2"),
        ("ImageId,Label\n0,5\n", r"row 1 \(line 2\), column ImageId: '0' stands where 1"),
        ("ImageId,Label\n01,5\n", r"row 1 .*, column ImageId: '01' stands where 1"),
        ("ImageId,Label\n1,5\n2,10\n", r"row 2 .*, column Label: '10' stands where a digit 0 to 9"),
        ("ImageId,Label\n1,5\n2,3.0\n", r"row 2 .*, column Label: '3.0'"),
        ("ImageId,Label\n1,-1\n", r"row 1 .*, column Label: '-1'"),
        ("ImageId,Label\n1,\n", r"row 1 .*, column Label: an empty cell"),
        ("ImageId,Label\n1\n", r"row 1 .*, column Label is missing"),
        ("ImageId,Label\n1,2,3\n", r"row 1 .*, column Label is not the last: the row has 3 cells"),
        ("ImageId,Label\n1,5\n\n", r"row 2 .*, column ImageId is missing: the line is empty"),
        ("Label,ImageId\n5,1\n", r"header \(line 1\), column 1: 'Label' stands where 'ImageId'"),
        ("1,5\n", "header"),
        ("ImageId,Label\n", "no row"),
        ("", "is empty"),
    ],
)  # fmt: skip
def test_a_bad_submission_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    good = tmp_path / "good.csv"
    digits.write_submission(good, np.array([5, 5], np.uint8))
    assert re.search(problem, error_of(digits.read_submission, tmp_path / "bad.csv", content))
    with pytest.raises(PermanentError, match=problem):
        digits.check_submission(tmp_path / "bad.csv", good)
    with pytest.raises(PermanentError, match=problem):
        digits.check_submission(good, tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("count", "problem"), [(9, "id 10 is missing"), (11, "id 11 is one too many")]
)
def test_a_submission_has_as_many_rows_as_the_sample(
    tmp_path: Path, count: int, problem: str
) -> None:
    path, sample = tmp_path / "submission.csv", tmp_path / "sample_submission.csv"
    digits.write_submission(path, labels_of(count))
    digits.write_submission(sample, labels_of(10))
    with pytest.raises(PermanentError, match=rf"row 1\d \(line 1\d\), column ImageId: {problem}"):
        digits.check_submission(path, sample)


# The split


LABELS = st.lists(st.integers(0, 9), min_size=1, max_size=200).map(
    lambda labels: np.array(labels, np.uint8)
)


@properties
@given(labels=LABELS, seed=st.integers(0, 2**32))
def test_positions_are_even_steps_within_each_class(labels: NDArray[np.uint8], seed: int) -> None:
    positions = digits.stratified_positions(labels, seed)
    for label in np.unique(labels):
        own = np.sort(positions[labels == label])
        np.testing.assert_array_equal(own, np.arange(len(own)) / len(own))
    np.testing.assert_array_equal(positions, digits.stratified_positions(labels, seed))


def test_another_seed_gives_other_positions() -> None:
    first, second = (digits.stratified_positions(labels_of(100), seed) for seed in (1, 2))
    assert (first != second).mean() > 0.5


@properties
@given(count=st.integers(60, 300), members=st.integers(2, 60), seed=st.integers(0, 9))
@example(count=98, members=49, seed=0)  # 49 * (1 / 49) is a little less than 1
def test_members_hold_out_every_row_once(count: int, members: int, seed: int) -> None:
    positions = digits.stratified_positions(np.zeros(count, np.uint8), seed)
    masks = [digits.validation_mask(positions, 1 / members, member) for member in range(members)]
    np.testing.assert_array_equal(np.sum(masks, axis=0), np.ones(count))


@properties
@given(
    per_class=st.integers(20, 60),
    fraction=st.floats(0.1, 0.9),
    member=st.integers(0, 20),
    seed=st.integers(0, 9),
)
def test_every_class_is_split_by_the_fraction(
    per_class: int, fraction: float, member: int, seed: int
) -> None:
    labels = np.repeat(np.arange(10, dtype=np.uint8), per_class)
    positions = digits.stratified_positions(labels, seed)
    held_out = np.bincount(labels[digits.validation_mask(positions, fraction, member)])
    assert (abs(held_out - fraction * per_class) <= 1).all()
    assert len(held_out) == 10
    assert (held_out > 0).all()
    assert (held_out < per_class).all()


@properties
@given(fraction=st.floats(0.05, 0.95), member=st.integers(0, 20))
def test_the_mask_is_where_the_turned_position_is_below_the_fraction(
    fraction: float, member: int
) -> None:
    positions = np.arange(1000) / 1000
    turned = (positions - member * fraction) % 1
    clear = (abs(turned - fraction) > 1e-9) & (turned > 1e-9) & (turned < 1 - 1e-9)
    mask = digits.validation_mask(positions, fraction, member)
    np.testing.assert_array_equal(mask[clear], (turned < fraction)[clear])


@pytest.mark.parametrize(
    ("count", "fraction", "side"),
    [(100, 0, "validation"), (100, -0.1, "validation"), (100, float("nan"), "validation"),
     (0, 0.1, "validation"), (100, 1, "training"), (100, 1.5, "training"), (1, 0.1, "training")],
)  # fmt: skip
def test_a_side_without_rows_is_refused(count: int, fraction: float, side: str) -> None:
    positions = digits.stratified_positions(np.zeros(count, np.uint8), 0)
    with pytest.raises(PermanentError, match=f"leaves none of {count} rows for {side}"):
        digits.validation_mask(positions, fraction)
