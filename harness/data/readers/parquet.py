"""Read parquet files with encoded images and labels, in the Hugging Face image layout."""

import contextlib
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.data.readers.common import Part, Raw, Reader, stamp
from harness.data.readers.images import Box, Encoded, decoded, stack
from harness.errors import UserError, one_line

LAYOUT = "parquet files train-*.parquet and test-*.parquet (or val*-*.parquet)"
LABELS = ("label", "labels", "fine_label", "fine_labels", "target", "class")

_NAME = re.compile(r"(train|test|val)[a-z]*(-.*)?\.parquet")
_SHARD = re.compile(r"-\d+-of-(\d+)")
_ROWS = 256  # per batch of a read
_ROW_BYTES = 32  # least size of a row on disk: images are packed already, so equal ones only are stored in less
_FEW_ROWS = 10_000  # that a file may have whatever its size
_PACKED = 100  # most times that a column of images may be larger than on disk; theirs is about 1
_SMALL = 2**26  # bytes that a column of images may have whatever it takes on disk
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


class Columns(NamedTuple):
    """The names of the columns to read, and of the classes if the file has them."""

    image: str
    label: str
    box: str | None
    mask: str | None
    classes: tuple[str, ...] | None


def holds(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return bool(_shards(folder))


def reader(folder: Path) -> Reader:
    """The reader of this folder. Raises `UserError` if a part or shard is missing."""
    shards = _shards(folder)
    train, test = shards.get("train"), shards.get("test") or shards.get("val")
    if not train or not test:
        raise UserError(f"{str(folder)!r} has no {'test' if train else 'train'} part; it may hold {LAYOUT}")
    for paths in (train, test):
        counts = {int(numbered[1]) for path in paths if (numbered := _SHARD.search(path.name))}
        if counts and counts != {len(paths)}:
            present = f"{len(paths)} files like {paths[0].name!r}"
            raise UserError(f"{str(paths[0].parent)!r} has {present}, not {max(counts)}")
    return Reader(partial(_read, train, test), partial(stamp, "parquet-1", folder, train + test))


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The files of each part, in the folder or in its subfolder `data`."""
    shards: dict[str, list[Path]] = {}
    for directory in (folder, folder / "data"):
        for path in sorted(directory.glob("*.parquet")) if not shards else ():
            if named := _NAME.fullmatch(path.name):
                shards.setdefault(named[1], []).append(path)
    return shards


def _read(train: list[Path], test: list[Path], size: int) -> Raw:
    (train_part, train_names), (test_part, test_names) = _part(train, size), _part(test, size)
    named = {names for names in (train_names, test_names) if names}
    if len(named) > 1:
        counts = " and ".join(str(len(names)) for names in (train_names, test_names) if names)
        raise UserError(f"{str(train[0].parent)!r}: train and test have different classes ({counts} of them)")
    if named:
        return Raw(train_part, test_part, named.pop())
    count, rows = int(train_part.y.max()) + 1, len(train_part.y)
    if count > rows:
        raise UserError(f"{str(train[0].parent)!r} has labels up to {count - 1}, but {rows} training images")
    return Raw(train_part, test_part, tuple(map(str, range(count))))


def _part(paths: list[Path], size: int) -> tuple[Part, tuple[str, ...] | None]:
    """One part, and its class names if the files have them."""
    rows = 0
    columns: Columns | None = None
    for path in paths:
        with _opened(path) as file:
            _check_sizes(file.metadata, path)
            rows += file.metadata.num_rows
            found_columns = _columns(file.schema_arrow, path)
        if columns not in (None, found_columns):
            raise UserError(f"{str(path)!r} has other columns or classes than {paths[0].name!r}")
        columns = found_columns
    if columns is None or not rows:
        raise UserError(f"{str(paths[0])!r} has no rows")
    encoded = (row for path in paths for row in _rows(path, columns))
    return stack(decoded(encoded, size), rows), columns.classes


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


def _columns(schema: pa.Schema, path: Path) -> Columns:
    features = _features(schema)
    images = [field.name for field in schema if _is_image(field.type)]
    non_masks = [name for name in images if name != "mask"]
    if len(non_masks) != 1:
        raise UserError(f"{str(path)!r} must have one column of images (bytes and path), not {non_masks}")
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    class_labels = [name for name in integers if _names(features, name)]
    label = next((n for some in (class_labels, integers) for n in LABELS if n in some), None)
    if label is None and len(class_labels) == 1:
        label = class_labels[0]
    if label is None:
        raise UserError(f"{str(path)!r} has no 'label', a column of whole numbers, among {schema.names}")
    box = "bbox" if "bbox" in schema.names else None
    if box and not _is_numbers(schema.field(box).type):
        raise UserError(f"{str(path)!r} has boxes of type {schema.field(box).type}, not of four numbers x1, y1, x2, y2")
    return Columns(non_masks[0], label, box, "mask" if "mask" in images else None, _names(features, label))


def _features(schema: pa.Schema) -> dict:
    """The column features that the `datasets` library stores in the metadata; empty if absent or malformed."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}


def _names(features: dict, column: str) -> tuple[str, ...] | None:
    """The class names of a ClassLabel column, else None."""
    feature = features.get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _is_image(kind: pa.DataType) -> bool:
    """Whether it is a struct with plain bytes. Extension types, such as Ray's, unpickle their content."""
    at = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return at >= 0 and any(of(kind.field(at).type) for of in _BYTES)


def _is_numbers(kind: pa.DataType) -> bool:
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(of(kind) for of in lists) and (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    )


def _rows(path: Path, columns: Columns) -> Iterator[Encoded]:
    names = [name for name in columns[:4] if name]
    end = 0
    with _opened(path) as file:
        rows = file.metadata.num_rows
        for batch in file.iter_batches(batch_size=_ROWS, columns=names):
            start, end = end, end + len(batch)
            if end > rows:
                break
            values = [_values(batch, name) for name in columns[:4]]
            for row, (image, y, box, mask) in enumerate(zip(*values, strict=True), start):
                where = f"row {row} of {str(path)!r}"
                if image is None or (columns.mask and mask is None):
                    raise UserError(f"{where} has no image or mask bytes")
                if y is None or not 0 <= y < 2**31:
                    raise UserError(f"{where} has the label {y}; every image needs one, counted from 0")
                yield Encoded(where, image, y, _box(box, where) if columns.box else None, mask)
        if end != rows:
            raise UserError(f"{str(path)!r} does not have the {rows} rows that its metadata declares")


def _values(batch: pa.RecordBatch, name: str | None) -> list:
    """One value per row; for images their bytes, or None."""
    if name is None:
        return [None] * len(batch)
    column = batch.column(name)
    if _is_image(column.type):
        column = column.flatten()[column.type.get_field_index("bytes")]
    return column.to_pylist()


def _box(box: list[float | None] | None, where: str) -> Box:
    corners = [c for c in box or () if c is not None and abs(c) < 2**31]
    if box is None or not len(corners) == len(box) == 4:
        raise UserError(f"{where} has no box of four numbers x1, y1, x2, y2 but {box!r}")
    x1, y1, x2, y2 = (int(np.floor(c)) for c in corners)
    return x1, y1, x2, y2
