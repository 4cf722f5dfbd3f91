"""Decode and resize images to uint8 arrays, with their boxes and masks."""

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from harness.data.readers.boxes import Box, ToBox, as_given
from harness.errors import UserError, one_line

# (encoded mask, size, width and height of its image) -> (H, W) in {0, 1, 255}
ToMask = Callable[[Image.Image, int, tuple[int, int]], np.ndarray]

# Formats tried on untrusted bytes: some of Pillow's others start programs, such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

MAX_PIXELS = 2**26  # of an image that is decoded, 8192 x 8192; a file of a kilobyte can declare more
MEMORY_SHARE = 0.5  # of this machine's memory, that the images of a part may take: splitting them copies them

GROUND = (255, 255, 255, 255)  # white, on which transparent images are laid

_ORIENTATION, _LYING = ExifTags.Base.Orientation, (5, 6, 7, 8)  # orientations that swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BILINEAR, _NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
_DEEP = re.compile(r";16[BLNS]")  # in Pillow's raw modes: 16 bits a channel in some order of bytes
_CHUNK = 512  # encoded images in memory at once
_LARGE = 4096  # bytes per encoded image above which decoding in threads pays off
_MANY_PIXELS = 2**22  # of an image above which only one is decoded at a time
_one_at_a_time, _opening = threading.Lock(), threading.Lock()


class Encoded(NamedTuple):
    """An encoded image with label, box and mask.

    where: its name in messages. box: four numbers that `to_box` converts to pixels, for the width and height of the
    image. mask: an encoded image that `to_mask` converts to a mask (H, W) in {0, 1, 255}, of that size unless 0.
    """

    where: str
    image: bytes
    y: int
    box: Sequence[float] | None = None
    mask: bytes | None = None
    to_box: ToBox = as_given
    to_mask: ToMask | None = None


class Sample(NamedTuple):
    """A decoded image: x (C, H, W) uint8, C 1 for grey and 3 for colour; mask (H, W) uint8 in {0, 1, 255}.

    laid: whether any of it was transparent, and laid on `GROUND`.
    """

    where: str
    x: np.ndarray
    y: int
    box: Box | None = None
    mask: np.ndarray | None = None
    laid: bool = False


class Damaged(NamedTuple):
    """An image, or its mask, that cannot be decoded, and why."""

    where: str
    y: int
    reason: str


def decoded(encoded: Iterable[Encoded], size: int) -> Iterator[Sample]:
    """Decode the images of a published archive in order, resized to size x size unless size is 0, few in memory.

    They are read as they are stored, as the archive's authors did: whatever EXIF says of their orientation. Raises
    `UserError` for an image that cannot be decoded.
    """
    for sample in _in_order(encoded, partial(_decode, size=size, turn=False)):
        if isinstance(sample, Damaged):
            raise cannot_decode(sample)
        yield sample


def decoded_upright(encoded: Iterable[Encoded], size: int) -> Iterator[Sample | Damaged]:
    """`decoded` for a data set of one's own: turned as EXIF says, and damaged images are said, not raised.

    Raises `UserError` for an image that is whole and cannot be read as it is meant.
    """
    return _in_order(encoded, partial(_decode, size=size, turn=True))


def cannot_decode(image: Damaged) -> UserError:
    """The `UserError` for a damaged image."""
    return UserError(f"cannot decode {image.where}: {image.reason}")


def _in_order(encoded: Iterable[Encoded], decode: Callable[[Encoded], Sample | Damaged]) -> Iterator[Sample | Damaged]:
    encoded = iter(encoded)
    with ThreadPoolExecutor() as threads:
        while chunk := list(islice(encoded, _CHUNK)):
            large = sum(len(e.image) for e in chunk) > _LARGE * len(chunk)
            # The whole chunk: no thread works on when the reader stops, and collects this generator, which joins it.
            yield from list((threads.map if large else map)(decode, chunk))


def _decode(encoded: Encoded, size: int, turn: bool) -> Sample | Damaged:
    where, data, y, box, mask, to_box, to_mask = encoded
    try:
        with opened(data) as image:
            shape, laid = image.size, False
            with bounded(image, size):
                if turn:
                    _check_depth(image)
                    orientation = _orientation(image)
                    shape = shape[::-1] if orientation in _LYING else shape
                    image, laid = _on_ground(_turned(image, orientation))
                pixel_box = None if box is None else scaled(to_box(box, *shape), *shape, size)
                x = pixels(image, size)
        if mask is None or to_mask is None:
            return Sample(where, x, y, pixel_box, laid=laid)
        with opened(mask) as image:
            object_mask = to_mask(image, size, shape)
        if object_mask.shape != x.shape[1:]:
            sizes = " and ".join(f"{w}x{h}" for h, w in (object_mask.shape, x.shape[1:]))
            raise UserError(f"its mask has another size ({sizes}); give both one by --set data.size=32")
        return Sample(where, x, y, pixel_box, object_mask, laid)
    except UserError as error:
        raise UserError(f"cannot decode {where}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
        return Damaged(where, y, reason)


def opened(data: bytes) -> Image.Image:
    """An image whose header is read; Pillow's own warning of many pixels is left to `bounded`."""
    with _opening, warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(io.BytesIO(data), formats=FORMATS)


@contextlib.contextmanager
def bounded(image: Image.Image, size: int = 0) -> Iterator[None]:
    """Decode an opened image within `MAX_PIXELS`, a large one while no other is.

    A larger JPEG that is resized to `size` is decoded at a smaller scale. Raises `UserError` for what remains larger.
    """
    if size and image.width * image.height > MAX_PIXELS:
        image.draft(None, (size, size))  # only JPEG can
    count = image.width * image.height
    if count > MAX_PIXELS:
        raise UserError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
    with _one_at_a_time if count > _MANY_PIXELS else contextlib.nullcontext():
        yield


def _check_depth(image: Image.Image) -> None:
    """Raise `UserError` for 16 bits a channel, in an image that is opened and not yet decoded.

    Pillow drops the lower 8 of colours. Whether 4095 or 65535 is white is not in the file.
    """
    if any(_DEEP.search(repr(tile)) for tile in getattr(image, "tile", ())):
        raise UserError(f"{image.mode} has more than 8 bits a channel; save it with 8")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 if it is upright or does not say; 1 of a TIFF too, which Pillow turns by itself."""
    if image.format == "TIFF":
        return 1
    image.load()  # outside of the lock; EXIF may come behind the pixels
    with _opening, warnings.catch_warnings(action="ignore"), contextlib.suppress(Exception):  # malformed in many ways
        return image.getexif().get(_ORIENTATION, 1)
    return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _on_ground(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image laid on `GROUND` where it is transparent, and whether it is anywhere."""
    if not image.has_transparency_data:
        return image, False
    rgba = image.convert("RGBA")
    laid = Image.alpha_composite(Image.new("RGBA", image.size, GROUND), rgba)
    transparent = bool(np.asarray(rgba.getchannel("A")).min() < 255)
    return laid.convert("L" if image.mode in ("1", "L") else "RGB"), transparent


def pixels(image: Image.Image, size: int, resampling: int = _BILINEAR) -> np.ndarray:
    """The image as (C, H, W) uint8: one channel if grey, else RGB without transparency."""
    if image.mode[0] in "IF":
        raise UserError(f"{image.mode} has more than 8 bits a channel; save it with 8")
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if size and image.size != (size, size):
        image = image.resize((size, size), resampling)
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def archive_mask(convert: Callable[[np.ndarray], np.ndarray]) -> ToMask:
    """`to_mask` of a published archive: convert(pixels (C, H, W)) -> (H, W)."""

    def to_mask(image: Image.Image, size: int, shape: tuple[int, int]) -> np.ndarray:
        with bounded(image, size):
            return convert(pixels(image, size, _NEAREST))

    return to_mask


def whole_masks(masks: Iterable[bytes | None]) -> Iterator[Image.Image]:
    """Decode masks as they are stored, without those that are damaged. Raises `UserError` for one that is too large."""
    for data in masks:
        try:
            with opened(data or b"") as mask, bounded(mask):
                mask.load()
                yield mask
        except (UserError, MemoryError):
            raise
        except Exception:  # it is said when the image is read
            continue


def coded_mask(code: Callable[[Image.Image], np.ndarray]) -> ToMask:
    """`to_mask` of a data set of one's own: code(mask) -> (H, W), turned as EXIF says.

    Raises `UserError` for a mask of other proportions than its image.
    """

    def to_mask(image: Image.Image, size: int, shape: tuple[int, int]) -> np.ndarray:
        with bounded(image):
            mask = code(_turned(image, _orientation(image)))
        height, width = mask.shape
        if abs(width * shape[1] - height * shape[0]) > max(width, height, *shape):  # a pixel, by rounding
            raise UserError(f"its mask is {width}x{height}, the image {shape[0]}x{shape[1]}")
        return np.asarray(Image.fromarray(mask).resize((size, size) if size else (width, height), _NEAREST))

    return to_mask


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
