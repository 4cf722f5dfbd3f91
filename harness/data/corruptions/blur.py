"""Blur corruptions: Gaussian, defocus, glass, motion, zoom."""

import numpy as np
import torch
from torch import Tensor

from harness.data.corruptions import filters
from harness.randomness import PerImageRng

# Blur


def gaussian_blur(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Gaussian blur, sigma 0.4 to 1 pixels."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1)[severity - 1]
    return filters.truncated(filters.smooth(filters.unit(x), sigma * filters.scale(x)))


def defocus_blur(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Mean over a disk of radius 0.3 to 1.5 pixels with a softened edge."""
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    kernel = filters.disk(radius * filters.scale(x), alias)
    z, reach = filters.unit(x), len(kernel) // 2
    rows, columns = (filters.reflected(torch.arange(-reach, n + reach, device=x.device), n) for n in x.shape[-2:])
    padded, (height, width) = z[:, :, rows][:, :, :, columns], x.shape[-2:]
    out = torch.zeros_like(z)
    for dy, dx in kernel.nonzero().tolist():
        out.add_(padded[:, :, dy : dy + height, dx : dx + width], alpha=float(kernel[dy, dx]))
    return filters.truncated(out)


def glass_blur(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Blur, replace each pixel by a random neighbour, once or twice, and blur again.

    The published loop is meant to swap neighbours but copies them, only from above and from the left, where it has not
    changed anything yet; so one gather at random offsets of -1 or 0 is equal. The first two rows and columns stay.
    """
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    scale = filters.scale(x)
    z, shift = filters.truncated(filters.smooth(filters.unit(x), sigma * scale)).double(), round(scale)
    height, width = x.shape[-2:]
    row, column = filters.grid(height, width, x.device)
    inner = (row > shift) & (column > shift)
    for _ in range(rounds):
        dy, dx = (draws.integers(-shift, 1, height, width) * inner for _ in range(2))
        z = filters.gathered(z, row + dy, column + dx)
    return filters.truncated(filters.smooth(filters.unit(z), sigma * scale))


def motion_blur(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """One-sided Gaussian of sigma 1 to 2.5 pixels along a line at -45 to 45 degrees."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    angle = draws.uniform() * 90 - 45
    return filters.truncated(
        filters.motion_blurred(filters.unit(x), radius * filters.scale(x), sigma * filters.scale(x), angle)
    )


def zoom_blur(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Mean of the image and of its enlargements by 1, 1.01, ... up to 1.06 to 1.26."""
    last = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    z = filters.unit(x)
    factors = np.arange(1, last, 0.01)  # rounding decides whether it contains `last`, as in the published code
    total = z.float()
    for factor in factors:
        total = total + filters.zoomed(z, float(factor)).float()
    return filters.truncated(total / (len(factors) + 1))
