"""Random crops and horizontal flips, drawn once and applied to images and maps alike."""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.settings import Augment


def identity(n: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The identity crop of n images: row indices (n, H) and column indices (n, W)."""
    rows = torch.arange(height, device=device).expand(n, height)
    cols = torch.arange(width, device=device).expand(n, width)
    return rows, cols


def draw(
    augment: Augment, n: int, height: int, width: int, device: torch.device, crop: int = 0
) -> tuple[Tensor, Tensor]:
    """One random crop and flip per image, as row indices (n, H) and column indices (n, W) into the padded image.

    The crop has the size of the image, or crop x crop if `crop` is not 0.
    """
    slack = [side + 2 * augment.pad - (crop or side) for side in (height, width)]
    height, width = crop or height, crop or width
    rows, cols = identity(n, height, width, device)
    if augment.flip:
        flipped = torch.rand(n, 1, device=device) < 0.5
        cols = torch.where(flipped, width - 1 - cols, cols)
    if augment.pad or crop:
        rows = rows + torch.randint(slack[0] + 1, (n, 1), device=device)
        cols = cols + torch.randint(slack[1] + 1, (n, 1), device=device)
    return rows, cols


def apply(augment: Augment, draw: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """Apply the drawn crops to x (B, C, H, W) of any dtype, padded with 0. Returns channels-last memory."""
    rows, cols = draw
    if augment == Augment() and (rows.shape[1], cols.shape[1]) == x.shape[-2:]:
        return x.contiguous(memory_format=torch.channels_last)
    if augment.pad:
        x = F.pad(x, [augment.pad] * 4)
    image_index = torch.arange(len(x), device=x.device)[:, None, None]
    return x[image_index, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
