"""Digital corruptions: saturation, contrast, elastic transform, pixelate, JPEG."""

import io

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from harness.data.corruptions import filters
from harness.randomness import PerImageRng


def saturate(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """HSV saturation times 0.1 to 2.5, plus up to 0.2. A grey pixel has the hue of red."""
    times, add = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    z = filters.unit(x)
    if x.shape[1] == 1:
        return filters.truncated(z)
    value = z.amax(1, keepdim=True)
    deficit = value - z  # per channel, proportional to the saturation
    saturation = deficit.amax(1, keepdim=True) / value.clamp_min(1e-9)
    new = (saturation * times + add).clamp(0, 1)
    red = value * torch.tensor([0.0, 1.0, 1.0], dtype=z.dtype, device=z.device).view(1, 3, 1, 1)
    full = torch.where(saturation > 0, deficit / saturation.clamp_min(1e-9), red)
    return filters.truncated(value - full * new)


def contrast(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Differences from the channel mean times 0.75 down to 0.15."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    z = filters.unit(x)
    mean = z.mean((2, 3), keepdim=True)
    return filters.truncated((z - mean) * factor + mean)


def elastic_transform(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """A random affine map of three points, then a smooth random flow; both scale with the image side."""
    side = min(x.shape[-2:])
    alpha, sigma, affine = (
        side * share
        for share in ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
            severity - 1
        ]
    )
    height, width = x.shape[-2:]
    row, column = filters.grid(height, width, x.device)
    offset, (top, left) = side // 3, (height // 2, width // 2)
    # Corners in (column, row) order. The published code has the centre in (row, column) order: equal for squares.
    corners = [[left + offset, top + offset], [left + offset, top - offset], [left - offset, top - offset]]
    start = torch.tensor(corners, dtype=torch.float64, device=x.device)
    moved = start + affine * (2 * draws.uniform(3, 2).double() - 1)
    inverse = torch.linalg.solve(F.pad(moved, (0, 1), value=1), start)  # (B, 3, 2): output to input coordinates
    from_column, from_row = (
        (column * inverse[:, 0, k, None, None] + row * inverse[:, 1, k, None, None] + inverse[:, 2, k, None, None])
        for k in range(2)
    )
    z = filters.sampled(filters.unit(x).float(), from_row, from_column, whole=True)
    noise = 2 * draws.uniform(2, height, width).double() - 1
    shift = alpha * filters.smooth(noise, sigma, truncate=3, reflected=True)
    return filters.truncated(filters.sampled(z, row + shift[:, 1], column + shift[:, 0], whole=False))


def pixelate(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Shrink to 95 down to 65 % by box averaging, and enlarge again."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1] / filters.scale(x)
    height, width = x.shape[-2:]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    return filters.by_pillow(x, lambda i: i.resize(small, Image.Resampling.BOX).resize(i.size, Image.Resampling.BOX))


def jpeg_compression(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """JPEG compression at quality 80 down to 40."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return filters.by_pillow(x, compressed)
