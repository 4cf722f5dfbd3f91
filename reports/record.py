"""One trial's run as MLflow keeps it: found by its id or key, its files fetched, read back, held against themselves."""

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness import arrays, datasets, foreign, measuring
from harness.checks import Check
from harness.config import PROTOCOL, build
from harness.datasets import Data
from harness.errors import Mistake, unknown
from harness.measurements import Measurement, accuracy
from harness.models import MODELS
from harness.place import Place
from harness.scores import Score, per_image
from harness.trial import Result
from reports.runs import STORE, opened

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DIGITS = 6  # of a run's id that name it, at least
FLIPS = 0.01  # share of verdicts that rounding on another machine may turn; one image always
ROUNDED = 1e-3  # by how much numbers per image in half precision may move their mean, relative to the largest


@dataclass(frozen=True)
class Record:
    """What MLflow keeps of a finished trial.

    tags: the harness's, without their prefix. shown: MLflow's metrics by name, which leaderboards are made of. result:
    what result.json says, the numbers per image with each score where they are kept. spread: by score, the standard
    deviation over the winner's other finished repetitions, where there are several. weights: None where none are kept.
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


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The arguments that name a run and say where it and its data are."""
    p = argparse.ArgumentParser(
        prog=f"python -m reports {program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("run", metavar="RUN", help=f"a run's id, {DIGITS} or more of its first digits, or a trial's key")
    p.add_argument("--tracking-uri", default=STORE, help="MLflow store or server (default %(default)s)")
    p.add_argument("--data-root", type=Path, help="folder of the data sets (default $HARNESS_DATA, else ./data)")
    return p


def read(uri: str, name: str, folder: Path) -> Record:
    """The record of the run of that name, its files fetched into an empty folder.

    name: the run's id, the first digits of it, or its trial's key; of several runs of one key the finished repetition,
    else the newest finished run. Raises `Mistake` for an unknown name, a run that is no finished trial, one of another
    protocol, and files that are missing or damaged."""
    with opened(uri) as client:
        run = _found(client, name)
        tags = {tag.removeprefix("harness."): t for tag, t in run.data.tags.items() if tag.startswith("harness.")}
        _check_finished(run.info.run_id, tags)
        there = {file.path for file in client.list_artifacts(run.info.run_id)}
        if "result.json" not in there:
            raise Mistake(f"run {run.info.run_id} keeps no result.json: what it measured cannot be read back")
        for file in sorted(there & {"result.json", "val.npz", "test.npz", "weights.pt"}):
            client.download_artifacts(run.info.run_id, file, str(folder))
        experiment = client.get_experiment(run.info.experiment_id).name
        parent = run.data.tags.get("mlflow.parentRunId")
        cell = client.get_run(parent).data.tags.get("harness.cell", "") if parent else ""
        repeated = _repetitions(client, run) if parent and tags["role"] == "seed" else []
    result = stored(folder, f"of run {run.info.run_id}")
    if result.trial.key != tags.get("key"):
        raise Mistake(
            f"the settings of run {run.info.run_id} make trial {result.trial.key}, not {tags.get('key')}:"
            " it was run by another version of this harness, or its record was altered"
        )
    weights = folder / "weights.pt"
    about = (run.info.run_id, experiment, cell, tags["role"], tags, dict(run.data.metrics), result, _spread(repeated))
    return Record(*about, weights if weights.exists() else None)


def stored(folder: Path, whose: str) -> Result:
    """The result that a trial's folder holds, every score with its numbers per image where there are some.

    whose: for the `Mistake` that is raised where a file is damaged or of another version."""
    damaged = Mistake(f"the result.json {whose} is damaged: it is not a trial's result")
    try:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        settings, checks = dict(record["trial"]), [Check(**c) for c in record["checks"]]
        scores = [Score(**score) for score in record["scores"]]
        whole = _whole(Result(**{**record, "scores": scores, "checks": checks}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    if not whole:
        raise damaged
    try:
        trial = build(settings)
    except Mistake as mistake:
        raise Mistake(f"the settings {whose} are of another version of this harness: {mistake}") from None
    if trial.model not in MODELS:  # a name with a colon would be imported
        raise Mistake(f"{unknown('model', trial.model, MODELS)}, in the settings {whose}")
    images = _images(folder / "val.npz", whose) | _images(folder / "test.npz", whose)
    scores = [dataclasses.replace(score, per_example=images.get(score.name)) for score in scores]
    return Result(**{**record, "trial": trial, "scores": scores, "checks": checks})


def _whole(result: Result) -> bool:
    """Whether every part of a result that was read back is of its kind."""
    parts = (result.seconds, dict), (result.checksums, dict), (result.machine, dict), (result.rows, list)
    numbers = [(number, (int, float)) for s in result.scores for number in (s.mean, s.stderr, s.n)]
    kinds = [(part, dict) for s in result.scores for part in (s.protocol, s.counts)]
    known = all(s.name.startswith(("val/", "test/")) for s in result.scores)
    return bool(result.scores) and known and all(isinstance(part, kind) for part, kind in (*parts, *numbers, *kinds))


def data_of(record: Record, place: Place) -> Data:
    """The data that the trial was run on. Raises `Mistake` where those found are others, by their checksums."""
    source, theirs = record.result.trial.data, record.result.checksums
    data = datasets.load(source, place)
    parts = sorted(p for p in {*data.checksums, *theirs} if data.checksums.get(p) != theirs.get(p))
    if parts:
        raise Mistake(
            f"data {source.name!r} are not those of run {record.run}, by the checksums of {', '.join(parts)};"
            " name their folder by --data-root"
        )
    return data


def contradictions(record: Record) -> dict[str, str]:
    """By score, what in the record speaks against its figure: the metric that MLflow shows, the numbers per image."""
    found = {}
    for score in record.result.scores:
        shown, values = record.shown.get(score.name), score.per_example
        if shown is not None and not math.isclose(shown, score.mean, rel_tol=1e-9):
            found[score.name] = f"MLflow shows {shown:.6g}, result.json {score.mean:.6g}"
        elif values is not None and not _rests_on(score, values):
            found[score.name] = f"result.json says {score.mean:.6g} of {score.n} images, the numbers per image do not"
    return found


def facts(result: Result, tags: Mapping[str, str]) -> dict[str, str]:
    """What a result was made with: the versions of packages, the code, the machine. tags: the harness's, unprefixed."""
    told = {tag: text for tag, text in tags.items() if tag.startswith("package.") or tag == "git"}
    return {name.removeprefix("package."): text for name, text in {**told, **result.machine}.items()}


def weights_of(record: Record) -> Path:
    """The file of the weights, as `torch.save` wrote it. Raises `Mistake` where the run keeps none."""
    if record.weights is None:
        reason = "only winners' repetitions do" if record.role == "search" else "they are gone from its artifacts"
        raise Mistake(f"run {record.run} keeps no weights: {reason}")
    return record.weights


def upheld(record: Record, data: Data, device: str) -> tuple[int, int] | None:
    """On how many validation images the kept weights give the recorded verdict, and of how many.

    None where no verdicts were recorded. Raises `Mistake` for weights that are missing or not those of such a net."""
    trial, then, file = record.result.trial, record.result.score("val/clean"), weights_of(record)
    try:
        net = foreign.load(trial.model, file, data, device)
    except Mistake as mistake:
        said = str(mistake).replace(f"{file.parent}/", "")
        raise Mistake(f"the weights of run {record.run} cannot be used: {said}") from None
    if then is None or then.per_example is None:
        return None
    how = {"name": "val", "suite": lambda _: {"clean": Measurement(accuracy)}}
    now = per_image(measuring.evaluate(net, data.val.to(device), trial.measure, **how))["val/clean"]
    return int((now == then.per_example).sum()) if len(now) == len(then.per_example) else 0, len(now)


def enough(same: int, of: int) -> bool:
    """Whether so many equal verdicts are as many as two machines give that round otherwise."""
    return of - same <= max(1, FLIPS * of)


def _rests_on(score: Score, values: np.ndarray) -> bool:
    """Whether the mean is that of these numbers (n,), as many as it counts."""
    counted = values[~np.isnan(values)].astype(np.float64)
    if len(counted) != score.n:
        return False
    exact = values.dtype == bool or not len(counted)
    room = 1e-9 if exact else ROUNDED * max(1e-6, float(np.abs(counted).max()))
    return not len(counted) or abs(float(counted.mean()) - score.mean) <= room


def _found(client: "MlflowClient", name: str) -> "Run":
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]

    def search(where: str) -> list["Run"]:
        found, token = [], None
        while True:
            page = client.search_runs(experiments, where, max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    if re.fullmatch(rf"[0-9a-f]{{{DIGITS},32}}", name):
        of_key = search(f"tags.`harness.key` = '{name}'")
        if of_key:
            return max(of_key, key=_preferred)
        begins = search(f"attributes.run_id LIKE '{name}%'")
        if len(begins) == 1:
            return begins[0]
        if begins:
            raise Mistake(f"{name!r} begins the ids of {len(begins)} runs; give more digits of one")
    elif re.fullmatch("[0-9a-f]+", name) and len(name) < DIGITS:
        raise Mistake(f"a run is named by at least {DIGITS} digits of its id or by its trial's key, not by {name!r}")
    complete = search("tags.`harness.state` = 'complete'")
    names = {run.info.run_id for run in complete} if len(name) > 12 else {_key(run) for run in complete} - {""}
    raise unknown("run", name, names)


def _repetitions(client: "MlflowClient", run: "Run") -> list["Run"]:
    """The other finished runs that repeat the same winner.

    This one is left out: a figure that was altered would widen the tolerance that it is held to."""
    parent, winner = run.data.tags["mlflow.parentRunId"], run.data.tags.get("harness.winner")
    where = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`harness.role` = 'seed'"
    found = client.search_runs([run.info.experiment_id], f"{where} and tags.`harness.state` = 'complete'")
    others = [one for one in found if one.info.run_id != run.info.run_id]
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
        what = f"that of a {role}" if role else "none of this harness"
        raise Mistake(f"run {run} is {what}, not a trial's; name a trial by its key or its run's id")
    if state != "complete":
        reason = f" ({tags['reason']})" if tags.get("reason") else ""
        raise Mistake(f"run {run} is {state or 'unfinished'}{reason}; only a finished trial has a result")
    if tags.get("protocol", str(PROTOCOL)) != str(PROTOCOL):
        measured = f"was measured by protocol {tags['protocol']}, this version measures by {PROTOCOL}"
        raise Mistake(f"run {run} {measured}; take the version that made it, or run it again")


def _images(file: Path, whose: str) -> dict[str, np.ndarray]:
    """The numbers per image of a part, by score; none where the run keeps none."""
    if not file.exists():
        return {}
    try:
        images = arrays.read(file)
    except Mistake:
        raise Mistake(f"the {file.name} {whose} is damaged: it does not hold numbers per image") from None
    if any(array.ndim != 1 or array.dtype.kind not in "bfiu" for array in images.values()):
        raise Mistake(f"the {file.name} {whose} is damaged: it does not hold numbers per image")
    return images
