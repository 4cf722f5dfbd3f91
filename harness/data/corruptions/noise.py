"""Noise corruptions: Gaussian, shot, impulse, speckle."""

from torch import Tensor

from harness.data.corruptions import filters
from harness.randomness import PerImageRng

# Noise


def gaussian_noise(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Gaussian noise of standard deviation 0.04 to 0.10."""
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    x = filters.unit(x)
    return filters.truncated(x + sigma * draws.normal(*x.shape[1:]))


def shot_noise(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Poisson noise of 500 down to 50 photons for a white pixel."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return filters.truncated(draws.poisson(filters.unit(x) * photons) / photons)


def impulse_noise(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Salt-and-pepper noise on 1 to 7 % of the values."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    x = filters.unit(x)
    u = draws.uniform(*x.shape[1:])
    return filters.truncated(x.masked_fill(u < amount, 0).masked_fill(u < amount / 2, 1))


def speckle_noise(x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Gaussian noise of 6 to 20 % of the value."""
    sigma = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    x = filters.unit(x)
    return filters.truncated(x + x * sigma * draws.normal(*x.shape[1:]))
