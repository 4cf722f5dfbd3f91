"""Interpret bounding boxes by the name of their column: corners or sides, pixels or shares; refuse what is doubtful.

BOX_FORMATS["bbox_xywh"]((3, 4, 10, 20), width, height) -> (3, 4, 12, 23)
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

from harness.errors import UserError

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, inclusive
Corners = tuple[float, float, float, float]  # left, top, right, bottom as lengths from the image's corner
ToBox = Callable[[Sequence[float], int, int], Box]  # (numbers, width, height of the image) -> Box

_TOLERANCE = 1.0  # pixels that a box of lengths may reach beyond its image: rounding by whoever drew it
_DECIMALS = 3  # of a pixel: a share times a side is not exactly the corner it was made from


def as_given(numbers: Sequence[float], width: int, height: int) -> Box:
    """The box of a published archive: x1, y1, x2, y2 in pixels, inclusive."""
    x1, y1, x2, y2 = map(int, numbers)
    return x1, y1, x2, y2


def inclusive(numbers: Sequence[float], width: int, height: int) -> Box:
    """x1, y1, x2, y2 in pixels, the last column and row included. Raises `UserError` for any other meaning."""
    _refuse_shares(numbers, width, height)
    x1, y1, x2, y2 = (math.floor(number) for number in numbers)
    if x1 > x2 or y1 > y2:
        raise UserError(
            f"box {tuple(numbers)} ends before it begins, in the {width}x{height} image;"
            f" name the column bbox_xywh if it is {_XYWH}"
        )
    if x2 == width or y2 == height:
        raise UserError(
            f"box {tuple(numbers)} ends one pixel outside the {width}x{height} image, whose pixels count from 0;"
            " name the column bbox_xyxy if the end is not included"
        )
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise _outside(numbers, width, height)
    return x1, y1, x2, y2


def covered(numbers: Sequence[float], width: int, height: int, corners: Callable[..., Corners], shares: bool) -> Box:
    """Every pixel that a box given by lengths overlaps. corners(*numbers): its sides. shares: of the image's sides.

    Raises `UserError` for a box that is empty, outside the image, or in shares where it should be in pixels.
    """
    if not shares:
        _refuse_shares(numbers, width, height)
    elif max(map(abs, numbers)) > 1 + _TOLERANCE / min(width, height):
        raise UserError(f"box {tuple(numbers)} is not in shares of the image's sides: these are at most 1")
    scale = (width, height, width, height) if shares else (1, 1, 1, 1)
    x1, y1, x2, y2 = (round(n * side, _DECIMALS) for n, side in zip(corners(*numbers), scale, strict=True))
    if x1 >= x2 or y1 >= y2:
        raise UserError(f"box {tuple(numbers)} is empty")
    if min(x1, y1) < -_TOLERANCE or x2 > width + _TOLERANCE or y2 > height + _TOLERANCE:
        raise _outside(numbers, width, height)
    return max(math.floor(x1), 0), max(math.floor(y1), 0), min(math.ceil(x2), width) - 1, min(math.ceil(y2), height) - 1


def _xyxy(x1: float, y1: float, x2: float, y2: float) -> Corners:
    return x1, y1, x2, y2


def _xywh(x: float, y: float, w: float, h: float) -> Corners:
    return x, y, x + w, y + h


def _cxcywh(x: float, y: float, w: float, h: float) -> Corners:
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _refuse_shares(numbers: Sequence[float], width: int, height: int) -> None:
    if any(isinstance(n, float) for n in numbers) and max(map(abs, numbers)) <= 1 < min(width, height) - 1:
        raise UserError(
            f"box {tuple(numbers)} lies in [0, 1], as shares of the image's sides do;"
            f" name the column bbox_xyxy_shares, or bbox_xywh_shares if it is {_XYWH}"
        )


def _outside(numbers: Sequence[float], width: int, height: int) -> UserError:
    return UserError(f"box {tuple(numbers)} lies outside the {width}x{height} image")


_XYWH = "x, y, width, height"
_CORNERS: dict[str, Callable[..., Corners]] = {"xyxy": _xyxy, "xywh": _xywh, "cxcywh": _cxcywh}

# The columns of boxes by name, and what their four numbers mean.
BOX_FORMATS: dict[str, ToBox] = {"bbox": inclusive}
for _name, _corners in _CORNERS.items():
    BOX_FORMATS[f"bbox_{_name}"] = partial(covered, corners=_corners, shares=False)
    BOX_FORMATS[f"bbox_{_name}_shares"] = partial(covered, corners=_corners, shares=True)
BOX_FORMATS["bbox_coco"] = BOX_FORMATS["bbox_xywh"]
BOX_FORMATS["bbox_yolo"] = BOX_FORMATS["bbox_cxcywh_shares"]
BOX_FORMATS["bbox_albumentations"] = BOX_FORMATS["bbox_xyxy_shares"]
