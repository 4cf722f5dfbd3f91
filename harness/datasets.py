"""Data sets: read once, split by seed, kept as bytes in files that all trials of a machine map into memory.

    load(Source("digits"), place) -> Data(train, val, test)
"""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness import readers
from harness.config import Source
from harness.errors import Mistake
from harness.place import Place, locked, read_json, write_json

_COLUMNS = ("x", "y", "boxes", "masks")


@dataclass(frozen=True)
class Split:
    """x (N, C, H, W) uint8; y (N,) int64; boxes (N, 4) int16 x1, y1, x2, y2 inclusive; masks (N, H, W) uint8 in {0, 1}."""

    x: Tensor
    y: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def head(self, n: int) -> "Split":
        """The first n images, or all of them where n is 0."""
        return self._each(lambda t: t[:n]) if n else self

    def to(self, device: str | torch.device) -> "Split":
        return self._each(lambda t: t.to(device))

    def _each(self, change) -> "Split":
        columns = {c: getattr(self, c) for c in _COLUMNS}
        return Split(**{c: t if t is None else change(t) for c, t in columns.items()})


@dataclass(frozen=True)
class Data:
    """The three parts of a data set. checksums: SHA-256 of each part's images and labels, before any limit."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    checksums: dict[str, str]

    @property
    def channels(self) -> int:
        return self.train.x.shape[1]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel over (at most 10,000) training images in [0, 1]."""
        x = self.train.x[:10_000].float().div(255)
        return x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp_min(1e-3)


def load(source: Source, place: Place) -> Data:
    """The data set, decoded on first use. Raises `Mistake` for anything wrong with its name or its files."""
    reader = readers.find(source.name, place.data)
    stamp = hashlib.sha256(repr((reader.stamp(), source.val, source.split, source.size)).encode()).hexdigest()[:10]
    folder = place.cache("data", f"{source.name}-{stamp}")
    with locked(folder.with_suffix(".lock")):
        if not (folder / "meta.json").exists():
            _decode(reader, source, folder)
    meta = read_json(folder / "meta.json")
    splits = {name: _open(folder, name).head(source.limit) for name in ("train", "val", "test")}
    return Data(**splits, classes=tuple(meta["classes"]), checksums=meta["checksums"])


def _decode(reader: readers.Reader, source: Source, folder: Path) -> None:
    """Read, check, split and store under `folder`, which appears whole or not at all."""
    raw = reader.read(source.size)
    for part in (raw.train, raw.test):
        _check(source.name, part, len(raw.classes))
    order = np.random.default_rng(source.split).permutation(len(raw.train.y))
    held = max(1, round(source.val * len(order)))
    if held >= len(order):
        raise Mistake(f"data {source.name!r} has {len(order)} training images: too few to hold some out")
    parts = {"train": raw.train.take(order[held:]), "val": raw.train.take(order[:held]), "test": raw.test}
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            for name, part in parts.items():
                for column, array in part.columns().items():
                    np.save(Path(temporary, f"{name}-{column}.npy"), np.ascontiguousarray(array))
            checksums = {name: checksum(part.x, part.y) for name, part in parts.items()}
            write_json(Path(temporary, "meta.json"), {"classes": list(raw.classes), "checksums": checksums})
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(temporary, folder.with_suffix(".part"), dirs_exist_ok=True)
            folder.with_suffix(".part").rename(folder)
    except OSError as error:
        raise Mistake(f"cannot keep data {source.name!r} under {str(folder.parent)!r}: {error.strerror}") from None


def _check(name: str, part: readers.Part, classes: int) -> None:
    if not len(part.y):
        raise Mistake(f"data {name!r} has an empty part")
    if part.y.min() < 0 or part.y.max() >= classes:
        raise Mistake(
            f"data {name!r} has labels from {part.y.min()} to {part.y.max()}, but {classes} classes (0 to {classes - 1})"
        )


def checksum(x: np.ndarray, y: np.ndarray) -> str:
    """SHA-256 of shape, pixels and labels, 16 hex digits."""
    digest = hashlib.sha256(repr(x.shape).encode())
    digest.update(np.ascontiguousarray(x).data)
    digest.update(np.ascontiguousarray(y, dtype="<i8").data)
    return digest.hexdigest()[:16]


def _open(folder: Path, name: str) -> Split:
    arrays = {c: folder / f"{name}-{c}.npy" for c in _COLUMNS}
    # Copy-on-write mapping: processes share the pages, and torch gets memory that it may call writable.
    tensors = {c: torch.from_numpy(np.load(p, mmap_mode="c")) for c, p in arrays.items() if p.exists()}
    return replace(Split(tensors["x"], tensors["y"]), **tensors)
