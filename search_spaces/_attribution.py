"""Base settings of the attribution spaces: normalised input; IN and K on 64 images, besides accuracy."""

BASE = {
    "normalise": True,
    "measure.suites": "standard,attribution",
    "attribution.images": 64,
    "attribution.restarts": 1,
}
