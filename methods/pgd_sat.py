"""PGD-SAT: half of the batches take the saliency step, the others PGD (Mangla et al., 2020)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.data.batches import Batch
from harness.errors import required
from harness.setting_types import Share
from methods.noise import uniform_noise
from methods.pgd import PGD
from methods.sat import SAT, Schedule, saliency_step


@dataclass(frozen=True)
class PGDSAT(PGD):
    """As `pgd`, but with probability `flip` a batch takes the saliency step of `sat`, not the attack.

    start: the saliency step starts at a random point of the ball and is not projected, as in the released code; the
    perturbation can then be up to 2 * eps. False: it starts at the image. Cost: 1 + (1 - flip) * steps passes.
    """

    reads_maps: ClassVar[bool] = True
    share = SAT.share

    flip: Share = 0.5
    alpha10: Share = 0.6
    schedule: Schedule = "power"
    per: Literal["epoch", "iteration"] = "epoch"
    start: bool = True

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        if float(torch.rand(())) >= self.flip:
            return super().perturb(model, batch)
        x = uniform_noise(batch.x, self.eps) if self.start else batch.x
        return saliency_step(x, required(batch.s, "map"), self.eps, self.share(batch))
