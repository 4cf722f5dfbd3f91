"""Reader interface: uint8 arrays of both parts, a fingerprint of the files, and helpers that read files."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from harness.errors import UserError

UNKNOWN = 255  # value of a mask pixel: neither object nor background
PART = re.compile(r"(train|test|val)[a-z]*")  # a part's name, such as validation, in lower case

_Files = TypeVar("_Files")


@dataclass(frozen=True)
class Part:
    """One part of a data set: x (N, C, H, W) uint8; y (N,) int64.

    boxes (N, 4) int16 x1, y1, x2, y2 inclusive; masks (N, H, W) uint8: 0 background, 1 object, 255 unknown. damaged:
    the indices of images that could not be decoded and are to be left out, and why. laid: how many images were
    transparent, and are laid on white.
    """

    x: np.ndarray
    y: np.ndarray
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    damaged: Mapping[int, str] = field(default_factory=dict)
    laid: int = 0

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that are not None."""
        columns = {"x": self.x, "y": self.y, "boxes": self.boxes, "masks": self.masks}
        return {name: array for name, array in columns.items() if array is not None}

    def whole(self, index: np.ndarray) -> np.ndarray:
        """The indices among these of images that are not damaged."""
        return index[~np.isin(index, list(self.damaged))]

    def take(self, index: np.ndarray | slice) -> "Part":
        """The images at these indices, none of them damaged."""
        boxes, masks = (None if array is None else array[index] for array in (self.boxes, self.masks))
        return Part(self.x[index], self.y[index], boxes, masks)


@dataclass(frozen=True)
class Raw:
    """A data set as read from disk, before splitting and shuffling. test: None if the files have no such part.

    notes: what was interpreted, a line each, for the user.
    """

    train: Part
    test: Part | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """read(size) -> Raw, resized to size x size unless size is 0. stamp(): fingerprint that changes with the files.

    tested: whether the files have a test part with labels.
    """

    read: Callable[[int], Raw]
    stamp: Callable[[], str]
    tested: bool = True


def stamp(version: str, folder: Path, files: Iterable[str | Path]) -> str:
    """Fingerprint: the reader's `version`, and a digest of file names below `folder`, sizes and modification times."""
    digest = hashlib.sha256()
    start = len(os.fspath(folder))
    for path in sorted(os.fspath(file) for file in files):
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"cannot read {path!r}: {error.strerror}") from None
        digest.update(f"{path[start:]}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return f"{version}-{digest.hexdigest()}"


def the_only(folder: Path, named: Mapping[str, _Files]) -> _Files:
    """The files of a part by its name. Raises `UserError` for two names: of train and trainval one has the other."""
    if len(named) > 1:
        names = " and ".join(map(repr, sorted(named)))
        raise UserError(f"{str(folder)!r} has {names}, which may be one part or two; move away all but one")
    return next(iter(named.values()))


def contents(path: Path) -> bytes:
    """The bytes of a file. Raises `UserError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None


def within(folder: Path, name: str, listed: Path) -> Path:
    """`folder / name`. Raises `UserError` if the name, listed in the file `listed`, leads out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{str(listed)!r} names {name!r}, which is not in {str(folder)!r}")
    return folder / name


def lines(path: Path, fields: int = 1, separator: str | None = "\t") -> list[list[str]]:
    """The fields of each non-empty line of a text file, split at `separator` (None: at whitespace).

    Raises `UserError` for a file that is not text, or a line of fewer than `fields` fields.
    """
    try:
        rows = [line.strip().split(separator) for line in contents(path).decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} is not text") from None
    for row in rows:
        if len(row) < fields:
            raise UserError(f"{str(path)!r} has a line {row[0][:40]!r} with fewer than {fields} fields")
    return rows
