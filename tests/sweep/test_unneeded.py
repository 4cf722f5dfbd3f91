"""Which weights nothing needs, told while a sweep runs and from the journal of one that has ended. No training."""

import random

import pytest
from outcomes import finished

from harness.config.search_domains import choice, uniform
from harness.config.space import Space
from harness.sweep import job_queue, optuna_journal
from harness.sweep.job_types import Outcome
from harness.sweep.study import Study
from harness.sweep.unneeded import proposed_elsewhere, unneeded
from harness.sweep.winners import select_winners

BASE = {"method": "standard", "epochs": 9, "measure.watch": 1}


def space(**change):
    return Space(**{"base": BASE, "compare": {"one": {}}, "search": {"optim.lr": uniform(0.01, 0.2)}, **change})


class Sweep:
    """A queue of studies in a folder's journal; discarded: keys in the order in which their weights went."""

    def __init__(self, folder, budget=6, prefix="", seeds=0, made=None):
        self.journal = folder / "journal"
        self.storage, made = optuna_journal.open_journal(self.journal), made or space()
        self.studies = [Study(prefix + c.name, made, c, budget, self.storage, 0) for c in made.cells({})]
        self.discarded = []
        self.queue = job_queue.SweepJobs(
            self.studies, seeds, lambda *_: None, lambda _: False, discard=self.discarded.append
        )

    def unneeded(self, *names):
        """As a command finds it that opens the journal."""
        return unneeded(optuna_journal.open_journal(self.journal), names or None)


def test_the_best_so_far_stays_and_goes_when_a_better_one_ends(tmp_path):
    s = Sweep(tmp_path)
    keys = []
    for value in (0.3, 0.2, 0.5):
        job = s.queue.next()
        keys.append(job.key)
        s.queue.on_end(job, finished(job, val_robust=value))
    assert s.discarded == [keys[1], keys[0]] and s.unneeded() == set(keys[:2])
    stopped, failed, running = (s.queue.next() for _ in range(3))
    s.queue.on_end(stopped, Outcome("pruned", 3))
    s.queue.on_end(failed, Outcome("failed", 3, reason="its own fault"))
    assert s.discarded == [keys[1], keys[0], stopped.key]
    assert s.unneeded() == {*keys[:2], stopped.key} and not {failed.key, running.key} & s.unneeded()


@pytest.mark.parametrize("goals", [("val/robust",), ("val/robust", "val/clean")])
def test_whatever_the_order_of_ends_the_winners_alone_stay(tmp_path, goals):
    """Oracle: the winners of all trials at once. Values tie often; some trials are below the floor."""
    made = space(
        goal=goals, floor={"val/clean": 0.2}, halving=0, search={"optim.lr": choice(*(n / 100 for n in range(1, 16)))}
    )
    chance = random.Random(5)
    s = Sweep(tmp_path, budget=40, made=made)
    running, keys = [], set()
    while not s.queue.finished():
        while len(running) < 4 and (job := s.queue.next()):
            running.append(job)
            keys.add(job.key)
        for job, outcome in s.queue.take_ended():
            s.queue.on_end(job, outcome)
        if running:
            job = running.pop(chance.randrange(len(running)))
            s.queue.on_end(job, finished(job, val_robust=chance.randrange(4) / 4, val_clean=chance.randrange(4) / 4))
        (study,) = s.studies
        trials = study._optuna.get_trials(deepcopy=False)
        winning = {t.user_attrs["key"] for t in select_winners(trials)}
        assert winning == study.winning_keys() == {trial.key for trial in study.winners()}
        waiting = [*s.queue._blocked.values(), *s.queue._ended]
        unfinished = {job.key for job in running} | {job.key for job, _ in waiting}
        assert keys - unfinished - set(s.discarded) == winning - unfinished and not set(s.discarded) & winning
    assert s.unneeded() == set(s.discarded) == keys - winning
    again = Sweep(tmp_path, budget=40, made=made)
    assert again.studies[0].winning_keys() == winning


def test_a_trial_that_another_cell_proposed_too_stays_until_that_one_ends(tmp_path):
    s = Sweep(tmp_path, budget=2, made=space(compare={"one": {}, "two": {}}))
    first, better = s.queue.next(), None
    assert s.queue.next() is not None  # the second cell's equal trial waits: what comes is another
    s.queue.on_end(first, finished(first, val_robust=0.1))
    assert first.key not in s.discarded
    jobs = [s.queue.next() for _ in range(2)]
    equal = next(job for job in jobs if job and job.key == first.key)
    better = next(job for job in jobs if job and job.key != first.key)
    s.queue.on_end(better, finished(better, val_robust=0.9))
    assert first.key not in s.discarded
    s.queue.on_end(equal, finished(equal, val_robust=0.1))
    assert first.key not in s.unneeded()  # the best of the second cell so far


def test_what_another_sweep_proposed_is_asked_of_that_one(tmp_path):
    mine, other = Sweep(tmp_path, prefix="mine "), Sweep(tmp_path, prefix="other ")
    job = mine.queue.next()
    mine.queue.on_end(job, finished(job, val_robust=0.1))
    better = mine.queue.next()
    mine.queue.on_end(better, finished(better, val_robust=0.9))
    assert mine.unneeded("mine one") == {job.key}
    same = other.queue.next()
    assert same.key == job.key and mine.unneeded("mine one") == mine.unneeded() == set()
    assert proposed_elsewhere(mine.storage, ["mine one"]) == {job.key}
    other.queue.on_end(same, finished(same, val_robust=0.1))
    next_one = other.queue.next()
    other.queue.on_end(next_one, finished(next_one, val_robust=0.3))
    assert mine.unneeded("mine one") == set() and job.key in mine.unneeded()
