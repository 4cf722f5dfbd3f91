"""What a training step of every method costs, relative to `standard` and to `pgd`, and a map of every saliency."""

import dataclasses
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import methods
from harness import attacks, maps, models, saliency
from harness.batch import MAP_UNIT, Batch, Batches
from harness.config import Trial, build
from harness.randomness import seeded
from harness.train import in_bf16, optimiser
from methods.noise import uniform_noise
from methods.pgd import PGD

CLASSES = 10


def step_seconds(
    runs: dict[str, Trial], device: str, shape: tuple[int, int, int], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds per training step of each trial on random images (C, H, W), one figure per round, rounds interleaved."""
    setups = {name: _setup(run, device, shape) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):  # the first one warms up
        for name, advance in setups.items():
            began = time.perf_counter()
            for _ in range(steps if round_ else 1):
                advance()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if round_:
                times[name].append((time.perf_counter() - began) / steps)
    return times


def _setup(run: Trial, device: str, shape: tuple[int, int, int]):
    """A function that takes one training step, its batch already on the device."""
    with seeded("bench"):
        x = torch.randint(256, (run.batch, *shape), dtype=torch.uint8, device=device)
        y = torch.randint(CLASSES, (run.batch,), device=device)
        s = (torch.randint(2, x.shape, dtype=torch.int8, device=device) * 2 - 1) * MAP_UNIT
        model = models.build(run.model, shape[0], CLASSES).to(device).train()
    column = (s,) if methods.reads_maps(run.method) else ()
    batches = Batches(x, y, column, run.batch, run.augment)
    steps = optimiser(run.optim, model)

    def advance() -> None:
        for batch in batches.epoch(0, 1):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=in_bf16(run.optim, x.device)):
                loss = torch.stack(list(run.method.loss(model, batch).values())).sum()
            steps.zero_grad()
            loss.backward()
            steps.step()

    return advance


def halves(run: Trial) -> dict[str, tuple[float, Trial]]:
    """The kinds of batch a trial sees, each with its probability: a coin's two sides, or one."""
    flip = getattr(run.method, "flip", None)
    if flip is None:
        return {"": (1.0, run)}
    sides = {"attack": (1 - flip, 0.0), "cheap": (flip, 1.0)}
    return {
        side: (share, dataclasses.replace(run, method=dataclasses.replace(run.method, flip=coin)))
        for side, (share, coin) in sides.items()
    }


@dataclasses.dataclass(frozen=True)
class PublishedPGD(PGD):
    """PGD as the released scripts run it: each attack step also computes the gradients of all parameters."""

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        z = uniform_noise(batch.x, self.eps)
        for _ in range(self.steps):
            z.requires_grad_(True)
            F.cross_entropy(model(z), batch.y).backward()
            z = attacks.clip(z.detach() + self.step * z.grad.sign(), batch.x, self.eps)
        return z


PUBLISHED = "pgd, published loop"


def epochs(
    base: dict[str, object],
    shape: tuple[int, int, int],
    device: str,
    steps: int,
    rounds: int,
    chosen: list[str] | None = None,
) -> dict[str, dict]:
    """Expected seconds of a training step of every method, and its ratio to `standard` and to `pgd`, by round.

    chosen: only these methods, and the two yardsticks; by default all but those of second order.
    """
    if chosen is None:
        chosen = [name for name in methods.names() if not methods.second_order(methods.make(name))]
    wanted = dict.fromkeys(["standard", "pgd", *chosen])
    trials = {name: _for(name, base) for name in wanted}
    trials[PUBLISHED] = dataclasses.replace(trials["pgd"], method=PublishedPGD(**vars(trials["pgd"].method)))
    runs, shares = {}, {}
    for name, each in trials.items():
        for side, (share, run) in halves(each).items():
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


def _for(method: str, base: dict[str, object]) -> Trial:
    own = {p: v for p, v in base.items() if not p.startswith("method.") or hasattr(methods.make(method), p[7:])}
    return build({**own, "method": method})


def map_seconds(
    base: dict[str, object], shape: tuple[int, int, int], device: str, rounds: int
) -> dict[str, list[float]]:
    """Seconds per 1,000 maps of every saliency."""
    run = build({**base, "method": "sat"})
    images = min(32, run.batch)  # enough for a rate; integrated gradients take a hundred passes an image
    with seeded("bench"):
        x = torch.rand(images, *shape, device=device)
        y = torch.randint(CLASSES, (images,), device=device)
        net = models.build(run.model, shape[0], CLASSES).to(device).eval()
    times: dict[str, list[float]] = {name: [] for name in saliency.SALIENCY}
    for _ in range(rounds):
        for name in times:
            began = time.perf_counter()
            maps.explain(name, run.maps, net, x, y)
            times[name].append((time.perf_counter() - began) * 1000 / images)
    return times


def epoch_seconds(run: Trial, images: int, shape: tuple[int, int, int], device: str) -> float:
    """The seconds that an epoch over so many images takes, by one step of each kind of batch."""
    sides = halves(run)
    times = step_seconds({side: r for side, (_, r) in sides.items()}, device, shape, 1, 1)
    return sum(share * times[side][0] for side, (share, _) in sides.items()) * images / run.batch
