"""Readers of data sets as they lie on disk: each gives all images as bytes, and a stamp of the files.

    find("digits", root).read(0) -> Raw(train, test, classes)

`embedded` needs no files; each of the other modules knows one layout of a folder.
"""

from pathlib import Path

from harness.errors import Mistake, unknown
from harness.readers import archives, cub, flowers, parquet, wordnet
from harness.readers.embedded import EMBEDDED
from harness.readers.parts import Part, Raw, Reader

__all__ = ["EMBEDDED", "Part", "Raw", "Reader", "find"]

# In this order: a folder that holds parquet files is read from them, whatever else is there.
LAYOUTS = (parquet, wordnet, cub, flowers, archives)

# Data sets that are known by name, and the module that says what their folder may hold.
NAMED = {name: module for module in (archives, cub, flowers) for name in module.SETS}


def find(name: str, root: Path) -> Reader:
    """The reader for a data set of that name under the data root. Raises `Mistake` where there is none."""
    if name in EMBEDDED:
        return Reader(read=EMBEDDED[name], stamp=lambda: f"{name}-1")
    try:
        return _folder(name, root)
    except OSError as error:
        where = str(error.filename or root)
        raise Mistake(f"data {name!r}: cannot read {where!r}: {error.strerror}") from None


def _folder(name: str, root: Path) -> Reader:
    folder = root / name
    if not name.strip(".") or Path(name).name != name or not folder.is_dir():
        if name not in NAMED:
            raise _unknown(name, root)
        raise Mistake(f"data {name!r}: there is no folder {str(folder)!r}; {_may_hold(name, folder)}")
    for layout in LAYOUTS:
        if layout.holds(folder):
            return layout.reader(folder)
    what = "holds no data set of a known layout" if any(folder.iterdir()) else "is empty"
    raise Mistake(f"data {name!r}: {str(folder)!r} {what}; {_may_hold(name, folder)}")


def _unknown(name: str, root: Path) -> Mistake:
    """A `Mistake` with the nearest name of what is embedded, read by torchvision, or lies under the root."""
    if not root.is_dir():
        mistake = unknown("data", name, {*EMBEDDED, *NAMED})
        return Mistake(f"{mistake} (the data root {str(root)!r} does not exist)")
    there = [p.name for p in root.iterdir() if any(layout.holds(p) for layout in LAYOUTS)]
    return unknown("data", name, {*EMBEDDED, *NAMED, *there})


def _may_hold(name: str, folder: Path) -> str:
    layouts = f"it may hold {parquet.LAYOUT}, or {wordnet.LAYOUT}"
    return f"{layouts}, or {NAMED[name].layout(name, folder)}" if name in NAMED else layouts
