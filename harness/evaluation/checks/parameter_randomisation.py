"""Checks that attribution maps depend on the net's weights (parameter randomisation; Adebayo et al., 2018).

For each map of which attribution scores were measured, on the first correctly classified images.
"""

import torch
from scipy.stats import t as student_t
from torch import Tensor

from harness.errors import UserError
from harness.evaluation.attribution_protocols import strong
from harness.evaluation.checks.common import ALPHA, is_correct, logits_of, make_check, not_asked
from harness.evaluation.checks.evidence import Check, Evidence
from harness.evaluation.metrics import DEPENDS_ON_WEIGHTS
from harness.evaluation.score_name import ScoreName
from harness.evaluation.settings import Attribution
from harness.explain import maps
from harness.explain.base import Map
from harness.explain.parameter_randomisation import Order, by_layer, layers, randomised, with_all_random

IMAGES = 16  # at most
LAYERS = 8  # at most, of a curve
MAX_CORRELATION = 0.5**0.5  # with random weights: half of the variance of the ranks
SEED = 0  # of the random weights: the same for every net of an architecture
UNCHANGED = 1 - 1e-6  # rank correlation of equal maps, up to rounding
ORDERS: tuple[Order, ...] = ("cascading", "independent")


def depends_on_weights(evidence: Evidence) -> Check:
    """Do the maps change if all weights are random, at the end of the cascade?

    A map that they hardly change, such as an edge detector, shows the image and not what the net has learned. Fails if
    the mean rank correlation (Spearman) of a map and that of the net with random weights is significantly above
    `MAX_CORRELATION`, by Student's t over the images. Each map's numbers: `rank` and `ssim` with random weights, and of
    two nets with random weights (`rank_random`, `ssim_random`); `depends`, 0 if it fails.
    """
    explained, x, y = _maps(evidence), *_images(evidence)
    if why := _why_not(evidence, explained, x):
        return not_asked(DEPENDS_ON_WEIGHTS, why)
    numbers: dict[str, float] = {}
    for name, explain in explained.items():
        try:
            found, control = with_all_random(evidence.model, explain, x, y, seed=SEED)
        except UserError as error:
            return not_asked(DEPENDS_ON_WEIGHTS, str(error))
        means = {"rank": found.rank, "ssim": found.ssim, "rank_random": control.rank, "ssim_random": control.ssim}
        numbers |= {f"{name}/{what}": float(values.double().mean()) for what, values in means.items()}
        numbers[f"{name}/depends"] = float(_lower_end(found.rank) <= MAX_CORRELATION)
    worst = max(explained, key=lambda name: (-numbers[f"{name}/depends"], numbers[f"{name}/rank"]))
    rank, ssim, control_rank = (numbers[f"{worst}/{what}"] for what in ("rank", "ssim", "rank_random"))
    facts = (
        f"with random weights the map {worst} has a rank correlation of {rank:.2f} and an SSIM of {ssim:.2f} to that of"
        f" the net, and two nets with random weights one of {control_rank:.2f}"
    )
    passed = all(numbers[f"{name}/depends"] for name in explained)
    return make_check(DEPENDS_ON_WEIGHTS, passed, numbers, facts, "it shows the image more than what the net learned")


def every_layer(evidence: Evidence) -> Check:
    """Do the maps depend on every layer that the logits depend on?

    Fails if random weights in one layer change the logits and no rank of a map of any image. Numbers: the mean rank
    correlations `map/order/layer`, from the output down, for at most `LAYERS` layers.
    """
    explained, x, y = _maps(evidence), *_images(evidence)
    if why := _why_not(evidence, explained, x):
        return not_asked("every_layer", why)
    numbers: dict[str, float] = {}
    ignored: list[str] = []
    for name, explain in explained.items():
        for order in ORDERS:
            try:
                for layer, found in by_layer(evidence.model, explain, x, y, order, seed=SEED, most=LAYERS):
                    numbers[f"{name}/{order}/{layer}"] = float(found.rank.double().mean())
                    if order == "independent" and found.rank.min() > UNCHANGED and _changes_logits(evidence, layer, x):
                        ignored.append(f"{name} on {layer}")
            except UserError as error:
                return not_asked("every_layer", str(error))
    of_one = {key: rank for key, rank in numbers.items() if "/independent/" in key}
    most = max(of_one, key=lambda key: of_one[key])
    name, _, layer = most.split("/", 2)
    facts = f"random weights in {layer} alone leave {name} a rank correlation of {of_one[most]:.2f}, the highest"
    problem = f"some maps ignore a layer that the logits depend on: {', '.join(ignored)}"
    return make_check("every_layer", not ignored, numbers, facts, problem)


def _maps(evidence: Evidence) -> dict[str, Map]:
    """The maps of the attribution scores by name, with the constants of those that `strong` scores."""
    explained = dict.fromkeys(ScoreName.parse(score).explained for score in evidence.scores)
    return {name: strong(Attribution(), name).scored for name in explained if name in maps.MAPS}


def _images(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """The first correctly classified images, whose label is the prediction, and their labels."""
    index = is_correct(evidence, evidence.x).nonzero().squeeze(1)[:IMAGES]
    return evidence.x[index], evidence.y[index]


def _why_not(evidence: Evidence, explained: dict[str, Map], x: Tensor) -> str:
    """Why the maps cannot be checked; "" if they can."""
    if not explained:
        return "no attribution was measured"
    if len(x) < 2:
        return "fewer than two images are classified correctly"
    return "" if layers(evidence.model, x[:1]) else "the net has no weights"


def _lower_end(values: Tensor) -> float:
    """Lower end of the interval of the mean over images: one-sided, at level 1 - ALPHA, by Student's t."""
    values = values.double()
    quantile = float(student_t.ppf(1 - ALPHA, len(values) - 1))
    return float(values.mean() - quantile * values.std() / len(values) ** 0.5)


def _changes_logits(evidence: Evidence, layer: str, x: Tensor) -> bool:
    other = randomised(evidence.model, [layer], seed=SEED)
    return not torch.allclose(logits_of(other, x), logits_of(evidence.model, x), rtol=1e-4, atol=1e-6)
