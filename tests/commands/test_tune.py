"""The command, end to end: a sweep, the same one killed and gone on with, and every kind of bad input."""

import csv
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from sweeps import (
    LIMIT,
    ONE_AT_A_TIME,
    ROOT,
    leaderboard,
    mlflow_state,
    proposed,
    report,
    run,
    started,
    stored_runs,
    studies,
    until,
)

from harness import cli, sweep_driver, tune
from harness.config import named_spaces
from harness.config.trial_key import TRAINING_VERSION
from harness.errors import UserError, exit_status
from harness.sweep.request import Request


def test_a_sweep_ends_in_a_leaderboard(undisturbed):
    out, printed = undisturbed.out, undisturbed.printed
    assert undisturbed.complained == ""
    assert re.search(r"^sat +\d", printed, re.M) and re.search(r"^standard +\d", printed, re.M)
    assert "mlflow ui --backend-store-uri sqlite:///" in printed
    for kind in ("md", "csv", "html"):
        assert (out / "reports" / f"smoke-digits.{kind}").stat().st_size > 200
        assert f"smoke-digits.{kind}" in printed


def test_what_a_killed_command_left_of_rays_run_goes_at_the_next_start(tmp_path, monkeypatch):
    (tmp_path / "ray" / "ray-0123abcd").mkdir(parents=True)

    def refuse(*_):
        raise UserError("no more of it")

    monkeypatch.setattr(sweep_driver, "_slots", refuse)
    with pytest.raises(UserError, match="no more of it"):
        sweep_driver.run(*sweep_driver.prepared(Request("smoke", out=str(tmp_path))))
    assert not (tmp_path / "ray").exists()


def test_the_weights_of_winners_seeds_and_teachers_stay(undisturbed):
    out = undisturbed.out
    _, runs = stored_runs(out)
    (sweep,) = (r for r in runs if r.data.tags["harness.role"] == "sweep")
    winners = {r.data.tags["harness.winners"] for r in runs if r.data.tags["harness.role"] == "study"}
    seeds = {r.data.tags["harness.key"] for r in runs if r.data.tags["harness.role"] == "seed"}
    assert {p.parent.name for p in out.glob("trials/*/weights.pt")} == winners | seeds
    assert not list(out.glob("trials/*/checkpoint.pt")) and len(list(out.glob("teachers/*/weights.pt"))) == 2
    searched = [r for r in runs if r.data.tags["harness.role"] == "search" and r.info.status == "FINISHED"]
    complete = {r.data.tags["harness.key"] for r in searched if r.data.tags["harness.state"] == "complete"}
    assert all((out / "trials" / key / "val.npz").exists() for key in complete)
    for kind, folder in (("trials", "trials"), ("teachers", "teachers"), ("maps", "cache")):
        size = sum(p.stat().st_size for p in (out / folder).rglob("*") if p.is_file())
        assert sweep.data.metrics[f"disk/{kind}"] == size > 0
    assert re.search(r"its output folder held [\d.]+ MB of trials, ", (out / "reports" / "smoke-digits.md").read_text())


def test_what_mlflow_holds(undisturbed):
    out = undisturbed.out
    client, runs = stored_runs(out)
    parents = {r.info.run_id: r for r in runs if r.data.tags["harness.role"] == "study"}
    shared = [r for r in runs if r.data.tags["harness.role"] in ("teacher", "maps")]
    assert sorted(r.info.run_name for r in shared) == [
        *(f"maps: gradient of standard, seed {seed}" for seed in (0, 1)),
        *(f"teacher: standard, seed {seed}" for seed in (0, 1)),
    ]
    assert all(r.info.status == "FINISHED" for r in shared)
    assert all("seconds/maps" in r.data.metrics or r.data.metrics["epoch"] == 6 for r in shared)
    children = [r for r in runs if r.data.tags["harness.role"] in ("search", "seed")]
    (sweep,) = (r for r in runs if r.data.tags["harness.role"] == "sweep")
    assert all(r.data.tags["mlflow.parentRunId"] == sweep.info.run_id for r in [*parents.values(), *shared])
    assert json.loads(next(iter(parents.values())).data.tags["harness.space.optim.lr"]).keys() == {"low", "high", "log"}
    assert sorted(r.data.tags["harness.cell"] for r in parents.values()) == ["sat", "standard"]
    assert all(r.info.status == "FINISHED" for r in parents.values())
    assert all(r.data.tags["mlflow.parentRunId"] in parents for r in children)
    assert sorted(r.data.tags["harness.role"] for r in children) == ["search"] * 4 + ["seed"] * 2
    for r in children:
        assert r.data.params["optim.lr"] and r.data.params["method"] in ("standard", "sat")
        curve = client.get_metric_history(r.info.run_id, "train/ce")
        assert [m.step for m in curve] == list(range(1, len(curve) + 1))
        kept = client.get_metric_history(r.info.run_id, "curve/robust")
        assert r.data.tags["harness.curve.robust"] == " ".join(f"{m.step}:{m.value:.4f}" for m in kept)
        assert r.data.tags["harness.protocol"] == str(TRAINING_VERSION)
        tested = [m for m in r.data.metrics if m.startswith("test/")]
        assert bool(tested) == (r.data.tags["harness.role"] == "seed")  # test is for the finalists alone
        role, number = (r.data.tags[f"harness.{what}"] for what in ("role", "number"))
        cell = parents[r.data.tags["mlflow.parentRunId"]].data.tags["harness.cell"]
        assert r.info.run_name == f"{'trial' if role == 'search' else 'seed'} {number}: {cell}"
        assert f"of **{cell}**" in r.data.tags["mlflow.note.content"]
        if r.data.tags["harness.state"] == "complete":
            assert len(curve) == 6 and r.info.status == "FINISHED"
            assert {"val/clean", "val_stderr/clean", "val_n/images", "seconds/train"} <= set(r.data.metrics)
            assert r.data.tags["harness.data.train"] and r.data.tags["harness.git"]
            names = {a.path for a in client.list_artifacts(r.info.run_id)}
            assert {"result.json", "val.npz"} <= names
        if tested:
            assert r.data.metrics["test_touches"] == 1
            assert "weights.pt" in {a.path for a in client.list_artifacts(r.info.run_id)}
    for parent in parents.values():  # the list of studies is a leaderboard
        assert {"test/robust", "test/clean", "val/robust", "seeds"} <= set(parent.data.metrics)
    attached = {a.path for a in client.list_artifacts(sweep.info.run_id, "report")}
    assert "report/smoke-digits.html" in attached


def test_what_optuna_holds(undisturbed):
    out = undisturbed.out
    for study in studies(out).values():
        states = [t.state.name for t in study.trials]
        assert len(states) == 2 and set(states) <= {"COMPLETE", "PRUNED"}
        published = study.trials[0]
        assert published.params["optim.lr"] == pytest.approx(0.05)
        for t in study.trials:
            assert (t.state.name == "COMPLETE") or max(t.intermediate_values) < 6


@pytest.mark.slow
def test_killed_in_the_middle_and_gone_on_with_gives_the_same(undisturbed, tmp_path, fresh):
    """kill -9 of the command while a trial is under way; then the same command again."""
    unheard = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with started(tmp_path, *ONE_AT_A_TIME, **unheard) as process:
        until(lambda: all(list(tmp_path.glob(f"trials/*/{n}")) for n in ("result.json", "checkpoint.pt")), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = run(tmp_path, *ONE_AT_A_TIME, "--register", "robust digits")
    assert again.returncode == 0, again.stderr
    best = leaderboard(tmp_path)[0]["cell"]  # whose first seed run is the first version
    assert re.findall(r"^registered: models:/(.*)$", again.stdout, re.M)[0] == f"robust digits/1 ({best})"
    assert leaderboard(tmp_path) == leaderboard(undisturbed.out)
    assert proposed(tmp_path) == proposed(undisturbed.out)
    assert mlflow_state(tmp_path) == mlflow_state(undisturbed.out)

    # and with a larger budget it adds to what is there
    touched = {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/result.json")}
    more = run(tmp_path, *ONE_AT_A_TIME, "--trials", "3")
    assert more.returncode == 0, more.stderr
    assert [len(s.trials) for s in studies(tmp_path).values()] == [3, 3]
    assert all(p.stat().st_mtime_ns == t for p, t in touched.items())


@pytest.mark.slow
def test_equal_proposals_are_counted_and_charged_once(tmp_path, fresh):
    """A cell of few settings: what Optuna proposes twice is run once, in any of its places."""
    few = ["--space", "noise", "--cell", "noise", "--set", "optim.lr=0.05", "--trials", "6", "--seeds", "1"]
    ended = run(tmp_path, *few, "--set", "epochs=2", "--set", "measure.watch=1", "--set", "data.limit=200")
    assert ended.returncode == 0, ended.stderr
    (study,) = studies(tmp_path).values()
    duplicates = sum("duplicate_of" in t.user_attrs for t in study.trials)
    assert len(study.trials) == 6 and duplicates == 6 - len({t.user_attrs["key"] for t in study.trials}) > 0
    _, runs = stored_runs(tmp_path)
    assert [r.data.tags["harness.role"] for r in runs].count("search") == 6 - duplicates
    with open(report(tmp_path, "csv", "noise-digits"), newline="") as file:
        (board,) = csv.DictReader(file)
    assert sum(int(board[f"trials:{state}"]) for state in ("complete", "pruned", "failed")) == 6 - duplicates
    assert f"{duplicates} more proposals" in report(tmp_path, "md", "noise-digits").read_text()


@pytest.mark.slow
def test_a_method_joins_the_report_of_the_space(tmp_path, fresh):
    """Beside the cells that ran before, which are not run again."""
    words = [*ONE_AT_A_TIME, "--trials", "1", "--seeds", "1", "--set", "epochs=1"]
    assert run(tmp_path, *words).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/weights.pt")}
    more = run(tmp_path, *words, "--cell", "sat", "--set", "method=noise")
    assert more.returncode == 0, more.stderr
    assert "cell sat is the base of noise: method = noise instead of sat; it has no maps.saliency\n" in more.stdout
    assert {row["cell"] for row in leaderboard(tmp_path)} == {"standard", "sat", "noise"}
    after = {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/weights.pt")}
    assert before.items() < after.items() and len(after) == len(before) + 2
    _, runs = stored_runs(tmp_path)
    assert [r.data.tags["harness.role"] for r in runs].count("sweep") == 1


@pytest.mark.slow
def test_what_a_worker_cannot_write_ends_the_command_and_loses_nothing(tmp_path, fresh):
    """A folder in a checkpoint's place stands for all that is no trial's fault: the trial is gone on with later."""
    words = [*ONE_AT_A_TIME, "--trials", "1", "--seeds", "1"]
    (cell, *_) = cli.space("smoke").cells({})
    blocked = tmp_path / "trials" / replace(cell.trial, seed=1).key / "checkpoint.pt"
    blocked.mkdir(parents=True)
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and str(blocked) in done.stderr
    stored = {p: p.read_bytes() for p in tmp_path.glob("trials/*/result.json")}
    assert len(stored) == 2  # what was searched
    blocked.rmdir()
    again = run(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert {p: p.read_bytes() for p in stored} == stored
    _, runs = stored_runs(tmp_path)
    states = [r.data.tags["harness.state"] for r in runs if r.data.tags["harness.role"] == "seed"]
    assert states == ["complete", "complete"]


@pytest.mark.slow
def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path, fresh):
    """When nothing is left to hand out, but something still runs: the case that is easily taken for the end."""
    words = ["--trials", "1", "--set", "epochs=40"]
    with started(tmp_path, *words) as process:

        def searched():
            results = [json.loads(p.read_text()) for p in tmp_path.glob("trials/*/result.json")]
            return [r for r in results if r["trial"]["seed"] == 0]

        until(lambda: len(searched()) == 2 and list(tmp_path.glob("trials/*/checkpoint.pt")), process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Continue with: python -m harness.tune --space smoke" in said and "Traceback" not in said


def test_dry_run_names_cells_domains_and_cost_and_runs_nothing(tmp_path):
    done = run(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 cells x 2 trials" in done.stdout and "optim.lr" in done.stdout and "minutes" in done.stdout
    assert not (tmp_path / "trials").exists() and not (tmp_path / "mlflow.db").exists()


def test_list_and_help_import_nothing_heavy():
    for words in (["--list"], ["--help"]):
        code = (
            "import sys, runpy\n"
            "for name in ('torch', 'ray', 'mlflow', 'optuna'): sys.modules[name] = None\n"
            f"sys.argv = ['harness.tune', *{words!r}]\n"
            "runpy.run_module('harness.tune', run_name='__main__')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "sat_family" in done.stdout if words == ["--list"] else "--dry-run" in done.stdout


@pytest.mark.parametrize(
    "words, said",
    [
        (["--space", "stt"], ["stt", "sat"]),
        (["--data", "digitz"], ["digitz", "digits"]),
        (["--space", "standard", "--set", "method=sta"], ["sta", "sat"]),
        (["--set", "optim.lrr=1"], ["lrr", "lr"]),
        (["--set", "epochs=few"], ["epochs", "few"]),
        (["--set", "model=resnet11"], ["resnet11", "resnet1"]),
        (["--set", "nonsense"], ["nonsense"]),
        (["--trials", "0"], ["--trials"]),
        (["--seeds", "-1"], ["--seeds"]),
        (["--keep", "winner"], ["--keep", "winners or all"]),
        (["--cpus", "-1"], ["--cpus"]),
        (["--tracking-uri", "http://127.0.0.1:9"], ["127.0.0.1:9"]),
        (["--tracking-uri", "file:///tmp/runs"], ["file:///tmp/runs"]),
        (["--tracking-uri", "sqlite:////proc/no/mlflow.db"], ["/proc/no"]),
        (["--out", "/proc/no"], ["/proc/no"]),
        (["--device", "cuda:9"], ["cuda:9"]),
        (["--device", "cpu", "--gpus", "1"], ["--device", "--gpus"]),
        (["--cpus", "nan"], ["--cpus"]),
        (["--space", "sat_family", "--set", "maps.saliency=box"], ["box", "digits"]),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, words, said, capsys, monkeypatch):
    """In this process, as the command runs it; `exit_status` is what its last line calls."""
    from harness.errors import exit_status

    out = [] if "--out" in words else ["--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["harness.tune", "--space", "smoke", *out, *words])
    monkeypatch.setattr(
        "harness.sweep.cluster.connect", lambda address: pytest.fail("came as far as Ray"), raising=False
    )
    assert exit_status(tune.main) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(word in error for word in said), error


@pytest.mark.slow
def test_no_cluster_at_the_address(tmp_path):
    done = run(tmp_path, "--address", "127.0.0.1:9")
    assert done.returncode == 2 and "127.0.0.1:9" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_two_commands_do_not_write_to_one_folder(tmp_path, capsys, monkeypatch):
    from harness.errors import exit_status
    from harness.storage.files import locked

    monkeypatch.setattr(sys, "argv", ["harness.tune", "--space", "smoke", "--out", str(tmp_path)])
    with locked(tmp_path / "lock"):
        assert exit_status(tune.main) == 2
    assert "another command" in capsys.readouterr().err


def test_the_spaces_that_were_promised_are_there():
    single = {"smoke", "standard", "noise", "pgd", "trades", "sat", "pgd_sat", "trades_sat"}
    assert single | {"sat_alpha", "sat_family"} <= set(cli.spaces())


BROKEN = {  # a module's text, and what is said of it
    "def broken(:": "broken.py, line 1: invalid syntax",
    '"""Mine?"""\nfrom nowhere import x': "broken.py, line 2: ModuleNotFoundError: No module named 'nowhere'",
    '"""Mine?"""': "broken.py: AttributeError: module 'search_spaces.broken' has no attribute 'SPACE'",
    "\0": "broken.py",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_space_is_named_and_the_others_are_listed(text, tmp_path, monkeypatch, capsys):
    import search_spaces

    (tmp_path / "broken.py").write_text(text)
    (tmp_path / "fine.py").write_text('"""Is it fine? é"""\n', encoding="utf-8")
    monkeypatch.setattr(named_spaces, "SPACES", tmp_path)
    monkeypatch.setattr(search_spaces, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "search_spaces.broken", raising=False)
    monkeypatch.setattr(sys, "argv", ["tune", "--list"])
    assert exit_status(tune.main) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[1] == "fine         Is it fine? é" and listed[0].startswith("broken       ")
    monkeypatch.setattr(sys, "argv", ["tune", "--space", "broken"])
    assert exit_status(tune.main) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: space 'broken' cannot be read: {BROKEN[text]}") and said.count("\n") == 1
