"""TRADES-SAT: half of the batches take the saliency step, the others TRADES' attack (Mangla et al., 2020)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.data.batches import Batch
from harness.errors import required
from harness.setting_types import Share
from methods.sat import SAT, Schedule, saliency_step
from methods.trades import TRADES


@dataclass(frozen=True)
class TRADESSAT(TRADES):
    """As `trades`, but with probability `flip` x' is the saliency step of `sat`, not the attack.

    Cost: 2 + (1 - flip) * steps passes a batch.
    """

    reads_maps: ClassVar[bool] = True
    share = SAT.share

    flip: Share = 0.5
    alpha10: Share = 0.6
    schedule: Schedule = "power"
    per: Literal["epoch", "iteration"] = "epoch"

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        if float(torch.rand(())) >= self.flip:
            return super().perturb(model, batch)
        return saliency_step(batch.x, required(batch.s, "map"), self.eps, self.share(batch))
