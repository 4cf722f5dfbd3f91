"""A suite of one measurement: how sure the net is of the label."""

import torch
from torch import Tensor, nn

from harness.data.batches import Batch
from harness.evaluation.measurements import EvaluationContext, Items, Measurement
from harness.evaluation.metrics import SHARE, Metric
from harness.evaluation.suites import Suite


def confidence(model: nn.Module, batch: Batch) -> Tensor:
    """Softmax probability of the label (B,)."""
    with torch.no_grad():
        return model(batch.x).softmax(1).gather(1, batch.y[:, None])[:, 0]


def confidence_suite(context: EvaluationContext) -> Items:
    """The mean confidence on clean images."""
    return {"confidence": Measurement(confidence, {"of": "softmax"})}


SUITE = Suite("confidence", confidence_suite, metrics={"confidence": Metric("Confidence", "other", SHARE, "higher")})
