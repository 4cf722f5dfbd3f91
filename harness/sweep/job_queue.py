"""Job queue of a sweep: search trials of every cell, then seed repetitions of its winners."""

import dataclasses
from collections.abc import Callable

from harness.sweep.job_types import Job, Outcome
from harness.sweep.study import Study
from harness.training.epoch_metrics import EpochMetrics


class SweepJobs:
    """`JobSource` over all studies: search trials of every cell, then seed repetitions of its winners.

    The study with the fewest started trials is next, so the published settings of all cells run first. When a cell's
    search ends, its winners are selected, `on_winners(study, keys)` is called, and the repetitions are queued, except
    those that are complete already by `is_complete`.
    """

    def __init__(
        self,
        studies: list[Study],
        seeds: int,
        on_winners: Callable[[str, list[str]], None],
        is_complete: Callable[[Job], bool],
    ):
        self._studies = {study.name: study for study in studies}
        self._searching = list(studies)
        self._seeds, self._on_winners, self._is_complete = seeds, on_winners, is_complete
        self._repetitions: list[Job] = []
        self._select_winners()

    def remaining(self) -> int:
        searches = sum(study.remaining() for study in self._searching)
        return searches + len(self._searching) * self._seeds + len(self._repetitions)

    def finished(self) -> bool:
        return not self._searching and not self._repetitions

    def next(self) -> Job | None:
        waiting = [study for study in self._searching if study.remaining()]
        if waiting:
            return min(waiting, key=lambda study: study.n_started).next()
        return self._repetitions.pop(0) if self._repetitions else None

    def on_epoch(self, job: Job, row: EpochMetrics) -> bool:
        return job.role == "search" and self._studies[job.study].on_epoch(job, row)

    def on_end(self, job: Job, outcome: Outcome) -> None:
        if job.role == "search":
            self._studies[job.study].on_end(job, outcome)
            self._select_winners()

    def _select_winners(self) -> None:
        """Select the winners of studies whose search has ended, and queue their repetitions."""
        for study in [study for study in self._searching if study.finished()]:
            self._searching.remove(study)
            self._on_winners(study.name, [winner.key for winner in study.winners()])
            self._repetitions += [job for job in seed_jobs(study, self._seeds) if not self._is_complete(job)]


def seed_jobs(study: Study, seeds: int) -> list[Job]:
    """Jobs that repeat a study's winners with new seeds; the search trial itself is not one of them."""
    return [
        Job(study.name, "seed", number, dataclasses.replace(winner, seed=winner.seed + number), winner.key)
        for winner in study.winners()
        for number in range(1, seeds + 1)
    ]
