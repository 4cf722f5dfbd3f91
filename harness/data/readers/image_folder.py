"""Read a folder of image files with one subfolder per class, as torchvision's ImageFolder does."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from harness.data.readers.common import PART, Part, Raw, Reader, contents, stamp, the_only
from harness.data.readers.images import Encoded, decoded_upright
from harness.data.readers.stack import stack
from harness.errors import UserError, first_few, nearest, shown

LAYOUT = "folders of classes (train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png)"

_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_UNREAD = (".avif", ".dcm", ".exr", ".heic", ".heif", ".jp2", ".jxl", ".npy", ".svg", ".tga")  # images too
_OF_IMAGES = {"image", "images", "img", "imgs", "jpegimages"}  # folders of segmentations, which are no classes
_OF_ANNOTATIONS = {"annotations", "ground_truth", "groundtruth", "gt", "labels", "mask", "masks", "segmentations"}
_NAMED = 3  # folders that a note names

Folders = dict[str, Path]  # class -> its folder


def holds(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return "train" in _parts(folder)


def reader(folder: Path) -> Reader:
    """The reader of this folder.

    Raises `UserError` for a class that only the test part has, and for folders that are no classes.
    """
    parts = {part: the_only(folder, named) for part, named in _parts(folder).items()}
    train, test, val = (parts.get(part, {}) for part in ("train", "test", "val"))
    _check_classes(folder, train)
    if len(test) == 1 and not test.keys() & train.keys():  # such as test/unknown, or test/images
        test = {}
    notes: tuple[str, ...] = ()
    if val and not test:
        if (folder / "test").is_dir():
            notes = ("the test part has no folders of classes: the validation part is the test part",)
        test = val
    for name in sorted(test.keys() - train.keys()):
        raise UserError(f"{str(test[name])!r} is a class that no training image has; {nearest(name, train)}")
    return Reader(
        partial(_read, train, test, notes), partial(stamp, "classes-1", folder, _files(train, test)), tested=bool(test)
    )


def _check_classes(folder: Path, train: Folders) -> None:
    """Raise `UserError` for folders of images and masks, and for one folder that has those of the classes."""
    names = {name.lower() for name in train}
    if names & _OF_IMAGES and names & _OF_ANNOTATIONS:
        raise UserError(
            f"{str(folder)!r} has folders of images and of annotations, {nearest('', train)}, where folders of classes"
            " are needed; masks are read from parquet files"
        )
    if len(train) == 1 and _classes(only := next(iter(train.values()))):
        raise UserError(
            f"{str(folder)!r} has one folder of images, {shown(only.name)}; if the classes lie in it: --data"
            f" {only.name} --data-root {str(only.parent)!r}"
        )


def _parts(folder: Path) -> dict[str, dict[str, Folders]]:
    """Of each part the class folders by its name; all are for training if the folder has no parts."""
    parts: dict[str, dict[str, Folders]] = {}
    for subfolder in _subfolders(folder):
        if (named := PART.fullmatch(subfolder.name.lower())) and (classes := _classes(subfolder)):
            parts.setdefault(named[1], {})[subfolder.name] = classes
    if not parts and (classes := _classes(folder)):
        return {"train": {folder.name: classes}}
    return parts


def _classes(folder: Path) -> Folders:
    return {path.name: path for path in _subfolders(folder) if next(_images(path), None)}


def _subfolders(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _walk(folder: Path) -> Iterator[str]:
    """The files in a folder at any depth, without hidden ones; links are followed, but to no folder above."""
    for directory, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _leads_up(directory, name)]
        yield from (os.path.join(directory, name) for name in names if not name.startswith("."))


def _leads_up(directory: str, name: str) -> bool:
    path = os.path.join(directory, name)
    return os.path.islink(path) and Path(path).resolve() in (above := Path(directory).resolve(), *above.parents)


def _images(folder: Path) -> Iterator[str]:
    """The image files in a folder, at any depth."""
    return filter(_is_image, _walk(folder))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _files(*parts: Folders) -> list[str]:
    return [path for part in parts for folder in part.values() for path in _images(folder)]


def _read(train: Folders, test: Folders, notes: tuple[str, ...], size: int) -> Raw:
    labels = {name: y for y, name in enumerate(train)}
    test_part = _part(test, labels, size) if test else None
    left = _left_out(dict.fromkeys(path.parent for part in (train, test) for path in part.values()))
    return Raw(_part(train, labels, size), test_part, tuple(train), (*notes, *left))


def _left_out(parts: Iterable[Path]) -> Iterator[str]:
    """Images and classes that may be missed in the folders of the parts, a line each."""
    folders = [path for part in parts for path in _subfolders(part)]
    if unread := [path for folder in folders for path in _walk(folder) if path.lower().endswith(_UNREAD)]:
        yield f"{len(unread)} files are of a kind that is not read, and left out, such as {min(unread)!r}"
    if empty := [repr(str(folder)) for folder in folders if not next(_images(folder), None)]:
        yield f"folders without images are no classes: {first_few(empty, _NAMED)}"


def _part(folders: Folders, labels: dict[str, int], size: int) -> Part:
    listed = [(path, labels[name]) for name, folder in folders.items() for path in sorted(_images(folder))]
    encoded = (Encoded(repr(path), contents(Path(path)), y) for path, y in listed)
    return stack(decoded_upright(encoded, size), len(listed))
