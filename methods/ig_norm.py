"""IG-NORM (Chen et al., "Robust Attribution Regularization", NeurIPS 2019), with the settings of its GTSRB runs.

Integrated gradients of the loss, from the image to a perturbed one, attribute the change of the loss to pixels; their
sum is the difference of the two losses. This method penalises their L1 norm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from harness.data.batches import Batch
from harness.explain.input_gradients import check_classes, gradient, true_logit
from harness.models.freezing import untracked
from harness.setting_types import Count, NonNegative, Strength
from methods._ascent import perturbed

FLOOR = 1e-10


def clipped_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with the label's probability clamped to at least `FLOOR`: below it the gradient is 0. (B,)"""
    check_classes(logits)
    return -true_logit(logits.log_softmax(1), y).clamp_min(math.log(FLOOR))


def integrated(model: nn.Module, x: Tensor, z: Tensor, y: Tensor, points: int, *, checkpointed: bool = False) -> Tensor:
    """Integrated gradients of the clipped loss from x to z, of their shape, differentiable in z and the weights.

    (z - x) times the mean of the gradients at x + k / points * (z - x), k = 1 to points: a right Riemann sum. Each
    point is a separate forward pass: in training mode its batch statistics are of the B images at that point, and
    gradients pass through them; running statistics are not updated. checkpointed: gradient checkpointing per point,
    with the same dropout masks; up to 50 % slower, with one point's graph in memory at a time.
    """

    def at(end: Tensor, share: float) -> Tensor:
        with untracked(model):  # here, not around the loop: recomputation runs in the backward pass of the whole loss
            point = x + share * (end - x)
            if not point.requires_grad:
                point.requires_grad_(True)
            return gradient(clipped_loss(model(point), y), point, graph=True)

    total = torch.zeros_like(x)
    for k in range(1, points + 1):
        total = total + (checkpoint(at, z, k / points, use_reentrant=False) if checkpointed else at(z, k / points))
    return (z - x) * total / points


@dataclass(frozen=True)
class IGNorm:
    """Cross-entropy on the clean image plus weight times the L1 norm of the integrated gradients from x to x'.

    x' maximises that norm. eps, step on the [0, 1] scale. weight: the paper's lambda. points: interpolation points in
    the loss; the attack uses points // coarse evenly spaced ones, at least one. Within the integral, as published,
    probabilities are clamped to at least 1e-10: the gradient of a loss above 23 is 0. reduction: `mean` over the batch,
    or the published `sum` of both terms, which needs a learning rate smaller by the batch size. crafting: mode of the
    net in the attack. The published nets have no batch normalisation; here only the images of the cross-entropy update
    its running statistics.

    ReLUs are not replaced. The gradient in the weights is exact, except where a ReLU or the sign of an attribution
    flips. Second-order parts are in float32. Cost: 1 pass, 3 or 4 for each of the steps * (points // coarse) points of
    the attack, with the graphs of one step in memory, and 4 to 6 for each of the `points` of the loss, with one graph
    in memory at a time.
    """

    second_order: ClassVar[bool] = True

    eps: Strength = 8 / 255
    step: Strength = 2 / 255
    steps: Count = 7
    weight: NonNegative = 1.0
    points: Count = 50
    coarse: Count = 10
    reduction: Literal["mean", "sum"] = "mean"
    crafting: Literal["train", "eval"] = "train"

    def objective(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Objective of the attack: the norm per image, with the coarser integral. (B, C, H, W) -> (B,)"""
        points = max(1, self.points // self.coarse)
        return lambda z: integrated(model, batch.x, z, batch.y, points).abs().flatten(1).sum(1)

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """The images within eps of x that maximise the objective."""
        return perturbed(self, model, batch)

    def terms(self, model: nn.Module, batch: Batch, z: Tensor, ce_images: Tensor) -> dict[str, Tensor]:
        """Loss terms: cross-entropy of `ce_images`, and the norm of the integrated gradients to z."""
        with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
            norm = integrated(model, batch.x, z, batch.y, self.points, checkpointed=True).abs().sum()
        share = 1 / len(batch) if self.reduction == "mean" else 1.0
        ce = F.cross_entropy(model(ce_images), batch.y, reduction=self.reduction)
        return {"ce": ce, "ig": self.weight * share * norm}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.terms(model, batch, self.perturb(model, batch), batch.x)
