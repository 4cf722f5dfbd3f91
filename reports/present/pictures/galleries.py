"""Galleries of a report: per kind, one composite picture for each row of the leaderboard."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from reports.present.pictures.arrays import Arrays, class_names, read_boxes, read_images, read_maps, shown_count
from reports.present.pictures.pixels import (
    COLUMNS_LARGE,
    EDGES,
    as_tiles,
    box_iou,
    draw_boxes,
    heat_colours,
    signed_colours,
)
from reports.present.pictures.webp import encode_webp

ROWS = 10  # leaderboard rows with pictures
GAP = 1  # pixels between two images of a composite, transparent
_SCALE = (
    "Magnitudes of the label's logit, summed over channels; every map from dark, 0, to bright, its own 99th percentile."
)


@dataclass(frozen=True)
class Picture:
    """A composite of a row as a WebP file, width x height pixels, with its alt text.

    note: a few scores, shown beside the name.
    """

    name: str
    webp: bytes
    width: int
    height: int
    alt: str
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures of one kind, the best row first. columns: classes of their images, from left to right."""

    key: str
    caption: str
    remark: str
    columns: tuple[str, ...]
    pictures: list[Picture]


@dataclass(frozen=True)
class _Sheet:
    """tiles: rows of images (h, w, 3) uint8, None for an empty tile. eps: of the attack that is shown, if any."""

    tiles: Sequence[Sequence[np.ndarray | None]]
    columns: tuple[str, ...]
    alt: str
    note: str = ""
    eps: float | None = None
    gap: int = GAP


@dataclass(frozen=True)
class _Kind:
    """Definition of a gallery. remark: with `{eps}` if an attack is shown. draw: makes a row's sheet from its arrays.

    once: the test images are a separate picture above the rows, not part of each.
    """

    caption: str
    remark: str
    draw: Callable[[Arrays], _Sheet]
    once: bool = False


def galleries(files: Mapping[str, Arrays]) -> list[Gallery]:
    """All non-empty galleries. files: row name, the best first -> its arrays.

    Contains the first ten rows. A row whose arrays are missing or invalid is left out of that gallery. Equal arrays
    give equal bytes.
    """
    result = [_gallery(key, kind, files) for key, kind in KINDS.items()]
    return [gallery for gallery in result if gallery.pictures]


def _gallery(key: str, kind: _Kind, files: Mapping[str, Arrays]) -> Gallery:
    pictures, sheets, above = [], [], None
    for name, arrays in islice(files.items(), ROWS):
        try:
            sheet, images = kind.draw(arrays), read_images(arrays, "x")
            picture = _picture(name, sheet)
        except (KeyError, ValueError, IndexError, TypeError):  # of an older version, or damaged
            continue
        if kind.once and (above is None or not np.array_equal(above, images)):
            above = images
            alt = f"The first test image of each of: {', '.join(sheet.columns)}."
            tiles = [as_tiles(images[: len(sheet.columns)])]
            pictures.append(_picture("Test images", _Sheet(tiles, sheet.columns, alt)))
        pictures.append(picture)
        sheets.append(sheet)
    columns = sheets[0].columns if sheets else ()
    eps = " or ".join(f"{e * 255:.4g}/255" for e in sorted({s.eps for s in sheets if s.eps is not None}))
    remark = f"{kind.remark.format(eps=eps)} From left to right: {', '.join(columns)}."
    return Gallery(key, kind.caption, remark, columns, pictures)


# The kinds


def _attribution(arrays: Arrays) -> _Sheet:
    n = shown_count(arrays, "x")
    names, seen, fooled = (class_names(arrays, labels, n) for labels in ("y", "predicted", "attacked_predicted"))
    rows = [
        as_tiles(read_images(arrays, "x")[:n]),
        as_tiles(heat_colours(m) for m in read_maps(arrays, "integrated", "x")[:n]),
        as_tiles(read_images(arrays, "attacked")[:n]),
        as_tiles(heat_colours(m) for m in read_maps(arrays, "attacked_integrated", "attacked")[:n]),
    ]
    triples = zip(names, seen, fooled, strict=True)
    predictions = "; ".join(f"{name} as {clean}, attacked as {attacked}" for name, clean, attacked in triples)
    correct = [name == clean for name, clean in zip(names, seen, strict=True)]
    robust = sum(was and name == attacked for was, name, attacked in zip(correct, names, fooled, strict=True))
    note = f"{sum(correct)} of {n} correct, {robust} under attack"
    alt = f"{n} test images and their attributions, clean and attacked. Predictions: {predictions}."
    return _Sheet(rows, names, alt, note, float(arrays["eps"]))


def _moved(arrays: Arrays) -> _Sheet:
    n = shown_count(arrays, "moved")
    names = class_names(arrays, "y", n)
    intersection, tau = (arrays[f"moved_{measure}"][:n].astype(np.float64) for measure in ("in", "k"))
    was_attacked = np.isfinite(intersection) & np.isfinite(tau)
    if not was_attacked.any():
        raise ValueError("no image was attacked")

    def where_moved(tiles: Iterable[np.ndarray]) -> list[np.ndarray | None]:
        return [tile if moved else None for tile, moved in zip(as_tiles(tiles), was_attacked, strict=True)]

    rows: list[Sequence[np.ndarray | None]] = [
        as_tiles(heat_colours(m) for m in read_maps(arrays, "integrated", "x")[:n]),
        where_moved(read_images(arrays, "moved")[:n]),
        where_moved(heat_colours(m) for m in read_maps(arrays, "moved_integrated", "moved")[:n]),
    ]
    texts = [
        f"{name}: IN {_percent(c)}, K {_percent(k)}" if moved else f"{name}: not attacked"
        for name, c, k, moved in zip(names, intersection, tau, was_attacked, strict=True)
    ]
    alt = f"Attributions of {n} test images before and after an attack on these. {'; '.join(texts)}."
    note = f"IN {_percent(float(intersection[was_attacked].mean()))}, K {_percent(float(tau[was_attacked].mean()))}"
    return _Sheet(rows, names, alt, note, float(arrays["moved_eps"]))


def _gradient(arrays: Arrays) -> _Sheet:
    n = shown_count(arrays, "x")
    names = class_names(arrays, "y", n)
    g = arrays["gradient"]
    if g.shape != arrays["x"].shape:
        raise ValueError("a gradient is as large as its image")
    alt = f"The gradients of {n} test images: {', '.join(names)}."
    return _Sheet([as_tiles(signed_colours(each) for each in g[:n])], names, alt)


def _boxes(arrays: Arrays) -> _Sheet:
    n = min(COLUMNS_LARGE, shown_count(arrays, "x"))
    names = class_names(arrays, "y", n)
    boxes = {name: read_boxes(arrays, name, n) for name in EDGES if name in arrays}
    truth = boxes["boxes"]
    if len(boxes) < 2:
        raise ValueError("no box was located")
    drawn = [
        draw_boxes(image, {name: quads[i] for name, quads in boxes.items()})
        for i, image in enumerate(read_images(arrays, "x")[:n])
    ]
    overlaps = {
        EDGES[name][3]: [box_iou(*pair) for pair in zip(quads, truth, strict=True)]
        for name, quads in boxes.items()
        if name != "boxes"
    }
    texts = [
        f"{name}: {', '.join(f'{what} {_percent(values[i])}' for what, values in overlaps.items())}"
        for i, name in enumerate(names)
    ]
    alt = f"{n} test images with the true and the located boxes. Overlap (IoU) with the true one: {'; '.join(texts)}."
    mean = ", ".join(f"{what} {_percent(float(np.mean(values)))}" for what, values in overlaps.items())
    return _Sheet([drawn], names, alt, f"IoU: {mean}", gap=4 * GAP)


def _samples(arrays: Arrays) -> _Sheet:
    n = shown_count(arrays, "samples")
    names = class_names(arrays, "samples_y", n)
    alt = f"Images that the net generates for: {', '.join(names)}."
    return _Sheet([as_tiles(read_images(arrays, "samples")[:n])], tuple(names), alt)


def _picture(name: str, sheet: _Sheet) -> Picture:
    """The sheet as one picture; all tiles have the size of the first."""
    if (first := sheet.tiles[0][0]) is None:
        raise ValueError("the first tile is empty")
    height, width = first.shape[:2]
    down, across = height + sheet.gap, width + sheet.gap
    rows, columns = len(sheet.tiles), len(sheet.tiles[0])
    canvas = np.zeros((rows * down - sheet.gap, columns * across - sheet.gap, 3), np.uint8)
    drawn = np.zeros(canvas.shape[:2], bool)
    for i, row in enumerate(sheet.tiles):
        for j, tile in enumerate(row):
            if tile is not None:
                window = slice(i * down, i * down + height), slice(j * across, j * across + width)
                canvas[window], drawn[window] = tile, True
    return Picture(name, encode_webp(canvas, drawn), canvas.shape[1], canvas.shape[0], sheet.alt, sheet.note)


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
        f" keeps the prediction, its integrated gradients. {_SCALE} Misclassified images are not attacked, and images"
        " on which every step changed the prediction are not shown. IN: top-k intersection of the maps; K: Kendall's"
        " tau; both times 100, of these images only.",
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
        "Images that the nets generate",
        "Synthesis by gradient descent on the cross-entropy of a class, from a sample of a normal distribution fitted"
        " to its training images (Santurkar et al., 2019).",
        _samples,
    ),
}
