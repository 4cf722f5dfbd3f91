"""Estimated cost of evaluating a trial, in forward-backward passes of images."""

from harness.evaluation import suites
from harness.evaluation.measurements import EvaluationContext, Items, Measurement


def image_passes(context: EvaluationContext, epochs: int, val: int, test: int) -> dict[str, int]:
    """Forward-backward passes of images: `curve` during training, `val` during and after it, `test` on test images.

    What the last validation of the training measures on all validation images is not measured again after it.
    """
    measure = context.measure
    watched = min(val, measure.images or val)
    measured, curve = suites.combined(measure.suites)(context), suites.robust_suite(context)
    known = {key: item.protocol for key, item in curve.items() if watched == val and isinstance(item, Measurement)}
    after: Items = {
        key: of for key, of in measured.items() if isinstance(of, Measurement) and known.get(key) != of.protocol
    }
    during = passes(curve, watched * -(-epochs // measure.watch))
    return {"curve": during, "val": during + passes(after, val), "test": passes(measured, test)}


def passes(items: Items, images: int) -> int:
    """Passes of measurements on so many images; attributions of fewer, if they are sampled."""
    measured = [item for item in items.values() if isinstance(item, Measurement)]
    return sum(item.passes * min(images, item.images or images) for item in measured)
