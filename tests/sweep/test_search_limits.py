"""Budgets of time and `--stop-after`, on a virtual clock: jobs take the seconds that a test says. No training."""

import heapq
import itertools

import optuna
import pandas as pd
import pytest
from outcomes import finished
from rows import PGD, STANDARD, child

from harness.arguments import duration
from harness.config.search_domains import uniform
from harness.config.space import Space
from harness.duration import duration_text
from harness.errors import UserError
from harness.sweep.forecast import Shape
from harness.sweep.job_queue import SweepJobs
from harness.sweep.job_router import JobRouter
from harness.sweep.search_limits import SearchLimits, TimeBudget, ending
from harness.sweep.study import Study
from harness.sweep.time_left import TimeLeft
from reports.analyse.leaderboard import build_leaderboard
from reports.present import findings
from reports.write import terminal
from reports.write.report import write

EPOCHS = 4
CELLS = ("a", "b", "c")


class Sweep:
    """A sweep whose jobs take virtual time. epoch: seconds of one, by cell. test: seconds of each measurement.

    robust: the score of a trial, from its cell and how many of the cell ended before.
    """

    def __init__(self, *, trials=50, seeds=2, slots=2, budget=None, stop_after=None, epoch=None, prior=0.0, test=0.5):
        space = Space(
            base={"method": "pgd", "epochs": EPOCHS, "measure.watch": EPOCHS},
            compare={name: {"method.eps": 0.01 * (i + 1)} for i, name in enumerate(CELLS)},
            search={"optim.lr": uniform(0.001, 1)},
            halving=0,
        )
        storage = optuna.storages.InMemoryStorage()
        self.now, self.slots, self.test = 100.0, slots, test
        self.epoch = {name: (epoch or {}).get(name, 1.0) for name in CELLS}
        self.studies = [Study(c.name, space, c, trials, storage, 0) for c in space.cells({})]
        shape = Shape(watch=EPOCHS, train=1, val=1, test=1)
        time_left = TimeLeft(dict.fromkeys(CELLS, shape), slots, prior)
        time = TimeBudget(budget, time_left, clock=lambda: self.now) if budget else None
        self.limits = SearchLimits(time, stop_after)
        self.queue = SweepJobs(self.studies, seeds, lambda *_: None, lambda job: False, limits=self.limits)
        self.router = JobRouter(self.queue, self.limits.callbacks)
        self.began, self.searched, self.seeds = [], dict.fromkeys(CELLS, 0), dict.fromkeys(CELLS, 0)
        self.slower = 1
        self.scores = lambda cell, number: 0.5

    def run(self):
        running, order, active = [], itertools.count(), set()
        while True:
            while len(active) < self.slots and (job := self.router.next_job(name := str(next(order)))):
                active.add(name)
                self.began.append((self.now, job))
                self.router.on_start(name)
                seconds = self.epoch[job.study] * (self.slower if job.role == "seed" else 1)
                for epoch in range(1, EPOCHS + 1):
                    heapq.heappush(running, (self.now + epoch * seconds, next(order), name, job, epoch))
                end = self.now + EPOCHS * seconds + (2 if job.role == "seed" else 1) * self.test
                heapq.heappush(running, (end, next(order), name, job, None))
            if not running:
                assert self.router.error is None, self.router.error
                assert self.queue.finished()
                return self
            self.now, _, name, job, epoch = heapq.heappop(running)
            if epoch:
                self.router.on_epoch(name, {"epoch": epoch, "seconds": self.epoch[job.study]})
                continue
            active.remove(name)
            of = self.seeds if job.role == "seed" else self.searched
            self.router.on_end(name, finished(job, val_robust=self.scores(job.study, of[job.study])))
            of[job.study] += 1

    @property
    def took(self):
        return self.now - 100.0


def test_without_a_limit_all_trials_run():
    sweep = Sweep(trials=5).run()
    assert set(sweep.searched.values()) == {5} and set(sweep.seeds.values()) == {2} and not sweep.queue.reached


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("epoch", [{}, {"b": 3.0}, {"a": 0.1, "c": 7.0}], ids=str)
@pytest.mark.parametrize("budget", [120.0, 200.0])
def test_a_budget_ends_the_search_in_time_with_the_seeds_and_equal_trials(slots, epoch, budget):
    sweep = Sweep(trials=1000, slots=slots, budget=budget, epoch=epoch).run()
    assert sweep.took <= budget
    assert set(sweep.seeds.values()) == {2} and not sweep.queue.seeds_left
    assert len(set(sweep.searched.values())) == 1
    round_ = sum(EPOCHS * seconds for seconds in sweep.epoch.values()) / min(slots, len(CELLS))
    assert sweep.took > budget / 1.1 - 3 * round_ - 20, "most of the budget is used"
    assert "The budget of" in sweep.queue.reached


def test_more_budget_gives_more_trials():
    few, many = (Sweep(trials=1000, budget=budget).run().searched["a"] for budget in (80.0, 300.0))
    assert many > 3 * few


def test_no_trial_is_begun_that_cannot_end_by_the_rate_that_is_known_before():
    sweep = Sweep(budget=10.0, prior=100.0).run()
    assert not sweep.began and sweep.took == 0 and sweep.queue.reached


def test_seeds_that_cannot_end_are_not_begun():
    sweep = Sweep(slots=1, seeds=3, budget=120.0)
    sweep.slower = 3
    sweep.run()
    assert sweep.took <= 120 + 3 * EPOCHS, "what slowed the machine down could not be foreseen"
    assert sum(sweep.seeds.values()) + sweep.queue.seeds_left == 9 and sweep.queue.seeds_left > 0
    assert max(sweep.seeds.values()) - min(sweep.seeds.values()) <= 1


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_the_search_stops_when_no_cell_got_better(slots):
    sweep = Sweep(trials=100, slots=slots, stop_after=4)
    sweep.scores = lambda cell, number: {"a": 0.5, "b": min(number, 6) / 10, "c": 0.2}[cell]
    sweep.run()
    assert len(set(sweep.searched.values())) == 1
    assert 11 <= sweep.searched["a"] <= 11 + 2 * slots, "cell b gets better until its seventh trial"
    assert "No better trial among the last 4 of every cell" in sweep.queue.reached
    assert set(sweep.seeds.values()) == {2}


def test_a_cell_that_gets_better_keeps_the_others_searching():
    sweep = Sweep(trials=12, stop_after=2)
    sweep.scores = lambda cell, number: number / 20 if cell == "c" else 0.5
    sweep.run()
    assert set(sweep.searched.values()) == {12} and not sweep.queue.reached


def test_failed_trials_count_and_those_of_the_machine_do_not(tmp_path):
    sweep = Sweep(trials=9, slots=1)
    study = sweep.studies[0]
    first = study.next()
    study.on_end(first, finished(first, val_robust=0.5))
    assert study.stalled() == 0
    for cause, stalled in (("trial", 1), ("machine", 1)):
        job = study.next()
        study.on_end(job, type(finished(job))("failed", 1, reason="x", cause=cause))
        assert study.stalled() == stalled


def test_what_the_report_says():
    assert ending("", {"a": 3}, 3, 0) == ""
    assert ending("X ended the search", {"a": 3, "b": 3}, 9, 0) == (
        "X ended the search after 3 of 9 trials of each cell. The same command continues it."
    )
    unequal = ending("X ended the search", {"a": 3, "b": 4}, 9, 2)
    assert "not compared at equal budget: a 3, b 4." in unequal and "2 seed runs were not begun" in unequal


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("2h30m", 9000), ("7200s", 7200), ("1d", 86400), ("1.5h", 5400), ("1h1s", 3601)],
)
def test_durations(text, seconds):
    assert duration(text) == seconds
    assert duration(duration_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2x", "30m2h", "-1h", "0s", "1e3s", "99999999d", "2 h 5"])
def test_what_is_no_duration(text):
    from harness.duration import seconds_of

    with pytest.raises(UserError, match="takes a time such as 90m, 2h30m or 7200s, not"):
        seconds_of(text)


def test_the_report_says_what_ended_the_search():
    ended = ending("The budget of 2h ended the search", {"standard": 3, "pgd": 3}, 9, 0)
    table = pd.DataFrame(STANDARD + PGD).assign(search_end=ended)
    board = build_leaderboard(table)
    assert board.ends == (ended,) and findings.warnings(board)[0] == ended
    assert "note: The budget of 2h ended the search after 3 of 9 trials" in terminal.text(board)
    assert not build_leaderboard(pd.DataFrame(STANDARD + PGD)).ends


def test_the_pages_say_what_ended_a_search_in_which_no_cell_finished(tmp_path):
    ended = ending("The budget of 40s ended the search", {"standard": 0, "pgd": 0}, 60, 0)
    trials = [child(cell, "search", 0, state="running") for cell in ("standard", "pgd")]
    written = write(pd.DataFrame(trials).assign(search_end=ended), tmp_path, "mine")
    assert all(ended in path.read_text() for path in written if path.suffix in (".md", ".html"))
