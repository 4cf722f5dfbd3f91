"""Timing of a training step of each method, in interleaved rounds."""

import dataclasses
import time
from collections.abc import Callable

import torch

import methods
from harness.config.trial import Trial
from harness.data.batches import MAP_UNIT, Batches
from harness.models import nets
from harness.randomness import seeded
from harness.training.optim import optimiser
from harness.training.precision import uses_bf16

CLASSES = 10


def step_seconds(
    runs: dict[str, Trial], device: str, shape: tuple[int, int, int], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds per training step of each trial on random images (C, H, W), one value per interleaved round."""
    setups = {name: _setup(run, device, shape) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):  # round 0 is a warm-up
        for name, advance in setups.items():
            began = time.perf_counter()
            for _ in range(steps if round_ else 1):
                advance()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if round_:
                times[name].append((time.perf_counter() - began) / steps)
    return times


def _setup(run: Trial, device: str, shape: tuple[int, int, int]) -> Callable[[], None]:
    """A function that takes one training step, its batch already on the device."""
    with seeded("bench", device=device):
        x = torch.randint(256, (run.batch, *shape), dtype=torch.uint8, device=device)
        y = torch.randint(CLASSES, (run.batch,), device=device)
        s = (torch.randint(2, x.shape, dtype=torch.int8, device=device) * 2 - 1) * MAP_UNIT
        model = nets.build(run.model, shape[0], CLASSES).to(device).train()
    column = (s,) if methods.reads_maps(run.method) else ()
    batches = Batches(x, y, column, run.batch, run.augment)
    steps = optimiser(run.optim, model)

    def advance() -> None:
        for batch in batches.epoch(0, 1):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=uses_bf16(run.optim, x.device)):
                loss = torch.stack(list(run.method.loss(model, batch).values())).sum()
            steps.zero_grad()
            loss.backward()
            steps.step()

    return advance


def step_variants(run: Trial) -> dict[str, tuple[float, Trial]]:
    """Variants of a training step with probabilities: with and without attack for a method with `flip`, else one."""
    flip = getattr(run.method, "flip", None)
    if flip is None:
        return {"": (1.0, run)}
    variants = {"attack": (1 - flip, 0.0), "cheap": (flip, 1.0)}
    return {
        side: (share, dataclasses.replace(run, method=dataclasses.replace(run.method, flip=coin)))
        for side, (share, coin) in variants.items()
    }


def epoch_seconds(run: Trial, images: int, shape: tuple[int, int, int], device: str) -> float:
    """Estimated seconds of an epoch over so many images, from one timed step per variant."""
    variants = step_variants(run)
    times = step_seconds({side: r for side, (_, r) in variants.items()}, device, shape, 1, 1)
    return sum(share * times[side][0] for side, (share, _) in variants.items()) * images / run.batch
