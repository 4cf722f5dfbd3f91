"""Weakly supervised localisation and segmentation from saliency maps: boxes, masks, IoU, one number per image.

    heat map (B, H, W) in [0, 1]  ->  boxes or a mask at every threshold  ->  IoU (B, T)  ->  scores by a threshold rule

Scores depend strongly on the threshold, so overlaps are stored for all `THRESHOLDS`, and the rules are applied later:
`published`, the fixed threshold of the literature; `transferred`, the best one on the validation images; `oracle`, the
best one on the scored images themselves.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.explain.boxes import box_overlaps, centre_boxes, contour_overlaps, iou
from harness.explain.heat_maps import cam_map, grad_map
from harness.explain.masks import otsu, overlap
from harness.models.freezing import frozen

THRESHOLDS = tuple(i / 20 for i in range(20))  # fractions of a map's maximum
PUBLISHED = {"grad": 0.2, "cam": 0.1}  # Singh et al. (2020)
SHARES = tuple(i / 20 for i in range(1, 21))  # sides of centre boxes, as fractions of the image's
CENTRE = 0.7  # published centre box: half of the image's area
HIT = 0.5  # least IoU of a correct box

# Boxes


def measure_boxes(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    boxes: Tensor,
    maps: Sequence[str] = ("grad", "cam"),
    *,
    contours: bool = True,
) -> dict[str, Tensor]:
    """Measurements for `box_scores`. x (B, C, H, W), y (B,), boxes (B, 4); maps: `grad`, `cam`, or both

    `grad`, `cam`: IoU of the largest component's box at every threshold, (B, T); `grad-any`, `cam-any`: of the best
    contour's at every 8-bit level, (B, 255); `centre`: IoU of the centre boxes, (B, S); `right`: 1 if the prediction
    is correct, (B,). The grad map is of the predicted class, the cam map of the label. contours: False leaves out
    `-any`, which takes long, and which `choose_boxes` does not read.
    """
    with frozen(model), torch.no_grad():
        correct = (model(x).argmax(1) == y).float()
    measured = {"right": correct}
    for name in maps:
        heat = cam_map(model, x, y) if name == "cam" else grad_map(model, x)
        measured[name] = box_overlaps(heat, boxes, THRESHOLDS)
        if contours:
            measured[f"{name}-any"] = contour_overlaps(heat, boxes)
    centre = centre_boxes(x.shape[-2], x.shape[-1], SHARES).to(x.device)
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
    """MaxBoxAccV2 (Choe et al., 2020) from the best contours' IoU (N, T), per image (N,); its mean is the score.

    Mean over IoU criteria `hits` of the accuracy at the oracle threshold of each.
    """
    images = []
    for hit in hits:
        correct = (overlaps >= hit).float()
        images.append(correct[:, correct.mean(0).argmax()])
    return torch.stack(images).mean(0)


# Masks


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
