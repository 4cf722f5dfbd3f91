"""The common corruptions of Hendrycks & Dietterich (ICLR 2019) by name, with CIFAR-10-C's parameters.

    corruption(x, severity, draws) -> x'      x (B, C, H, W) in [0, 1], C 1 or 3; severity 1..5; x' of the same shape

As in the published files, the input is rounded to 8-bit levels and the result is on 8-bit levels: `x' * 255` is whole.
Results are truncated, not rounded, except for pixelate and JPEG, which Pillow computes.

Other sizes: lengths in pixels (blurs, shifts, flakes, blocks) scale with the shorter side above 32, so that a severity
looks similar at all sizes, and stay as published below 32. The elastic transform always scales with the side, noise is
per pixel, and JPEG has blocks of eight. The parameters differ from those of ImageNet-C and Tiny-ImageNet-C. Grey
images: overlaid colours (frost, mud) become their luma; `saturate` changes nothing.

The published frost photographs are not included: five seeded textures of the same mean colour, contrast and
smoothness replace them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.data.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from harness.data.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate, saturate
from harness.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from harness.data.corruptions.weather import brightness, fog, frost, snow, spatter
from harness.errors import UserError, unknown_name
from harness.randomness import PerImageRng

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """apply(x, severity, draws) -> x'. published: one of the `standard` fifteen or the four `extra`; else of no mean.

    random: whether it depends on the draws.
    """

    apply: Callable[[Tensor, int, PerImageRng], Tensor]
    published: Literal["standard", "extra"] | None = None
    random: bool = True


def corrupt(name: str, x: Tensor, severity: int, draws: PerImageRng) -> Tensor:
    """Apply corruption `name`. Raises `UserError` for an unknown name, a severity not in 1..5, or a bad shape of x."""
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise UserError(f"a corruption's severity is 1, 2, 3, 4 or 5, not {severity!r}")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise UserError(f"corruptions need images of 1 or 3 channels, (B, C, H, W), not {tuple(x.shape)}")
    return CORRUPTIONS[name].apply(x, severity, draws)


# Names

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, "standard"),
    "shot_noise": Corruption(shot_noise, "standard"),
    "impulse_noise": Corruption(impulse_noise, "standard"),
    "defocus_blur": Corruption(defocus_blur, "standard", random=False),
    "glass_blur": Corruption(glass_blur, "standard"),
    "motion_blur": Corruption(motion_blur, "standard"),
    "zoom_blur": Corruption(zoom_blur, "standard", random=False),
    "snow": Corruption(snow, "standard"),
    "frost": Corruption(frost, "standard"),
    "fog": Corruption(fog, "standard"),
    "brightness": Corruption(brightness, "standard", random=False),
    "contrast": Corruption(contrast, "standard", random=False),
    "elastic_transform": Corruption(elastic_transform, "standard"),
    "pixelate": Corruption(pixelate, "standard", random=False),
    "jpeg_compression": Corruption(jpeg_compression, "standard", random=False),
    "speckle_noise": Corruption(speckle_noise, "extra"),
    "gaussian_blur": Corruption(gaussian_blur, "extra", random=False),
    "spatter": Corruption(spatter, "extra"),
    "saturate": Corruption(saturate, "extra", random=False),
}
STANDARD, EXTRA = (
    tuple(name for name, corruption in CORRUPTIONS.items() if corruption.published == group)
    for group in ("standard", "extra")
)
# The fifteen of Singh et al. (2020): speckle noise replaces frost.
ART = (*(name for name in STANDARD if name != "frost"), "speckle_noise")
