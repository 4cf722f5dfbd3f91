"""Decode and resize images to uint8 arrays, with their boxes and masks."""

import contextlib
import io
import os
import threading
import warnings
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

MAX_PIXELS = 2**26  # of an image that is decoded, 8192 x 8192; a file of a kilobyte can declare more
MEMORY_SHARE = 0.5  # of this machine's memory, that the images of a part may take: splitting them copies them

_CHUNK = 512  # encoded images in memory at once
_LARGE = 4096  # bytes per encoded image above which decoding in threads pays off
_MANY_PIXELS = 2**22  # of an image above which only one is decoded at a time
_one_at_a_time, _opening = threading.Lock(), threading.Lock()


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
        with _opened(data) as image:
            box = box and scaled(box, *image.size, size)
            x = _bounded_pixels(image, size)
        if encoded_mask is not None:
            with _opened(encoded_mask) as image:
                mask = to_mask(_bounded_pixels(image, size, Image.Resampling.NEAREST))
            if mask.shape != x.shape[1:]:
                raise ValueError("its mask has another size")
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise UserError(f"cannot decode {where}: {reason}") from None
    return Sample(where, x, y, box, mask)


def _opened(data: bytes) -> Image.Image:
    """An image whose header is read; Pillow's own warning of many pixels is left to `_bounded_pixels`."""
    with _opening, warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _bounded_pixels(image: Image.Image, size: int, resampling: int = Image.Resampling.BILINEAR) -> np.ndarray:
    """`pixels` of an opened image, within `MAX_PIXELS`; a larger JPEG that is resized is decoded at a smaller scale.

    Raises `ValueError`, before anything is decoded, for an image that remains larger.
    """
    if size and image.width * image.height > MAX_PIXELS:
        image.draft(None, (size, size))  # only JPEG can
    count = image.width * image.height
    if count > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
    with _one_at_a_time if count > _MANY_PIXELS else contextlib.nullcontext():
        return pixels(image, size, resampling)


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
    check_memory(len(x) * (size * size or x[0].size), f"{len(x)} images of {size}x{size}")
    return np.stack([pixels(Image.fromarray(image[0]), size) for image in x])


def check_memory(needed: int, what: str) -> None:
    """Raise `UserError` if this number of bytes is more than `MEMORY_SHARE` of the memory of this machine.

    Allocating them would succeed, and the machine would run out of memory while they are filled.
    """
    if needed > MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise UserError(f"{what} do not fit into memory: {needed / 1e9:.1f} GB; set a smaller data.size")


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
