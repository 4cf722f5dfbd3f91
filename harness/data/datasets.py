"""Load data sets: decoded once, split by seed, cached as uint8 .npy files that all trials of a node memory-map.

`load(DataSource("digits"), workspace)` returns `Data(train, val, test)`.
"""

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.data import raw_checks, readers
from harness.data.settings import DataSource
from harness.errors import Notice, UserError
from harness.plugins import label
from harness.storage.files import digest, locked, quarantine
from harness.storage.sealed_json import read_json, write_json
from harness.storage.workspace import Workspace

_TEST_SEED = 1  # of a drawn test part
_COLUMNS = ("x", "y", "boxes", "masks")


@dataclass(frozen=True)
class Split:
    """One part of a data set: x (N, C, H, W) uint8; y (N,) int64.

    boxes (N, 4) int16 x1, y1, x2, y2 inclusive; masks (N, H, W) uint8: 0 background, 1 object, 255 unknown.
    """

    x: Tensor
    y: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def head(self, n: int) -> "Split":
        """The first n images, or all if n is 0."""
        return self._map_columns(lambda t: t[:n]) if n else self

    def at(self, index: Tensor | slice) -> "Split":
        """The images at these indices."""
        return self._map_columns(lambda t: t[index])

    def cropped(self, side: int) -> "Split":
        """Centre crops, side x side, as views. The images must be at least that large.

        Boxes are clipped to the crop; a box wholly outside becomes one pixel wide at the nearest edge.
        """
        top, left = ((n - side) // 2 for n in self.x.shape[-2:])
        rows, cols = slice(top, top + side), slice(left, left + side)
        shift = torch.tensor([left, top, left, top], dtype=torch.int16)
        boxes = None if self.boxes is None else (self.boxes - shift.to(self.boxes.device)).clamp(0, side - 1)
        masks = None if self.masks is None else self.masks[:, rows, cols]
        return Split(self.x[:, :, rows, cols], self.y, boxes, masks)

    def to(self, device: str | torch.device) -> "Split":
        return self._map_columns(lambda t: t.to(device))

    def _map_columns(self, change: Callable[[Tensor], Tensor]) -> "Split":
        boxes, masks = (None if t is None else change(t) for t in (self.boxes, self.masks))
        return Split(change(self.x), change(self.y), boxes, masks)


@dataclass(frozen=True)
class Data:
    """Train, validation and test part. checksums: of each part's images and labels, before any limit or crop.

    damaged: how many images of a part could not be decoded and are left out, for the parts that have some. With
    `data.crop`, the training images are larger than those of val and test: `Batches` crops them.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    checksums: dict[str, str]
    damaged: dict[str, int] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return self.train.x.shape[1]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel over the first 10,000 training images, scaled to [0, 1]."""
        x = self.train.x[:10_000].float().div(255)
        return x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp_min(1e-3)


def load(source: DataSource, workspace: Workspace) -> Data:
    """Load a data set from the node's cache; decode it on first use. Raises `UserError` for a bad name or bad files.

    Warns, by a `Notice`, of what is doubtful in it and of what was interpreted.
    """
    if source.name not in readers.EMBEDDED:
        workspace.fetch(source.name)
    reader = _reader(source, workspace)
    later = (source.image, source.test_share) if source.image or source.test_share else ()
    stamp = repr((reader.stamp(), source.val, source.split, source.size, *later))
    folder = workspace.node_cache("data", f"{label(source.name)}-{hashlib.sha256(stamp.encode()).hexdigest()[:10]}")
    with locked(folder.with_name(f"{folder.name}.lock")):
        meta = read_json(folder / "meta.json")
        if meta and not _intact(folder, meta):
            quarantine(folder)
            meta = None
        if meta is None:
            meta = _decode(reader, source, folder)
    for note in meta.get("notes", ()):
        warnings.warn(f"data {source.name!r}: {note}", Notice, stacklevel=1)  # from here: once a process
    splits = {name: _open(folder, name).head(source.limit) for name in ("train", "val", "test")}
    if source.crop:
        _check_crop(source, *splits["train"].x.shape[-2:])
        splits |= {name: splits[name].cropped(source.crop) for name in ("val", "test")}
    return Data(**splits, classes=tuple(meta["classes"]), checksums=meta["checksums"], damaged=meta.get("damaged", {}))


def _reader(source: DataSource, workspace: Workspace) -> readers.Reader:
    reader = readers.find(source.name, workspace.data, source.image)
    if reader.tested and source.test_share:
        raise UserError(f"data.test_share has no effect: data {source.name!r} has a test part")
    if not reader.tested and not source.test_share:
        raise UserError(
            f"data {source.name!r} has no test part with labels; by --set data.test_share=0.2 a seed draws it from the"
            " training part"
        )
    return reader


def test_order(n: int) -> np.ndarray:
    """The fixed permutation (n,) of the test images: position here -> index in the data set's files.

    Files are often sorted by class, and `data.limit` takes the first images, so the order is shuffled, seed 0.
    """
    return np.random.default_rng(0).permutation(n)


def _check_crop(source: DataSource, height: int, width: int) -> None:
    if source.crop > min(height, width):
        raise UserError(f"data.crop {source.crop} is larger than the images of {source.name!r} ({width}x{height})")


def _decode(reader: readers.Reader, source: DataSource, folder: Path) -> dict:
    """Read, check, split and store under `folder`, atomically: it appears complete or not at all. Returns its meta."""
    raw = reader.read(source.size)
    raw_checks.check(source.name, raw)
    order = _order(raw, source)
    notes = [*raw.notes, *raw_checks.doubts(raw, order)]
    raw = _match_channels(raw)
    parts = {name: raw.train if name != "test" or raw.test is None else raw.test for name in order}
    damaged = {name: n for name, i in order.items() if (n := len(i) - len(parts[name].whole(i)))}
    checksums = {}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            temporary_folder = Path(temporary, folder.name)
            temporary_folder.mkdir()
            for name, part in parts.items():
                split = part.take(part.whole(order[name]))
                checksums[name] = checksum(split.x, split.y)
                for column, array in split.columns().items():
                    np.save(temporary_folder / f"{name}-{column}.npy", array)
            meta = {"classes": list(raw.classes), "checksums": checksums, "damaged": damaged, "notes": notes}
            meta["digests"] = {file.name: digest(file) for file in sorted(temporary_folder.glob("*.npy"))}
            write_json(temporary_folder / "meta.json", meta)
            shutil.rmtree(folder, ignore_errors=True)  # an incomplete older version
            temporary_folder.rename(folder)
            return meta
    except OSError as error:
        where = str(folder.parent)
        raise UserError(f"cannot store data {source.name!r} under {where!r}: {error.strerror}") from None


def _intact(folder: Path, meta: dict) -> bool:
    """Whether all files exist with the recorded digests."""
    digests = meta.get("digests", {})
    return bool(digests) and all((folder / n).is_file() and digest(folder / n) == d for n, d in digests.items())


def _order(raw: readers.Raw, source: DataSource) -> dict[str, np.ndarray]:
    """The indices of train, val and test, in their order; of damaged images too, so that no other changes its part.

    Without a test part a seed of its own draws one: the test images are the same whatever is held out.
    """
    training = np.arange(len(raw.train.y))
    if raw.test is None:
        drawn = np.random.default_rng(_TEST_SEED).permutation(len(training))
        n_test = max(1, round(source.test_share * len(drawn)))
        test, training = drawn[:n_test], np.sort(drawn[n_test:])
    else:
        test = test_order(len(raw.test.y))
    n_val = max(1, round(source.val * len(training)))
    if n_val >= len(training):
        raise UserError(f"data {source.name!r} has {len(training)} training images: too few to hold some out")
    training = training[np.random.default_rng(source.split).permutation(len(training))]
    return {"train": training[n_val:], "val": training[:n_val], "test": test}


def _match_channels(raw: readers.Raw) -> readers.Raw:
    """Repeat the channel of a greyscale part to three if the other part is in colour."""
    if raw.test is None or raw.train.x.shape[1] == raw.test.x.shape[1]:
        return raw
    return replace(raw, train=_in_colour(raw.train), test=_in_colour(raw.test))


def _in_colour(part: readers.Part) -> readers.Part:
    return replace(part, x=part.x.repeat(3 // part.x.shape[1], axis=1))


def checksum(x: np.ndarray, y: np.ndarray) -> str:
    """SHA-256 of shape, pixels and labels, 16 hex digits."""
    digest = hashlib.sha256(repr(x.shape).encode())
    digest.update(np.ascontiguousarray(x).data)
    digest.update(np.ascontiguousarray(y, dtype="<i8").data)
    return digest.hexdigest()[:16]


def _open(folder: Path, name: str) -> Split:
    """One part, memory-mapped copy-on-write: processes share the pages, and torch gets writable memory."""
    paths = {c: folder / f"{name}-{c}.npy" for c in _COLUMNS}
    arrays = {c: np.load(path, mmap_mode="c") for c, path in paths.items() if path.exists()}
    return Split(**{c: torch.from_numpy(array) for c, array in arrays.items()})
