"""Run jobs in parallel with Ray Tune, on this machine or on a cluster.

Ray Tune schedules trials, restarts those whose worker died, and reuses workers. A `JobSource` decides what runs and
what is pruned; trials checkpoint and resume by themselves.
"""

import contextlib
import dataclasses
import logging
import math
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from harness.errors import UserError
from harness.storage import provenance
from harness.storage.workspace import Workspace
from harness.sweep import ray_internals, stop_signals
from harness.sweep.job_router import JobRouter
from harness.sweep.job_types import Callback, JobSource, Outcome
from harness.sweep.ray_folder import RUN
from harness.sweep.ray_internals import forget_ended
from harness.sweep.retries import WorkerLoss, failure_config, give_up, renew
from harness.sweep.trial_slots import Slots
from harness.sweep.worker import run_job

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

PATIENCE = 15.0  # seconds in which a job starts where a node has room


def run_jobs(
    source: JobSource,
    workspace: Workspace,
    *,
    slots: Slots,
    callbacks: Sequence[Callback],
    limit: float | None = None,
    work: str = "harness.trials.run:run",
    check: Callable[[], None] = lambda: None,
    on_wait: Callable[[], None] = lambda: None,
) -> bool:
    """Run all jobs of the source; repetitions of winners are also tested.

    limit: seconds after which an unfinished job fails, those of all its workers together. work: `module:function` that
    runs a trial in a worker, with the signature of `harness.trials.run.run`. check: called again and again; its
    exception ends the run. on_wait: called when no job has started for `PATIENCE` seconds.

    Returns whether the source is finished; False after an interruption. Raises exceptions of the source and callbacks,
    and `UserError`s of workers; running jobs then get no outcome and can be resumed.
    """
    if source.finished():
        return True
    router = JobRouter(source, callbacks, check, on_wait)
    name = f"ray-{uuid.uuid4().hex[:8]}"
    trainable = tune.with_resources(run_job, {"cpu": slots.cpus, "gpu": slots.gpus})
    tuner = tune.Tuner(
        trainable,
        param_space={
            "workspace": dataclasses.astuple(workspace),
            "work": work,
            "limit": limit,
            "used": 0.0,  # seconds of it, by earlier workers of the trial
            "code": {"digest": provenance.digest(), "commit": provenance.commit()},
        },
        tune_config=tune.TuneConfig(
            search_alg=_JobSearcher(router),
            scheduler=_StopOnRequest(router),
            num_samples=-1,  # unlimited: the searcher ends the run
            max_concurrent_trials=slots.at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(workspace.out / RUN),
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # the one that Ray finds for a notebook clears what the cell printed
            callbacks=[WorkerLoss(router), _Wait(router), _NoProgress()],
            stop=_StopOnError(router),
            failure_config=failure_config(),
        ),
    )
    ray_internals.pass_on_no_credentials()
    try:
        with _muted("ray.tune"), stop_signals.restored():
            tuner.fit()
    finally:
        shutil.rmtree(workspace.out / RUN, ignore_errors=True)
    if router.error:
        raise router.error
    return source.finished() and not router.jobs


class _JobSearcher(Searcher):
    """Ray searcher that suggests the jobs of a `JobSource`."""

    def __init__(self, router: JobRouter):
        super().__init__()
        self._router = router

    def suggest(self, trial_id: str) -> dict | str | None:  # type: ignore[override]  # Ray forgets FINISHED, a str
        job = self._router.next_job(trial_id)
        if job is None:
            return Searcher.FINISHED if self._router.source.finished() else None
        maps = dataclasses.asdict(job.maps) if job.maps else None
        return {"settings": job.trial.flat(), "role": job.role, "maps": maps}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """No-op: outcomes arrive as reports, or by `WorkerLoss`."""

    def save(self, checkpoint_path: str) -> None:
        """No-op: the Optuna journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """No-op: the Optuna journal is the state."""


class _StopOnRequest(FIFOScheduler):
    """Ray scheduler that forwards reports, and stops a trial if the `JobSource` prunes it.

    When a trial ends, those that ended before are forgotten, so that a step costs the same however many there were.
    """

    def __init__(self, router: JobRouter):
        super().__init__()
        self._router = router

    def on_trial_result(self, tune_controller: "TuneController", trial: Trial, result: dict) -> str:
        if "user_error" in result:
            self._router.error = self._router.error or UserError(result["user_error"])
        elif "device_lost" in result:
            self._router.devices_lost[trial.trial_id] = result["device_lost"]
        elif "outcome" in result:
            give_up(trial)
            self._router.on_end(trial.trial_id, result["outcome"])
        elif "progress" in result:
            self._router.on_progress(trial.trial_id, *result["progress"])
        elif "row" in result:
            row = dict(result["row"])
            if row["epoch"] > self._router.epochs.get(trial.trial_id, 0):
                renew(trial)
            if self._router.on_epoch(trial.trial_id, row):
                self._router.on_end(trial.trial_id, Outcome("pruned", row["epoch"]))
                return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: "TuneController", trial: Trial, result: dict) -> None:
        forget_ended(tune_controller, but=trial)  # not where one fails: Ray may start it again in the same step


class _NoProgress(TrialProgressCallback):
    """In the place of the callback that Ray adds otherwise, which keeps every trial, and prints nothing here."""

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        """No-op."""

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """No-op."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """No-op."""


class _Wait(tune.Callback):
    """Ray callback that notices, once each time, that jobs wait and none runs."""

    def __init__(self, router: JobRouter):
        self._router = router
        self._since: float | None = None

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._router.started or not self._router.jobs:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > PATIENCE:
            self._since = math.inf
            self._router.on_wait()


class _StopOnError(tune.Stopper):
    """Ray stopper that ends the run after an error in the driver, or a user error in a worker."""

    def __init__(self, router: JobRouter):
        self._router = router

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(vars(self._router)) and self._router.failed()  # the router of a pickled copy is empty


@contextlib.contextmanager
def _muted(logger: str) -> Iterator[None]:
    """Silence a logger: Ray prints long traces for dead workers, whose trials continue elsewhere."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
