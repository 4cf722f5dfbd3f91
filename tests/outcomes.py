"""Outcomes of jobs, made up: for tests of the search, which trains nothing."""

from harness.evaluation.scores import Score
from harness.sweep.job_types import Job, Outcome
from harness.trials.result import Result


def finished(job: Job, **scores: float) -> Outcome:
    """A complete job with these scores; `val_robust` stands for the name `val/robust`."""
    named = [Score(name.replace("_", "/"), value, 0.0, 1) for name, value in scores.items()]
    return Outcome("complete", 9, Result(job.trial, named, [], {}, {}))
