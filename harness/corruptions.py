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

import functools
import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

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
    x = _unit(x)
    return _truncated(x + sigma * draws.normal(*x.shape[1:]))


def shot_noise(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Poisson noise of 500 down to 50 photons for a white pixel."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return _truncated(draws.poisson(_unit(x) * photons) / photons)


def impulse_noise(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Salt and pepper in equal parts on 1 to 7 % of the values."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    x = _unit(x)
    u = draws.uniform(*x.shape[1:])
    return _truncated(x.masked_fill(u < amount, 0).masked_fill(u < amount / 2, 1))


def speckle_noise(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Normal noise in proportion to the value, 6 to 20 %."""
    sigma = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    x = _unit(x)
    return _truncated(x + x * sigma * draws.normal(*x.shape[1:]))


# Blur


def gaussian_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Gaussian of 0.4 to 1 pixels."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1)[severity - 1]
    return _truncated(_smooth(_unit(x), sigma * _scale(x)))


def defocus_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Mean over a disk of radius 0.3 to 1.5 pixels, its rim softened."""
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    kernel = disk(radius * _scale(x), alias)
    z, reach = _unit(x), len(kernel) // 2
    rows, columns = (_mirrored(torch.arange(-reach, n + reach, device=x.device), n) for n in x.shape[-2:])
    padded, (height, width) = z[:, :, rows][:, :, :, columns], x.shape[-2:]
    out = torch.zeros_like(z)
    for dy, dx in kernel.nonzero().tolist():
        out.add_(padded[:, :, dy : dy + height, dx : dx + width], alpha=float(kernel[dy, dx]))
    return _truncated(out)


def glass_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Blur, let pixels look at a neighbour instead of at themselves, once or twice, and blur again.

    The published loop means to swap neighbours but copies, and only from above and from the left, from places that it
    has not changed yet; so it is one reading at random offsets of -1 or 0. The two first rows and columns stay.
    """
    sigma, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    scale = _scale(x)
    z, shift = _truncated(_smooth(_unit(x), sigma * scale)).double(), round(scale)
    height, width = x.shape[-2:]
    row, column = _grid(height, width, x.device)
    inner = (row > shift) & (column > shift)
    for _ in range(times):
        dy, dx = (draws.integers(-shift, 1, height, width) * inner for _ in range(2))
        z = _gathered(z, row + dy, column + dx)
    return _truncated(_smooth(_unit(z), sigma * scale))


def motion_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """One-sided Gaussian of 1 to 2.5 pixels along a line tilted by up to 45 degrees."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    angle = draws.uniform() * 90 - 45
    return _truncated(_moved(_unit(x), radius * _scale(x), sigma * _scale(x), angle))


def zoom_blur(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Mean of the image and of its enlargements by 1, 1.01, ... to 1.06 up to 1.26 (the last by rounding or not)."""
    last = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    z = _unit(x)
    factors = np.arange(1, last, 0.01)  # whether it holds `last` is a matter of rounding, and published so
    total = z.float()
    for factor in factors:
        total = total + _zoomed(z, float(factor)).float()
    return _truncated(total / (len(factors) + 1))


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
    flakes = _zoomed(mean + spread * draws.normal(1, *_base(x)).double(), zoom)
    flakes = _truncated(flakes * (flakes >= least))
    flakes = _truncated(_moved(_unit(flakes), radius, sigma, draws.uniform() * 90 - 135))
    flakes = _grown(flakes, x)
    z = _unit(x).float()
    z = keep * z + (1 - keep) * torch.maximum(z, luma(z) * 1.5 + 0.5)
    return _truncated(z + flakes + flakes.flip(-2, -1))


def frost(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """A piece of one of five textures of ice, added to a darker image."""
    own, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    textures = frost_textures().to(x.device)
    height, width = _base(x)
    which = draws.integers(0, len(textures))
    top, left = (
        (draws.uniform() * max(1, n - m + 1)).long() for n, m in zip(textures.shape[-2:], (height, width), strict=True)
    )
    rows = (top[:, None] + torch.arange(height, device=x.device)).view(-1, 1, height, 1)
    columns = (left[:, None] + torch.arange(width, device=x.device)).view(-1, 1, 1, width)
    rows, columns = rows % textures.shape[-2], columns % textures.shape[-1]  # a long image sees a texture again
    channels = torch.arange(3, device=x.device).view(1, 3, 1, 1)
    piece = _grown(textures[which.view(-1, 1, 1, 1), channels, rows, columns], x)
    return _truncated(own * _unit(x) + ice * (piece if x.shape[1] == 3 else luma(piece)))


def fog(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """A fractal cloud, white, added to the image, which is then darkened to its own brightest value."""
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    z = _unit(x)
    height, width = x.shape[-2:]
    cloud = plasma(1 << (max(height, width) - 1).bit_length(), decay, draws)[:, :, :height, :width]
    brightest = z.amax((1, 2, 3), keepdim=True)
    return _truncated((z + strength * cloud) * brightest / (brightest + strength))


def spatter(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Drops of water (severities 1 to 3, brighter) or of mud (4 and 5, darker)."""
    mean, spread, sigma, least, weight = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    liquid = _smooth(mean + spread * draws.normal(1, *_base(x)).double(), sigma)
    liquid = liquid * (liquid >= least)
    z = _unit(x)
    if severity <= 3:
        colour = _colour((175, 238, 238), x)
        return _truncated(z + _grown(weight * _water(liquid), x) * colour)
    mud = _smooth((liquid > least).double(), weight)
    mud = _grown(mud * (mud >= 0.8), x)
    return _truncated(z * (1 - mud) + mud * _colour((63, 42, 20), x))


# Digital


def brightness(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """0.05 to 0.3 added to the value of hue, saturation and value."""
    add = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    z = _unit(x)
    value = z.amax(1, keepdim=True)
    brighter = (value + add).clamp_max(1)
    share = torch.where(value > 0, z / value.clamp_min(1e-9), 1)  # black has neither hue nor saturation
    return _truncated(share * brighter)


def saturate(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """The saturation of hue, saturation and value times 0.3 to 2.5, plus up to 0.2. A grey pixel has the hue of red."""
    times, add = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    z = _unit(x)
    if x.shape[1] == 1:
        return _truncated(z)
    value = z.amax(1, keepdim=True)
    lack = value - z  # of a colour, in proportion to the saturation
    saturation = lack.amax(1, keepdim=True) / value.clamp_min(1e-9)
    new = (saturation * times + add).clamp(0, 1)
    red = value * torch.tensor([0.0, 1.0, 1.0], dtype=z.dtype, device=z.device).view(1, 3, 1, 1)
    full = torch.where(saturation > 0, lack / saturation.clamp_min(1e-9), red)
    return _truncated(value - full * new)


def contrast(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Distances from the channel's mean times 0.75 down to 0.15."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    z = _unit(x)
    mean = z.mean((2, 3), keepdim=True)
    return _truncated((z - mean) * factor + mean)


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
    row, column = _grid(height, width, x.device)
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
    z = _sampled(_unit(x).float(), from_row, from_column, whole=True)
    noise = 2 * draws.uniform(2, height, width).double() - 1
    shift = alpha * _smooth(noise, sigma, truncate=3, mirrored=True)
    return _truncated(_sampled(z, row + shift[:, 1], column + shift[:, 0], whole=False))


def pixelate(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """Shrunk to 95 down to 65 % by means over boxes, and enlarged again."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1] / _scale(x)
    height, width = x.shape[-2:]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    return _by_pillow(x, lambda i: i.resize(small, Image.Resampling.BOX).resize(i.size, Image.Resampling.BOX))


def jpeg_compression(x: Tensor, severity: int, draws: Draws) -> Tensor:
    """JPEG of quality 80 down to 40."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_pillow(x, compressed)


# Levels


def _unit(x: Tensor) -> Tensor:
    """The 8-bit levels of x over 255 in float64, so that truncation falls as in the published files."""
    return x.mul(255).round().double() / 255


def _truncated(z: Tensor) -> Tensor:
    """To 8-bit levels, downward; float32 in [0, 1]."""
    return (z.clamp(0, 1) * 255).floor().float() / 255


def _by_pillow(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
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


def _colour(levels: tuple[int, int, int], x: Tensor) -> Tensor:
    """(1, C, 1, 1) in [0, 1], on x's device."""
    colour = torch.tensor(levels, dtype=torch.float64, device=x.device).view(1, 3, 1, 1) / 255
    return colour if x.shape[1] == 3 else luma(colour)


# Sizes and places


def _scale(x: Tensor) -> float:
    """By what lengths published for 32 pixels are multiplied."""
    return max(1.0, min(x.shape[-2:]) / 32)


def _base(x: Tensor) -> tuple[int, int]:
    """Height and width at which layers are made: a shorter side of 32, or the image's own where that is less."""
    return tuple(round(n / _scale(x)) for n in x.shape[-2:])


def _grown(layer: Tensor, x: Tensor) -> Tensor:
    """A layer of the base size at the size of x."""
    if layer.shape[-2:] == x.shape[-2:]:
        return layer
    return F.interpolate(layer, x.shape[-2:], mode="bilinear", align_corners=False)


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (1, W)."""
    return torch.arange(height, device=device)[:, None], torch.arange(width, device=device)[None]


def _mirrored(index: Tensor, n: int) -> Tensor:
    """Indices beyond 0..n-1 mirrored about the outermost pixels, which are not repeated."""
    if n == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * n - 2)
    return torch.minimum(index, 2 * n - 2 - index)


def _gathered(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (B, C, H, W) at the places (B, H, W), the same for all channels."""
    flat = (rows * x.shape[-1] + columns).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, flat).view(x.shape)


def _sampled(x: Tensor, rows: Tensor, columns: Tensor, *, whole: bool) -> Tensor:
    """x (B, C, H, W) between pixels at (B, H, W), bilinear, mirrored at whole pixels or at their outer edges."""
    places = []
    for place, n in ((columns, x.shape[-1]), (rows, x.shape[-2])):
        places.append(place * (2 / max(1, n - 1)) - 1 if whole else (2 * place + 1) / n - 1)
    grid = torch.stack(torch.broadcast_tensors(*places), -1)
    return F.grid_sample(x.double(), grid, padding_mode="reflection", align_corners=whole).to(x.dtype)


# Filters


def _smooth(x: Tensor, sigma: float, truncate: float = 4, mirrored: bool = False) -> Tensor:
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


def _moved(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """x averaged along a line that starts at each pixel, at `angle` (B,) degrees, one-sided Gaussian weights.

    Places on the line are whole pixels, and the edge goes on outside, as ImageMagick has it.
    """
    weights = torch.exp(-0.5 / sigma**2 * torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64) ** 2)
    weights = (weights / weights.sum()).tolist()
    height, width = x.shape[-2:]
    row, column = _grid(height, width, x.device)
    radians = angle.double().mul(math.pi / 180).view(-1, 1, 1)
    out = torch.zeros_like(x)
    for k, weight in enumerate(weights):
        if weight < 1e-6:  # nothing in 8 bits
            break
        dy, dx = ((k * part - 0.5).ceil().long() for part in (radians.sin(), radians.cos()))
        out += weight * _gathered(x, (row + dy).clamp(0, height - 1), (column + dx).clamp(0, width - 1))
    return out


def _zoomed(x: Tensor, factor: float) -> Tensor:
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


# Layers


def plasma(side: int, decay: float, draws: Draws) -> Tensor:
    """(B, 1, side, side) fractal clouds in [0, 1], float64, by diamonds and squares; side is a power of two.

    Noise is divided by decay squared at each halving. Outside, the map repeats itself.
    """
    cloud = torch.zeros(len(draws), side, side, dtype=torch.float64, device=draws.seeds.device)
    step, spread = side, 100.0

    def wibbled(total: Tensor) -> Tensor:
        return total / 4 + spread**2 * (2 * draws.uniform(*total.shape[1:]).double() - 1)

    while step >= 2:
        half = step // 2
        corners = cloud[:, ::step, ::step]
        sides = corners + corners.roll(-1, 1)
        cloud[:, half::step, half::step] = wibbled(sides + sides.roll(-1, 2))
        middles, corners = cloud[:, half::step, half::step], cloud[:, ::step, ::step]
        cloud[:, ::step, half::step] = wibbled(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
        cloud[:, half::step, ::step] = wibbled(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
        step, spread = half, spread / decay
    cloud -= cloud.amin((1, 2), keepdim=True)
    return (cloud / cloud.amax((1, 2), keepdim=True).clamp_min(1e-12)).unsqueeze(1)


_FROST = (  # mean and standard deviation of each channel: near the published photographs' at a fifth of their size
    ((78, 149, 166), (25, 15, 14)),
    ((201, 205, 214), (20, 20, 21)),
    ((201, 205, 214), (20, 20, 21)),
    ((138, 153, 166), (28, 28, 29)),
    ((112, 123, 135), (39, 38, 37)),
)


@functools.lru_cache(maxsize=1)
def frost_textures(side: int = 96) -> Tensor:
    """(5, 3, side, side) in [0, 1], float64: feathers of ice on rough ground, always the same."""
    return torch.stack([_ice(np.random.default_rng(k), side, *colours) for k, colours in enumerate(_FROST)])


def _ice(rng: np.random.Generator, side: int, mean: Sequence[int], spread: Sequence[int]) -> Tensor:
    feathers = np.zeros((side, side))
    for _ in range(side // 2):
        _feather(feathers, rng, rng.uniform(0, side, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4) * side, 1.0)
    # Correlation of neighbours 0.6, of pixels far apart 0.4, as in the photographs: noise of every size.
    ground = rng.normal(size=(side, side))
    for cell in (4, 12, 32):
        coarse = torch.from_numpy(rng.normal(size=(1, 1, side // cell + 1, side // cell + 1)))
        ground += 0.9 * F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)[0, 0].numpy()
    ice = _standard(ground) + _standard(feathers)
    ice = _standard(ice.clip(*np.percentile(ice, (1, 99))))
    levels = np.array(mean)[:, None, None] + np.array(spread)[:, None, None] * ice
    return torch.from_numpy(np.rint(levels.clip(0, 255)) / 255)


def _feather(
    canvas: np.ndarray, rng: np.random.Generator, start: np.ndarray, angle: float, length: float, light: float
) -> None:
    """Draw a needle onto the canvas, fading to its tip, with smaller ones on both sides at 60 degrees; it wraps."""
    along = np.arange(0, length, 0.5)
    points = start + along[:, None] * np.array([np.sin(angle), np.cos(angle)])
    where = tuple(np.floor(points).astype(int).T % len(canvas))
    np.maximum.at(canvas, where, light * (1 - 0.7 * along / length))
    if length > 5:
        for place in np.arange(2, length, 3):
            for side in (-1, 1):
                branch = rng.uniform(0.2, 0.5) * (length - place)
                _feather(canvas, rng, points[int(2 * place)], angle + side * np.pi / 3, branch, 0.8 * light)


def _standard(z: np.ndarray) -> np.ndarray:
    return (z - z.mean()) / z.std()


def _water(liquid: Tensor) -> Tensor:
    """How much water lies on each pixel, (B, 1, H, W) with a maximum of 1: most of it where drops are thick.

    The published chain on 8-bit levels: Canny's edges, distance from them, equalised, sharpened to one side, blurred.
    """
    levels = (liquid * 255).floor().remainder(256)  # beyond white it starts from black again, as bytes do
    far = _mean3(_chamfer(canny(levels, 50, 150)).clamp_max(20)).floor()
    light = _weighted3(_equalised(far), ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))).clamp(0, 255)
    water = levels * (_mean3(light) + 0.5).floor()
    return water / water.amax((1, 2, 3), keepdim=True).clamp_min(1)


def _neighbour(x: Tensor, dy: int, dx: int, outside: float) -> Tensor:
    """The pixel dy below and dx to the right of each; a constant outside."""
    reach = max(abs(dy), abs(dx))
    height, width = x.shape[-2:]
    padded = F.pad(x, (reach,) * 4, value=outside)
    return padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]


def _weighted3(x: Tensor, weights: Sequence[Sequence[float]], mirrored: bool = True) -> Tensor:
    """Each pixel's 3x3 neighbourhood summed with these weights; at the border mirrored, or the edge repeated."""
    index = (torch.arange(-1, n + 1, device=x.device) for n in x.shape[-2:])
    rows, columns = (
        _mirrored(i, n) if mirrored else i.clamp(0, n - 1) for i, n in zip(index, x.shape[-2:], strict=True)
    )
    kernel = torch.tensor(weights, dtype=x.dtype, device=x.device)[None, None]
    return F.conv2d(x[:, :, rows][:, :, :, columns], kernel)


def _mean3(x: Tensor) -> Tensor:
    return _weighted3(x, ((1, 1, 1),) * 3) / 9


def canny(levels: Tensor, low: int, high: int) -> Tensor:
    """Edges, bool, of 8-bit levels (B, 1, H, W), by Canny with a 3x3 Sobel, L1 magnitudes and hysteresis."""
    across = _weighted3(levels, ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)), mirrored=False)
    down = _weighted3(levels, ((-1, -2, -1), (0, 0, 0), (1, 2, 1)), mirrored=False)
    size = across.abs() + down.abs()
    flat = down.abs() < across.abs() * math.tan(math.pi / 8)
    steep = down.abs() > across.abs() * math.tan(3 * math.pi / 8)
    rising = (across < 0) != (down < 0)

    def crest(dy: int, dx: int, strict: bool) -> Tensor:
        before, after = _neighbour(size, -dy, -dx, 0), _neighbour(size, dy, dx, 0)
        return (size > before) & ((size > after) if strict else (size >= after))

    diagonal = torch.where(rising, crest(1, -1, True), crest(1, 1, True))
    thin = torch.where(flat, crest(0, 1, False), torch.where(steep, crest(1, 0, False), diagonal))
    weak = thin & (size > low)
    edges, before = weak & (size > high), -1
    while (count := int(edges.sum())) != before:
        edges, before = weak & (F.max_pool2d(edges.float(), 3, 1, 1) > 0), count
    return edges


def _chamfer(edges: Tensor) -> Tensor:
    """Distance of each pixel from the nearest edge in steps of 1, 1.4 (diagonal) and 2.1969 (a knight's move)."""
    moves = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if dy * dy + dx * dx in (1, 2, 5)]
    costs = {1: 1.0, 2: 1.4, 5: 2.1969}
    distance = torch.full(edges.shape, 1e4, dtype=torch.float64, device=edges.device).masked_fill(edges, 0)
    for _ in range(20):  # each round goes on by a pixel or two, and nobody asks for more than 20
        before = distance
        for dy, dx in moves:
            distance = torch.minimum(distance, _neighbour(before, dy, dx, 1e4) + costs[dy * dy + dx * dx])
        if torch.equal(distance, before):
            break
    return distance


def _equalised(levels: Tensor) -> Tensor:
    """Each image's levels (0 to 20) spread so that their ranks fill 0 to 255; an image of one level stays."""
    flat = levels.flatten(1).long()
    counts = F.one_hot(flat, 21).sum(1)  # (B, 21)
    least = flat.amin(1, keepdim=True)
    lowest = counts.gather(1, least)
    ranks = (counts.cumsum(1) - lowest).clamp_min(0)
    spread = (ranks * (255 / (flat.shape[1] - lowest).clamp_min(1))).round()
    spread = torch.where(lowest == flat.shape[1], least, spread)
    return spread.gather(1, flat).view(levels.shape).to(levels.dtype)


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
