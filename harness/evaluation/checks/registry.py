"""Registry of the checks by name, and a function that runs them all on given evidence.

check(evidence) -> Check
"""

from collections.abc import Callable

from harness.evaluation.checks.attack_strength import convergence, reach, repeats, unbounded
from harness.evaluation.checks.chance import chance
from harness.evaluation.checks.common import has_finite_logits, not_asked
from harness.evaluation.checks.evidence import Check, Evidence, check_range
from harness.evaluation.checks.gradient_masking import black_box, gradients, random_search, transfer
from harness.evaluation.checks.parameter_randomisation import depends_on_weights, every_layer
from harness.evaluation.checks.preprocessing import deterministic, finite, logits, normalisation
from harness.evaluation.checks.score_consistency import falls_with_effort, falls_with_eps, float32, one_step, zero_eps
from harness.evaluation.metrics import DEPENDS_ON_WEIGHTS

CHECKS: dict[str, Callable[[Evidence], Check]] = {
    "finite": finite,
    "normalisation": normalisation,
    "chance": chance,
    "logits": logits,
    "deterministic": deterministic,
    "gradients": gradients,
    "reach": reach,
    "zero_eps": zero_eps,
    "unbounded": unbounded,
    "falls_with_eps": falls_with_eps,
    "falls_with_effort": falls_with_effort,
    "one_step": one_step,
    "black_box": black_box,
    "transfer": transfer,
    "repeats": repeats,
    "float32": float32,
    DEPENDS_ON_WEIGHTS: depends_on_weights,
    "convergence": convergence,
    "random_search": random_search,
    "every_layer": every_layer,
}
# All others together: about 25 gradients per image, and where attributions were measured three maps of 16 images each.
EXPENSIVE = frozenset({"convergence", "random_search", "every_layer"})


def run(evidence: Evidence, *, expensive: bool = True) -> list[Check]:
    """Run the checks in the order of CHECKS, all after `finite` on the images of finite logits only.

    Raises `UserError` for images outside [0, 1].
    """
    check_range(evidence.x)
    names = [name for name in CHECKS if expensive or name not in EXPENSIVE]
    kept = has_finite_logits(evidence)
    if not kept.any():
        why = "no image has finite logits"
        return [finite(evidence) if name == "finite" else not_asked(name, why) for name in names]
    rest = evidence if kept.all() else evidence.select(kept)
    return [CHECKS[name](evidence if name == "finite" else rest) for name in names]
