"""Check of a net whose accuracy is at or below chance: other pixel values, or classes in another order, explain it."""

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
    more_than,
    percent_of,
    share_of,
    sign_test,
)
from harness.evaluation.checks.evidence import Check, Evidence


def chance(evidence: Evidence) -> Check:
    """Is accuracy above chance, and would it not be far higher with other pixel values or another order of classes?

    Two hypotheses are tested: the net was made for pixels of 0 to 255, or its classes are the data's in another order.
    The order is chosen on one half of the images and applied to the other half, and the reverse, so that a random net
    is not explained by it. Fails if a hypothesis explains the labels: it does better than chance, and than the net as
    it is (sign test), whose error it halves unless that is no better than chance. Fails also if accuracy is below
    chance, which is one in the number of classes.
    """
    out = logits_of(evidence.model, evidence.x)
    as_given, (n, classes) = out.argmax(1) == evidence.y, out.shape
    guesses = {
        "pixels of 0 to 255": is_correct(evidence, 255 * evidence.x),
        "another order of the classes": _reordered(out, evidence.y),
    }
    below = binomtest(int(as_given.sum()), n, 1 / classes, "less").pvalue < ALPHA
    explained = [name for name, guess in guesses.items() if _explains(guess, as_given, 1 / classes)]
    numbers = {"accuracy": share_of(as_given), "chance": 1 / classes, "n": float(n)}
    numbers |= {"scaled": share_of(guesses["pixels of 0 to 255"])}
    numbers |= {"reordered": share_of(guesses["another order of the classes"])}
    facts = f"{percent_of(as_given)} of {n} images right, by chance {1 / classes:.1%}; " + ", ".join(
        f"{percent_of(guess)} with {name}" for name, guess in guesses.items()
    )
    problem = (
        f"the net seems made for {explained[0]}" if explained else "accuracy is below chance, and neither explains it"
    )
    return make_check("chance", not explained and not below, numbers, facts, problem)


def _explains(guess: Tensor, as_given: Tensor, by_chance: float) -> bool:
    p = sign_test(int((guess & ~as_given).sum()), int((as_given & ~guess).sum()))
    enough = 1 - share_of(guess) <= (1 - share_of(as_given)) / 2 or not _above(as_given, by_chance)
    return p < ALPHA / 2 and enough and _above(guess, by_chance)


def _above(right: Tensor, by_chance: float) -> bool:
    return more_than(by_chance, int(right.sum()), len(right))


def _reordered(out: Tensor, y: Tensor) -> Tensor:
    """Whether each image (B,) is right by the order of classes that fits the other half of the images best."""
    right = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    even = torch.arange(len(y), device=y.device) % 2 == 0
    predicted = out.argmax(1)
    for half in (even, ~even):
        order = torch.from_numpy(_best_order(predicted[half], y[half], out.shape[1])).to(y.device)
        right[~half] = order[predicted[~half]] == y[~half]
    return right


def _best_order(predicted: Tensor, y: Tensor, classes: int) -> np.ndarray:
    """The class (K,) that each output stands for, one to one, so that most images are right."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (predicted.cpu().numpy(), y.cpu().numpy()), 1)
    return linear_sum_assignment(counts, maximize=True)[1]
