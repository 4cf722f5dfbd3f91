"""TRADES on half of the batches, uniform noise on the others: "TRADES + Uniform-Noise" of Mangla et al. (2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.data.batches import Batch
from harness.setting_types import Share
from methods.noise import uniform_noise
from methods.trades import TRADES


@dataclass(frozen=True)
class TRADESNoise(TRADES):
    """As `trades`, but with probability `flip` a batch gets uniform noise of the same eps, not the attack.

    Cost: 2 + (1 - flip) * steps passes per batch.
    """

    flip: Share = 0.5

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        if float(torch.rand(())) < self.flip:
            return uniform_noise(batch.x, self.eps)
        return super().perturb(model, batch)
