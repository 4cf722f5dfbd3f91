"""Base settings of the attribution spaces: normalised input; IN and K on 64 images, besides accuracy."""

from methods import Setting

BASE: dict[str, Setting] = {
    "normalise": True,
    "measure.suites": "standard,attribution",
    "attribution.images": 64,
    "attribution.restarts": 1,
}
