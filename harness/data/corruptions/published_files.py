"""Read the published CIFAR-10-C and CIFAR-100-C files of corrupted test images (Hendrycks & Dietterich, 2019).

    folder = find("cifar10", root)                   # None if missing
    folder.check(labels, order)
    folder.images("fog", severity=3, order=order)    # (n, 32, 32, 3) uint8

One .npy file per corruption, with the five severities concatenated, each in the order of the published test images;
labels.npy repeats the labels five times. `order` maps rows: row i of the result is published row order[i].
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.data.corruptions.names import SEVERITIES
from harness.errors import UserError, unknown_name


@dataclass(frozen=True)
class Folder:
    """A folder of corrupted test images. n: images per severity."""

    path: Path
    n: int

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names of the corruptions present."""
        return tuple(file.stem for file in self.files() if file.stem != "labels")

    def files(self) -> list[Path]:
        """All .npy files, sorted by name."""
        return sorted(self.path.glob("*.npy"))

    def images(self, corruption: str, severity: int, order: np.ndarray | None = None) -> np.ndarray:
        """Images (n, H, W, 3) uint8, memory-mapped; with `order`, a copy of those rows. Raises `UserError`."""
        if severity not in SEVERITIES:
            raise UserError(f"a corruption's severity is 1, 2, 3, 4 or 5, not {severity!r}")
        file = self._file(corruption)
        images = _mapped(file)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(f"{str(file)!r} holds {_kind(images)}, not 8-bit images (N, H, W, 3)")
        if len(images) != self.n * len(SEVERITIES):
            wanted = f"{self.n} at each of {len(SEVERITIES)} severities, as labels.npy has"
            raise UserError(f"{str(file)!r} holds {len(images)} images, not {wanted}")
        part = images[(severity - 1) * self.n : severity * self.n]
        return part if order is None else part[order]

    def labels(self) -> np.ndarray:
        """Labels (5, n) int64, one row per severity. Raises `UserError` for a bad file."""
        return _labels(self.path)

    def check(self, labels: np.ndarray, order: np.ndarray | None = None) -> None:
        """Raise `UserError` unless `labels` (n,) are those of the published rows `order` at every severity."""
        order = np.arange(self.n) if order is None else np.asarray(order)
        labels, where = np.asarray(labels), f"{str(self.path / 'labels.npy')!r}"
        if len(labels) != len(order) or (len(order) and order.max() >= self.n):
            raise UserError(f"{where} has {self.n} labels at a severity, and the test images have {len(labels)}")
        wrong = (self.labels()[:, order] != labels).any(0)
        if wrong.any():
            row = int(wrong.argmax())
            count = f"{wrong.sum()} of {len(wrong)}"
            raise UserError(f"{where} differs from the labels of {count} test images, first at row {row}: other data")

    def digest(self, corruption: str) -> str:
        """SHA-256 of the corruption's file, 16 hex digits. Raises `UserError` if it is missing."""
        with open(self._file(corruption), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def _file(self, corruption: str) -> Path:
        if corruption not in self.corruptions:
            raise unknown_name(f"{str(self.path)!r}: corruption", corruption, self.corruptions)
        return self.path / f"{corruption}.npy"


def find(data: str, root: Path) -> Folder | None:
    """The folder of corrupted test images of data set `data` under `root`, or None.

    Raises `UserError` for a folder whose labels cannot be read.
    """
    if data not in FOLDERS:
        return None
    paths = [Path(root, name) for name in (FOLDERS[data], FOLDERS[data].lower())]
    path = next((path for path in paths if path.is_dir()), None)
    return Folder(path, _labels(path).shape[1]) if path else None


def _labels(path: Path) -> np.ndarray:
    labels = _mapped(path / "labels.npy")
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels) or len(labels) % len(SEVERITIES):
        wanted = f"whole numbers (N,) for {len(SEVERITIES)} severities"
        raise UserError(f"{str(path / 'labels.npy')!r} holds {_kind(labels)}, not {wanted}")
    return labels.reshape(len(SEVERITIES), -1).astype(np.int64)


def _mapped(file: Path) -> np.ndarray:
    try:
        with open(file, "rb") as stream:
            magic = stream.read(6)
        if magic != b"\x93NUMPY":
            raise UserError(f"{str(file)!r} is not an .npy file: it begins with {magic!r}; fetch it again")
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror or error}") from None
    except UserError:
        raise
    except (ValueError, EOFError):
        raise UserError(f"{str(file)!r} is cut short or damaged; fetch it again") from None


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


@dataclass(frozen=True)
class Change:
    """Pixel difference between two sets of images, in 8-bit levels: mean and root mean square."""

    mean: float
    rms: float

    def is_close(self, other: "Change", share: float = 0.05, levels: float = 0.25) -> bool:
        """Whether mean and rms differ by at most `share` of the other's rms plus `levels`."""
        tolerance = share * other.rms + levels
        return abs(self.mean - other.mean) <= tolerance and abs(self.rms - other.rms) <= tolerance


def change(clean: np.ndarray, corrupted: np.ndarray) -> Change:
    """The difference from clean to corrupted images, uint8 arrays of one shape."""
    difference = corrupted.astype(np.float64) - clean
    return Change(float(difference.mean()), float(np.sqrt(np.square(difference).mean())))


FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
