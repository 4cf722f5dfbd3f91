"""Choose the columns of a parquet file: image, label, box and mask, by their types, names and features."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from harness.data.readers.boxes import BOX_FORMATS
from harness.errors import UserError, first_few, shortened, unknown_name

LABELS = ("label", "labels", "fine_label", "fine_labels", "target", "class")

MASK, CODED_MASK = "mask", "mask_coded"  # masks whose values are to be interpreted; of 0, 1 and 255 as they are
_KIND, _SHOWN = 40, 12  # characters of a type, and columns, in a message
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)

# The fields of a box that is a struct, and the column name that means the same.
_BOX_FIELDS: Mapping[tuple[str, ...], str] = {
    ("x1", "y1", "x2", "y2"): "bbox",
    ("xmin", "ymin", "xmax", "ymax"): "bbox",
    ("x", "y", "width", "height"): "bbox_xywh",
    ("x", "y", "w", "h"): "bbox_xywh",
}


class Columns(NamedTuple):
    """The names of the columns to read, and of the classes if the file has them.

    label: None if the file has none. text: whether labels are the names of classes. box_format: a key of `BOX_FORMATS`;
    box_fields: the fields of a box, if it is a struct.
    """

    image: str
    label: str | None
    box: str | None
    mask: str | None
    classes: tuple[str, ...] | None
    text: bool
    box_format: str
    box_fields: tuple[str, ...] | None


def choose_columns(schema: pa.Schema, path: Path, image: str = "") -> Columns:
    """The columns of a file with this schema. image: the column of images, if there are several.

    Raises `UserError` if a column is missing, or several could be meant.
    """
    features = _features(schema)
    label, text = _label(schema, features)
    box, box_format, fields = _box(schema, path)
    names = _names(features, label) if label else None
    mask = next((name for name in (CODED_MASK, MASK) if name in _images(schema) and name != image), None)
    return Columns(_image(schema, path, image), label, box, mask, names, text, box_format, fields)


def _image(schema: pa.Schema, path: Path, image: str) -> str:
    images = _images(schema)
    candidates = [name for name in images if name not in (MASK, CODED_MASK)]
    if image:
        if image not in images:
            raise unknown_name(f"data.image of {str(path)!r}:", image, images)
        return image
    if len(candidates) > 1:
        raise UserError(
            f"{str(path)!r} has several columns of images, {', '.join(map(repr, candidates))}; name one:"
            f" --set data.image={candidates[0]}"
        )
    if not candidates:
        raise UserError(f"{str(path)!r} has no column of images (structs of bytes and path) among {_kinds(schema)}")
    return candidates[0]


def _images(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if is_image(field.type)]


def _kinds(schema: pa.Schema) -> str:
    """The columns and their types, the first of many."""
    return first_few([f"{field.name} ({shortened(str(field.type), _KIND)})" for field in schema], _SHOWN)


def _label(schema: pa.Schema, features: dict) -> tuple[str | None, bool]:
    """The column of labels, None if there is none, and whether it holds text."""
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    class_labels = [name for name in integers if _names(features, name)]
    label = next((name for some in (class_labels, integers) for name in LABELS if name in some), None)
    if label is None and len(class_labels) == 1:
        label = class_labels[0]
    if label is not None:
        return label, False
    texts = [field.name for field in schema if field.name in LABELS and _is_text(field.type)]
    return (texts[0], True) if texts else (None, False)


def no_label(path: Path, schema: pa.Schema) -> UserError:
    """The `UserError` for a file without labels."""
    named = [schema.field(name) for name in LABELS if name in schema.names]
    there = (
        f"; its {named[0].name!r} is {shortened(str(named[0].type), _KIND)}" if named else f", among {_kinds(schema)}"
    )
    return UserError(f"{str(path)!r} has no 'label', a column of whole numbers or names of classes{there}")


def _box(schema: pa.Schema, path: Path) -> tuple[str | None, str, tuple[str, ...] | None]:
    """The column of boxes, None if there is none; what its numbers mean; its fields if it is a struct."""
    boxes = [field for field in schema if field.name in BOX_FORMATS]
    others = [f for f in schema if f.name.startswith("bbox_") and (_is_numbers(f.type) or _fields(f.type))]
    if len(boxes) > 1:
        names = ", ".join(repr(field.name) for field in boxes)
        raise UserError(f"{str(path)!r} has several columns of boxes, {names}; keep one")
    if not boxes:
        if others:
            raise unknown_name(f"{str(path)!r}: the column of boxes", others[0].name, BOX_FORMATS)
        return None, "bbox", None
    (box,) = boxes
    fields = _fields(box.type)
    if not fields and not _is_numbers(box.type):
        raise UserError(f"{str(path)!r} has boxes of type {box.type}, not of four numbers x1, y1, x2, y2")
    return box.name, _BOX_FIELDS[fields] if fields and box.name == "bbox" else box.name, fields


def _fields(kind: pa.DataType) -> tuple[str, ...] | None:
    """The fields of a struct that is a box by their names, else None."""
    names = tuple(kind.field(i).name for i in range(kind.num_fields)) if pa.types.is_struct(kind) else ()
    return next((fields for fields in _BOX_FIELDS if set(fields) == set(names)), None)


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


def is_image(kind: pa.DataType) -> bool:
    """Whether it is a struct with plain bytes. Extension types, such as Ray's, unpickle their content."""
    at = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return at >= 0 and any(of(kind.field(at).type) for of in _BYTES)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(of(value) for of in _TEXT)


def _is_numbers(kind: pa.DataType) -> bool:
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(of(kind) for of in lists) and (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    )
