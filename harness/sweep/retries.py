"""Retries of trials whose Ray worker died: a limited number per epoch, within the trial's time limit."""

import time
from typing import Any, Literal

from ray import tune
from ray.tune.experiment import Trial

from harness.sweep.job_router import JobRouter
from harness.sweep.job_types import Outcome
from harness.sweep.ray_internals import NODE_DIED, allow_failures, failure_lines

RETRIES = 2  # of a trial without a new completed epoch


def failure_config() -> tune.FailureConfig:
    """A trial whose worker died is started again, from its last epoch, so many times."""
    return tune.FailureConfig(max_failures=RETRIES)


def renew(trial: Trial) -> None:
    """Allow a trial that has completed an epoch all retries again."""
    allow_failures(trial, RETRIES)


def give_up(trial: Trial) -> None:
    """Do not start a trial again whose outcome is known, if its worker dies before it returns."""
    allow_failures(trial, 0)


class WorkerLoss(tune.Callback):
    """Ray callback that reports started jobs, replaced workers, and jobs that Ray gave up.

    The seconds that a trial has run go with it to its next worker, on whatever node, as `used` in its config.
    """

    def __init__(self, router: JobRouter):
        self._router = router
        self._began: dict[str, float] = {}  # trial -> when its worker did

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        for trial in trials:  # that Ray ended silently, such as one whose worker could not be used again
            if trial.status == Trial.ERROR and trial.trial_id in self._router.jobs:
                self._router.on_end(trial.trial_id, Outcome("failed", 0, reason="Ray gave it up", cause="machine"))

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.trial_id in self._router.jobs:  # a stored result can arrive before Ray's notice of the start
            self._began[trial.trial_id] = time.monotonic()
            self._router.on_start(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if began := self._began.pop(trial.trial_id, None):
            trial.config["used"] += time.monotonic() - began
        self._router.on_worker_lost(trial.trial_id, self._why(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._began.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._began.pop(trial.trial_id, None)
        node_died = any(NODE_DIED in line for line in failure_lines(trial))
        cause: Literal["trial", "machine"]
        cause = "machine" if node_died or trial.trial_id in self._router.devices_lost else "trial"
        reason = f"its worker died: {self._why(trial)}"
        epoch = self._router.epochs.get(trial.trial_id, 0)
        self._router.on_end(trial.trial_id, Outcome("failed", epoch, reason=reason, cause=cause))

    def _why(self, trial: Trial) -> str:
        """What the worker told of a lost GPU, else the first line of Ray's error file, or the last of a traceback."""
        if told := self._router.devices_lost.pop(trial.trial_id, ""):
            return f"it lost its GPU: {told}"
        lines = failure_lines(trial)
        return (lines or ["unknown cause"])[-1 if any("Traceback" in line for line in lines) else 0][:500]
