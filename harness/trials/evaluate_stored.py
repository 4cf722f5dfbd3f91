"""Evaluate a stored net: a trial's, by key, or an external model; results are stored beside it."""

import copy
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from harness.config.trial import Trial, build
from harness.config.trial_key import TRAINING_VERSION
from harness.data import datasets
from harness.data.datasets import Data
from harness.errors import UserError, unknown_name
from harness.evaluation import evaluator, image_synthesis
from harness.evaluation.checks.evidence import Check
from harness.evaluation.evaluator import Progress, no_progress
from harness.evaluation.external.loading import checked, fingerprint, load_external
from harness.evaluation.external.weights import Say, silent
from harness.evaluation.scores import Ledger, Score, load_images, save_images
from harness.explain import curvature
from harness.storage import plugin_copies
from harness.storage.files import locked, write
from harness.storage.sealed_json import read_json, write_json
from harness.storage.workspace import Workspace
from harness.trials import result as trial_result
from harness.trials import run, test_evaluations
from harness.trials.measure import measure, missing, part_of, versions_of


@dataclass(frozen=True)
class Target:
    """A net to evaluate. metadata: identifies it in the results. folder: for its results.

    record_test_evaluation() counts a measurement on the test images.
    """

    model: nn.Module
    data: Data
    folder: Path
    metadata: dict[str, str]
    record_test_evaluation: Callable[[], object]


def load_trial(key: str, workspace: Workspace) -> Trial:
    """The trial of that key under `workspace.out`. Raises `UserError` if there is none, or of another protocol."""
    valid = re.fullmatch("[0-9a-f]{12}", key)  # anything else could be a path out of the folder
    record = read_json(workspace.fetched(workspace.trial(key)) / "trial.json") if valid else None
    if record is None:
        raise unknown_name("trial", key, [p.name for p in (workspace.out / "trials").glob("*") if p.is_dir()])
    trial = build(record["settings"])
    if trial.key != key:
        raise UserError(
            f"trial {key} was run by another version of this harness with a different protocol; run it again"
        )
    return trial


def trial_target(trial: Trial, requested: Trial, workspace: Workspace, *, retrain: bool = False) -> Target:
    """The net of a trial, trained first if needed. requested: the trial with the requested measurement settings.

    retrain: see `harness.trials.run.trained_model`.
    """
    data = _data(requested, workspace)
    model, result = run.trained_model(trial, workspace, retrain=retrain)
    metadata = {"trial": trial.key}
    return Target(
        model,
        data,
        workspace.trial(trial.key),
        metadata,
        lambda: trial_result.record_test_evaluation(result, workspace),
    )


def external_target(
    model: str,
    weights: Path | None,
    requested: Trial,
    workspace: Workspace,
    features: str | None = None,
    *,
    key: str | None = None,
    say: Say = silent,
) -> Target:
    """An external model. features, key, say: see `load_external`. Raises `UserError` if it does not fit the data."""
    data = _data(requested, workspace)
    net = load_external(model, weights, data, workspace.device, features, key=key, say=say)
    metadata = {"model": model, "weights": weights.name if weights else "its own"}
    metadata |= {"features": features} if features else {}
    metadata |= {"weights_key": key} if key else {}
    return _external(net, data, metadata, requested, workspace)


def net_target(net: nn.Module, requested: Trial, workspace: Workspace, features: str | None = None) -> Target:
    """A net of this process, of which a copy is measured; else as `external_target`."""
    data, name = _data(requested, workspace), type(net).__qualname__
    copied = checked(copy.deepcopy(net), name, data, workspace.device, features)
    metadata = {"model": name, "weights": "its own"}
    return _external(copied, data, metadata | ({"features": features} if features else {}), requested, workspace)


def _data(requested: Trial, workspace: Workspace) -> Data:
    """The data that are requested, on which the requested measurements can be made."""
    data = datasets.load(requested.data, workspace)
    evaluator.check(requested.measure, requested.attribution, data, requested.data.name)
    return data


def _external(net: nn.Module, data: Data, metadata: dict[str, str], requested: Trial, workspace: Workspace) -> Target:
    metadata |= {
        path: str(value) for path, value in requested.identity().items() if path == "data" or path.startswith("data.")
    }
    metadata["fingerprint"] = fingerprint(net, data, workspace.device)
    folder = workspace.out / "evaluations" / _digest({**metadata, **data.checksums})

    def record_test_evaluation() -> None:
        counted = read_json(folder / "touches.json") or {"touches": 0}  # of earlier versions
        test_evaluations.record(folder, counted["touches"])

    return Target(net, data, folder, metadata, record_test_evaluation)


@dataclass(frozen=True)
class Evaluation:
    """Scores and checks of an evaluation, stored in NAME.json (`file`), NAME.npz and NAME-attacked.npz."""

    scores: list[Score]
    checks: list[Check]
    settings: dict[str, object]
    file: Path


def evaluate(
    target: Target,
    requested: Trial,
    workspace: Workspace,
    *,
    split: str,
    images: int = 0,
    other: tuple[str, nn.Module] | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure the suites of `requested` on `val` or `test`, and store the result. images: only the first so many.

    other: key and net of another seed, for a transfer check. Of a stored evaluation only what its suites have gained
    is measured. A test evaluation is recorded before measuring starts.
    """
    settings: dict[str, object] = {
        path: value for path, value in requested.identity().items() if path.startswith(("measure.", "attribution."))
    }
    part = part_of(target.data, split, requested, workspace, images)
    settings["protocol"] = TRAINING_VERSION
    settings |= {"images": images} if len(part.images) < len(getattr(target.data, split)) else {}
    settings |= {"other": other[0]} if other else {}
    files = part.published.folder.files() if part.published else ()
    settings |= {"published": [f"{f.name} {f.stat().st_size}" for f in files]} if files else {}
    stem = target.folder / f"evaluation-{split}-{_digest(settings)[:8]}"
    file, arrays = stem.with_suffix(".json"), stem.with_suffix(".npz")
    with locked(target.folder / "lock"), workspace.synchronised(target.folder):
        stored, before, seconds = read_json(file), [], 0.0
        if stored is not None:
            before, checks = [Score(**s) for s in stored["scores"]], [Check(**c) for c in stored["checks"]]
            seconds = stored["seconds"]
            if not missing(requested, part.images, versions_of(before), features=evaluator.has_features(target.model)):
                return Evaluation(before, checks, {**target.metadata, **settings}, file)
        few = target.data.val.head(curvature.IMAGES).to(workspace.device)
        evaluator.check_net(target.model, requested.measure, requested.attribution, few)
        if split == "test" and not stem.exists():
            target.record_test_evaluation()
        stem.mkdir(parents=True, exist_ok=True)  # an existing one is resumed
        plugin_copies.keep(requested.plugins, workspace)
        began = time.perf_counter()
        measured = measure(
            target.model,
            part,
            requested,
            stem,
            stored=load_images(arrays, before),
            examples=stem.with_name(f"{stem.name}-attacked.npz"),
            other=other[1] if other else None,
            expensive=True,
            progress=progress,
        )
        scores, checks = measured.scores, measured.checks
        save_images(arrays, scores)
        seconds += time.perf_counter() - began
        record = {**target.metadata, "settings": settings, "seconds": seconds}
        record |= {"machine": trial_result.describe_machine(workspace.device), "checksums": target.data.checksums}
        record |= {"damaged": target.data.damaged} if target.data.damaged else {}
        record |= {"scores": [s.record() for s in scores], "checks": [vars(c) for c in checks]}
        write_json(file, record)
        Ledger(stem).clear()
    return Evaluation(scores, checks, {**target.metadata, **settings}, file)


def synthesise(target: Target, workspace: Workspace, per_class: int) -> Path:
    """Write a PNG of images that the net synthesises, one row per class; see `harness.evaluation.image_synthesis`."""
    train = target.data.train.to(workspace.device)
    classes = sorted(train.y.unique().tolist())
    images = image_synthesis.samples(target.model, train, classes, per_class)
    file = target.folder / "samples.png"
    write(file, lambda temporary: temporary.write_bytes(image_synthesis.grid(images)))
    return file


def _digest(value: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
