"""The competition's files: read and check them, write them, split their rows.

Any fault in a file raises one PermanentError that names the file, the row and the column.
Rows count from 1 below the header, as ``ImageId`` does; lines count from 1 including the header.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import PermanentError

CLASSES = 10
SIDE = 28
PIXEL_COLUMNS = tuple(f"pixel{number}" for number in range(SIDE * SIDE))
TRAIN_COLUMNS = ("label", *PIXEL_COLUMNS)
SUBMISSION_COLUMNS = ("ImageId", "Label")

BLOCK_ROWS = 128  # about 230 kB of text: the arrays made from it stay in the processor's cache
BUFFER_BYTES = 1 << 18
LINE_LIMIT = 1 << 16  # the real header takes 8 kB; a file without line breaks is not read whole

DATA_REMEDY = "Correct the file, or download the competition's data again."
SUBMISSION_REMEDY = "Make the file again: ImageId counts from 1, Label is 0 to 9, nothing else."


def read_train(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 28, 28, 1) and labels (n,) of a train.csv, checked; every class has a row.

    Raises PermanentError if the file cannot be read or anything in it is wrong.
    """
    with _open(path, TRAIN_COLUMNS) as lines:
        # An upper bound: a cell takes at least two bytes. Memory that no row fills is not touched.
        capacity = path.stat().st_size // (2 * len(TRAIN_COLUMNS)) + 1
        labels = np.empty(capacity, np.uint8)
        pixels = np.empty((capacity, len(PIXEL_COLUMNS)), np.uint8)
        count = 0
        for cells in _read_blocks(lines, path, TRAIN_COLUMNS):
            block = slice(count, count + len(cells))
            labels[block], pixels[block] = cells[:, 0], cells[:, 1:]
            count += len(cells)
    labels = labels[:count]
    missing = np.setdiff1d(np.arange(CLASSES), labels)
    if missing.size:
        raise PermanentError(
            f"{path}, column label: no row has the label {', '.join(map(str, missing))}.",
            f"Every digit needs examples to learn from. {DATA_REMEDY}",
        )
    return pixels[:count].reshape(-1, SIDE, SIDE, 1), labels


def iterate_test(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Images of a test.csv, checked, in chunks (up to BLOCK_ROWS, 28, 28, 1), in constant memory.

    Raises PermanentError like read_train.
    """
    with _open(path, PIXEL_COLUMNS) as lines:
        for cells in _read_blocks(lines, path, PIXEL_COLUMNS):
            yield cells.reshape(-1, SIDE, SIDE, 1)


def read_submission(path: Path) -> NDArray[np.uint8]:
    """Labels (n,) of a submission or of sample_submission.csv, whose ids must be 1..n in order.

    Raises PermanentError if an id, a label (0..9) or the format of the file is wrong.
    """
    labels = bytearray()
    with _open(path, SUBMISSION_COLUMNS) as lines:
        for row, line in enumerate(lines, start=1):
            fields = _fields(line)
            if len(fields) != len(SUBMISSION_COLUMNS):
                raise _length_fault(path, row, SUBMISSION_COLUMNS, fields, SUBMISSION_REMEDY)
            image_id, label = fields
            if image_id != str(row):
                raise _cell_fault(path, row, "ImageId", image_id, str(row), SUBMISSION_REMEDY)
            if not _is_number(label, CLASSES - 1):
                raise _cell_fault(path, row, "Label", label, "a digit 0 to 9", SUBMISSION_REMEDY)
            labels.append(int(label))
    return np.frombuffer(labels, np.uint8)


def check_submission(submission_path: Path, sample_submission_path: Path) -> None:
    """Raise PermanentError unless the submission has the sample's ids in order and valid labels."""
    count = len(read_submission(submission_path))
    wanted = len(read_submission(sample_submission_path))
    if count != wanted:
        first = min(count, wanted) + 1
        problem = f"id {first} is {'missing' if count < wanted else 'one too many'}"
        raise PermanentError(
            f"{_place(submission_path, first, 'ImageId')}: {problem}; {sample_submission_path} has "
            f"{wanted} rows, this file {count}.",
            "Predict exactly one label for each row of test.csv.",
        )


def write_submission(path: Path, labels: NDArray[np.uint8]) -> None:
    """Write labels (n,) with ids 1..n; not atomically, so check the file and then rename it."""
    rows = (f"{image_id},{label}\n" for image_id, label in enumerate(labels.tolist(), start=1))
    path.write_text(",".join(SUBMISSION_COLUMNS) + "\n" + "".join(rows), newline="\n")


def write_train(path: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Write images (n, 28, 28[, 1]) and labels (n,) in the format of train.csv, not atomically."""
    cells = np.column_stack([labels, images.reshape(len(images), -1)])
    _write_table(path, TRAIN_COLUMNS, cells)


def write_test(path: Path, images: NDArray[np.uint8]) -> None:
    """Write images (n, 28, 28[, 1]) in the format of test.csv, not atomically."""
    _write_table(path, PIXEL_COLUMNS, images.reshape(len(images), -1))


def stratified_positions(labels: NDArray[np.uint8], seed: int) -> NDArray[np.float64]:
    """Position (n,) of each row in [0, 1) within its class: seeded shuffle, then even steps."""
    generator = np.random.default_rng(seed)
    positions = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        positions[generator.permutation(rows)] = np.arange(len(rows)) / len(rows)
    return positions


def validation_mask(
    positions: NDArray[np.float64], fraction: float, member: int = 0
) -> NDArray[np.bool_]:
    """Rows (n,) that a member holds out: where (position - member * fraction) mod 1 < fraction.

    Members 0..K-1 with the fraction 1/K hold out every row exactly once. Raises PermanentError
    if no row would be left for validation or for training.
    """
    # Compared with both ends, not subtracted: a member stops exactly where the next one starts.
    start, stop = member * fraction, (member + 1) * fraction
    turned = positions + np.floor(start)
    mask: NDArray[np.bool_] = np.where(turned < start, turned + 1, turned) < stop
    if not mask.any() or mask.all():
        raise PermanentError(
            f"A validation fraction of {fraction} leaves none of {len(mask)} rows for "
            f"{'training' if mask.any() else 'validation'}.",
            "Choose a fraction between 0 and 1, such as 0.1, or give more rows.",
        )
    return mask


@contextmanager
def _open(path: Path, columns: Sequence[str]) -> Iterator[Iterator[bytes]]:
    """Check the header and give the lines below it, at least one."""
    try:
        with BufferedReader(path.open("rb", buffering=0), BUFFER_BYTES) as file:
            header = file.readline(LINE_LIMIT).removeprefix(codecs.BOM_UTF8)
            if _fields(header) != list(columns):
                raise _header_fault(path, columns, header)
            if not file.peek(1):
                raise PermanentError(f"{path} has a header but no row.", DATA_REMEDY)
            yield iter(lambda: file.readline(LINE_LIMIT), b"")
    except OSError as error:
        raise PermanentError(
            f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions."
        ) from error


def _read_blocks(
    lines: Iterator[bytes], path: Path, columns: Sequence[str]
) -> Iterator[NDArray[np.uint8]]:
    """The checked cells below the header, (up to BLOCK_ROWS, len(columns)) at a time."""
    row = 1
    while block := list(islice(lines, BLOCK_ROWS)):
        cells = _parse(block, len(columns))
        if cells is None or (columns is TRAIN_COLUMNS and cells[:, 0].max() >= CLASSES):
            raise _first_fault(path, row, columns, block)
        yield cells
        row += len(block)


def _parse(lines: list[bytes], columns: int) -> NDArray[np.uint8] | None:
    """Cells (len(lines), columns); None unless all are numbers up to 255 of one to three digits.

    Vectorised over all bytes: where a cell ends, its value is its last digit + 10 times the one
    before it + 100 times the one before that, as far as the cell has digits.
    """
    text = b"".join((b"\n\n\n", *lines))  # so that three bytes precede the end of any cell
    if not text.endswith(b"\n"):
        text += b"\n"
    if b"\r" in text:  # testing is free, a replace that finds nothing costs a quarter of the time
        text = text.replace(b"\r\n", b"\n")
    characters = np.frombuffer(text, np.uint8)
    digits = characters - np.uint8(ord("0"))  # characters below "0" wrap around to above 9
    is_digit = digits <= 9
    digits *= is_digit

    three_digits = is_digit[:-3] & is_digit[1:-2] & is_digit[2:-1]
    tens_and_ones = digits[1:-2] * np.uint8(10) + digits[2:-1]
    values = (digits[:-3] * three_digits) * np.uint16(100) + tens_and_ones
    is_end = ~is_digit[3:]
    is_empty = is_end & ~is_digit[2:-1]
    is_too_long = three_digits & is_digit[3:]
    if is_empty.any() or is_too_long.any() or values.max() > 255:
        return None

    ends = np.flatnonzero(is_end)
    if characters[3:][ends].tobytes() != (b"," * (columns - 1) + b"\n") * len(lines):
        return None
    return values[ends].astype(np.uint8).reshape(len(lines), columns)


def _header_fault(path: Path, columns: Sequence[str], header: bytes) -> PermanentError:
    """What is wrong with a first line that is not the expected header."""
    names = _fields(header)
    if not header:
        return PermanentError(f"{path} is empty (0 bytes).", DATA_REMEDY)
    if header.startswith(b"PK\x03\x04"):
        return PermanentError(f"{path} is a zip archive, not a CSV file.", "Unpack it first.")
    if header.lstrip().startswith(b"<"):
        return PermanentError(f"{path} is a web page, not a CSV file.", DATA_REMEDY)
    if any("\0" in name or "\ufffd" in name for name in names):
        return PermanentError(f"{path} is binary data or not UTF-8, not a CSV file.", DATA_REMEDY)
    for other, file_name in ((TRAIN_COLUMNS, "train.csv"), (PIXEL_COLUMNS, "test.csv")):
        if names == list(other):
            return PermanentError(
                f"{path} has the columns of {file_name}, {names[0]} to {names[-1]}, instead "
                f"of {columns[0]} to {columns[-1]}.",
                "Check whether train.csv and test.csv are swapped.",
            )
    pairs = enumerate(zip_longest(names, columns), start=1)
    number, found, wanted = next((n, name, column) for n, (name, column) in pairs if name != column)
    return PermanentError(
        f"{path}, header (line 1), column {number}: {_shown(found)} stands where {_shown(wanted)} "
        f"belongs; the header has {len(names)} columns of {len(columns)}.",
        DATA_REMEDY,
    )


def _first_fault(
    path: Path, first_row: int, columns: Sequence[str], lines: list[bytes]
) -> PermanentError:
    """The first fault in a block that _read_blocks refused, found cell by cell."""
    for row, line in enumerate(lines, start=first_row):
        fields = _fields(line)
        if len(fields) != len(columns):
            return _length_fault(path, row, columns, fields, DATA_REMEDY)
        for column, field in zip(columns, fields, strict=True):
            highest = CLASSES - 1 if column == "label" else 255
            if not _is_number(field, highest):
                wanted = f"a whole number from 0 to {highest}"
                return _cell_fault(path, row, column, field, wanted, DATA_REMEDY)
    raise AssertionError(f"no fault in {path} from row {first_row} on, though it was refused")


def _length_fault(
    path: Path, row: int, columns: Sequence[str], fields: list[str], remedy: str
) -> PermanentError:
    """A row with too few or too many cells; names the first missing or the last wanted column."""
    if fields == [""]:
        return PermanentError(
            f"{_place(path, row, columns[0])} is missing: the line is empty.", remedy
        )
    if len(fields) < len(columns):
        place = f"{_place(path, row, columns[len(fields)])} is missing"
    else:
        place = f"{_place(path, row, columns[-1])} is not the last"
    problem = f"the row has {len(fields)} cells instead of {len(columns)}"
    return PermanentError(f"{place}: {problem}.", remedy)


def _cell_fault(
    path: Path, row: int, column: str, field: str, wanted: str, remedy: str
) -> PermanentError:
    """A cell that holds something other than what is wanted."""
    place = _place(path, row, column)
    return PermanentError(f"{place}: {_shown(field)} stands where {wanted} belongs.", remedy)


def _place(path: Path, row: int, column: str) -> str:
    return f"{path}, row {row} (line {row + 1}), column {column}"


def _shown(field: str | None) -> str:
    if not field:
        return "the end of the line" if field is None else "an empty cell"
    return repr(field if len(field) <= 20 else field[:20] + "...")


def _fields(line: bytes) -> list[str]:
    text = line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="replace")
    return text.split(",")


def _is_number(field: str, highest: int) -> bool:
    """Whether _parse accepts a field: one to three ASCII digits, at most ``highest``."""
    return field.isascii() and field.isdigit() and len(field) <= 3 and int(field) <= highest


def _write_table(path: Path, columns: Sequence[str], cells: NDArray[np.uint8]) -> None:
    """Write cells (n, len(columns)) under their header."""
    texts = [b"%d" % value for value in range(256)]
    with path.open("wb") as file:
        file.write(",".join(columns).encode() + b"\n")
        for row in cells:
            file.write(b",".join(map(texts.__getitem__, row.tobytes())) + b"\n")
