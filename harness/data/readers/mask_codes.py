"""Interpret the masks of a column: two values, trimap, void, class ids, alpha; refuse what is doubtful.

    code = mask_code(masks); code(mask) -> (H, W) uint8: 0 background, 1 object, 255 unknown

All masks of a data set are looked at first: a single mask does not tell whether its 255 is the object or void.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from harness.data.readers.common import UNKNOWN
from harness.errors import UserError, first_few

_LOSSY = ("JPEG", "WEBP")  # formats that may change a value, so that a code such as 1, 2, 3 cannot be trusted
_TRIMAP = {1: 1, 2: 0, 3: UNKNOWN}  # of the Oxford-IIIT pets
_VOID = 255  # of Pascal VOC, beside the ids of classes
_IDS = frozenset(range(21))  # of Pascal VOC, 0 is background
_MATTING = ({0, 127, 255}, {0, 128, 255})  # trimaps of image matting, whose middle is unknown
_NEAR = 64  # levels from black or white within which noise and soft edges lie
_BETWEEN = 0.1  # most of the pixels that may lie elsewhere: edges
_SOFT_LEVELS = 8  # fewer different levels than this, unevenly spaced, are codes and not soft edges
_COLOURED = 32  # levels between the channels of a pixel that is not grey, whatever a JPEG did to it
_SHOWN = 8  # levels listed in a message


@dataclass(frozen=True)
class MaskCode:
    """A mask as stored -> (H, W) uint8 in {0, 1, 255}. Raises `UserError` for a mask of several objects, by their ids.

    table (256,): of every level the value. levels(mask) -> (H, W). about: what was interpreted, in a line.
    """

    table: np.ndarray
    levels: Callable[[Image.Image], np.ndarray]
    about: str = ""

    def __call__(self, mask: Image.Image) -> np.ndarray:
        levels = self.levels(mask)
        objects = [level for level in np.unique(levels) if level in _IDS and self.table[level] == 1]
        if len(objects) > 1:
            raise UserError(f"its mask has the classes {_listed(objects)}; write 1 for the object, 0 for all others")
        return self.table[levels]


def mask_code(masks: Iterable[Image.Image]) -> MaskCode:
    """What the values of these masks mean. Raises `UserError` if that is not certain."""
    seen = _Survey()
    for mask in masks:
        seen.add(mask)
    return seen.code()


def exact(mask: Image.Image) -> np.ndarray:
    """A mask whose values are the codes themselves. Raises `UserError` for any other value."""
    levels = _levels(mask)
    if other := set(np.unique(levels).tolist()) - {0, 1, UNKNOWN}:
        raise UserError(f"its mask has the value {min(other)}; there are 0 background, 1 object, 255 unknown")
    return levels


@dataclass
class _Survey:
    """How often every level occurs in all masks: of their colours, and of their transparency.

    opaque: whether a mask has different levels and no transparency. void: whether a mask has 255 beside an object's id.
    """

    colours: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    alphas: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    lossy: bool = False
    opaque: bool = False
    void: bool = False
    coloured: UserError | None = None

    def add(self, mask: Image.Image) -> None:
        self.lossy |= mask.format in _LOSSY
        alpha = _alpha(mask)
        self.alphas += np.bincount(alpha.ravel(), minlength=256)
        try:
            levels = _levels(mask)
        except UserError as error:  # of no account if the mask is in the transparency
            self.coloured = error
            return
        if alpha.min() < 255 and set(np.unique(levels[alpha > 127])) == {0, 255}:
            raise UserError("a mask has black, white and transparent pixels; write 0, 1 and 255 for unknown")
        found = set(np.unique(levels).tolist())
        self.opaque |= len(found) > 1 and alpha.min() == 255
        self.void |= _VOID in found and bool(found & (_IDS - {0}))
        self.colours += np.bincount(levels.ravel(), minlength=256)

    def code(self) -> MaskCode:
        if not self.alphas.any():
            raise UserError("none of the masks can be decoded")
        if self.alphas[:255].any():
            if self.opaque:
                raise UserError("some masks are in the alpha channel, others in colours without one; write all alike")
            return MaskCode(_table(self.alphas, lossy=True)[0], _alpha, "the masks are in the alpha channel")
        if self.coloured:
            raise self.coloured
        table, about = _table(self.colours, self.lossy)
        if table[_VOID] == UNKNOWN and self.colours[_VOID] and not self.void:
            raise UserError(
                f"no mask has an object beside {_VOID}, which may be an object or unknown; write 1 for the object, and"
                f" name the column mask_coded if {_VOID} is unknown"
            )
        return MaskCode(table, _levels, about)


def _table(counts: np.ndarray, lossy: bool) -> tuple[np.ndarray, str]:
    """The mask value of every level, from how often the levels occur, and what was interpreted."""
    found = np.flatnonzero(counts)
    codes = set(found.tolist())
    table = np.zeros(256, np.uint8)
    if len(codes) == 1:
        raise UserError(f"all masks have one value, {found[0]}, throughout: they mark no object, or everything")
    if not lossy and codes == set(_TRIMAP):
        table[list(_TRIMAP)] = list(_TRIMAP.values())
        return table, "the masks are trimaps: 1 is the object, 2 background, 3 unknown"
    if not lossy and 0 in codes and len(codes) == 2:
        table[1:] = 1
        return table, ""
    if not lossy and 0 in codes and codes <= _IDS | {_VOID}:
        table[1:_VOID], table[_VOID] = 1, UNKNOWN
        return table, f"the masks have ids of classes, as Pascal VOC's: 0 is background, {_VOID} unknown"
    if not lossy and codes in _MATTING:
        table[found[1]], table[255] = UNKNOWN, 1
        return table, f"the masks have three levels: 0 is background, {found[1]} unknown, 255 the object"
    if _is_soft(counts, lossy):
        table[128:] = 1
        return table, "the masks have noise or soft edges: what is lighter than half is the object"
    raise UserError(
        f"masks have the values {_listed(found)}, which may mean several things; write 0 for background, 1 or 255"
        " for the object; or 0, 1 and 255 for unknown"
    )


def _is_soft(counts: np.ndarray, lossy: bool) -> bool:
    """Whether these are two values, near black and near white, with noise or soft edges between them."""
    found = np.flatnonzero(counts)
    between = counts[_NEAR : 256 - _NEAR]
    middle = counts[120:136].sum()
    return bool(
        found[0] < _NEAR
        and found[-1] >= 256 - _NEAR
        and between.sum() <= _BETWEEN * counts.sum()
        and (lossy or len(found) >= _SOFT_LEVELS or np.diff(found).max() <= _NEAR)
        and not (middle > 0.4 * between.sum() and middle > 0.01 * counts.sum())  # the third value of a trimap
    )


def _levels(mask: Image.Image) -> np.ndarray:
    """The levels (H, W) uint8: of grey, or the indices of a coloured palette."""
    if mask.mode[0] in "IF":
        raise UserError(f"its mask is {mask.mode}, of more than 8 bits a pixel")
    if mask.mode == "P" and (indices := _coded(mask)) is not None:
        return indices
    if mask.mode in ("1", "L", "LA"):
        return np.asarray(mask.convert("L"))
    rgb = np.asarray(mask.convert("RGB"))
    if (rgb.max(2).astype(int) - rgb.min(2)).max() <= _COLOURED:
        return np.asarray(mask.convert("L"))
    colours = np.unique(rgb.reshape(-1, 3), axis=0)
    if len(colours) == 2 and not colours[0].any():  # one colour on black
        return np.where(rgb.any(2), np.uint8(255), np.uint8(0))
    raise UserError(f"its mask has {len(colours)} colours; write 0 for background, 1 for the object, 255 for unknown")


def _coded(mask: Image.Image) -> np.ndarray | None:
    """The indices (H, W) of a mask with a palette; None if the palette is grey, and so its colours are the levels."""
    indices = np.asarray(mask)
    palette = np.array(mask.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = palette[np.unique(indices[indices < len(palette)])]
    return None if (used == used[:, :1]).all() else indices


def _alpha(mask: Image.Image) -> np.ndarray:
    """The opacity (H, W) uint8."""
    if mask.has_transparency_data:
        return np.asarray(mask.convert("RGBA").getchannel("A"))
    return np.full(mask.size[::-1], 255, np.uint8)


def _listed(levels: Iterable[int]) -> str:
    return first_few([str(int(level)) for level in levels], _SHOWN)
