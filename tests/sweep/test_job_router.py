"""Whatever Ray reports of its trials, in whatever order: every job ends once, and no report stops the sweep."""

import logging
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial

from harness.config.trial import build
from harness.sweep import retries
from harness.sweep.job_router import JobRouter
from harness.sweep.job_types import Job, Outcome
from harness.sweep.retries import WorkerLoss

TRIAL = build({})


class Source:
    """So many jobs, with moments at which there is none. It asks for a stop at every third epoch of any job."""

    def __init__(self, number):
        self.left = [Job("study", "search", n, TRIAL) for n in range(number)]
        self.ended, self.asked = [], 0

    def next(self):
        self.asked += 1
        return self.left.pop(0) if self.left and self.asked % 3 else None

    def take_ended(self):
        return []

    def on_epoch(self, job, row):
        return row["epoch"] % 3 == 0

    def on_end(self, job, outcome):
        self.ended.append(job.id)


class Witness:
    """A callback that fails the test on anything it should not be told."""

    def __init__(self):
        self.ended, self.epochs, self.lost = [], {}, []

    def on_start(self, job):
        assert job.id not in self.ended

    def on_epoch(self, job, row):
        assert job.id not in self.ended and row["epoch"] > self.epochs.get(job.id, 0)
        self.epochs[job.id] = row["epoch"]

    def on_worker_lost(self, job, why):
        assert job.id not in self.ended
        self.lost.append(job.id)

    def on_end(self, job, outcome):
        assert job.id not in self.ended
        self.ended.append(job.id)


@pytest.fixture
def routed():
    source, witness = Source(12), Witness()
    return JobRouter(source, [witness]), source, witness


@pytest.mark.parametrize("seed", range(50))
def test_reports_in_any_order_end_each_job_once_and_stop_nothing(seed, routed):
    router, source, witness = routed
    chance, begun = random.Random(seed), {}
    for _ in range(400):
        trial = f"t{chance.randrange(16)}"  # more than there are jobs, so some are never known
        event = chance.choice(("next", "start", "epoch", "epoch", "lost", "end"))
        known, running = trial in begun, trial in router.jobs
        if event == "next":
            job = router.next_job(trial)
            assert not (job and known)
            if job:
                begun[trial] = job.id
        elif event == "start":
            router.on_start(trial)
        elif event == "epoch":
            epoch = chance.randint(1, 9)
            new = running and epoch > router.epochs[trial]
            stop = router.on_epoch(trial, {"epoch": epoch})
            assert stop == (epoch % 3 == 0 if new else not running)
        elif event == "lost":
            router.on_worker_lost(trial, "killed")
        else:
            router.on_end(trial, Outcome("pruned", router.epochs.get(trial, 0)))
            assert trial not in router.jobs
    for trial in begun:
        router.on_end(trial, Outcome("failed", 0, reason="the end"))
    assert router.error is None
    assert Counter(source.ended) == Counter(witness.ended) == Counter(begun.values()) == Counter(set(begun.values()))
    assert len(begun) > 6 and witness.lost and witness.epochs and not router.jobs


def test_what_is_ignored_is_logged(routed, caplog):
    router, _, witness = routed
    with caplog.at_level(logging.INFO):
        router.next_job("t")
        router.on_end("t", Outcome("complete", 3))
        router.on_worker_lost("t", "killed")  # between its last report and its return
        assert router.on_epoch("t", {"epoch": 1})  # started again: to be stopped
        router.on_start("other")
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    assert caplog.messages[0] == "ignored: loss of the worker of trial t, which has ended"
    assert caplog.messages[2] == "ignored: start of trial other, which is unknown"
    assert len(witness.ended) == 1 and not witness.lost and router.error is None


@pytest.mark.parametrize("part", ["next", "on_epoch", "on_end"])
def test_errors_of_the_driver_itself_are_kept(part, routed, monkeypatch):
    router, source, witness = routed

    def wrong(*given):
        raise ZeroDivisionError(part)

    monkeypatch.setattr(source, part, wrong)
    if part != "next":
        router.next_job("t")
    if part == "next":
        assert router.next_job("t") is None
    elif part == "on_epoch":
        assert not router.on_epoch("t", {"epoch": 1})
    else:
        router.on_end("t", Outcome("complete", 1))
        router.on_end("t", Outcome("complete", 1))  # no outcome is told after an error
        assert len(witness.ended) == 1
    assert isinstance(router.error, ZeroDivisionError) and str(router.error) == part


def test_a_trial_that_ray_ends_without_a_word_is_the_machines(routed):
    """Ray calls nobody where a worker is not free in time to be used again."""
    router, source, witness = routed
    while (job := router.next_job("silent")) is None:
        pass
    router.next_job("going")
    silent, going = (
        SimpleNamespace(trial_id=name, status=status)
        for name, status in (("silent", Trial.ERROR), ("going", Trial.RUNNING))
    )
    loss = WorkerLoss(router)
    for _ in range(2):
        loss.on_step_begin(1, [silent, going])
    assert witness.ended == source.ended == [job.id] and "silent" not in router.jobs


def test_the_time_of_a_worker_that_died_goes_with_its_trial(routed, monkeypatch):
    """And nothing of the time in which no worker ran it."""
    router, _, witness = routed
    now = [100.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    trial = SimpleNamespace(trial_id="t", config={"limit": 60.0, "used": 0.0}, error_file=None)
    while router.next_job("t") is None:
        pass
    loss = WorkerLoss(router)
    for ran, waited in ((20.0, 1000.0), (5.0, 0.0)):
        loss.on_trial_start(1, [trial], trial)
        now[0] += ran
        loss.on_trial_recover(1, [trial], trial)
        now[0] += waited
    loss.on_trial_recover(1, [trial], trial)  # lost before it began
    assert trial.config == {"limit": 60.0, "used": 25.0} and len(witness.lost) == 3
