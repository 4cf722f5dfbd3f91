"""The fleet's benchmark runs what a sweep does, all of it, and its clock counts what happened."""

import json
import os
from types import SimpleNamespace

import pytest

from harness.bench import __main__, fleet
from harness.config.trial import build
from harness.errors import UserError


def test_a_trial_does_nothing_but_report_and_sleep(workspace):
    trial, rows = build({"optim.lr": 0.1, "epochs": fleet.EPOCHS}), []
    result = fleet.dummy_trial(trial, workspace, report=rows.append)
    assert [row["epoch"] for row in rows] == list(range(1, trial.epochs + 1)) and result.rows == rows
    assert {s.name for s in result.scores} == {"val/clean", "val/robust"}
    assert (
        result.score("val/robust").mean
        > fleet.dummy_trial(build({"optim.lr": 0.3}), workspace, report=rows.append).score("val/robust").mean
    )
    tested = fleet.dummy_trial(trial, workspace, report=rows.append, test=True)
    assert {s.name for s in tested.scores} >= {"test/clean", "test/robust"}
    assert workspace.trial(trial.key).joinpath("result.json").exists()  # to be delivered, as a real one's


def test_the_clock_gives_each_window_its_trials(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(fleet.time, "perf_counter", lambda: float(next(now)))
    clock = fleet._Clock(4)
    for number in range(13):
        clock.on_start(SimpleNamespace(id=f"a{number}"))
        clock.on_end(SimpleNamespace(id=f"b{number}"), SimpleNamespace(state="complete"))
    figures = clock.figures()
    assert figures["at_once"] == clock.ended == 13  # none of those that started has ended
    # Two looks at the clock for every trial; the first window begins at the first end.
    assert [(w["until"], w["seconds"]) for w in figures["windows"]] == [(4, 2.0), (8, 2.0), (12, 2.0)]
    assert figures["makespan"] == 26 and figures["first"] == 2
    clock.on_end(SimpleNamespace(id="a0"), SimpleNamespace(state="failed", reason="no reason"))
    assert clock.failed == ["no reason"] and len(clock.running) == 12


def test_declared_cores_are_forgotten(monkeypatch):
    monkeypatch.setenv(fleet.DECLARED, "before")
    with fleet._declared(7):
        assert json.loads(os.environ[fleet.DECLARED]) == {"CPU": 7}
    assert os.environ[fleet.DECLARED] == "before"
    monkeypatch.delenv(fleet.DECLARED)
    with fleet._declared(None):
        assert fleet.DECLARED not in os.environ
    with pytest.raises(ZeroDivisionError), fleet._declared(7):
        raise ZeroDivisionError
    assert fleet.DECLARED not in os.environ


@pytest.mark.parametrize(
    "words, said",
    [
        (["--trials", "2"], "--trials must be at least 3, not 2"),
        (["--declare", "0"], "--declare must be at least 1, not 0"),
        (["--cpus", "0"], "--cpus must be above 0"),
        (["--sleep", "nan"], "--sleep not negative"),
    ],
)
def test_what_cannot_be_run_is_refused(monkeypatch, words, said):
    monkeypatch.setattr("sys.argv", ["harness.bench", "fleet", *words])
    with pytest.raises(UserError, match=said):
        __main__.main()


@pytest.mark.slow
def test_all_that_a_sweep_does_is_done_on_cores_that_are_not_there(tmp_path, empty_store):
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    cores = (os.cpu_count() or 1) + 1
    took = fleet.fleet(2 * cores + fleet.SEEDS, tmp_path, declared=cores, sleep=1.0)
    assert took["slots"] == cores >= took["at_once"] > 0 and took["makespan"] > took["ideal"] == 3.0
    assert sum(1 for _ in (tmp_path / "trials").iterdir()) == took["trials"]
    read = fleet.read_back(took["uri"], took["experiment"], tmp_path)
    assert read["runs"] == took["trials"] and read["page_mb"] > 0
    assert took["behind"] >= 0 and took["events"] > 2 * took["trials"]  # each begins and ends
