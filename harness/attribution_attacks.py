"""Attacks on attributions: move the map, keep the prediction (Ghorbani et al., 2019).

    attack(model, x, y, explain=..., objective=..., criteria=..., eps=..., ...) -> {criterion: Found}

The ascent of `harness.attacks` runs on a smooth surrogate, the net with softplus for ReLU, whose gradient has a
gradient. Every image it visits is looked at: of those that the true net still classifies as y, the one whose map is
least like the clean one is kept. The model is to be frozen (`harness.attacks.frozen`); nothing here changes it.

    explain     (net, z, y) -> attribution (B, C or 1, H, W), with a graph where z asks for gradients    EXPLAIN
    objective   importance of x (B, H, W) -> a function of the importance of z -> (B,), to be raised
    criterion   (importance of x, importance of z) -> likeness (B,), to be lowered                       metrics
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import gradients, metrics, saliency
from harness.attacks import Start, ascend
from harness.errors import Mistake
from harness.gradients import Scalar, true_logit
from harness.models import Net, Softened, softened
from harness.randomness import Draws

Objective = Callable[[Tensor], Callable[[Tensor], Tensor]]
Criterion = Callable[[Tensor, Tensor], Tensor]

# Pixels that a graph holds at once, those of interpolated images counted: this bounds the memory, to some 200 bytes a
# pixel and channel of the widest layer. Few on a CPU, for its caches: 80 images of 32 x 32.
PIXELS = {"cpu": 80 * 1024, "cuda": 2000 * 1024}


def at_once(x: Tensor) -> int:
    """How many images of x's size a graph holds at once on x's device."""
    return max(1, PIXELS.get(x.device.type, PIXELS["cuda"]) // (x.shape[-2] * x.shape[-1]))


@dataclass(frozen=True)
class Gradient:
    """The gradient of the label's logit."""

    images = 1  # that the net sees for one map

    def __call__(self, net: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        return gradients.of(lambda at: true_logit(net(at), y), z)


@dataclass(frozen=True)
class IntegratedGradients:
    """z times the mean gradient at `points` places on the way from black to z (Sundararajan et al., 2017).

    rule: the places, in units of 1 / points: `midpoint`, the most exact for few of them; `right`, 1 to points, as
    published attacks have it; `trapezoid`, 0 to points with the ends counted half. of: the label's logit or its loss.
    through_factor: whether a graph goes through z as a factor, too (Chen et al. do, Singh et al. do not). Where a batch
    has more places than `chunk` (0: `at_once`), they are taken in turn and a second gradient computes the first anew.
    """

    points: int = 10
    rule: Literal["midpoint", "right", "trapezoid"] = "midpoint"
    of: Literal["logit", "loss"] = "logit"
    through_factor: bool = True
    chunk: int = 0

    @property
    def images(self) -> int:
        return self.points

    def __call__(self, net: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        nodes, weights = self._rule(z)
        scalar = gradients.SCALARS[self.of]
        together = max(1, (self.chunk or at_once(z)) // max(1, len(z)))
        parts = list(zip(nodes.split(together), weights.split(together), strict=True))
        if len(parts) > 1 and z.requires_grad:
            mean = _InTurn.apply(z, net, y, scalar, parts)
        else:
            mean = sum(_weighted(net, z, y, scalar, *part) for part in parts)
        return (z if self.through_factor else z.detach()) * mean

    def _rule(self, z: Tensor) -> tuple[Tensor, Tensor]:
        first = {"midpoint": 0.5, "right": 1.0, "trapezoid": 0.0}[self.rule]
        count = self.points + (self.rule == "trapezoid")
        nodes = (torch.arange(count, device=z.device, dtype=z.dtype) + first) / self.points
        weights = torch.full_like(nodes, 1 / self.points)
        if self.rule == "trapezoid":
            weights[[0, -1]] /= 2
        return nodes, weights


def _weighted(net: nn.Module, z: Tensor, y: Tensor, scalar: Scalar, nodes: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of the gradients at every node times z, of z's shape."""
    way = (nodes.view(-1, 1, 1, 1, 1) * z).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    g = gradients.of(lambda at: scalar(net(at), y.repeat(len(nodes))), way)
    return (weights.view(-1, 1, 1, 1, 1) * g.unflatten(0, (len(nodes), len(z)))).sum(0)


class _InTurn(torch.autograd.Function):
    """The weighted sum over several parts of the way, of which only one is in memory at a time."""

    @staticmethod
    def forward(ctx, z: Tensor, net: nn.Module, y: Tensor, scalar: Scalar, parts: list) -> Tensor:
        ctx.save_for_backward(z)
        ctx.settings = net, y, scalar, parts
        return sum(_weighted(net, z.detach(), y, scalar, *part) for part in parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v: Tensor) -> tuple:
        (z,) = ctx.saved_tensors
        net, y, scalar, parts = ctx.settings
        total = torch.zeros_like(z)
        for part in parts:
            at = z.detach().requires_grad_(True)
            with torch.enable_grad():
                total += gradients.gradient(_weighted(net, at, y, scalar, *part) * v, at)
        return total, None, None, None, None


@dataclass(frozen=True)
class SmoothGrad:
    """The mean gradient of the label's logit over n noisy copies (Smilkov et al., 2017).

    The same n draws for every image: the map is then a function, and does not change where the image does not. sigma
    is in units of each image's range.
    """

    n: int = 10
    sigma: float = 0.15

    @property
    def images(self) -> int:
        return self.n

    def __call__(self, net: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        draws = torch.randn(self.n, 1, *z.shape[1:], generator=torch.Generator().manual_seed(0)).to(z)
        flat = z.detach().flatten(1)
        spread = self.sigma * (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)
        noisy = (z + spread * draws).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        g = gradients.of(lambda at: true_logit(net(at), y.repeat(self.n)), noisy)
        return g.unflatten(0, (self.n, len(z))).mean(0)


@dataclass(frozen=True)
class GradCAMPlusPlus:
    """Grad-CAM++ at the last features, as `harness.saliency.gradcam_pp`; of a `Net`, or its softened twin."""

    images = 1

    def __call__(self, net: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        explained = net.model if isinstance(net, Softened) else net
        if not isinstance(explained, Net):
            raise Mistake(f"class activation maps need a Net of harness.models, not {type(explained).__name__}")
        weight = net.head.weight.detach()[y][:, :, None, None]
        return saliency.enlarged(saliency.plus_plus(net.maps(z), weight), z)


Explain = Gradient | IntegratedGradients | SmoothGrad | GradCAMPlusPlus

EXPLAIN: dict[str, type[Explain]] = {
    "integrated_gradients": IntegratedGradients,
    "gradient": Gradient,
    "smoothgrad": SmoothGrad,
    "gradcam_pp": GradCAMPlusPlus,
}


def top_k(k: int) -> Objective:
    """Take importance away from the k pixels that have most of it in the clean map."""

    def objective(clean: Tensor) -> Callable[[Tensor], Tensor]:
        mask = metrics.top_k(clean, k)
        return lambda s: -(s * mask).sum((1, 2))

    return objective


def mass_centre(clean: Tensor) -> Callable[[Tensor], Tensor]:
    """Move the centre of mass of the map away from where it is in the clean one; from x itself no way leads there."""
    centre = metrics.mass_centre(clean)
    return lambda s: (metrics.mass_centre(s) - centre).square().sum(1)


def towards(target: Tensor) -> Objective:
    """Make every map like `target` (H, W), by their cosine."""
    return lambda clean: lambda s: F.cosine_similarity(s.flatten(1), target.to(s).flatten()[None])


def random_signs(clean: Tensor) -> None:
    """The control: steps in random directions, with everything else as in an attack."""


@dataclass(frozen=True)
class Found:
    """z (B, C, H, W): what an attack found; likeness (B,) of its map to the clean one, as the surrogate sees it.

    kept (B,): whether any image it visited kept the prediction; where none did, z is the clean image.
    """

    z: Tensor
    likeness: Tensor
    kept: Tensor


def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    explain: Explain,
    objective: Objective,
    criteria: Mapping[str, Criterion],
    eps: float,
    step: float,
    steps: int,
    start: Start = "uniform",
    beta: float = 50.0,
    see_last: bool = True,
    draws: Draws | None = None,
) -> dict[str, Found]:
    """The images within eps of x, of the same prediction y, whose maps are least like that of x: one per criterion.

    see_last: whether the image after the last step is looked at, too (Singh et al. do not). beta: sharpness of the
    surrogate's softplus. draws: as in `attacks.ascend`. Images are attacked a few at a time, so that a graph holds no
    more than `at_once`. Raises `Mistake` for a net whose gradient cannot be differentiated.
    """
    if len(x):
        gradients.check_curvature(softened(model, beta), x, y)
    parts = []
    together = max(1, at_once(x) // explain.images)
    for first in range(0, max(1, len(x)), together):
        some = slice(first, first + together)
        own = draws.at(some) if draws else None
        watch = _Watch(model, explain, objective, criteria, x[some], y[some], beta, own)
        last = ascend(watch, x[some], eps=eps, step=step, steps=steps, start=start, draws=own)
        if see_last or eps == 0:
            watch.look(last)
        parts.append(watch.found)
    return {name: _joined([part[name] for part in parts]) for name in criteria}


class _Watch:
    """The objective of an ascent, which remembers the best of the images that it was asked about."""

    def __init__(self, model, explain, objective, criteria, x: Tensor, y: Tensor, beta: float, draws: Draws | None):
        self.model, self.surrogate, self.explain = model, softened(model, beta), explain
        self.y, self.criteria, self.draws = y, criteria, draws
        self.clean = self._importance(x).detach()
        self.objective = objective(self.clean)
        none = torch.zeros_like(y, dtype=torch.bool)
        self.found = {name: Found(x, torch.full(y.shape, torch.inf, device=x.device), none) for name in criteria}

    def __call__(self, z: Tensor) -> Tensor:
        if self.objective is None:
            self.look(z)
            signs = self.draws.normal(*z.shape[1:]).to(z) if self.draws else torch.randn_like(z)
            return (z * signs).sum((1, 2, 3))
        s = self._importance(z)
        self.look(z, s)
        return self.objective(s)

    def look(self, z: Tensor, s: Tensor | None = None) -> None:
        """Remember z, per criterion, where it keeps the prediction and is less like x than all before it."""
        with torch.no_grad():
            z = z.detach()
            s = self._importance(z) if s is None else s.detach()
            kept = self.model(z).argmax(1) == self.y
            for name, criterion in self.criteria.items():
                before, likeness = self.found[name], criterion(self.clean, s)
                better = kept & (likeness < before.likeness)
                self.found[name] = Found(
                    torch.where(better[:, None, None, None], z, before.z),
                    torch.where(better, likeness, before.likeness),
                    before.kept | kept,
                )

    def _importance(self, z: Tensor) -> Tensor:
        return metrics.importance(self.explain(self.surrogate, z, self.y))


def _joined(parts: list[Found]) -> Found:
    return Found(*(torch.cat([getattr(p, f) for p in parts]) for f in ("z", "likeness", "kept")))
