"""Images that a robust classifier draws: from a blurred guess of a class, up the gradient of its logits.

Santurkar et al., "Image Synthesis with a Single (Robust) Classifier" (NeurIPS 2019): fit a normal distribution to the
training images of a class, draw a seed from it, and move that within an L2 ball towards what the net takes for the
class. What a net that is not robust makes of it looks like noise.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import ascend, cross_entropy, frozen
from harness.datasets import Split
from harness.errors import Mistake
from harness.randomness import Draws, derive

RIDGE = 1e-4  # variance added to every value's
CHUNK = 128


@dataclass(frozen=True)
class Walk:
    """How far and how fast a seed may move, in L2 norms of images in [0, 1], and by what factor it is drawn smaller."""

    eps: float = 30.0
    step: float = 0.5
    steps: int = 60
    shrink: int = 1


def walk(channels: int, height: int, width: int) -> Walk:
    """The walk for images of this size.

    Published are eps 30, step 0.5 for 32x32 in colour and eps 40, step 1, seeds drawn at a quarter of the size, for
    224x224, each with 60 steps. Between and beyond, eps and step are powers of the number of values through these two
    points; below 32x32 they shrink with its root, as the diagonal of [0, 1] does, of which eps stays 54 %.
    """
    ratio = channels * height * width / (3 * 32 * 32)
    if ratio <= 1:
        return Walk(30 * math.sqrt(ratio), 0.5 * math.sqrt(ratio))
    power = math.log(ratio) / math.log(49)  # 0 at 32x32, 1 at 224x224
    return Walk(30 * (40 / 30) ** power, 0.5 * 2**power, shrink=4 if min(height, width) > 64 else 1)


def drawn(x: Tensor, draws: Draws, shrink: int = 1) -> Tensor:
    """Seeds from the normal distribution fitted to images x (n, C, H, W) in [0, 1] of one class. (B, C, H, W)

    Its covariance is that of the images plus 1e-4 times the identity; sampled is a random mixture of the images'
    deviations from their mean plus noise, which has exactly that covariance, for however few images. Fitted to images
    averaged over squares of `shrink` pixels, and enlarged linearly; cut to [0, 1].
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


def generated(model: nn.Module, seeds: Tensor, y: Tensor, settings: Walk) -> Tensor:
    """The seeds moved towards their classes y: descent on the cross-entropy in an L2 ball and [0, 1]. (B, C, H, W)

    The net is in evaluation mode within. Returned is the last image of the walk.
    """
    images = []
    with frozen(model):
        for part, label in zip(seeds.split(CHUNK), y.split(CHUNK), strict=True):
            loss = cross_entropy(model, label)
            ball = {"eps": settings.eps, "step": settings.step, "steps": settings.steps, "norm": "l2"}
            images.append(ascend(lambda z, loss=loss: -loss(z), part, start="none", **ball))
    return torch.cat(images)


def samples(
    model: nn.Module,
    train: Split,
    classes: Sequence[int],
    per_class: int,
    *,
    seed: int = 0,
    settings: Walk | None = None,
) -> Tensor:
    """Images of these classes that the net draws, from seeds fitted to the training images. (R, P, C, H, W) in [0, 1]

    settings: by default those of `walk`. An image depends on its class, its number and `seed`, not on what else is
    drawn. The model and the training images must lie on one device. Raises `Mistake` for a class without images.
    """
    settings = settings or walk(*train.x.shape[1:])
    seeds = torch.cat([class_seeds(train, c, per_class, seed=seed, shrink=settings.shrink) for c in classes])
    y = torch.tensor(list(classes), device=seeds.device).repeat_interleave(per_class)
    return generated(model, seeds, y, settings).unflatten(0, (len(classes), per_class))


def class_seeds(train: Split, of: int, count: int, *, seed: int = 0, shrink: int = 1) -> Tensor:
    """So many seeds of one class, (count, C, H, W). Raises `Mistake` for a class without training images."""
    mine = train.x[train.y == of]
    if not len(mine):
        raise Mistake(f"class {of} has no training images; there are some of {_spoken(train.y.unique().tolist())}")
    streams = torch.tensor([derive(seed, "seed image", of, i) for i in range(count)], device=mine.device)
    return drawn(mine.float().div(255), Draws(streams), shrink)


def _spoken(classes: list[int]) -> str:
    return f"{classes[0]} to {classes[-1]}" if len(classes) > 2 else " and ".join(map(str, classes))


def grid(images: Tensor, *, height: int = 64, gap: int = 2) -> bytes:
    """Images (R, P, C, H, W) in [0, 1] as the bytes of a PNG file: a row for each of the first axis, such as a class.

    C is 1 or 3. Small images are enlarged by a whole factor to at least `height` pixels; gaps are white.
    """
    from PIL import Image

    factor = max(1, math.ceil(height / images.shape[-2]))
    pixels = (images.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    if pixels.shape[2] == 1:
        pixels = pixels.expand(-1, -1, 3, -1, -1)
    tiles = pixels.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
    tiles = F.pad(tiles, (gap, 0, gap, 0), value=255)
    rows, columns, channels, high, wide = tiles.shape
    sheet = tiles.permute(0, 3, 1, 4, 2).reshape(rows * high, columns * wide, channels)
    sheet = F.pad(sheet, (0, 0, 0, gap, 0, gap), value=255)
    file = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(file, format="PNG")
    return file.getvalue()
