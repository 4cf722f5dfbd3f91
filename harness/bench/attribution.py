"""The evaluation of Singh et al. (2020), batched and with few places on the way, against one image at a time."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from harness import attribution
from harness.attacks import clip, frozen
from harness.batch import Batch
from harness.config import Attribution
from harness.datasets import Split
from harness.measurements import accuracy
from harness.measuring import chunks
from harness.models import rectified_by
from harness.randomness import exact, seeded

PLACES = 100


def published(model: nn.Module, x: Tensor, y: Tensor, settings: Attribution) -> tuple[float, float] | None:
    """IN and K of a single image (1, C, H, W), step by step as the released script has it; None where it is dropped.

    Every step takes the gradients of the softplus net at 100 places at once and theirs in turn, those of the net as it
    is, a prediction, and Kendall's tau by scipy.
    """
    share = torch.arange(1, PLACES + 1, device=x.device).view(-1, 1, 1, 1) / PLACES
    labels, pixels = y.repeat(PLACES), x[0, 0].numel()

    def at_places(z: Tensor, graph: bool) -> tuple[Tensor, Tensor]:
        places = (share * z).requires_grad_(True)
        logit = model(places).gather(1, labels[:, None]).sum()
        (g,) = torch.autograd.grad(logit, places, create_graph=graph)
        s = (g.mean(0) * z).abs().sum(1).flatten()
        return places, pixels * s / s.sum()

    _, clean = at_places(x, graph=False)
    top = torch.zeros_like(clean).scatter_(0, clean.topk(settings.k).indices, 1)
    z = (x + torch.empty_like(x).uniform_(-settings.eps, settings.eps)).clamp_(0, 1)
    best, worst = None, np.inf
    for _ in range(settings.steps):
        with torch.enable_grad(), rectified_by(lambda t: F.softplus(t, settings.beta)):
            places, s = at_places(z, graph=True)
            (g,) = torch.autograd.grad((s * top).sum(), places)
        _, there = at_places(z, graph=False)
        if model(z).argmax(1) == y:
            tau = stats.kendalltau((there * top).cpu(), (clean * top).cpu())[0]
            if tau < worst:
                best, worst = z, tau
        direction = -(share * g).sum(0, keepdim=True)
        z = clip(z + attribution.step_of(settings) * direction.sign(), x, settings.eps)
    if best is None:
        return None
    a, b = (_scored(model, image, y) for image in (x, best))
    common = np.intersect1d(np.argsort(a)[-settings.k :], np.argsort(b)[-settings.k :])
    return len(common) / settings.k, stats.kendalltau(a, b)[0]


def _scored(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """The integrated gradients of the cross-entropy by the trapezoidal rule, as importance of pixels (H * W,)."""
    share = torch.arange(PLACES + 1, device=x.device).view(-1, 1, 1, 1) / PLACES
    places = (share * x).requires_grad_(True)
    (g,) = torch.autograd.grad(F.cross_entropy(model(places), y.repeat(PLACES + 1), reduction="sum"), places)
    return (x * ((g[1:] + g[:-1]) / 2).mean(0)).abs().mean(1).flatten().cpu().numpy()


@dataclass(frozen=True)
class Sides:
    """Seconds per image of both ways by round, and IN and K (images, 2) of the images that both counted."""

    ours: list[float]
    theirs: list[float]
    values: np.ndarray
    values_theirs: np.ndarray

    def difference(self, column: int) -> tuple[float, float, float]:
        """Mean of ours minus theirs, and its 95 % bootstrap interval over images."""
        apart = (self.values - self.values_theirs)[:, column]
        draws = np.random.default_rng(0).choice(apart, (10_000, len(apart))).mean(1)
        return float(apart.mean()), *np.quantile(draws, (0.025, 0.975)).tolist()


def side_by_side(model: nn.Module, split: Split, settings: Attribution, images: int, rounds: int) -> Sides:
    """Both ways on the same images, so many in each round; rounds interleaved, the first images classified correctly.

    The first image of each side is measured once before, to warm up.
    """
    ours_s, theirs_s, ours_v, theirs_v = [], [], [], []
    metric = attribution.measured("art", attribution.art(settings), settings)
    with frozen(model), exact():
        right = torch.cat([accuracy(model, batch) for batch in chunks(split)]).nonzero().squeeze(1)
        (batch,) = chunks(split.at(right[: images * rounds]))
        warm = Attribution(**{**vars(settings), "steps": 1})
        attribution.measured("art", attribution.art(warm), warm)(model, Batch(batch.x[:1], batch.y[:1]))
        published(model, batch.x[:1], batch.y[:1], warm)
        for number, (x, y) in enumerate(zip(batch.x.split(images), batch.y.split(images), strict=True)):
            with seeded("bench", number):
                began = time.perf_counter()
                found = metric(model, Batch(x, y))
                values = torch.stack([found["art-in"], found["art-k"]], 1).cpu().numpy()
                ours_s.append((time.perf_counter() - began) / len(x))
                began = time.perf_counter()
                each = [published(model, x[i : i + 1], y[i : i + 1], settings) for i in range(len(x))]
                theirs_s.append((time.perf_counter() - began) / len(x))
            ours_v.append(values)
            theirs_v.append(np.array([(np.nan, np.nan) if pair is None else pair for pair in each]))
    ours, theirs = np.concatenate(ours_v), np.concatenate(theirs_v)
    both = ~(np.isnan(ours) | np.isnan(theirs)).any(1)
    return Sides(ours_s, theirs_s, ours[both], theirs[both])
