"""Shared helpers of the checks: paired sign tests, tolerances, and construction of `Check` results."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import pgd
from harness.evaluation.checks.attack_names import correct_under_gradients
from harness.evaluation.checks.evidence import Check, Evidence

ALPHA = 0.001  # significance level of tests over paired images
MAX_FLIPPED = 0.01  # share of images whose prediction may differ by rounding: at the decision boundary
MAX_BROKEN_ALONE = 0.05  # share of images that only another attack may break: PGD may end in a local maximum


# Predictions


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).float()


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest L2 distance between rows of a and b, relative to the norm of b's row."""
    return float(((a - b).norm(dim=1) / (b.norm(dim=1) + 1e-10)).max())


def has_finite_logits(evidence: Evidence) -> Tensor:
    """Which of x (B,) have no NaN or infinite logit."""
    return logits_of(evidence.model, evidence.x).isfinite().all(1)


def is_correct(evidence: Evidence, z: Tensor) -> Tensor:
    """Whether z (N <= B) is classified as the first labels, by finite logits, as accuracy is measured."""
    out = logits_of(evidence.model, z)
    return (out.argmax(1) == evidence.y[: len(z)]) & out.isfinite().all(1)


def margin_of(out: Tensor, y: Tensor) -> Tensor:
    """Logit margin (B,): the label's logit minus the largest other one."""
    label = F.one_hot(y, out.shape[1]).bool()
    return out[label] - out.masked_fill(label, -torch.inf).amax(1)


def values_of_x(evidence: Evidence, values: np.ndarray) -> np.ndarray:
    return values[: len(evidence.x)] if evidence.index is None else values[evidence.index]


def correct_as_measured(evidence: Evidence) -> Tensor:
    """Whether x is correct (B,) under the measured gradient attacks within eps; under PGD if there is no such score."""
    values, _ = correct_under_gradients(evidence.scores, "linf", 255 * evidence.eps)
    if values is not None and not np.isnan(values := values_of_x(evidence, values)).any():
        return torch.from_numpy(values > 0.5).to(evidence.x.device)
    z = pgd_from_draws(evidence, evidence.model, "measured", evidence.step, evidence.steps)
    return is_correct(evidence, evidence.x) & is_correct(evidence, z)


def pgd_from_draws(evidence: Evidence, model: nn.Module, stream: str, step: float, steps: int) -> Tensor:
    draws = evidence.draws.stream(stream)
    return pgd.pgd(model, evidence.x, evidence.y, eps=evidence.eps, step=step, steps=steps, draws=draws)


# Check results


def make_check(name: str, passed: bool, numbers: dict[str, float], facts: str, problem: str) -> Check:
    return Check(name, passed, numbers, facts if passed else f"{facts}: {problem}")


def not_asked(name: str, why: str) -> Check:
    return Check(name, None, {}, f"not asked: {why}")


def compare_attacks(name: str, what: str, evidence: Evidence, z: Tensor, white: Tensor, problem: str) -> Check:
    """Check that z breaks few images that the measured attacks left correct (white), by tolerance and test."""
    other = is_correct(evidence, evidence.x) & is_correct(evidence, z)
    alone = white & ~other
    numbers = {"measured": share_of(white), "other": share_of(other), "alone": share_of(alone)}
    facts = f"{what} alone breaks {percent_of(alone)} of the images, {percent_of(white)} being right as measured"
    return make_check(name, not more_than(MAX_BROKEN_ALONE, int(alone.sum()), len(alone)), numbers, facts, problem)


def never_rises(
    name: str, scores: Mapping[str, np.ndarray], pairs: list[tuple[str, str]], why: str, what: str
) -> Check:
    """Check that no stronger attack of the pairs (weaker, stronger) leaves significantly more images correct."""
    results = []
    for weaker, stronger in pairs:
        a, b = both_counted(scores[weaker], scores[stronger])
        if len(a):
            p = sign_test(int((b > a).sum()), int((b < a).sum()))
            results.append((p, mean_counted(a), mean_counted(b), weaker, stronger))
    if not results:
        return not_asked(name, why)
    p, before, after, weaker, stronger = min(results)
    numbers = {"weaker": before, "stronger": after, "p": p}
    facts = f"{before:.1%} right under {weaker}, {after:.1%} under {stronger}"
    return make_check(name, p >= ALPHA / len(results), numbers, facts, f"{what} cannot help the net")


def both_counted(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of the images that are counted (not NaN) in both."""
    counted = ~(np.isnan(a) | np.isnan(b))
    return a[counted], b[counted]


def mean_counted(values: np.ndarray) -> float:
    """Mean without NaN."""
    return float(values[~np.isnan(values)].mean(dtype=np.float64))


def sign_test(against: int, towards: int) -> float:
    """One-sided p-value of the sign test: `against` or more pairs contradict the expected order by chance."""
    n = against + towards
    return float(binomtest(against, n, 0.5, "greater").pvalue) if n else 1.0


def more_than(share: float, count: int, n: int) -> bool:
    """Whether `count` of n is significantly more than that share (binomial test)."""
    return n > 0 and binomtest(count, n, share, "greater").pvalue < ALPHA


def same_verdicts(a: np.ndarray, b: np.ndarray) -> tuple[bool, float]:
    """Whether predictions agree up to MAX_FLIPPED, and minus the share that differ, so that `min` is the worst."""
    differing = int((a != b).sum())
    return differing <= max(1, MAX_FLIPPED * len(a)), -differing / max(1, len(a))


def share_of(which: Tensor) -> float:
    return float(which.float().mean())


def percent_of(which: Tensor) -> str:
    return f"{share_of(which):.1%}"
