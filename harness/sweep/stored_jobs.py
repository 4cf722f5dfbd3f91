"""What a sweep need not run: teachers and maps that are stored and logged, and seed runs that lack nothing."""

import functools
from collections.abc import Callable
from typing import Protocol

from harness.data import datasets
from harness.storage.workspace import Workspace
from harness.sweep.job_types import Job
from harness.trials.prerequisites import prerequisites
from harness.trials.run import measured_later


class JobLog(Protocol):
    """What is logged of the jobs of a sweep, also by earlier commands."""

    def is_complete(self, job: Job) -> bool:
        """Whether the job's run is logged as complete."""

    def measured(self, job: Job, split: str) -> dict[str, int]:
        """Names of a complete job's scores of a split, without it, and the versions they were measured by."""


def missing_needs(log: JobLog, workspace: Workspace) -> Callable[[Job], list[Job]]:
    """A function: the teachers and maps that a job needs, of those that are not stored, or not logged by this sweep."""
    made: set[str] = set()

    def needs(of: Job) -> list[Job]:
        found = []
        for needed in of.prerequisite.needs() if of.prerequisite else prerequisites(of.trial):
            job = Job.of(needed)
            if job.id not in made and log.is_complete(job) and needed.is_made(workspace):
                made.add(job.id)
            if job.id not in made:
                found.append(job)
        return found

    return needs


def is_done(log: JobLog, workspace: Workspace) -> Callable[[Job], bool]:
    """A function: whether a seed run is complete, and its suites have gained nothing to measure on its weights."""
    test_images = functools.cache(lambda source: datasets.load(source, workspace).test)

    def done(job: Job) -> bool:
        if not log.is_complete(job):
            return False
        return not measured_later(job.trial, log.measured(job, "test"), test_images(job.trial.data), workspace)

    return done
