"""Load one trial's run from MLflow, by run id or trial key, and check its result, data and weights."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.arguments import Arguments, filled, path, place
from harness.config.trial import build
from harness.config.trial_key import TRAINING_VERSION
from harness.data import datasets
from harness.data.datasets import Data
from harness.errors import UserError, unknown_name
from harness.evaluation import evaluator
from harness.evaluation.external.loading import load_external
from harness.evaluation.measurements import Measurement, accuracy
from harness.evaluation.scores import Score, per_image
from harness.models.nets import NETS
from harness.storage import npz
from harness.storage.sealed_json import CHECKSUM_KEY
from harness.storage.workspace import Workspace
from harness.tracking.artifact_places import ArtifactPlaces
from harness.tracking.mlflow_client import opened_reader, search_experiments, search_runs
from harness.trials.result import Result, decode_result
from reports.read import trusted_plugins
from reports.read.runs import ARTIFACTS_HELP, STORE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DIGITS = 6  # minimum length of a run id prefix
FLIPS = 0.01  # share of verdicts that rounding on another machine may flip; one image always
ROUNDED = 1e-3  # how much half precision of per-image values may move their mean, relative to the largest


@dataclass(frozen=True)
class Record:
    """A finished trial as stored in MLflow.

    tags: `harness.*`, without the prefix. shown: MLflow metrics by name, from which leaderboards are built. result: the
    decoded result.json, with per-image values where they are stored. spread: by score, the standard deviation over
    the other finished seed runs of the same winner, if there are several. weights: None if not stored. ended: when the
    run ended, in seconds since 1970.
    """

    run: str
    experiment: str
    cell: str
    role: str
    tags: Mapping[str, str]
    shown: Mapping[str, float]
    result: Result
    spread: Mapping[str, float]
    weights: Path | None
    ended: int


def parser(program: str, description: str) -> Arguments:
    """Argument parser with RUN, --tracking-uri and --data-root, shared by `verify` and `export`."""
    p = Arguments(f"reports {program}", description)
    p.add_argument("run", metavar="RUN", help=f"run id, its first {DIGITS} or more digits, or a trial key")
    p.add_argument("--tracking-uri", type=filled, default=STORE, help="MLflow store or server (default %(default)s)")
    p.add_argument("--artifacts", type=path, action="append", default=[], metavar="FOLDER", help=ARTIFACTS_HELP)
    p.add_argument("--data-root", type=place, help="folder of the data sets (default $HARNESS_DATA, else ./data)")
    trusted_plugins.add_argument(p)
    return p


def read(uri: str, name: str, folder: Path, trusted: Iterable[Path] = ()) -> Record:
    """The record of a run, its artifacts copied into an empty folder.

    trusted: folders on this machine that artifacts are read from, besides the store's own.

    name: run id, its first digits, or trial key; of several runs with one key the finished seed run, else the newest
    finished run. Raises `UserError` for an unknown name, a run that is not a finished trial, another protocol version,
    and missing or damaged files."""
    with opened_reader(uri) as client:
        run = _find_run(client, name)
        tags = {tag.removeprefix("harness."): text for tag, text in run.data.tags.items() if tag.startswith("harness.")}
        _check_finished(run.info.run_id, tags)
        places, place = ArtifactPlaces(uri, trusted), (run.info.run_id, run.info.artifact_uri)
        available = places.names(*place)
        if "result.json" not in available:
            raise UserError(f"run {run.info.run_id} has no result.json: its scores cannot be read")
        for file in sorted(available & {"result.json", "val.npz", "test.npz", "weights.pt"}):
            places.copy(*place, file, folder)
        experiment = client.get_experiment(run.info.experiment_id).name
        parent = run.data.tags.get("mlflow.parentRunId")
        cell = client.get_run(parent).data.tags.get("harness.cell", "") if parent else ""
        others = _other_seeds(client, run) if parent and tags["role"] == "seed" else []
    result = stored(folder, f"of run {run.info.run_id}")
    if result.trial.key != tags.get("key"):
        raise UserError(
            f"the settings of run {run.info.run_id} make trial {result.trial.key}, not {tags.get('key')}:"
            " it was run by another version of this harness, or its record was altered"
        )
    weights = folder / "weights.pt"
    metadata = run.info.run_id, experiment, cell, tags["role"], tags, dict(run.data.metrics)
    ended = (run.info.end_time or run.info.start_time) // 1000
    return Record(*metadata, result, _spread(others), weights if weights.exists() else None, ended)


def stored(folder: Path, source: str) -> Result:
    """The result in a trial's folder, every score with its per-image values where they are stored.

    source: names the run in the `UserError` raised if a file is damaged or of another version."""
    damaged = UserError(f"the result.json {source} is damaged: it is not a trial's result")
    try:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        record.pop(CHECKSUM_KEY, None)
        settings = dict(record["trial"])
        result = decode_result(record, record["trial"])
        valid = _is_valid(result)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    if not valid:
        raise damaged
    trusted_plugins.check(settings, source)
    try:
        trial = build(settings)
    except UserError as error:
        raise UserError(f"the settings {source} are of another version of this harness: {error}") from None
    if trial.model not in NETS:
        raise UserError(f"{unknown_name('model', trial.model, NETS)}, in the settings {source}")
    images = _images(folder / "val.npz", source) | _images(folder / "test.npz", source)
    scores = [dataclasses.replace(score, per_example=images.get(score.name)) for score in result.scores]
    return dataclasses.replace(result, trial=trial, scores=scores)


def _is_valid(result: Result) -> bool:
    """Whether every part of a decoded result has its type."""
    parts: list[object] = [result.seconds, result.checksums, result.machine, result.damaged]
    parts += [part for s in result.scores for part in (s.protocol, s.counts)]
    numbers: list[object] = [number for s in result.scores for number in (s.mean, s.stderr, s.n)]
    typed = all(isinstance(part, dict) for part in parts) and all(isinstance(n, int | float) for n in numbers)
    known = all(s.name.startswith(("val/", "test/")) for s in result.scores)
    return bool(result.scores) and known and typed and isinstance(result.rows, list)


def data_of(record: Record, workspace: Workspace) -> Data:
    """The data set of the trial. Raises `UserError` if its checksums differ from the recorded ones."""
    source, recorded = record.result.trial.data, record.result.checksums
    data = datasets.load(source, workspace)
    parts = sorted(p for p in {*data.checksums, *recorded} if data.checksums.get(p) != recorded.get(p))
    if parts:
        raise UserError(
            f"data {source.name!r} are not those of run {record.run}, by the checksums of {', '.join(parts)};"
            " name their folder by --data-root"
        )
    return data


def contradictions(record: Record) -> dict[str, str]:
    """By score, how its mean in result.json disagrees with the MLflow metric or with the per-image values."""
    disagreements = {}
    for score in record.result.scores:
        shown, values = record.shown.get(score.name), score.per_example
        if shown is not None and not math.isclose(shown, score.mean, rel_tol=1e-9):
            disagreements[score.name] = f"MLflow shows {shown:.6g}, result.json {score.mean:.6g}"
        elif values is not None and not _is_mean_of(score, values):
            text = f"result.json has {score.mean:.6g} over {score.n} images, the per-image values do not"
            disagreements[score.name] = text
    return disagreements


def facts(result: Result, tags: Mapping[str, str]) -> dict[str, str]:
    """Environment of a result: package versions, git commit, machine. tags: `harness.*`, without the prefix."""
    recorded = {tag: text for tag, text in tags.items() if tag.startswith("package.") or tag == "git"}
    return {name.removeprefix("package."): text for name, text in {**recorded, **result.machine}.items()}


def weights_of(record: Record) -> Path:
    """Path of the weights, as `torch.save` wrote them. Raises `UserError` if the run has none."""
    if record.weights is None:
        reason = "only winners' seed runs do" if record.role == "search" else "they are gone from its artifacts"
        raise UserError(f"run {record.run} has no weights: {reason}")
    return record.weights


def reproduced_verdicts(record: Record, data: Data, device: str) -> tuple[int, int] | None:
    """On how many validation images the stored weights reproduce the recorded verdict (correct or not), of how many.

    None if no verdicts were recorded. Raises `UserError` if the weights are missing or do not fit the net."""
    trial, then, file = record.result.trial, record.result.score("val/clean"), weights_of(record)
    try:
        net = load_external(trial.model, file, data, device)
    except UserError as error:
        reason = str(error).replace(f"{file.parent}/", "")
        raise UserError(f"the weights of run {record.run} cannot be used: {reason}") from None
    if then is None or then.per_example is None:
        return None
    images, suite = data.val.to(device), {"clean": Measurement(accuracy)}
    scores = evaluator.evaluate(net, images, trial.measure, name="val", suite=lambda _: {**suite})
    now = per_image(scores)["val/clean"]
    return int((now == then.per_example).sum()) if len(now) == len(then.per_example) else 0, len(now)


def enough_verdicts(same: int, of: int) -> bool:
    """Whether `same` equal verdicts of `of` can be explained by rounding on another machine."""
    return of - same <= max(1, FLIPS * of)


def _is_mean_of(score: Score, values: np.ndarray) -> bool:
    """Whether the score is the mean of these values (n,), and counts as many."""
    counted = values[~np.isnan(values)].astype(np.float64)
    if len(counted) != score.n:
        return False
    exact = values.dtype == bool or not len(counted)
    tolerance = 1e-9 if exact else ROUNDED * max(1e-6, float(np.abs(counted).max()))
    return not len(counted) or abs(float(counted.mean()) - score.mean) <= tolerance


def _find_run(client: "MlflowClient", name: str) -> "Run":
    experiments = [experiment.experiment_id for experiment in search_experiments(client)]

    def search(where: str) -> list["Run"]:
        return search_runs(client, experiments, where)

    if re.fullmatch(rf"[0-9a-f]{{{DIGITS},32}}", name):
        of_key = search(f"tags.`harness.key` = '{name}'")
        if of_key:
            return max(of_key, key=_preferred)
        matches = search(f"attributes.run_id LIKE '{name}%'")
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UserError(f"{name!r} begins the ids of {len(matches)} runs; give more digits")
    elif re.fullmatch("[0-9a-f]+", name) and len(name) < DIGITS:
        raise UserError(f"a run is named by at least {DIGITS} digits of its id or by its trial key, not by {name!r}")
    complete = search("tags.`harness.state` = 'complete'")
    names = {run.info.run_id for run in complete} if len(name) > 12 else {_key(run) for run in complete} - {""}
    raise unknown_name("run", name, names)


def _other_seeds(client: "MlflowClient", run: "Run") -> list["Run"]:
    """The other finished seed runs of the same winner.

    This run is left out: an altered score would widen the tolerance that it is checked against."""
    parent, winner = run.data.tags["mlflow.parentRunId"], run.data.tags.get("harness.winner")
    where = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`harness.role` = 'seed'"
    runs = search_runs(client, [run.info.experiment_id], f"{where} and tags.`harness.state` = 'complete'")
    others = [one for one in runs if one.info.run_id != run.info.run_id]
    return [one for one in others if one.data.tags.get("harness.winner") == winner]


def _spread(runs: list["Run"]) -> dict[str, float]:
    shown = [run.data.metrics for run in runs]
    names = {name for metrics in shown for name in metrics if name.startswith(("val/", "test/"))}
    values = {name: [metrics[name] for metrics in shown if name in metrics] for name in names}
    return {name: float(np.std(some, ddof=1)) for name, some in sorted(values.items()) if len(some) > 1}


def _preferred(run: "Run") -> tuple:
    tags = run.data.tags
    finished, repeated = tags.get("harness.state") == "complete", tags.get("harness.role") == "seed"
    return finished, repeated, run.info.start_time, run.info.run_id


def _key(run: "Run") -> str:
    return run.data.tags.get("harness.key", "")


def _check_finished(run: str, tags: Mapping[str, str]) -> None:
    role, state = tags.get("role", ""), tags.get("state", "")
    if role not in ("search", "seed"):
        what = f"the run of a {role}" if role else "no run of this harness"
        raise UserError(f"run {run} is {what}, not of a trial; name a trial by its key or its run id")
    if state != "complete":
        reason = f" ({tags['reason']})" if tags.get("reason") else ""
        raise UserError(f"run {run} is {state or 'unfinished'}{reason}; only a finished trial has a result")
    if tags.get("protocol", str(TRAINING_VERSION)) != str(TRAINING_VERSION):
        trained = f"was trained by version {tags['protocol']}, this harness trains by {TRAINING_VERSION}"
        raise UserError(f"run {run} {trained}; use the version that made it, or run it again")


def _images(file: Path, source: str) -> dict[str, np.ndarray]:
    """The per-image values of a split, by score; empty if the run has none."""
    if not file.exists():
        return {}
    try:
        images = npz.read(file)
    except UserError:
        raise UserError(f"the {file.name} {source} is damaged: it does not hold per-image values") from None
    if any(array.ndim != 1 or array.dtype.kind not in "bfiu" for array in images.values()):
        raise UserError(f"the {file.name} {source} is damaged: it does not hold per-image values")
    return images
