"""Report benchmark on generated runs: time, memory and page size.

The runs are a sweep without training: plan, search, pruning, winners and event log are real, the scores are generated
from seeds. MLflow takes a minute to write a thousand runs, so they are inserted into its SQLite database directly.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import optuna
import torch

from harness.config.setting_text import format_setting
from harness.config.trial import build
from harness.data import datasets
from harness.evaluation import gallery, suites
from harness.evaluation.checks.evidence import Check
from harness.evaluation.measurements import Combined, EvaluationContext
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score, save_images
from harness.evaluation.settings import Attribution
from harness.models import nets
from harness.randomness import derive_seed
from harness.storage.workspace import Workspace
from harness.sweep import plan
from harness.sweep.job_queue import SweepJobs
from harness.sweep.job_types import Job, Outcome
from harness.sweep.request import Request
from harness.sweep.study import Study
from harness.tracking import delivery, event_log, mlflow_writer
from harness.tracking.mlflow_client import sqlite_uri
from harness.tracking.sweep_tags import study_tags, sweep_tags
from harness.tracking.tracker import Tracker
from harness.trials.result import Result
from methods import Setting

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, RunTag
    from mlflow.store.entities import PagedList

SPACE, DATA = "sat", "cifar10"
SHAPE = (3, 32, 32)  # of an image
PICTURES = "gallery.npz"
SEEDS = 10  # percentage of seed repetitions among the runs
FAILS = 0.05  # probability that a search trial fails
SPREAD = 0.3  # standard deviation between seeds, in log odds
# Runs in a small separate process: Linux counts the memory of the forking process towards the peak of its child.
WATCH = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
took = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([status, took, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss


def report(
    runs: int, folder: Path, images: int = 10_000, settings: Mapping[str, Setting] | None = None
) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory (MiB) of `python -m reports` on so many runs, and its page size (MB).

    images: of the test split, for per-image scores of seed runs. settings: dotted path -> value, for all runs. Raises
    `CalledProcessError` if the report fails.
    """
    uri, count = fill(runs, folder, images, settings)
    return {"runs": count, **written(uri, folder)}


def written(uri: str, folder: Path) -> dict[str, float]:
    """The same figures for an existing store; the report is written to `folder`/reports."""
    command = [sys.executable, "-m", "reports", "--tracking-uri", uri, "--out", str(folder / "reports")]
    watched = subprocess.run([sys.executable, "-c", WATCH, *command], stdout=subprocess.PIPE, check=True)
    status, seconds, cpu, peak = json.loads(watched.stdout)
    if status:
        raise subprocess.CalledProcessError(status, command)
    size = max(page.stat().st_size for page in folder.glob("reports/*.html")) / 1e6
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak * UNIT / 2**20, "page_mb": size}


def fill(
    runs: int, folder: Path, images: int = 10_000, settings: Mapping[str, Setting] | None = None
) -> tuple[str, int]:
    """Write a generated sweep of about so many runs to a new store in the folder. Returns its URI and their number."""
    request = Request(SPACE, settings={**(settings or {}), "data": DATA})
    cells = len(plan.plan(request).studies)
    seeds = max(2, runs * SEEDS // 100 // cells)
    trials = max(1, runs // cells - seeds)
    planned = plan.plan(dataclasses.replace(request, trials=trials, seeds=seeds))
    workspace = Workspace(folder, folder).writable()
    uri = sqlite_uri(folder / "mlflow.db")
    tracker = Tracker(workspace, planned.experiment, sweep_tags(planned))
    experiment = delivery.deliver_all(uri, tracker.log, workspace).writer.experiment  # creates an empty store
    tracker.start_sweep(planned.experiment, "Scores generated from seeds.")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage, studies = optuna.storages.InMemoryStorage(), []
    for name, cell in planned.studies.items():
        searched = {path: format_setting(cell.trial, path, domain) for path, domain in cell.search.items()}
        tracker.start_study(name, cell.name, study_tags(planned, cell), searched)
        studies.append(Study(name, planned.space, cell, trials, storage, 0))
    source = SweepJobs(studies, seeds, tracker.on_winners, tracker.is_complete)
    _store_gallery(workspace)
    count = 0
    while job := source.next():
        tracker.on_start(job)
        pruned = False
        for row in _rows(job):
            tracker.on_epoch(job, row)
            if pruned := source.on_epoch(job, row):
                break
        outcome = Outcome("pruned", int(row["epoch"])) if pruned else _outcome(job, workspace, images)
        tracker.on_end(job, outcome)
        source.on_end(job, outcome)
        count += 1
    tracker.close()
    client = BulkClient(folder / "artifacts", experiment)
    writer = mlflow_writer.MlflowWriter(cast("MlflowClient", client), uri, tracker.log, workspace)
    for event, _ in event_log.read_events(tracker.log):
        writer.write(event)
    client.insert(folder / "mlflow.db")
    return uri, count


class BulkClient:
    """Fake MlflowClient that collects runs in memory and inserts them into MLflow's database in bulk."""

    def __init__(self, artifacts: Path, experiment: str):
        self._artifacts, self._experiment = artifacts, experiment
        self._names: dict[str, str] = {}
        self._ends: dict[str, str] = {}
        self._tags: dict[tuple[str, str], str] = {}
        self._params: dict[tuple[str, str], str] = {}
        self._metrics: list[tuple] = []

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        kind = {mlflow_writer.KIND: mlflow_writer.TRAINING}
        return SimpleNamespace(experiment_id=self._experiment, lifecycle_stage="active", tags=kind)

    def search_runs(self, experiment_ids: list[str], filter_string: str, **paging: int | str | None) -> "PagedList":
        from mlflow.store.entities import PagedList

        return PagedList([], None)

    def create_run(self, experiment: str, start_time: int, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        run = f"{len(self._names):032x}"
        self._names[run] = run_name
        for key, value in {**tags, "mlflow.runName": run_name}.items():
            self.set_tag(run, key, value)
        return SimpleNamespace(info=SimpleNamespace(run_id=run, artifact_uri=str(self._folder(run))))

    def log_batch(
        self, run: str, metrics: "Sequence[Metric]" = (), params: "Sequence[Param]" = (), tags: "Sequence[RunTag]" = ()
    ) -> None:
        self._metrics += [(m.key, m.value, m.timestamp, run, m.step, 0) for m in metrics]
        self._params |= {(p.key, run): p.value for p in params}
        self._tags |= {(t.key, run): t.value for t in tags}

    def set_tag(self, run: str, key: str, value: str) -> None:
        self._tags[key, run] = value

    def set_terminated(self, run: str, status: str, end_time: int) -> None:
        self._ends[run] = status

    def log_inputs(self, run: str, datasets: "Sequence[DatasetInput]") -> None:
        """No-op: no report reads them."""

    def log_artifact(self, run: str, file: str, folder: str | None) -> None:
        artifact = self._folder(run) / Path(file).name
        artifact.parent.mkdir(parents=True, exist_ok=True)
        Path(file).replace(artifact)

    def _folder(self, run: str) -> Path:
        return self._artifacts / run / "artifacts"

    def insert(self, database: Path) -> None:
        """Insert all runs into a SQLite database that MLflow created."""
        runs = [
            (run, name, self._ends[run], at, at + 1, "active", str(self._folder(run)), int(self._experiment), "unknown")
            for at, (run, name) in enumerate(self._names.items())
        ]
        latest = {(key, run): (key, value, at, run, step, nan) for key, value, at, run, step, nan in self._metrics}
        metric = ("key", "value", "timestamp", "run_uuid", "step", "is_nan")
        rows: dict[tuple[str, ...], Iterable[tuple]] = {
            ("runs", "run_uuid", "name", "status", "start_time", "end_time", "lifecycle_stage", "artifact_uri",
             "experiment_id", "user_id"): runs,
            ("tags", "key", "run_uuid", "value"): [(*of, value) for of, value in self._tags.items()],
            ("params", "key", "run_uuid", "value"): [(*of, value) for of, value in self._params.items()],
            ("metrics", *metric): self._metrics,
            ("latest_metrics", *metric): latest.values(),
        }  # fmt: skip
        with contextlib.closing(sqlite3.connect(database)) as opened, opened:
            for (table, *columns), values in rows.items():
                placeholders = ",".join("?" * len(columns))
                opened.executemany(f"insert into {table} ({','.join(columns)}) values ({placeholders})", values)


def _quality(job: Job) -> float:
    """Generated quality of a job's net in log odds, from cell, hyperparameters and seed; best at a rate near 0.1."""
    cell, _, _ = job.study.partition(" @")
    rate = math.log(job.trial.optim.lr / 0.1)
    values = getattr(job.trial.method, "alpha10", 0.5) - 0.3 * rate**2
    return 2 * _rng(cell).random() + values + SPREAD * _rng(job.trial.key).normal()


def _rng(*parts: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(0, *parts) % 2**64)


def _rows(job: Job) -> Iterator[dict[str, float]]:
    """Generated epoch metrics of a run: validated every `measure.watch` epochs, best a little before the end."""
    trial, quality = job.trial, _quality(job)
    for epoch in range(1, trial.epochs + 1):
        row = {"epoch": epoch, "seconds": 10.0, "train/ce": 2.3 * math.exp(-3 * epoch / trial.epochs)}
        if epoch % trial.measure.watch == 0 or epoch == trial.epochs:
            level = quality - 2 * (0.8 - epoch / trial.epochs) ** 2
            row |= {"curve/robust": _sigmoid(level - 1), "curve/clean": _sigmoid(level + 2)}
        yield row


def _outcome(job: Job, workspace: Workspace, images: int) -> Outcome:
    """Generated outcome of a full-length job; a seed run also has test scores and files."""
    if job.role == "search" and _rng("fails", job.trial.key).random() < FAILS:
        return Outcome("failed", 1, reason="Diverged: the loss is nan in epoch 1")
    parts = ("val", "test") if job.role == "seed" else ("val",)
    sizes = {"val": max(1, images // 10), "test": images}
    scores = [score for part in parts for score in _scores(job, part, sizes[part])]
    seconds = {"train": 10.0 * job.trial.epochs, **dict.fromkeys(parts, 30.0)}
    checksums = {part: f"{derive_seed(0, part):016x}" for part in ("train", "val", "test")}
    checks = [Check("reach", True, {}, "10 steps of 2/255 go 2.50 times eps")] if "test" in parts else []
    machine = {"device": "cpu (x86_64)", "threads": "1", "python": "3.11"}
    result = Result(job.trial, scores, [], seconds, checksums, machine, len(parts) - 1, checks)
    if "test" in parts:
        target = workspace.trial(job.trial.key)
        save_images(target / "test.npz", (s for s in scores if s.name.startswith("test/")))
        shutil.copy(workspace.out / PICTURES, target)
    return Outcome("complete", job.trial.epochs, result)


def _store_gallery(workspace: Workspace) -> None:
    """Store the gallery of an untrained net, as large as that of a trained one."""
    trial = build({"data": "shapes", "data.limit": 100})
    data = datasets.load(trial.data, workspace)
    net = nets.build(trial.model, data.channels, len(data.classes)).eval()
    gallery.store_gallery(workspace.out / PICTURES, net, data, trial.measure, trial.attribution)


def _scores(job: Job, part: str, images: int) -> list[Score]:
    """Scores of the trial's suites: an image is correct if the net's quality exceeds the image's difficulty."""
    trial = job.trial
    suite = suites.combined(trial.measure.suites)(EvaluationContext(trial.measure, Attribution(), SHAPE))
    difficulty = _rng(part).logistic(size=images)
    draws, quality = _rng(part, trial.key), _quality(job)
    values: dict[str, torch.Tensor] = {}
    for name, item in suite.items():
        if isinstance(item, Combined):
            values[name] = item(values)
        else:
            parts = ScoreName.parse(name)
            level = quality + 2 - 0.4 * (parts.strength or parts.severity)
            values[name] = torch.from_numpy(level + 0.5 * draws.standard_normal(images) > difficulty).float()
    return [Score.of(f"{part}/{name}", correct, {"made": "up"}) for name, correct in values.items()]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
