"""Measure a net on a split: what a trial's validation, its test and `harness.evaluate` have in common."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from harness.config.trial import Trial
from harness.data.datasets import Data, Split
from harness.evaluation import evaluator, suites, versions
from harness.evaluation.checks.evidence import Check
from harness.evaluation.checks.run_checks import run_checks
from harness.evaluation.evaluator import Progress, no_progress
from harness.evaluation.measurements import Items, Measurement, Published
from harness.evaluation.scores import Ledger, Score
from harness.storage.workspace import Workspace


@dataclass(frozen=True)
class Part:
    """The images to measure on, `val` or `test` by name. val: the validation images, if these are others.

    published: files of a corrupted test set, in the order of the images.
    """

    name: str
    images: Split
    val: Split | None = None
    published: Published | None = None


@dataclass(frozen=True)
class Measured:
    """Scores and checks, and how many seconds the scores took."""

    scores: list[Score]
    checks: list[Check]
    seconds: float


def part_of(data: Data, name: str, trial: Trial, workspace: Workspace, images: int = 0) -> Part:
    """The images of a split on the device, or only the first so many. Raises `UserError` for bad published files."""
    split = getattr(data, name).head(images).to(workspace.device)
    if name == "val":
        return Part(name, split)
    published = evaluator.published(trial.measure, trial.data.name, split, workspace.data)
    return Part(name, split, data.val.to(workspace.device), published)


def versions_of(scores: Iterable[Score]) -> dict[str, int]:
    """The scores' names, without their split, and the versions that they were measured by."""
    return {score.name.partition("/")[2]: score.version for score in scores}


def missing(trial: Trial, split: Split, measured: Mapping[str, int], *, features: bool = True) -> list[str]:
    """What the suites of a trial define and is not measured on a split, or by an older version of measuring.

    measured: names of scores and their versions, as of `versions_of`. features: whether the net has final feature maps,
    as those of this project do.
    """
    return versions.missing(_items(trial, split, features), measured)


def _items(trial: Trial, split: Split, features: bool) -> Items:
    """The measurements of the trial's suites, by name."""
    context = evaluator.context_of(trial.measure, trial.attribution, split, features=features)
    return suites.combined(trial.measure.suites)(context)


def measure(
    net: nn.Module,
    part: Part,
    trial: Trial,
    ledger: Path,
    *,
    stored: Sequence[Score] = (),
    examples: Path | None = None,
    other: nn.Module | None = None,
    expensive: bool = False,
    progress: Progress = no_progress,
) -> Measured:
    """Measure the suites of a trial's settings, and check the scores.

    ledger: folder from which an interrupted evaluation resumes. stored: scores with per-image values of an earlier one;
    of these only what is `missing` is measured. examples: the .npz file of the checks' adversarial examples; None: no
    checks. other, expensive: see `run_checks`.
    """
    items = _items(trial, part.images, evaluator.has_features(net))
    kept = _kept(items, stored)
    began = time.perf_counter()
    scores = evaluator.evaluate(
        net,
        part.images,
        trial.measure,
        trial.attribution,
        name=part.name,
        val=part.val,
        published=part.published,
        ledger=Ledger(ledger, kept),
        progress=progress,
    )
    seconds = time.perf_counter() - began
    if unnamed := versions.missing(items, versions_of(scores)):
        raise ValueError(f"no score of measurement {unnamed[0]!r} begins with its name; declare `starts`")
    as_stored = {score.name: score for of in kept.values() for score in of}
    scores = [as_stored.get(score.name, score) for score in scores]  # means of the others as they were
    names = {score.name for score in scores}
    scores += [score for score in stored if score.name not in names]  # of which no suite knows any more
    checks = []
    if examples:
        checks = run_checks(
            net, part.images, trial.measure, scores, examples=examples, other=other, expensive=expensive
        )
    return Measured(scores, checks, seconds)


def same_measurements(scores: Sequence[Score], trial: Trial, part: Part) -> list[Score]:
    """Of the scores of a net on the images of a part, those that its suites measure too, named as of this part."""
    items = _items(trial, part.images, features=True)
    named = {score.name.partition("/")[2]: score for score in scores}
    same = {
        key: named[key]
        for key, item in items.items()
        if isinstance(item, Measurement) and key in named and named[key].protocol == dict(item.protocol)
    }
    return [replace(score, name=f"{part.name}/{key}") for key, score in same.items()]


def _kept(items: Items, stored: Sequence[Score]) -> dict[str, list[Score]]:
    """The stored scores that need not be measured again, by measurement; none without stored scores."""
    scores = {score.name.partition("/")[2]: score for score in stored}
    lacking, found = versions.missing(items, versions_of(stored)), versions.by_item(items, scores)
    return {key: [scores[name] for name in found[key]] for key in items if key not in lacking}
