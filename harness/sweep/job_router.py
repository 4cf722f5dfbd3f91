"""Mapping between Ray trials and jobs: dispatches jobs, forwards epochs and outcomes to callbacks."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from harness.sweep.job_types import Callback, Job, JobSource, Outcome


class JobRouter:
    """Connects Ray Tune with a `JobSource` and callbacks, and tracks which Ray trial runs which job."""

    def __init__(self, source: JobSource, callbacks: Sequence[Callback], check: Callable[[], None] = lambda: None):
        self.source, self.callbacks, self._check = source, callbacks, check
        self.jobs: dict[str, Job] = {}
        self.epochs: dict[str, int] = {}
        self.error: Exception | None = None

    def next_job(self, trial_id: str) -> Job | None:
        with self._guarded():
            job = self.source.next()
            while self._end_unrun() and not job:  # which may have been what others waited for
                job = self.source.next()
            if job:
                self.jobs[trial_id] = job
            return job
        return None

    def _end_unrun(self) -> bool:
        """Report the jobs that ended without being run. Returns whether there were any."""
        ended = self.source.take_ended()
        for job, outcome in ended:
            self._finish(job, outcome)
        return bool(ended)

    def on_start(self, trial_id: str) -> None:
        with self._guarded():
            for callback in self.callbacks:
                callback.on_start(self.jobs[trial_id])

    def on_worker_lost(self, trial_id: str, why: str) -> None:
        with self._guarded():
            for callback in self.callbacks:
                callback.on_worker_lost(self.jobs[trial_id], why)

    def on_progress(self, trial_id: str, done: int, total: int) -> None:
        with self._guarded():
            for callback in self.callbacks:
                callback.on_progress(self.jobs[trial_id], done, total)

    def on_epoch(self, trial_id: str, row: dict) -> bool:
        with self._guarded():
            return self._on_epoch(trial_id, row)
        return False

    def on_end(self, trial_id: str, outcome: Outcome) -> None:
        with self._guarded():
            self._on_end(trial_id, outcome)

    def failed(self) -> bool:
        """Whether an exception ends the run, the driver's check included."""
        with self._guarded():
            self._check()
        return self.error is not None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Store the first exception of the driver's code; it is raised after Ray Tune has stopped cleanly."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def _on_epoch(self, trial_id: str, row: dict) -> bool:
        job = self.jobs[trial_id]
        if row["epoch"] <= self.epochs.get(trial_id, 0):  # repeated after a worker was replaced
            return False
        self.epochs[trial_id] = row["epoch"]
        for callback in self.callbacks:
            callback.on_epoch(job, row)
        return self.source.on_epoch(job, row)

    def _on_end(self, trial_id: str, outcome: Outcome) -> None:
        if trial_id not in self.jobs or self.error:
            return
        self._finish(self.jobs[trial_id], outcome)
        self._end_unrun()
        del self.jobs[trial_id]

    def _finish(self, job: Job, outcome: Outcome) -> None:
        for callback in self.callbacks:  # before the study, so that every trial finished there is tracked
            callback.on_end(job, outcome)
        self.source.on_end(job, outcome)

    def __getstate__(self) -> dict:
        """Empty state: Ray pickles the searcher for its restore feature, which is not used here."""
        return {}
