"""Checks of the net before any attack: finite logits, input normalisation, logits, determinism."""

import torch

from harness.evaluation.checks.common import (
    ALPHA,
    has_finite_logits,
    is_correct,
    logits_of,
    make_check,
    percent_of,
    relative_difference,
    share_of,
    sign_test,
)
from harness.evaluation.checks.evidence import Check, Evidence


def finite(evidence: Evidence) -> Check:
    """Are all logits finite?

    Comparisons with NaN are false and its argmax is class 0, so the other checks would name wrong causes; they are
    asked of the remaining images only (`registry.run`). The measured accuracies count such images as misclassified.
    """
    broken = ~has_finite_logits(evidence)
    count, of = int(broken.sum()), len(broken)
    facts = f"NaN or infinite logits in {count} of {of} images"
    return make_check("finite", not count, {"not_finite": share_of(broken)}, facts, "the other checks leave them out")


def normalisation(evidence: Evidence) -> Check:
    """Does the net receive images normalised as in training?

    With normalisation missing or applied twice, accuracy is plausible but too low, and eps has another meaning. Fails
    if normalising the images by their own mean and deviation, or undoing that, at least halves the error (sign test).
    (Smaller gains do not count: a net trained on large perturbations may gain from higher contrast.)
    """
    x, dims = evidence.x, (0, 2, 3)
    mean, std = x.mean(dims, keepdim=True), x.std(dims, keepdim=True).clamp_min(1e-3)
    as_given, more, less = (is_correct(evidence, z) for z in (x, (x - mean) / std, x * std + mean))
    p = min(sign_test(int((changed & ~as_given).sum()), int((as_given & ~changed).sum())) for changed in (more, less))
    halved = 1 - max(share_of(more), share_of(less)) <= (1 - share_of(as_given)) / 2
    numbers = {"accuracy": share_of(as_given), "once_more": share_of(more), "once_less": share_of(less), "p": p}
    facts = (
        f"{percent_of(as_given)} right on the images as they are,"
        f" {percent_of(more)} normalised once more and {percent_of(less)} once less"
    )
    return make_check(
        "normalisation", not halved or p >= ALPHA / 2, numbers, facts, "they do not reach the net as in training"
    )


def logits(evidence: Evidence) -> Check:
    """Does the net return logits, not probabilities?

    A second softmax in the loss has vanishing gradients where the net is confident. Fails if rows sum to one, or are
    logarithms of such rows.
    """
    out = logits_of(evidence.model, evidence.x).double()
    sums = float((out.sum(1) - 1).abs().max())
    logs = float(out.logsumexp(1).abs().max())
    probabilities = sums < 1e-3 and float(out.min()) > -1e-3
    numbers = {"sum_off_1": sums, "logsumexp_off_0": logs}
    facts = f"the outputs' sum is up to {sums:.2g} off 1, their logsumexp up to {logs:.2g} off 0"
    given = "probabilities" if probabilities else "log-probabilities"
    passed = not probabilities and logs >= 1e-3
    return make_check("logits", passed, numbers, facts, f"the net seems to give {given} instead of logits")


def deterministic(evidence: Evidence) -> Check:
    """Is the forward pass deterministic and independent of the batch?

    With noise or dropout, an attack that does not average over passes is weak. With batch statistics, a perturbed image
    changes the predictions of others. Fails if outputs differ for the same batch again, or for batches of two.
    """
    x, model = evidence.x, evidence.model
    out = logits_of(model, x)
    again = relative_difference(logits_of(model, x), out)
    pairs = relative_difference(torch.cat([logits_of(model, pair) for pair in x[:8].split(2)]), out[:8])
    numbers = {"again": again, "in_pairs": pairs}
    facts = f"outputs differ by {again:.1g} of their size when asked again, by {pairs:.1g} in batches of two"
    # Another batch size may select another kernel, which rounds differently: hence the larger tolerance.
    problem = "the forward pass is random" if again >= 1e-4 else "an image's output depends on its batch"
    return make_check("deterministic", again < 1e-4 and pairs < 1e-3, numbers, facts, problem)
