"""Estimated cost of evaluating a trial, in forward-backward passes of images."""

from harness.evaluation import suites
from harness.evaluation.measurements import EvaluationContext, Items, Measurement


def image_passes(context: EvaluationContext, epochs: int, val: int, test: int) -> dict[str, int]:
    """Forward-backward passes of images: `curve` during training, `val` during and after it, `test` on test images."""
    measure = context.measure
    watched = min(val, measure.images or val) * -(-epochs // measure.watch)
    measured = suites.combined(measure.suites)(context)
    curve = passes(suites.robust_suite(context), watched)
    return {"curve": curve, "val": curve + passes(measured, val), "test": passes(measured, test)}


def passes(items: Items, images: int) -> int:
    """Passes of measurements on so many images; attributions of fewer, if they are sampled."""
    measured = [item for item in items.values() if isinstance(item, Measurement)]
    return sum(item.passes * min(images, item.images or images) for item in measured)
