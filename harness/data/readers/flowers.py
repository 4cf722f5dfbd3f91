"""Read Oxford Flowers with 17 classes (Nilsback and Zisserman, 2006) and 102 classes (2008)."""

import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from harness.data.readers.common import UNKNOWN, Part, Raw, Reader, contents, stamp
from harness.data.readers.images import Encoded, archive_mask, decoded
from harness.data.readers.stack import stack
from harness.errors import UserError, one_line

SETS = {
    "flower17": "Oxford's files (jpg/image_0001.jpg to image_1360.jpg), with or without their trimaps",
    "flower102": "Oxford's files or torchvision's Flowers102 (jpg, imagelabels.mat, setid.mat), with or without segmim",
}
KINDS = (
    *("daffodil", "snowdrop", "lily of the valley", "bluebell", "crocus", "iris", "tiger lily", "tulip", "fritillary"),
    *("sunflower", "daisy", "colt's foot", "dandelion", "cowslip", "buttercup", "windflower", "pansy"),
)

_PER_CLASS, _TRAIN = 80, 72  # images per class of the 17, and how many of them are for training

# Colours of Oxford's trimaps; pixels of any other colour, a band around the petals, are unlabelled.
_FLOWER, _BACKGROUND = (128, 0, 0), (128, 128, 0)
_MATRIX_BYTES = 2**20  # most bytes of a label file: it is compressed and may expand a thousandfold
_BLUE, _TOLERANCE = (0, 0, 254), 64  # background of the 102 classes' segmentations, and a tolerance above JPEG's error

Listed = tuple[Path, int, Path]  # an image, its label, its mask, which may be missing


def holds(folder: Path) -> bool:
    """Whether the folder has this layout."""
    base = _base(folder)
    return any((base / mark).exists() for mark in ("jpg", "imagelabels.mat", "setid.mat"))


def layout(name: str, folder: Path) -> str:
    """The expected folder layout, for messages."""
    return SETS[name]


def reader(folder: Path) -> Reader:
    """The reader of this folder, for 17 or 102 classes."""
    base = _base(folder)
    many = folder.name == "flower102" or any((base / mark).exists() for mark in ("imagelabels.mat", "setid.mat"))
    return Reader(
        read=partial(read_102 if many else read_17, base), stamp=lambda: stamp("flowers-1", base, _files(base))
    )


def _base(folder: Path) -> Path:
    return folder / "flowers-102" if (folder / "flowers-102").is_dir() else folder


def _files(folder: Path) -> Iterator[str]:
    for directory, _, names in os.walk(folder):
        yield from (os.path.join(directory, name) for name in names)


def read_17(folder: Path, size: int) -> Raw:
    """72 training and 8 test images per class, as in Chen et al. (2019); masks from the trimaps.

    Their choice of 72 depended on the file order of their disk. Here the classes are shuffled in turn by one NumPy
    generator of seed 0. An image without a trimap has a mask that is unknown throughout.
    """
    rng = np.random.default_rng(0)
    train: list[Listed] = []
    test: list[Listed] = []
    for y in range(len(KINDS)):
        numbers = y * _PER_CLASS + 1 + rng.permutation(_PER_CLASS)
        for part, indices in ((train, numbers[:_TRAIN]), (test, numbers[_TRAIN:])):
            names = [f"image_{i:04}" for i in sorted(indices)]
            part += [(folder / "jpg" / f"{name}.jpg", y, folder / "trimaps" / f"{name}.png") for name in names]
    return Raw(_part(train, size, trimap_mask), _part(test, size, trimap_mask), KINDS)


def read_102(folder: Path, size: int) -> Raw:
    """Oxford's training and validation images (2,040 in total) for training, its test images; masks from `segmim`."""
    y, sets = _matrix(folder / "imagelabels.mat", "labels") - 1, folder / "setid.mat"
    if y.min() < 0:
        raise UserError(f"{str(folder / 'imagelabels.mat')!r} has the label {y.min() + 1}; they count from 1")
    train, test = [[*_matrix(sets, "trnid"), *_matrix(sets, "valid")], [*_matrix(sets, "tstid")]]
    unknown = [i for i in train + test if not 1 <= i <= len(y)]
    if unknown:
        raise UserError(f"{str(sets)!r} names image {unknown[0]}, but {len(y)} images have a label")
    jpg, segmim = folder / "jpg", folder / "segmim"

    def part(numbers: list[int]) -> Part:
        listed = [(jpg / f"image_{i:05}.jpg", y[i - 1], segmim / f"segmim_{i:05}.jpg") for i in numbers]
        return _part(listed, size, nonblue_mask)

    return Raw(part(train), part(test), _names(int(y.max()) + 1))


def trimap_mask(x: np.ndarray) -> np.ndarray:
    """Mask (H, W) from a trimap (3, H, W): 1 flower, 0 background, 255 neither."""
    flower, ground = ((x == np.array(colour)[:, None, None]).all(0) for colour in (_FLOWER, _BACKGROUND))
    if not np.any(flower | ground):
        raise ValueError(f"its trimap has neither flower, {_FLOWER}, nor background, {_BACKGROUND}")
    return np.select([flower, ground], [1, 0], UNKNOWN).astype(np.uint8)


def nonblue_mask(x: np.ndarray) -> np.ndarray:
    """Mask (H, W) from a segmentation (3, H, W) of the 102 classes: 0 where blue, else 1."""
    return (np.abs(x.astype(np.int16) - np.array(_BLUE)[:, None, None]).max(0) > _TOLERANCE).astype(np.uint8)


def _part(listed: list[Listed], size: int, convert: Callable[[np.ndarray], np.ndarray]) -> Part:
    missing = [path for path, _, _ in listed if not path.is_file()]
    if missing:
        raise UserError(f"{str(missing[0])!r} is missing, with {len(missing) - 1} more of the {len(listed)} images")
    to_mask = archive_mask(convert)
    encoded = (
        Encoded(repr(str(path)), contents(path), y, mask=contents(mask) if mask.is_file() else None, to_mask=to_mask)
        for path, y, mask in listed
    )
    return stack(decoded(encoded, size), len(listed))


def _matrix(path: Path, name: str) -> np.ndarray:
    """The integers (N,), N > 0, of variable `name` in a MATLAB file. Raises `UserError` for any other content."""
    from scipy.io import loadmat

    file = io.BytesIO(contents(path))
    if file.getbuffer().nbytes > _MATRIX_BYTES:
        raise UserError(f"{str(path)!r} is too large for a list of numbers: {file.getbuffer().nbytes} bytes")
    try:
        numbers = loadmat(file, variable_names=[name])[name].astype(np.int64).ravel()
    except Exception as error:  # a damaged file makes SciPy raise nearly anything
        raise UserError(f"{str(path)!r} holds no numbers {name!r}: {one_line(error)}") from None
    if not len(numbers):
        raise UserError(f"{str(path)!r} holds no numbers {name!r}: it is empty")
    return numbers


def _names(classes: int) -> tuple[str, ...]:
    """The names of the 102 classes as torchvision lists them (Oxford's files have none); else numbers from 1."""
    from harness.models.torchvision_import import torchvision

    names = tuple(getattr(torchvision.datasets.Flowers102, "classes", ()))
    return names if len(names) == classes else tuple(str(k + 1) for k in range(classes))
