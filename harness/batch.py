"""What a training method sees: one mini-batch, cut from data that lies on the device as bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness import augment as augmentation
from harness.config import Augment
from harness.randomness import Draws

MAP_UNIT = 127  # maps are kept as int8; this value stands for 1.0


@dataclass(frozen=True)
class Batch:
    """x (B, C, H, W) in [0, 1]; y (B,) labels; s (B, C or 1, H, W) map in [-1, 1], or None.

    epoch counts from 0 and grows within the epoch: 2.5 is the middle of the third of `epochs`. Of an evaluation: draws,
    the images' own random numbers, and their boxes and masks where the data has them (as in `datasets.Split`).
    """

    x: Tensor
    y: Tensor
    s: Tensor | None = None
    epoch: float = 0.0
    epochs: int = 1
    draws: Draws | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Batches:
    """The training images, and the maps that belong to them, shuffled anew each epoch by the global generator.

    x (N, C, H, W) uint8 and y (N,) int64 on the device. maps: none; or one or two int8 tensors (N, C or 1, H, W), of
    which a coin takes one each epoch; or a function (x, y) -> s that explains the augmented batch.
    crop: side of the random squares that are cut out of image and map (0: whole images).
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
        """The batches of one epoch. A last batch of a single image is left out: batch statistics need two."""
        device = self.x.device
        order = torch.randperm(len(self.x), device=device)
        maps = self.maps[int(torch.randint(len(self.maps), ()))] if self.maps else None
        for i, index in enumerate(order.split(self.batch)):
            if len(index) < 2:
                continue
            drawn = augmentation.draw(self.augment, len(index), *self.x.shape[-2:], device, self.crop)
            x = augmentation.apply(self.augment, drawn, self.x[index]).float().div_(255)
            y = self.y[index]
            if maps is None:
                s = None
            elif callable(maps):
                s = maps(x, y)
            else:
                s = augmentation.apply(self.augment, drawn, maps[index]).float().div_(MAP_UNIT)
            yield Batch(x, y, s, epoch + i / len(self), epochs)
