"""Class-conditional image synthesis by gradient ascent on a (robust) classifier.

Santurkar et al., "Image Synthesis with a Single (Robust) Classifier" (NeurIPS 2019): fit a normal distribution to the
training images of a class, draw a seed image from it, and minimise its cross-entropy within an L2 ball. Images of a
net that is not robust look like noise.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks.pgd import ascend, cross_entropy
from harness.data.datasets import Split
from harness.errors import UserError
from harness.models.freezing import frozen
from harness.randomness import PerImageRng, derive_seed

RIDGE = 1e-4  # added to the variance of each pixel value
CHUNK = 128


@dataclass(frozen=True)
class AscentSettings:
    """Radius, step size and steps of the ascent, in L2 norm on [0, 1]. shrink: downscaling factor of the seeds' fit."""

    eps: float = 30.0
    step: float = 0.5
    steps: int = 60
    shrink: int = 1


def default_settings(channels: int, height: int, width: int) -> AscentSettings:
    """Ascent settings for images of this size.

    Published for RGB images: eps 30, step 0.5 at 32x32; eps 40, step 1, seeds at a quarter of the size at 224x224; 60
    steps. Other sizes above 32x32: power laws in the number of values through these points. Smaller sizes: scaled by
    its square root, like the diagonal of [0, 1], of which eps remains 54 %.
    """
    ratio = channels * height * width / (3 * 32 * 32)
    if ratio <= 1:
        return AscentSettings(30 * math.sqrt(ratio), 0.5 * math.sqrt(ratio))
    power = math.log(ratio) / math.log(49)  # 0 at 32x32, 1 at 224x224
    return AscentSettings(30 * (40 / 30) ** power, 0.5 * 2**power, shrink=4 if min(height, width) > 64 else 1)


def sample_seeds(x: Tensor, draws: PerImageRng, shrink: int = 1) -> Tensor:
    """Seed images (B, C, H, W) from a normal distribution fitted to images x (n, C, H, W) in [0, 1] of one class.

    Its covariance is that of the images plus 1e-4 times the identity. A sample is a random combination of the images'
    deviations from their mean plus noise, which has exactly that covariance for any n. The fit is at the size reduced
    by average pooling over `shrink` pixels; seeds are upsampled bilinearly and clamped to [0, 1].
    """
    height, width = x.shape[-2:]
    if shrink > 1:
        x = F.avg_pool2d(x, shrink, ceil_mode=True)
    flat = x.flatten(1)
    mean = flat.mean(0)
    weights = draws.normal(len(x)).to(x) / math.sqrt(max(1, len(x) - 1))
    noise = draws.normal(flat.shape[1]).to(x)
    seeds = (mean + weights @ (flat - mean) + math.sqrt(RIDGE) * noise).view(-1, *x.shape[1:])
    if shrink > 1:
        seeds = F.interpolate(seeds, (height, width), mode="bilinear", align_corners=False)
    return seeds.clamp(0, 1)


def generate(model: nn.Module, seeds: Tensor, y: Tensor, settings: AscentSettings) -> Tensor:
    """Move seeds towards classes y by descent on the cross-entropy in an L2 ball and [0, 1]. Returns (B, C, H, W).

    The net is in evaluation mode during the call. Returns the last iterate.
    """
    images, eps, step, steps = [], settings.eps, settings.step, settings.steps
    with frozen(model):
        for part, label in zip(seeds.split(CHUNK), y.split(CHUNK), strict=True):
            likelihood = _likelihood(model, label)
            images.append(ascend(likelihood, part, eps=eps, step=step, steps=steps, start="none", norm="l2"))
    return torch.cat(images)


def _likelihood(model: nn.Module, y: Tensor) -> Callable[[Tensor], Tensor]:
    """Log-probability of the class per image."""
    loss = cross_entropy(model, y)
    return lambda z: -loss(z)


def samples(
    model: nn.Module,
    train: Split,
    classes: Sequence[int],
    per_class: int,
    *,
    seed: int = 0,
    settings: AscentSettings | None = None,
) -> Tensor:
    """Synthesise images (R, P, C, H, W) in [0, 1]: `per_class` for each of R classes, from seeds of `class_seeds`.

    settings: by default `default_settings`. An image depends only on its class, its number and `seed`. The model and
    the training images must be on one device. Raises `UserError` for a class without images.
    """
    settings = settings or default_settings(*train.shape)
    seeds = torch.cat([class_seeds(train, c, per_class, seed=seed, shrink=settings.shrink) for c in classes])
    y = torch.tensor(list(classes), device=seeds.device).repeat_interleave(per_class)
    return generate(model, seeds, y, settings).unflatten(0, (len(classes), per_class))


def class_seeds(train: Split, of: int, count: int, *, seed: int = 0, shrink: int = 1) -> Tensor:
    """Seed images (count, C, H, W) of class `of`. Raises `UserError` for a class without training images."""
    images = train.x[train.y == of]
    if not len(images):
        raise UserError(
            f"class {of} has no training images; classes with images: {_class_range(train.y.unique().tolist())}"
        )
    streams = torch.tensor([derive_seed(seed, "seed image", of, i) for i in range(count)], device=images.device)
    return sample_seeds(images.float().div(255), PerImageRng(streams), shrink)


def _class_range(classes: list[int]) -> str:
    return f"{classes[0]} to {classes[-1]}" if len(classes) > 2 else " and ".join(map(str, classes))


def grid(images: Tensor, *, height: int = 64, gap: int = 2) -> bytes:
    """PNG file of an image grid: images (R, P, C, H, W) in [0, 1], R rows of P columns, C 1 or 3.

    Small images are upscaled by an integer factor to at least `height` pixels; gaps are white.
    """
    from PIL import Image

    factor = max(1, math.ceil(height / images.shape[-2]))
    pixels = (images.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    if pixels.shape[2] == 1:
        pixels = pixels.expand(-1, -1, 3, -1, -1)
    tiles = pixels.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
    tiles = F.pad(tiles, (gap, 0, gap, 0), value=255)
    rows, columns, channels, tile_height, tile_width = tiles.shape
    sheet = tiles.permute(0, 3, 1, 4, 2).reshape(rows * tile_height, columns * tile_width, channels)
    sheet = F.pad(sheet, (0, 0, 0, gap, 0, gap), value=255)
    file = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(file, format="PNG")
    return file.getvalue()
