"""The common corruptions of Hendrycks & Dietterich (ICLR 2019) by name, with CIFAR-10-C's parameters.

    corruption(x, severity, draws) -> x'      x (B, C, H, W) in [0, 1], C 1 or 3; severity 1..5; x' of the same shape

As in the published files, the input is rounded to 8-bit levels and the result is on 8-bit levels: `x' * 255` is whole.
Results are truncated, not rounded, except for pixelate and JPEG, which Pillow computes.

Other sizes: lengths in pixels (blurs, shifts, flakes, blocks) scale with the shorter side above 32, so that a severity
looks similar at all sizes, and stay as published below 32. The elastic transform always scales with the side, noise is
per pixel, and JPEG has blocks of eight. The parameters differ from those of ImageNet-C and Tiny-ImageNet-C. Grey
images: overlaid colours (frost, mud) become their luma; `saturate` changes nothing.

The published frost photographs are not included: five seeded textures of the same mean colour and contrast replace
them. Their high frequencies are fitted at severity 5 alone, see `textures`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from harness.data.corruptions import blur, digital, noise, weather
from harness.data.corruptions.names import FACTS, SEVERITIES
from harness.errors import UserError
from harness.plugins import Thing
from harness.plugins.registry import Registry
from harness.randomness import PerImageRng


@dataclass(frozen=True)
class Corruption:
    """apply(x, severity, draws) -> x'. random: whether it depends on the draws."""

    apply: Callable[[Tensor, int, PerImageRng], Tensor]
    random: bool = True


def corrupt(name: str, x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Apply corruption `name`. Raises `UserError` for an unknown name, a severity not in 1..5, or a bad shape of x."""
    corruption = CORRUPTIONS.find(name)
    if severity not in SEVERITIES:
        raise UserError(f"a corruption's severity is 1, 2, 3, 4 or 5, not {severity!r}")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise UserError(f"corruptions need images of 1 or 3 channels, (B, C, H, W), not {tuple(x.shape)}")
    return corruption.apply(x, severity, draws)


_FUNCTIONS = {**vars(noise), **vars(blur), **vars(weather), **vars(digital)}
_OWN = {name: Corruption(_FUNCTIONS[name], facts.random) for name, facts in FACTS.items()}


def _check(thing: Thing) -> Corruption:
    """A plug-in's corruption: a `Corruption`, or a function (x, severity, draws) -> x'."""
    if isinstance(thing, Corruption):
        return thing
    if not callable(thing):
        raise UserError("a corruption is a function (x, severity, draws) -> x'")
    return Corruption(thing)


CORRUPTIONS: Registry[Corruption] = Registry("corruption", "corruptions", _OWN, _check)
