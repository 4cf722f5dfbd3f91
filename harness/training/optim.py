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
    weights, lr, decay, momentum = model.parameters(), optim.lr, optim.weight_decay, optim.momentum
    if optim.name == "adam":
        return torch.optim.AdamW(weights, lr=lr, weight_decay=decay, fused=True)
    return torch.optim.SGD(weights, lr=lr, weight_decay=decay, momentum=momentum, nesterov=momentum > 0, fused=True)
