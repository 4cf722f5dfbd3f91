"""What ends the search of a sweep before all of its trials: a budget of time, or no better trial in any cell.

Both end it in all cells at once, so that every cell has as many trials as the others and the comparison stays fair.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.duration import duration_text
from harness.sweep import ray_addresses
from harness.sweep.estimate import pass_seconds, shapes
from harness.sweep.forecast import task
from harness.sweep.job_types import Job, Outcome
from harness.sweep.plan import Plan
from harness.sweep.request import Request
from harness.sweep.study import Study
from harness.sweep.time_left import TimeLeft
from harness.training.epoch_metrics import EpochMetrics

if TYPE_CHECKING:
    from harness.storage.workspace import Workspace

Jobs = Mapping[str, tuple[Job, Collection[str]]]  # by id and as they start, with the ids of what each waits for
MARGIN = 1.1  # a forecast is trusted to so much


class TimeBudget:
    """Sweep callback that tells whether jobs can still end within a number of seconds, as far as steps were timed.

    Before any step was timed, and without a rate that is known beforehand, all can. clock: seconds.
    spent: seconds of the budget that have passed.
    """

    def __init__(
        self, seconds: float, time_left: TimeLeft, clock: Callable[[], float] = time.monotonic, spent: float = 0.0
    ):
        self.seconds, self._time_left, self._clock = seconds, time_left, clock
        self._until = clock() + seconds - spent

    def left(self) -> float:
        """Seconds of the budget that are left; none are less than 0."""
        return max(0.0, self._until - self._clock())

    def fits(self, jobs: Jobs) -> bool:
        """Whether the running jobs, and these after them, will end within the budget."""
        now = self._clock()
        needed = self._time_left.needed(now, [task(job, waits) for job, waits in jobs.values()])
        return now + MARGIN * (needed or 0.0) <= self._until

    def on_start(self, job: Job) -> None:
        self._time_left.on_start(self._clock(), task(job))

    def on_epoch(self, job: Job, row: EpochMetrics) -> None:
        self._time_left.on_epoch(self._clock(), job.id, int(row["epoch"]), row.get("seconds", 0.0))

    def on_progress(self, job: Job, done: int, total: int) -> None:
        self._time_left.on_progress(job.id, done, total)

    def on_worker_lost(self, job: Job, why: str) -> None:
        self._time_left.on_worker_lost(self._clock(), job.id)

    def on_end(self, job: Job, outcome: Outcome) -> None:
        self._time_left.on_end(self._clock(), job.id, outcome.state)


@dataclass(frozen=True)
class SearchLimits:
    """time: budget of the whole sweep. stop_after: ended trials of every cell without a better one; None for no limit.

    With a budget of time a trial is begun only if all cells can then have as many trials as its own, and all winners
    their seeds, within the budget.
    """

    time: TimeBudget | None = None
    stop_after: int | None = None

    @property
    def callbacks(self) -> list[TimeBudget]:
        """What has to observe the jobs."""
        return [self.time] if self.time else []

    def reached(self, searching: Sequence[Study], next_trials: Callable[[], Jobs]) -> str:
        """Which limit ends the search, in words; "" if none does. next_trials: those that one more would ask for."""
        if self.stop_after and _level(searching) and all(study.stalled() >= self.stop_after for study in searching):
            return f"No better trial among the last {self.stop_after} of every cell ended the search"
        if self.time and not self.time.fits(next_trials()):
            return f"The budget of {duration_text(self.time.seconds)} ended the search"
        return ""

    def allows(self, seed: Job) -> bool:
        """Whether a seed run can end within the budget."""
        return self.time is None or self.time.fits({seed.id: (seed, ())})


def of(planned: Plan, workspace: "Workspace", slots: int) -> SearchLimits:
    """The limits of a plan whose jobs run in so many slots. Its budget of time counts from now.

    On this machine one training step is timed for a first idea of how long jobs take; elsewhere the first ones tell.
    """
    request = planned.request
    if request.budget is None:
        return SearchLimits(stop_after=request.stop_after)
    began = time.monotonic()
    prior = 0.0 if ray_addresses.chosen(request.address) else pass_seconds(planned, workspace)
    time_left = TimeLeft(shapes(planned, workspace), slots, prior)
    return SearchLimits(TimeBudget(request.budget, time_left, spent=time.monotonic() - began), request.stop_after)


def tags(request: Request, ended: str) -> dict[str, str]:
    """The tags of a sweep and its studies about the limits of this request. ended: as of `ending`."""
    limits = {
        "harness.budget": "" if request.budget is None else duration_text(request.budget),
        "harness.stop_after": "" if request.stop_after is None else str(request.stop_after),
    }
    return {"harness.search_end": ended, **limits}


def _level(searching: Sequence[Study]) -> bool:
    return len({study.n_started for study in searching}) == 1


def ending(reached: str, trials: Mapping[str, int], asked: int, seeds_left: int) -> str:
    """What the report says of a search that a limit ended. trials: cell -> number. asked: trials of each cell.

    seeds_left: seed runs that were not begun.
    """
    if not reached:
        return ""
    least, most = min(trials.values()), max(trials.values())
    if least == most:
        text = f"{reached} after {least} of {asked} trials of each cell."
    else:
        listed = ", ".join(f"{cell} {number}" for cell, number in trials.items())
        text = (
            f"{reached} after {least} to {most} of {asked} trials of a cell. The cells are not compared at equal"
            f" budget: {listed}."
        )
    if seeds_left:
        text += f" {seeds_left} seed runs were not begun."
    return f"{text} The same command continues it."
