"""Checks for gradient masking: usable gradients, and attacks without them (Square, random search, transfer)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.evaluation.checks.attack_names import (
    BLACK_BOX,
    attack_names,
    correct_under_gradients,
    matches,
    strength_of,
)
from harness.evaluation.checks.common import (
    ALPHA,
    MAX_BROKEN_ALONE,
    both_counted,
    compare_attacks,
    correct_as_measured,
    logits_of,
    make_check,
    margin_of,
    mean_counted,
    more_than,
    not_asked,
    percent_of,
    pgd_from_draws,
    share_of,
    sign_test,
)
from harness.evaluation.checks.evidence import Check, Evidence
from harness.randomness import PerImageRng

MAX_BROKEN_ALONE_TARGETED = 0.01  # the same if targeted attacks were measured, which miss fewer images
MAX_WITHOUT_GRADIENT = 0.01  # share of images that may have no usable gradient
QUERIES = 300  # of the random search, per image
MASKED = "gradients are masked, or the attacks by gradient too weak"


def gradients(evidence: Evidence) -> Check:
    """Does the loss have a usable input gradient (no gradient masking)?

    Rounding in the net, or logits so large that the cross-entropy's gradient underflows in float32, keep PGD at its
    start. Fails if, at a random start, gradients are zero, not finite, or zero in over half of the pixels where the
    gradient of the logit margin is not. Starts without finite logits are left out: they count as misclassified.
    """
    x, y = evidence.x, evidence.y
    start = 2 * evidence.draws.stream("gradients").uniform(*x.shape[1:]).to(x) - 1
    z = (x + evidence.eps * start).clamp(0, 1).requires_grad_(True)
    with torch.enable_grad():
        out = evidence.model(z)
        loss, margin = F.cross_entropy(out, y, reduction="none"), margin_of(out, y)
        (g,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
        (m,) = torch.autograd.grad(margin.sum(), z)
    kept = out.isfinite().all(1)
    if not kept.any():
        return not_asked("gradients", "no image has finite logits at a random start within eps")
    g, m = g[kept].flatten(1), m[kept].flatten(1)
    broken = ~g.isfinite().all(1)
    zero = (g == 0).all(1)
    lost = ((g == 0) & (m != 0)).sum(1) > (m != 0).sum(1) / 2
    bad = zero | broken | lost
    numbers = {"zero": share_of(zero), "not_finite": share_of(broken), "underflow": share_of(lost & ~zero)}
    facts = (
        f"the gradient of the loss is zero for {percent_of(zero)} of the images, not finite for {percent_of(broken)},"
        f" underflows for {percent_of(lost & ~zero)}"
    )
    return make_check(
        "gradients", share_of(bad) <= MAX_WITHOUT_GRADIENT, numbers, facts, "attacks by gradient cannot succeed there"
    )


def black_box(evidence: Evidence) -> Check:
    """Does Square Attack, which uses no gradient, break more images than all gradient attacks at the same eps?

    If so, gradients are masked. Fails if it breaks significantly more images, or many that they miss; only the latter
    in AutoAttack (`aa`), where it runs on the images that the others left.
    """
    scores, results = evidence.scores, []
    for square in (n for n in attack_names(scores) if n.metric in BLACK_BOX):
        white, targeted = correct_under_gradients(scores, square.norm, strength_of(square))
        if white is None:
            continue
        a, b = both_counted(white, scores[str(square)])
        if len(a):
            alone = int((a > b).sum())
            p = sign_test(alone, int((a < b).sum())) if square.metric == "square" else 1.0
            passed = p >= ALPHA and not more_than(
                MAX_BROKEN_ALONE_TARGETED if targeted else MAX_BROKEN_ALONE, alone, len(a)
            )
            results.append((passed, -alone / len(a), p, mean_counted(a), mean_counted(b), str(square)))
    if not results:
        return not_asked("black_box", "Square and an attack by gradient were not measured at one eps")
    passed, share, p, before, after, name = min(results)
    numbers = {"white_box": before, "black_box": after, "alone": abs(share), "p": p}
    facts = f"{after:.1%} right under {name}, {before:.1%} under gradients, {abs(share):.1%} broken by {name} alone"
    return make_check("black_box", passed, numbers, facts, MASKED)


def random_search(evidence: Evidence) -> Check:
    """Does a short random search without gradients break images that gradient attacks did not?

    Runs only if Square was not measured. The search is too short to break robust images, so each one it breaks counts.
    """
    if any(n.metric in BLACK_BOX and matches(n, "linf", 255 * evidence.eps) for n in attack_names(evidence.scores)):
        return not_asked("random_search", "Square was measured and is asked instead")
    z, white = evidence.x.clone(), correct_as_measured(evidence)
    (index,) = white.nonzero(as_tuple=True)
    if len(index):
        draws = evidence.draws.stream("random_search").select(index)
        z[index] = _squares(evidence.model, z[index], evidence.y[index], evidence.eps, draws)
    return compare_attacks("random_search", f"a random search of {QUERIES} queries", evidence, z, white, MASKED)


def transfer(evidence: Evidence) -> Check:
    """Does a transfer attack (PGD, at most ten steps) from a net of another seed break more images than a direct one?

    If so, this net's gradients are masked: access to the net cannot weaken an attack.
    """
    if evidence.other is None:
        return not_asked("transfer", "no net of another seed was at hand")
    steps = min(evidence.steps, 10)
    z = pgd_from_draws(evidence, evidence.other, "transfer", 2.5 * evidence.eps / steps, steps)
    return compare_attacks("transfer", "PGD on another seed's net", evidence, z, correct_as_measured(evidence), MASKED)


def _squares(model: nn.Module, x: Tensor, y: Tensor, eps: float, draws: PerImageRng) -> Tensor:
    """Random search on the logit margin: shrinking squares at the ball's border, one sign per channel, greedy.

    A short form of Square Attack (Andriushchenko et al., 2020), with its initialisation by stripes of one column.
    """
    c, h, w = x.shape[1:]
    z = (x + eps * draws.integers(0, 2, c, 1, w).mul(2).sub(1).to(x)).clamp(0, 1)
    corners, signs = draws.uniform(QUERIES, 2).to(x), draws.integers(0, 2, QUERIES, c).mul(2).sub(1).to(x)
    best = margin_of(logits_of(model, z), y)
    rows, columns = torch.arange(h, device=x.device).view(1, h, 1), torch.arange(w, device=x.device).view(1, 1, w)
    for query in range(QUERIES):
        (active,) = (best > 0).nonzero(as_tuple=True)
        if not len(active):
            break
        side = max(1, round((0.3 * h * w) ** 0.5 * (1 - query / QUERIES)))
        top, left = ((corners[active, query] * torch.tensor([h - side + 1, w - side + 1]).to(corners)).long()).unbind(1)
        top, left = top.view(-1, 1, 1), left.view(-1, 1, 1)
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        shifted = (x[active] + eps * signs[active, query].view(-1, c, 1, 1)).clamp(0, 1)
        candidate = torch.where(inside.unsqueeze(1), shifted, z[active])
        margin = margin_of(logits_of(model, candidate), y[active])
        better = margin < best[active]
        z[active[better]], best[active[better]] = candidate[better], margin[better]
    return z
