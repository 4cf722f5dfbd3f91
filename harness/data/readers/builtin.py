"""Data sets without files: scikit-learn's digits, and synthetic shapes."""

import operator
from collections.abc import Callable
from functools import reduce

import numpy as np

from harness.data.readers.common import Part, Raw
from harness.data.readers.images import boxes_around, check_memory, resized
from harness.errors import UserError
from harness.plugins import Thing
from harness.plugins.registry import Registry

_TEXTURE_BYTES = 16  # per value of an image while the shapes are drawn: integers of its textures


def digits(size: int) -> Raw:
    """scikit-learn's 1,797 handwritten digits, 8x8 in 17 grey levels; every fifth is a test image."""
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    x = resized(np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8), size)
    test = np.arange(len(y)) % 5 == 4
    train_part, test_part = (Part(x[selected], y[selected].astype(np.int64)) for selected in (~test, test))
    return Raw(train_part, test_part, classes=tuple("0123456789"))


def shapes(size: int, seed: int = 0) -> Raw:
    """2,000 training and 500 test images, 32x32 RGB or size x size, with exact boxes and masks.

    One bright object on a darker, textured background; its shape is the class. Position, size, rotation and colours are
    independent of the class. Only integers and + - * / of doubles are used, which IEEE 754 rounds alike everywhere: a
    seed gives the same bytes on every machine.
    """
    side, train, test = size or 32, 2000, 500
    check_memory((train + test) * 3 * side * side * _TEXTURE_BYTES, f"{train + test} shapes of {side}x{side}")
    rng = np.random.default_rng(seed)
    y = np.concatenate([rng.permutation(np.arange(n) % len(SHAPES)) for n in (train, test)])
    masks = _objects(rng, y, side)
    bright, dark = (rng.integers(*levels, (len(y), 3, 1, 1)) for levels in ((136, 232), (16, 96)))
    texture = _noise(rng, len(y), side, cell=4, level=48) + _noise(rng, len(y), side, cell=1, level=16)
    x = (np.where(masks[:, None], bright, dark) + texture).clip(0, 255).astype(np.uint8)
    everything = Part(x, y, boxes_around(masks), masks.astype(np.uint8))
    return Raw(everything.take(slice(train)), everything.take(slice(train, None)), classes=tuple(SHAPES))


def _objects(rng: np.random.Generator, y: np.ndarray, side: int) -> np.ndarray:
    """Masks (N, side, side) of shapes of classes y, wholly inside the image."""
    n = len(y)
    radius = side * (0.26 + 0.14 * rng.random(n))
    centre = radius + (side - 2 * radius) * rng.random((2, n))
    # A rotation of up to 14 degrees, drawn as the tangent of its half: sine and cosine differ between machines.
    t = (rng.random(n) - 0.5) / 5
    cos, sin = (part[:, None, None] for part in ((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)))
    dy, dx = ((np.arange(side) + 0.5 - c[:, None]) / radius[:, None] for c in centre)
    dy, dx = dy[:, :, None], dx[:, None, :]
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    masks = np.empty(u.shape, bool)
    for k, inside in enumerate(SHAPES.values()):
        masks[y == k] = inside(u[y == k], v[y == k])
    return masks


def _noise(rng: np.random.Generator, n: int, side: int, cell: int, level: int) -> np.ndarray:
    """Smooth noise (n, 3, side, side) in [-level, level]: random on a grid of cells, linear between."""
    cells = side // cell + 2
    noise = rng.integers(-level, level + 1, (n, 3, cells, cells), dtype=np.int32)
    noise = noise.repeat(cell, 2).repeat(cell, 3)
    # Linear interpolation as a box filter as wide as a cell; in integers, so exact.
    noise = reduce(operator.add, (noise[:, :, i : i + side] for i in range(cell)))
    return reduce(operator.add, (noise[..., i : i + side] for i in range(cell))) // cell**2


def _minimum(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(np.abs(u), np.abs(v))


def _maximum(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v))


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Equilateral, corners at distance 0.95."""
    return (v <= 0.475) & (1.7320508 * np.abs(u) - v <= 0.95)


# Whether a point is inside; (u, v) are in units of the object's radius, and no shape reaches beyond 1.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: u * u + v * v <= 0.64,
    "ring": lambda u, v: np.abs(u * u + v * v - 0.6) <= 0.3,
    "square": lambda u, v: _maximum(u, v) <= 0.68,
    "bar": lambda u, v: (np.abs(u) <= 0.92) & (np.abs(v) <= 0.3),
    "diamond": lambda u, v: np.abs(u) + 2 * np.abs(v) <= 0.98,
    "triangle": _triangle,
    "cross": lambda u, v: (_minimum(u, v) <= 0.26) & (_maximum(u, v) <= 0.9),
    "star": lambda u, v: _triangle(u, v) | _triangle(u, -v),
}


def _check(thing: Thing) -> Callable[[int], Raw]:
    if not callable(thing):
        raise UserError("a data set is a function (size) -> harness.data.readers.Raw")
    return thing


# name -> read(size)
EMBEDDED: Registry[Callable[[int], Raw]] = Registry("data", "data", {"digits": digits, "shapes": shapes}, _check)
