"""The graph of jobs: who waits for what, outside a slot, and what is not run twice. No training."""

import random

import optuna
import pytest
from outcomes import finished

from harness.config.search_domains import choice, uniform
from harness.config.space import Space
from harness.sweep import job_queue, optuna_journal
from harness.sweep.job_router import JobRouter
from harness.sweep.job_types import Job, Outcome
from harness.sweep.study import DUPLICATE_OF, Study
from harness.trials.prerequisites import prerequisites

BASE = {"method": "sat", "epochs": 9, "measure.watch": 1, "optim.lr": 0.1}
COMPLETE, PRUNED = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


class Recorder:
    """Callback that keeps how each job ended."""

    def __init__(self):
        self.ended = {}

    def on_start(self, job):
        pass

    def on_epoch(self, job, row):
        pass

    def on_end(self, job, outcome):
        assert job.id not in self.ended or self.ended[job.id].cause == "machine"
        self.ended[job.id] = outcome


class Sweep:
    """A queue behind its router, as Ray drives it, with a record of what was made."""

    def __init__(self, folder, budget=4, seeds=0, made=None, **change):
        settings = {"base": BASE, "compare": {"sat": {}}}
        space = Space(**{**settings, "search": {"optim.lr": choice(0.1, 0.2)}, **change})
        storage = optuna_journal.open_journal(folder / "journal")
        self.studies = [Study(c.name, space, c, budget, storage, 0) for c in space.cells({})]
        self.made, self.winners = set() if made is None else made, {}
        self.queue = job_queue.SweepJobs(self.studies, seeds, self._on_winners, lambda job: False, self._needs)
        self.recorder = Recorder()
        self.router = JobRouter(self.queue, [self.recorder])
        self.number = 0

    def _on_winners(self, study, keys, duplicates):
        self.winners[study] = keys, duplicates

    def _needs(self, job):
        needed = job.prerequisite.needs() if job.prerequisite else prerequisites(job.trial)
        return [Job.of(p) for p in needed if p.key not in self.made]

    def next(self):
        """A job with the id of its Ray trial; None where nothing can run now."""
        self.number += 1
        job = self.router.next_job(str(self.number))
        assert self.router.error is None, self.router.error
        return job and (str(self.number), job)

    def end(self, trial_id, outcome=None):
        job = self.router.jobs[trial_id]
        if outcome is None:
            outcome = Outcome("complete", 9) if job.is_shared else finished(job, val_robust=job.trial.optim.lr)
            if job.is_shared:
                self.made.add(job.key)
        self.router.on_end(trial_id, outcome)
        assert self.router.error is None, self.router.error

    def trials(self, study="sat"):
        return next(s for s in self.studies if s.name == study)._optuna.trials


def test_teacher_then_maps_then_the_trials_that_need_them(tmp_path):
    s = Sweep(tmp_path)
    teacher_id, teacher = s.next()
    assert teacher.role == "teacher" and teacher.trial.flat()["method"] == "standard"
    assert s.next() is None and len(s.trials()) == 1  # the trial waits, and no other is proposed meanwhile
    assert not s.queue.finished()
    s.end(teacher_id)
    maps_id, maps = s.next()
    assert maps.role == "maps" and maps.trial == teacher.trial and maps.maps.saliency == "smoothgrad"
    assert s.next() is None
    s.end(maps_id)
    assert [s.next()[1].role for _ in range(2)] == ["search", "search"]


def test_what_is_made_already_is_not_made_again(tmp_path):
    s = Sweep(tmp_path, compare={"one": {}, "two": {"method.alpha10": 0.3}, "three": {"maps.saliency": "gradient"}})
    first, job = s.next()
    assert job.role == "teacher" and s.next() is None
    s.end(first)
    maps = [s.next(), s.next()]
    assert sorted(job.maps.saliency for _, job in maps) == ["gradient", "smoothgrad"] and s.next() is None
    s.end(maps[0][0])
    assert maps[0][1].maps.saliency == "smoothgrad" and {s.next()[1].study for _ in range(2)} == {"one", "two"}
    (tmp_path / "later").mkdir()
    assert Sweep(tmp_path / "later", made=s.made).next()[1].role == "search"


def test_what_is_to_come_are_the_jobs_that_then_run(tmp_path):
    search = {"optim.lr": uniform(0.1, 0.2)}
    s = Sweep(tmp_path, budget=3, seeds=2, compare={"sat": {}, "standard": {"method": "standard"}}, search=search)
    foreseen = list(s.queue.to_come().values())
    roles = [(job.role, job.study) for job, _ in foreseen]
    assert roles[:4] == [("teacher", ""), ("maps", ""), ("search", "sat"), ("search", "standard")]
    assert len(roles) == 2 * (3 + 2) + 3 * 2 and s.queue.remaining() == 2 * (3 + 2)
    of = {job.id: job for job, _ in foreseen}
    for job, waits in foreseen:
        needed = sorted(of[i].role for i in waits)
        expected = {"teacher": [], "maps": ["teacher"], "search": ["maps"], "seed": ["maps", *["search"] * 3]}[job.role]
        assert needed == [role for role in expected if job.study != "standard" or role == "search"]
    ran = []
    while not s.queue.finished():
        to_come = s.queue.to_come()
        trial_id, job = s.next()
        assert sum(not job.is_shared for job, _ in to_come.values()) == s.queue.remaining() + (not job.is_shared)
        assert not job.is_shared or job.id in to_come
        ran.append((job.role, job.trial.seed))
        s.end(trial_id)
        assert job.id not in s.queue.to_come()
    assert sorted(ran) == sorted((job.role, job.trial.seed) for job, _ in foreseen) and not s.queue.to_come()


def test_live_maps_need_the_teacher_only(tmp_path):
    s = Sweep(tmp_path, base={**BASE, "maps.live": True})
    teacher_id, teacher = s.next()
    assert teacher.role == "teacher"
    s.end(teacher_id)
    assert s.next()[1].role == "search"


def test_a_cell_without_maps_does_not_wait_for_the_teacher_of_another(tmp_path):
    s = Sweep(tmp_path, compare={"sat": {}, "standard": {"method": "standard"}})
    jobs = [s.next()[1] for _ in range(2)]
    assert [(job.role, job.study) for job in jobs] == [("teacher", ""), ("search", "standard")]


def test_how_a_trial_is_measured_makes_no_other_teacher(tmp_path):
    s = Sweep(tmp_path, compare={"a": {"measure.steps": 20}, "b": {"measure.steps": 3, "measure.suites": "standard"}})
    s.end(s.next()[0])
    s.end(s.next()[0])
    assert {s.next()[1].role for _ in range(2)} == {"search"} and len(s.made) == 2


@pytest.mark.parametrize("failing", ["teacher", "maps"])
def test_what_needs_a_failed_job_fails_with_its_reason_and_is_not_run(tmp_path, failing):
    s = Sweep(tmp_path, budget=2, compare={"sat": {}, "other": {"method.alpha10": 0.3}})
    trial_id, _ = s.next()
    if failing == "maps":
        s.end(trial_id)
        trial_id, _ = s.next()
    s.end(trial_id, Outcome("failed", 3, reason="Diverged: the loss became nan"))
    assert s.next() is None and s.queue.finished()
    reasons = [outcome.reason for job_id, outcome in s.recorder.ended.items() if " search " in job_id]
    through = "its maps failed: " if failing == "teacher" else ""
    assert reasons == [f"{through}its {failing} failed: Diverged: the loss became nan"] * 4
    assert [t.state.name for t in s.trials()] == ["FAIL", "FAIL"]
    again = Sweep(tmp_path, budget=3, compare={"sat": {}, "other": {"method.alpha10": 0.3}}, made=s.made)
    assert again.next()[1].role == failing  # another command tries again


def test_what_the_machine_failed_is_run_once_more(tmp_path):
    """Teacher, maps, trial and seed, each lost once: that spends nothing of the budget, and all seeds are there."""
    s, lost = Sweep(tmp_path, budget=1, seeds=1), set()
    while pair := s.next():
        trial_id, job = pair
        machine = Outcome("failed", 1, reason="its node has died", cause="machine")
        s.end(trial_id, None if (job.role, job.key) in lost else machine)
        lost.add((job.role, job.key))
    assert s.queue.finished() and {role for role, _ in lost} == {"teacher", "maps", "search", "seed"}
    assert {outcome.state for job_id, outcome in s.recorder.ended.items() if "search" not in job_id} == {"complete"}
    assert [t.state for t in s.trials() if t.state.name != "FAIL"] == [COMPLETE]


def test_a_teacher_that_the_machine_fails_twice_fails_what_needs_it(tmp_path):
    s = Sweep(tmp_path, budget=2)
    for _ in range(2):
        s.end(s.next()[0], Outcome("failed", 1, reason="its node has died", cause="machine"))
    assert s.next() is None and s.queue.finished()


def sat_without_needs(folder, **change):
    s = Sweep(folder, **change)
    s.queue._needs = job_queue.no_needs
    return s


def test_equal_proposals_are_run_once_and_take_the_same_outcome(tmp_path):
    """Four proposals of two settings, of which the first two equal ones are there at once: the clash is certain."""
    s = sat_without_needs(tmp_path, search={"optim.lr": choice(0.1)}, base=BASE)
    first, job = s.next()
    assert s.next() is None  # all others wait for it, outside a slot
    assert len({t.user_attrs["key"] for t in s.trials()}) == 1 and len(s.trials()) == 4
    s.end(first)
    assert s.queue.finished() and s.next() is None
    assert [(t.state, t.value) for t in s.trials()] == [(COMPLETE, 0.1)] * 4
    assert [t.user_attrs.get(DUPLICATE_OF) for t in s.trials()] == [None, 0, 0, 0]
    assert s.winners == {"sat": ([job.key], 3)}
    assert [outcome.state for outcome in s.recorder.ended.values()] == ["complete"] + ["duplicate"] * 3
    assert sat_without_needs(tmp_path, search={"optim.lr": choice(0.1)}, base=BASE).queue.finished()


def test_a_pruned_trial_is_repeated_with_its_rungs(tmp_path):
    s = sat_without_needs(tmp_path, budget=8)
    seen = {}
    while pair := s.next():
        trial_id, job = pair
        assert job.key not in seen  # no setting is run twice
        seen[job.key] = job
        value = job.trial.optim.lr
        if len(seen) == 2:
            value = 0.0
            assert s.router.on_epoch(trial_id, {"epoch": 1, "seconds": 1.0, "curve/robust": value})
            s.end(trial_id, Outcome("pruned", 1))
        else:
            assert not s.router.on_epoch(trial_id, {"epoch": 1, "seconds": 1.0, "curve/robust": value})
            s.end(trial_id)
    ends = {(t.user_attrs["key"], t.state, tuple(t.intermediate_values.items())) for t in s.trials()}
    assert len(s.trials()) == 8 and len(ends) == len(seen) == 2
    assert (PRUNED, ((1, 0.0),)) in {end[1:] for end in ends}


def test_equal_trials_of_two_cells_run_one_after_the_other(tmp_path):
    s = sat_without_needs(tmp_path, compare={"a": {}, "b": {}}, search={"optim.lr": choice(0.1)}, base=BASE, budget=1)
    first, job = s.next()
    assert s.next() is None
    s.end(first)
    second, other = s.next()  # which finds the stored result of the first
    assert other.key == job.key and other.study != job.study
    s.end(second)
    assert s.queue.finished()


def test_each_seed_of_a_winner_waits_for_its_own_teacher(tmp_path):
    s = Sweep(tmp_path, budget=1, seeds=2)
    for _ in range(3):
        s.end(s.next()[0])
    teachers = [s.next(), s.next()]
    assert [job.role for _, job in teachers] == ["teacher"] * 2 and s.next() is None
    assert sorted(job.trial.seed for _, job in teachers) == [1, 2]
    assert s.queue.remaining() == 2
    for trial_id, _ in teachers:
        s.end(trial_id)
    while pair := s.next():
        s.end(pair[0])
    assert s.queue.finished()
    assert sum("seed" in job_id for job_id in s.recorder.ended) == 2


@pytest.mark.parametrize("seed", range(30))
def test_in_any_order_of_ends_every_trial_ends_once_and_nothing_hangs(tmp_path, seed):
    """Random ends, failures and interruptions: never two of one key at once, and the budget is always used up."""
    rng, made = random.Random(seed), set()
    compare = {
        "a": {},
        "b": {"maps.saliency": "gradient+smoothgrad"},
        "c": {"method": "standard"},
        "d": {"maps.live": True},
    }
    while True:
        s, running = Sweep(tmp_path, budget=5, seeds=1, made=made, compare=compare), {}
        interrupted = False
        for _ in range(1000):
            while len(running) < 3 and (pair := s.next()):
                trial_id, job = pair
                assert all(other.key != job.key for other in running.values())
                assert {p.key for p in prerequisites(job.trial)} <= made or job.is_shared
                running[trial_id] = job
            if s.queue.finished() and not running:
                break
            assert running, "nothing runs, and nothing can"
            trial_id = rng.choice(list(running))
            job = running.pop(trial_id)
            if rng.random() < 0.05:
                interrupted = True
                break
            failed = rng.random() < 0.1
            s.end(trial_id, Outcome("failed", 1, reason="made up") if failed else None)
        if not interrupted:
            break
    for study in s.studies:
        assert len(s.trials(study.name)) == 5 and all(t.state.is_finished() for t in s.trials(study.name))
