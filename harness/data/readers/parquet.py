"""Read parquet files with encoded images and labels, in the Hugging Face image layout."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.data.readers import parquet_folders
from harness.data.readers.boxes import BOX_FORMATS
from harness.data.readers.common import UNKNOWN, Part, Raw, Reader, stamp
from harness.data.readers.images import Encoded, ToMask, coded_mask, decoded_upright, whole_masks
from harness.data.readers.mask_codes import exact, mask_code
from harness.data.readers.parquet_columns import CODED_MASK, LABELS, MASK, Columns, choose_columns, is_image, no_label
from harness.data.readers.stack import stack
from harness.errors import UserError, one_line, required

LAYOUT = parquet_folders.LAYOUT

_ROWS = 256  # per batch of a read
_ROW_BYTES = 32  # least size of a row on disk: images are packed already, so equal ones only are stored in less
_FEW_ROWS = 10_000  # that a file may have whatever its size
_PACKED = 100  # most times that a column of images may be larger than on disk; theirs is about 1
_SMALL = 2**26  # bytes that a column of images may have whatever it takes on disk


def holds(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return folder.is_dir() and parquet_folders.found(folder)


def reader(folder: Path, image: str = "") -> Reader:
    """The reader of this folder. image: the column of images, if there are several.

    Raises `UserError` if the training part, a shard or a column is missing.
    """
    parts = parquet_folders.shards(folder)
    if not (train := parts.get("train")):
        raise UserError(f"{str(folder)!r} has no train part; it may hold {LAYOUT}")
    if _columns(train, image).label is None:
        raise no_label(train[0], pq.read_schema(train[0]))
    held_out: parquet_folders.Shards = {name: parts[name] for name in ("test", "val") if name in parts}
    tested = next((name for name, paths in held_out.items() if _labelled(paths, image)), "")
    instead = tested == "val" and "test" in held_out
    notes = ("the test part has no labels: the validation part is the test part",) if instead else ()
    return Reader(
        partial(_read, train, held_out.get(tested, []), image, notes),
        partial(stamp, "parquet-2", folder, [path for paths in parts.values() for path in paths]),
        tested=bool(tested),
    )


def _labelled(paths: list[Path], image: str) -> bool:
    """Whether any image has a label: the Hub's test parts often have -1, or no column."""
    columns = _columns(paths, image)
    if columns.label is None:
        return False
    labels = (label for path in paths for (label,) in _values(path, [columns.label]))
    return any(label is not None and label != "" and (isinstance(label, str) or label >= 0) for label in labels)


def _read(train: list[Path], test: list[Path], image: str, notes: tuple[str, ...], size: int) -> Raw:
    parts = [(paths, _columns(paths, image)) for paths in (train, test) if paths]
    classes = _classes(parts)
    to_mask, about = _masks(parts)
    read = [_part(paths, columns, size, classes, to_mask) for paths, columns in parts]
    test_part = read[1] if test else None
    if classes is None:
        classes = _numbered(train[0].parent, read)
    return Raw(read[0], test_part, classes, (*notes, *_other_labels(parts[0]), *about, *_without_mask(read)))


def _other_labels(part: tuple[list[Path], Columns]) -> Iterator[str]:
    """A line on which column has the labels, if another of the names that one may have is there too."""
    (path, *_), columns = part
    if others := [name for name in pq.read_schema(path).names if name in LABELS and name != columns.label]:
        yield f"the labels are those of {columns.label!r}, and not of {', '.join(map(repr, others))}"


def _without_mask(parts: list[Part]) -> Iterator[str]:
    masks = (part.masks[i] for part in parts if part.masks is not None for i in part.whole(np.arange(len(part.y))))
    if n := sum(bool((mask == UNKNOWN).all()) for mask in masks):
        yield f"{n} images have no mask, or one that is unknown throughout"


def _classes(parts: list[tuple[list[Path], Columns]]) -> tuple[str, ...] | None:
    """The names of the classes, which number the labels, if the files have them. Raises `UserError` if parts differ."""
    folder = str(parts[0][0][0].parent)
    if len({columns.text for _, columns in parts}) > 1:
        raise UserError(f"{folder!r}: labels are numbers in one part and text in the other")
    if parts[0][1].text:
        texts = [{str(y) for path in paths for (y,) in _values(path, [str(c.label)]) if y} for paths, c in parts]
        if unseen := set().union(*texts) - texts[0]:
            raise UserError(f"{folder!r}: the test part has the class {min(unseen)!r}, which no training image has")
        numbers = all(text.isdecimal() for text in texts[0])
        return tuple(sorted(texts[0], key=lambda text: (int(text) if numbers else 0, text)))  # 1 and 01 differ
    named = {columns.classes for _, columns in parts if columns.classes}
    if len(named) > 1:
        counts = " and ".join(str(len(columns.classes)) for _, columns in parts if columns.classes)
        raise UserError(f"{folder!r}: train and test have different classes ({counts} of them)")
    return named.pop() if named else None


def _masks(parts: list[tuple[list[Path], Columns]]) -> tuple[ToMask | None, tuple[str, ...]]:
    """What the masks of both parts mean, None if there are none; what was interpreted.

    Raises `UserError` if that is not certain.
    """
    interpreted = [(path, columns) for paths, columns in parts for path in paths if columns.mask == MASK]
    if not interpreted:
        return coded_mask(exact) if any(columns.mask for _, columns in parts) else None, ()
    if any(columns.mask == CODED_MASK for _, columns in parts):
        raise UserError(f"{str(parts[0][0][0].parent)!r}: masks are {MASK!r} in one part, {CODED_MASK!r} in the other")
    try:
        masks = (mask for path, columns in interpreted for (mask,) in _values(path, [columns.mask]))
        code = mask_code(whole_masks(masks))
        return coded_mask(code), (code.about,) if code.about else ()
    except UserError as error:
        raise UserError(f"{str(parts[0][0][0].parent)!r}: {error}") from None


def _numbered(folder: Path, parts: list[Part]) -> tuple[str, ...]:
    """The numbers of the classes of labels without names. Raises `UserError` if they do not count from 0."""
    largest, rows = int(parts[0].y.max()), len(parts[0].y)
    if min(int(part.y.min()) for part in parts) == 1:
        raise UserError(
            f"{str(folder)!r} has labels that count from 1 to {largest}; subtract 1, so that the first is 0"
        )
    if largest + 1 > rows:
        raise UserError(f"{str(folder)!r} has labels up to {largest}, but {rows} training images")
    return tuple(map(str, range(largest + 1)))


def _part(
    paths: list[Path], columns: Columns, size: int, classes: tuple[str, ...] | None, to_mask: ToMask | None
) -> Part:
    rows = 0
    for path in paths:
        with _opened(path) as file:
            rows += file.metadata.num_rows
    if not rows:
        raise UserError(f"{str(paths[0])!r} has no rows")
    numbers = {name: y for y, name in enumerate(classes or ())} if columns.text else {}
    encoded = (row for path in paths for row in _rows(path, columns, numbers, to_mask))
    return stack(decoded_upright(encoded, size), rows)


def _columns(paths: list[Path], image: str) -> Columns:
    """The columns to read of these files. Raises `UserError` if they differ, or declare more than they can hold."""
    columns: Columns | None = None
    for path in paths:
        with _opened(path) as file:
            _check_sizes(file.metadata, path)
            found = choose_columns(file.schema_arrow, path, image)
        if columns not in (None, found):
            raise UserError(f"{str(path)!r} has other columns or classes than {paths[0].name!r}")
        columns = found
    return required(columns, "file")


def _check_sizes(header: pq.FileMetaData, path: Path) -> None:
    """Raise `UserError` for a file of a few kilobytes that declares millions of rows or gigabytes of images."""
    size = path.stat().st_size
    if header.num_rows > max(_FEW_ROWS, size // _ROW_BYTES):
        raise UserError(f"{str(path)!r} declares {header.num_rows} rows in {size} bytes: they cannot be images")
    unpacked = sum(header.row_group(i).total_byte_size for i in range(header.num_row_groups))
    if unpacked > max(_SMALL, _PACKED * size):
        raise UserError(f"{str(path)!r} would unpack to {unpacked} bytes from {size}: they cannot be images")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a parquet file. Within, errors of reading become `UserError`."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"cannot read {str(path)!r}: {reason}") from None


def _rows(path: Path, columns: Columns, numbers: dict[str, int], to_mask: ToMask | None) -> Iterator[Encoded]:
    """numbers: the labels of the classes, if the file has their names."""
    names = [columns.image, columns.label, columns.box, columns.mask]
    to_box = BOX_FORMATS[columns.box_format]
    for row, (image, label, box, mask) in enumerate(_values(path, names)):
        where = f"row {row} of {str(path)!r}"
        if image is None:
            raise UserError(f"{where} has no bytes of an image; a path alone is not read")
        y = numbers.get(label) if columns.text else label
        if y is None or not 0 <= y < 2**31:
            raise UserError(f"{where} has the label {label}; every image needs one, counted from 0")
        yield Encoded(where, image, y, _box(box, columns, where) if columns.box else None, mask, to_box, to_mask)


def _values(path: Path, names: list[str | None]) -> Iterator[tuple]:
    """The values of these columns, row by row; None for a column that is None, the bytes of an image."""
    end = 0
    with _opened(path) as file:
        rows = file.metadata.num_rows
        for batch in file.iter_batches(batch_size=_ROWS, columns=[name for name in names if name]):
            end += len(batch)
            if end > rows:
                break
            yield from zip(*(_column(batch, name) for name in names), strict=True)
        if end != rows:
            raise UserError(f"{str(path)!r} does not have the {rows} rows that its metadata declares")


def _column(batch: pa.RecordBatch, name: str | None) -> list:
    """One value per row; for images their bytes, or None."""
    if name is None:
        return [None] * len(batch)
    column = batch.column(name)
    if is_image(column.type):
        column = column.flatten()[column.type.get_field_index("bytes")]
    return column.to_pylist()


def _box(box: list[float | None] | dict[str, float | None] | None, columns: Columns, where: str) -> tuple[float, ...]:
    values = [box[name] for name in columns.box_fields or ()] if isinstance(box, dict) else box
    numbers = tuple(n for n in values or () if n is not None and abs(n) < 2**31)
    if values is None or not len(numbers) == len(values) == 4:
        raise UserError(f"{where} has no box of four numbers but {box!r}")
    return numbers
