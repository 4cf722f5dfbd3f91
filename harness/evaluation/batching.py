"""Evaluation batches in [0, 1], sized to the device, and one seed per image."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harness.data.batches import Batch
from harness.data.datasets import Split
from harness.randomness import PerImageRng

# Pixels per batch, which bounds the memory: 256 images of 32 x 32 on a CPU. Out of memory, the batch is halved.
PIXELS = {"cpu": 256 * 32 * 32, "cuda": 2048 * 32 * 32}
IMAGES = 256  # most per batch on a CPU


def image_seeds(split: Split) -> Tensor:
    """One seed per image (N,), a hash of its bytes: random numbers do not depend on its position in the split."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in split.x.cpu().numpy()]
    words = np.frombuffer(b"".join(digests), "<u8") >> np.uint64(1)
    return torch.from_numpy(words.astype(np.int64)).to(split.x.device)


def chunk_size(x: Tensor) -> int:
    """Batch size for images like x (N, C, H, W) on its device."""
    fit = PIXELS.get(x.device.type, PIXELS["cuda"]) // (x.shape[-2] * x.shape[-1])
    return max(1, min(fit, IMAGES) if x.device.type == "cpu" else fit)


def to_batch(split: Split, draws: PerImageRng | None = None) -> Batch:
    """A split as one float32 batch in [0, 1], with its boxes and masks."""
    x = split.x.to(memory_format=torch.channels_last).float().div_(255)
    return Batch(x, split.y, draws=draws, boxes=split.boxes, masks=split.masks)


def to_batches(split: Split) -> Iterator[Batch]:
    """The split in order, as batches of `chunk_size` images."""
    size = chunk_size(split.x)
    for first in range(0, len(split), size):
        yield to_batch(split.at(slice(first, first + size)))
