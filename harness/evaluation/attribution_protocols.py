"""Protocols of attributional robustness: similarity of attribution maps under attack (IN, Kendall's tau).

Defines what is attacked and how it is scored; `measurements.py` wraps it, `suites.py` selects it. The
protocols differ by more than methods do, so their numbers must not be compared with each other:

    art      Singh et al. (2020), as released: one random start, 50 steps of eps / 8; of all iterates, scores the one
             with the lowest Kendall's tau within the clean top k. Attacks the map of the logit, scores that of the
             cross-entropy. Drops images on which no step keeps the prediction.
    rar      Chen et al. (2019), as released: no random start; attacks and scores the logit's map. Such images count as
             1. Their best of three trials is one here: without a random start all are the same. Pixels are not rounded,
             which changes nothing where the step is a whole number of 255ths. Their nets are leaky, with a surrogate of
             sharpness 1; here it has `attribution.beta`, as that of `art`.
    fast     `art` at 13 % of the passes, as an approximation: in each step `points` interpolation points, others in
             the next; the iterate is chosen by maps of twice as many.
    strong   This project's: `restarts` random starts and both objectives (top k, mass centre); scores the attacked map,
             each measure at its worst perturbed image. Drops nothing: the clean image is a candidate.

`random` is the control of `strong`: random signs in place of the gradient's. `art` and `rar` step by the gradients of
the surrogate at 100 interpolation points, the right ends of as many intervals, with max pooling as it is; the clean top
k and the iterate are chosen by maps of the net itself at the same points. Similarities are those of
`harness.explain.similarity`, between maps of the net itself, not of the surrogate; integrated gradients are scored with
100 intervals. Only correctly classified images are attacked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor, nn

from harness.attacks import attribution
from harness.attacks.attribution import Criterion, Objective
from harness.attacks.pgd import Start, ascend, pgd
from harness.data.batches import Batch
from harness.errors import UserError, unknown_name
from harness.evaluation.score_name import ScoreName
from harness.evaluation.settings import Attribution
from harness.explain import maps
from harness.explain import similarity as explain_similarity
from harness.explain.base import Map
from harness.explain.input_gradients import chunk_size, true_logit
from harness.explain.integrated_gradients import IntegratedGradients
from harness.models.relus import softened

Metrics = Callable[[nn.Module, Batch], dict[str, Tensor]]  # score name -> one number per image (B,)

PUBLISHED_POINTS = 100  # interpolation points of integrated gradients in published attacks
SCORING_POINTS = 100  # intervals of integrated gradients in scored maps


@dataclass(frozen=True)
class Protocol:
    """Configuration of an attribution attack and its scoring.

    attacked: attribution method, of the surrogate, that the steps change. judge: that of the net itself, by whose maps
    the top k and the iterates are chosen; None: `attacked`. scored: that of the net, whose maps are scored. criteria:
    similarities by which the worst iterate is chosen, one each. see_last: whether the last iterate is a candidate.
    drop: whether images without a kept prediction become NaN. maxima: whether the surrogate smooths max pooling, too.
    """

    attacked: Map
    judge: Map | None
    scored: Map
    objectives: tuple[Objective, ...]
    criteria: Mapping[str, Criterion]
    start: Start
    restarts: int
    see_last: bool
    drop: bool
    maxima: bool = True

    def description(self) -> dict[str, object]:
        """The protocol as stored with a score."""
        objectives = [getattr(o, "__qualname__", str(o)).partition(".")[0] for o in self.objectives]
        own = {f: getattr(self, f) for f in ("start", "restarts", "see_last", "drop", "maxima")}
        methods = {
            "attacked": repr(self.attacked),
            "judge": repr(self.judge) if self.judge else "attacked",
            "scored": repr(self.scored),
        }
        return {**own, "points": getattr(self.attacked, "points", None), **methods, "objectives": objectives}


def art(settings: Attribution) -> Protocol:
    """Protocol of Singh et al. (2020)."""
    return _singh(settings, IntegratedGradients(PUBLISHED_POINTS, "right", through_factor=False), PUBLISHED_POINTS)


def fast(settings: Attribution) -> Protocol:
    """Protocol `fast`."""
    return _singh(settings, IntegratedGradients(settings.points, "rotating", through_factor=False), 2 * settings.points)


def _singh(settings: Attribution, attacked: IntegratedGradients, judged_at: int) -> Protocol:
    def tau_within_the_clean_top(a: Tensor, b: Tensor) -> Tensor:
        mask = explain_similarity.top_k(a, settings.k)
        return explain_similarity.kendall(a * mask, b * mask)

    return Protocol(
        attacked=attacked,
        judge=IntegratedGradients(judged_at, "right"),
        scored=IntegratedGradients(SCORING_POINTS, "trapezoid", of="loss"),
        objectives=(attribution.top_k(settings.k),),
        criteria={"tau": tau_within_the_clean_top},
        start="uniform",
        restarts=1,
        see_last=False,
        drop=True,
        maxima=False,
    )


def rar(settings: Attribution) -> Protocol:
    """Protocol of Chen et al. (2019)."""
    return Protocol(
        attacked=IntegratedGradients(PUBLISHED_POINTS, "right"),
        judge=IntegratedGradients(PUBLISHED_POINTS, "right"),
        scored=IntegratedGradients(SCORING_POINTS, "right"),
        objectives=(attribution.top_k(settings.k),),
        criteria={"tau": explain_similarity.kendall},
        start="none",
        restarts=1,
        see_last=True,
        drop=False,
        maxima=False,
    )


def strong(settings: Attribution, explain: str = "integrated_gradients", control: bool = False) -> Protocol:
    """Protocol `strong`, for a map of `harness.explain.maps.attackable`. control: random signs, for as many steps."""
    integrated = explain == "integrated_gradients"
    attack = (attribution.top_k(settings.k), attribution.mass_centre)
    return Protocol(
        attacked=IntegratedGradients(settings.points) if integrated else maps.MAPS[explain](),
        judge=None,
        scored=IntegratedGradients(SCORING_POINTS, "trapezoid") if integrated else maps.MAPS[explain](),
        objectives=(attribution.random_signs,) * len(attack) if control else attack,
        criteria={"in": partial(explain_similarity.topk_intersection, k=settings.k), "k": explain_similarity.kendall},
        start="uniform",
        restarts=settings.restarts,
        see_last=True,
        drop=False,
    )


def similarities(k: int) -> dict[str, Criterion]:
    """Similarity measures of two maps: name -> function of the clean and the perturbed importance (B, H, W) -> (B,)."""
    return {
        "in": partial(explain_similarity.topk_intersection, k=k),
        "k": explain_similarity.kendall,
        "spearman": explain_similarity.spearman,
        "cosine": explain_similarity.cosine,
        "lens_precision": partial(explain_similarity.lens_precision, k=k),
        "lens_recall": partial(explain_similarity.lens_recall, k=k),
        "lens_kendall": explain_similarity.lens_kendall,
        "lens_spearman": explain_similarity.lens_spearman,
    }


def protocol_metric(name: str, protocol: Protocol, settings: Attribution, explain: str = "") -> Metrics:
    """Metric of a protocol: scores `name-in`, `name-k`, ...: each similarity per image (B,), NaN for dropped images.

    explain: the map in the names of the scores, `name-explain-in`.

    Each similarity is the minimum over all candidates. Every start and objective has its own random stream, so more of
    them only add candidates.
    """

    def metric(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        clean = _importance(protocol.scored, model, batch.x, batch.y)
        worst = {measure: torch.full_like(clean[:, 0, 0], torch.inf) for measure in similarities(settings.k)}
        valid = torch.zeros_like(batch.y, dtype=torch.bool)
        for start in range(protocol.restarts):
            for number, objective in enumerate(protocol.objectives):
                candidates = attribution.attack(
                    model,
                    batch.x,
                    batch.y,
                    explain=protocol.attacked,
                    judge=protocol.judge,
                    maxima=protocol.maxima,
                    objective=objective,
                    criteria=protocol.criteria,
                    eps=settings.eps,
                    step=step_of(settings),
                    steps=settings.steps,
                    start=protocol.start,
                    beta=settings.beta,
                    see_last=protocol.see_last,
                    draws=batch.draws.stream(start, number) if batch.draws else None,
                )
                for candidate in candidates.values():
                    perturbed = _importance(protocol.scored, model, candidate.z, batch.y)
                    moved = (candidate.z != batch.x).flatten(1).any(1)[:, None, None]
                    perturbed = torch.where(moved, perturbed, clean)  # a GPU is not deterministic
                    valid |= candidate.kept
                    for measure, similarity in similarities(settings.k).items():
                        worst[measure] = torch.minimum(worst[measure], similarity(clean, perturbed))
        drop = ~valid if protocol.drop else torch.zeros_like(valid)
        return {
            str(ScoreName(measure, protocol=name, map=explain)): values.masked_fill(drop, torch.nan)
            for measure, values in worst.items()
        }

    return metric


def _importance(explain: Map, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    together = chunk_size(x)
    parts = zip(x.split(together), y.split(together), strict=True)
    return torch.cat([explain_similarity.importance(explain(model, *part)) for part in parts])


def step_of(settings: Attribution) -> float:
    """Step size of the attack: by default eps / 8, which is the published 1/255 at 8/255."""
    return settings.step or settings.eps / 8


def bound(settings: Attribution) -> Metrics:
    """Metric: the bound of Singh et al. (2020) on the change of the gradient map g in the eps ball, in the L-inf norm.

    `bound_left`: |g(x') - g(x)| at the worst x' of an attack; `bound_right`: 2 |g(z) - z| + eps at the worse z of x and
    x'; `bound_slack`: right - left, never negative. In units of logits per pixel value.
    """

    def metric(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        explain, surrogate = maps.Gradient(), softened(model, settings.beta)
        start = explain(surrogate, batch.x, batch.y)

        def change(z: Tensor) -> Tensor:
            return (explain(surrogate, z, batch.y) - start).square().sum((1, 2, 3))

        step, draws = step_of(settings), batch.draws
        with attribution.without_denormals():
            z = ascend(change, batch.x, eps=settings.eps, step=step, steps=settings.steps, draws=draws)
        before, after = explain(model, batch.x, batch.y), explain(model, z, batch.y)
        left = _largest(after - before)
        right = 2 * torch.maximum(_largest(before - batch.x), _largest(after - z)) + settings.eps
        return {"bound_left": left, "bound_right": right, "bound_slack": right - left}

    return metric


def _largest(t: Tensor) -> Tensor:
    return t.abs().flatten(1).amax(1)


def completeness(settings: Attribution) -> Metrics:
    """Metric `completeness`: 1 where the logit changes under PGD by at most the L1 change of its integrated gradients.

    This holds for the exact integral, since the map sums to the logit up to a constant (Sundararajan et al., 2017;
    Singh et al., 2020). A mean below 1 means that the quadrature, or the gradient, is inaccurate.
    `completeness_left`, `completeness_right`: both sides of the inequality, in logits.
    """

    def metric(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        explain = IntegratedGradients(SCORING_POINTS, "trapezoid")
        z = pgd(model, batch.x, batch.y, **pgd_settings(settings), draws=batch.draws)
        with torch.no_grad():
            before, after = (true_logit(model(images), batch.y) for images in (batch.x, z))
        left = (after - before).abs()
        right = (explain(model, z, batch.y) - explain(model, batch.x, batch.y)).abs().sum((1, 2, 3))
        rounding = 1e-4 * (before.abs() + after.abs())  # for a linear net both sides may be equal
        holds = (left <= right + rounding).float()
        return {"completeness": holds, "completeness_left": left, "completeness_right": right}

    return metric


class PGD(TypedDict):
    eps: float
    step: float
    steps: int


def pgd_settings(settings: Attribution) -> PGD:
    """The PGD attack of `completeness`."""
    return {"eps": settings.eps, "step": settings.eps / 4, "steps": 10}


def check(settings: Attribution, classes: int, height: int, width: int) -> None:
    """Raise `UserError` if the settings do not fit the data: classes and image size (height, width)."""
    if settings.k > height * width:
        raise UserError(f"attribution.k must be at most the {height} x {width} pixels of a map, not {settings.k}")
    if classes < 2:
        raise UserError(f"attributions are of one class against others; the data has {classes}")
    for name in settings.maps:
        if name not in maps.MAPS or not maps.MAPS[name].differentiable:
            raise unknown_name("attribution.maps:", name, maps.attackable())


def passes(protocol: Protocol, settings: Attribution) -> int:
    """Estimated cost per attacked image, in forward-backward passes; a second derivative counts as two."""
    step = 1 if attribution.random_signs in protocol.objectives else 3
    judged = protocol.judge.passes if protocol.judge else 0
    attack = settings.steps * (step * protocol.attacked.passes + judged) + 2 * protocol.scored.passes
    return protocol.restarts * len(protocol.objectives) * attack
