"""A suite that gains a metric, or measures one anew, after a trial was tested: the stored weights are measured."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.evaluation import evaluator, suites, versions
from harness.evaluation.measurements import Combined, Measurement, pgd
from harness.sweep import stored_jobs
from harness.sweep.job_types import Job, Outcome
from harness.tracking.tracker import Tracker
from harness.training import loop
from harness.trials import run as trial_run
from harness.trials.measure import missing
from harness.trials.run import measured_later


@pytest.fixture(autouse=True)
def at_first():
    """Whatever the versions are today, here each family begins with its first."""
    with pytest.MonkeyPatch.context() as patch:
        for family in versions.VERSIONS:
            patch.setitem(versions.VERSIONS, family, 1)
        yield


@pytest.fixture
def tested(workspace, quick):
    trial = quick(method="noise")
    return trial, trial_run.run(trial, workspace, test=True)


@pytest.fixture
def work(monkeypatch):
    """What is done from now on: the measurements by name; training is a failure."""
    done, measure = [], evaluator._Evaluation.measure
    monkeypatch.setattr(loop, "fit", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(
        evaluator._Evaluation,
        "measure",
        lambda self, key, *of: done.append((self.name, key)) or measure(self, key, *of),
    )
    return done


def gains(patch):
    """The standard suite has one attack more, and with it a worst case."""
    standard = suites.SUITES["standard"]

    def more(context):
        return {
            **standard(context),
            "pgd3-16": pgd(16 / 255, 8 / 255, 3),
            "worst-16": Combined(("pgd2-16", "pgd3-16"), "worst"),
        }

    patch.setitem(suites.SUITES, "standard", replace(standard, build=more))


def records(result, split):
    return {s.name: s.record() for s in result.of(split)}


def per_image(workspace, trial):
    with np.load(workspace.trial(trial.key) / "test.npz") as images:
        return {name: images[name].tolist() for name in images.files}


def test_a_new_metric_is_measured_on_the_stored_weights_as_a_fresh_trial_is(
    workspace, tmp_path, monkeypatch, tested, work
):
    trial, before = tested
    gains(monkeypatch)
    after = trial_run.run(trial, workspace, test=True)
    assert work == [("test", "pgd3-16")]
    assert records(after, "val") == records(before, "val")  # they selected the winner
    assert records(before, "test").items() <= records(after, "test").items()
    assert after.test_evaluations == 2
    again = trial_run.run(trial, workspace, test=True)
    assert again.test_evaluations == 2 and len(work) == 1
    monkeypatch.undo()
    gains(monkeypatch)
    elsewhere = type(workspace)(tmp_path / "other", workspace.data).writable()
    fresh = trial_run.run(trial, elsewhere, test=True)
    assert records(fresh, "test") == records(after, "test") and "test/worst-16" in records(fresh, "test")
    assert per_image(elsewhere, trial) == per_image(workspace, trial)
    assert [vars(c) for c in fresh.checks] == [vars(c) for c in after.checks]


def test_an_older_version_is_measured_again_and_no_other_family(workspace, monkeypatch, tested, work):
    trial, before = tested
    assert "version" not in json.dumps(records(before, "test"))  # as in records of before there were any
    monkeypatch.setitem(versions.VERSIONS, "attack", 2)
    after = trial_run.run(trial, workspace, test=True)
    assert work == [("test", "pgd2-16")]  # not FGSM, which draws no random numbers
    assert {s.name: s.version for s in after.scores if s.version > 1} == {"test/pgd2-16": 2, "test/robust": 2}
    assert [s.mean for s in after.of("test")] == [s.mean for s in before.of("test")]
    assert records(after, "val") == records(before, "val")
    assert trial_run.run(trial, workspace, test=True) == after and len(work) == 1


def test_an_interrupted_measurement_goes_on_and_each_attempt_counts(workspace, monkeypatch, tested, work):
    trial, _ = tested
    monkeypatch.setitem(versions.VERSIONS, "attack", 2)
    write = trial_run.Ledger.write

    def once(self, key, scores):
        write(self, key, scores)
        raise InterruptedError

    monkeypatch.setitem(versions.VERSIONS, "unseeded_attack", 2)
    with monkeypatch.context() as patch:
        patch.setattr(trial_run.Ledger, "write", once)
        with pytest.raises(InterruptedError):
            trial_run.run(trial, workspace, test=True)
    after = trial_run.run(trial, workspace, test=True)
    assert work == [("test", "pgd2-16"), ("test", "fgsm-16")] and after.test_evaluations == 3


def test_without_weights_a_trial_stays_as_it_is(workspace, monkeypatch, tested, work):
    trial, before = tested
    gains(monkeypatch)
    weights = workspace.trial(trial.key) / "weights.pt"
    content, scores = weights.read_bytes(), {s.name.removeprefix("test/"): 1 for s in before.of("test")}
    data = trial_run.datasets.load(trial.data, workspace)
    assert measured_later(trial, scores, data.test, workspace) == ["pgd3-16", "worst-16"]
    weights.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"has no pgd3-16, worst-16, which cannot be measured: '.*weights\.pt' is"):
        assert measured_later(trial, scores, data.test, workspace) == []
    weights.unlink()
    with pytest.warns(UserWarning, match="which cannot be measured: cannot read"):
        assert measured_later(trial, scores, data.test, workspace) == []
    with pytest.warns(UserWarning, match="which cannot be measured: cannot read"):
        assert trial_run.run(trial, workspace, test=True) == before
    assert work == []


def test_a_seed_run_that_lacks_a_score_is_a_job_again(workspace, monkeypatch, tested, work):
    trial, before = tested
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    tracker.start_study("study", "cell", {}, {})
    one, other = (Job("study", "seed", number, trial, trial.key) for number in (1, 2))
    tracker.on_end(one, Outcome("complete", trial.epochs, before))
    is_done = stored_jobs.is_done(tracker, workspace)
    assert is_done(one) and not is_done(other)
    gains(monkeypatch)
    assert not is_done(one)
    tracker.on_end(one, Outcome("failed", 0, reason="killed"))
    assert not is_done(one)
    tracker.on_end(one, Outcome("complete", trial.epochs, trial_run.run(trial, workspace, test=True)))
    assert is_done(one) and work == [("test", "pgd3-16")]
    monkeypatch.setitem(versions.VERSIONS, "attack", 2)
    assert not is_done(one)
    (workspace.trial(trial.key) / "weights.pt").unlink()
    with pytest.warns(UserWarning, match="which cannot be measured"):
        assert is_done(one)


def test_the_sizes_of_the_output_are_logged_when_they_change(workspace):
    from harness.tracking import event_log

    for sizes in ({"trials": 5, "maps": 1}, {"trials": 5, "maps": 1}, {"trials": 9, "maps": 1}):
        tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
        tracker.start_sweep("title", "about")
        tracker.log_disk(sizes)
        tracker.log_disk(sizes)
    logged = [event["metrics"] for event, _ in event_log.read_events(tracker.log) if "metrics" in event]
    assert logged == [
        [["disk/trials", 5.0, 1], ["disk/maps", 1.0, 1]],
        [["disk/trials", 9.0, 2], ["disk/maps", 1.0, 2]],
    ]


def test_the_log_of_a_sweep_gets_what_is_new_once(workspace, monkeypatch, tested):
    from harness.tracking import event_log

    trial, before = tested

    def told(result):
        tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
        tracker.start_sweep("title", "about")
        tracker.start_study("study", "cell", {}, {})
        tracker.on_end(job, Outcome("complete", trial.epochs, result))
        return tracker

    def events():
        return [e for e, _ in event_log.read_events(workspace.out / "track" / "experiment-5eed.jsonl")]

    job = Job("study", "seed", 1, trial, trial.key)
    measured = {"clean": 1, "pgd2-16": 1, "robust": 1, "fgsm-16": 1}
    assert measured.items() <= told(before).measured(job, "test").items()
    told(before)
    assert len([e for e in events() if e["run"] == job.id and "metrics" in e]) == 1
    gains(monkeypatch)
    monkeypatch.setitem(versions.VERSIONS, "accuracy", 3)
    after = trial_run.run(trial, workspace, test=True)
    for _ in range(2):
        now = told(after).measured(job, "test")
        assert {**measured, "clean": 3, "pgd3-16": 1, "worst-16": 1}.items() <= now.items()
    (_, later) = [e for e in events() if e["run"] == job.id and "metrics" in e]
    new = {name for name, *_ in later["metrics"]}
    assert {"test/pgd3-16", "test/worst-16", "test_version/clean", "test_touches"} <= new
    assert new.isdisjoint({"test/pgd2-16", "test/robust", "val/clean", "val/robust"})
    assert ["trials/" + trial.key + "/test.npz", ""] in later["files"]


def test_a_measurement_that_fails_later_is_said_and_costs_no_score(workspace, tested):
    from harness.tracking import event_log

    trial, before = tested
    job = Job("study", "seed", 1, trial, trial.key)
    tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
    tracker.start_study("study", "cell", {}, {})
    tracker.on_end(job, Outcome("complete", trial.epochs, before))
    tracker.on_end(job, Outcome("failed", 0, reason="out of memory"))
    last = [e for e, _ in event_log.read_events(workspace.out / "track" / "experiment-5eed.jsonl")][-1]
    assert last["tags"] == {"harness.later": "failed: out of memory"} and "status" not in last
    assert tracker.is_complete(job) and tracker.measured(job, "test")
    for _ in range(2):  # and no more once it does not fail
        tracker = Tracker(workspace, "experiment", {"harness.sweep": "5eed"})
        tracker.on_end(job, Outcome("complete", trial.epochs, before))
    events = [e for e, _ in event_log.read_events(workspace.out / "track" / "experiment-5eed.jsonl")]
    assert [e["tags"]["harness.later"] for e in events if "harness.later" in e.get("tags", {})][1:] == [""]


@pytest.mark.parametrize("name", suites.SUITES)
@pytest.mark.parametrize("data", ["digits", "shapes"])
def test_every_score_is_of_the_measurement_that_gave_it(shared_workspace, quick, monkeypatch, name, data):
    """By its name alone, as records do not say; metrics themselves are not computed here, only what they are called."""
    trial = quick(method="standard", data=data, measure__suites=name)
    split = trial_run.datasets.load(trial.data, shared_workspace).test
    items = suites.combined([name])(evaluator.context_of(trial.measure, trial.attribution, split, features=True))
    names = {key: [key] for key in items}
    for key, item in items.items():
        if isinstance(item, Measurement) and item.family == "attribution":
            short = {"bound": ["_left", "_right", "_slack"], "completeness": ["", "_left", "_right"]}
            names[key] = [key + ending for ending in short.get(key, ["-in", "-k", "-lens_recall"])]
    names |= {"boxes": ["gtknown-grad", "maxboxacc-cam"], "masks": ["iou", "pixel-otsu"]}
    names = {key: of for key, of in names.items() if key in items}
    assert versions.by_item(items, [n for of in names.values() for n in of]) == names
    latest = max(versions.VERSIONS.values())
    assert missing(trial, split, {n: latest for of in names.values() for n in of}) == []
    for key in items:
        rest = {n: latest for other, of in names.items() for n in of if other != key}
        assert key in missing(trial, split, rest)


def test_what_is_attacked_after_another_is_measured_with_it():
    items = {
        "clean": Measurement(None),
        "aa": Measurement(None, {"eps": 1}, only_correct_after="clean"),
        "fog-1": Measurement(None, {"corruption": "fog"}),
        "fog": Combined(("fog-1",), "mean"),
    }
    stored = dict.fromkeys(items, 1)
    assert versions.missing(items, stored) == []
    assert versions.missing(items, {n: v for n, v in stored.items() if n != "clean"}) == ["clean", "aa"]
    assert versions.missing(items, {n: v for n, v in stored.items() if n != "fog-1"}) == ["fog-1", "fog"]
    assert versions.missing(replace_item(items, "fog-1"), stored) == ["new", "fog"]


def replace_item(items, name):
    """`fog` now is over another score, too."""
    fog = replace(items["fog"], of=(name, "new"))
    return {"new": Measurement(None, {"corruption": "new"}), **items, "fog": fog}
