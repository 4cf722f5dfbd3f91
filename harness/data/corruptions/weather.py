"""Weather corruptions: snow, frost, fog, spatter, brightness."""

import torch
from torch import Tensor

from harness.data.corruptions import filters
from harness.data.corruptions.textures import frost_textures, plasma, water
from harness.randomness import PerImageRng

# Weather


def snow(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Motion-blurred flakes, in two layers, over a paler image."""
    mean, spread, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = filters.zoomed(mean + spread * draws.normal(1, *filters.base_size(x)).double(), zoom)
    flakes = filters.truncated(flakes * (flakes >= threshold))
    flakes = filters.truncated(filters.motion_blurred(filters.unit(flakes), radius, sigma, draws.uniform() * 90 - 135))
    flakes = filters.upsampled(flakes, x)
    z = filters.unit(x).float()
    z = keep * z + (1 - keep) * torch.maximum(z, filters.luma(z) * 1.5 + 0.5)
    return filters.truncated(z + flakes + flakes.flip(-2, -1))


def frost(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """A random crop of one of five ice textures, added to a darker image."""
    image_weight, ice_weight = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    textures = frost_textures().to(x.device)
    height, width = filters.base_size(x)
    which = draws.integers(0, len(textures))
    top, left = (
        (draws.uniform() * max(1, n - m + 1)).long() for n, m in zip(textures.shape[-2:], (height, width), strict=True)
    )
    rows = (top[:, None] + torch.arange(height, device=x.device)).view(-1, 1, height, 1)
    columns = (left[:, None] + torch.arange(width, device=x.device)).view(-1, 1, 1, width)
    rows, columns = rows % textures.shape[-2], columns % textures.shape[-1]  # textures wrap around in a long image
    channels = torch.arange(3, device=x.device).view(1, 3, 1, 1)
    piece = filters.upsampled(textures[which.view(-1, 1, 1, 1), channels, rows, columns], x)
    return filters.truncated(
        image_weight * filters.unit(x) + ice_weight * (piece if x.shape[1] == 3 else filters.luma(piece))
    )


def fog(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """A white fractal cloud, added to the image, which is then rescaled to its former maximum."""
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    z = filters.unit(x)
    height, width = x.shape[-2:]
    cloud = plasma(1 << (max(height, width) - 1).bit_length(), decay, draws)[:, :, :height, :width]
    maximum = z.amax((1, 2, 3), keepdim=True)
    return filters.truncated((z + strength * cloud) * maximum / (maximum + strength))


def spatter(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Drops of water (severities 1 to 3, brighter) or of mud (4 and 5, darker)."""
    mean, spread, sigma, threshold, weight = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    liquid = filters.smooth(mean + spread * draws.normal(1, *filters.base_size(x)).double(), sigma)
    liquid = liquid * (liquid >= threshold)
    z = filters.unit(x)
    if severity <= 3:
        colour = filters.colour((175, 238, 238), x)
        return filters.truncated(z + filters.upsampled(weight * water(liquid), x) * colour)
    mud = filters.smooth((liquid > threshold).double(), weight)
    mud = filters.upsampled(mud * (mud >= 0.8), x)
    return filters.truncated(z * (1 - mud) + mud * filters.colour((63, 42, 20), x))


# Digital


def brightness(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """HSV value plus 0.05 to 0.3."""
    add = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    z = filters.unit(x)
    value = z.amax(1, keepdim=True)
    brighter = (value + add).clamp_max(1)
    share = torch.where(value > 0, z / value.clamp_min(1e-9), 1)  # black has neither hue nor saturation
    return filters.truncated(share * brighter)
