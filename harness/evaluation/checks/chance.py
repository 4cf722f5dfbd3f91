"""Check of a net's accuracy: below chance, or such as other pixel values or another order of its classes explain."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor

from harness.evaluation.checks.common import (
    ALPHA,
    is_correct,
    logits_of,
    make_check,
    percent_of,
    share_of,
    sign_test,
)
from harness.evaluation.checks.evidence import Check, Evidence


def chance(evidence: Evidence) -> Check:
    """Is accuracy at least chance, and not far higher with pixels of 0 to 255 or with the classes in another order?

    The order is chosen on one half of the images and applied to the other half, and the reverse, on images whose output
    the first half has, so that it is not fitted to what it explains. Fails if one of the two at least halves the error,
    both of the net as it is and of guessing (sign test); and if accuracy is below chance, one in the number of classes.
    (An untrained net may gain too by the order that fits it best: up to 40 % instead of 10 % on the digits.)
    """
    out = logits_of(evidence.model, evidence.x)
    as_given, (n, classes) = out.argmax(1) == evidence.y, out.shape
    scaled = is_correct(evidence, 255 * evidence.x)
    reordered, tried = _reordered(out.argmax(1), evidence.y, classes)
    explained = [
        f"the net seems made for {name}"
        for name, better, worse in (
            ("pixels of 0 to 255", scaled, as_given),
            ("another order of the classes", reordered[tried], as_given[tried]),
        )
        if _explains(better, worse, 1 / classes)
    ]
    below = binomtest(int(as_given.sum()), n, 1 / classes, "less").pvalue < ALPHA
    numbers = {"accuracy": share_of(as_given), "chance": 1 / classes, "n": float(n), "scaled": share_of(scaled)}
    numbers |= {"reordered": share_of(reordered[tried]), "n_reordered": float(tried.sum())}
    facts = (
        f"{percent_of(as_given)} of {n} images right, {percent_of(scaled)} with pixels of 0 to 255,"
        f" {percent_of(reordered[tried])} of {int(tried.sum())} with another order of the classes; chance is"
        f" {1 / classes:.1%}"
    )
    problem = (explained or ["accuracy is below chance, and neither explains it"])[0]
    return make_check("chance", not explained and not below, numbers, facts, problem)


def _explains(better: Tensor, as_given: Tensor, by_chance: float) -> bool:
    if not len(better):
        return False
    p = sign_test(int((better & ~as_given).sum()), int((as_given & ~better).sum()))
    return p < ALPHA / 2 and 1 - share_of(better) <= (1 - max(share_of(as_given), by_chance)) / 2


def _reordered(predicted: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Whether each image (B,) is right by the order that fits the other half best, if that has its output: tried."""
    right, tried = (torch.zeros(len(y), dtype=torch.bool, device=y.device) for _ in range(2))
    even = torch.arange(len(y), device=y.device) % 2 == 0
    for half in (even, ~even):
        order = torch.from_numpy(_best_order(predicted[half], y[half], classes)).to(y.device)
        right[~half] = order[predicted[~half]] == y[~half]
        tried[~half] = torch.isin(predicted[~half], predicted[half])
    return right, tried


def _best_order(predicted: Tensor, y: Tensor, classes: int) -> np.ndarray:
    """The class (K,) that each output stands for, one to one, so that most images are right."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (predicted.cpu().numpy(), y.cpu().numpy()), 1)
    return linear_sum_assignment(counts, maximize=True)[1]
