"""Building blocks of corruptions: 8-bit quantisation, resampling and filters, on tensors (B, C, H, W)."""

import functools
import math
import operator
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Levels


def unit(x: Tensor) -> Tensor:
    """x rounded to 8-bit levels, over 255, in float64, so that truncation agrees with the published files."""
    return x.mul(255).round().double() / 255


def truncated(z: Tensor) -> Tensor:
    """Truncate to 8-bit levels; float32 in [0, 1]."""
    return (z.clamp(0, 1) * 255).floor().float() / 255


def by_pillow(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply a Pillow function to each image, as 8-bit RGB or grey."""
    pixels = x.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    mode = np.s_[..., 0] if x.shape[1] == 1 else np.s_[...]
    images = [np.asarray(change(Image.fromarray(np.ascontiguousarray(image[mode])))) for image in pixels]
    changed = torch.from_numpy(np.stack(images)).view(len(x), *x.shape[2:], x.shape[1])
    return changed.permute(0, 3, 1, 2).to(x.device).float() / 255


def luma(x: Tensor) -> Tensor:
    """Luma (B, 1, H, W) by the weights of ITU-R BT.601; a grey image is returned as it is."""
    if x.shape[1] == 1:
        return x
    return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def colour(levels: tuple[int, int, int], x: Tensor) -> Tensor:
    """An 8-bit RGB colour as (1, C, 1, 1) in [0, 1], with x's channels and device."""
    colour = torch.tensor(levels, dtype=torch.float64, device=x.device).view(1, 3, 1, 1) / 255
    return colour if x.shape[1] == 3 else luma(colour)


# Sizes and coordinates


def scale(x: Tensor) -> float:
    """Factor for lengths published for 32 pixels; at least 1."""
    return max(1.0, min(x.shape[-2:]) / 32)


def base_size(x: Tensor) -> tuple[int, int]:
    """Height and width at which overlays are drawn: a shorter side of 32, or the image's own if smaller."""
    height, width = (round(n / scale(x)) for n in x.shape[-2:])
    return height, width


def upsampled(layer: Tensor, x: Tensor) -> Tensor:
    """Resize an overlay of the base size to the size of x."""
    if layer.shape[-2:] == x.shape[-2:]:
        return layer
    return F.interpolate(layer, x.shape[-2:], mode="bilinear", align_corners=False)


def grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row indices (H, 1) and column indices (1, W)."""
    return torch.arange(height, device=device)[:, None], torch.arange(width, device=device)[None]


def reflected(index: Tensor, n: int) -> Tensor:
    """Reflect indices beyond 0..n-1 about the border pixels, which are not repeated."""
    if n == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * n - 2)
    return torch.minimum(index, 2 * n - 2 - index)


def gathered(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (B, C, H, W) at integer positions (B, H, W), the same for all channels."""
    flat = (rows * x.shape[-1] + columns).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, flat).view(x.shape)


def sampled(x: Tensor, rows: Tensor, columns: Tensor, *, whole: bool) -> Tensor:
    """Bilinear sampling of x (B, C, H, W) at positions (B, H, W).

    Outside, x is reflected about the centres (`whole`) or the outer edges of its border pixels.
    """
    coordinates = []
    for position, n in ((columns, x.shape[-1]), (rows, x.shape[-2])):
        coordinates.append(position * (2 / max(1, n - 1)) - 1 if whole else (2 * position + 1) / n - 1)
    grid = torch.stack(torch.broadcast_tensors(*coordinates), -1)
    return F.grid_sample(x.double(), grid, padding_mode="reflection", align_corners=whole).to(x.dtype)


# Filters


def smooth(x: Tensor, sigma: float, truncate: float = 4, reflected: bool = False) -> Tensor:
    """Gaussian filter, cut off at `truncate` sigma. Outside, the border is repeated, or reflected if `reflected`."""
    reach = int(truncate * sigma + 0.5)
    if not reach:
        return x
    weights = np.exp(-0.5 / sigma**2 * np.arange(-reach, reach + 1) ** 2)
    weights = (weights / weights.sum())[reach:].tolist()
    for axis in (-2, -1):
        n = x.shape[axis]
        index = torch.arange(-reach, n + reach)
        if reflected:
            index = index.remainder(2 * n)
            index = torch.minimum(index, 2 * n - 1 - index)
        padded = x.index_select(axis, index.clamp(0, n - 1).to(x.device))
        # Summed from the outside in, as in scipy: a flat area must be truncated to the same level.
        x = padded.narrow(axis, reach, n) * weights[0]
        for k in range(reach, 0, -1):
            x += (padded.narrow(axis, reach - k, n) + padded.narrow(axis, reach + k, n)) * weights[k]
    return x


def disk(radius: float, alias: float) -> Tensor:
    """Kernel of a disk smoothed by a Gaussian of sigma `alias`: square, of odd size, float64, of sum 1."""
    span, soft = (1, 1) if radius <= 8 else (2, 2)
    reach = math.floor(radius) + span
    position = np.arange(-reach, reach + 1)
    inside = (position[:, None] ** 2 + position[None] ** 2 <= radius**2).astype(np.float32)
    weights = np.exp(-0.5 / alias**2 * np.arange(-soft, soft + 1) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    kernel = inside / inside.sum()
    for axis in (0, 1):
        shifted = (np.roll(kernel, k, axis) * weights[k + soft] for k in range(-soft, soft + 1))
        kernel = functools.reduce(operator.add, shifted)
    return torch.from_numpy(kernel.astype(np.float64))


def motion_blurred(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """Average x along a line from each pixel, at `angle` (B,) degrees, with one-sided Gaussian weights.

    Positions on the line are whole pixels, and the border is repeated outside, as in ImageMagick.
    """
    weights = torch.exp(-0.5 / sigma**2 * torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64) ** 2)
    levels = (weights / weights.sum()).tolist()
    height, width = x.shape[-2:]
    row, column = grid(height, width, x.device)
    radians = angle.double().mul(math.pi / 180).view(-1, 1, 1)
    out = torch.zeros_like(x)
    for k, weight in enumerate(levels):
        if weight < 1e-6:  # below 8-bit resolution
            break
        dy, dx = ((k * part - 0.5).ceil().long() for part in (radians.sin(), radians.cos()))
        out += weight * gathered(x, (row + dy).clamp(0, height - 1), (column + dx).clamp(0, width - 1))
    return out


def zoomed(x: Tensor, factor: float) -> Tensor:
    """The centre of x enlarged by `factor` >= 1, bilinearly; slightly off-centre, as published."""
    rows, columns = (_zoom_matrix(n, factor).to(x.device) for n in x.shape[-2:])
    return rows @ x @ columns.T


@functools.lru_cache(maxsize=256)
def _zoom_matrix(n: int, factor: float) -> Tensor:
    """Interpolation matrix (n, n) float64 of one axis: two weights per row."""
    cut = math.ceil(n / factor)
    first, size = (n - cut) // 2, round(cut * factor)
    trim = (size - n) // 2
    position = (torch.arange(n, dtype=torch.float64) + trim) * ((cut - 1) / max(1, size - 1))
    low = position.floor().clamp(max=max(0, cut - 2)).long()
    share = position - low
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix.scatter_add_(1, (first + low)[:, None], (1 - share)[:, None])
    matrix.scatter_add_(1, (first + (low + 1).clamp(max=cut - 1))[:, None], share[:, None])
    return matrix
