"""Gradients with respect to the input that can be differentiated once more.

What a saliency of `harness.saliency` gives is detached. Training for stable attributions, and attacking them, need the
gradient with its graph, of a net with curvature: `harness.models.softened` where the net is made of ReLUs.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import Mistake

Scalar = Callable[[Tensor, Tensor], Tensor]  # logits (B, K), labels (B,) -> one number per image (B,)


def true_logit(logits: Tensor, y: Tensor) -> Tensor:
    """The logit of the label. (B,)"""
    return logits.gather(1, y[:, None]).squeeze(1)


def wrong_logit(logits: Tensor, y: Tensor) -> Tensor:
    """The largest logit of any other class. (B,)"""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)


def loss(logits: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of the label. (B,)"""
    return F.cross_entropy(logits, y, reduction="none")


SCALARS: dict[str, Scalar] = {"logit": true_logit, "loss": loss}


def gradient(values: Tensor, x: Tensor, *, graph: bool = False, again: bool = False) -> Tensor:
    """The gradient of values.sum() with respect to x, of x's shape.

    graph: keep it differentiable. again: another gradient of the same values' graph will follow. Zero where the values
    do not depend on x.
    """
    if not values.requires_grad:
        return torch.zeros_like(x)
    (g,) = torch.autograd.grad(
        values.sum(), x, create_graph=graph, retain_graph=graph or again, allow_unused=True, materialize_grads=True
    )
    return g


def of(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The gradient of function(z).sum() at z, of z's shape; with a graph back to z where z asks for gradients."""
    graph = z.requires_grad
    with torch.enable_grad():
        at = z if graph else z.detach().requires_grad_(True)
        g = gradient(function(at), at, graph=graph)
        return g + 0 * at if graph else g  # of a linear function, too, there is a graph: its gradient is 0


def check_classes(logits: Tensor) -> None:
    """Raise `Mistake` where there is no wrong class to compare the label with."""
    if logits.dim() != 2 or logits.shape[1] < 2:
        shape = " x ".join(map(str, logits.shape[1:])) or "no"
        raise Mistake(f"attributions need a net with a logit for each of at least two classes; this one has {shape}")


def check_curvature(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise `Mistake` where the net's gradient cannot be differentiated, or only seemingly.

    A net of LeakyReLUs, say, has a second derivative, and it is 0 although the gradient changes from place to place: an
    attack on its attributions would be blind, and the net look stable. A linear net passes.
    """
    x, y = x[:2].detach(), y[:2]
    name = type(getattr(model, "model", model)).__name__  # of a softened net, the net itself
    with torch.enable_grad():
        here, there = (z.requires_grad_(True) for z in (x.clone(), (x + 0.2 * torch.randn_like(x)).detach()))
        logits = model(here)
        check_classes(logits)
        g = gradient(true_logit(logits, y), here, graph=True)
        try:
            curvature = gradient((g * torch.randn_like(g)).sum(), here) if g.requires_grad else torch.zeros_like(g)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise Mistake(f"the gradient of {name} cannot be differentiated: {reason}") from None
        moved = gradient(true_logit(model(there), y), there) - g.detach()
    if not curvature.any() and moved.abs().max() > 1e-3 * g.detach().abs().max():
        raise Mistake(
            f"the gradient of {name} changes, but its derivative is 0 everywhere: attributions of such a net cannot be"
            " attacked by gradients; build it of ReLUs, which are replaced by softplus, or of smooth activations"
        )


@contextlib.contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Within: batch normalisation in training mode uses the statistics of the batch and lets no running ones move.

    Unlike `harness.attacks.frozen` it changes neither a mode nor what asks for a gradient, so it may stand around a
    part of a loss: running statistics are for evaluation, where no interpolated image and no softplus is seen.
    """
    tracking = [m for m in model.modules() if m.training and getattr(m, "track_running_stats", False)]
    try:
        for m in tracking:
            m.track_running_stats = False
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within: the net is in evaluation mode, and learns from its gradients all the same. After: as it was."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for m, mode in modes:
            m.training = mode
