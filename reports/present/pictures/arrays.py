"""Read and validate images, maps, boxes and class names from the arrays of a gallery.npz."""

from collections.abc import Mapping

import numpy as np

from harness.errors import short_name
from reports.present.pictures.pixels import COLUMNS, COLUMNS_LARGE, SMALL

Arrays = Mapping[str, np.ndarray]
CLASS = 60  # characters of a class's name


# All raise ValueError if an array has another type or shape


def read_images(arrays: Arrays, name: str) -> np.ndarray:
    """Images (n, h, w, 3) uint8; grey images get three equal channels."""
    x = arrays[name]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or 0 in x.shape:
        raise ValueError(f"{name} holds no images")
    return np.repeat(x, 3 // x.shape[3], axis=3)


def read_maps(arrays: Arrays, name: str, of: str) -> np.ndarray:
    """Maps (n, h, w) of the images in array `of`."""
    if arrays[name].shape != arrays[of].shape[:3]:
        raise ValueError(f"{name} holds no maps of {of}")
    return arrays[name]


def class_names(arrays: Arrays, name: str, n: int) -> tuple[str, ...]:
    """Names of the first n classes of an array of class indices."""
    classes = arrays[name][:n].tolist()
    if len(classes) != n:
        raise ValueError(f"{name} holds too few classes")
    return tuple(short_name(str(arrays["classes"][c]), CLASS) for c in classes)


def read_boxes(arrays: Arrays, name: str, n: int) -> np.ndarray:
    """The first n boxes (n, 4) x1, y1, x2, y2, ends included."""
    boxes = arrays[name]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) < n or (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"{name} holds no boxes")
    return boxes[:n].astype(np.int64)


def shown_count(arrays: Arrays, name: str) -> int:
    """How many of these images a composite contains."""
    x = read_images(arrays, name)
    return min(len(x), COLUMNS if max(x.shape[1:3]) <= SMALL else COLUMNS_LARGE)
