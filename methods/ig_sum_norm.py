"""IG-SUM-NORM (Chen et al., "Robust Attribution Regularization", NeurIPS 2019), as its GTSRB runs."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from harness import attacks
from harness.batch import Batch
from methods.ig_norm import IGNorm


@dataclass(frozen=True)
class IGSumNorm(IGNorm):
    """As `ig_norm`, but both terms are those of x', which maximises their sum: adversarial training in one with it.

    weight: the paper's beta. Cost: as `ig_norm`, and 1 pass for each step of the attack.
    """

    def objective(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
        """What x' maximises: the whole loss per image, with the coarser integral. (B, C, H, W) -> (B,)"""
        norm = super().objective(model, batch)
        ce = attacks.cross_entropy(model, batch.y)
        return lambda z: self.weight * norm(z) + ce(z)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z = self.perturb(model, batch)
        return self.terms(model, batch, z, z)
