"""Pictures of a finished net: a few test images, what it makes of them, and what attacks make of that.

    keep(file, model, data, measure, attribution)      an .npz file, which `reports.pictures` shows

The images are the first of each class, chosen without the net, so that those of several methods can be laid side by
side. Nothing here is a score. All of it costs about as much as PGD-10 on 400 images, however many the test images are.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import attacks, attribution_attacks, generation, localization, metrics, saliency
from harness.attribution_attacks import IntegratedGradients
from harness.config import Attribution, Measure
from harness.datasets import Data, Split
from harness.measuring import at_once, batch, seeds
from harness.models import Net
from harness.place import write
from harness.randomness import Draws, exact, seeded
from harness.suites import pgd_name, step_of

POINTS = 50  # intervals of the integrated gradients that are shown
MOVED = 4  # images whose attributions are attacked: second gradients are dear
STEPS = 5  # of that attack, each half of its eps; ten quarters move a map no further
DRAWN = 10  # classes of which the net draws an image
SAMPLED = DRAWN * 64 * 64  # pixels that it draws at most
SIDE = 96  # pixels: larger images are kept as smaller ones
LEVELS = 32  # of a map's unit that are told apart

Arrays = dict[str, np.ndarray]


def keep(
    file: Path, model: nn.Module, data: Data, measure: Measure, attribution: Attribution, *, device: str = "cpu"
) -> None:
    """Write what `gallery` gives to a file, as `np.load` reads it. The same net and data give the same file."""
    arrays = gallery(model, data, measure, attribution, device=device)
    write(file, lambda temporary: np.savez_compressed(temporary, **arrays))


def gallery(
    model: nn.Module,
    data: Data,
    measure: Measure,
    attribution: Attribution,
    *,
    images: int = 8,
    device: str = "cpu",
    seed: int = 0,
) -> Arrays:
    """What a net, which lies on `device`, makes of the first test image of each of the first `images` classes.

    x (n, H, W, C) uint8, y (n,), classes (K,) names, predicted (n,); gradient (n, H, W, C), the gradient of the label's
    logit over its root mean square; integrated (n, H, W), the magnitude of its integrated gradients over its mean.
    attacked, attacked_predicted, attacked_gradient, attacked_integrated: the same under PGD at the middle eps of
    `measure.eps` (of an even number of them, the upper), `eps`, with the score's steps and its first random start.

    moved, moved_predicted, moved_integrated, of the first 4 images: under a short attack on their integrated gradients
    by `attribution.eps`, `moved_eps`; moved_in and moved_k, the intersection of the `attribution.k` most important
    pixels and Kendall's tau before and after, NaN where the net was wrong from the start, or no step kept its
    prediction: such an image is shown unmoved.

    boxes, located_grad, located_cam (n, 4): true boxes, where the data has some, and those that the gradient map and,
    of our nets, the class activation map give at the published thresholds. samples (S, H, W, C) uint8: what the net
    draws of each of the first 10 classes, samples_y (S,), where images are no larger than 64 x 64.

    Images of more than 96 pixels a side, and what belongs to them, are shrunk to that. Maps are float16, in steps of
    1/32.
    """
    split = _firsts(data.test, images).to(device)
    x, y = batch(split).x, split.y
    with attacks.frozen(model), exact(), seeded(seed, "gallery"):
        integrated = _integrated(model, x, y)
        return {
            "x": _picture(x),
            "y": _numbers(y),
            "classes": np.array(data.classes),
            **_explained(model, x, y, integrated),
            **_attacked(model, split, measure, seed),
            **_moved(model, split.head(MOVED), integrated[:MOVED], attribution, seed),
            **_located(model, split),
            **_drawn(model, data, device, seed),
        }


def _firsts(split: Split, images: int) -> Split:
    """The first image of each class that has one, of so many classes."""
    first = [(split.y == c).nonzero()[0, 0] for c in split.y.unique()[:images]]
    return split.at(torch.stack(first))


def _explained(model: nn.Module, z: Tensor, y: Tensor, integrated: Tensor) -> Arrays:
    """The prediction, and the gradient and the integrated gradients (n, H, W) of the label's logit."""
    g = saliency.gradient(model, z, y)
    size = g.square().mean((1, 2, 3), keepdim=True).sqrt()
    return {
        "predicted": _numbers(_predicted(model, z)),
        "gradient": _map(g / torch.where(size > 0, size, 1)),
        "integrated": _map(integrated[:, None])[..., 0],
    }


def _predicted(model: nn.Module, z: Tensor) -> Tensor:
    with torch.no_grad():
        return model(z).argmax(1)


def _integrated(model: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    maps = saliency.integrated_gradients(model, z, y, points=POINTS, chunk=at_once(z))
    return metrics.importance(maps)


def _attacked(model: nn.Module, split: Split, measure: Measure, seed: int) -> Arrays:
    eps = sorted(measure.eps)[len(measure.eps) // 2]
    draws = Draws(seeds(split), (seed, pgd_name(measure, eps))).of(0)
    ball = {"eps": eps, "step": step_of(measure, eps), "steps": measure.steps}
    z = attacks.pgd(model, batch(split).x, split.y, **ball, draws=draws)
    explained = _explained(model, z, split.y, _integrated(model, z, split.y))
    return {"eps": np.float64(eps), "attacked": _picture(z), **{f"attacked_{n}": a for n, a in explained.items()}}


def _moved(model: nn.Module, split: Split, before: Tensor, settings: Attribution, seed: int) -> Arrays:
    x, y = batch(split).x, split.y
    k = min(settings.k, x.shape[-2] * x.shape[-1])
    found = attribution_attacks.attack(
        model,
        x,
        y,
        explain=IntegratedGradients(settings.points),
        objective=attribution_attacks.top_k(k),
        criteria={"k": metrics.kendall},
        eps=settings.eps,
        step=settings.eps / 2,
        steps=STEPS,
        beta=settings.beta,
        draws=Draws(seeds(split), (seed, "gallery")),
    )["k"]
    kept = found.kept & (_predicted(model, x) == y)
    z = torch.where(kept[:, None, None, None], found.z, x)
    after = _integrated(model, z, y)
    likeness = {"in": metrics.topk_intersection(before, after, k), "k": metrics.kendall(before, after)}
    return {
        "moved_eps": np.float64(settings.eps),
        "moved": _picture(z),
        "moved_predicted": _numbers(_predicted(model, z)),
        "moved_integrated": _map(after[:, None])[..., 0],
        **{f"moved_{name}": _plain(v.masked_fill(~kept, torch.nan).float()) for name, v in likeness.items()},
    }


def _located(model: nn.Module, split: Split) -> Arrays:
    if split.boxes is None:
        return {}
    x = batch(split).x
    heat = {"grad": localization.grad_map(model, x)}
    if isinstance(model, Net):
        heat["cam"] = localization.cam_map(model, x, split.y)
    found = {f"located_{m}": localization.largest_boxes(h, localization.PUBLISHED[m]) for m, h in heat.items()}
    height, width = x.shape[-2:]
    scale = np.array(_shrunk_size(height, width))[[1, 0, 1, 0]] / np.array([width, height, width, height])
    return {name: _rescaled(_plain(boxes), scale) for name, boxes in ({"boxes": split.boxes} | found).items()}


def _rescaled(boxes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Boxes, whose ends are included, around the same part of a smaller image."""
    far = np.array([0, 0, 1, 1])
    ends = (boxes + far) * scale
    return np.where(far, np.ceil(ends) - 1, np.floor(ends)).astype(np.int16)


def _drawn(model: nn.Module, data: Data, device: str, seed: int) -> Arrays:
    height, width = data.test.x.shape[-2:]
    cropped = data.train.x.shape[-2:] != data.test.x.shape[-2:]  # see `Data`
    train = data.train.cropped(height) if cropped else data.train
    classes = train.y.unique()[:DRAWN].tolist()
    if len(classes) * height * width > SAMPLED:
        return {}
    drawn = generation.samples(model, train.to(device), classes, 1, seed=seed)[:, 0]
    return {"samples": _picture(drawn), "samples_y": np.array(classes, np.int32)}


def _shrunk_size(height: int, width: int) -> tuple[int, int]:
    ratio = min(1, SIDE / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def _small(t: Tensor) -> Tensor:
    """Images or maps (n, C, H, W) as (n, H, W, C), no larger than is kept."""
    return F.adaptive_avg_pool2d(t, _shrunk_size(*t.shape[-2:])).permute(0, 2, 3, 1)


def _picture(x: Tensor) -> np.ndarray:
    """Images (n, C, H, W) in [0, 1] as (n, H, W, C) uint8."""
    return _plain((_small(x) * 255).round().to(torch.uint8))


def _map(maps: Tensor) -> np.ndarray:
    """Maps (n, C, H, W), whose size is about 1, as (n, H, W, C) float16, rounded, so that a file can be small."""
    return _plain((_small(maps) * LEVELS).round().div(LEVELS).half())


def _numbers(y: Tensor) -> np.ndarray:
    return _plain(y.to(torch.int32))


def _plain(t: Tensor) -> np.ndarray:
    return np.ascontiguousarray(t.detach().cpu().numpy())
