"""FGSM and PGD (L-infinity and L2): projected gradient ascent on cross-entropy or KL divergence.

    attack(model, x, y, *, eps, ...) -> x'     in the eps ball around x and in [0, 1], same shape

eps and step are on the [0, 1] scale. The ascent does not change the model; `frozen` sets its mode.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.randomness import PerImageRng

Norm = Literal["linf", "l2"]
Start = Literal["uniform", "gauss", "none"]


def ascend(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Start = "uniform",
    norm: Norm = "linf",
    draws: PerImageRng | None = None,
) -> Tensor:
    """Projected gradient ascent on an objective per image (Madry et al., 2018).

    objective: (B, C, H, W) -> (B,). start: `uniform` in the ball; `gauss`, 0.001 times a standard normal (TRADES);
    `none`, x itself. draws: random generator of the start (None: the global one). Returns the last iterate, detached;
    eps 0 returns x.
    """
    x = x.detach()
    if eps == 0:
        return x.clone()
    z = clip(_start(x, eps, start, norm, draws), x, eps, norm)
    for _ in range(steps):
        z.requires_grad_(True)
        with torch.enable_grad():
            (g,) = torch.autograd.grad(objective(z).sum(), z)
        z = clip(z.detach() + step * _direction(g, norm), x, eps, norm)
    return z


def clip(z: Tensor, x: Tensor, eps: float, norm: Norm = "linf") -> Tensor:
    """z projected onto the eps ball around x, then onto [0, 1]."""
    if norm == "linf":
        z = torch.minimum(torch.maximum(z, x - eps), x + eps)
    else:
        delta = z - x
        z = x + delta * (eps / _l2(delta).clamp_min(1e-12)).clamp_max(1)
    return z.clamp_(0, 1)


def _direction(g: Tensor, norm: Norm) -> Tensor:
    return g.sign() if norm == "linf" else g / _l2(g).clamp_min(1e-12)


def _l2(d: Tensor) -> Tensor:
    return d.flatten(1).norm(dim=1).view(-1, *[1] * (d.dim() - 1))


def _start(x: Tensor, eps: float, start: Start, norm: Norm, draws: PerImageRng | None) -> Tensor:
    def uniform(*shape: int) -> Tensor:
        return draws.uniform(*shape).to(x) if draws else torch.rand(len(x), *shape, device=x.device, dtype=x.dtype)

    def normal() -> Tensor:
        return draws.normal(*x.shape[1:]).to(x) if draws else torch.randn_like(x)

    if start == "none":
        return x.clone()
    if start == "gauss":
        return x + 0.001 * normal()
    if norm == "linf":
        return x + eps * (2 * uniform(*x.shape[1:]) - 1)
    direction = normal()
    ones = [1] * (x.dim() - 1)
    radius = uniform(*ones) ** (1 / x[0].numel())  # uniform in volume
    return x + direction * (eps * radius / _l2(direction))


def cross_entropy(model: nn.Module, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The objective of FGSM and PGD: cross-entropy of the label, per image."""
    return lambda z: F.cross_entropy(model(z), y, reduction="none")


def divergence(model: nn.Module, reference: Tensor) -> Callable[[Tensor], Tensor]:
    """The objective of TRADES: KL(p_reference || p(z)) per image, reference being log-probabilities (B, K)."""
    return lambda z: F.kl_div(model(z).log_softmax(1), reference, reduction="none", log_target=True).sum(1)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    """One step of size eps along the sign of the gradient, from x itself (Goodfellow et al., 2015)."""
    return ascend(cross_entropy(model, y), x, eps=eps, step=eps, steps=1, start="none")


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Start = "uniform",
    norm: Norm = "linf",
    draws: PerImageRng | None = None,
) -> Tensor:
    """PGD: projected gradient ascent on the cross-entropy (Madry et al., 2018)."""
    return ascend(cross_entropy(model, y), x, eps=eps, step=step, steps=steps, start=start, norm=norm, draws=draws)


def pgd_until_broken(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Start = "uniform",
    norm: Norm = "linf",
    draws: PerImageRng | None = None,
) -> Tensor:
    """PGD with early stopping: returns each image's first misclassified iterate, the start included.

    For evaluation, not training: it succeeds wherever `pgd` does, and also where only an intermediate iterate is
    misclassified; later steps run on the remaining images only.
    """
    result = x.detach().clone()
    remaining = torch.arange(len(x), device=x.device)
    z = x.detach()
    z = clip(_start(z, eps, start, norm, draws), z, eps, norm) if eps else z
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = model(z)
            (g,) = torch.autograd.grad(F.cross_entropy(logits, y[remaining], reduction="sum"), z)
        result[remaining] = z.detach()
        correct = (logits.argmax(1) == y[remaining]).nonzero().squeeze(1)
        remaining = remaining[correct]
        if not len(remaining):
            return result
        z = clip(z.detach()[correct] + step * _direction(g[correct], norm), x[remaining], eps, norm)
    result[remaining] = z.detach()
    return result


def pgd_kl(model: nn.Module, x: Tensor, *, eps: float, step: float, steps: int, start: Start = "gauss") -> Tensor:
    """TRADES' attack: projected gradient ascent on the KL divergence from the clean prediction (Zhang et al., 2019)."""
    with torch.no_grad():
        reference = model(x).log_softmax(1)
    return ascend(divergence(model, reference), x, eps=eps, step=step, steps=steps, start=start)
