"""Overhead benchmark with dummy trials: Optuna, Ray, event log and MLflow delivery per trial, over a long sweep.

Everything but the trial itself is real. More cores than the machine has can be declared to Ray, so that one machine
schedules as many concurrent trials as a large cluster.
"""

import contextlib
import dataclasses
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import sweep_driver
from harness.config.trial import Trial
from harness.errors import UserError
from harness.evaluation.evaluator import Progress, no_progress
from harness.evaluation.scores import Score
from harness.storage.sealed_json import read_json, write_json
from harness.storage.workspace import Workspace
from harness.sweep import job_queue, optuna_journal, plan
from harness.sweep.job_types import Callback, Job, JobSource, Outcome
from harness.sweep.ray_internals import DECLARED
from harness.sweep.request import Request
from harness.sweep.study import Study
from harness.tracking import event_log
from harness.tracking.delivery import Delivery
from harness.tracking.mlflow_client import sqlite_uri
from harness.tracking.sweep_tags import sweep_tags
from harness.tracking.tracker import Tracker
from harness.training.epoch_metrics import EpochMetrics
from harness.trials.result import Result

SPACE, EPOCHS, SEEDS = "smoke", 2, 2  # SEEDS repetitions of the winner, required for a report
SLEEP_FILE = "asleep.json"  # under the output folder: seconds that each trial sleeps
MIN_TRIALS = SEEDS + 1
WINDOWS = 10  # groups of consecutive trials, of equal size
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss


def dummy_trial(
    trial: Trial,
    workspace: Workspace,
    *,
    report: Callable[[EpochMetrics], None],
    progress: Progress = no_progress,
    test: bool = False,
) -> Result:
    """Stand-in for `harness.trials.run.run`: two epochs, a sleep, and a score that peaks at a learning rate of 0.1."""
    quality = 1 / (2 + math.log(trial.optim.lr / 0.1) ** 2)
    rows = [{"epoch": epoch, "seconds": 0.0, "curve/robust": epoch * quality} for epoch in range(1, EPOCHS + 1)]
    for row in rows:
        report(row)
    time.sleep((read_json(workspace.out / SLEEP_FILE) or {"seconds": 0})["seconds"])
    parts = ("val", "test") if test else ("val",)
    scores = [Score(f"{part}/{name}", quality, 0.01, 100) for part in parts for name in ("clean", "robust")]
    write_json(workspace.trial(trial.key) / "result.json", {"scores": [score.record() for score in scores]})
    return Result(trial, scores, rows, {"train": 0.0, "val": 0.0}, {"train": "none", "val": "none"})


def fleet(
    trials: int,
    folder: Path,
    *,
    declared: int | None = None,
    cpus: float = 1,
    sleep: float = 0.0,
    tracked: bool = True,
) -> dict:
    """Run a sweep of dummy trials in `folder`. Raises `UserError` if not all of them end.

    declared: cores declared to Ray; cpus: cores per trial; sleep: seconds per trial; tracked: whether events are logged
    and delivered to a SQLite store.

    Returns slots: possible concurrent trials; at_once: largest number reached; full: seconds until then; first,
    makespan: seconds until the first and last trial ended; ideal: makespan without overhead. windows: per tenth of the
    trials, seconds per trial, CPU seconds per trial of the driver's loop and process, and its peak memory so far (MiB).
    If tracked, also `uri` and `experiment`; events: lines of the log; behind: seconds of delivery after the last trial.

    Without sleep, halving prunes trials as in a sweep; with sleep it is off, so that the ideal is known.
    """
    settings = {"epochs": EPOCHS, "measure.watch": 1}
    request = Request(SPACE, settings=settings, seeds=SEEDS, trials=trials - SEEDS, out=str(folder))
    planned = plan.plan(request)
    space = dataclasses.replace(planned.space, halving=0 if sleep else planned.space.halving)
    named = dataclasses.replace(planned.named, space=space)
    planned = dataclasses.replace(planned, named=named, studies=dict([next(iter(planned.studies.items()))]))
    workspace = Workspace(folder.absolute(), folder.absolute()).writable()
    write_json(workspace.out / SLEEP_FILE, {"seconds": sleep})
    if not tracked:
        (name, cell), *_ = planned.studies.items()
        study = Study(
            name, space, cell, planned.trials, optuna_journal.open_journal(workspace.out / "optuna.journal"), 0
        )
        source = job_queue.SweepJobs([study], SEEDS, lambda *_: None, lambda _: False)
        return _timed(source, workspace, trials, [], declared=declared, cpus=cpus, sleep=sleep)
    uri = sqlite_uri(workspace.out / "mlflow.db")
    tracker = Tracker(workspace, planned.experiment, sweep_tags(planned))
    with Delivery(uri, tracker.log, workspace) as delivery:
        source = job_queue.SweepJobs(
            sweep_driver.open_studies(planned, workspace, tracker), SEEDS, tracker.on_winners, tracker.is_complete
        )
        took = _timed(source, workspace, trials, [tracker], declared=declared, cpus=cpus, sleep=sleep)
        tracker.close()
        began = time.perf_counter()
        delivery.caught_up()
        took["behind"] = time.perf_counter() - began
    if failure := delivery.failure():
        raise UserError(failure)
    events = sum(1 for _ in event_log.read_events(tracker.log))
    return {**took, "events": events, "uri": uri, "experiment": planned.experiment}


def _timed(
    source: JobSource,
    workspace: Workspace,
    trials: int,
    callbacks: list[Callback],
    *,
    declared: int | None,
    cpus: float,
    sleep: float,
) -> dict:
    from harness.sweep import cluster, ray_runner, trial_slots

    with _declared(declared):
        cluster.connect(None)
    try:
        slots = trial_slots.Slots(cpus, 0, trial_slots.slots(cpus, 0, trial_slots.cluster_resources()))
        clock = _Clock(max(1, trials // WINDOWS))
        work = f"{__name__}:{dummy_trial.__name__}"
        ray_runner.run_jobs(source, workspace, slots=slots, callbacks=[*callbacks, clock], work=work)
    finally:
        cluster.disconnect()
    if clock.failed:
        raise UserError(f"{len(clock.failed)} of {trials} trials failed, the first one: {clock.failed[0]}")
    if clock.ended < trials:
        raise UserError(f"interrupted after {clock.ended} of {trials} trials")
    ideal = (
        sum(math.ceil(count / slots.at_once) for count in (trials - SEEDS, SEEDS)) * sleep
    )  # repetitions start after the search
    return {"trials": trials, "slots": slots.at_once, "sleep": sleep, "ideal": ideal, **clock.figures()}


def read_back(uri: str, experiment: str, folder: Path) -> dict[str, float]:
    """Seconds to read all runs of an experiment from its store, and the cost of their report (`bench.report`)."""
    from harness.bench import report
    from reports.read import runs

    began = time.perf_counter()
    table = runs.read(uri, experiment)
    took = time.perf_counter() - began
    return {"runs": len(table), "read_seconds": took, **report.written(uri, folder)}


@contextlib.contextmanager
def _declared(cpus: int | None) -> Iterator[None]:
    """Declare so many cores to Ray nodes started in this context; None leaves the real number."""
    before = os.environ.get(DECLARED)
    if cpus:
        os.environ[DECLARED] = json.dumps({"CPU": cpus})
    try:
        yield
    finally:
        if cpus:
            os.environ.pop(DECLARED)
        if before is not None:
            os.environ[DECLARED] = before


class _Clock:
    """Callback that samples wall, CPU and memory use after every `width` ended jobs."""

    def __init__(self, width: int):
        self.width, self.began = width, time.perf_counter()
        self.running: set[str] = set()
        self.ended = self.at_once = 0
        self.failed: list[str] = []
        self.full = self.first = self.last = 0.0
        self.samples: list[tuple[int, float, float, float, float]] = []

    def on_start(self, job: Job) -> None:
        self.running.add(job.id)
        if len(self.running) > self.at_once:
            self.at_once, self.full = len(self.running), time.perf_counter()

    def on_epoch(self, job: Job, row: EpochMetrics) -> None:
        pass

    def on_progress(self, job: Job, done: int, total: int) -> None:
        pass

    def on_worker_lost(self, job: Job, why: str) -> None:
        pass

    def on_end(self, job: Job, outcome: Outcome) -> None:
        self.running.discard(job.id)
        self.failed += [outcome.reason] if outcome.state == "failed" else []
        self.ended += 1
        self.last = time.perf_counter()
        self.first = self.first or self.last
        if self.ended == 1 or self.ended % self.width == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20
            self.samples.append((self.ended, self.last, time.thread_time(), time.process_time(), peak))

    def figures(self) -> dict:
        windows = []
        for before, after in zip(self.samples, self.samples[1:], strict=False):
            count, wall, loop, process = (b - a for a, b in zip(before[:4], after[:4], strict=True))
            seconds = {"seconds": wall / count, "loop_cpu": loop / count, "process_cpu": process / count}
            windows.append({"until": after[0], **seconds, "peak_mib": after[4]})
        since = {name: getattr(self, name) - self.began for name in ("first", "full")}
        return {**since, "at_once": self.at_once, "makespan": self.last - self.began, "windows": windows}
