"""Estimated cost of evaluating a trial, in forward-backward passes of images."""

from harness.evaluation import attribution_protocols
from harness.evaluation.settings import Attribution, Measure


def image_passes(measure: Measure, attribution: Attribution, epochs: int, val: int, test: int) -> dict[str, int]:
    """Forward-backward passes of images: `val` during and after training, `test` on the test images."""
    robust = 1 + len(measure.eps) * measure.restarts * (measure.steps + 1)
    standard = robust + 2 * len(measure.eps) if "standard" in measure.suites else 0
    watched = min(val, measure.images or val) * -(-epochs // measure.watch)
    per_image = sum(attribution_protocols.attack_passes(name, attribution) for name in measure.suites)
    attacked = {part: min(n, attribution.images or n) * per_image for part, n in (("val", val), ("test", test))}
    return {
        "val": watched * robust + val * standard + attacked["val"],
        "test": test * standard + attacked["test"],
    }
