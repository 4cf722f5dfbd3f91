"""Attribution attack of Singh et al. (2020): batched, with few interpolation points, against the published loop."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks.pgd import clip
from harness.data.batches import Batch
from harness.data.datasets import Split
from harness.evaluation import attribution_protocols
from harness.evaluation.batching import to_batches
from harness.evaluation.measurements import accuracy
from harness.evaluation.settings import Attribution
from harness.models.freezing import frozen
from harness.models.relus import rectified_by
from harness.randomness import full_float32, seeded

POINTS = 100  # interpolation points of integrated gradients in the published script


def published(model: nn.Module, x: Tensor, y: Tensor, settings: Attribution) -> tuple[float, float] | None:
    """IN and K of a single image (1, C, H, W) as in the released script; None if the image is dropped.

    Every attack step computes second-order gradients of the softplus surrogate at 100 interpolation points, the
    gradients of the ReLU net, a prediction, and Kendall's tau by scipy.
    """
    share = torch.arange(1, POINTS + 1, device=x.device).view(-1, 1, 1, 1) / POINTS
    labels, pixels = y.repeat(POINTS), x[0, 0].numel()

    def attribute(z: Tensor, graph: bool) -> tuple[Tensor, Tensor]:
        points = (share * z).requires_grad_(True)
        logit = model(points).gather(1, labels[:, None]).sum()
        (g,) = torch.autograd.grad(logit, points, create_graph=graph)
        s = (g.mean(0) * z).abs().sum(1).flatten()
        return points, pixels * s / s.sum()

    _, clean = attribute(x, graph=False)
    top = torch.zeros_like(clean).scatter_(0, clean.topk(settings.k).indices, 1)
    z = (x + torch.empty_like(x).uniform_(-settings.eps, settings.eps)).clamp_(0, 1)
    best, worst = None, np.inf
    for _ in range(settings.steps):
        with torch.enable_grad(), rectified_by(lambda t: F.softplus(t, settings.beta)):
            points, s = attribute(z, graph=True)
            (g,) = torch.autograd.grad((s * top).sum(), points)
        _, perturbed = attribute(z, graph=False)
        if model(z).argmax(1) == y:
            tau = stats.kendalltau((perturbed * top).cpu(), (clean * top).cpu())[0]
            if tau < worst:
                best, worst = z, tau
        direction = -(share * g).sum(0, keepdim=True)
        z = clip(z + attribution_protocols.step_of(settings) * direction.sign(), x, settings.eps)
    if best is None:
        return None
    a, b = (_pixel_importance(model, image, y) for image in (x, best))
    common = np.intersect1d(np.argsort(a)[-settings.k :], np.argsort(b)[-settings.k :])
    return len(common) / settings.k, stats.kendalltau(a, b)[0]


def _pixel_importance(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """Integrated gradients of the cross-entropy by the trapezoidal rule, as importance of pixels (H * W,)."""
    share = torch.arange(POINTS + 1, device=x.device).view(-1, 1, 1, 1) / POINTS
    points = (share * x).requires_grad_(True)
    (g,) = torch.autograd.grad(F.cross_entropy(model(points), y.repeat(POINTS + 1), reduction="sum"), points)
    return (x * ((g[1:] + g[:-1]) / 2).mean(0)).abs().mean(1).flatten().cpu().numpy()


@dataclass(frozen=True)
class Comparison:
    """Seconds per image and round, and IN and K (images, 2) of the images that neither drops: batched and published."""

    seconds: list[float]
    published_seconds: list[float]
    values: np.ndarray
    published_values: np.ndarray

    def difference(self, column: int) -> tuple[float, float, float]:
        """Mean of batched minus published, and its 95 % bootstrap interval over images."""
        gaps = (self.values - self.published_values)[:, column]
        draws = np.random.default_rng(0).choice(gaps, (10_000, len(gaps))).mean(1)
        return float(gaps.mean()), *np.quantile(draws, (0.025, 0.975)).tolist()


def compare_attribution(model: nn.Module, split: Split, settings: Attribution, images: int, rounds: int) -> Comparison:
    """Time both implementations in interleaved rounds of so many images, the first ones classified correctly.

    Both are warmed up on one image.
    """
    seconds, published_seconds, batched_values, published_values = [], [], [], []
    metric = attribution_protocols.protocol_metric("art", attribution_protocols.art(settings), settings)
    with frozen(model), full_float32():
        correct = torch.cat([accuracy(model, batch) for batch in to_batches(split)]).nonzero().squeeze(1)
        (batch,) = to_batches(split.at(correct[: images * rounds]))
        warm = Attribution(**{**vars(settings), "steps": 1})
        attribution_protocols.protocol_metric("art", attribution_protocols.art(warm), warm)(
            model, Batch(batch.x[:1], batch.y[:1])
        )
        published(model, batch.x[:1], batch.y[:1], warm)
        for number, (x, y) in enumerate(zip(batch.x.split(images), batch.y.split(images), strict=True)):
            with seeded("bench", number, device=x.device):
                began = time.perf_counter()
                scores = metric(model, Batch(x, y))
                values = torch.stack([scores["art-in"], scores["art-k"]], 1).cpu().numpy()
                seconds.append((time.perf_counter() - began) / len(x))
                began = time.perf_counter()
                each = [published(model, x[i : i + 1], y[i : i + 1], settings) for i in range(len(x))]
                published_seconds.append((time.perf_counter() - began) / len(x))
            batched_values.append(values)
            published_values.append(np.array([(np.nan, np.nan) if pair is None else pair for pair in each]))
    a, b = np.concatenate(batched_values), np.concatenate(published_values)
    valid = ~(np.isnan(a) | np.isnan(b)).any(1)
    return Comparison(seconds, published_seconds, a[valid], b[valid])
