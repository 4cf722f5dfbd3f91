"""Consistency checks of the scores: at eps 0, over eps, over steps and restarts, FGSM against PGD, bfloat16."""

from itertools import pairwise, permutations

import numpy as np

from harness.attacks import pgd
from harness.evaluation.checks.attack_names import attack_names, family, is_stronger_than, matches, strength_of
from harness.evaluation.checks.common import (
    both_counted,
    is_correct,
    make_check,
    mean_counted,
    never_rises,
    not_asked,
    same_verdicts,
    values_of_x,
)
from harness.evaluation.checks.evidence import Check, Evidence


def zero_eps(evidence: Evidence) -> Check:
    """Do attacks with eps 0 reproduce the clean predictions?

    They must, for this net and in every score at eps 0. Otherwise net, preprocessing or order of the images differ.
    """
    clean = evidence.scores.get("clean")
    if clean is None:
        return not_asked("zero_eps", "clean accuracy was not measured")
    z = pgd.pgd(evidence.model, evidence.x, evidence.y, eps=0, step=evidence.step, steps=1)
    correct = is_correct(evidence, z).float().cpu().numpy()
    pairs = [(correct, values_of_x(evidence, clean))]
    pairs += [(evidence.scores[str(n)], clean) for n in attack_names(evidence.scores) if n.strength == 0]
    passed, share = min(same_verdicts(*both_counted(a, b)) for a, b in pairs)
    facts = f"at eps 0, {abs(share):.1%} of the verdicts are not the clean ones"
    return make_check("zero_eps", passed, {"differing": abs(share)}, facts, "net, images or their order differ")


def falls_with_eps(evidence: Evidence) -> Check:
    """Does accuracy fall with eps, from clean on?

    It must, since each ball contains the smaller ones. Checked image by image for every iterative attack (a single step
    may overshoot). Fails if significantly many images are correct again at a larger eps.
    """
    scores = evidence.scores
    names = sorted((n for n in attack_names(scores) if n.metric != "fgsm"), key=strength_of)
    clean = ["clean"] if "clean" in scores else []
    grids = [clean + [str(n) for n in names if family(n) == attack] for attack in dict.fromkeys(map(family, names))]
    pairs = [pair for grid in grids for pair in pairwise(grid)]
    return never_rises("falls_with_eps", scores, pairs, "no attack was measured at two strengths", "a larger eps")


def falls_with_effort(evidence: Evidence) -> Check:
    """Does accuracy fall with steps and restarts? Fails if significantly many images are correct again."""
    names = attack_names(evidence.scores)
    pairs = [(str(a), str(b)) for a, b in permutations(names, 2) if is_stronger_than(b, a)]
    why = "no attack was measured with two numbers of steps or restarts"
    return never_rises("falls_with_effort", evidence.scores, pairs, why, "more steps or restarts")


def one_step(evidence: Evidence) -> Check:
    """Is there catastrophic overfitting to single-step attacks (Wong et al., 2020)?

    Fails if, at some eps, FGSM accuracy is over two thirds of clean, and PGD accuracy less than half of FGSM's.
    """
    scores = evidence.scores
    mean = {name: mean_counted(values) for name, values in scores.items() if not np.isnan(values).all()}
    steps = [(a, b) for a, b in permutations(attack_names(mean), 2) if (a.metric, b.metric) == ("fgsm", "pgd")]
    named = [(str(a), str(b)) for a, b in steps if matches(a, b.norm, strength_of(b))]
    if not named or "clean" not in mean:
        return not_asked("one_step", "clean accuracy, FGSM and PGD at one eps were not all measured")
    clean = mean["clean"]
    results = [(mean[a] <= clean * 2 / 3 or mean[b] >= mean[a] / 2, mean[b] - mean[a], a, b) for a, b in named]
    passed, _, a, b = min(results)
    numbers = {"clean": clean, "fgsm": mean[a], "pgd": mean[b]}
    facts = f"{mean[a]:.1%} right under {a}, {mean[b]:.1%} under {b}, {clean:.1%} clean"
    return make_check("one_step", passed, numbers, facts, "the net withstands single steps only")


def float32(evidence: Evidence) -> Check:
    """Does float32 confirm the adversarial examples of an attack in bfloat16?

    An image that only rounding breaks is not broken. Fails if such images are frequent.
    """
    results = []
    for name in evidence.lower.keys() & evidence.scores.keys():
        full, lower = both_counted(evidence.scores[name], evidence.lower[name])
        results.append((*same_verdicts(full, np.minimum(full, lower)), name))
    if not results:
        return not_asked("float32", "nothing was searched in bfloat16")
    passed, share, name = min(results)
    facts = f"of all images, {abs(share):.1%} were broken in bfloat16 and not in float32 by {name}"
    return make_check("float32", passed, {"unconfirmed": abs(share)}, facts, "the search was too coarse")
