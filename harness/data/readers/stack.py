"""Stack decoded images into the arrays of one part; a few damaged ones are left out and counted."""

from collections.abc import Iterable

import numpy as np

from harness.data.readers.common import UNKNOWN, Part
from harness.data.readers.images import Damaged, Sample, cannot_decode, check_memory
from harness.errors import UserError

DAMAGED = 20  # of so many images of a part one may be damaged


def stack(samples: Iterable[Sample | Damaged], n: int) -> Part:
    """Stack n samples into one part.

    If any image has colour, grey ones get three equal channels; if any has a mask, the masks of the others are unknown
    throughout. A damaged image is black here, and in `Part.damaged`. Raises `UserError` if sizes differ, memory does
    not suffice, or more than one of `DAMAGED` images is damaged.
    """
    columns: dict[str, np.ndarray] = {}
    y = np.empty(n, np.int64)
    damaged: dict[int, Damaged] = {}
    laid = 0
    for i, sample in enumerate(samples):
        y[i] = sample.y
        if isinstance(sample, Damaged):
            damaged[i] = sample
            _check_few(damaged, n)
            continue
        if not columns:
            check_memory(n * sample.x.size, f"{n} images like {sample.where}")
            columns = _columns(sample, n)
        x = columns["x"]
        if x.shape[2:] != sample.x.shape[1:]:
            sizes = " and ".join(f"{w}x{h}" for h, w in (x.shape[2:], sample.x.shape[1:]))
            raise UserError(f"{sample.where} differs in size ({sizes}); give all one by --set data.size=32")
        if len(sample.x) > x.shape[1]:
            check_memory(3 * x.size, f"{n} images like {sample.where}")
            columns["x"] = x = x.repeat(3, axis=1)
        x[i] = sample.x
        laid += sample.laid
        if sample.box:
            columns["boxes"][i] = sample.box
        if sample.mask is not None:
            if "masks" not in columns:
                columns["masks"] = np.full((n, *x.shape[2:]), UNKNOWN, np.uint8)
            columns["masks"][i] = sample.mask
    for i in damaged:
        columns["x"][i] = 0
    reasons = {i: f"{image.where}: {image.reason}" for i, image in damaged.items()}
    return Part(**columns, y=y, damaged=reasons, laid=laid)


def _check_few(damaged: dict[int, Damaged], n: int) -> None:
    allowed = n // DAMAGED
    if len(damaged) > allowed:
        first = cannot_decode(next(iter(damaged.values())))
        others = f"; with {allowed} more of {n} images, more than one in {DAMAGED} is damaged" if allowed else ""
        raise UserError(f"{first}{others}")


def _columns(first: Sample, n: int) -> dict[str, np.ndarray]:
    columns = {"x": np.empty((n, *first.x.shape), np.uint8)}
    if first.box:
        columns["boxes"] = np.empty((n, 4), np.int16)
    return columns
