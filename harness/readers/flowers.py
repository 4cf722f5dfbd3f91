"""Oxford's flowers as their archives unpack: 17 kinds (Nilsback and Zisserman, 2006) and 102 kinds (2008)."""

import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from harness.errors import Mistake, one_line
from harness.readers.images import Encoded, decoded, stack
from harness.readers.parts import UNKNOWN, Part, Raw, Reader, contents, stamp

SETS = {
    "flower17": "Oxford's files (jpg/image_0001.jpg to image_1360.jpg), with or without their trimaps",
    "flower102": "Oxford's files or torchvision's Flowers102 (jpg, imagelabels.mat, setid.mat), with or without segmim",
}
KINDS = (
    *("daffodil", "snowdrop", "lily of the valley", "bluebell", "crocus", "iris", "tiger lily", "tulip", "fritillary"),
    *("sunflower", "daisy", "colt's foot", "dandelion", "cowslip", "buttercup", "windflower", "pansy"),
)

_EACH, _TRAIN = 80, 72  # images of a kind among the 17, and how many of them are for training

# Oxford's trimaps are painted in these colours; what has another one, a band around the petals, was not judged.
_FLOWER, _GROUND = (128, 0, 0), (128, 128, 0)
_MATRIX = 2**20  # bytes of a file of labels at most: compressed, so that it may take a thousand times that
_BLUE, _NEAR = (0, 0, 254), 64  # the ground of the 102 kinds' segmentations; JPEG moves a colour by less

Listed = tuple[Path, int, Path]  # an image, its label, its mask, which need not be there


def holds(folder: Path) -> bool:
    base = _base(folder)
    return any((base / mark).exists() for mark in ("jpg", "imagelabels.mat", "setid.mat"))


def layout(name: str, folder: Path) -> str:
    """What a folder of this data set holds, in words."""
    return SETS[name]


def reader(folder: Path) -> Reader:
    base = _base(folder)
    many = folder.name == "flower102" or any((base / mark).exists() for mark in ("imagelabels.mat", "setid.mat"))
    return Reader(
        read=partial(read_102 if many else read_17, base), stamp=lambda: stamp("flowers-1", base, _files(base))
    )


def _base(folder: Path) -> Path:
    return folder / "flowers-102" if (folder / "flowers-102").is_dir() else folder


def _files(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names)


def read_17(folder: Path, size: int) -> Raw:
    """72 training and 8 test images of each kind, as in Chen et al. (2019); masks from the trimaps.

    Which 72 they took followed from the order of files on their disk. Here each kind, from the first on, is shuffled
    by one NumPy generator of seed 0. An image without a trimap has a mask that is unknown throughout.
    """
    rng, (train, test) = np.random.default_rng(0), ([], [])
    for y in range(len(KINDS)):
        numbers = y * _EACH + 1 + rng.permutation(_EACH)
        for part, some in ((train, numbers[:_TRAIN]), (test, numbers[_TRAIN:])):
            names = [f"image_{i:04}" for i in sorted(some)]
            part += [(folder / "jpg" / f"{name}.jpg", y, folder / "trimaps" / f"{name}.png") for name in names]
    return Raw(*(_part(listed, size, trimap) for listed in (train, test)), classes=KINDS)


def read_102(folder: Path, size: int) -> Raw:
    """Oxford's training and validation images (2,040 in all) for training, and its test images; masks from `segmim`."""
    y, sets = _matrix(folder / "imagelabels.mat", "labels") - 1, folder / "setid.mat"
    if y.min() < 0:
        raise Mistake(f"{str(folder / 'imagelabels.mat')!r} has the label {y.min() + 1}; they count from 1")
    train, test = [[*_matrix(sets, "trnid"), *_matrix(sets, "valid")], [*_matrix(sets, "tstid")]]
    strange = [i for i in train + test if not 1 <= i <= len(y)]
    if strange:
        raise Mistake(f"{str(sets)!r} names image {strange[0]}, but {len(y)} images have a label")
    jpg, segmim = folder / "jpg", folder / "segmim"
    listed = [[(jpg / f"image_{i:05}.jpg", y[i - 1], segmim / f"segmim_{i:05}.jpg") for i in p] for p in (train, test)]
    return Raw(*(_part(images, size, not_blue) for images in listed), classes=_names(int(y.max()) + 1))


def trimap(x: np.ndarray) -> np.ndarray:
    """The pixels (3, H, W) of a trimap as a mask (H, W): 1 flower, 0 ground, 255 neither."""
    flower, ground = ((x == np.array(colour)[:, None, None]).all(0) for colour in (_FLOWER, _GROUND))
    if not np.any(flower | ground):
        raise ValueError(f"its trimap has neither flower, {_FLOWER}, nor ground, {_GROUND}")
    return np.select([flower, ground], [1, 0], UNKNOWN).astype(np.uint8)


def not_blue(x: np.ndarray) -> np.ndarray:
    """The pixels (3, H, W) of a segmentation of the 102 kinds as a mask (H, W): 0 where they are blue, else 1."""
    return (np.abs(x.astype(np.int16) - np.array(_BLUE)[:, None, None]).max(0) > _NEAR).astype(np.uint8)


def _part(listed: list[Listed], size: int, reads: Callable[[np.ndarray], np.ndarray]) -> Part:
    missing = [path for path, _, _ in listed if not path.is_file()]
    if missing:
        raise Mistake(f"{str(missing[0])!r} is missing, with {len(missing) - 1} more of the {len(listed)} images")
    encoded = (
        Encoded(repr(str(path)), contents(path), y, mask=contents(mask) if mask.is_file() else None, reads=reads)
        for path, y, mask in listed
    )
    return stack(decoded(encoded, size), len(listed))


def _matrix(path: Path, name: str) -> np.ndarray:
    """The whole numbers (N,), at least one, of that name in a MATLAB file."""
    from scipy.io import loadmat

    file = io.BytesIO(contents(path))
    if file.getbuffer().nbytes > _MATRIX:
        raise Mistake(f"{str(path)!r} is too large for a list of numbers: {file.getbuffer().nbytes} bytes")
    try:
        numbers = loadmat(file, variable_names=[name])[name].astype(np.int64).ravel()
    except Exception as error:  # a damaged file makes SciPy raise nearly anything
        raise Mistake(f"{str(path)!r} holds no numbers {name!r}: {one_line(error)}") from None
    if not len(numbers):
        raise Mistake(f"{str(path)!r} holds no numbers {name!r}: it is empty")
    return numbers


def _names(classes: int) -> tuple[str, ...]:
    """The names of the 102 kinds, which Oxford's files do not hold, as torchvision lists them; else numbers from 1."""
    from harness.vision import torchvision

    names = tuple(getattr(torchvision.datasets.Flowers102, "classes", ()))
    return names if len(names) == classes else tuple(str(k + 1) for k in range(classes))
