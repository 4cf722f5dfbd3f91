"""Render pixels: colour maps for attributions and gradients, tiles, and boxes drawn on images."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image, ImageDraw

COLUMNS, COLUMNS_LARGE = 6, 4  # test images per composite, and if they are larger than SMALL pixels
SMALL, SIDE = 32, 64  # pixels per side; larger images are downsampled to SIDE
ENLARGED = 128  # approximate pixels per side of images with boxes
# Dark to bright in even steps of lightness: readable with colour vision deficiencies and in print.
HEAT = ("#090c24", "#3a1d6c", "#822e88", "#c84d72", "#f47f62", "#f8c261", "#faf8d2")
SHADES = 32  # number of colours of a map
TOP = 0.99  # quantile of a map that gets the brightest colour
SPREAD, GREYS = 3, 33  # root mean squares of a gradient from grey to full colour; number of levels
# Boxes in drawing order: colour and width of the edge, name of the colour, source of the box. Each is thinner than
# those that it may cover.
EDGES = {
    "boxes": ("#ffffff", 5, "white", "true box"),
    "located_grad": ("#e69f00", 4, "orange", "gradient map"),
    "located_cam": ("#3fa9f5", 2, "blue", "class activation map"),
}


# From arrays to pixels


def heat_colours(m: np.ndarray) -> np.ndarray:
    """Colour a non-negative map (h, w), scaled from 0 to its 99th percentile. (h, w, 3) uint8"""
    m = np.nan_to_num(m.astype(np.float64), nan=0, posinf=0, neginf=0)
    top = np.quantile(m, TOP) or m.max() or 1.0
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in HEAT])
    shades = np.linspace(0, len(HEAT) - 1, SHADES)
    table = np.stack([np.interp(shades, np.arange(len(HEAT)), channel) for channel in anchors.T], 1)
    levels = np.rint((m / top).clip(0, 1) * (SHADES - 1)).astype(np.int64)
    return np.rint(table).astype(np.uint8)[levels]


def signed_colours(g: np.ndarray) -> np.ndarray:
    """Colour a gradient (h, w, C): grey is 0, full colour three times its root mean square. (h, w, 3) uint8"""
    g = np.nan_to_num(g.astype(np.float64), nan=0, posinf=0, neginf=0)
    size = math.sqrt(np.square(g).mean()) or 1.0
    share = ((g / (SPREAD * size)).clip(-1, 1) + 1) / 2
    levels = np.rint(np.rint(share * (GREYS - 1)) * (255 / (GREYS - 1))).astype(np.uint8)
    return np.repeat(levels, 3 // g.shape[2], axis=2)


def as_tiles(images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The images (h, w, 3), downsampled to at most SIDE pixels per side."""
    return [_shrunk(image) for image in images]


def _shrunk(image: np.ndarray) -> np.ndarray:
    ratio = SIDE / max(image.shape[:2])
    if ratio >= 1:
        return image
    height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def draw_boxes(image: np.ndarray, boxes: Mapping[str, np.ndarray]) -> np.ndarray:
    """The image, enlarged so that boxes are visible, with their edges and a thin dark line inside each."""
    factor = ENLARGED / max(image.shape[:2])
    factor = round(factor) if factor > 1 else factor
    size = [max(1, round(side * factor)) for side in (image.shape[1], image.shape[0])]
    canvas = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    pen = ImageDraw.Draw(canvas)
    for name, (x1, y1, x2, y2) in boxes.items():
        left, top, right, foot = (round(end * factor) for end in (x1, y1, x2 + 1, y2 + 1))
        ends = (left, top, max(left, right - 1), max(top, foot - 1))
        colour, width, *_ = EDGES[name]
        pen.rectangle(ends, outline="#000000", width=width + 1)
        pen.rectangle(ends, outline=colour, width=width)
    return np.asarray(canvas)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes, ends included."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1
    common = float(sides.clip(0).prod())
    areas = [float((box[2:] - box[:2] + 1).prod()) for box in (a, b)]
    return common / (sum(areas) - common)
