"""Doubt an evaluation that was made: keep some attacked images, predict them anew, and ask every check."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness import attacks, checks
from harness.batch import Batch
from harness.checks import Check, Evidence
from harness.config import Measure
from harness.datasets import Split
from harness.measurements import accuracy
from harness.measuring import batch, seeds
from harness.place import write
from harness.randomness import Draws, exact
from harness.scores import Score
from harness.suites import pgd_name, step_of

ASKED = 256  # images that checks look at
KEPT = 64 * 32 * 32  # pixels of the attacked images that are kept: 64 images of 32 x 32


def doubt(
    model: nn.Module,
    split: Split,
    measure: Measure,
    scores: Iterable[Score],
    *,
    examples: Path,
    other: nn.Module | None = None,
    expensive: bool = False,
    seed: int = 0,
) -> list[Check]:
    """What every check says of the scores of a split. Alters none of them.

    examples: a file to keep some attacked images in, as `np.load` reads them (x, y, z, right). other: a net of another
    seed on the same data. expensive: also ask what costs more than some 30 passes over 256 images. seed: the
    evaluation's.
    """
    eps = max(measure.eps)
    name = pgd_name(measure, eps)
    values = {s.name.partition("/")[2]: s.per_example for s in scores if s.per_example is not None}
    few = split.head(ASKED)
    asked = batch(few)
    with attacks.frozen(model), exact():
        if name in values:
            _keep(examples, model, split, measure, values[name], seed)
        evidence = Evidence(
            model,
            asked.x,
            asked.y,
            Draws(seeds(few), (seed, "doubts")),
            eps,
            step_of(measure, eps),
            measure.steps,
            scores=values,
            stored={name: _kept(examples, asked.x.device)} if name in values else {},
            other=other,
        )
        return checks.run(evidence, expensive=expensive)


def _keep(file: Path, model: nn.Module, split: Split, measure: Measure, claimed: np.ndarray, seed: int) -> None:
    """Write the first images as PGD from its first start left them, and whether the score calls them right."""
    some = split.head(max(1, min(ASKED, KEPT // split.x.shape[-2:].numel())))
    eps = max(measure.eps)
    x = batch(some).x
    draws = Draws(seeds(some), (seed, pgd_name(measure, eps))).of(0)
    ball = {"eps": eps, "step": step_of(measure, eps), "steps": measure.steps}
    z = attacks.pgd_until_broken(model, x, some.y, **ball, draws=draws)
    clean = _right(model, x, some.y)
    right = claimed[: len(some)] if measure.restarts == 1 else clean & _right(model, z, some.y)
    z = torch.where(clean.view(-1, 1, 1, 1), z, x)  # what was wrong from the start was not attacked
    columns = {"x": some.x, "y": some.y, "z": z.contiguous(), "right": torch.as_tensor(right) > 0.5}
    write(file, lambda temporary: np.savez_compressed(temporary, **{k: v.cpu().numpy() for k, v in columns.items()}))


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return accuracy(model, Batch(x, y)).bool()


def _kept(file: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    """The attacked images of a file, and whether they were called right."""
    with np.load(file) as columns:
        return torch.from_numpy(columns["z"]).to(device), torch.from_numpy(columns["right"]).to(device)
