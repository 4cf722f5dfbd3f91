"""Data sets: read once, split by seed, kept as bytes in files that all trials of a machine map into memory.

`load(Source("digits"), place)` gives `Data(train, val, test)`.
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
from harness.place import Place, digest, locked, read_json, set_aside, write_json

_COLUMNS = ("x", "y", "boxes", "masks")


@dataclass(frozen=True)
class Split:
    """x (N, C, H, W) uint8; y (N,) int64.

    boxes (N, 4) int16 x1, y1, x2, y2 inclusive; masks (N, H, W) uint8: 0 ground, 1 object, 255 not known.
    """

    x: Tensor
    y: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def head(self, n: int) -> "Split":
        """The first n images, or all of them where n is 0."""
        return self._each(lambda t: t[:n]) if n else self

    def at(self, index: Tensor) -> "Split":
        """The images of these numbers."""
        return self._each(lambda t: t[index])

    def cropped(self, side: int) -> "Split":
        """The centres, side x side, of images at least as large; views of them, no copies.

        A box is clipped to the centre; of one that lies wholly outside, the edge nearest to it stays, a pixel wide.
        """
        top, left = ((n - side) // 2 for n in self.x.shape[-2:])
        rows, cols = slice(top, top + side), slice(left, left + side)
        shift = torch.tensor([left, top, left, top], dtype=torch.int16)
        boxes = None if self.boxes is None else (self.boxes - shift.to(self.boxes.device)).clamp(0, side - 1)
        masks = None if self.masks is None else self.masks[:, rows, cols]
        return Split(self.x[:, :, rows, cols], self.y, boxes, masks)

    def to(self, device: str | torch.device) -> "Split":
        return self._each(lambda t: t.to(device))

    def _each(self, change) -> "Split":
        columns = {c: getattr(self, c) for c in _COLUMNS}
        return Split(**{c: t if t is None else change(t) for c, t in columns.items()})


@dataclass(frozen=True)
class Data:
    """The three parts of a data set. checksums: of each part's images and labels, before any limit or crop.

    Where `data.crop` is set, the training images are larger than those of val and test: `Batches` crops them.
    """

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
    if source.name not in readers.EMBEDDED:
        place.fetch(source.name)
    reader = readers.find(source.name, place.data)
    stamp = repr((reader.stamp(), source.val, source.split, source.size))
    folder = place.staged("data", f"{source.name}-{hashlib.sha256(stamp.encode()).hexdigest()[:10]}")
    with locked(folder.with_name(f"{folder.name}.lock")):
        meta = read_json(folder / "meta.json")
        if meta and not _intact(folder, meta):
            set_aside(folder)
            meta = None
        if meta is None:
            _decode(reader, source, folder)
            meta = read_json(folder / "meta.json")
    splits = {name: _open(folder, name).head(source.limit) for name in ("train", "val", "test")}
    if source.crop:
        _check_crop(source, splits["train"].x.shape[-2:])
        splits |= {name: splits[name].cropped(source.crop) for name in ("val", "test")}
    return Data(**splits, classes=tuple(meta["classes"]), checksums=meta["checksums"])


def test_order(n: int) -> np.ndarray:
    """In which order the n test images of a data set stand here: the numbers (n,) that they have in its files.

    Files often lie sorted by class, and a limit takes the first images: so they are shuffled, always in the same way.
    """
    return np.random.default_rng(0).permutation(n)


def _check_crop(source: Source, size: tuple[int, int]) -> None:
    if source.crop > min(size):
        raise Mistake(f"data.crop {source.crop} is larger than the images of {source.name!r} ({size[1]}x{size[0]})")


def _decode(reader: readers.Reader, source: Source, folder: Path) -> None:
    """Read, check, split and store under `folder`, which appears whole or not at all."""
    raw = reader.read(source.size)
    _check(source.name, raw)
    raw = _in_colour(raw)
    order = np.random.default_rng(source.split).permutation(len(raw.train.y))
    held = max(1, round(source.val * len(order)))
    if held >= len(order):
        raise Mistake(f"data {source.name!r} has {len(order)} training images: too few to hold some out")
    tested = test_order(len(raw.test.y))
    parts = {"train": (raw.train, order[held:]), "val": (raw.train, order[:held]), "test": (raw.test, tested)}
    checksums = {}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            whole = Path(temporary, folder.name)
            whole.mkdir()
            for name, (part, index) in parts.items():
                taken = part.take(index)
                checksums[name] = checksum(taken.x, taken.y)
                for column, array in taken.columns().items():
                    np.save(whole / f"{name}-{column}.npy", array)
            meta = {"classes": list(raw.classes), "checksums": checksums}
            meta["digests"] = {file.name: digest(file) for file in sorted(whole.glob("*.npy"))}
            write_json(whole / "meta.json", meta)
            shutil.rmtree(folder, ignore_errors=True)  # what somebody left of an older one
            whole.rename(folder)
    except OSError as error:
        where = str(folder.parent)
        raise Mistake(f"cannot keep data {source.name!r} under {where!r}: {error.strerror}") from None


def _intact(folder: Path, meta: dict) -> bool:
    """Whether the files are those that were written."""
    digests = meta.get("digests", {})
    return bool(digests) and all((folder / n).is_file() and digest(folder / n) == d for n, d in digests.items())


def _check(name: str, raw: readers.Raw) -> None:
    sizes = [f"{part.x.shape[3]}x{part.x.shape[2]}" for part in (raw.train, raw.test)]
    if sizes[0] != sizes[1]:
        differ = " in train, ".join(sizes)
        raise Mistake(f"data {name!r} has images of {differ} in test; set one size by --set data.size=32")
    for part in (raw.train, raw.test):
        if not len(part.y):
            raise Mistake(f"data {name!r} has an empty part")
        least, most, classes = part.y.min(), part.y.max(), len(raw.classes)
        if least < 0 or most >= classes:
            span = f"labels from {least} to {most}"
            raise Mistake(f"data {name!r} has {span}, but {classes} classes (0 to {classes - 1})")
    if (raw.train.y == raw.train.y[0]).all():
        raise Mistake(f"data {name!r} has training images of one class only; a classifier needs two")


def _in_colour(raw: readers.Raw) -> readers.Raw:
    """The same; where one part is grey and the other is not, the grey one gets three equal channels."""
    channels = max(raw.train.x.shape[1], raw.test.x.shape[1])
    parts = {"train": raw.train, "test": raw.test}
    grey = {n: p for n, p in parts.items() if p.x.shape[1] < channels}
    return replace(raw, **{n: replace(p, x=p.x.repeat(channels, axis=1)) for n, p in grey.items()})


def checksum(x: np.ndarray, y: np.ndarray) -> str:
    """SHA-256 of shape, pixels and labels, 16 hex digits."""
    digest = hashlib.sha256(repr(x.shape).encode())
    digest.update(np.ascontiguousarray(x).data)
    digest.update(np.ascontiguousarray(y, dtype="<i8").data)
    return digest.hexdigest()[:16]


def _open(folder: Path, name: str) -> Split:
    """A part, mapped copy-on-write: processes share the pages, and torch gets memory that it may call writable."""
    paths = {c: folder / f"{name}-{c}.npy" for c in _COLUMNS}
    arrays = {c: np.load(path, mmap_mode="c") for c, path in paths.items() if path.exists()}
    return Split(**{c: torch.from_numpy(array) for c, array in arrays.items()})
