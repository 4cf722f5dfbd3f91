"""A data set made by code: horizontal and vertical bars with noise."""

import numpy as np

from harness.data.readers import Part, Raw
from harness.data.readers.images import resized

TRAIN, TEST = 300, 100


def bars(size: int) -> Raw:
    """300 training and 100 test images, 8x8 grey or size x size, of a bar that lies or stands."""
    rng = np.random.default_rng(0)
    n = TRAIN + TEST
    y = np.arange(n) % 2
    x = rng.integers(0, 96, (n, 1, 8, 8), dtype=np.uint8)
    for image, stands, at in zip(x[:, 0], y, rng.integers(1, 6, n), strict=True):
        bar = image[:, at : at + 2] if stands else image[at : at + 2]
        bar += 128
    x = resized(x, size)
    return Raw(Part(x[:TRAIN], y[:TRAIN]), Part(x[TRAIN:], y[TRAIN:]), classes=("lying", "standing"))


# The settings of every trial on it, unless something else is set.
bars.defaults = {  # type: ignore[attr-defined]  # mypy knows no attributes of functions
    "model": "tiny",
    "epochs": 4,
    "batch": 32,
    "optim.lr": 0.05,
    "optim.schedule": "cosine",
    "measure.eps": (16 / 255, 32 / 255),
    "measure.watch": 2,
}
