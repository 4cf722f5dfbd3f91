"""Optimiser and learning-rate schedule."""

import math

import torch
from torch import nn

from harness.training.settings import Optim


def lr_factor(schedule: str, progress: float) -> float:
    """Learning rate divided by its peak. progress: share of the training done, in [0, 1)."""
    if schedule == "step":
        return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "cyclic":
        return progress / 0.4 if progress < 0.4 else (1 - progress) / 0.6
    return 1.0


def optimiser(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW (Adam where weight decay is 0)."""
    common = {"lr": optim.lr, "weight_decay": optim.weight_decay, "fused": True}
    if optim.name == "adam":
        return torch.optim.AdamW(model.parameters(), **common)
    return torch.optim.SGD(model.parameters(), momentum=optim.momentum, nesterov=optim.momentum > 0, **common)
