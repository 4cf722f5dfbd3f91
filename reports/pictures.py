"""Pictures of what nets see, from the arrays that `harness.gallery` keeps: one composite for each row of the board."""

import base64
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image, ImageDraw

Arrays = Mapping[str, np.ndarray]

ROWS = 10  # of the board, of which there are pictures
COLUMNS, FEWER = 6, 4  # test images of a composite; where they are larger than SMALL pixels, the second number
SMALL, SIDE = 32, 64  # pixels a side; larger images are shrunk to SIDE
ENLARGED = 128  # pixels a side, about, of images that boxes are drawn on
GAP = 1  # pixels between two images of a composite, transparent

# Dark to bright in even steps of lightness, so that order shows to every eye and in print.
HEAT = ("#090c24", "#3a1d6c", "#822e88", "#c84d72", "#f47f62", "#f8c261", "#faf8d2")
SHADES = 32  # of them that a map has
TOP = 0.99  # quantile of a map that is brightest
SPREAD, GREYS = 3, 33  # root mean squares of a gradient between grey and full colour; steps from end to end

_SCALE = (
    "Magnitudes of the label's logit, summed over channels; every map from dark, 0, to bright, its own 99th percentile."
)
# Boxes as they lie on each other: colour and width of the edge, the colour's name, what the box is of. Each is thinner
# than what it may cover.
EDGES = {
    "boxes": ("#ffffff", 5, "white", "true box"),
    "located_grad": ("#e69f00", 4, "orange", "gradient map"),
    "located_cam": ("#3fa9f5", 2, "blue", "class activation map"),
}


@dataclass(frozen=True)
class Picture:
    """A composite as the bytes of a PNG file, of width x height pixels, under its row's name; alt says what is seen.

    note: a few figures of it, to stand beside the name.
    """

    name: str
    png: bytes
    width: int
    height: int
    alt: str
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures of one kind, the best row first. columns: the classes of their images, from left to right."""

    key: str
    caption: str
    remark: str
    columns: tuple[str, ...]
    pictures: list[Picture]


@dataclass(frozen=True)
class _Sheet:
    """tiles: rows of images (h, w, 3) uint8, None where there is none. eps: of the attack that is shown, if any."""

    tiles: list[list[np.ndarray | None]]
    columns: tuple[str, ...]
    alt: str
    note: str = ""
    eps: float | None = None
    gap: int = GAP


@dataclass(frozen=True)
class _Kind:
    """A gallery to be. remark: with `{eps}` where an attack is shown. draw: makes a row's sheet of its arrays.

    once: the test images stand above the rows, in a picture of their own, and not in each.
    """

    caption: str
    remark: str
    draw: Callable[[Arrays], _Sheet]
    once: bool = False


def galleries(files: Mapping[str, Arrays]) -> list[Gallery]:
    """Every gallery that there is something to show of. files: a row's name, the best first -> its arrays.

    Shown are the first ten rows. A row without the arrays of a gallery, or with others than belong there, is left out
    of it. Equal arrays give equal bytes.
    """
    found = [_gallery(key, kind, files) for key, kind in KINDS.items()]
    return [gallery for gallery in found if gallery.pictures]


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _gallery(key: str, kind: _Kind, files: Mapping[str, Arrays]) -> Gallery:
    pictures, sheets, above = [], [], None
    for name, arrays in islice(files.items(), ROWS):
        try:
            sheet, images = kind.draw(arrays), _images(arrays, "x")
            picture = _picture(name, sheet)
        except (KeyError, ValueError, IndexError, TypeError):  # of an older version, or damaged
            continue
        if kind.once and (above is None or not np.array_equal(above, images)):
            above = images
            alt = f"The first test image of each of: {', '.join(sheet.columns)}."
            tiles = [_tiles(images[: len(sheet.columns)])]
            pictures.append(_picture("Test images", _Sheet(tiles, sheet.columns, alt)))
        pictures.append(picture)
        sheets.append(sheet)
    columns = sheets[0].columns if sheets else ()
    eps = " or ".join(f"{e * 255:.4g}/255" for e in sorted({s.eps for s in sheets if s.eps is not None}))
    remark = f"{kind.remark.format(eps=eps)} From left to right: {', '.join(columns)}."
    return Gallery(key, kind.caption, remark, columns, pictures)


# The kinds


def _attribution(arrays: Arrays) -> _Sheet:
    n = _count(arrays, "x")
    names, seen, fooled = (_names(arrays, labels, n) for labels in ("y", "predicted", "attacked_predicted"))
    rows = [
        _tiles(_images(arrays, "x")[:n]),
        _tiles(_heat(m) for m in _maps(arrays, "integrated", "x")[:n]),
        _tiles(_images(arrays, "attacked")[:n]),
        _tiles(_heat(m) for m in _maps(arrays, "attacked_integrated", "attacked")[:n]),
    ]
    fates = zip(names, seen, fooled, strict=True)
    told = "; ".join(f"{name} as {before}, attacked as {after}" for name, before, after in fates)
    right = [name == before for name, before in zip(names, seen, strict=True)]
    kept = sum(was and name == after for was, name, after in zip(right, names, fooled, strict=True))
    note = f"{sum(right)} of {n} right, {kept} under attack"
    alt = f"{n} test images and their attributions, clean and attacked. Seen are {told}."
    return _Sheet(rows, names, alt, note, float(arrays["eps"]))


def _moved(arrays: Arrays) -> _Sheet:
    n = _count(arrays, "moved")
    names = _names(arrays, "y", n)
    common, tau = (arrays[f"moved_{measure}"][:n].astype(np.float64) for measure in ("in", "k"))
    there = np.isfinite(common) & np.isfinite(tau)
    if not there.any():
        raise ValueError("nothing was moved")

    def where_moved(tiles: Iterable[np.ndarray]) -> list[np.ndarray | None]:
        return [tile if moved else None for tile, moved in zip(_tiles(tiles), there, strict=True)]

    rows = [
        _tiles(_heat(m) for m in _maps(arrays, "integrated", "x")[:n]),
        where_moved(_images(arrays, "moved")[:n]),
        where_moved(_heat(m) for m in _maps(arrays, "moved_integrated", "moved")[:n]),
    ]
    each = [
        f"{name}: IN {_percent(c)}, K {_percent(k)}" if moved else f"{name}: not attacked"
        for name, c, k, moved in zip(names, common, tau, there, strict=True)
    ]
    alt = f"Attributions of {n} test images before and after an attack on these. {'; '.join(each)}."
    note = f"IN {_percent(common[there].mean())}, K {_percent(tau[there].mean())}"
    return _Sheet(rows, names, alt, note, float(arrays["moved_eps"]))


def _gradient(arrays: Arrays) -> _Sheet:
    n = _count(arrays, "x")
    names = _names(arrays, "y", n)
    g = arrays["gradient"]
    if g.shape != arrays["x"].shape:
        raise ValueError("a gradient is as large as its image")
    alt = f"The gradients of {n} test images: {', '.join(names)}."
    return _Sheet([_tiles(_signed(each) for each in g[:n])], names, alt)


def _boxes(arrays: Arrays) -> _Sheet:
    n = min(FEWER, _count(arrays, "x"))
    names = _names(arrays, "y", n)
    boxes = {name: _quads(arrays, name, n) for name in EDGES if name in arrays}
    truth = boxes["boxes"]
    if len(boxes) < 2:
        raise ValueError("no box was located")
    drawn = [
        _boxed(image, {name: quads[i] for name, quads in boxes.items()})
        for i, image in enumerate(_images(arrays, "x")[:n])
    ]
    overlaps = {
        EDGES[name][3]: [_iou(*pair) for pair in zip(quads, truth, strict=True)]
        for name, quads in boxes.items()
        if name != "boxes"
    }
    each = [
        f"{name}: {', '.join(f'{what} {_percent(found[i])}' for what, found in overlaps.items())}"
        for i, name in enumerate(names)
    ]
    alt = f"{n} test images with the true and the located boxes. Overlap (IoU) with the true one: {'; '.join(each)}."
    mean = ", ".join(f"{what} {_percent(np.mean(found))}" for what, found in overlaps.items())
    return _Sheet([drawn], names, alt, f"IoU: {mean}", gap=4 * GAP)


def _samples(arrays: Arrays) -> _Sheet:
    n = _count(arrays, "samples")
    names = _names(arrays, "samples_y", n)
    alt = f"What the net draws of: {', '.join(names)}."
    return _Sheet([_tiles(_images(arrays, "samples")[:n])], tuple(names), alt)


# What arrays hold; a ValueError where it is something else


def _images(arrays: Arrays, name: str) -> np.ndarray:
    """Images (n, h, w, 3) uint8, grey ones with three equal channels."""
    x = arrays[name]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or 0 in x.shape:
        raise ValueError(f"{name} holds no images")
    return np.repeat(x, 3 // x.shape[3], axis=3)


def _maps(arrays: Arrays, name: str, of: str) -> np.ndarray:
    """Maps (n, h, w) of the images under another name."""
    if arrays[name].shape != arrays[of].shape[:3]:
        raise ValueError(f"{name} holds no maps of {of}")
    return arrays[name]


def _names(arrays: Arrays, name: str, n: int) -> tuple[str, ...]:
    """What the first n classes (n,) under a name are called."""
    classes = arrays[name][:n].tolist()
    if len(classes) != n:
        raise ValueError(f"{name} holds too few classes")
    return tuple(str(arrays["classes"][c]) for c in classes)


def _quads(arrays: Arrays, name: str, n: int) -> np.ndarray:
    """The first n boxes (n, 4) x1, y1, x2, y2, ends included."""
    boxes = arrays[name]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) < n or (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"{name} holds no boxes")
    return boxes[:n].astype(np.int64)


def _count(arrays: Arrays, name: str) -> int:
    """How many of these images a composite shows."""
    x = _images(arrays, name)
    return min(len(x), COLUMNS if max(x.shape[1:3]) <= SMALL else FEWER)


# From arrays to pixels


def _heat(m: np.ndarray) -> np.ndarray:
    """A map (h, w) without negative values in colours, from 0 to its own 99th percentile. (h, w, 3) uint8"""
    m = np.nan_to_num(m.astype(np.float64), nan=0, posinf=0, neginf=0)
    top = np.quantile(m, TOP) or m.max() or 1.0
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in HEAT])
    shades = np.linspace(0, len(HEAT) - 1, SHADES)
    table = np.stack([np.interp(shades, np.arange(len(HEAT)), channel) for channel in anchors.T], 1)
    levels = np.rint((m / top).clip(0, 1) * (SHADES - 1)).astype(np.int64)
    return np.rint(table).astype(np.uint8)[levels]


def _signed(g: np.ndarray) -> np.ndarray:
    """A gradient (h, w, C) around grey, 0, to three times its own root mean square. (h, w, 3) uint8"""
    g = np.nan_to_num(g.astype(np.float64), nan=0, posinf=0, neginf=0)
    size = math.sqrt(np.square(g).mean()) or 1.0
    share = ((g / (SPREAD * size)).clip(-1, 1) + 1) / 2
    levels = np.rint(np.rint(share * (GREYS - 1)) * (255 / (GREYS - 1))).astype(np.uint8)
    return np.repeat(levels, 3 // g.shape[2], axis=2)


def _tiles(images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The images (h, w, 3), none larger than a page shows."""
    return [_shrunk(image) for image in images]


def _shrunk(image: np.ndarray) -> np.ndarray:
    ratio = SIDE / max(image.shape[:2])
    if ratio >= 1:
        return image
    height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def _boxed(image: np.ndarray, boxes: Mapping[str, np.ndarray]) -> np.ndarray:
    """The image, as large as boxes can be seen on it, with their edges, a thin dark line within each."""
    factor = ENLARGED / max(image.shape[:2])
    factor = round(factor) if factor > 1 else factor
    size = [max(1, round(side * factor)) for side in (image.shape[1], image.shape[0])]
    canvas = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    pen = ImageDraw.Draw(canvas)
    for name, (left, top, right, bottom) in boxes.items():
        ends = [round(end * factor) for end in (left, top, right + 1, bottom + 1)]
        ends = (*ends[:2], max(ends[0], ends[2] - 1), max(ends[1], ends[3] - 1))
        colour, width, *_ = EDGES[name]
        pen.rectangle(ends, outline="#000000", width=width + 1)
        pen.rectangle(ends, outline=colour, width=width)
    return np.asarray(canvas)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes, ends included."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1
    common = float(sides.clip(0).prod())
    areas = [float((box[2:] - box[:2] + 1).prod()) for box in (a, b)]
    return common / (sum(areas) - common)


def _picture(name: str, sheet: _Sheet) -> Picture:
    """The sheet as one PNG; its tiles are all as large as the first."""
    height, width = sheet.tiles[0][0].shape[:2]
    down, across = height + sheet.gap, width + sheet.gap
    rows, columns = len(sheet.tiles), len(sheet.tiles[0])
    canvas = np.zeros((rows * down - sheet.gap, columns * across - sheet.gap, 3), np.uint8)
    drawn = np.zeros(canvas.shape[:2], bool)
    for i, row in enumerate(sheet.tiles):
        for j, tile in enumerate(row):
            if tile is not None:
                place = slice(i * down, i * down + height), slice(j * across, j * across + width)
                canvas[place], drawn[place] = tile, True
    return Picture(name, _png(canvas, drawn, down), canvas.shape[1], canvas.shape[0], sheet.alt, sheet.note)


def _png(colours: np.ndarray, drawn: np.ndarray, band: int) -> bytes:
    """Colours (h, w, 3) uint8 as a PNG file, transparent where nothing is drawn (h, w).

    Pillow filters every line that it writes. That suits photographs and makes maps of few colours twice as large: so
    here each band of lines is left as it is or predicted from its neighbours (Paeth), whichever is smaller.
    """
    numbers = colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    unused = np.setdiff1d(np.arange(drawn.size + 1), numbers[drawn])[0]  # a colour that stands for none
    clear = np.array([unused >> 16, unused >> 8 & 255, unused & 255])
    x = np.where(drawn[..., None], colours, clear)
    ways = [_lines(0, x), _lines(4, x - _paeth(x))]
    parts = [[way[first : first + band].tobytes() for way in ways] for first in range(0, len(x), band)]
    lines = b"".join(min(part, key=lambda data: len(zlib.compress(data, 6))) for part in parts)
    head = struct.pack(">2I5B", x.shape[1], x.shape[0], 8, 2, 0, 0, 0)  # 8 bits, in colour
    chunks = {b"IHDR": head, b"tRNS": struct.pack(">3H", *clear), b"IDAT": zlib.compress(lines, 9), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def _lines(filtered_by: int, x: np.ndarray) -> np.ndarray:
    """Values (h, w, 3), modulo 256, as a PNG file's lines (h, 1 + 3 w): the filter's number before each."""
    return np.pad(x.astype(np.uint8).reshape(len(x), -1), ((0, 0), (1, 0)), constant_values=filtered_by)


def _paeth(x: np.ndarray) -> np.ndarray:
    """Of every value's neighbours, left, above and between, the one nearest to left + above - between."""
    before = np.pad(x, ((1, 0), (1, 0), (0, 0)))
    left, above, between = before[1:, :-1], before[:-1, 1:], before[:-1, :-1]
    far = [np.abs(left + above - between - other) for other in (left, above, between)]
    nearest = np.where(far[1] <= far[2], above, between)
    return np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, nearest)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


KINDS: dict[str, _Kind] = {
    "attribution": _Kind(
        "Attributions, clean and attacked",
        "From top to bottom: image, its integrated gradients, the image under PGD at {eps}, its integrated gradients."
        f" {_SCALE}",
        _attribution,
    ),
    "moved": _Kind(
        "Attributions under an attack on them",
        "From top to bottom: the image's integrated gradients, the image under a short attack on these at {eps} that"
        f" keeps the prediction, its integrated gradients. {_SCALE} An image that the net takes for something else is"
        " not attacked, and one on which no step kept the prediction is not shown. IN: shared part of the most"
        " important pixels; K: Kendall's tau; both times 100, of these images only.",
        _moved,
    ),
    "gradient": _Kind(
        "Gradients",
        "The gradient of the label's logit in every channel: grey is 0, full colour three times the root mean square of"
        " the map.",
        _gradient,
        once=True,
    ),
    "boxes": _Kind(
        "Located boxes",
        "White: the true box. "
        + " ".join(f"{EDGES[name][2].capitalize()}: that of the {EDGES[name][3]}." for name in list(EDGES)[1:])
        + " At the published thresholds; figures are of these images only.",
        _boxes,
    ),
    "samples": _Kind(
        "Images that the nets draw",
        "From a blurred guess of a class up the gradient of its logits (Santurkar et al., 2019).",
        _samples,
    ),
}
