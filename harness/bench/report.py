"""The report of many runs: how long it takes, how much memory, how large its page is.

The runs are a sweep without training: plan, search, pruning, winners and what MLflow is told are the harness's own, the
numbers are made up by seed. MLflow would take a minute to write a thousand runs, so they go into its database at once.
"""

import contextlib
import json
import math
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import torch
from mlflow.store.entities import PagedList

from harness import datasets, deliver, events, gallery, models, suites, track, tune
from harness.checks import Check
from harness.config import Attribution, build
from harness.jobs import Job, Outcome
from harness.measurements import Combined, Subject
from harness.place import Place
from harness.randomness import derive
from harness.scores import Score, save_images
from harness.search import Study, Sweep
from harness.space import spoken
from harness.trial import Result

SPACE, DATA = "sat", "cifar10"
SHAPE = (3, 32, 32)  # of an image
PICTURES = "gallery.npz"
SEEDS = 10  # per cent of the runs that repeat a winner
FAILS = 0.05  # chance that a trial of the search fails
SPREAD = 0.3  # of a run's quality from seed to seed, on the scale of log odds
# Started by a small process of its own: Linux counts what the starting one held as the started one's peak.
WATCH = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
took = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([status, took, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss


def report(runs: int, folder: Path, images: int = 10_000, settings: Sequence[str] = ()) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory (MiB) of `python -m reports` on so many runs, and its page's size (MB).

    images: of the test split, of which every seed run keeps a number per score. settings: `path=value`, of all runs.
    Raises `CalledProcessError` where no report comes of it."""
    uri, made = fill(runs, folder, images, settings)
    return {"runs": made, **written(uri, folder)}


def written(uri: str, folder: Path) -> dict[str, float]:
    """The same of the runs that a store holds already; the report is written to the folder's `reports`."""
    command = [sys.executable, "-m", "reports", "--tracking-uri", uri, "--out", str(folder / "reports")]
    watched = subprocess.run([sys.executable, "-c", WATCH, *command], stdout=subprocess.PIPE, check=True)
    status, seconds, cpu, peak = json.loads(watched.stdout)
    if status:
        raise subprocess.CalledProcessError(status, command)
    size = max(page.stat().st_size for page in folder.glob("reports/*.html")) / 1e6
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak * UNIT / 2**20, "page_mb": size}


def fill(runs: int, folder: Path, images: int = 10_000, settings: Sequence[str] = ()) -> tuple[str, int]:
    """Write a sweep of about so many runs to a new store in the folder. Returns its URI and how many they are."""
    asked = ["--space", SPACE, "--data", DATA, *(word for text in settings for word in ("--set", text))]
    cells = len(tune.plan(tune.arguments(asked)).studies)
    seeds = max(2, runs * SEEDS // 100 // cells)
    trials = max(1, runs // cells - seeds)
    planned = tune.plan(tune.arguments([*asked, "--trials", str(trials), "--seeds", str(seeds)]))
    place = Place(folder, folder).writable()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracker = track.Tracker(place, planned.experiment, tune._tags(planned))
    experiment = deliver.everything(uri, tracker.log, place).store.experiment  # of a store with nothing else in it
    tracker.sweep(planned.experiment, "Numbers made up by seed.")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage, studies = optuna.storages.InMemoryStorage(), []
    for order, (name, cell) in enumerate(planned.studies.items()):
        searched = {path: spoken(path, domain) for path, domain in cell.search.items()}
        tracker.study(name, cell.name, tune._study_tags(planned, cell, order), searched)
        studies.append(Study(name, planned.space, cell, trials, storage, 0))
    source = Sweep(studies, seeds, tracker.crown, tracker.is_complete)
    _keep_pictures(place)
    made = 0
    while job := source.next():
        tracker.started(job)
        stopped = False
        for row in _rows(job):
            tracker.heard(job, row)
            if stopped := source.heard(job, row):
                break
        outcome = Outcome("pruned", int(row["epoch"])) if stopped else _outcome(job, place, images)
        tracker.ended(job, outcome)
        source.ended(job, outcome)
        made += 1
    tracker.close()
    book = Book(folder / "artifacts", experiment)
    store = deliver.Store(book, uri, tracker.log, place)
    for event, _ in events.read(tracker.log):
        store.take(event)
    book.write(folder / "mlflow.db")
    return uri, made


class Book:
    """Stands in for an MLflow client: keeps what it is told, and writes it all as MLflow would have, in seconds."""

    def __init__(self, artifacts: Path, experiment: str):
        self._artifacts, self._experiment = artifacts, experiment
        self._names: dict[str, str] = {}
        self._ends: dict[str, str] = {}
        self._tags: dict[tuple[str, str], str] = {}
        self._params: dict[tuple[str, str], str] = {}
        self._metrics: list[tuple] = []

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id=self._experiment)

    def search_runs(self, *args, **kwargs) -> PagedList:
        return PagedList([], None)

    def create_run(self, experiment: str, start_time: int, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        run = f"{len(self._names):032x}"
        self._names[run] = run_name
        for key, value in {**tags, "mlflow.runName": run_name}.items():
            self.set_tag(run, key, value)
        return SimpleNamespace(info=SimpleNamespace(run_id=run))

    def log_batch(self, run: str, metrics=(), params=(), tags=()) -> None:
        self._metrics += [(m.key, m.value, m.timestamp, run, m.step, 0) for m in metrics]
        self._params |= {(p.key, run): p.value for p in params}
        self._tags |= {(t.key, run): t.value for t in tags}

    def set_tag(self, run: str, key: str, value: str) -> None:
        self._tags[key, run] = value

    def set_terminated(self, run: str, status: str, end_time: int) -> None:
        self._ends[run] = status

    def log_artifact(self, run: str, file: str, folder: str | None) -> None:
        kept = self._folder(run) / Path(file).name
        kept.parent.mkdir(parents=True, exist_ok=True)
        Path(file).replace(kept)

    def _folder(self, run: str) -> Path:
        return self._artifacts / run / "artifacts"

    def write(self, database: Path) -> None:
        """Into a database that MLflow made."""
        runs = [
            (run, name, self._ends[run], at, at + 1, "active", str(self._folder(run)), int(self._experiment), "unknown")
            for at, (run, name) in enumerate(self._names.items())
        ]
        latest = {(key, run): (key, value, at, run, step, nan) for key, value, at, run, step, nan in self._metrics}
        metric = ("key", "value", "timestamp", "run_uuid", "step", "is_nan")
        rows = {
            ("runs", "run_uuid", "name", "status", "start_time", "end_time", "lifecycle_stage", "artifact_uri",
             "experiment_id", "user_id"): runs,
            ("tags", "key", "run_uuid", "value"): [(*of, value) for of, value in self._tags.items()],
            ("params", "key", "run_uuid", "value"): [(*of, value) for of, value in self._params.items()],
            ("metrics", *metric): self._metrics,
            ("latest_metrics", *metric): latest.values(),
        }  # fmt: skip
        with contextlib.closing(sqlite3.connect(database)) as opened, opened:
            for (table, *columns), values in rows.items():
                places = ",".join("?" * len(columns))
                opened.executemany(f"insert into {table} ({','.join(columns)}) values ({places})", values)


def _quality(job: Job) -> float:
    """How good the job's net is, in log odds: by its cell, its values and its seed; best near the published rate."""
    cell, _, _ = job.study.partition(" @")
    rate = math.log(job.trial.optim.lr / 0.1)
    values = getattr(job.trial.method, "alpha10", 0.5) - 0.3 * rate**2
    return 2 * _drawn(cell).random() + values + SPREAD * _drawn(job.trial.key).normal()


def _drawn(*words: object) -> np.random.Generator:
    return np.random.default_rng(derive(0, *words) % 2**64)


def _rows(job: Job) -> Iterator[dict[str, float]]:
    """The epochs of a run: validated at every `measure.watch`, best a little before the end."""
    trial, quality = job.trial, _quality(job)
    for epoch in range(1, trial.epochs + 1):
        row = {"epoch": epoch, "seconds": 10.0, "train/ce": 2.3 * math.exp(-3 * epoch / trial.epochs)}
        if epoch % trial.measure.watch == 0 or epoch == trial.epochs:
            ready = quality - 2 * (0.8 - epoch / trial.epochs) ** 2
            row |= {"curve/robust": _share(ready - 1), "curve/clean": _share(ready + 2)}
        yield row


def _outcome(job: Job, place: Place, images: int) -> Outcome:
    """Scores of a job that came to its end; of a seed run also on test, with its files."""
    if job.role == "search" and _drawn("fails", job.trial.key).random() < FAILS:
        return Outcome("failed", 1, reason="Diverged: the loss is nan in epoch 1")
    parts = ("val", "test") if job.role == "seed" else ("val",)
    sizes = {"val": max(1, images // 10), "test": images}
    scores = [score for part in parts for score in _scores(job, part, sizes[part])]
    seconds = {"train": 10.0 * job.trial.epochs, **dict.fromkeys(parts, 30.0)}
    checksums = {part: f"{derive(0, part):016x}" for part in ("train", "val", "test")}
    checks = [Check("reach", True, {}, "10 steps of 2/255 go 2.50 times eps")] if "test" in parts else []
    machine = {"device": "cpu (x86_64)", "threads": "1", "python": "3.11"}
    result = Result(job.trial, scores, [], seconds, checksums, machine, len(parts) - 1, checks)
    if "test" in parts:
        kept = place.trial(job.trial.key)
        save_images(kept / "test.npz", (s for s in scores if s.name.startswith("test/")))
        shutil.copy(place.out / PICTURES, kept)
    return Outcome("complete", job.trial.epochs, result)


def _keep_pictures(place: Place) -> None:
    """The gallery of an untrained net: as large as that of a trained one."""
    trial = build({"data": "shapes", "data.limit": 100})
    data = datasets.load(trial.data, place)
    net = models.build(trial.model, data.channels, len(data.classes)).eval()
    gallery.keep(place.out / PICTURES, net, data, trial.measure, trial.attribution)


def _scores(job: Job, part: str, images: int) -> list[Score]:
    """Every score of the trial's suites: an image is right where the net's quality tops how hard it is."""
    trial = job.trial
    suite = suites.named(trial.measure.suites)(Subject(trial.measure, Attribution(), SHAPE))
    difficulty = _drawn(part).logistic(size=images)
    draws, quality = _drawn(part, trial.key), _quality(job)
    values: dict[str, torch.Tensor] = {}
    for name, item in suite.items():
        if isinstance(item, Combined):
            values[name] = item(values)
        else:
            level = quality + 2 - 0.4 * float(re.search(r"-([\d.]+)$|$", name)[1] or 0)
            values[name] = torch.from_numpy(level + 0.5 * draws.standard_normal(images) > difficulty).float()
    return [Score.of(f"{part}/{name}", right, {"made": "up"}) for name, right in values.items()]


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
