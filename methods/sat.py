"""Saliency-based adversarial training (Mangla, Singh, Balasubramanian, ECML-PKDD 2020).

The gradient of the loss points, to first order, against the saliency of the true class. So instead of attacking the
net while it learns, train on x - eps * m, where m holds random signs at first and, more and more, a saliency map s.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.batch import Batch

Schedule = Literal["power", "constant", "linear", "cosine", "step"]


def random_share(schedule: Schedule, alpha10: float, epoch: float) -> float:
    """The share of random signs in m at an epoch (from 0; fractions allowed).

    alpha10 is what is left of 1 after ten epochs: `power` alpha10 ** (epoch / 10), as published; `step` the same in
    steps of ten epochs; `linear` falls by 1 - alpha10 every ten epochs until it is 0; `cosine` falls along half a wave
    to 0 in the time `linear` takes; `constant` is alpha10 throughout.
    """
    if schedule == "constant":
        return alpha10
    if schedule == "power":
        return alpha10 ** (epoch / 10)
    if schedule == "step":
        return alpha10 ** (epoch // 10)
    fallen = min(1.0, (1 - alpha10) * epoch / 10)
    return 1 - fallen if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * fallen))


def mixed_signs(s: Tensor, like: Tensor, share: float) -> Tensor:
    """m of shape `like`: each value is a random sign with probability `share`, else that of s, value by value.

    Where s is 0 (outside of a cropped image, the least value of a min-max map) it moves nothing.
    """
    u = torch.rand_like(like)  # one draw for both: below `share` it is a sign, by the half of that range it falls in
    return torch.where(u < share, torch.where(u < share / 2, -1.0, 1.0), s).to(like.dtype)


def saliency_step(x: Tensor, s: Tensor, eps: float, share: float) -> Tensor:
    """x - eps * m, clipped to [0, 1]; x (B, C, H, W), s (B, C or 1, H, W) in [-1, 1]."""
    return (x - eps * mixed_signs(s, x, share)).clamp_(0, 1)


@dataclass(frozen=True)
class SAT:
    """Cross-entropy on x - eps * m alone.

    alpha10: share of random signs left after every ten epochs (0.6 in the published tables; 0.8 did better in the
    authors' ablation). per: the share changes once an `epoch`, as published, or with every `iteration`. Cost: as
    `standard`, plus the maps, once.
    """

    reads_maps: ClassVar[bool] = True

    eps: float = 8 / 255
    alpha10: float = 0.6
    schedule: Schedule = "power"
    per: Literal["epoch", "iteration"] = "epoch"

    def share(self, batch: Batch) -> float:
        """The share of random signs in this batch."""
        epoch = batch.epoch if self.per == "iteration" else math.floor(batch.epoch)
        return random_share(self.schedule, self.alpha10, epoch)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z = saliency_step(batch.x, batch.s, self.eps, self.share(batch))
        return {"ce": F.cross_entropy(model(z), batch.y)}
