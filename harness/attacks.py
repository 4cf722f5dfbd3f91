"""Attacks on predictions: one ascent with different objectives.

    attack(model, x, y, *, eps, ...) -> x'     in the eps ball around x and in [0, 1], same shape

eps and step are on the [0, 1] scale. The ascent itself changes nothing in the model; `frozen` sets its mode.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.randomness import Draws

Norm = Literal["linf", "l2"]
Start = Literal["uniform", "gauss", "none"]


@contextlib.contextmanager
def frozen(model: nn.Module, train: bool = False) -> Iterator[nn.Module]:
    """Within: no parameter asks for a gradient and no buffer moves. After: everything as it was.

    train False: evaluation mode. True: training mode, that is batch statistics and dropout, as the attacks of several
    published training scripts have it; running statistics stay untouched here, unlike there.
    """
    modes = [(m, m.training) for m in model.modules()]
    asked = [p for p in model.parameters() if p.requires_grad]
    tracking = [m for m in model.modules() if train and getattr(m, "track_running_stats", False)]
    try:
        model.train(train)
        for p in asked:
            p.requires_grad_(False)
        for m in tracking:
            m.track_running_stats = False
        yield model
    finally:
        for m in tracking:
            m.track_running_stats = True
        for p in asked:
            p.requires_grad_(True)
        for m, mode in modes:
            m.training = mode


def ascend(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Start = "uniform",
    norm: Norm = "linf",
    draws: Draws | None = None,
) -> Tensor:
    """Projected gradient ascent on a function of one value per image (Madry et al., 2018).

    objective: (B, C, H, W) -> (B,). start: uniform in the ball; `gauss`, 0.001 times a standard normal (TRADES); or x
    itself. draws: where the start's random numbers come from, the global generator where there are none. Returns the
    last iterate, detached. Errors: none of its own; eps 0 returns x.
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


def _start(x: Tensor, eps: float, start: Start, norm: Norm, draws: Draws | None) -> Tensor:
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
    each = [1] * (x.dim() - 1)
    radius = uniform(*each) ** (1 / x[0].numel())  # uniform in volume
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
    draws: Draws | None = None,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy (Madry et al., 2018)."""
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
    draws: Draws | None = None,
) -> Tensor:
    """PGD that leaves each image at the first iterate, the start included, that is not classified as y.

    For measuring, not for training: it breaks all that `pgd` breaks and what that passes by on its way, and a step
    costs only for the images that are left.
    """
    found = x.detach().clone()
    left = torch.arange(len(x), device=x.device)
    z = x.detach()
    z = clip(_start(z, eps, start, norm, draws), z, eps, norm) if eps else z
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = model(z)
            (g,) = torch.autograd.grad(F.cross_entropy(logits, y[left], reduction="sum"), z)
        found[left] = z.detach()
        on = (logits.argmax(1) == y[left]).nonzero().squeeze(1)
        left = left[on]
        if not len(left):
            return found
        z = clip(z.detach()[on] + step * _direction(g[on], norm), x[left], eps, norm)
    found[left] = z.detach()
    return found


def pgd_kl(model: nn.Module, x: Tensor, *, eps: float, step: float, steps: int, start: Start = "gauss") -> Tensor:
    """Projected gradient ascent on the divergence from the clean prediction (TRADES, Zhang et al., 2019)."""
    with torch.no_grad():
        reference = model(x).log_softmax(1)
    return ascend(divergence(model, reference), x, eps=eps, step=step, steps=steps, start=start)
