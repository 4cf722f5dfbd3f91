"""Names of the common corruptions in the order of the benchmark, and the sets that papers average over.

Without torch, for reports. `registry` finds the function of each name.
"""

from dataclasses import dataclass
from typing import Literal

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Facts:
    """published: one of the `standard` fifteen or the four `extra`; else of no mean. random: whether it has draws."""

    published: Literal["standard", "extra"] | None = None
    random: bool = True


FACTS: dict[str, Facts] = {
    "gaussian_noise": Facts("standard"),
    "shot_noise": Facts("standard"),
    "impulse_noise": Facts("standard"),
    "defocus_blur": Facts("standard", random=False),
    "glass_blur": Facts("standard"),
    "motion_blur": Facts("standard"),
    "zoom_blur": Facts("standard", random=False),
    "snow": Facts("standard"),
    "frost": Facts("standard"),
    "fog": Facts("standard"),
    "brightness": Facts("standard", random=False),
    "contrast": Facts("standard", random=False),
    "elastic_transform": Facts("standard"),
    "pixelate": Facts("standard", random=False),
    "jpeg_compression": Facts("standard", random=False),
    "speckle_noise": Facts("extra"),
    "gaussian_blur": Facts("extra", random=False),
    "spatter": Facts("extra"),
    "saturate": Facts("extra", random=False),
}
NAMES = tuple(FACTS)
STANDARD = tuple(name for name, facts in FACTS.items() if facts.published == "standard")
EXTRA = tuple(name for name, facts in FACTS.items() if facts.published == "extra")
# The fifteen of Singh et al. (2020): speckle noise replaces frost.
ART = (*(name for name in STANDARD if name != "frost"), "speckle_noise")
