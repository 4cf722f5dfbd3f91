"""Data set readers: detect a folder's layout, read all images as uint8 arrays, and fingerprint the files.

    find("digits", root).read(0) -> Raw(train, test, classes)

`builtin` needs no files; each module in `LAYOUTS` reads one folder layout. What is in the files is decided by `images`
(pixels), `boxes`, `mask_codes` and `stack` (arrays); of parquet by `parquet_folders` and `parquet_columns` too.
"""

import contextlib
import shlex
from pathlib import Path

from harness.data.readers import cub, flowers, image_folder, parquet, tiny_imagenet, torchvision_archives
from harness.data.readers.builtin import EMBEDDED
from harness.data.readers.common import Part, Raw, Reader
from harness.errors import UserError, one_line, unknown_name
from harness.plugins import is_reference

__all__ = ["EMBEDDED", "Part", "Raw", "Reader", "find"]

# Tried in this order: a folder with parquet files is read from them, whatever else it contains.
LAYOUTS = (parquet, tiny_imagenet, cub, flowers, torchvision_archives, image_folder)

# Data sets known by name, and the module that describes the layout of their folder.
NAMED = {name: module for module in (torchvision_archives, cub, flowers) for name in module.SETS}


def find(name: str, root: Path, image: str = "") -> Reader:
    """The reader of the data set `name` under the data root. image: the column of images, if there are several.

    Raises `UserError` if none fits.
    """
    if is_reference(name):
        return _without_columns(name, Reader(read=lambda size: _of_plugin(name, size), stamp=lambda: name), image)
    if name in EMBEDDED:
        return _without_columns(name, Reader(read=EMBEDDED[name], stamp=lambda: f"{name}-1"), image)
    try:
        return _folder(name, root, image)
    except OSError as error:
        where = str(error.filename or root)
        raise UserError(f"data {name!r}: cannot read {where!r}: {error.strerror}") from None


def _without_columns(name: str, reader: Reader, image: str) -> Reader:
    if image:
        raise UserError(f"data.image has no effect: data {name!r} is not a table with columns")
    return reader


def _of_plugin(name: str, size: int) -> Raw:
    try:
        raw = EMBEDDED.find(name)(size)
    except UserError:
        raise
    except Exception as error:  # of anybody's code
        raise UserError(f"data {name!r} cannot be read: {one_line(error)}") from error
    if not isinstance(raw, Raw):
        raise UserError(f"data {name!r} must give a harness.data.readers.Raw, not {type(raw).__name__}")
    return raw


def _folder(name: str, root: Path, image: str) -> Reader:
    folder = root / name
    if not name.strip(".") or Path(name).name != name or not folder.is_dir():
        if name not in NAMED:
            raise _unknown(name, root)
        raise UserError(f"data {name!r}: there is no folder {str(folder)!r}; {_may_hold(name, folder)}")
    for layout in LAYOUTS:
        if layout is parquet and layout.holds(folder):
            return parquet.reader(folder, image)
        if layout.holds(folder):
            return _without_columns(name, layout.reader(folder), image)
    what = "holds no data set of a known layout" if any(folder.iterdir()) else "is empty"
    raise UserError(f"data {name!r}: {str(folder)!r} {what}; {_may_hold(name, folder)}")


def _unknown(name: str, root: Path) -> UserError:
    """A `UserError` that suggests the nearest name among embedded, known and existing data sets."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no path at all
        folder = Path(name).expanduser()
        if folder.name != name and folder.is_dir():
            words = shlex.join(["--data", folder.resolve().name, "--data-root", str(folder.resolve().parent)])
            return UserError(f"data {name!r} is a folder; name it in its data root: {words}")
    if not root.is_dir():
        error = unknown_name("data", name, {*EMBEDDED, *NAMED})
        return UserError(f"{error} (the data root {str(root)!r} does not exist)")
    present = [p.name for p in root.iterdir() if _holds_data(p)]
    return unknown_name("data", name, {*EMBEDDED, *NAMED, *present})


def _holds_data(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # of another user, such as a disk's lost+found
        return any(layout.holds(folder) for layout in LAYOUTS)
    return False


def _may_hold(name: str, folder: Path) -> str:
    layouts = "it may hold " + ", or ".join(layout.LAYOUT for layout in LAYOUTS if hasattr(layout, "LAYOUT"))
    return f"{layouts}, or {NAMED[name].layout(name, folder)}" if name in NAMED else layouts
