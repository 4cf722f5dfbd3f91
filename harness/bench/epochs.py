"""Cost of a training step of every method, relative to `standard` and `pgd`, and of saliency maps."""

import dataclasses
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import methods
from harness.attacks import pgd
from harness.config.trial import Trial, build
from harness.data.batches import Batch
from harness.errors import required
from harness.explain.maps import MAPS
from harness.models import nets
from harness.randomness import seeded
from harness.training import training_maps
from harness.trials.step_cost import CLASSES, step_seconds, step_variants
from methods.noise import uniform_noise
from methods.pgd import PGD


@dataclasses.dataclass(frozen=True)
class PublishedPGD(PGD):
    """PGD as in released scripts: `backward` in each attack step also computes all parameter gradients."""

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        z = uniform_noise(batch.x, self.eps)
        for _ in range(self.steps):
            z.requires_grad_(True)
            F.cross_entropy(model(z), batch.y).backward()
            z = pgd.clip(z.detach() + self.step * required(z.grad, "gradient").sign(), batch.x, self.eps)
        return z


PUBLISHED = "pgd, published loop"


def epochs(
    base: Mapping[str, methods.Setting],
    shape: tuple[int, int, int],
    device: str,
    steps: int,
    rounds: int,
    chosen: list[str] | None = None,
) -> dict[str, dict]:
    """Expected seconds of a training step of every method, and its ratio to `standard` and to `pgd`, by round.

    chosen: only these methods and the two references; default: all methods of first order.
    """
    if chosen is None:
        chosen = [name for name in methods.names() if not methods.second_order(methods.make(name))]
    names = dict.fromkeys(["standard", "pgd", *chosen])
    trials = {name: _trial(name, base) for name in names}
    trials[PUBLISHED] = dataclasses.replace(trials["pgd"], method=PublishedPGD(**vars(trials["pgd"].method)))
    runs, shares = {}, {}
    for name, each in trials.items():
        for side, (share, run) in step_variants(each).items():
            runs[f"{name} {side}"] = run
            shares[f"{name} {side}"] = (name, share)
    times = step_seconds(runs, device, shape, steps, rounds)
    expected = {
        name: [sum(shares[k][1] * times[k][r] for k in runs if shares[k][0] == name) for r in range(rounds)]
        for name in trials
    }

    def ratio(name: str, other: str) -> list[float]:
        return [a / b for a, b in zip(expected[name], expected[other], strict=True)]

    return {
        name: {"seconds": each, **{f"to {other}": ratio(name, other) for other in ("standard", "pgd", PUBLISHED)}}
        for name, each in expected.items()
    }


def _trial(method: str, base: Mapping[str, methods.Setting]) -> Trial:
    valid = {p: v for p, v in base.items() if not p.startswith("method.") or hasattr(methods.make(method), p[7:])}
    return build({**valid, "method": method})


def map_seconds(
    base: Mapping[str, methods.Setting], shape: tuple[int, int, int], device: str, rounds: int
) -> dict[str, list[float]]:
    """Seconds per 1,000 maps of every saliency method, one value per round."""
    run = build({**base, "method": "sat"})
    images = min(32, run.batch)  # small: integrated gradients take a hundred passes per image
    with seeded("bench", device=device):
        x = torch.rand(images, *shape, device=device)
        y = torch.randint(CLASSES, (images,), device=device)
        net = nets.build(run.model, shape[0], CLASSES).to(device).eval()
    times: dict[str, list[float]] = {name: [] for name in MAPS}
    for _ in range(rounds):
        for name in times:
            began = time.perf_counter()
            training_maps.explain(name, run.maps, net, x, y)
            times[name].append((time.perf_counter() - began) * 1000 / images)
    return times
