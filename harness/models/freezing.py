"""Context managers: frozen parameters, fixed BatchNorm running statistics, evaluation mode."""

import contextlib
from collections.abc import Iterator
from typing import Protocol, TypeGuard

from torch import nn


class Tracking(Protocol):
    """A module with running statistics, which it updates while this is true."""

    track_running_stats: bool


def _tracks(module: nn.Module) -> TypeGuard[Tracking]:
    return bool(getattr(module, "track_running_stats", False))


@contextlib.contextmanager
def frozen(model: nn.Module, train: bool = False) -> Iterator[nn.Module]:
    """Freeze parameters and buffers; restore modes and flags on exit.

    train False: evaluation mode. True: training mode, with batch statistics and dropout, as in the attacks of several
    published training scripts; unlike in those, running statistics are not updated.
    """
    modes = [(m, m.training) for m in model.modules()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    tracking = [m for m in model.modules() if train and _tracks(m)]
    try:
        model.train(train)
        for p in trainable:
            p.requires_grad_(False)
        for m in tracking:
            m.track_running_stats = False
        yield model
    finally:
        for m in tracking:
            m.track_running_stats = True
        for p in trainable:
            p.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Use batch statistics in training mode, without updating BatchNorm running statistics.

    Unlike `frozen` it changes neither modes nor `requires_grad`, so it can wrap part of a loss. Running statistics are
    for evaluation, which sees neither interpolated images nor softplus.
    """
    tracking = [m for m in model.modules() if m.training and _tracks(m)]
    try:
        for m in tracking:
            m.track_running_stats = False
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with trainable parameters; restore modes on exit."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for m, mode in modes:
            m.training = mode
