"""Read Caltech-UCSD Birds 200 (Wah et al., 2011): text files list images, labels, boxes and the split."""

import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from harness.data.readers.boxes import Box
from harness.data.readers.common import Part, Raw, Reader, contents, lines, stamp, within
from harness.data.readers.images import Encoded, archive_mask, decoded
from harness.data.readers.stack import stack
from harness.errors import UserError

SETS = {
    "cub": "CUB_200_2011 (images.txt, classes.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt, "
    "images), with segmentations beside it or in it, or not"
}

_IMAGES, _KINDS, _SPLIT, _BOXES = "images.txt", "classes.txt", "train_test_split.txt", "bounding_boxes.txt"
_LABELS = "image_class_labels.txt"


def holds(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return any((_base(folder) / name).is_file() for name in (_IMAGES, _LABELS))


def layout(name: str, folder: Path) -> str:
    """The expected folder layout, for messages."""
    return SETS[name]


def reader(folder: Path) -> Reader:
    """The reader of this folder."""
    return Reader(read=partial(_read, folder), stamp=lambda: stamp("cub-1", folder, _files(folder)))


def _base(folder: Path) -> Path:
    return folder / "CUB_200_2011" if (folder / "CUB_200_2011").is_dir() else folder


def _masks(folder: Path) -> Path:
    inside = _base(folder) / "segmentations"
    return inside if inside.is_dir() else folder / "segmentations"


def _files(folder: Path) -> Iterator[str]:
    base = _base(folder)
    yield from (str(base / name) for name in (_IMAGES, _KINDS, _LABELS, _SPLIT, _BOXES))
    for part in (base / "images", _masks(folder)):
        for directory, _, names in os.walk(part):
            yield from (os.path.join(directory, name) for name in names)


def _read(folder: Path, size: int) -> Raw:
    base = _base(folder)
    images = _table(base / _IMAGES)
    labels, splits, boxes = (_table(base / name, images) for name in (_LABELS, _SPLIT, _BOXES))
    kinds = _table(base / _KINDS)
    names = {kind: y for y, kind in enumerate(kinds)}
    parts: dict[str, list[tuple[Path, int, Box]]] = {"1": [], "0": []}
    for image, (path, *_) in images.items():
        kind, part = labels[image][0], splits[image][0]
        if kind not in names:
            raise UserError(f"{str(base / _LABELS)!r}: image {image} has the class {kind!r}, not in {_KINDS}")
        if part not in parts:
            raise UserError(f"{str(base / _SPLIT)!r}: image {image} has {part!r} instead of 1 (training) or 0 (test)")
        within(base / "images", path, base / _IMAGES)
        parts[part].append((Path(path), names[kind], _box(boxes[image], base / _BOXES)))
    train, test = (_part(parts[part], base / "images", _masks(folder), size) for part in ("1", "0"))
    return Raw(train, test, classes=tuple(name.partition(".")[2] or name for name, *_ in kinds.values()))


def _table(path: Path, ids: dict[str, list[str]] | None = None) -> dict[str, list[str]]:
    """The rows of a list, keyed by their leading id. Raises `UserError` if the ids are not those of `ids`."""
    rows = lines(path, 2, separator=None)
    odd = next((line[0] for line in rows if not line[0].isdecimal()), None)
    if odd is not None:
        raise UserError(f"{str(path)!r} has a line that begins with {odd[:40]!r} instead of a number")
    table = {line[0]: line[1:] for line in rows}
    if not table or len(table) < len(rows):
        raise UserError(f"{str(path)!r} has {len(rows)} lines, but {len(table)} different numbers before them")
    if ids is not None and table.keys() != ids.keys():
        odd = sorted(table.keys() ^ ids.keys(), key=lambda i: (len(i), i))[0]
        lists = f"it, but not {_IMAGES}" if odd in table else f"{_IMAGES}, but not it"
        raise UserError(f"{str(path)!r} has {len(table)} images and {_IMAGES} {len(ids)}: {lists}, has {odd!r}")
    return table


def _box(fields: list[str], path: Path) -> Box:
    """Integer box of every pixel that a fractional box x y width height overlaps."""
    try:
        x, y, width, height = map(float, fields)
        right, bottom = math.ceil(x + width) - 1, math.ceil(y + height) - 1
        if min(width, height) <= 0:
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(f"{str(path)!r}: {' '.join(fields)!r} is not a box x y width height") from None
    return math.floor(x), math.floor(y), right, bottom


def _part(listed: list[tuple[Path, int, Box]], images: Path, masks: Path, size: int) -> Part:
    if not listed:
        raise UserError(f"{str(images.parent / _SPLIT)!r} leaves a part empty: there must be a 1 and a 0")
    to_mask = archive_mask(majority_mask)
    encoded = (
        Encoded(repr(str(images / path)), contents(images / path), y, box, _mask(masks / path), to_mask=to_mask)
        for path, y, box in listed
    )
    return stack(decoded(encoded, size), len(listed))


def _mask(path: Path) -> bytes | None:
    path = path.with_suffix(".png")
    return contents(path) if path.is_file() else None


def majority_mask(x: np.ndarray) -> np.ndarray:
    """Mask (H, W) from a segmentation (C, H, W): 1 where lighter than half.

    The grey level of a pixel is the share of annotators who marked it as bird.
    """
    return (x[0] > 127).astype(np.uint8)
