"""IG-SUM-NORM (Chen et al., "Robust Attribution Regularization", NeurIPS 2019), as its GTSRB runs."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from harness.attacks import pgd
from harness.data.batches import Batch
from methods.ig_norm import IGNorm


@dataclass(frozen=True)
class IGSumNorm(IGNorm):
    """As `ig_norm`, but both terms are of x', which maximises their sum: combined with adversarial training.

    weight: the paper's beta. Cost: as `ig_norm`, plus 1 pass per attack step.
    """

    def objective(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Objective of the attack: the whole loss per image, with the coarser integral. (B, C, H, W) -> (B,)"""
        norm = super().objective(model, batch)
        ce = pgd.cross_entropy(model, batch.y)
        return lambda z: self.weight * norm(z) + ce(z)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z = self.perturb(model, batch)
        return self.terms(model, batch, z, z)
