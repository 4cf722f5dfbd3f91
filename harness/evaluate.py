"""Measurement: every metric gives one number per image, so that errors, paired tests and worst cases follow.

`evaluate(model, split, measure, name="val")` gives a list of `Score`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from harness import attacks
from harness.batch import Batch
from harness.config import Measure, Trial
from harness.datasets import Split
from harness.randomness import exact, seeded

CHUNK = 256  # images at once; part of the protocol, since a random start depends on it

Metric = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Score:
    """A number and what it rests on. name: `split/metric[-strength]`, strength in 255ths; per_example: (n,) float32."""

    name: str
    mean: float
    stderr: float
    n: int
    protocol: dict[str, object] = field(default_factory=dict)
    per_example: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, values: Tensor, protocol: dict[str, object]) -> "Score":
        values = values.double()
        stderr = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
        return cls(name, float(values.mean()), stderr, len(values), protocol, values.float().cpu().numpy())


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


def robust_suite(measure: Measure) -> dict[str, tuple[Metric, dict[str, object]]]:
    """Clean accuracy, and accuracy under PGD at every eps of the grid: name -> metric and its protocol."""
    suite: dict[str, tuple[Metric, dict[str, object]]] = {"clean": (accuracy, {})}
    for eps in measure.eps:
        settings = {"eps": eps, "step": step_of(measure, eps), "steps": measure.steps}

        def attack(model, x, y, settings=settings):
            return attacks.pgd(model, x, y, **settings)

        protocol = {**settings, "restarts": measure.restarts, "norm": "linf", "start": "uniform", "chunk": CHUNK}
        suite[pgd_name(measure, eps)] = (attacked(attack, measure.restarts), protocol)
    return suite


def full_suite(measure: Measure) -> dict[str, tuple[Metric, dict[str, object]]]:
    """The robust suite and FGSM at every eps of the grid."""
    suite = robust_suite(measure)
    for eps in measure.eps:

        def attack(model, x, y, eps=eps):
            return attacks.fgsm(model, x, y, eps=eps)

        suite[f"fgsm-{strength(eps)}"] = (attacked(attack), {"eps": eps, "norm": "linf"})
    return suite


def evaluate(
    model: nn.Module,
    split: Split,
    measure: Measure,
    *,
    name: str,
    suite: Callable[[Measure], dict[str, tuple[Metric, dict[str, object]]]] = full_suite,
    seed: int = 0,
) -> list[Score]:
    """Every score of the suite on a split, and `robust`: the mean over the eps grid of the accuracies under PGD.

    `robust` is the area under the accuracy-eps curve on the grid: it tells weak methods apart where a single large eps
    gives 0 for all. The model is in evaluation mode within and as before after. Each metric has its own seed.
    """
    scores = []
    with attacks.frozen(model), exact():
        for metric_name, (metric, protocol) in suite(measure).items():
            with seeded(seed, metric_name):
                values = [metric(model, batch) for batch in chunks(split)]
            scores.append(Score.of(f"{name}/{metric_name}", torch.cat(values), protocol))
    by_name = {s.name: s for s in scores}
    grid = [by_name[f"{name}/{pgd_name(measure, eps)}"] for eps in measure.eps]
    mean = torch.from_numpy(np.mean([s.per_example for s in grid], axis=0))
    robust = Score.of(f"{name}/robust", mean, {"mean of": [s.name for s in grid], **{"step": measure.step}})
    return [*scores, robust]


def image_passes(trial: Trial, val: int, test: int) -> dict[str, int]:
    """How many images a trial sends forward and back to be measured: while it trains and at its end, and on test."""
    measure = trial.measure
    robust = 1 + len(measure.eps) * measure.restarts * (measure.steps + 1)
    full = robust + 2 * len(measure.eps)
    watched = min(val, measure.images or val) * -(-trial.epochs // measure.watch)
    return {"val": watched * robust + val * full, "test": test * full}


def chunks(split: Split):
    """The split's images in [0, 1] as batches in order."""
    for x, y in zip(split.x.split(CHUNK), split.y.split(CHUNK), strict=True):
        yield Batch(x.to(memory_format=torch.channels_last).float().div_(255), y)
