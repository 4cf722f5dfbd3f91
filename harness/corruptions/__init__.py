"""The common corruptions of Hendrycks & Dietterich (ICLR 2019), with CIFAR-10-C's numbers for 32x32 images.

    corruption(x, severity, draws) -> x'      x (B, C, H, W) in [0, 1], C 1 or 3; severity 1..5; x' of the same shape

As in the published files the input is read as 8-bit levels, and the result is 8-bit levels again: `x' * 255` is whole.
They end by truncation, not by rounding, but for pixelate and JPEG, which end in Pillow.

Other sizes: lengths in pixels (blurs, shifts, flakes, blocks) grow with the shorter side where it is above 32, so that
a severity looks alike at all sizes, and stay as published below, where a fraction of a pixel would do nothing. The
elastic transform is a share of the side at any size, noise is per pixel, and JPEG has its own blocks of eight. Where
the published ImageNet-C and Tiny-ImageNet-C have numbers of their own, these differ from them. Grey images: colours
that are laid over the image (frost, mud) become their luma; `saturate` changes nothing.

Frost lies in files that are not passed on here: five textures drawn by seed, of the same mean colour, contrast and
smoothness, take their place.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from harness.corruptions import filters, layers
from harness.errors import Mistake, unknown
from harness.randomness import Draws

SEVERITIES = (1, 2, 3, 4, 5)

Corruption = Callable[[Tensor, int, Draws], Tensor]


def corrupt(name: str, x: Tensor, severity: int, draws: Draws) -> Tensor:
    """The images under the corruption of that name. Raises `Mistake` for an unknown one, or a severity not in 1..5."""
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise Mistake(f"a corruption's severity is 1, 2, 3, 4 or 5, not {severity!r}")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise Mistake(f"corruptions need images of 1 or 3 channels, (B, C, H, W), not {tuple(x.shape)}")
    return CORRUPTIONS[name](x, severity, draws)


# Noise


def gaussian_noise(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Normal noise of standard deviation 0.04 to 0.10."""
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    x = filters.unit(x)
    return filters.truncated(x + sigma * draws.normal(*x.shape[1:]))


def shot_noise(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Poisson noise of 500 down to 50 photons for a white pixel."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return filters.truncated(draws.poisson(filters.unit(x) * photons) / photons)


def impulse_noise(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Salt and pepper in equal parts on 1 to 7 % of the values."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    x = filters.unit(x)
    u = draws.uniform(*x.shape[1:])
    return filters.truncated(x.masked_fill(u < amount, 0).masked_fill(u < amount / 2, 1))


def speckle_noise(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Normal noise in proportion to the value, 6 to 20 %."""
    sigma = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    x = filters.unit(x)
    return filters.truncated(x + x * sigma * draws.normal(*x.shape[1:]))


# Blur


def gaussian_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Gaussian of 0.4 to 1 pixels."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1)[severity - 1]
    return filters.truncated(filters.smooth(filters.unit(x), sigma * filters.scale(x)))


def defocus_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Mean over a disk of radius 0.3 to 1.5 pixels, its rim softened."""
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    kernel = filters.disk(radius * filters.scale(x), alias)
    z, reach = filters.unit(x), len(kernel) // 2
    rows, columns = (filters.mirrored(torch.arange(-reach, n + reach, device=x.device), n) for n in x.shape[-2:])
    padded, (height, width) = z[:, :, rows][:, :, :, columns], x.shape[-2:]
    out = torch.zeros_like(z)
    for dy, dx in kernel.nonzero().tolist():
        out.add_(padded[:, :, dy : dy + height, dx : dx + width], alpha=float(kernel[dy, dx]))
    return filters.truncated(out)


def glass_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Blur, let pixels look at a neighbour instead of at themselves, once or twice, and blur again.

    The published loop means to swap neighbours but copies, and only from above and from the left, from places that it
    has not changed yet; so it is one reading at random offsets of -1 or 0. The two first rows and columns stay.
    """
    sigma, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    scale = filters.scale(x)
    z, shift = filters.truncated(filters.smooth(filters.unit(x), sigma * scale)).double(), round(scale)
    height, width = x.shape[-2:]
    row, column = filters.grid(height, width, x.device)
    inner = (row > shift) & (column > shift)
    for _ in range(times):
        dy, dx = (draws.integers(-shift, 1, height, width) * inner for _ in range(2))
        z = filters.gathered(z, row + dy, column + dx)
    return filters.truncated(filters.smooth(filters.unit(z), sigma * scale))


def motion_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """One-sided Gaussian of 1 to 2.5 pixels along a line tilted by up to 45 degrees."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    angle = draws.uniform() * 90 - 45
    return filters.truncated(filters.moved(filters.unit(x), radius * filters.scale(x), sigma * filters.scale(x), angle))


def zoom_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Mean of the image and of its enlargements by 1, 1.01, ... to 1.06 up to 1.26 (the last by rounding or not)."""
    last = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    z = filters.unit(x)
    factors = np.arange(1, last, 0.01)  # whether it holds `last` is a matter of rounding, and published so
    total = z.float()
    for factor in factors:
        total = total + filters.zoomed(z, float(factor)).float()
    return filters.truncated(total / (len(factors) + 1))


# Weather


def snow(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Flakes blown along a line, in two layers, over an image made paler."""
    mean, spread, zoom, least, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = filters.zoomed(mean + spread * draws.normal(1, *filters.base(x)).double(), zoom)
    flakes = filters.truncated(flakes * (flakes >= least))
    flakes = filters.truncated(filters.moved(filters.unit(flakes), radius, sigma, draws.uniform() * 90 - 135))
    flakes = filters.grown(flakes, x)
    z = filters.unit(x).float()
    z = keep * z + (1 - keep) * torch.maximum(z, filters.luma(z) * 1.5 + 0.5)
    return filters.truncated(z + flakes + flakes.flip(-2, -1))


def frost(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """A piece of one of five textures of ice, added to a darker image."""
    own, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    textures = layers.frost_textures().to(x.device)
    height, width = filters.base(x)
    which = draws.integers(0, len(textures))
    top, left = (
        (draws.uniform() * max(1, n - m + 1)).long() for n, m in zip(textures.shape[-2:], (height, width), strict=True)
    )
    rows = (top[:, None] + torch.arange(height, device=x.device)).view(-1, 1, height, 1)
    columns = (left[:, None] + torch.arange(width, device=x.device)).view(-1, 1, 1, width)
    rows, columns = rows % textures.shape[-2], columns % textures.shape[-1]  # a long image sees a texture again
    channels = torch.arange(3, device=x.device).view(1, 3, 1, 1)
    piece = filters.grown(textures[which.view(-1, 1, 1, 1), channels, rows, columns], x)
    return filters.truncated(own * filters.unit(x) + ice * (piece if x.shape[1] == 3 else filters.luma(piece)))


def fog(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """A fractal cloud, white, added to the image, which is then darkened to its own brightest value."""
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    z = filters.unit(x)
    height, width = x.shape[-2:]
    cloud = layers.plasma(1 << (max(height, width) - 1).bit_length(), decay, draws)[:, :, :height, :width]
    brightest = z.amax((1, 2, 3), keepdim=True)
    return filters.truncated((z + strength * cloud) * brightest / (brightest + strength))


def spatter(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Drops of water (severities 1 to 3, brighter) or of mud (4 and 5, darker)."""
    mean, spread, sigma, least, weight = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    liquid = filters.smooth(mean + spread * draws.normal(1, *filters.base(x)).double(), sigma)
    liquid = liquid * (liquid >= least)
    z = filters.unit(x)
    if severity <= 3:
        colour = filters.colour((175, 238, 238), x)
        return filters.truncated(z + filters.grown(weight * layers.water(liquid), x) * colour)
    mud = filters.smooth((liquid > least).double(), weight)
    mud = filters.grown(mud * (mud >= 0.8), x)
    return filters.truncated(z * (1 - mud) + mud * filters.colour((63, 42, 20), x))


# Digital


def brightness(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """0.05 to 0.3 added to the value of hue, saturation and value."""
    add = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    z = filters.unit(x)
    value = z.amax(1, keepdim=True)
    brighter = (value + add).clamp_max(1)
    share = torch.where(value > 0, z / value.clamp_min(1e-9), 1)  # black has neither hue nor saturation
    return filters.truncated(share * brighter)


def saturate(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """The saturation of hue, saturation and value times 0.3 to 2.5, plus up to 0.2. A grey pixel has the hue of red."""
    times, add = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    z = filters.unit(x)
    if x.shape[1] == 1:
        return filters.truncated(z)
    value = z.amax(1, keepdim=True)
    lack = value - z  # of a colour, in proportion to the saturation
    saturation = lack.amax(1, keepdim=True) / value.clamp_min(1e-9)
    new = (saturation * times + add).clamp(0, 1)
    red = value * torch.tensor([0.0, 1.0, 1.0], dtype=z.dtype, device=z.device).view(1, 3, 1, 1)
    full = torch.where(saturation > 0, lack / saturation.clamp_min(1e-9), red)
    return filters.truncated(value - full * new)


def contrast(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Distances from the channel's mean times 0.75 down to 0.15."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    z = filters.unit(x)
    mean = z.mean((2, 3), keepdim=True)
    return filters.truncated((z - mean) * factor + mean)


def elastic_transform(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """A random affine map of three points, then shifts that are smooth noise; both are shares of the side."""
    side = min(x.shape[-2:])
    alpha, sigma, affine = (
        side * share
        for share in ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
            severity - 1
        ]
    )
    height, width = x.shape[-2:]
    row, column = filters.grid(height, width, x.device)
    away, (top, left) = side // 3, (height // 2, width // 2)
    # Corners as in the published code, whose first coordinate is a column where it takes the middle as a row.
    corners = [[left + away, top + away], [left + away, top - away], [left - away, top - away]]
    start = torch.tensor(corners, dtype=torch.float64, device=x.device)
    moved = start + affine * (2 * draws.uniform(3, 2).double() - 1)
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1), start)  # (B, 3, 2): from the result to the image
    from_column, from_row = (
        (column * back[:, 0, k, None, None] + row * back[:, 1, k, None, None] + back[:, 2, k, None, None])
        for k in range(2)
    )
    z = filters.sampled(filters.unit(x).float(), from_row, from_column, whole=True)
    noise = 2 * draws.uniform(2, height, width).double() - 1
    shift = alpha * filters.smooth(noise, sigma, truncate=3, mirrored=True)
    return filters.truncated(filters.sampled(z, row + shift[:, 1], column + shift[:, 0], whole=False))


def pixelate(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Shrunk to 95 down to 65 % by means over boxes, and enlarged again."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1] / filters.scale(x)
    height, width = x.shape[-2:]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    return filters.by_pillow(x, lambda i: i.resize(small, Image.Resampling.BOX).resize(i.size, Image.Resampling.BOX))


def jpeg_compression(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """JPEG of quality 80 down to 40."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return filters.by_pillow(x, compressed)


# Names

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
STANDARD = tuple(name for name in CORRUPTIONS if name not in EXTRA)
# The fifteen of Singh et al. (2020): without frost, with speckle.
ART = (*(name for name in STANDARD if name != "frost"), "speckle_noise")
