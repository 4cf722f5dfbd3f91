"""Images, labels and class names of a torch `Dataset` or a Hugging Face one, by what they have; imports neither."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.data.readers.parquet_columns import LABELS
from harness.errors import UserError, one_line, shown


def columns(dataset: Any) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """Images (N, C, H, W), labels (N,), and the names of the classes, none if it does not know them.

    dataset: `len(dataset)` items, each (image, label) or a row by column. Raises `UserError` for anything else.
    """
    try:
        n = len(dataset)
    except TypeError:
        raise UserError(f"{type(dataset).__name__} has no length; give a data set whose items have numbers") from None
    if not n:
        raise UserError(f"{type(dataset).__name__} is empty")
    try:
        items = [dataset[i] for i in range(n)]
    except Exception as error:  # of anybody's code
        raise UserError(f"{type(dataset).__name__} cannot be read: {one_line(error)}") from error
    image, label = _columns_of(items[0])
    images = [_pixels(item[image], i) for i, item in enumerate(items)]
    shapes = sorted({array.shape for array in images})
    if len(shapes) > 1:
        raise UserError(f"the images differ in shape, {shapes[0]} and {shapes[-1]}; resize them to one")
    return (
        np.stack(images),
        np.asarray([_label(item[label], i) for i, item in enumerate(items)]),
        _classes(dataset, label),
    )


def _columns_of(item: Any) -> tuple[Any, Any]:
    """Where an item has its image and its label."""
    if isinstance(item, Mapping):
        labels = [name for name in LABELS if name in item]
        images = [name for name, value in item.items() if name not in labels and _is_image(value)]
        if len(images) != 1 or not labels:
            raise UserError(
                f"one column of images and one of labels are needed; there are: {', '.join(map(str, item))}"
            )
        return images[0], labels[0]
    if isinstance(item, Sequence) and len(item) == 2:
        return 0, 1
    raise UserError(f"an item is a {type(item).__name__}, not an image and its label")


def _is_image(value: Any) -> bool:
    return hasattr(value, "convert") or np.ndim(value) in (2, 3)


def _pixels(image: Any, i: int) -> np.ndarray:
    """An image (C, H, W): of Pillow, or an array or tensor (C, H, W) or (H, W)."""
    if hasattr(image, "convert"):
        return np.atleast_3d(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))).transpose(2, 0, 1)
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.ndim not in (2, 3):
        raise UserError(f"image {i} has the shape {array.shape}, not that of an image")
    return array if array.ndim == 3 else array[None]


def _label(value: Any, i: int) -> int:
    try:
        return operator.index(value.item() if hasattr(value, "item") else value)
    except TypeError:
        raise UserError(f"label {i} is {shown(value)}, not a whole number") from None


def _classes(dataset: Any, label: Any) -> Sequence[str]:
    features = getattr(dataset, "features", None)  # of Hugging Face's
    names = getattr(features[label], "names", None) if isinstance(features, Mapping) and label in features else None
    names = names or getattr(dataset, "classes", None)  # of torchvision's
    return [str(name) for name in names] if isinstance(names, Sequence) and not isinstance(names, str) else []
