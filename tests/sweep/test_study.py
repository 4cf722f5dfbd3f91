"""The search: who is proposed, who is stopped, who can win. No training: outcomes are made up here."""

import optuna
import pytest
from outcomes import finished

from harness.config.search_domains import choice, uniform, within
from harness.config.space import Space
from harness.errors import UserError
from harness.sweep import job_queue, optuna_journal, repeated_trials
from harness.sweep import study as sweep_study
from harness.sweep.job_types import Outcome

COMPLETE, PRUNED, FAIL, RUNNING = (
    getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")
)


def space(**change):
    settings = {
        "base": {"method": "sat", "epochs": 9, "measure.watch": 1},
        "compare": {"sat": {}},
        "search": {"method.alpha10": uniform(0, 1), "optim.lr": within(3)},
    }
    return Space(**{**settings, **change})


def study(folder, budget=6, seed=0, **change):
    made = space(**change)
    return sweep_study.Study(
        "sat", made, made.cells({})[0], budget, optuna_journal.open_journal(folder / "journal"), seed
    )


def stored(folder, name="sat"):
    return optuna.load_study(study_name=name, storage=optuna_journal.open_journal(folder / "journal")).trials


def row(epoch, value):
    return {"epoch": epoch, "curve/robust": value, "train/ce": 1.0}


def test_the_published_setting_comes_first_and_the_budget_is_kept(tmp_path):
    s = study(tmp_path, budget=4)
    jobs = []
    while (job := s.next()) is not None:
        jobs.append(job)
        s.on_end(job, finished(job, val_robust=0.1 * len(jobs)))
    assert len(jobs) == 4 and s.remaining() == 0
    assert jobs[0].trial == space().cells({})[0].trial
    assert len({job.trial.key for job in jobs}) == 4
    (winner,) = s.winners()
    assert winner == jobs[-1].trial
    assert [t.state for t in stored(tmp_path)] == [COMPLETE] * 4
    assert [t.value for t in stored(tmp_path)] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_stopped_trial_is_pruned_at_its_epoch_and_never_wins(tmp_path):
    s = study(tmp_path)
    first, second = s.next(), s.next()
    assert not s.on_epoch(first, row(1, 0.5))
    assert s.on_epoch(second, row(1, 0.4))  # worse than the one that reached the rung before
    s.on_end(second, Outcome("pruned", 1))
    s.on_end(first, finished(first, val_robust=0.2))  # finished lower than the pruned one ever was
    assert s.winners() == [first.trial]
    pruned = stored(tmp_path)[second.number]
    assert pruned.state == PRUNED and pruned.intermediate_values == {1: 0.4} and pruned.value == 0.4


def test_rungs_are_those_of_asynchronous_successive_halving(tmp_path):
    """At each rung, who goes on is the best third of those that have reached it (Li et al., 2020)."""
    s = study(tmp_path, budget=30)
    values = [0.50, 0.40, 0.60, 0.55, 0.70, 0.30, 0.65, 0.20, 0.75, 0.80, 0.10, 0.72]
    reached = {1: [], 3: []}
    for value in values:
        job = s.next()
        for epoch in range(1, 9):
            stop = s.on_epoch(job, row(epoch, value))
            if epoch in reached:
                reached[epoch].append(value)
                best = sorted(reached[epoch], reverse=True)[: max(1, len(reached[epoch]) // 3)]
                assert stop == (value not in best), (value, epoch)
            else:
                assert not stop
            if stop:
                s.on_end(job, Outcome("pruned", epoch))
                break
        else:
            s.on_end(job, finished(job, val_robust=value))
    states = [t.state for t in stored(tmp_path)]
    assert states.count(PRUNED) > 4 and states.count(COMPLETE) > 2


def test_no_halving_stops_nobody(tmp_path):
    s = study(tmp_path, halving=0)
    a, b = s.next(), s.next()
    assert not any(s.on_epoch(a, row(e, 0.9)) or s.on_epoch(b, row(e, 0.1)) for e in range(1, 9))


def test_the_last_epoch_is_no_rung(tmp_path):
    s = study(tmp_path)
    a, b = s.next(), s.next()
    assert not s.on_epoch(a, row(9, 0.9)) and not s.on_epoch(b, row(9, 0.1))


def test_a_failed_trial_counts_but_cannot_win(tmp_path):
    s = study(tmp_path, budget=1)
    job = s.next()
    s.on_end(job, Outcome("failed", 2, reason="Diverged: the loss became nan"))
    assert s.next() is None and s.winners() == []
    (trial,) = stored(tmp_path)
    assert trial.state == FAIL and trial.user_attrs["reason"].startswith("Diverged")


LOST = {"reason": "its worker died: it lost its GPU", "cause": "machine"}


def drain(s, outcome):
    """Run a study to its end; the jobs. outcome: a function of the job."""
    jobs = []
    while (job := s.next()) is not None:
        jobs.append(job)
        s.on_end(job, outcome(job))
    assert s.finished()
    return jobs


def test_what_the_machine_failed_is_repeated_in_its_place_and_not_spent(tmp_path):
    s = study(tmp_path, budget=4)
    first, second = s.next(), s.next()
    s.on_end(first, Outcome("failed", 1, **LOST))
    repeated = s.next()
    assert repeated.trial == first.trial == space().cells({})[0].trial and repeated.number == 2
    s.on_end(second, finished(second, val_robust=0.2))
    s.on_end(repeated, finished(repeated, val_robust=0.9))
    more = drain(s, lambda job: finished(job, val_robust=0.1))
    assert len({job.trial.key for job in (repeated, second, *more)}) == 4 == 2 + len(more)
    assert s.winners() == [first.trial]
    assert [t.state for t in stored(tmp_path)] == [FAIL, *[COMPLETE] * 4]
    assert stored(tmp_path)[0].user_attrs["cause"] == "machine"


def test_a_machine_that_fails_all_is_asked_twice_a_run_and_again_by_the_next_run(tmp_path):
    dead = drain(study(tmp_path, budget=3), lambda job: Outcome("failed", 0, **LOST))
    keys = {job.trial.key for job in dead}
    assert len(dead) == 2 * len(keys) == 6
    still = drain(study(tmp_path, budget=3), lambda job: Outcome("failed", 0, **LOST))
    assert [job.trial.key for job in still] and {job.trial.key for job in still} == keys and len(still) == 3
    again = study(tmp_path, budget=3)
    assert again.remaining() == 3
    alive = drain(again, lambda job: finished(job, val_robust=0.5))
    assert {job.trial.key for job in alive} == keys and len(alive) == 3
    assert drain(study(tmp_path, budget=3), None) == []


def test_a_failure_of_the_machine_changes_no_later_proposal(tmp_path):
    proposed = []
    for name, lost in (("a", None), ("b", 4)):
        (tmp_path / name).mkdir()

        def ended(job, lost=lost):
            if job.number == lost:
                return Outcome("failed", 0, **LOST)
            return finished(job, val_robust=job.trial.method.alpha10)

        jobs = drain(study(tmp_path / name, budget=9), ended)
        proposed.append([job.trial.key for job in jobs if job.number != lost])
    assert proposed[0] == proposed[1] and len(proposed[0]) == 9


@pytest.mark.parametrize("asked", [False, True], ids=["machine", "retry_failed"])
def test_a_trial_that_is_repeated_counts_once_at_every_rung(tmp_path, asked):
    """Who goes on is the same as without the failure: the best third of those that reached the rung, each once."""
    values = [0.90, 0.50, 0.40, 0.30, 0.20, 0.80, 0.70, 0.60, 0.85]
    decided, counts = [], []
    for name, fails in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        s = study(tmp_path / name, budget=9)
        first = s.next()
        passed = [s.on_epoch(first, row(epoch, values[0])) for epoch in range(1, 5)]
        if fails:
            s.on_end(first, Outcome("failed", 4, reason="made up") if asked else Outcome("failed", 4, **LOST))
            s = study(tmp_path / name, budget=9)
            if asked:
                s.retry_failed()
            again = s.next()
            assert again.trial == first.trial and again.number != first.number
            assert passed == [s.on_epoch(again, row(epoch, values[0])) for epoch in range(1, 5)]
        decided.append([s.on_epoch(s.next(), row(1, value)) for value in values[1:]])
        counted = repeated_trials.counted(stored(tmp_path / name))
        counts.append([sum(f"completed_rung_{rung}" in t.system_attrs for t in counted) for rung in range(2)])
    assert decided[0] == decided[1] and False in decided[0] and counts == [[9, 1]] * 2


def test_the_decision_at_a_rung_stands_when_a_trial_is_repeated(tmp_path):
    """As in an interrupted trial, though it would be stopped there now."""
    s = study(tmp_path, budget=9)
    first = s.next()
    assert not s.on_epoch(first, row(1, 0.5))
    s.on_end(first, Outcome("failed", 1, **LOST))
    again = s.next()
    others = [s.next() for _ in range(2)]
    assert [s.on_epoch(job, row(1, value)) for job, value in zip(others, (0.6, 0.7), strict=True)] == [False, False]
    assert not s.on_epoch(again, row(1, 0.5)) and s.on_epoch(again, row(3, 0.5)) is False
    s.on_end(again, finished(again, val_robust=0.5))
    assert stored(tmp_path)[again.number].intermediate_values == {1: 0.5, 3: 0.5}


def test_failed_trials_run_again_when_asked_each_in_its_place(tmp_path):
    def half(job):
        if job.number % 2:
            return Outcome("failed", 1, reason="Diverged: the loss became nan")
        return finished(job, val_robust=0.1)

    first = drain(study(tmp_path, budget=4), half)
    assert drain(study(tmp_path, budget=4), None) == []  # not without being asked
    s = study(tmp_path, budget=4)
    assert s.retry_failed() == 2 == s.remaining()
    one = s.next()
    assert one.trial == first[1].trial
    del s, one  # killed here
    s = study(tmp_path, budget=4)
    assert s.retry_failed() == 1 and s.remaining() == 2  # the other one is resumed
    again = drain(s, lambda job: finished(job, val_robust=0.1 * job.number))
    assert [job.trial for job in again] == [first[1].trial, first[3].trial]
    assert s.winners() == [first[3].trial]
    s = study(tmp_path, budget=5)
    assert s.retry_failed() == 0 and s.remaining() == 1  # what succeeded in the end has not failed


def test_a_repeated_trial_that_was_killed_while_it_was_proposed_is_not_lost(tmp_path):
    drain(study(tmp_path, budget=2), lambda job: Outcome("failed", 0, reason="made up"))
    s = study(tmp_path, budget=2)
    s.retry_failed()
    s._optuna.ask()  # taken, its parameters are not stored yet
    s = study(tmp_path, budget=2)
    assert s.retry_failed() == 2
    keys = {job.trial.key for job in drain(s, lambda job: finished(job, val_robust=0.5))}
    assert len(keys) == 2 == len({tuple(t.params.items()) for t in stored(tmp_path) if t.state == COMPLETE})


def test_an_interrupted_study_goes_on_where_it_was(tmp_path):
    s = study(tmp_path, budget=4)
    done, open_ = s.next(), s.next()
    s.on_epoch(done, row(1, 0.5))
    s.on_end(done, finished(done, val_robust=0.5))
    s.on_epoch(open_, row(1, 0.6))
    del s  # killed here
    again = study(tmp_path, budget=4)
    assert again.remaining() == 3
    resumed = again.next()
    assert resumed == open_
    assert not again.on_epoch(resumed, row(1, 0.0))  # replayed: what was reported stands
    again.on_epoch(resumed, row(2, 0.7))
    again.on_end(resumed, finished(resumed, val_robust=0.7))
    trials = stored(tmp_path)
    assert trials[resumed.number].intermediate_values == {1: 0.6, 2: 0.7}
    assert [t.state for t in trials] == [COMPLETE, COMPLETE]
    assert again.winners() == [resumed.trial]


def test_rungs_are_remembered_over_an_interruption(tmp_path):
    s = study(tmp_path)
    first = s.next()
    s.on_epoch(first, row(1, 0.9))
    s.on_end(first, finished(first, val_robust=0.9))
    again = study(tmp_path)
    assert again.on_epoch(again.next(), row(1, 0.5))


def test_a_decision_to_stop_survives_an_interruption_before_it_was_told(tmp_path):
    s = study(tmp_path)
    first, second = s.next(), s.next()
    s.on_epoch(first, row(1, 0.9))
    s.on_end(first, finished(first, val_robust=0.9))
    assert s.on_epoch(second, row(1, 0.1))
    del s  # killed here
    again = study(tmp_path)
    assert again.on_epoch(again.next(), row(1, 0.1))


def test_the_published_setting_is_not_lost_when_killed_while_it_was_proposed(tmp_path):
    s = study(tmp_path)
    s._optuna.ask()  # the enqueued trial is taken, its parameters are not stored yet
    again = study(tmp_path)
    assert again.next().trial == space().cells({})[0].trial


def test_half_a_record_at_the_end_of_the_journal_is_dropped(tmp_path):
    s = study(tmp_path)
    job = s.next()
    s.on_end(job, finished(job, val_robust=0.5))
    with open(tmp_path / "journal", "ab") as file:
        file.write(b'{"op_code": 4, "worker_id": "cut off he')
    again = study(tmp_path)
    more = again.next()
    again.on_end(more, finished(more, val_robust=0.6))
    assert [t.value for t in stored(tmp_path)] == [0.5, 0.6]


def test_a_larger_budget_enlarges_the_study_with_new_proposals(tmp_path):
    def drain(s):
        jobs = []
        while (job := s.next()) is not None:
            jobs.append(job)
            s.on_end(job, finished(job, val_robust=0.5))
        return jobs

    first = drain(study(tmp_path, budget=3))
    assert drain(study(tmp_path, budget=3)) == []
    more = drain(study(tmp_path, budget=6))
    assert len(first) == len(more) == 3
    assert len({job.trial.key for job in first + more}) == 6
    assert len(stored(tmp_path)) == 6


def test_several_goals_give_the_front_above_the_floor(tmp_path):
    s = study(tmp_path, budget=8, goal=("val/robust", "val/clean"), floor={"val/clean": 0.5})
    points = [(0.1, 0.9), (0.3, 0.8), (0.2, 0.7), (0.5, 0.6), (0.9, 0.4), (0.5, 0.55), (0.05, 0.95), (0.3, 0.8)]
    jobs = {}
    for robust, clean in points:
        job = s.next()
        assert not s.on_epoch(job, row(1, robust))  # with several goals none is stopped
        jobs[job.trial.key] = (robust, clean)
        s.on_end(job, finished(job, val_robust=robust, val_clean=clean))
    above = [p for p in points if p[1] >= 0.5]
    front = {p for p in above if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in above)}
    assert {jobs[w.key] for w in s.winners()} == front
    assert (0.9, 0.4) not in front


def test_one_goal_with_a_floor(tmp_path):
    s = study(tmp_path, floor={"val/clean": 0.5})
    low, high = s.next(), s.next()
    s.on_end(low, finished(low, val_robust=0.9, val_clean=0.4))
    s.on_end(high, finished(high, val_robust=0.2, val_clean=0.6))
    assert s.winners() == [high.trial]


def test_a_goal_that_was_not_measured_is_named(tmp_path):
    s = study(tmp_path, goal="val/robst")
    job = s.next()
    with pytest.raises(UserError, match="val/robst"):
        s.on_end(job, finished(job, val_robust=0.9))


def sweep(folder, seeds=2, done=(), crowned=None, needs=job_queue.no_needs, **change):
    made = space(compare={"a": {}, "b": {"maps.teacher": "pgd"}, "c": {"maps.saliency": "cam"}}, **change)
    storage = optuna_journal.open_journal(folder / "journal")
    studies = [sweep_study.Study(c.name, made, c, 2, storage, 0) for c in made.cells({})]
    heard = {} if crowned is None else crowned
    return job_queue.SweepJobs(
        studies, seeds, lambda study, keys, duplicates: heard.update({study: keys}), lambda job: job.id in done, needs
    )


def test_cells_take_turns(tmp_path):
    s = sweep(tmp_path)
    assert s.remaining() == 3 * 2 + 3 * 2
    jobs = [s.next() for _ in range(6)]
    assert [job.study for job in jobs] == ["a", "b", "c", "a", "b", "c"]
    assert s.next() is None and not s.finished()  # nothing now; winners are still to come


def test_winners_are_repeated_with_fresh_seeds_once_their_search_is_over(tmp_path):
    crowned = {}
    s = sweep(tmp_path, crowned=crowned)
    jobs = [s.next() for _ in range(6)]
    for job in jobs:
        assert "b" not in crowned
        if job.study != "b":
            s.on_end(job, finished(job, val_robust=0.1 * (1 + job.number)))
    repeated = [s.next() for _ in range(4)]
    assert s.next() is None and not s.finished()
    for job in repeated:
        best = next(j for j in jobs if j.study == job.study and j.number == 1)
        assert job.role == "seed" and job.winner == best.trial.key == crowned[job.study][0]
        assert job.trial.seed == best.trial.seed + job.number and job.trial.key != best.trial.key
    assert [job.number for job in repeated] == [1, 2, 1, 2]
    for job in jobs:
        if job.study == "b":
            s.on_end(job, Outcome("failed", 1, reason="made up"))
    for job in repeated:
        assert not s.finished()
        s.on_end(job, finished(job, val_robust=0.5))
    assert s.finished() and crowned["b"] == []  # no winner, nothing to repeat


def test_what_was_repeated_before_is_not_repeated_again(tmp_path):
    s = sweep(tmp_path)
    while (job := s.next()) is not None:
        s.on_end(job, finished(job, val_robust=0.5))
    assert s.finished()
    once = sweep(tmp_path)
    jobs = [once.next() for _ in range(once.remaining())]
    assert len(jobs) == 6 and all(job.role == "seed" for job in jobs)
    again = sweep(tmp_path, seeds=3, done={job.id for job in jobs})
    more = [again.next() for _ in range(again.remaining())]
    assert [job.number for job in more] == [3, 3, 3]
    assert sweep(tmp_path, done={job.id for job in jobs}).finished()


def test_choices_become_categories_and_search_is_reproducible(tmp_path):
    change = {"search": {"method.schedule": choice("power", "linear"), "method.alpha10": uniform(0, 1)}}
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    runs = []
    for folder, seed in (("a", 3), ("b", 3)):
        s = study(tmp_path / folder, seed=seed, **change)
        runs.append([s.next().trial.key for _ in range(4)])
    assert runs[0] == runs[1]


def test_proposals_do_not_depend_on_interruptions(tmp_path):
    proposed = []
    for folder, interrupted in (("a", False), ("b", True)):
        (tmp_path / folder).mkdir()
        s = study(tmp_path / folder, budget=9)
        keys = []
        while (job := s.next()) is not None:
            keys.append(job.trial.key)
            s.on_end(job, finished(job, val_robust=job.trial.method.alpha10))
            if interrupted:
                s = study(tmp_path / folder, budget=9)
        proposed.append(keys)
    assert proposed[0] == proposed[1] and len(set(proposed[0])) == 9


@pytest.mark.parametrize("goal", ["val/robust", ("val/robust", "val/clean")])
def test_the_search_space_that_the_sampler_is_told_is_the_one_that_optuna_infers(tmp_path, goal):
    """So the proposals are Optuna's own, from the first trial on, also after trials that failed or were pruned."""
    known = {"method.alpha10": uniform(0, 1), "optim.lr": within(3), "method.schedule": choice("power", "linear")}
    search = {**known, "method.eps": uniform(48 / 255, 48 / 255)}
    s = study(tmp_path, budget=9, goal=goal, search=search)
    for number in range(9):
        asked = s._optuna.get_trials(deepcopy=False)[-1]
        inferred = optuna.samplers.TPESampler().infer_relative_search_space(s._optuna, asked)
        told = s._sampler().infer_relative_search_space(s._optuna, asked)
        assert told == inferred and list(told) == list(inferred)
        assert set(told) == (set(known) if isinstance(goal, str) and number > 1 else set())
        job = s.next()
        made = [Outcome("failed", 3), Outcome("pruned", 3), finished(job, val_robust=0.1 * number, val_clean=0.5)]
        s.on_end(job, made[min(number, 1) if number < 3 else 2])


def test_a_file_that_is_no_journal_is_named(tmp_path):
    (tmp_path / "journal").write_text("this is\nno journal\n")
    with pytest.raises(UserError, match="journal"):
        study(tmp_path)
    assert (tmp_path / "journal").read_text() == "this is\nno journal\n"
