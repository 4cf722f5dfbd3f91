"""IG-NORM (Chen et al., "Robust Attribution Regularization", NeurIPS 2019), with the settings of its GTSRB runs.

Integrated gradients of the loss, from the image to a perturbed one, say which pixels carry the loss from the one to
the other; their sum is the difference of the two losses. The sum of their sizes is what this method keeps small.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from harness.batch import Batch
from harness.gradients import check_classes, gradient, true_logit, untracked
from methods._ascent import perturbed

FLOOR = 1e-10


def clipped_loss(logits: Tensor, y: Tensor) -> Tensor:
    """-log of the label's probability, which counts as at least `FLOOR`: below it the gradient is 0. (B,)"""
    check_classes(logits)
    return -true_logit(logits.log_softmax(1), y).clamp_min(math.log(FLOOR))


def integrated(model: nn.Module, x: Tensor, z: Tensor, y: Tensor, points: int, *, spare: bool = False) -> Tensor:
    """Integrated gradients of the clipped loss from x to z, of their shape, differentiable in z and the weights.

    (z - x) times the mean of the gradients at x + k / points * (z - x), k = 1 to points: a right Riemann sum. Each
    point is a forward of its own, so in training mode its batch statistics are those of the B images at that point,
    and its gradients, which go through them, those of the sum of the batch's losses; running ones do not move. spare:
    keep the graph of one point at a time and compute it again when it is asked for, to the same numbers, dropout
    included; it costs up to half more time, and saves the memory of all other points.
    """

    def at(end: Tensor, share: float) -> Tensor:
        with untracked(model):  # here, not around the loop: the second time is during the backward of the whole loss
            point = x + share * (end - x)
            if not point.requires_grad:
                point.requires_grad_(True)
            return gradient(clipped_loss(model(point), y), point, graph=True)

    total = torch.zeros_like(x)
    for k in range(1, points + 1):
        total = total + (checkpoint(at, z, k / points, use_reentrant=False) if spare else at(z, k / points))
    return (z - x) * total / points


@dataclass(frozen=True)
class IGNorm:
    """Cross-entropy on the clean image plus weight times the L1 norm of the integrated gradients from x to x'.

    x' maximises that norm. eps, step on the [0, 1] scale. weight: the paper's lambda. points: those of the integral in
    the loss; the attack makes do with points // coarse of them (at least one), evenly spread as well. Inside the
    integral, as published, a probability counts as at least 1e-10: the gradient of a loss beyond 23 is 0. reduction:
    `mean` over the batch, or the published `sum` of both terms, for which learning rates are as many times smaller.
    crafting: mode of the net while it is attacked; the published nets have no batch normalisation, ours let its
    running statistics follow the images of the cross-entropy only.

    The net is taken as it is. The gradient in its weights is exact, up to where a ReLU or the sign of an attribution
    flips. Second-order parts are in float32. Cost: 1 pass, 3 or 4 for each of the steps * (points // coarse) points of
    the attack, whose graphs are held for one step, and 4 to 6 for each of the `points` of the loss, whose graphs are
    held one at a time.
    """

    second_order: ClassVar[bool] = True

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 7
    weight: float = 1.0
    points: int = 50
    coarse: int = 10
    reduction: Literal["mean", "sum"] = "mean"
    crafting: Literal["train", "eval"] = "train"

    def objective(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
        """What x' maximises: the norm by itself, of the coarser integral, per image. (B, C, H, W) -> (B,)"""
        points = max(1, self.points // self.coarse)
        return lambda z: integrated(model, batch.x, z, batch.y, points).abs().flatten(1).sum(1)

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """The image near x that maximises the objective."""
        return perturbed(self, model, batch)

    def terms(self, model: nn.Module, batch: Batch, z: Tensor, learnt: Tensor) -> dict[str, Tensor]:
        """The loss where the perturbed image is z and the cross-entropy is that of `learnt`."""
        with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
            norm = integrated(model, batch.x, z, batch.y, self.points, spare=True).abs().sum()
        share = 1 / len(batch) if self.reduction == "mean" else 1.0
        ce = F.cross_entropy(model(learnt), batch.y, reduction=self.reduction)
        return {"ce": ce, "ig": self.weight * share * norm}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.terms(model, batch, self.perturb(model, batch), batch.x)
