"""Run all checks on a finished evaluation, and store some of its adversarial examples."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness.attacks import pgd
from harness.data.batches import Batch
from harness.data.datasets import Split
from harness.evaluation.batching import image_seeds, to_batch
from harness.evaluation.checks import registry
from harness.evaluation.checks.evidence import Check, Evidence
from harness.evaluation.measurements import accuracy
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from harness.evaluation.settings import Measure
from harness.evaluation.suites import pgd_name, step_of
from harness.models import freezing
from harness.randomness import PerImageRng, full_float32
from harness.storage import npz

CHECKED_IMAGES = 256  # at most
STORED_PIXELS = 64 * 32 * 32  # of the stored adversarial examples: 64 images of 32 x 32


def run_checks(
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
    """Run every check on the scores of a split, without altering them.

    examples: .npz file to write with adversarial examples (x, y, z, right). other: a net of another seed on the same
    data. expensive: also run the checks that cost more than about 30 passes over 256 images. seed: the evaluation's.
    """
    eps = max(measure.eps)
    name = pgd_name(measure, eps)
    values = {str(ScoreName.parse(s.name).on("")): s.per_example for s in scores if s.per_example is not None}
    sample = split.head(CHECKED_IMAGES)
    batch = to_batch(sample)
    with freezing.frozen(model), full_float32():
        if name in values:
            _store_examples(examples, model, split, measure, values[name], seed)
        evidence = Evidence(
            model,
            batch.x,
            batch.y,
            PerImageRng(image_seeds(sample), (seed, "doubts")),  # another name would change the random numbers
            eps,
            step_of(measure, eps),
            measure.steps,
            scores=values,
            stored={name: _load_examples(examples, batch.x.device)} if name in values else {},
            other=other,
        )
        return registry.run(evidence, expensive=expensive)


def _store_examples(
    file: Path, model: nn.Module, split: Split, measure: Measure, claimed: np.ndarray, seed: int
) -> None:
    """Write adversarial examples of the first images, by PGD from its first start, and whether the score is 1."""
    sample = split.head(max(1, min(CHECKED_IMAGES, STORED_PIXELS // split.x.shape[-2:].numel())))
    eps = max(measure.eps)
    x = to_batch(sample).x
    draws = PerImageRng(image_seeds(sample), (seed, pgd_name(measure, eps))).stream(0)
    step, steps = step_of(measure, eps), measure.steps
    z = pgd.pgd_until_broken(model, x, sample.y, eps=eps, step=step, steps=steps, draws=draws)
    clean = _correct(model, x, sample.y)
    correct = claimed[: len(sample)] if measure.restarts == 1 else clean & _correct(model, z, sample.y)
    z = torch.where(clean.view(-1, 1, 1, 1), z, x)  # misclassified clean images were not attacked
    columns = {"x": sample.x, "y": sample.y, "z": z.contiguous(), "right": torch.as_tensor(correct) > 0.5}
    npz.write(file, {name: column.cpu().numpy() for name, column in columns.items()})


def _correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return accuracy(model, Batch(x, y)).bool()


def _load_examples(file: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    """The adversarial examples of a file, and whether the score counts them as correct."""
    with np.load(file) as columns:
        return torch.from_numpy(columns["z"]).to(device), torch.from_numpy(columns["right"]).to(device)
