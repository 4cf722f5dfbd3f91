"""Optimisers and learning-rate schedules, by name."""

import math
from collections.abc import Callable

import torch
from torch import nn

from harness.errors import UserError
from harness.plugins import Thing
from harness.plugins.registry import Registry
from harness.training.settings import Optim

Optimiser = Callable[[Optim, nn.Module], torch.optim.Optimizer]
Schedule = Callable[[float], float]  # share of the training done, in [0, 1) -> learning rate divided by its peak


def _sgd(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum."""
    decay, momentum = optim.weight_decay, optim.momentum
    return torch.optim.SGD(
        model.parameters(), lr=optim.lr, weight_decay=decay, momentum=momentum, nesterov=momentum > 0, fused=True
    )


def _adam(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW (Adam where weight decay is 0)."""
    return torch.optim.AdamW(model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=True)


def _checked(what: str) -> Callable[[Thing], Thing]:
    def check(thing: Thing) -> Thing:
        if not callable(thing):
            raise UserError(f"it is {what}")
        return thing

    return check


OPTIMISERS: Registry[Optimiser] = Registry(
    "optimiser",
    "optimisers",
    {"sgd": _sgd, "adam": _adam},
    _checked("a function (harness.training.settings.Optim, model) -> torch.optim.Optimizer"),
)
SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    "schedules",
    {
        "constant": lambda progress: 1.0,
        "step": lambda progress: 0.1 ** ((progress >= 0.5) + (progress >= 0.75)),
        "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
        "cyclic": lambda progress: progress / 0.4 if progress < 0.4 else (1 - progress) / 0.6,
    },
    _checked("a function (share of the training done) -> learning rate divided by its peak"),
)


def lr_factor(schedule: str, progress: float) -> float:
    """Learning rate divided by its peak. progress: share of the training done, in [0, 1)."""
    return SCHEDULES.find(schedule)(progress)


def optimiser(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a net, by the settings."""
    return OPTIMISERS.find(optim.name)(optim, model)
