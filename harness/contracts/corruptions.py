"""What every corruption promises."""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contracts.promise import Promise, require, require_close
from harness.data.corruptions.registry import CORRUPTIONS, corrupt
from harness.randomness import PerImageRng


def draws(n: int, first: int = 0) -> PerImageRng:
    """The random numbers of n images."""
    return PerImageRng(torch.arange(first, first + n))


def photos(n: int = 6, channels: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Smooth random images with 8-bit levels."""
    x = torch.rand(n, channels, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(x, (height, width), mode="bilinear") * 255).round() / 255


def it_gives_levels_of_8_bits_at_any_size_and_leaves_the_input(name: str) -> None:
    for channels, height, width in ((1, 8, 8), (3, 28, 28), (3, 64, 64), (1, 32, 32), (3, 40, 48), (3, 8, 120)):
        x = photos(2, channels, height, width)
        before = x.clone()
        for severity in (1, 5):
            z = corrupt(name, x, severity, draws(2))
            require(
                z.shape == x.shape and z.dtype == torch.float32, f"{name}: turns {x.shape} into {z.dtype} {z.shape}"
            )
            require(bool(z.min() >= 0 and z.max() <= 1), f"{name}: leaves [0, 1]")
            says = f"{name}: end with `filters.truncated`, as values must be on 8-bit levels"
            require_close(z, (z * 255).round() / 255, says, rtol=0, atol=0)
        require(torch.equal(x, before), f"{name}: changes its input")


def it_changes_large_images(name: str) -> None:
    x = photos(1, 3, 224, 224)
    z = corrupt(name, x, 3, draws(1))
    require(z.shape == x.shape and not torch.equal(z, x), f"{name}: changes nothing")


def it_gives_an_image_the_same_in_any_batch_order_and_memory_format(name: str) -> None:
    x, seeds = photos(5), torch.arange(5)
    whole = corrupt(name, x, 4, PerImageRng(seeds))
    order = torch.tensor([3, 0, 4])
    says = f"{name}: depends on the batch; draw from `draws`, and reduce over an image at a time"
    require(torch.equal(corrupt(name, x[order], 4, PerImageRng(seeds[order])), whole[order]), says)
    last = x.to(memory_format=torch.channels_last)
    require(torch.equal(corrupt(name, last, 4, PerImageRng(seeds)), whole), f"{name}: depends on the memory format")


def it_is_random_if_it_says_so_and_the_same_for_the_same_seeds(name: str) -> None:
    x = photos(1).repeat(2, 1, 1, 1)
    z = corrupt(name, x, 5, draws(2))
    differs, random = not torch.equal(z[0], z[1]), CORRUPTIONS[name].random
    require(torch.equal(z, corrupt(name, x, 5, draws(2))), f"{name}: draw from `draws` only")
    require(differs == random, f"{name}: declares `random={random}`, but equal images become {'un' * differs}equal")


CONTRACT: tuple[Promise, ...] = (
    it_gives_levels_of_8_bits_at_any_size_and_leaves_the_input,
    it_changes_large_images,
    it_gives_an_image_the_same_in_any_batch_order_and_memory_format,
    it_is_random_if_it_says_so_and_the_same_for_the_same_seeds,
)
