"""Boxes of heat maps, and their overlap with true ones. Boxes are x1, y1, x2, y2 in pixels, inclusive."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

LEVELS = 255  # of an 8-bit map, each a threshold: all but the highest
_FOUR = np.array([[[0, 0, 0]] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0, 0, 0]] * 3])  # neighbours in the same mask
_EIGHT = np.array([[[0, 0, 0]] * 3, [[1, 1, 1]] * 3, [[0, 0, 0]] * 3])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4), broadcast against each other. (...) float32"""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + 1
    common = sides.clamp_min(0).prod(-1)
    return (common / (_area(a) + _area(b) - common)).float()


def _area(box: Tensor) -> Tensor:
    return (box[..., 2:] - box[..., :2] + 1).prod(-1)


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected components of a mask (H, W): boxes (n, 4) and pixel counts (n,)."""
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    boxes = [(xs.start, ys.start, xs.stop - 1, ys.stop - 1) for ys, xs in ndimage.find_objects(labels)]
    return np.array(boxes, np.int64).reshape(n, 4), np.bincount(labels.ravel(), minlength=1)[1:]


def box_overlaps(heat: Tensor, boxes: Tensor, thresholds: Sequence[float]) -> Tensor:
    """IoU of each map's `largest_boxes` and the true box at every threshold. (B, H, W), (B, 4) -> (B, T)

    The published boxes are a pixel longer at their far ends, which matters on small images; the published maps pass
    through a colour map and back, which keeps their order and changes them by at most 1/255. With OpenCV's contours and
    inclusive ends, 98 to 100 % of 250 images have the same hit or miss.
    """
    found = torch.stack([largest_boxes(heat, threshold) for threshold in thresholds], 1)
    return iou(found.to(heat.device), boxes[:, None].to(heat.device))


def largest_boxes(heat: Tensor, threshold: float) -> Tensor:
    """Box of the largest component of each map (B, H, W) above a fraction of its maximum. (B, 4) int64

    Largest by pixels, the uppermost of equal ones (Singh et al., 2020, take the largest contour area, which includes
    holes). Without foreground the box is [0, 0, 1, 1], as published.
    """
    boxes = []
    for image in heat.cpu().numpy():
        part_boxes, pixels = components(image > threshold * image.max())
        boxes.append(part_boxes[pixels.argmax()] if len(part_boxes) else np.array([0, 0, 1, 1]))
    return torch.from_numpy(np.array(boxes))


def contour_overlaps(heat: Tensor, boxes: Tensor) -> Tensor:
    """The best IoU of any contour's box and the true box, at every 8-bit level. (B, H, W), (B, 4) -> (B, 255)

    heat: in [0, 1]. As Choe et al. (2020): a map is truncated to 8 bits, the foreground is above a fraction of its
    maximum, and the contours of holes count, too. Their 1000 fractions give these 255 foregrounds, as levels are whole.
    Without foreground the box is [0, 0, 0, 0], as published. Their boxes and true boxes are a pixel longer at the far
    ends, and their maps are enlarged to 224 pixels; here ends are inclusive, and maps have the size of the images.
    """
    levels = (heat.nan_to_num(0) * 255).to(torch.uint8).cpu().numpy()
    return torch.stack([_contour_overlaps(*pair) for pair in zip(levels, boxes.cpu(), strict=True)]).to(heat.device)


def _contour_overlaps(levels: np.ndarray, box: Tensor) -> Tensor:
    """`contour_overlaps` of one map (H, W) of 8-bit levels."""
    least = np.arange(LEVELS) * int(levels.max()) // LEVELS
    boxes, owners = [], []
    for first in range(0, LEVELS, 16):  # masks that fit into a processor's cache take half the time
        found, which = contour_boxes(levels > least[first : first + 16, None, None])
        boxes.append(found)
        owners.append(which + first)
    without = np.setdiff1d(np.arange(LEVELS), np.concatenate(owners))
    overlaps = iou(torch.from_numpy(np.concatenate([*boxes, np.zeros((len(without), 4), np.int64)])), box)
    return torch.zeros(LEVELS).scatter_reduce(0, torch.from_numpy(np.concatenate([*owners, without])), overlaps, "amax")


def contour_boxes(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) of all contours in masks (T, H, W) bool, and the mask of each, (n,).

    The contours of Suzuki and Abe (1985), as of OpenCV's `findContours` with `RETR_TREE`. Each 8-connected component
    has an outer one. Each hole, a 4-connected part of the background that does not reach the border, has one along the
    component's pixels around it, so that its box is a pixel larger than the hole on every side.
    """
    components, _ = ndimage.label(masks, _EIGHT)
    outer = [(xs.start, ys.start, xs.stop - 1, ys.stop - 1, t.start) for t, ys, xs in ndimage.find_objects(components)]
    background, _ = ndimage.label(np.pad(~masks, ((0, 0), (1, 1), (1, 1)), constant_values=True), _FOUR)
    around = set(background[:, 0, 0].tolist())  # connected by the padding
    holes = [
        (xs.start - 2, ys.start - 2, xs.stop - 1, ys.stop - 1, t.start)
        for label, (t, ys, xs) in enumerate(ndimage.find_objects(background), 1)
        if label not in around
    ]
    found = np.array(outer + holes, np.int64).reshape(-1, 5)
    return found[:, :4], found[:, 4]


def centre_boxes(height: int, width: int, shares: Sequence[float]) -> Tensor:
    """Centred boxes whose sides are fractions `shares` of the image's, at least one pixel. (S, 4)"""
    boxes = []
    for share in shares:
        h, w = (max(1, round(share * side)) for side in (height, width))
        top, left = (height - h) // 2, (width - w) // 2
        boxes.append((left, top, left + w - 1, top + h - 1))
    return torch.tensor(boxes)
