"""Nets whose answers are known, for more than one file of tests."""

import torch
from torch import Tensor, nn


class Fragile(nn.Module):
    """Keeps its prediction 0 only at multiples of 1 / 255 where the first pixel is bright, everywhere where it is not.

    The logit of class 1 is that of class 0, less a margin, plus a very large wave over every pixel.
    """

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        zero = (flat * self.w).tanh().sum(1)
        wave = 1e6 * (flat * 255 * torch.pi).sin().square().sum(1)
        return torch.stack([zero, zero - 10 + torch.where(flat[:, 0] > 0.5, wave, 0)], 1)
