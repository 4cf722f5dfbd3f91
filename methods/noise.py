"""Training on uniform noise: the row "Original + Uniform-Noise" of Mangla et al. (2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.batches import Batch
from harness.setting_types import Strength


def uniform_noise(x: Tensor, eps: float) -> Tensor:
    """x plus uniform noise in [-eps, eps] per value, clipped to [0, 1]."""
    return (x + torch.empty_like(x).uniform_(-eps, eps)).clamp_(0, 1)


@dataclass(frozen=True)
class Noise:
    """Cross-entropy on the image plus uniform noise. Cost: as `standard`."""

    eps: Strength = 8 / 255

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(model(uniform_noise(batch.x, self.eps)), batch.y)}
