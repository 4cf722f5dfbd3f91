"""The plan of a sweep: which cells it runs, which sweep they belong to, and on what."""

import os
import re
from types import SimpleNamespace

import pytest

from harness import cli, tune
from harness.errors import exit_status
from harness.evaluation import evaluator
from harness.sweep import ray_runner, trial_slots
from harness.sweep.plan import plan


def planned(*words):
    return plan(tune.request(tune.arguments(["--space", "pgd", *words])))


@pytest.mark.parametrize("words", [["--cell", "pgd"], ["--cell", "pgd", "--set", "method=trades"]])
def test_chosen_cells_belong_to_the_sweep_of_their_space(words):
    whole, part = planned(), planned(*words)
    assert (part.sweep, part.experiment) == (whole.sweep, whole.experiment)
    assert planned(*words, "--set", "epochs=3").sweep == planned("--set", "epochs=3").sweep != whole.sweep


def test_a_chosen_cell_has_its_study_and_a_new_one_another():
    whole = planned().studies
    assert planned("--cell", "pgd").studies == {study: cell for study, cell in whole.items() if cell.name == "pgd"}
    ((study, cell),) = planned("--cell", "pgd", "--set", "method=trades").studies.items()
    assert study not in whole and study.startswith("pgd-digits/trades @") and cell.name == "trades"


def test_cells_keep_their_place_and_a_new_one_is_last():
    whole, made = planned(), planned("--cell", "pgd", "--set", "method=trades")
    assert [whole.order(cell) for cell in whole.studies.values()] == [0, 1, 2, 3, 4]
    assert [made.order(cell) for cell in made.studies.values()] == [5]
    assert [p.order(cell) for p in [planned("--cell", "pgd + noise")] for cell in p.studies.values()] == [4]


def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert trial_slots.local_cpus() == trial_slots.local_slots(1) == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 200}')
    assert trial_slots.local_resources()["CPU"] == 200


@pytest.mark.parametrize(
    "own, files, cores",
    [
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}, 3),
        ("7:memory:/m\n4:cpu,cpuacct:/d", {"cpu/d/cpu.cfs_quota_us": "200000", "cpu/d/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu:/d", {"cpu/d/cpu.cfs_quota_us": "-1", "cpu/d/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)
def test_the_quota_of_a_container_limits_the_cores(tmp_path, monkeypatch, own, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n" if own else "")
    assert trial_slots.local_cpus(tmp_path / "groups", tmp_path / "own") == (cores or 64)


@pytest.mark.parametrize(
    "requested, device, nodes, gpus",
    [
        (None, "cpu", [], 0),
        (None, "cuda", [], 1),
        (None, "cpu", [{"CPU": 8}, {"CPU": 8, "GPU": 4}], 1),
        (0, "cuda", [{"GPU": 4}], 0),
        (0.25, "cpu", [], 0.25),
    ],
)
def test_a_trial_takes_a_gpu_where_any_node_has_one(requested, device, nodes, gpus):
    assert trial_slots.gpus_per_trial(requested, device, nodes) == gpus


def test_what_no_node_can_hold_is_refused_before_anything_is_recorded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tune", "--space", "smoke", "--cpus", "4000", "--out", str(tmp_path / "out")])
    assert exit_status(tune.main) == 2
    assert re.search(r"^error: a trial asks for 4000 CPU, but the largest node has \d+\n$", capsys.readouterr().err)
    assert not list(tmp_path.glob("out/track/*")) and not (tmp_path / "out" / "optuna.journal").exists()


def test_a_wait_is_said_once_and_ends_when_a_job_starts(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(ray_runner.time, "monotonic", lambda: now[0])
    router = SimpleNamespace(started=set(), jobs={"a": 1}, on_wait=lambda: said.append(now[0]))
    wait = ray_runner._Wait(router)
    for second in range(40):
        now[0] = float(second)
        router.started = {"a"} if second == 20 else set()
        wait.on_step_begin(second, [])
    assert said == [16.0, 37.0]
    router.jobs = {}
    now[0] = 1000.0
    wait.on_step_begin(0, [])
    assert len(said) == 2


@pytest.mark.parametrize(
    "score, wrong, right",
    [
        ('goal = "val/robst"', "val/robst", "val/robust"),
        ('[floor]\n"val/robst" = 0.5', "val/robst", "val/robust"),
        ('goal = "val/pgd10-64"', "val/pgd10-64", "val/pgd10-48"),
        ('goal = "val/pgd20-16"', "val/pgd20-16", "val/pgd10-16"),
    ],
)
def test_a_score_that_no_suite_measures_is_refused_before_any_trial(tmp_path, capsys, monkeypatch, score, wrong, right):
    (tmp_path / "mine.toml").write_text(f"{score}\n[compare]\na = {{method = 'standard'}}\n")
    words = ["--space", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"), "--dry-run"]
    monkeypatch.setattr("sys.argv", ["tune", *words])
    assert exit_status(tune.main) == 2
    assert f"no suite of standard measures {wrong!r}; did you mean {right!r}?" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("space", sorted(cli.spaces()))
def test_the_goals_of_our_spaces_are_measured(space):
    planned = plan(tune.request(tune.arguments(["--space", space])))
    for cell in planned.studies.values():
        data = SimpleNamespace(val=SimpleNamespace(shape=(1, 8, 8)))
        wanted = (*planned.space.goals, *planned.space.floor)
        evaluator.check_scores(wanted, cell.trial.measure, cell.trial.attribution, data)
