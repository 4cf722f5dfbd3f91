"""Mapping between Ray trials and jobs: dispatches jobs, forwards epochs and outcomes to callbacks."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

from harness.sweep.job_types import Callback, Job, JobSource, Outcome

_log = logging.getLogger(__name__)


class JobRouter:
    """Connects Ray Tune with a `JobSource` and callbacks, and tracks which Ray trial runs which job.

    Ray may report on a trial that has no job: a worker can die after its last report, and another one then starts its
    trial again. Such reports are ignored and logged. An exception of the source or of a callback is stored as `error`.
    """

    def __init__(
        self,
        source: JobSource,
        callbacks: Sequence[Callback],
        check: Callable[[], None] = lambda: None,
        on_wait: Callable[[], None] = lambda: None,
    ):
        self.source, self.callbacks, self._check, self.on_wait = source, callbacks, check, on_wait
        self.jobs: dict[str, Job] = {}  # of the trials that have begun and not ended
        self.epochs: dict[str, int] = {}  # the last one of every trial, also of those that have ended
        self.devices_lost: dict[str, str] = {}  # trial -> the last error that cost its worker the GPU
        self.started: set[str] = set()  # trials whose worker has begun
        self.error: Exception | None = None

    def next_job(self, trial_id: str) -> Job | None:
        """The job that a new trial is to run; None if there is none at the moment."""
        if trial_id in self.epochs:
            _log.warning("ignored: trial %s asks for another job", trial_id)
            return None
        with self._guarded():
            job = self.source.next()
            while self._end_unrun() and not job:  # which may have been what others waited for
                job = self.source.next()
            if job:
                self.jobs[trial_id] = job
                self.epochs[trial_id] = 0
            return job
        return None

    def _end_unrun(self) -> bool:
        """Report the jobs that ended without being run. Returns whether there were any."""
        ended = self.source.take_ended()
        for job, outcome in ended:
            self._finish(job, outcome)
        return bool(ended)

    def on_start(self, trial_id: str) -> None:
        if job := self._job(trial_id, "start"):
            self.started.add(trial_id)
            with self._guarded():
                for callback in self.callbacks:
                    callback.on_start(job)

    def on_worker_lost(self, trial_id: str, why: str) -> None:
        self.started.discard(trial_id)
        if job := self._job(trial_id, "loss of the worker"):
            with self._guarded():
                for callback in self.callbacks:
                    callback.on_worker_lost(job, why)

    def on_progress(self, trial_id: str, done: int, total: int) -> None:
        if job := self._job(trial_id, "progress"):
            with self._guarded():
                for callback in self.callbacks:
                    callback.on_progress(job, done, total)

    def on_epoch(self, trial_id: str, row: dict) -> bool:
        """Receive an epoch's metrics. Returns whether to stop the trial, as one that has no job."""
        job = self._job(trial_id, "epoch")
        if job is None:
            return True
        if row["epoch"] <= self.epochs[trial_id]:  # repeated after a worker was replaced
            return False
        with self._guarded():
            self.epochs[trial_id] = row["epoch"]
            for callback in self.callbacks:
                callback.on_epoch(job, row)
            return self.source.on_epoch(job, row)
        return False

    def on_end(self, trial_id: str, outcome: Outcome) -> None:
        job = self._job(trial_id, "end")
        if job is None or self.error:
            return
        outcome = dataclasses.replace(outcome, epoch=max(outcome.epoch, self.epochs[trial_id]))
        with self._guarded():
            self._finish(job, outcome)
            self._end_unrun()
            del self.jobs[trial_id]
            self.started.discard(trial_id)

    def _job(self, trial_id: str, event: str) -> Job | None:
        """The job of a trial; None, with the event logged, if the trial has ended or is unknown."""
        job = self.jobs.get(trial_id)
        if job is None and trial_id in self.epochs:
            _log.info("ignored: %s of trial %s, which has ended", event, trial_id)
        elif job is None:
            _log.warning("ignored: %s of trial %s, which is unknown", event, trial_id)
        return job

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

    def _finish(self, job: Job, outcome: Outcome) -> None:
        for callback in self.callbacks:  # before the study, so that every trial finished there is tracked
            callback.on_end(job, outcome)
        self.source.on_end(job, outcome)

    def __getstate__(self) -> dict:
        """Empty state: Ray pickles the searcher for its restore feature, which is not used here."""
        return {}
