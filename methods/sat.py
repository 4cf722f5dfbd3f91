"""Saliency-based adversarial training (Mangla, Singh, Balasubramanian, ECML-PKDD 2020).

To first order, the gradient of the loss is opposite to the saliency of the true class. So SAT replaces the attack of
adversarial training by x - eps * m, where m is random signs at first and, increasingly, a saliency map s.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.batches import Batch
from harness.errors import required
from harness.setting_types import Share, Strength

Schedule = Literal["power", "constant", "linear", "cosine", "step"]


def random_share(schedule: Schedule, alpha10: float, epoch: float) -> float:
    """Share of random signs in m at an epoch (from 0; may be fractional).

    alpha10 is the share after ten epochs, from 1 at epoch 0: `power` alpha10 ** (epoch / 10), as published; `step` the
    same in steps of ten epochs; `linear` falls by 1 - alpha10 every ten epochs to 0; `cosine` falls along half a cosine
    wave to 0 in the same time as `linear`; `constant` is alpha10 throughout.
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
    """m of shape `like`: per value, a random sign with probability `share`, else the value of s.

    Where s is 0 (padding, or the minimum of a min-max map) the pixel does not change.
    """
    u = torch.rand_like(like)  # one draw for both: below `share` a random sign, by the half of that range
    return torch.where(u < share, torch.where(u < share / 2, -1.0, 1.0), s).to(like.dtype)


def saliency_step(x: Tensor, s: Tensor, eps: float, share: float) -> Tensor:
    """x - eps * m, clipped to [0, 1]; x (B, C, H, W), s (B, C or 1, H, W) in [-1, 1]."""
    return (x - eps * mixed_signs(s, x, share)).clamp_(0, 1)


class MixesSigns(Protocol):
    """A method whose share of random signs falls as training goes on."""

    @property
    def alpha10(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def per(self) -> Literal["epoch", "iteration"]: ...


@dataclass(frozen=True)
class SAT:
    """Cross-entropy on x - eps * m only.

    alpha10: share of random signs after ten epochs (0.6 in the published tables; 0.8 was better in the authors'
    ablation). per: update the share once per `epoch`, as published, or per `iteration`. Cost: as `standard`, plus
    computing the maps once.
    """

    reads_maps: ClassVar[bool] = True

    eps: Strength = 8 / 255
    alpha10: Share = 0.6
    schedule: Schedule = "power"
    per: Literal["epoch", "iteration"] = "epoch"

    def share(self: MixesSigns, batch: Batch) -> float:
        """The share of random signs in this batch."""
        epoch = batch.epoch if self.per == "iteration" else math.floor(batch.epoch)
        return random_share(self.schedule, self.alpha10, epoch)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        z = saliency_step(batch.x, required(batch.s, "map"), self.eps, self.share(batch))
        return {"ce": F.cross_entropy(model(z), batch.y)}
