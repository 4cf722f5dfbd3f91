"""Where a net looks, as boxes and masks: weakly supervised localisation and segmentation, one number per image.

    heat map (B, H, W) in [0, 1]  ->  boxes or a mask at every threshold  ->  IoU (B, T)  ->  scores by a threshold rule

A threshold decides much, so every overlap is kept for the whole sweep of `THRESHOLDS`, and the rules are applied to
what was stored: `published`, the fixed threshold of the literature; `transferred`, the best one of the validation
images; `oracle`, the best one of the images that are scored, which nobody could have known. Boxes are x1, y1, x2, y2 in
pixels, ends included.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from harness import gradients, saliency
from harness.attacks import frozen
from harness.errors import Mistake

THRESHOLDS = tuple(i / 20 for i in range(20))  # shares of a map's maximum
PUBLISHED = {"grad": 0.2, "cam": 0.1}  # Singh et al. (2020)
SHARES = tuple(i / 20 for i in range(1, 21))  # sides of centre boxes, as shares of the image's
CENTRE = 0.7  # the fixed one: half of the image's area
HIT = 0.5  # IoU from which a box counts as right
UNKNOWN = 255  # pixels of a mask that are not counted

# Heat maps


def grad_map(model: nn.Module, x: Tensor, *, sigma: float = 3.0) -> Tensor:
    """How strongly each pixel moves the loss of the predicted class (Singh et al., 2020). (B, H, W) in [0, 1]

    Absolute gradient, mean over channels, clipped to its 2nd and 98th percentile, stretched to [0, 1], smoothed by a
    3x3 box (black beyond the border) and a Gaussian (mirrored there), stretched again. sigma: of the Gaussian, in
    pixels of an image of 224; on other sizes it is scaled with the shorter side, whereas 3x3 is the least box there is.
    A map without any gradient is 0 everywhere.
    """
    with frozen(model):
        g = gradients.of(lambda z: against_predicted(model(z)), x.detach())
    # Singh et al. also standardise, which the next stretch undoes, and stretch over the batch: there an image's map
    # depends on which others it is measured with. Here every step is of one image.
    heat = _stretched(_clipped(g.abs().mean(1), 0.02, 0.98))
    heat = F.avg_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
    height, width = heat.shape[1:]
    rows, columns = (_gaussian(n, sigma * min(height, width) / 224).to(heat) for n in (height, width))
    return _stretched(rows @ heat @ columns.T)


def against_predicted(logits: Tensor) -> Tensor:
    """log((1 - p) / p) of the predicted class. (B, K) -> (B,)

    Its gradient is that of the cross-entropy divided by 1 - p, so that maps stretched to [0, 1] are the same; but where
    p rounds to 1 that of the cross-entropy is lost.
    """
    predicted = logits.argmax(1, keepdim=True)
    others = logits.scatter(1, predicted, -torch.inf).logsumexp(1)
    return others - logits.gather(1, predicted).squeeze(1)


def cam_map(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Class activation map of the label y, stretched to [0, 1]. (B, H, W)

    Enlarged linearly, where Singh et al. (2020) do so by cubics. Raises `Mistake` for a net without a linear head on
    averaged features.
    """
    return _stretched(saliency.cam(model, x, y)[:, 0])


def _clipped(maps: Tensor, low: float, high: float) -> Tensor:
    """Each map clipped to these quantiles of its own, interpolated linearly."""
    flat = maps.flatten(1)
    ordered = flat.sort(1).values  # torch.quantile refuses more than 2^24 values
    ends = []
    for share in (low, high):
        place = share * (flat.shape[1] - 1)
        below = ordered[:, int(place)]
        above = ordered[:, min(int(place) + 1, flat.shape[1] - 1)]
        ends.append((below + (place - int(place)) * (above - below))[:, None])
    return flat.clamp(*ends).view_as(maps)


def _stretched(maps: Tensor) -> Tensor:
    """Each map with its least value at 0 and its largest at 1; a constant one is 0."""
    flat = maps.flatten(1)
    least = flat.amin(1, keepdim=True)
    span = flat.amax(1, keepdim=True) - least
    return ((flat - least) / torch.where(span > 0, span, 1)).view_as(maps)


def _gaussian(n: int, sigma: float) -> Tensor:
    """The (n, n) matrix that smooths a column of n values as `scipy.ndimage.gaussian_filter1d` does."""
    return torch.from_numpy(ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0))


# Boxes


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4), which are broadcast against each other. (...) float32"""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + 1
    common = sides.clamp_min(0).prod(-1)
    return (common / (_area(a) + _area(b) - common)).float()


def _area(box: Tensor) -> Tensor:
    return (box[..., 2:] - box[..., :2] + 1).prod(-1)


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of a mask (H, W) that hang together, over corners too: boxes (n, 4) and numbers of pixels (n,)."""
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    boxes = [(xs.start, ys.start, xs.stop - 1, ys.stop - 1) for ys, xs in ndimage.find_objects(labels)]
    return np.array(boxes, np.int64).reshape(n, 4), np.bincount(labels.ravel(), minlength=1)[1:]


def box_overlaps(heat: Tensor, boxes: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> tuple[Tensor, Tensor]:
    """IoU of the box that a heat map gives with the true one, at every threshold. (B, H, W), (B, 4) -> twice (B, T)

    Taken is what lies above a threshold, as a share of the map's maximum. First: the box around the largest part of it
    by pixels (Singh et al., 2020, take the largest by the area of its contour, which also counts its holes); of equal
    parts the uppermost. Second: that of its parts whose box fits best (Choe et al., 2020). Where nothing lies above,
    the box is [0, 0, 1, 1], as published. The published boxes are a pixel longer at their far ends, which matters on
    small images; the published maps pass through a colour map and back, which keeps their order and moves them by no
    more than 1/255. Against OpenCV's contours, with ends like ours, 98 to 100 % of 250 images hit or miss alike.
    """
    images, sweep = len(heat), len(thresholds)
    largest = np.tile(np.array([0, 0, 1, 1]), (images * sweep, 1))
    found, owner = [largest[:0]], [np.empty(0, np.int64)]
    for i, image in enumerate(heat.cpu().numpy()):
        top = image.max()
        for j, threshold in enumerate(thresholds):
            parts, pixels = components(image > threshold * top)
            if len(parts):
                largest[i * sweep + j] = parts[pixels.argmax()]
                found.append(parts)
                owner.append(np.full(len(parts), i * sweep + j))
    truth = boxes.cpu().repeat_interleave(sweep, 0)
    first = iou(torch.from_numpy(largest), truth)
    owner = torch.from_numpy(np.concatenate(owner))
    second = first.scatter_reduce(0, owner, iou(torch.from_numpy(np.concatenate(found)), truth[owner]), "amax")
    return tuple(t.view(images, sweep).to(heat.device) for t in (first, second))


def largest_boxes(heat: Tensor, threshold: float) -> Tensor:
    """The box around the largest part of each map (B, H, W) above a share of its maximum. (B, 4) int64

    As the first of `box_overlaps` takes it: [0, 0, 1, 1] where nothing lies above.
    """
    boxes = []
    for image in heat.cpu().numpy():
        parts, pixels = components(image > threshold * image.max())
        boxes.append(parts[pixels.argmax()] if len(parts) else np.array([0, 0, 1, 1]))
    return torch.from_numpy(np.array(boxes))


def centre_boxes(height: int, width: int, shares: Sequence[float] = SHARES) -> Tensor:
    """Boxes around the middle, whose sides are these shares of the image's, at least a pixel. (S, 4)"""
    boxes = []
    for share in shares:
        h, w = (max(1, round(share * side)) for side in (height, width))
        top, left = (height - h) // 2, (width - w) // 2
        boxes.append((left, top, left + w - 1, top + h - 1))
    return torch.tensor(boxes)


def measure_boxes(
    model: nn.Module, x: Tensor, y: Tensor, boxes: Tensor, maps: Sequence[str] = ("grad", "cam")
) -> dict[str, Tensor]:
    """All that localisation scores are made of. x (B, C, H, W), y (B,), boxes (B, 4); maps: which of them

    `grad`, `cam`: IoU of the largest part's box at every threshold, (B, T); `grad-any`, `cam-any`: of the best part's;
    `centre`: IoU of the centre boxes, (B, S); `right`: 1 where the prediction is the label, (B,). The grad map is that
    of the predicted class, the cam map that of the label.
    """
    with frozen(model), torch.no_grad():
        right = (model(x).argmax(1) == y).float()
    measured = {"right": right}
    for name in maps:
        heat = cam_map(model, x, y) if name == "cam" else grad_map(model, x)
        measured[name], measured[f"{name}-any"] = box_overlaps(heat, boxes)
    centre = centre_boxes(*x.shape[-2:]).to(x.device)
    return {**measured, "centre": iou(centre[None], boxes[:, None].to(x.device))}


def box_scores(measured: Mapping[str, Tensor], chosen: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """The scores of what `measure_boxes` gave for all images of a split, (N,) each.

    `gtknown-M` is 1 where the box of map M (`grad`, `cam`, or `centre` for the centre box) hits, by an IoU of at least
    0.5; `top1loc-M` where the prediction is right, too. Without a suffix the threshold is the published one (`centre`:
    a side of 0.7 of the image's), `-oracle` the best of these images, `-transferred` that of `chosen`, where given:
    what `choose_boxes` said of the validation images. `maxboxacc-M`: MaxBoxAccV2, see `max_box_acc`.
    """
    scores = {}
    for name, swept, published in _box_sweeps(measured):
        rules = {"": published, "-oracle": best(measured[name] >= HIT, swept)}
        if chosen is not None:
            rules["-transferred"] = chosen[name]
        for rule, threshold in rules.items():
            hits = (at(measured[name], threshold, swept) >= HIT).float()
            scores[f"gtknown-{name}{rule}"] = hits
            scores[f"top1loc-{name}{rule}"] = hits * measured["right"]
        if f"{name}-any" in measured:
            scores[f"maxboxacc-{name}"] = max_box_acc(measured[f"{name}-any"])
    return scores


def choose_boxes(measured: Mapping[str, Tensor]) -> dict[str, float]:
    """The threshold of every map, and the side of the centre box, that hits most of these images."""
    return {name: best(measured[name] >= HIT, swept) for name, swept, _ in _box_sweeps(measured)}


def _box_sweeps(measured: Mapping[str, Tensor]) -> list[tuple[str, Sequence[float], float]]:
    sweeps = [(name, THRESHOLDS, published) for name, published in PUBLISHED.items()]
    return [sweep for sweep in (*sweeps, ("centre", SHARES, CENTRE)) if sweep[0] in measured]


def max_box_acc(overlaps: Tensor, hits: Sequence[float] = (0.3, 0.5, 0.7)) -> Tensor:
    """MaxBoxAccV2 (Choe et al., 2020) of the best parts' IoU (N, T), as one number per image (N,) whose mean it is.

    The mean over what counts as a hit of the accuracy at the threshold that is best for it: an oracle.
    """
    images = []
    for hit in hits:
        right = (overlaps >= hit).float()
        images.append(right[:, right.mean(0).argmax()])
    return torch.stack(images).mean(0)


# Threshold rules


def best(values: Tensor, swept: Sequence[float] = THRESHOLDS) -> float:
    """Of the swept thresholds the one with the largest mean over images, NaN left out; of equal ones the least."""
    return swept[int(values.float().nanmean(0).argmax())]


def at(values: Tensor, threshold: float, swept: Sequence[float] = THRESHOLDS) -> Tensor:
    """The column of values (N, T) of a swept threshold. (N,) Raises `Mistake` for one that was not swept."""
    near = min(swept, key=lambda value: abs(value - threshold))
    if abs(near - threshold) > 1e-6:
        raise Mistake(f"threshold {threshold!r} was not swept; the nearest that was is {near!r}")
    return values[:, swept.index(near)]


# Masks


def overlap(predicted: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """IoU and Dice of the foreground, and the share of pixels that are right, of predicted masks (B, H, W) bool.

    masks (B, H, W) in {0, 1, 255}, of which 255 is not counted; an image that has nothing else gets NaN. 1 where
    neither mask has any foreground. (B,) each
    """
    known, truth = masks != UNKNOWN, masks == 1
    taken = predicted & known
    both, either = ((m.sum((1, 2)).double()) for m in (taken & truth, taken | truth))
    pixels = known.sum((1, 2)).double()
    empty = (either == 0) & (pixels > 0)
    right = ((taken == truth) & known).sum((1, 2))
    scores = {
        "iou": torch.where(empty, 1, both / either),
        "dice": torch.where(empty, 1, 2 * both / (both + either)),
        "pixel": right / pixels,
    }
    return {name: torch.where(pixels > 0, score, torch.nan).float() for name, score in scores.items()}


def otsu(heat: Tensor) -> Tensor:
    """The threshold of each map that parts it into the two classes of least variance (Otsu, 1979). (B,)

    Of the map in 256 levels; of equal ones the least; a constant map's is its value. What lies above is foreground.
    """
    levels = (heat.flatten(1) * 255).round().long()
    counts = torch.zeros(len(heat), 256, dtype=torch.float64, device=heat.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float64))
    below = counts.cumsum(1)
    mass = (counts * torch.arange(256, device=heat.device)).cumsum(1)
    above = below[:, -1:] - below
    apart = (mass * above - (mass[:, -1:] - mass) * below) ** 2 / (below * above).clamp_min(1)
    level = apart.argmax(1)
    varies = apart.amax(1) > 0
    return torch.where(varies, (level + 0.5) / 255, heat.flatten(1).amax(1)).to(heat.dtype)


def measure_masks(model: nn.Module, x: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """All that segmentation scores are made of, by the grad map of the predicted class. masks (B, H, W) in {0, 1, 255}

    `iou`, `dice`, `pixel` of all that lies above a threshold, (B, T), see `overlap`; `iou-otsu` and so on, at the
    threshold of `otsu`, (B,). The map is thresholded as a whole, also where a mask is unknown.
    """
    return mask_overlaps(grad_map(model, x), masks)


def mask_overlaps(heat: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """What `measure_masks` gives, of heat maps (B, H, W)."""
    top = heat.amax((1, 2), keepdim=True)
    swept = [overlap(heat > threshold * top, masks) for threshold in THRESHOLDS]
    measured = {name: torch.stack([scores[name] for scores in swept], 1) for name in swept[0]}
    split = overlap(heat > otsu(heat)[:, None, None], masks)
    return measured | {f"{name}-otsu": score for name, score in split.items()}


def mask_scores(measured: Mapping[str, Tensor], chosen: float | None = None) -> dict[str, Tensor]:
    """The scores of what `measure_masks` gave for all images of a split, (N,) each, NaN where a mask is all unknown.

    `iou`, `dice` and `pixel` at the published threshold of boxes; `-oracle` at that of the best mean IoU of these
    images, `-transferred` at `chosen`, where given: what `choose_mask` said of the validation images; `-otsu`.
    """
    rules = {"": PUBLISHED["grad"], "-oracle": choose_mask(measured)}
    if chosen is not None:
        rules["-transferred"] = chosen
    scores = {}
    for name in ("iou", "dice", "pixel"):
        scores |= {name + rule: at(measured[name], threshold) for rule, threshold in rules.items()}
        scores[f"{name}-otsu"] = measured[f"{name}-otsu"]
    return scores


def choose_mask(measured: Mapping[str, Tensor]) -> float:
    """The threshold of the best mean IoU over these images."""
    return best(measured["iou"])
