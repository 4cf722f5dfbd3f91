"""Random overlays of weather corruptions: fractal clouds, ice and water."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.corruptions import filters
from harness.randomness import PerImageRng


def plasma(side: int, decay: float, draws: PerImageRng) -> Tensor:
    """Fractal clouds (B, 1, side, side) in [0, 1], float64, by the diamond-square algorithm; side is a power of two.

    Noise is divided by decay squared at each halving. Borders wrap around.
    """
    cloud = torch.zeros(len(draws), side, side, dtype=torch.float64, device=draws.seeds.device)
    step, spread = side, 100.0

    def mean_plus_noise(total: Tensor) -> Tensor:
        return total / 4 + spread**2 * (2 * draws.uniform(*total.shape[1:]).double() - 1)

    while step >= 2:
        half = step // 2
        corners = cloud[:, ::step, ::step]
        sides = corners + corners.roll(-1, 1)
        cloud[:, half::step, half::step] = mean_plus_noise(sides + sides.roll(-1, 2))
        middles, corners = cloud[:, half::step, half::step], cloud[:, ::step, ::step]
        cloud[:, ::step, half::step] = mean_plus_noise(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
        cloud[:, half::step, ::step] = mean_plus_noise(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
        step, spread = half, spread / decay
    cloud -= cloud.amin((1, 2), keepdim=True)
    return (cloud / cloud.amax((1, 2), keepdim=True).clamp_min(1e-12)).unsqueeze(1)


_FROST_COLOURS = (  # mean and standard deviation per channel, close to the published photographs', resized to a fifth
    ((78, 149, 166), (25, 15, 14)),
    ((201, 205, 214), (20, 20, 21)),
    ((201, 205, 214), (20, 20, 21)),
    ((138, 153, 166), (28, 28, 29)),
    ((112, 123, 135), (39, 38, 37)),
)


@functools.lru_cache(maxsize=1)
def frost_textures(side: int = 96) -> Tensor:
    """Five fixed textures (5, 3, side, side) in [0, 1], float64: ice feathers on noise."""
    return torch.stack([_ice(np.random.default_rng(k), side, *colours) for k, colours in enumerate(_FROST_COLOURS)])


def _ice(rng: np.random.Generator, side: int, mean: Sequence[int], spread: Sequence[int]) -> Tensor:
    feathers = np.zeros((side, side))
    for _ in range(side // 2):
        _feather(feathers, rng, rng.uniform(0, side, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4) * side, 1.0)
    # Noise at several scales, white noise with the weight that gives crops of 32 pixels the energy of the photographs'
    # (resized to a fifth, bilinearly) above half the Nyquist frequency: 0.0048 of 1 squared a pixel, there 0.0047.
    # Neighbouring pixels of a crop then correlate by 0.42 and pixels eight apart by 0.03; there by 0.35 and 0.10.
    ground = 1.4 * rng.normal(size=(side, side))
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
    """Draw an ice needle that fades to its tip, with side branches at 60 degrees; positions wrap around."""
    along = np.arange(0, length, 0.5)
    points = start + along[:, None] * np.array([np.sin(angle), np.cos(angle)])
    where = tuple(np.floor(points).astype(int).T % len(canvas))
    np.maximum.at(canvas, where, light * (1 - 0.7 * along / length))
    if length > 5:
        for position in np.arange(2, length, 3):
            for side in (-1, 1):
                branch = rng.uniform(0.2, 0.5) * (length - position)
                _feather(canvas, rng, points[int(2 * position)], angle + side * np.pi / 3, branch, 0.8 * light)


def _standard(z: np.ndarray) -> np.ndarray:
    return (z - z.mean()) / z.std()


def water(liquid: Tensor) -> Tensor:
    """Amount of water per pixel, (B, 1, H, W) with a maximum of 1.

    The published chain on 8-bit levels: Canny edges, distance transform, equalisation, directional sharpening, blur.
    """
    levels = (liquid * 255).floor().remainder(256)  # uint8 overflow
    distance = _mean3(_chamfer(canny(levels, 50, 150)).clamp_max(20)).floor()
    light = _weighted3(_equalised(distance), ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))).clamp(0, 255)
    water = levels * (_mean3(light) + 0.5).floor()
    return water / water.amax((1, 2, 3), keepdim=True).clamp_min(1)


def _neighbour(x: Tensor, dy: int, dx: int, outside: float) -> Tensor:
    """x shifted so that each pixel holds its neighbour dy below and dx to the right; `outside` beyond the border."""
    reach = max(abs(dy), abs(dx))
    height, width = x.shape[-2:]
    padded = F.pad(x, (reach,) * 4, value=outside)
    return padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]


def _weighted3(x: Tensor, weights: Sequence[Sequence[float]], reflected: bool = True) -> Tensor:
    """Convolution with a 3x3 kernel; the border is reflected, or repeated."""
    index = (torch.arange(-1, n + 1, device=x.device) for n in x.shape[-2:])
    rows, columns = (
        filters.reflected(i, n) if reflected else i.clamp(0, n - 1) for i, n in zip(index, x.shape[-2:], strict=True)
    )
    kernel = torch.tensor(weights, dtype=x.dtype, device=x.device)[None, None]
    return F.conv2d(x[:, :, rows][:, :, :, columns], kernel)


def _mean3(x: Tensor) -> Tensor:
    return _weighted3(x, ((1, 1, 1),) * 3) / 9


def canny(levels: Tensor, low: int, high: int) -> Tensor:
    """Canny edges, bool, of 8-bit levels (B, 1, H, W): 3x3 Sobel, L1 magnitudes, hysteresis."""
    across = _weighted3(levels, ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)), reflected=False)
    down = _weighted3(levels, ((-1, -2, -1), (0, 0, 0), (1, 2, 1)), reflected=False)
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
    """Chamfer distance to the nearest edge, by steps of 1, 1.4 (diagonal) and 2.1969 (knight's move)."""
    moves = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if dy * dy + dx * dx in (1, 2, 5)]
    costs = {1: 1.0, 2: 1.4, 5: 2.1969}
    distance = torch.full(edges.shape, 1e4, dtype=torch.float64, device=edges.device).masked_fill(edges, 0)
    for _ in range(20):  # each round adds a pixel or two; the caller clamps at 20
        before = distance
        for dy, dx in moves:
            distance = torch.minimum(distance, _neighbour(before, dy, dx, 1e4) + costs[dy * dy + dx * dx])
        if torch.equal(distance, before):
            break
    return distance


def _equalised(levels: Tensor) -> Tensor:
    """Histogram equalisation of each image's levels (0 to 20) to 0..255; a constant image stays."""
    flat = levels.flatten(1).long()
    counts = F.one_hot(flat, 21).sum(1)  # (B, 21)
    least = flat.amin(1, keepdim=True)
    lowest = counts.gather(1, least)
    ranks = (counts.cumsum(1) - lowest).clamp_min(0)
    spread = (ranks * (255 / (flat.shape[1] - lowest).clamp_min(1))).round()
    spread = torch.where(lowest == flat.shape[1], least, spread)
    return spread.gather(1, flat).view(levels.shape).to(levels.dtype)
