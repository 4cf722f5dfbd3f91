"""Weakly supervised localisation and segmentation from saliency maps: boxes, masks, IoU, one number per image.

    heat map (B, H, W) in [0, 1]  ->  boxes or a mask at every threshold  ->  IoU (B, T)  ->  scores by a threshold rule

Scores depend strongly on the threshold, so overlaps are stored for all `THRESHOLDS`, and the rules are applied later:
`published`, the fixed threshold of the literature; `transferred`, the best one on the validation images; `oracle`, the
best one on the scored images themselves. Boxes are x1, y1, x2, y2 in pixels, inclusive.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError
from harness.explain import input_gradients
from harness.explain.maps import CAM, minmax
from harness.models.freezing import frozen

THRESHOLDS = tuple(i / 20 for i in range(20))  # fractions of a map's maximum
PUBLISHED = {"grad": 0.2, "cam": 0.1}  # Singh et al. (2020)
SHARES = tuple(i / 20 for i in range(1, 21))  # sides of centre boxes, as fractions of the image's
CENTRE = 0.7  # published centre box: half of the image's area
HIT = 0.5  # least IoU of a correct box
UNKNOWN = 255  # ignored pixels of a mask

# Heat maps


def grad_map(model: nn.Module, x: Tensor, *, sigma: float = 3.0) -> Tensor:
    """Input-gradient heat map of the predicted class's loss (Singh et al., 2020). (B, H, W) in [0, 1]

    Absolute gradient, mean over channels, clipped to its 2nd and 98th percentile, rescaled to [0, 1], smoothed by a 3x3
    box (zero padding) and a Gaussian (reflected), rescaled again. sigma: of the Gaussian, in pixels at image size 224;
    scaled with the shorter side. The 3x3 box is not scaled. A zero gradient gives a zero map.
    """
    with frozen(model):
        g = input_gradients.of(lambda z: log_odds_against_prediction(model(z)), x.detach())
    # Singh et al. also standardise, which the next rescaling cancels, and rescale over the batch, so that a map depends
    # on the other images. Here every step is per image.
    heat = minmax(_clipped_to_quantiles(g.abs().mean(1), 0.02, 0.98))
    heat = F.avg_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
    height, width = heat.shape[1:]
    rows, columns = (_gaussian(n, sigma * min(height, width) / 224).to(heat) for n in (height, width))
    return minmax(rows @ heat @ columns.T)


def log_odds_against_prediction(logits: Tensor) -> Tensor:
    """log((1 - p) / p) of the predicted class. (B, K) -> (B,)

    Its gradient is that of the cross-entropy divided by 1 - p, so that maps rescaled to [0, 1] are equal; but it does
    not vanish where p rounds to 1.
    """
    predicted = logits.argmax(1, keepdim=True)
    others = logits.scatter(1, predicted, -torch.inf).logsumexp(1)
    return others - logits.gather(1, predicted).squeeze(1)


def cam_map(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Class activation map of label y, rescaled to [0, 1]. (B, H, W)

    Upsampled bilinearly; Singh et al. (2020) use bicubic. Raises `UserError` for a model that is not a `Net`.
    """
    return minmax(CAM().detached(model, x, y)[:, 0])


def _clipped_to_quantiles(maps: Tensor, low: float, high: float) -> Tensor:
    """Clip each map to its own quantiles `low` and `high`, interpolated linearly."""
    flat = maps.flatten(1)
    ordered = flat.sort(1).values  # torch.quantile refuses more than 2^24 values
    bounds = []
    for share in (low, high):
        position = share * (flat.shape[1] - 1)
        below = ordered[:, int(position)]
        above = ordered[:, min(int(position) + 1, flat.shape[1] - 1)]
        bounds.append((below + (position - int(position)) * (above - below))[:, None])
    return flat.clamp(*bounds).view_as(maps)


def _gaussian(n: int, sigma: float) -> Tensor:
    """Matrix (n, n) of `scipy.ndimage.gaussian_filter1d` on n values."""
    return torch.from_numpy(ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0))


# Boxes


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


def box_overlaps(heat: Tensor, boxes: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> tuple[Tensor, Tensor]:
    """IoU of predicted and true boxes at every threshold. (B, H, W), (B, 4) -> two tensors (B, T)

    The foreground is above a threshold, a fraction of the map's maximum. First: IoU of the box around its largest
    component by pixels, the uppermost of equal ones (Singh et al., 2020, take the largest contour area, which includes
    holes). Second: the best IoU of any component's box (Choe et al., 2020). Without foreground the box is [0, 0, 1, 1],
    as published. The published boxes are a pixel longer at their far ends, which matters on small images; the published
    maps pass through a colour map and back, which keeps their order and changes them by at most 1/255. With OpenCV's
    contours and inclusive ends, 98 to 100 % of 250 images have the same hit or miss.
    """
    images, sweep = len(heat), len(thresholds)
    largest_box = np.tile(np.array([0, 0, 1, 1]), (images * sweep, 1))
    component_boxes, owners = [largest_box[:0]], [np.empty(0, np.int64)]
    for i, image in enumerate(heat.cpu().numpy()):
        maximum = image.max()
        for j, threshold in enumerate(thresholds):
            part_boxes, pixels = components(image > threshold * maximum)
            if len(part_boxes):
                largest_box[i * sweep + j] = part_boxes[pixels.argmax()]
                component_boxes.append(part_boxes)
                owners.append(np.full(len(part_boxes), i * sweep + j))
    truth = boxes.cpu().repeat_interleave(sweep, 0)
    of_largest = iou(torch.from_numpy(largest_box), truth)
    owner = torch.from_numpy(np.concatenate(owners))
    of_best = of_largest.scatter_reduce(
        0, owner, iou(torch.from_numpy(np.concatenate(component_boxes)), truth[owner]), "amax"
    )
    return of_largest.view(images, sweep).to(heat.device), of_best.view(images, sweep).to(heat.device)


def largest_boxes(heat: Tensor, threshold: float) -> Tensor:
    """Box of the largest component of each map (B, H, W) above a fraction of its maximum. (B, 4) int64

    As the first result of `box_overlaps`: [0, 0, 1, 1] without foreground.
    """
    boxes = []
    for image in heat.cpu().numpy():
        part_boxes, pixels = components(image > threshold * image.max())
        boxes.append(part_boxes[pixels.argmax()] if len(part_boxes) else np.array([0, 0, 1, 1]))
    return torch.from_numpy(np.array(boxes))


def centre_boxes(height: int, width: int, shares: Sequence[float] = SHARES) -> Tensor:
    """Centred boxes whose sides are fractions `shares` of the image's, at least one pixel. (S, 4)"""
    boxes = []
    for share in shares:
        h, w = (max(1, round(share * side)) for side in (height, width))
        top, left = (height - h) // 2, (width - w) // 2
        boxes.append((left, top, left + w - 1, top + h - 1))
    return torch.tensor(boxes)


def measure_boxes(
    model: nn.Module, x: Tensor, y: Tensor, boxes: Tensor, maps: Sequence[str] = ("grad", "cam")
) -> dict[str, Tensor]:
    """Measurements for `box_scores`. x (B, C, H, W), y (B,), boxes (B, 4); maps: `grad`, `cam`, or both

    `grad`, `cam`: IoU of the largest component's box at every threshold, (B, T); `grad-any`, `cam-any`: of the best
    component's; `centre`: IoU of the centre boxes, (B, S); `right`: 1 if the prediction is correct, (B,). The grad map
    is of the predicted class, the cam map of the label.
    """
    with frozen(model), torch.no_grad():
        correct = (model(x).argmax(1) == y).float()
    measured = {"right": correct}
    for name in maps:
        heat = cam_map(model, x, y) if name == "cam" else grad_map(model, x)
        measured[name], measured[f"{name}-any"] = box_overlaps(heat, boxes)
    centre = centre_boxes(*x.shape[-2:]).to(x.device)
    return {**measured, "centre": iou(centre[None], boxes[:, None].to(x.device))}


def box_scores(measured: Mapping[str, Tensor], chosen: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """Localisation scores (N,) from the output of `measure_boxes` on all images of a split.

    `gtknown-M` is 1 if the box of map M (`grad`, `cam`, or `centre` for the centre box) has an IoU of at least 0.5;
    `top1loc-M` if the prediction is correct, too. Threshold rules: no suffix, the published one (`centre`: side 0.7 of
    the image's); `-oracle`, the best on these images; `-transferred`, that of `chosen`, if given: the result of
    `choose_boxes` on the validation images. `maxboxacc-M`: MaxBoxAccV2, see `max_box_acc`.
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
    """The best threshold per map, and the best side of the centre box, by hits on these images."""
    return {name: best(measured[name] >= HIT, swept) for name, swept, _ in _box_sweeps(measured)}


def _box_sweeps(measured: Mapping[str, Tensor]) -> list[tuple[str, Sequence[float], float]]:
    sweeps = [(name, THRESHOLDS, published) for name, published in PUBLISHED.items()]
    return [sweep for sweep in (*sweeps, ("centre", SHARES, CENTRE)) if sweep[0] in measured]


def max_box_acc(overlaps: Tensor, hits: Sequence[float] = (0.3, 0.5, 0.7)) -> Tensor:
    """MaxBoxAccV2 (Choe et al., 2020) from the best components' IoU (N, T), per image (N,); its mean is the score.

    Mean over IoU criteria `hits` of the accuracy at the oracle threshold of each.
    """
    images = []
    for hit in hits:
        correct = (overlaps >= hit).float()
        images.append(correct[:, correct.mean(0).argmax()])
    return torch.stack(images).mean(0)


# Threshold rules


def best(values: Tensor, swept: Sequence[float] = THRESHOLDS) -> float:
    """The swept threshold with the largest mean over images, ignoring NaN; the least of equal ones."""
    return swept[int(values.float().nanmean(0).argmax())]


def at(values: Tensor, threshold: float, swept: Sequence[float] = THRESHOLDS) -> Tensor:
    """The column of values (N, T) at a swept threshold. (N,) Raises `UserError` for a threshold not swept."""
    nearest = min(swept, key=lambda value: abs(value - threshold))
    if abs(nearest - threshold) > 1e-6:
        raise UserError(f"threshold {threshold!r} was not swept; the nearest that was is {nearest!r}")
    return values[:, swept.index(nearest)]


# Masks


def overlap(predicted: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Foreground IoU, Dice and pixel accuracy of predicted masks (B, H, W) bool. (B,) each

    masks (B, H, W) in {0, 1, 255}; 255 is ignored, and an image with nothing else gets NaN. IoU and Dice are 1 if
    neither mask has foreground.
    """
    known, truth = masks != UNKNOWN, masks == 1
    foreground = predicted & known
    both, either = ((m.sum((1, 2)).double()) for m in (foreground & truth, foreground | truth))
    pixels = known.sum((1, 2)).double()
    empty = (either == 0) & (pixels > 0)
    correct = ((foreground == truth) & known).sum((1, 2))
    scores = {
        "iou": torch.where(empty, 1, both / either),
        "dice": torch.where(empty, 1, 2 * both / (both + either)),
        "pixel": correct / pixels,
    }
    return {name: torch.where(pixels > 0, score, torch.nan).float() for name, score in scores.items()}


def otsu(heat: Tensor) -> Tensor:
    """Otsu's threshold of each map (Otsu, 1979). (B,) Values above it are foreground.

    Computed on 256 levels; the least of equal ones; for a constant map, its value.
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
    """Measurements for `mask_scores`, by the grad map of the predicted class. masks (B, H, W) in {0, 1, 255}

    `iou`, `dice`, `pixel` of the foreground at every threshold, (B, T), see `overlap`; `iou-otsu` etc. at Otsu's
    threshold, (B,). Thresholds are of the whole map, including pixels with an unknown mask.
    """
    return mask_overlaps(grad_map(model, x), masks)


def mask_overlaps(heat: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """The measurements of `measure_masks`, from heat maps (B, H, W)."""
    maximum = heat.amax((1, 2), keepdim=True)
    swept = [overlap(heat > threshold * maximum, masks) for threshold in THRESHOLDS]
    measured = {name: torch.stack([scores[name] for scores in swept], 1) for name in swept[0]}
    at_otsu = overlap(heat > otsu(heat)[:, None, None], masks)
    return measured | {f"{name}-otsu": score for name, score in at_otsu.items()}


def mask_scores(measured: Mapping[str, Tensor], chosen: float | None = None) -> dict[str, Tensor]:
    """Segmentation scores (N,) from the output of `measure_masks` on all images of a split; NaN for unknown masks.

    `iou`, `dice`, `pixel` at the published threshold of boxes; `-oracle` at the best mean IoU on these images;
    `-transferred` at `chosen`, if given: the result of `choose_mask` on the validation images; `-otsu`.
    """
    rules = {"": PUBLISHED["grad"], "-oracle": choose_mask(measured)}
    if chosen is not None:
        rules["-transferred"] = chosen
    scores: dict[str, Tensor] = {}
    for name in ("iou", "dice", "pixel"):
        scores |= {name + rule: at(measured[name], threshold) for rule, threshold in rules.items()}
        scores[f"{name}-otsu"] = measured[f"{name}-otsu"]
    return scores


def choose_mask(measured: Mapping[str, Tensor]) -> float:
    """The threshold with the best mean IoU over these images."""
    return best(measured["iou"])
