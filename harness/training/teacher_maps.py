"""Saliency maps of a trained teacher net, as training data for other nets."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.batches import MAP_UNIT
from harness.data.datasets import Split
from harness.explain.maps import explained_class, for_training
from harness.randomness import full_float32, seeded
from harness.training import binarise_maps
from harness.training.settings import Maps

CHUNK = 256  # images per batch
Progress = Callable[[int, int], None]  # images done, of all


def no_progress(done: int, total: int) -> None:
    """No-op progress callback."""


@dataclass(frozen=True)
class Teacher:
    """The net that is explained. key: its trial key. train() -> (trained net, seconds of its training)."""

    key: str
    train: Callable[[], tuple[nn.Module, float]]


def explain(name: str, maps: Maps, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Binarised saliency maps (B, C or 1, H, W) in [-1, 1] of a batch x in [0, 1].

    In maps of signs, a 0 is replaced by a random sign.
    """
    saliency = for_training(name)
    with full_float32():
        s = saliency.detached(net, x, explained_class(net, x, y, maps.target))
    s = binarise_maps.binarise(s, maps.binarise, signed=saliency.signed, quantile=maps.quantile)
    if maps.binarise in ("minmax", "none"):
        return s
    return torch.where(s == 0, torch.where(torch.rand_like(s) < 0.5, -1.0, 1.0), s)


def compute_maps(
    name: str, maps: Maps, net: nn.Module, train: Split, device: str, progress: Progress = no_progress
) -> np.ndarray:
    """Saliency maps of a split as int8 (N, C or 1, H, W), scaled by MAP_UNIT. progress(done, total): after a batch."""
    parts, done = [], 0
    with seeded("maps", name, device=device):
        for x, y in zip(train.x.split(CHUNK), train.y.split(CHUNK), strict=True):
            x = x.to(device, memory_format=torch.channels_last).float().div_(255)
            s = explain(name, maps, net, x, y.to(device))
            parts.append((s * MAP_UNIT).round().to(torch.int8).cpu().numpy())
            done += len(x)
            progress(done, len(train))
    return np.concatenate(parts)
