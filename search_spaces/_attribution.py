"""What the studies of attributions fix alike: normalised input, and IN and K on few images, beside accuracy."""

BASE = {
    "normalise": True,
    "measure.suites": "standard,attribution",
    "attribution.images": 64,
    "attribution.restarts": 1,
}
