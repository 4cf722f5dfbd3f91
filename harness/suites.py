"""What can be measured: metrics of one number per image, and the suites that name them.

suite(measure, attribution) -> {name: Measurement}      found by name in SUITES
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness import attacks
from harness import attribution as attributions
from harness.attribution import Metrics
from harness.batch import Batch
from harness.config import Attribution, Measure
from harness.errors import unknown

CHUNK = 256  # images at once; part of the protocol, since a random start depends on it

Metric = Callable[[nn.Module, Batch], Tensor]


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """1 where the prediction is the label, else 0. (B,)"""
    with torch.no_grad():
        return (model(batch.x).argmax(1) == batch.y).float()


def attacked(attack: Callable[..., Tensor], restarts: int = 1) -> Metric:
    """The metric "still right after the attack": 1 where no restart changes the prediction."""

    def metric(model: nn.Module, batch: Batch) -> Tensor:
        right = accuracy(model, batch)
        for _ in range(restarts):
            left = right.nonzero().squeeze(1)  # what is broken already needs no further attack
            if len(left):
                z = attack(model, batch.x[left], batch.y[left])
                right[left] = accuracy(model, Batch(z, batch.y[left]))
        return right

    return metric


def step_of(measure: Measure, eps: float) -> float:
    """The attack's step at this eps."""
    return measure.step or 2.5 * eps / measure.steps


def pgd_name(measure: Measure, eps: float) -> str:
    """Such as `pgd10-8`, or `pgd10x3-8` for three restarts."""
    restarts = f"x{measure.restarts}" if measure.restarts > 1 else ""
    return f"pgd{measure.steps}{restarts}-{strength(eps)}"


def strength(eps: float) -> str:
    """eps in 255ths."""
    return f"{eps * 255:.6g}"


@dataclass(frozen=True)
class Measurement:
    """A metric and what its numbers rest on.

    The metric gives one score, called as the suite calls it, or several under their own names. images: None, all of the
    split are measured; else only those that are classified correctly, the first so many of them (0: all). likeness:
    whether it compares maps, so that 1 means that an attack failed.
    """

    metric: Metric | Metrics
    protocol: dict[str, object]
    images: int | None = None
    likeness: bool = False


Suite = Callable[[Measure, Attribution], dict[str, Measurement]]


def robust_suite(measure: Measure, attribution: Attribution) -> dict[str, Measurement]:
    """Clean accuracy, and accuracy under PGD at every eps of the grid."""
    suite = {"clean": Measurement(accuracy, {})}
    for eps in measure.eps:
        settings = {"eps": eps, "step": step_of(measure, eps), "steps": measure.steps}
        protocol = {**settings, "restarts": measure.restarts, "norm": "linf", "start": "uniform", "chunk": CHUNK}
        attack = partial(attacks.pgd, **settings)
        suite[pgd_name(measure, eps)] = Measurement(attacked(attack, measure.restarts), protocol)
    return suite


def standard_suite(measure: Measure, attribution: Attribution) -> dict[str, Measurement]:
    """The robust suite and FGSM at every eps of the grid."""
    suite = robust_suite(measure, attribution)
    for eps in measure.eps:
        suite[f"fgsm-{strength(eps)}"] = Measurement(
            attacked(partial(attacks.fgsm, eps=eps)), {"eps": eps, "norm": "linf"}
        )
    return suite


def attribution_suite(measure: Measure, attribution: Attribution) -> dict[str, Measurement]:
    """The strong protocol and its random control on every map asked for, the bound, and completeness."""
    suite = {}
    for explain in attribution.maps:
        short = "" if explain == "integrated_gradients" else f"-{explain}"
        for name, control in (("strong", False), ("random", True)):
            protocol = attributions.strong(attribution, explain, control)
            suite[name + short] = _attribution(name + short, protocol, attribution)
    ascent = {name: getattr(attribution, name) for name in ("eps", "steps", "beta")}
    ascent |= {"step": attributions.step_of(attribution), "start": "uniform", "norm": "linf", "chunk": CHUNK}
    suite["bound"] = Measurement(attributions.bound(attribution), ascent, attribution.images)
    pgd = {**attributions.pgd_settings(attribution), "start": "uniform", "norm": "linf", "chunk": CHUNK}
    suite["completeness"] = Measurement(attributions.completeness(attribution), pgd, attribution.images)
    return suite


def legacy_attribution_suite(measure: Measure, attribution: Attribution) -> dict[str, Measurement]:
    """IN and K as published: the protocols of Singh et al. (2020) and of Chen et al. (2019)."""
    protocols = {"art": attributions.art(attribution), "rar": attributions.rar(attribution)}
    return {name: _attribution(name, protocol, attribution) for name, protocol in protocols.items()}


def _attribution(name: str, protocol: attributions.Protocol, settings: Attribution) -> Measurement:
    about = {**vars(settings), "step": attributions.step_of(settings), **protocol.about(), "chunk": CHUNK}
    return Measurement(attributions.measured(name, protocol, settings), about, settings.images, likeness=True)


SUITES: dict[str, Suite] = {
    "standard": standard_suite,
    "attribution": attribution_suite,
    "attribution-legacy": legacy_attribution_suite,
}


def named(names: Iterable[str]) -> Suite:
    """The suites of these names as one. Raises `Mistake` for an unknown one."""
    for name in names:
        if name not in SUITES:
            raise unknown("suite", name, SUITES)
    return lambda *settings: {k: m for name in names for k, m in SUITES[name](*settings).items()}
