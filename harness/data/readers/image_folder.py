"""Read a folder of image files with one subfolder per class, as torchvision's ImageFolder does."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness.data.readers.common import Part, Raw, Reader, contents, stamp
from harness.data.readers.images import Encoded, decoded_upright
from harness.data.readers.stack import stack
from harness.errors import UserError

LAYOUT = "folders of classes (train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png)"

_PART = re.compile(r"(train|test|val)[a-z]*")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

Folders = dict[str, Path]  # class -> its folder


def holds(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return bool(_parts(folder).get("train"))


def reader(folder: Path) -> Reader:
    """The reader of this folder. Raises `UserError` if a class of the test part is not in the training part."""
    parts = _parts(folder)
    train, test = parts["train"], parts.get("test") or parts.get("val", {})
    for name in sorted(test.keys() - train.keys()):
        raise UserError(f"{str(test[name])!r} is a class that no training image has; there are: {', '.join(train)}")
    unlabelled = "test" not in parts and (folder / "test").is_dir() and test
    notes = ("the test part has no folders of classes: the validation part is the test part",) if unlabelled else ()
    return Reader(
        partial(_read, train, test, notes), partial(stamp, "classes-1", folder, _files(train, test)), tested=bool(test)
    )


def _parts(folder: Path) -> dict[str, Folders]:
    """The class folders of each part; all are for training if the folder has no parts."""
    parts: dict[str, Folders] = {}
    for subfolder in _subfolders(folder):
        if (named := _PART.fullmatch(subfolder.name.lower())) and (classes := _classes(subfolder)):
            parts.setdefault(named[1], classes)
    return parts or {"train": _classes(folder)}


def _classes(folder: Path) -> Folders:
    return {path.name: path for path in _subfolders(folder) if next(_images(path), None)}


def _subfolders(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.is_dir() and not path.name.startswith((".", "__")))


def _images(folder: Path) -> Iterator[str]:
    """The image files in a folder, at any depth."""
    for directory, _, names in os.walk(folder):
        yield from (os.path.join(directory, name) for name in names if _is_image(name))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _files(*parts: Folders) -> list[str]:
    return [path for part in parts for folder in part.values() for path in _images(folder)]


def _read(train: Folders, test: Folders, notes: tuple[str, ...], size: int) -> Raw:
    labels = {name: y for y, name in enumerate(train)}
    return Raw(_part(train, labels, size), _part(test, labels, size) if test else None, tuple(train), notes)


def _part(folders: Folders, labels: dict[str, int], size: int) -> Part:
    listed = [(path, labels[name]) for name, folder in folders.items() for path in sorted(_images(folder))]
    encoded = (Encoded(repr(path), contents(Path(path)), y) for path, y in listed)
    return stack(decoded_upright(encoded, size), len(listed))
