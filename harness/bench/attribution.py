"""IN and K by the protocols `art` and `rar`, against the released rule one image at a time, and by cheaper attacks.

Every side attacks the same images from the same starts, so the differences are paired. Results are stored after every
round, and a later run with the same settings continues.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks.attribution import without_denormals
from harness.attacks.pgd import clip
from harness.data.batches import Batch
from harness.data.datasets import Split
from harness.errors import UserError, required
from harness.evaluation import attribution_protocols as protocols
from harness.evaluation.batching import image_seeds, to_batch, to_batches
from harness.evaluation.measurements import accuracy
from harness.evaluation.settings import Attribution
from harness.explain.integrated_gradients import IntegratedGradients
from harness.models.freezing import frozen
from harness.models.relus import rectified_by
from harness.randomness import PerImageRng, full_float32

POINTS = 100  # interpolation points of integrated gradients in the released scripts
RELEASED = "released"  # the reference, `released art` or `released rar`


def released(
    model: nn.Module, x: Tensor, y: Tensor, settings: Attribution, start: Tensor | None = None, rar: bool = False
) -> tuple[float, float]:
    """IN and K of a single image (1, C, H, W) by the released rule of Singh et al. (2020), or of Chen et al. (2019).

    start: the random start of the former, in the ball. NaN if it drops the image. Every attack step computes
    second-order gradients of the softplus surrogate at 100 interpolation points, the gradients of the ReLU net, a
    prediction, and Kendall's tau by scipy.
    """
    share = torch.arange(1, POINTS + 1, device=x.device).view(-1, 1, 1, 1) / POINTS
    labels, size = y.repeat(POINTS), x[0, 0].numel()

    def attribute(z: Tensor, graph: bool = False) -> tuple[Tensor, Tensor]:
        points = (share * z).requires_grad_(True)
        logit = model(points).gather(1, labels[:, None]).sum()
        (g,) = torch.autograd.grad(logit, points, create_graph=graph)
        s = (g.mean(0) * (points[-1] if rar else z)).abs().sum(-3).flatten()
        return points, size * s / s.sum()

    def tau(z: Tensor) -> float:
        mask = 1 if rar else top
        return stats.kendalltau((attribute(z)[1].detach() * mask).cpu(), (clean * mask).cpu())[0]

    clean = attribute(x)[1].detach()
    top = torch.zeros_like(clean).scatter_(0, clean.topk(settings.k).indices, 1)
    z = x if start is None else (x + start).clamp(0, 1)
    best, worst = None, 1.0 if rar else np.inf
    for _ in range(settings.steps):
        if not rar and model(z).argmax(1) == y and (found := tau(z)) < worst:
            best, worst = z, found
        with torch.enable_grad(), rectified_by(lambda t: F.softplus(t, settings.beta)):
            points, s = attribute(z, graph=True)
            (g,) = torch.autograd.grad((s * top).sum(), points)
        z = clip(z - protocols.step_of(settings) * (share * g).sum(0, keepdim=True).sign(), x, settings.eps)
        if rar and model(z).argmax(1) == y and (found := tau(z)) < worst:
            best, worst = z, found
    if best is None:
        return (1.0, 1.0) if rar else (np.nan, np.nan)
    if rar:
        a, b = clean.cpu().numpy(), attribute(best)[1].detach().cpu().numpy()
    else:
        a, b = (_map_of_the_loss(model, image, y) for image in (x, best))
    common = np.intersect1d(np.argsort(a)[-settings.k :], np.argsort(b)[-settings.k :])
    return len(common) / settings.k, stats.kendalltau(a, b)[0]


def _map_of_the_loss(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """Integrated gradients of the cross-entropy by the trapezoidal rule, as importance of pixels (H * W,)."""
    share = torch.arange(POINTS + 1, device=x.device).view(-1, 1, 1, 1) / POINTS
    points = (share * x).requires_grad_(True)
    (g,) = torch.autograd.grad(F.cross_entropy(model(points), y.repeat(POINTS + 1), reduction="sum"), points)
    return (x * ((g[1:] + g[:-1]) / 2).mean(0)).abs().mean(1).flatten().cpu().numpy()


def sides(settings: Attribution) -> dict[str, protocols.Protocol]:
    """The protocols to compare with the released rules, by name; what is compared with that of Chen et al. is `rar...`.

    `...-few`: 10 fixed midpoints, and the surrogate's maps for the choice of the top k and of the iterate.
    """
    art, rar = protocols.art(settings), protocols.rar(settings)
    return {
        "art": art,
        "fast": protocols.fast(settings),
        "art-few": replace(art, attacked=IntegratedGradients(10, through_factor=False), judge=None),
        "rar": rar,
        "rar-few": replace(rar, attacked=IntegratedGradients(10), judge=None),
    }


SIDES = tuple(sides(Attribution()))


def reference(side: str) -> str:
    """The name of the released rule that a side is compared with."""
    return f"{RELEASED} {'rar' if 'rar' in side else 'art'}"


@dataclass(frozen=True)
class Measured:
    """Seconds per image of each round, and IN and K (images, 2), NaN where the image is dropped."""

    seconds: list[float]
    values: np.ndarray

    def compared(self, reference: "Measured") -> np.ndarray:
        """IN and K (2, 3): mean of these minus the reference's, and its 95 % bootstrap interval over images.

        Over the images that neither drops.
        """
        gaps = self.values - reference.values
        gaps = gaps[~np.isnan(gaps).any(1)]
        draws = np.random.default_rng(0).integers(len(gaps), size=(10_000, len(gaps)))
        low, high = np.quantile(gaps[draws].mean(1), (0.025, 0.975), axis=0)
        return np.stack([gaps.mean(0), low, high], 1)


def compare_attribution(
    model: nn.Module, split: Split, settings: Attribution, images: int, rounds: int, stored: Path, names: Sequence[str]
) -> dict[str, Measured]:
    """The sides of these names, after the released rules that they need: interleaved rounds of so many images.

    stored: a file of finished rounds, which are not measured again. The images are the first ones classified correctly.
    Every side is warmed up by one step on one image.
    """
    done = _stored_rounds(stored)
    with frozen(model), full_float32():
        correct = torch.cat([accuracy(model, batch) for batch in to_batches(split)]).nonzero().squeeze(1)
        if len(correct) < images:
            raise UserError(f"the net classifies {len(correct)} images correctly, less than one round of {images}")
        quick = replace(settings, steps=1)
        for run in _runs(model, quick, names).values():
            run(_drawn(split.at(correct[:1])))
        for number in range(min(rounds, len(correct) // images)):
            batch = _drawn(split.at(correct[number * images : (number + 1) * images]))
            for name, run in _runs(model, settings, names).items():
                if (number, name) not in done:
                    began = time.perf_counter()
                    values = run(batch)
                    seconds = (time.perf_counter() - began) / images
                    done[number, name] = {"round": number, "side": name, "seconds": seconds, "values": values.tolist()}
                    with stored.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(done[number, name]) + "\n")
    rows = {
        name: [row for (number, n), row in sorted(done.items()) if n == name and number < rounds]
        for name in _runs(model, settings, names)
    }
    return {
        name: Measured([row["seconds"] for row in each], np.concatenate([np.array(row["values"]) for row in each]))
        for name, each in rows.items()
    }


def _stored_rounds(file: Path) -> dict[tuple[int, str], dict]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return {(row["round"], row["side"]): row for row in rows}


def _drawn(split: Split) -> Batch:
    return to_batch(split, PerImageRng(image_seeds(split), ("bench",)))


def _runs(model: nn.Module, settings: Attribution, names: Sequence[str]) -> dict[str, Callable[[Batch], np.ndarray]]:
    """IN and K (images, 2) of a batch, by the name of the side."""

    def by_released(rar: bool, batch: Batch) -> np.ndarray:
        draws = required(batch.draws, "random draws").stream(0, 0)  # of the first start and objective
        starts = settings.eps * (2 * draws.uniform(*batch.x.shape[1:]).to(batch.x) - 1)
        each = zip(batch.x.split(1), batch.y.split(1), starts.split(1), strict=True)
        with without_denormals():
            return np.array([released(model, x, y, settings, None if rar else start, rar) for x, y, start in each])

    def by_protocol(protocol: protocols.Protocol, batch: Batch) -> np.ndarray:
        found = protocols.protocol_metric("art", protocol, settings)(model, batch)
        return torch.stack([found["art-in"], found["art-k"]], 1).cpu().numpy().astype(float)

    needed = dict.fromkeys(map(reference, names))
    runs: dict[str, Callable[[Batch], np.ndarray]] = {of: partial(by_released, "rar" in of) for of in needed}
    return runs | {name: partial(by_protocol, sides(settings)[name]) for name in names}
