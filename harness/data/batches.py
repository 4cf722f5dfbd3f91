"""Mini-batches for training methods: shuffled, augmented and scaled from uint8 tensors on the device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.data.augment import apply, draw
from harness.data.settings import Augment
from harness.randomness import PerImageRng

MAP_UNIT = 127  # maps are stored as int8; this value represents 1.0


@dataclass(frozen=True)
class Batch:
    """x (B, C, H, W) in [0, 1]; y (B,) labels; s (B, C or 1, H, W) map in [-1, 1], or None.

    epoch is fractional and counts from 0: 2.5 is the middle of the third of `epochs`. Set in evaluation only: draws,
    the per-image random generators, and boxes and masks if the data has them (as in `datasets.Split`).
    """

    x: Tensor
    y: Tensor
    s: Tensor | None = None
    epoch: float = 0.0
    epochs: int = 1
    draws: PerImageRng | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Batches:
    """The training images and their maps, reshuffled each epoch by the global generator.

    x (N, C, H, W) uint8 and y (N,) int64 on the device. maps: none; or int8 tensors (N, C or 1, H, W),
    one of which is picked at random each epoch; or a function (x, y) -> s that explains the augmented batch.
    crop: side of the random square crops of image and map (0: whole images).
    """

    x: Tensor
    y: Tensor
    maps: tuple[Tensor | Callable[[Tensor, Tensor], Tensor], ...] = ()
    batch: int = 128
    augment: Augment = field(default_factory=Augment)
    crop: int = 0

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch)

    def epoch(self, epoch: int, epochs: int) -> Iterator[Batch]:
        """The batches of one epoch. A last batch of one image is skipped: batch statistics need two."""
        device, (height, width) = self.x.device, self.x.shape[-2:]
        order = torch.randperm(len(self.x), device=device)
        maps = self.maps[int(torch.randint(len(self.maps), ()))] if self.maps else None
        for i, index in enumerate(order.split(self.batch)):
            if len(index) < 2:
                continue
            crops = draw(self.augment, len(index), height, width, device, self.crop)
            x = apply(self.augment, crops, self.x[index]).float().div_(255)
            y = self.y[index]
            if maps is None:
                s = None
            elif callable(maps):
                s = maps(x, y)
            else:
                s = apply(self.augment, crops, maps[index]).float().div_(MAP_UNIT)
            yield Batch(x, y, s, epoch + i / len(self), epochs)
