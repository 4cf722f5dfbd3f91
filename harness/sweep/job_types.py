"""Data types and protocols of a sweep: Job, Outcome, JobSource, Callback."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from harness.config.trial import Trial
from harness.training.epoch_metrics import EpochMetrics
from harness.training.settings import Maps
from harness.trials.prerequisites import Prerequisite
from harness.trials.result import Result

State = Literal["complete", "pruned", "failed", "duplicate"]
Role = Literal["teacher", "maps", "search", "seed"]


@dataclass(frozen=True)
class Job:
    """A unit of work, which Ray runs as a trial of its own.

    role: `teacher` or `maps` for what trials share, `search` for an Optuna proposal, `seed` for a winner's repetition
    with test. study: of the proposal or the winner; none of what is shared. number: of the Optuna trial, or of the
    repetition. trial: the settings, of maps those of their teacher. winner: key of the trial that a repetition repeats.
    maps: the settings of maps.
    """

    study: str
    role: Role
    number: int
    trial: Trial
    winner: str = ""
    maps: Maps | None = None

    @classmethod
    def of(cls, prerequisite: Prerequisite) -> "Job":
        """The job that makes a teacher or its maps."""
        role: Role = "maps" if prerequisite.maps else "teacher"
        return cls("", role, 0, prerequisite.teacher, maps=prerequisite.maps)

    @property
    def prerequisite(self) -> Prerequisite | None:
        """The teacher or maps that the job makes; None for a trial."""
        return Prerequisite(self.trial, self.maps) if self.is_shared else None

    @property
    def is_shared(self) -> bool:
        """Whether trials of any study may need what the job makes."""
        return self.role in ("teacher", "maps")

    @functools.cached_property
    def key(self) -> str:
        """Key of the trial, the teacher or the maps: equal jobs have equal keys."""
        return self.prerequisite.key if self.prerequisite else self.trial.key

    @property
    def id(self) -> str:
        """Unique name; repetitions include their winner's key, since the winner can change."""
        return f"{self.role} {self.key}" if self.is_shared else f"{self.study} {self.role} {self.winner}#{self.number}"


@dataclass(frozen=True)
class Outcome:
    """Final state of a job. epoch: the last one run; result: of a complete trial; reason and cause: if failed.

    seconds: of a teacher or maps, by phase. cause: `machine` if nothing speaks against the trial itself; it is then not
    spent from the budget. A proposal with the settings of an earlier one of its study is a `duplicate`: it is not run,
    and ends as that one did.
    """

    state: State
    epoch: int
    result: Result | None = None
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    cause: Literal["trial", "machine"] = "trial"


class JobSource(Protocol):
    """Source of jobs, which also decides on early stopping."""

    def remaining(self) -> int:
        """Number of trials not yet dispatched, as far as known."""

    def next(self) -> Job | None:
        """The next job; None if there is none at the moment."""

    def take_ended(self) -> list[tuple[Job, Outcome]]:
        """Jobs that ended without being run since the last call, for `on_end`."""

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

    def on_progress(self, job: Job, done: int, total: int) -> None:
        """Between two epochs, or after the last one: how many of its images or measurements are done."""

    def on_worker_lost(self, job: Job, why: str) -> None:
        """The worker of a job died; another one continues it."""

    def on_end(self, job: Job, outcome: Outcome) -> None: ...
