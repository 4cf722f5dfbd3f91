"""What a reader gives: both parts of a data set as arrays of bytes, and a stamp of its files; how it reads a file."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import Mistake

UNKNOWN = 255  # of a mask's pixel: neither object nor ground


@dataclass(frozen=True)
class Part:
    """x (N, C, H, W) uint8; y (N,) int64.

    boxes (N, 4) int16 x1, y1, x2, y2 inclusive; masks (N, H, W) uint8: 0 ground, 1 object, 255 not known.
    """

    x: np.ndarray
    y: np.ndarray
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that are there."""
        return {name: array for name, array in vars(self).items() if array is not None}

    def take(self, index: np.ndarray) -> "Part":
        return Part(**{name: array[index] for name, array in self.columns().items()})


@dataclass(frozen=True)
class Raw:
    train: Part
    test: Part
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Reader:
    """read(size) -> Raw, resized to size x size where size is not 0. stamp() changes when the files do."""

    read: Callable[[int], Raw]
    stamp: Callable[[], str]


def stamp(version: str, folder: Path, files: Iterable[str | Path]) -> str:
    """`version` of the reader, and a digest of the files' names under `folder`, sizes and times of change."""
    digest = hashlib.sha256()
    start = len(os.fspath(folder))
    for path in sorted(map(os.fspath, files)):
        try:
            status = os.stat(path)
        except OSError as error:
            raise Mistake(f"cannot read {path!r}: {error.strerror}") from None
        digest.update(f"{path[start:]}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return f"{version}-{digest.hexdigest()}"


def contents(path: Path) -> bytes:
    """The bytes of a file. Raises `Mistake` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Mistake(f"cannot read {str(path)!r}: {error.strerror}") from None


def within(folder: Path, name: str, listed: Path) -> Path:
    """`folder / name`. Raises `Mistake` where the name, as the file `listed` has it, leads out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise Mistake(f"{str(listed)!r} names {name!r}, which is not in {str(folder)!r}")
    return folder / name


def lines(path: Path, fields: int = 1, separator: str | None = "\t") -> list[list[str]]:
    """The fields, at least so many, of each line of a text file that is not empty; None: parted by blanks."""
    try:
        found = [line.strip().split(separator) for line in contents(path).decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise Mistake(f"{str(path)!r} is not text") from None
    for line in found:
        if len(line) < fields:
            raise Mistake(f"{str(path)!r} has a line {line[0][:40]!r} with fewer than {fields} fields")
    return found
