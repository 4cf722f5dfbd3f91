"""Checks of the attack: reach, unbounded eps, convergence, and reproducibility of stored adversarial examples."""

from harness.attacks import pgd
from harness.evaluation.checks.attack_names import attack_names, strength_of
from harness.evaluation.checks.common import (
    compare_attacks,
    correct_as_measured,
    is_correct,
    make_check,
    not_asked,
    percent_of,
    pgd_from_draws,
    same_verdicts,
    share_of,
)
from harness.evaluation.checks.evidence import Check, Evidence

MAX_UNBOUNDED_ACCURACY = 0.05  # accuracy that may remain under an unbounded attack


def reach(evidence: Evidence) -> Check:
    """Can the attack reach the border of the eps ball from x, and any point in it?

    Fails where steps times step is less than eps, or where one of several steps is longer than twice eps: it then leaps
    from corner to corner.
    """
    if not evidence.eps:
        return not_asked("reach", "eps is 0")
    far = evidence.steps * evidence.step / evidence.eps
    facts = f"{evidence.steps} steps of {255 * evidence.step:.4g}/255 go {far:.2f} times eps"
    if evidence.steps > 1 and evidence.step > 2 * evidence.eps * (1 + 1e-6):
        return make_check("reach", False, {"reach": far}, facts, "a single step crosses the whole ball")
    return make_check("reach", far >= 1 - 1e-6, {"reach": far}, facts, "too few steps, or too small ones")


def unbounded(evidence: Evidence) -> Check:
    """Does an attack with eps 1 reduce accuracy to about 0?

    Ten steps within eps 1, from the clean image, can reach any image. Remaining accuracy means that the attack
    fails, not that the net is robust.
    """
    z = pgd.pgd(evidence.model, evidence.x, evidence.y, eps=1.0, step=0.25, steps=10, start="none")
    correct = is_correct(evidence, evidence.x) & is_correct(evidence, z)
    facts = f"PGD within eps 1 leaves {percent_of(correct)} right"
    return make_check(
        "unbounded",
        share_of(correct) <= MAX_UNBOUNDED_ACCURACY,
        {"accuracy": share_of(correct)},
        facts,
        "the attack does not work",
    )


def convergence(evidence: Evidence) -> Check:
    """Does PGD with five times the steps break many more images than the measured attack?"""
    steps = 5 * evidence.steps
    z = pgd_from_draws(evidence, evidence.model, "convergence", 2.5 * evidence.eps / steps, steps)
    what, problem = f"PGD with {steps} steps", "the measured attack was cut short"
    return compare_attacks("convergence", what, evidence, z, correct_as_measured(evidence), problem)


def repeats(evidence: Evidence) -> Check:
    """Do stored adversarial examples reproduce the score's predictions, within [0, 1] and the ball of its name?"""
    if not evidence.stored:
        return not_asked("repeats", "no attacked images were stored")
    differing, outside = [], []
    for name, (z, claimed) in evidence.stored.items():
        correct = is_correct(evidence, z).float().cpu().numpy()
        differing.append((*same_verdicts(correct, claimed.float().cpu().numpy()), name))
        delta = (z - evidence.x[: len(z)]).flatten(1)
        out = ((z < -1e-6) | (z > 1 + 1e-6)).flatten(1).any(1)
        for n in attack_names([name]):
            size = delta.norm(dim=1) if n.norm == "l2" else delta.abs().amax(1)
            out |= size > strength_of(n) / 255 * (1 + 1e-4) + 1e-6
        outside.append((share_of(out), name))
    (same, share, verdict), (beyond, limit) = min(differing), max(outside)
    numbers = {"differing": abs(share), "outside": beyond}
    facts = (
        f"asked again, {abs(share):.1%} of the verdicts of {verdict} differ;"
        f" {beyond:.1%} of the images of {limit} leave their limits"
    )
    return make_check("repeats", same and not beyond, numbers, facts, "the score does not rest on these images")
