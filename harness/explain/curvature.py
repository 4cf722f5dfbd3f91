"""Whether the second derivative of a net explains how its gradient changes, as attacks on attributions assume.

Such an attack climbs the derivative of the gradient. Where a net's code compares and masks, the gradient jumps, and
automatic differentiation gives the derivative between the jumps only: the attack fails, and the net appears robust.
"""

import contextlib
import math

import torch
from torch import Tensor, nn

from harness.errors import UserError, first_line
from harness.explain.input_gradients import check_classes, chunk_size, gradient, true_logit
from harness.models.feature_layer import WithFeatureLayer
from harness.models.relus import Softened
from harness.randomness import seeded

IMAGES = 4  # asked, the first of those given
REACH = 0.1  # standard deviation of the change of pixels on whose path the gradient is followed
PARTS = 4  # of the path, with one second derivative at the middle of each
ZOOMS = 6  # the shortest path is REACH / PARTS ** (ZOOMS - 1) = 1e-4 long
UNEXPLAINED = 0.1  # largest share of the change that the second derivatives may leave unexplained
ROUNDING = 1e-5  # of the gradient: no change


CAUSE = (
    "; masks and comparisons, as in x * (x > 0) or torch.where, make a gradient jump: write them as F.relu, clamp,"
    " maximum or max pooling"
)
WAY_OUT = "; or choose suites without attacks on attributions"


def check_curvature(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise `UserError` if the net's input gradient has no useful derivative. x (B, C, H, W), y (B,)

    On a random path from each of the first `IMAGES` images, the change of the gradient of logit y is compared with the
    integral of the Hessian-vector product along it, by the midpoint rule. A smooth net that is curved too much for so
    few points is followed where the two disagree most, on ever shorter paths, until they agree; a jump remains one on
    any path. The gradient of a linear net does not change, which is no objection. The paths are the same in every call.
    """
    x, y = x[:IMAGES].detach(), y[:IMAGES]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    start, length, explained = x, REACH, 0.0
    for zoom in range(ZOOMS):
        sizes, changes, errors = _followed(model, start, length * direction, y)
        size, change, error = (t.norm().item() for t in (sizes, changes, errors.sum(0)))
        if not math.isfinite(error):
            raise UserError(f"the derivative of the gradient of {_name(model)} is not finite{WAY_OUT}")
        if error <= max(UNEXPLAINED * change, ROUNDING * size):
            return
        if zoom == 0:
            explained = max(0.0, 1 - error / change) if change else 0.0
        worst = errors.flatten(2).norm(dim=2).argmax(0)
        start = start + length * (worst / PARTS).to(x).view(-1, 1, 1, 1) * direction
        length /= PARTS
    raise UserError(
        f"the second derivative of {_name(model)} explains {explained:.0%} of how its gradient changes, so an attack on"
        f" its attributions would be blind{CAUSE}{WAY_OUT}"
    )


def _followed(model: nn.Module, start: Tensor, path: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients at `start` (B, ...), their change to start + path (B, ...), and its unexplained part (PARTS, B, ...).

    The last is of each of the `PARTS` of the path: the integral of the second derivative minus the change.
    """
    results = []
    for chunk in zip(*(t.split(chunk_size(start)) for t in (start, path, y)), strict=True):
        z, step, label = chunk[0], chunk[1] / PARTS, chunk[2]
        nodes = torch.stack([_gradient(model, z + i * step, label) for i in range(PARTS + 1)])
        integrals = [_curvature(model, z + (i + 0.5) * step, step, label) for i in range(PARTS)]
        results.append((nodes[0], nodes[-1] - nodes[0], torch.stack(integrals) - nodes.diff(dim=0)))
    sizes, changes, errors = zip(*results, strict=True)
    return torch.cat(sizes), torch.cat(changes), torch.cat(errors, 1)


def _gradient(model: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad(), _same_noise(z):
        z = z.detach().requires_grad_(True)
        logits = model(z)
        check_classes(logits)
        return gradient(true_logit(logits, y), z)


def _curvature(model: nn.Module, z: Tensor, step: Tensor, y: Tensor) -> Tensor:
    """The Hessian-vector product of the logits of y with `step`, of z's shape; 0 for a gradient that is constant."""
    with torch.enable_grad(), _same_noise(z):
        z = z.detach().requires_grad_(True)
        g = gradient(true_logit(model(z), y), z, graph=True)
        try:
            return gradient((g * step).sum((1, 2, 3)), z)
        except RuntimeError as error:
            reason = first_line(error)
            raise UserError(f"the gradient of {_name(model)} cannot be differentiated: {reason}{WAY_OUT}") from None


def _same_noise(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """A net that draws from the global generator is one function of its images, not another in every call."""
    return seeded(0, "curvature", device=x.device)


def _name(model: nn.Module) -> str:
    while isinstance(model, (Softened, WithFeatureLayer)):
        model = model.model
    return type(model).__name__
