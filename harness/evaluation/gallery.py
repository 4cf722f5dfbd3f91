"""Image gallery of a trained net: sample test images with predictions and attribution maps, clean and under attack.

    store_gallery(file, model, data, measure, attribution)      an .npz file for `reports.present.pictures.galleries`

The images are the first of each class, independent of the net, so that methods can be compared side by side. Nothing
here is a score. The cost is about that of PGD-10 on 400 images, for any size of the test set.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import pgd
from harness.attacks.attribution import attack, top_k
from harness.data.datasets import Data, Split
from harness.evaluation import image_synthesis
from harness.evaluation.batching import chunk_size, image_seeds, to_batch
from harness.evaluation.settings import Attribution, Measure
from harness.evaluation.suites import pgd_name, step_of
from harness.explain import heat_maps, localization
from harness.explain.boxes import largest_boxes
from harness.explain.integrated_gradients import IntegratedGradients
from harness.explain.maps import Gradient, trapezoids
from harness.explain.similarity import importance, kendall, topk_intersection
from harness.models import freezing
from harness.models.nets import Net
from harness.randomness import PerImageRng, full_float32, seeded
from harness.storage import npz

POINTS = 50  # intervals of integrated gradients in shown maps
ATTRIBUTION_IMAGES = 4  # images whose attributions are attacked: second derivatives are expensive
ATTRIBUTION_STEPS = 5  # of that attack, of size eps / 2; ten steps of eps / 4 change a map no more
SAMPLE_CLASSES = 10  # classes for which an image is synthesised
MAX_SAMPLE_PIXELS = SAMPLE_CLASSES * 64 * 64  # no synthesis beyond that
MAX_SIDE = 96  # pixels: larger images are stored downscaled
LEVELS = 32  # quantisation levels per unit of a map

Arrays = dict[str, np.ndarray]


def store_gallery(
    file: Path, model: nn.Module, data: Data, measure: Measure, attribution: Attribution, *, device: str = "cpu"
) -> None:
    """Write the arrays of `gallery` to an .npz file. Deterministic: the same net and data give the same file."""
    npz.write(file, gallery(model, data, measure, attribution, device=device))


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
    """Gallery arrays for the first test image of each of the first `images` classes. The model is on `device`.

    x (n, H, W, C) uint8, y (n,), classes (K,) names, predicted (n,); gradient (n, H, W, C), the gradient of the label's
    logit over its root mean square; integrated (n, H, W), the magnitude of its integrated gradients over its mean.
    attacked, attacked_predicted, attacked_gradient, attacked_integrated: the same under PGD at `eps`, the upper median
    of `measure.eps`, with the score's steps and its first random start.

    moved, moved_predicted, moved_integrated, for the first 4 images: under a short attack on their integrated gradients
    with `moved_eps`, which is `attribution.eps`; moved_in and moved_k, the intersection of the `attribution.k` most
    important pixels and Kendall's tau before and after. They are NaN where the clean image is misclassified, or no step
    kept the prediction; `moved` is then the clean image.

    boxes, located_grad, located_cam (n, 4), if the data has boxes: true ones, and those of the gradient map and, for
    nets of this project, of the class activation map, at the published thresholds. samples (S, H, W, C) uint8 and
    samples_y (S,): a synthesised image for each of the first 10 classes, if images are at most 64 x 64.

    Images of more than 96 pixels a side are downscaled with their maps and boxes. Maps are float16, rounded to 1/32.
    """
    split = _first_per_class(data.test, images).to(device)
    x, y = to_batch(split).x, split.y
    with freezing.frozen(model), full_float32(), seeded(seed, "gallery", device=device):
        integrated = _integrated(model, x, y)
        return {
            "x": _picture(x),
            "y": _numbers(y),
            "classes": np.array(data.classes),
            **_explained(model, x, y, integrated),
            **_attacked(model, split, measure, seed),
            **_moved(model, split.head(ATTRIBUTION_IMAGES), integrated[:ATTRIBUTION_IMAGES], attribution, seed),
            **_boxes(model, split),
            **_synthesised(model, data, device, seed),
        }


def _first_per_class(split: Split, classes: int) -> Split:
    """The first image of each of the first `classes` classes that occur."""
    first = [(split.y == c).nonzero()[0, 0] for c in split.y.unique()[:classes]]
    return split.at(torch.stack(first))


def _explained(model: nn.Module, z: Tensor, y: Tensor, integrated: Tensor) -> Arrays:
    """Predictions, gradient and integrated gradients of images z; integrated (n, H, W)."""
    g = Gradient().detached(model, z, y)
    rms = g.square().mean((1, 2, 3), keepdim=True).sqrt()
    return {
        "predicted": _numbers(_predicted(model, z)),
        "gradient": _map(g / torch.where(rms > 0, rms, 1)),
        "integrated": _map(integrated[:, None])[..., 0],
    }


def _predicted(model: nn.Module, z: Tensor) -> Tensor:
    with torch.no_grad():
        return model(z).argmax(1)


def _integrated(model: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    return importance(trapezoids(POINTS, chunk_size(z)).detached(model, z, y))


def _attacked(model: nn.Module, split: Split, measure: Measure, seed: int) -> Arrays:
    eps = sorted(measure.eps)[len(measure.eps) // 2]
    draws = PerImageRng(image_seeds(split), (seed, pgd_name(measure, eps))).stream(0)
    step, steps = step_of(measure, eps), measure.steps
    z = pgd.pgd(model, to_batch(split).x, split.y, eps=eps, step=step, steps=steps, draws=draws)
    explained = _explained(model, z, split.y, _integrated(model, z, split.y))
    return {"eps": np.array(eps), "attacked": _picture(z), **{f"attacked_{n}": a for n, a in explained.items()}}


def _moved(model: nn.Module, split: Split, before: Tensor, settings: Attribution, seed: int) -> Arrays:
    x, y = to_batch(split).x, split.y
    k = min(settings.k, x.shape[-2] * x.shape[-1])
    candidate = attack(
        model,
        x,
        y,
        explain=IntegratedGradients(settings.points),
        objective=top_k(k),
        criteria={"k": kendall},
        eps=settings.eps,
        step=settings.eps / 2,
        steps=ATTRIBUTION_STEPS,
        beta=settings.beta,
        draws=PerImageRng(image_seeds(split), (seed, "gallery")),
    )["k"]
    valid = candidate.kept & (_predicted(model, x) == y)
    z = torch.where(valid[:, None, None, None], candidate.z, x)
    after = _integrated(model, z, y)
    similarity = {"in": topk_intersection(before, after, k), "k": kendall(before, after)}
    return {
        "moved_eps": np.array(settings.eps),
        "moved": _picture(z),
        "moved_predicted": _numbers(_predicted(model, z)),
        "moved_integrated": _map(after[:, None])[..., 0],
        **{f"moved_{name}": _numpy(v.masked_fill(~valid, torch.nan).float()) for name, v in similarity.items()},
    }


def _boxes(model: nn.Module, split: Split) -> Arrays:
    if split.boxes is None:
        return {}
    x = to_batch(split).x
    heat = {"grad": heat_maps.grad_map(model, x)}
    if isinstance(model, Net):
        heat["cam"] = heat_maps.cam_map(model, x, split.y)
    located = {f"located_{m}": largest_boxes(h, localization.PUBLISHED[m]) for m, h in heat.items()}
    height, width = x.shape[-2:]
    scale = np.array(_shrunk_size(height, width))[[1, 0, 1, 0]] / np.array([width, height, width, height])
    return {name: _scaled_boxes(_numpy(boxes), scale) for name, boxes in ({"boxes": split.boxes} | located).items()}


def _scaled_boxes(boxes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Scale boxes with inclusive ends, rounded outwards."""
    far = np.array([0, 0, 1, 1])
    ends = (boxes + far) * scale
    return np.where(far, np.ceil(ends) - 1, np.floor(ends)).astype(np.int16)


def _synthesised(model: nn.Module, data: Data, device: str, seed: int) -> Arrays:
    height, width = data.test.x.shape[-2:]
    cropped = data.train.x.shape[-2:] != data.test.x.shape[-2:]  # see `Data`
    train = data.train.cropped(height) if cropped else data.train
    classes = train.y.unique()[:SAMPLE_CLASSES].tolist()
    if len(classes) * height * width > MAX_SAMPLE_PIXELS:
        return {}
    images = image_synthesis.samples(model, train.to(device), classes, 1, seed=seed)[:, 0]
    return {"samples": _picture(images), "samples_y": np.array(classes, np.int32)}


def _shrunk_size(height: int, width: int) -> tuple[int, int]:
    ratio = min(1, MAX_SIDE / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def _downscaled(t: Tensor) -> Tensor:
    """Images or maps (n, C, H, W) as (n, H, W, C), downscaled to at most MAX_SIDE."""
    return F.adaptive_avg_pool2d(t, _shrunk_size(*t.shape[-2:])).permute(0, 2, 3, 1)


def _picture(x: Tensor) -> np.ndarray:
    """Images (n, C, H, W) in [0, 1] as (n, H, W, C) uint8."""
    return _numpy((_downscaled(x) * 255).round().to(torch.uint8))


def _map(maps: Tensor) -> np.ndarray:
    """Maps (n, C, H, W) of magnitude about 1 as (n, H, W, C) float16, rounded so that they compress well."""
    return _numpy((_downscaled(maps) * LEVELS).round().div(LEVELS).half())


def _numbers(y: Tensor) -> np.ndarray:
    return _numpy(y.to(torch.int32))


def _numpy(t: Tensor) -> np.ndarray:
    return np.ascontiguousarray(t.detach().cpu().numpy())
