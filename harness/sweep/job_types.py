"""Data types and protocols of a sweep: Job, Outcome, JobSource, Callback."""

from dataclasses import dataclass
from typing import Literal, Protocol

from harness.config.trial import Trial
from harness.training.epoch_metrics import EpochMetrics
from harness.trials.result import Result

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class Job:
    """A trial to run for a study. role: `search` for an Optuna proposal, `seed` for a winner's repetition with test.

    number: of the Optuna trial, or of the repetition. winner: key of the trial that a repetition repeats.
    """

    study: str
    role: Literal["search", "seed"]
    number: int
    trial: Trial
    winner: str = ""

    @property
    def id(self) -> str:
        """Unique name; repetitions include their winner's key, since the winner can change."""
        return f"{self.study} {self.role} {self.winner}#{self.number}"


@dataclass(frozen=True)
class Outcome:
    """Final state of a job. epoch: the last one run; result: if complete; reason: if failed."""

    state: State
    epoch: int
    result: Result | None = None
    reason: str = ""


class JobSource(Protocol):
    """Source of jobs, which also decides on early stopping."""

    def remaining(self) -> int:
        """Number of jobs not yet dispatched, as far as known."""

    def next(self) -> Job | None:
        """The next job; None if there is none at the moment."""

    def finished(self) -> bool:
        """Whether no further job will come."""

    def on_epoch(self, job: Job, row: EpochMetrics) -> bool:
        """Receive an epoch's metrics. Returns whether to prune the job."""

    def on_end(self, job: Job, outcome: Outcome) -> None:
        """Receive the outcome of a job."""


class Callback(Protocol):
    """Observer of jobs, such as the tracker and the progress display."""

    def on_start(self, job: Job) -> None: ...

    def on_epoch(self, job: Job, row: EpochMetrics) -> None: ...

    def on_worker_lost(self, job: Job, why: str) -> None:
        """The worker of a job died; another one continues it."""

    def on_end(self, job: Job, outcome: Outcome) -> None: ...
