"""Boxes for tests of localisation."""

import torch
from torch import Tensor


def planted(boxes: Tensor, size: int = 12) -> Tensor:
    """Masks (B, size, size) of 1 inside the boxes, 0 outside."""
    masks = torch.zeros(len(boxes), size, size)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top : bottom + 1, left : right + 1] = 1
    return masks


def random_boxes(n: int, size: int = 12) -> Tensor:
    ends = torch.randint(size, (n, 2, 2)).sort(1).values
    return torch.cat([ends[:, 0], ends[:, 1]], 1)
