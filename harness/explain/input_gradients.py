"""Input gradients that can be differentiated again (double backward).

Attributional robustness training and attacks on attributions need the gradient with its graph, of a net with curvature:
for ReLU nets, of `harness.models.relus.softened`; `harness.explain.curvature` asks whether it has any.
`harness.explain.maps` are made of these.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.errors import UserError

Scalar = Callable[[Tensor, Tensor], Tensor]  # logits (B, K), labels (B,) -> one number per image (B,)


# Pixels per autograd graph, interpolated images included: bounds memory to some 200 bytes per pixel and channel of the
# widest layer. Small on a CPU, for its caches: 100 images of 32 x 32, the points of a published attack.
PIXELS = {"cpu": 100 * 1024, "cuda": 2000 * 1024}


def chunk_size(x: Tensor) -> int:
    """How many images of x's size to put into one autograd graph on x's device."""
    return max(1, PIXELS.get(x.device.type, PIXELS["cuda"]) // (x.shape[-2] * x.shape[-1]))


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
    """Gradient of values.sum() with respect to x, of x's shape; 0 if values do not depend on x.

    graph: make it differentiable (`create_graph`). again: retain the graph for another gradient.
    """
    if not values.requires_grad:
        return torch.zeros_like(x)
    (g,) = torch.autograd.grad(
        values.sum(), x, create_graph=graph, retain_graph=graph or again, allow_unused=True, materialize_grads=True
    )
    return g


def of(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Gradient of function(z).sum() at z, of z's shape; differentiable if z requires gradients."""
    graph = z.requires_grad
    with torch.enable_grad():
        at = z if graph else z.detach().requires_grad_(True)
        g = gradient(function(at), at, graph=graph)
        return g + 0 * at if graph else g  # so that the constant gradient of a linear function has a graph, too


def check_classes(logits: Tensor) -> None:
    """Raise `UserError` unless logits are (B, K) with K >= 2."""
    if logits.dim() != 2 or logits.shape[1] < 2:
        shape = " x ".join(map(str, logits.shape[1:])) or "no"
        raise UserError(f"attributions need a net with a logit for each of at least two classes; this one has {shape}")
