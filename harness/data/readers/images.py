"""Decode and resize images to uint8 arrays, with their boxes and masks."""

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from harness.data.readers.common import UNKNOWN, Part
from harness.errors import UserError, one_line

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, inclusive

# Formats tried on untrusted bytes: some of Pillow's others start programs, such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_CHUNK = 512  # encoded images in memory at once
_LARGE = 4096  # bytes per encoded image above which decoding in threads pays off


def nonblack_mask(x: np.ndarray) -> np.ndarray:
    """Mask (H, W) uint8 from an image (C, H, W): 0 where black, else 1."""
    return np.any(x > 0, axis=0).astype(np.uint8)


class Encoded(NamedTuple):
    """An encoded image with label, box and mask.

    where: its name in messages. mask: an encoded image, whose pixels (C, H, W) uint8 `to_mask` converts to a mask
    (H, W) in {0, 1, 255}.
    """

    where: str
    image: bytes
    y: int
    box: Box | None = None
    mask: bytes | None = None
    to_mask: Callable[[np.ndarray], np.ndarray] = nonblack_mask


class Sample(NamedTuple):
    """A decoded image: x (C, H, W) uint8, C 1 for grey and 3 for colour; mask (H, W) uint8 in {0, 1, 255}."""

    where: str
    x: np.ndarray
    y: int
    box: Box | None = None
    mask: np.ndarray | None = None


def decoded(encoded: Iterable[Encoded], size: int) -> Iterator[Sample]:
    """Decode in order, resized to size x size unless size is 0, with a bounded number in memory.

    Raises `UserError` for an image that cannot be decoded.
    """
    encoded = iter(encoded)
    with ThreadPoolExecutor() as threads:
        while chunk := list(islice(encoded, _CHUNK)):
            large = sum(len(e.image) for e in chunk) > _LARGE * len(chunk)
            yield from (threads.map if large else map)(lambda e: _decode(e, size), chunk)


def _decode(encoded: Encoded, size: int) -> Sample:
    where, data, y, box, encoded_mask, to_mask = encoded
    mask = None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            x = pixels(image, size)
            box = box and scaled(box, *image.size, size)
        if encoded_mask is not None:
            with Image.open(io.BytesIO(encoded_mask), formats=FORMATS) as image:
                mask = to_mask(pixels(image, size, Image.Resampling.NEAREST))
            if mask.shape != x.shape[1:]:
                raise ValueError("its mask has another size")
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise UserError(f"cannot decode {where}: {reason}") from None
    return Sample(where, x, y, box, mask)


def pixels(image: Image.Image, size: int, resampling: int = Image.Resampling.BILINEAR) -> np.ndarray:
    """The image as (C, H, W) uint8: one channel if grey, else RGB without transparency."""
    if image.mode[0] in "IF":
        raise ValueError(f"{image.mode} has more than 8 bits a channel")
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if size and image.size != (size, size):
        image = image.resize((size, size), resampling)
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def resized(x: np.ndarray, size: int) -> np.ndarray:
    """Grey images (N, 1, H, W) uint8 resized to size x size; unchanged if size is 0."""
    return np.stack([pixels(Image.fromarray(image[0]), size) for image in x])


def scaled(box: Box, width: int, height: int, size: int) -> Box:
    """The box after resizing to size x size: every pixel it overlaps, clipped to the image.

    From 64 to 32 pixels that halves each coordinate, rounded down, as in Mangla et al.'s code. Raises `ValueError` for
    a box outside the image.
    """
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], width - 1), min(box[3], height - 1)
    if x1 > x2 or y1 > y2:
        raise ValueError(f"box {box} (x1, y1, x2, y2) has nothing inside the {width}x{height} image")
    w, h = size or width, size or height
    return x1 * w // width, y1 * h // height, ((x2 + 1) * w - 1) // width, ((y2 + 1) * h - 1) // height


def boxes_around(masks: np.ndarray) -> np.ndarray:
    """Bounding boxes (N, 4) int16 of non-empty masks (N, H, W)."""
    sides = np.any(masks, axis=1), np.any(masks, axis=2)  # columns and rows with mask pixels
    first = [side.argmax(1) for side in sides]
    last = [side.shape[1] - 1 - side[:, ::-1].argmax(1) for side in sides]
    return np.stack(first + last, 1).astype(np.int16)


def stack(samples: Iterable[Sample], n: int) -> Part:
    """Stack n samples into one part.

    If any image has colour, grey ones get three equal channels; if any has a mask, the masks of the others are unknown
    throughout. Raises `UserError` if sizes differ or memory does not suffice.
    """
    columns: dict[str, np.ndarray] = {}
    for i, sample in enumerate(samples):
        if not i:
            try:
                columns = _columns(sample, n)
            except MemoryError:
                raise UserError(f"{n} images like {sample.where} do not fit into memory") from None
        x = columns["x"]
        if x.shape[2:] != sample.x.shape[1:]:
            sizes = " and ".join(f"{w}x{h}" for h, w in (x.shape[2:], sample.x.shape[1:]))
            raise UserError(f"{sample.where} differs in size ({sizes}); give all one by --set data.size=32")
        if len(sample.x) > x.shape[1]:
            columns["x"] = x = x.repeat(3, axis=1)
        x[i] = sample.x
        columns["y"][i] = sample.y
        if sample.box:
            columns["boxes"][i] = sample.box
        if sample.mask is not None:
            if "masks" not in columns:
                columns["masks"] = np.full((n, *x.shape[2:]), UNKNOWN, np.uint8)
            columns["masks"][i] = sample.mask
    return Part(**columns)


def _columns(first: Sample, n: int) -> dict[str, np.ndarray]:
    columns = {"x": np.empty((n, *first.x.shape), np.uint8), "y": np.empty(n, np.int64)}
    if first.box:
        columns["boxes"] = np.empty((n, 4), np.int16)
    return columns
