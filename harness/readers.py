"""Readers of data sets as they lie on disk: each gives all images as bytes, and a stamp that tells when they changed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import unknown


@dataclass(frozen=True)
class Part:
    """x (N, C, H, W) uint8; y (N,) int64; boxes (N, 4) int16 x1, y1, x2, y2 inclusive; masks (N, H, W) uint8 in {0, 1}."""

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


def find(name: str, root: Path) -> Reader:
    """The reader for a data set of that name under the data root. Raises `Mistake` where there is none."""
    if name not in EMBEDDED:
        raise unknown("data", name, EMBEDDED)
    return Reader(read=EMBEDDED[name], stamp=lambda: f"{name}-1")


def digits(size: int) -> Raw:
    """scikit-learn's 1,797 real handwritten digits, 8x8 in 17 levels of grey; every fifth is a test image."""
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    x = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    test = np.arange(len(y)) % 5 == 4
    parts = [Part(x[keep], y[keep].astype(np.int64)) for keep in (~test, test)]
    return Raw(*parts, classes=tuple("0123456789"))


EMBEDDED: dict[str, Callable[[int], Raw]] = {"digits": digits}
