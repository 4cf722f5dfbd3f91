"""Random crops and mirror images, drawn once and applied to images and maps alike."""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.config import Augment


def identity(n: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The draw that changes nothing: for n images, row indices (n, H) and column indices (n, W)."""
    rows = torch.arange(height, device=device).expand(n, height)
    cols = torch.arange(width, device=device).expand(n, width)
    return rows, cols


def draw(
    augment: Augment, n: int, height: int, width: int, device: torch.device, crop: int = 0
) -> tuple[Tensor, Tensor]:
    """One random crop and mirror per image, as row indices (n, H) and column indices (n, W) into the padded image.

    The crop is as large as the image, or crop x crop.
    """
    room = [side + 2 * augment.pad - (crop or side) for side in (height, width)]
    height, width = crop or height, crop or width
    rows, cols = identity(n, height, width, device)
    if augment.flip:
        mirrored = torch.rand(n, 1, device=device) < 0.5
        cols = torch.where(mirrored, width - 1 - cols, cols)
    if augment.pad or crop:
        rows = rows + torch.randint(room[0] + 1, (n, 1), device=device)
        cols = cols + torch.randint(room[1] + 1, (n, 1), device=device)
    return rows, cols


def apply(augment: Augment, draw: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """The drawn crops of x (B, C, H, W), any dtype; what lies outside is 0. The result is in channels-last memory."""
    rows, cols = draw
    if augment == Augment() and (rows.shape[1], cols.shape[1]) == x.shape[-2:]:
        return x.contiguous(memory_format=torch.channels_last)
    if augment.pad:
        x = F.pad(x, [augment.pad] * 4)
    each = torch.arange(len(x), device=x.device)[:, None, None]
    return x[each, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
