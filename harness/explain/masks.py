"""Overlap of masks, and Otsu's threshold of a heat map."""

import torch
from torch import Tensor

UNKNOWN = 255  # ignored pixels of a mask


def overlap(predicted: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Foreground IoU, Dice and pixel accuracy of predicted masks (B, H, W) bool. (B,) each

    masks (B, H, W) in {0, 1, 255}; 255 is ignored, and an image with nothing else gets NaN. IoU and Dice are 1 if
    neither mask has foreground.
    """
    known, truth = masks != UNKNOWN, masks == 1
    foreground = predicted & known
    both, either = ((m.sum((1, 2)).double()) for m in (foreground & truth, foreground | truth))
    pixels = known.sum((1, 2)).double()
    empty = (either == 0) & (pixels > 0)
    correct = ((foreground == truth) & known).sum((1, 2))
    scores = {
        "iou": torch.where(empty, 1, both / either),
        "dice": torch.where(empty, 1, 2 * both / (both + either)),
        "pixel": correct / pixels,
    }
    return {name: torch.where(pixels > 0, score, torch.nan).float() for name, score in scores.items()}


def otsu(heat: Tensor) -> Tensor:
    """Otsu's threshold of each map (Otsu, 1979). (B,) Values above it are foreground.

    Computed on 256 levels; the least of equal ones; for a constant map, its value.
    """
    levels = (heat.flatten(1) * 255).round().long()
    counts = torch.zeros(len(heat), 256, dtype=torch.float64, device=heat.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float64))
    below = counts.cumsum(1)
    mass = (counts * torch.arange(256, device=heat.device)).cumsum(1)
    above = below[:, -1:] - below
    apart = (mass * above - (mass[:, -1:] - mass) * below) ** 2 / (below * above).clamp_min(1)
    level = apart.argmax(1)
    varies = apart.amax(1) > 0
    return torch.where(varies, (level + 0.5) / 255, heat.flatten(1).amax(1)).to(heat.dtype)
