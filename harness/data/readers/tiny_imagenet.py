"""Read Tiny-ImageNet's folders: one file per image, classes are WordNet ids."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness.data.readers.boxes import Box
from harness.data.readers.common import Part, Raw, Reader, contents, lines, stamp, within
from harness.data.readers.images import Encoded, decoded
from harness.data.readers.stack import stack
from harness.errors import UserError

LAYOUT = "Tiny-ImageNet's folders with wnids.txt"

_IMAGES = (".jpeg", ".jpg", ".png")
_BOXES = "_boxes.txt"
_VAL = Path("val", "val_annotations.txt")


def holds(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return (folder / "wnids.txt").is_file()


def reader(folder: Path) -> Reader:
    """The reader of this folder."""
    return Reader(read=partial(_read, folder), stamp=lambda: stamp("wordnet-1", folder, _files(folder)))


def _files(folder: Path) -> Iterator[str]:
    yield from (str(p) for p in folder.iterdir() if p.suffix == ".txt")
    for part in ("train", "val"):
        for directory, _, names in os.walk(folder / part):
            yield from (os.path.join(directory, name) for name in names)


def _read(folder: Path, size: int) -> Raw:
    """The training images, and `val` as the test part: the images of `test` have no labels."""
    wnids = sorted({line[0] for line in lines(folder / "wnids.txt")})
    words_file = folder / "words.txt"
    words = {wnid: name for wnid, name, *_ in lines(words_file, 2)} if words_file.is_file() else {}
    folders = [within(folder / "train", wnid, folder / "wnids.txt") for wnid in wnids]
    train = [image for y, class_folder in enumerate(folders) for image in _class(class_folder, y)]
    labels = {wnid: y for y, wnid in enumerate(wnids)}
    test = _validation(folder, wnids, labels)
    classes = tuple(words.get(wnid, wnid) for wnid in wnids)
    return Raw(_part(train, folder, size), _part(test, folder, size), classes)


Listed = tuple[Path, int, Box | None]  # an image, its label, its box


def _class(folder: Path, y: int) -> list[Listed]:
    boxes_file = folder / f"{folder.name}{_BOXES}"
    listed = lines(boxes_file) if boxes_file.is_file() else []
    boxes = {line[0]: _box(line[1:], boxes_file) for line in listed}
    try:
        images = sorted(p for p in (folder / "images").iterdir() if _is_image(p))
    except OSError as error:
        raise UserError(f"cannot read {str(folder / 'images')!r}: {error.strerror}") from None
    return [(path, y, boxes.get(path.name)) for path in images]


def _validation(folder: Path, wnids: list[str], labels: dict[str, int]) -> list[Listed]:
    """The validation images in the order of the archive, also where they were moved into folders of their classes."""
    moved = [
        (path, labels[wnid], None) for wnid in wnids for path in (folder / "val" / wnid).rglob("*") if _is_image(path)
    ]
    if (folder / _VAL).is_file() or not moved:
        where = {path.name: path for path, _, _ in moved}
        return [_annotated(folder, line, labels, where) for line in lines(folder / _VAL, 2)]
    return sorted(moved, key=lambda image: (len(image[0].name), image[0].name))  # val_9 is before val_10


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGES


def _annotated(folder: Path, line: list[str], labels: dict[str, int], moved: dict[str, Path]) -> Listed:
    if line[1] not in labels:
        raise UserError(f"{str(folder / _VAL)!r}: {line[0]!r} has a class that is not in wnids.txt")
    box = _box(line[2:], folder / _VAL) if line[2:] else None
    path = moved.get(line[0]) or within(folder / "val" / "images", line[0], folder / _VAL)
    return path, labels[line[1]], box


def _part(images: list[Listed], folder: Path, size: int) -> Part:
    if not images:
        raise UserError(f"{str(folder)!r} has an empty part: there must be images in train and in val")
    without_box = [path for path, _, box in images if box is None]
    if 0 < len(without_box) < len(images):
        raise UserError(f"{str(without_box[0])!r} has no box, but other images have one")
    encoded = (Encoded(repr(str(path)), contents(path), y, box) for path, y, box in images)
    return stack(decoded(encoded, size), len(images))


def _box(fields: list[str], path: Path) -> Box:
    try:
        x1, y1, x2, y2 = map(int, fields)
    except ValueError:
        raise UserError(f"{str(path)!r}: {' '.join(fields)!r} is not a box x1 y1 x2 y2") from None
    return x1, y1, x2, y2
