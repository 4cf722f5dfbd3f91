"""Attributional robustness: how much of a map survives an attack on it.

Three protocols, never to be mixed up, since each changes the number by more than methods differ:

    art      Singh et al. (2020): one random start, 50 steps of eps / 8; the image with the lowest Kendall's tau within
             the clean top k is kept. Attacked is the map of the logit, scored that of the cross-entropy. An image on
             which no step keeps the prediction is dropped.
    rar      Chen et al. (2019): no random start, and the logit's map is scored, too. Such an image counts as 1. Their
             best of three trials is one here: without a random start all are the same.
    strong   Ours: every start and both objectives (top k, mass centre); what is attacked is scored, each measure at the
             worst image found for it. Nothing is dropped: the clean image is among what is found.

`random` is the control of `strong`: random signs in place of the gradient's. Measures are those of `harness.metrics`,
between the maps of the true net; integrated gradients are scored in 100 intervals. Attacked are images that are
classified correctly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness import attribution_attacks as attacks
from harness import metrics
from harness.attacks import Start, ascend, pgd
from harness.attribution_attacks import EXPLAIN, Criterion, Explain, IntegratedGradients, Objective
from harness.batch import Batch
from harness.config import Attribution
from harness.errors import Mistake, unknown
from harness.gradients import true_logit
from harness.models import softened

Metrics = Callable[[nn.Module, Batch], dict[str, Tensor]]  # score name -> one number per image (B,)

SCORED = 100  # intervals of the integrated gradients that are scored


@dataclass(frozen=True)
class Protocol:
    """What is attacked how, and what is scored. criteria: by what the image to score is chosen, one score set each."""

    attacked: Explain
    scored: Explain
    objectives: tuple[Objective, ...]
    criteria: Mapping[str, Criterion]
    start: Start
    restarts: int
    see_last: bool
    drop: bool

    def about(self) -> dict[str, object]:
        """What is stored beside a number."""
        objectives = [getattr(o, "__qualname__", str(o)).partition(".")[0] for o in self.objectives]
        own = {f: getattr(self, f) for f in ("start", "restarts", "see_last", "drop")}
        return {**own, "attacked": repr(self.attacked), "scored": repr(self.scored), "objectives": objectives}


def art(settings: Attribution) -> Protocol:
    """The evaluation of Singh et al. (2020), with fewer places on the way while it attacks."""

    def tau_within_the_clean_top(a: Tensor, b: Tensor) -> Tensor:
        mask = metrics.top_k(a, settings.k)
        return metrics.kendall(a * mask, b * mask)

    return Protocol(
        attacked=IntegratedGradients(settings.points, through_factor=False),
        scored=IntegratedGradients(SCORED, "trapezoid", of="loss"),
        objectives=(attacks.top_k(settings.k),),
        criteria={"tau": tau_within_the_clean_top},
        start="uniform",
        restarts=1,
        see_last=False,
        drop=True,
    )


def rar(settings: Attribution) -> Protocol:
    """The evaluation of Chen et al. (2019), with fewer places on the way while it attacks, and pixels not rounded."""
    return Protocol(
        attacked=IntegratedGradients(settings.points),
        scored=IntegratedGradients(SCORED, "right"),
        objectives=(attacks.top_k(settings.k),),
        criteria={"tau": metrics.kendall},
        start="none",
        restarts=1,
        see_last=True,
        drop=False,
    )


def strong(settings: Attribution, explain: str = "integrated_gradients", control: bool = False) -> Protocol:
    """Our own, on a map of `EXPLAIN`. control: random signs, as many as the attack has steps."""
    integrated = explain == "integrated_gradients"
    attack = (attacks.top_k(settings.k), attacks.mass_centre)
    return Protocol(
        attacked=IntegratedGradients(settings.points) if integrated else EXPLAIN[explain](),
        scored=IntegratedGradients(SCORED, "trapezoid") if integrated else EXPLAIN[explain](),
        objectives=(attacks.random_signs,) * len(attack) if control else attack,
        criteria={"in": partial(metrics.topk_intersection, k=settings.k), "k": metrics.kendall},
        start="uniform",
        restarts=settings.restarts,
        see_last=True,
        drop=False,
    )


def likenesses(k: int) -> dict[str, Criterion]:
    """Every measure of how alike two maps are: name -> function of the clean and the attacked importance."""
    return {
        "in": partial(metrics.topk_intersection, k=k),
        "k": metrics.kendall,
        "spearman": metrics.spearman,
        "cosine": metrics.cosine,
        "lens_precision": partial(metrics.lens_precision, k=k),
        "lens_recall": partial(metrics.lens_recall, k=k),
        "lens_kendall": metrics.lens_kendall,
        "lens_spearman": metrics.lens_spearman,
    }


def measured(name: str, protocol: Protocol, settings: Attribution) -> Metrics:
    """The metrics of a protocol, `name-in` and so on: every likeness of every image, NaN where the image is dropped.

    Of several images found each measure takes its worst. Every start has draws of its own, so that more of them, or
    another objective, only add to what is found.
    """

    def metric(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        clean = _importance(protocol.scored, model, batch.x, batch.y)
        worst = {measure: torch.full_like(clean[:, 0, 0], torch.inf) for measure in likenesses(settings.k)}
        kept = torch.zeros_like(batch.y, dtype=torch.bool)
        for start in range(protocol.restarts):
            for number, objective in enumerate(protocol.objectives):
                found = attacks.attack(
                    model,
                    batch.x,
                    batch.y,
                    explain=protocol.attacked,
                    objective=objective,
                    criteria=protocol.criteria,
                    eps=settings.eps,
                    step=step_of(settings),
                    steps=settings.steps,
                    start=protocol.start,
                    beta=settings.beta,
                    see_last=protocol.see_last,
                    draws=batch.draws.of(start, number) if batch.draws else None,
                )
                for each in found.values():
                    there = _importance(protocol.scored, model, each.z, batch.y)
                    moved = (each.z != batch.x).flatten(1).any(1)[:, None, None]
                    there = torch.where(moved, there, clean)  # a GPU may not compute the same map twice
                    kept |= each.kept
                    for measure, likeness in likenesses(settings.k).items():
                        worst[measure] = torch.minimum(worst[measure], likeness(clean, there))
        drop = ~kept if protocol.drop else torch.zeros_like(kept)
        return {f"{name}-{measure}": values.masked_fill(drop, torch.nan) for measure, values in worst.items()}

    return metric


def _importance(explain: Explain, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    together = attacks.at_once(x)
    parts = zip(x.split(together), y.split(together), strict=True)
    return torch.cat([metrics.importance(explain(model, *part)) for part in parts])


def step_of(settings: Attribution) -> float:
    """The attack's step: 1/255 at eps 8/255, as published, and in proportion to it."""
    return settings.step or settings.eps / 8


def bound(settings: Attribution) -> Metrics:
    """The bound of Singh et al. (2020) on the change of the gradient map g in the eps ball, in the maximum norm.

    `bound_left`: |g(x') - g(x)| at the worst x' found; `bound_right`: 2 |g(z) - z| + eps at the worse z of x and x';
    `bound_slack`: right - left, never negative. In units of logits per pixel value.
    """

    def metric(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        explain, surrogate = attacks.Gradient(), softened(model, settings.beta)
        start = explain(surrogate, batch.x, batch.y)

        def change(z: Tensor) -> Tensor:
            return (explain(surrogate, z, batch.y) - start).square().sum((1, 2, 3))

        ball = {"eps": settings.eps, "step": step_of(settings), "steps": settings.steps}
        z = ascend(change, batch.x, **ball, draws=batch.draws)
        before, after = explain(model, batch.x, batch.y), explain(model, z, batch.y)
        left = _largest(after - before)
        right = 2 * torch.maximum(_largest(before - batch.x), _largest(after - z)) + settings.eps
        return {"bound_left": left, "bound_right": right, "bound_slack": right - left}

    return metric


def _largest(t: Tensor) -> Tensor:
    return t.abs().flatten(1).amax(1)


def completeness(settings: Attribution) -> Metrics:
    """`completeness`: 1 where the logit changes by no more than its integrated gradients do in the L1 norm, else 0.

    So it must be for the exact integral, since the map sums to the logit up to a constant (Sundararajan et al., 2017;
    Singh et al., 2020): where an attack, here PGD, moves the logit, it moves the map. A share below 1 says that the
    quadrature, or the gradient, is not to be trusted. `completeness_left`, `completeness_right`: both sides, in logits.
    """

    def metric(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        explain = IntegratedGradients(SCORED, "trapezoid")
        z = pgd(model, batch.x, batch.y, **pgd_settings(settings), draws=batch.draws)
        with torch.no_grad():
            before, after = (true_logit(model(at), batch.y) for at in (batch.x, z))
        left = (after - before).abs()
        right = (explain(model, z, batch.y) - explain(model, batch.x, batch.y)).abs().sum((1, 2, 3))
        rounding = 1e-4 * (before.abs() + after.abs())  # of a linear net, both sides may be equal
        held = (left <= right + rounding).float()
        return {"completeness": held, "completeness_left": left, "completeness_right": right}

    return metric


def pgd_settings(settings: Attribution) -> dict[str, float]:
    """The attack by which `completeness` moves the logit."""
    return {"eps": settings.eps, "step": settings.eps / 4, "steps": 10}


def check(settings: Attribution, classes: int, height: int, width: int) -> None:
    """Raise `Mistake` for settings that cannot be measured on such images, before anything is computed."""
    if settings.k > height * width:
        raise Mistake(f"attribution.k must be at most the {height} x {width} pixels of a map, not {settings.k}")
    if classes < 2:
        raise Mistake(f"attributions are of one class against others; the data has {classes}")
    for name in settings.maps:
        if name not in EXPLAIN:
            raise unknown("attribution.maps:", name, EXPLAIN)


def passes(suite: str, settings: Attribution) -> int:
    """About how many images a suite sends forward and back for one that it attacks; a second gradient counts as two."""
    look = settings.points * settings.steps
    if suite == "attribution":
        return len(settings.maps) * 2 * settings.restarts * (4 * look + 4 * SCORED)
    return 2 * (3 * look + 2 * SCORED) if suite == "attribution-legacy" else 0
