"""What corruptions are made of: 8-bit levels, places in an image of any size, and filters, on tensors (B, C, H, W)."""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Levels


def unit(x: Tensor) -> Tensor:
    """The 8-bit levels of x over 255 in float64, so that truncation falls as in the published files."""
    return x.mul(255).round().double() / 255


def truncated(z: Tensor) -> Tensor:
    """To 8-bit levels, downward; float32 in [0, 1]."""
    return (z.clamp(0, 1) * 255).floor().float() / 255


def by_pillow(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Each image through Pillow, as 8-bit RGB or grey."""
    pixels = x.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    mode = np.s_[..., 0] if x.shape[1] == 1 else np.s_[...]
    images = [np.asarray(change(Image.fromarray(np.ascontiguousarray(image[mode])))) for image in pixels]
    changed = torch.from_numpy(np.stack(images)).view(len(x), *x.shape[2:], x.shape[1])
    return changed.permute(0, 3, 1, 2).to(x.device).float() / 255


def luma(x: Tensor) -> Tensor:
    """(B, 1, H, W): how bright, by the weights of ITU-R BT.601; a grey image is its own."""
    if x.shape[1] == 1:
        return x
    return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def colour(levels: tuple[int, int, int], x: Tensor) -> Tensor:
    """(1, C, 1, 1) in [0, 1], on x's device."""
    colour = torch.tensor(levels, dtype=torch.float64, device=x.device).view(1, 3, 1, 1) / 255
    return colour if x.shape[1] == 3 else luma(colour)


# Sizes and places


def scale(x: Tensor) -> float:
    """By what lengths published for 32 pixels are multiplied."""
    return max(1.0, min(x.shape[-2:]) / 32)


def base(x: Tensor) -> tuple[int, int]:
    """Height and width at which layers are made: a shorter side of 32, or the image's own where that is less."""
    return tuple(round(n / scale(x)) for n in x.shape[-2:])


def grown(layer: Tensor, x: Tensor) -> Tensor:
    """A layer of the base size at the size of x."""
    if layer.shape[-2:] == x.shape[-2:]:
        return layer
    return F.interpolate(layer, x.shape[-2:], mode="bilinear", align_corners=False)


def grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (1, W)."""
    return torch.arange(height, device=device)[:, None], torch.arange(width, device=device)[None]


def mirrored(index: Tensor, n: int) -> Tensor:
    """Indices beyond 0..n-1 mirrored about the outermost pixels, which are not repeated."""
    if n == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * n - 2)
    return torch.minimum(index, 2 * n - 2 - index)


def gathered(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (B, C, H, W) at the places (B, H, W), the same for all channels."""
    flat = (rows * x.shape[-1] + columns).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, flat).view(x.shape)


def sampled(x: Tensor, rows: Tensor, columns: Tensor, *, whole: bool) -> Tensor:
    """x (B, C, H, W) between pixels at (B, H, W), bilinear, mirrored at whole pixels or at their outer edges."""
    places = []
    for place, n in ((columns, x.shape[-1]), (rows, x.shape[-2])):
        places.append(place * (2 / max(1, n - 1)) - 1 if whole else (2 * place + 1) / n - 1)
    grid = torch.stack(torch.broadcast_tensors(*places), -1)
    return F.grid_sample(x.double(), grid, padding_mode="reflection", align_corners=whole).to(x.dtype)


# Filters


def smooth(x: Tensor, sigma: float, truncate: float = 4, mirrored: bool = False) -> Tensor:
    """Gaussian of `sigma` pixels, cut off at `truncate` of them; outside, the edge goes on, or is mirrored there."""
    reach = int(truncate * sigma + 0.5)
    if not reach:
        return x
    weights = np.exp(-0.5 / sigma**2 * np.arange(-reach, reach + 1) ** 2)
    weights = (weights / weights.sum())[reach:].tolist()
    for axis in (-2, -1):
        n = x.shape[axis]
        index = torch.arange(-reach, n + reach)
        if mirrored:
            index = index.remainder(2 * n)
            index = torch.minimum(index, 2 * n - 1 - index)
        padded = x.index_select(axis, index.clamp(0, n - 1).to(x.device))
        # From the outside in, as scipy adds: a flat area must be truncated to the same level.
        x = padded.narrow(axis, reach, n) * weights[0]
        for k in range(reach, 0, -1):
            x += (padded.narrow(axis, reach - k, n) + padded.narrow(axis, reach + k, n)) * weights[k]
    return x


def disk(radius: float, alias: float) -> Tensor:
    """The kernel of a disk softened by a Gaussian of `alias` pixels, square and odd, float64; it sums to one."""
    span, soft = (1, 1) if radius <= 8 else (2, 2)
    reach = math.floor(radius) + span
    at = np.arange(-reach, reach + 1)
    inside = np.float32(at[:, None] ** 2 + at[None] ** 2 <= radius**2)
    weights = np.exp(-0.5 / alias**2 * np.arange(-soft, soft + 1) ** 2)
    weights = np.float32(weights / weights.sum())
    kernel = inside / inside.sum()
    for axis in (0, 1):
        kernel = sum(np.roll(kernel, k, axis) * weights[k + soft] for k in range(-soft, soft + 1))
    return torch.from_numpy(np.float64(kernel))


def moved(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """x averaged along a line that starts at each pixel, at `angle` (B,) degrees, one-sided Gaussian weights.

    Places on the line are whole pixels, and the edge goes on outside, as ImageMagick has it.
    """
    weights = torch.exp(-0.5 / sigma**2 * torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64) ** 2)
    weights = (weights / weights.sum()).tolist()
    height, width = x.shape[-2:]
    row, column = grid(height, width, x.device)
    radians = angle.double().mul(math.pi / 180).view(-1, 1, 1)
    out = torch.zeros_like(x)
    for k, weight in enumerate(weights):
        if weight < 1e-6:  # nothing in 8 bits
            break
        dy, dx = ((k * part - 0.5).ceil().long() for part in (radians.sin(), radians.cos()))
        out += weight * gathered(x, (row + dy).clamp(0, height - 1), (column + dx).clamp(0, width - 1))
    return out


def zoomed(x: Tensor, factor: float) -> Tensor:
    """The middle of x enlarged by `factor` >= 1, linear between pixels; a little off the centre, as published."""
    rows, columns = (_zoom_matrix(n, factor).to(x.device) for n in x.shape[-2:])
    return rows @ x @ columns.T


@functools.lru_cache(maxsize=256)
def _zoom_matrix(n: int, factor: float) -> Tensor:
    """(n, n) float64: each row the weights of two pixels."""
    cut = math.ceil(n / factor)
    first, size = (n - cut) // 2, round(cut * factor)
    trim = (size - n) // 2
    at = (torch.arange(n, dtype=torch.float64) + trim) * ((cut - 1) / max(1, size - 1))
    low = at.floor().clamp(max=max(0, cut - 2)).long()
    share = at - low
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix.scatter_add_(1, (first + low)[:, None], (1 - share)[:, None])
    matrix.scatter_add_(1, (first + (low + 1).clamp(max=cut - 1))[:, None], share[:, None])
    return matrix
