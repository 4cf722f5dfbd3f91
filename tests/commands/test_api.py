"""The harness as a notebook calls it: trials, numbers and error lines of the commands, and nothing else changed."""

import copy
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK
from sweeps import LIMIT, ROOT

from harness import api, sweep_driver
from harness.api import Data, Space, Trial, UserError, build, evaluate, report, run, tune
from harness.config import space, trial
from harness.data import datasets
from harness.evaluation.batching import to_batch
from harness.sweep.plan import Plan
from harness.trials import run as trial_run
from reports.present.tables import Column, Entry, Table
from reports.write import notebook

FEW = {**QUICK, "method": "standard", "epochs": 1}
SMALL = Space(
    base={**FEW},
    compare={"a": {"method": "standard"}, "b": {"method": "noise"}},
    search={"optim.lr": api.within(2)},
)


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A folder for results; the working directory is another one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    yield tmp_path / "out"
    assert not list(elsewhere.iterdir())


@pytest.fixture(scope="module")
def own():
    draws = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = draws.integers(0, 60, (60, 1, 8, 8)) + 60 * y[:, None, None, None]
    return Data.from_arrays(x.astype(np.uint8), y, name="stripes")


def test_the_surface_is_what_it_says():
    assert api.Space is space.Space and api.Trial is trial.Trial and api.build is trial.build
    assert sorted(api.__all__) == list(api.__all__) and all(getattr(api, name).__doc__ for name in api.__all__)


def test_importing_it_imports_neither_ray_nor_mlflow():
    code = "import sys, harness.api; print([m for m in ('ray', 'mlflow', 'captum', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == "[]\n", done.stderr


# ---- run


def test_a_run_is_the_trial_of_the_command(out, workspace, capsys):
    ran = run(FEW, out=out)
    result = trial_run.run(build(FEW), workspace)
    assert isinstance(ran.trial, Trial) and ran.trial.key == build(FEW).key
    assert {name: score.mean for name, score in ran.scores.items()} == {s.name: s.mean for s in result.scores}
    assert ran.table().loc["val/clean", "mean"] == result.score("val/clean").mean
    assert list(ran.curve()["train/ce"]) == [row["train/ce"] for row in result.rows]
    assert re.fullmatch(r"  epoch +1 .*\n", capsys.readouterr().out)
    assert "val/clean" in repr(ran) and "<td>" in ran._repr_html_()


def test_its_net_has_the_recorded_accuracy(out, workspace):
    ran = run(FEW, out=out, quiet=True)
    val = datasets.load(ran.trial.data, workspace).val
    with torch.no_grad():
        right = ran.net()(to_batch(val).x).argmax(1) == val.y
    assert float(right.double().mean()) == ran.scores["val/clean"].mean


def test_test_images_are_measured_only_when_asked(out):
    assert not any(name.startswith("test/") for name in run(FEW, out=out, quiet=True).scores)
    assert "test/robust" in run(build(FEW), out=out, quiet=True, test=True).scores


def test_data_of_ones_own_are_trained_on(out, own):
    settings = {"method": "standard", "model": "small", "epochs": 1, "measure.steps": 1, "measure.eps": (1 / 255,)}
    ran = run(settings, data=own, out=out, quiet=True)
    source = ran.trial.data
    assert source.name.startswith("stripes-") and (out / "data" / source.name).is_dir()
    assert (source.size, source.test_share) == (0, 0.2) and ran.scores["val/clean"].n == 10
    assert run({**settings, "data.size": 12}, data=own, out=out, quiet=True).trial.data.size == 12
    assert evaluate(ran.trial, out=out, quiet=True).scores["val/clean"].mean == ran.scores["val/clean"].mean
    same = {"data.size": 0, "data.test_share": 0.2}
    assert run(settings | same, data=source.name, out=out, quiet=True).trial.key == ran.trial.key


# ---- evaluate


def test_a_net_is_measured_as_its_trial_and_stays_as_it_was(out):
    ran = run(FEW, out=out, quiet=True)
    net = ran.net().train()
    before = copy.deepcopy(net.state_dict())
    measured = {path: value for path, value in FEW.items() if path.startswith("measure.")}
    found = evaluate(net, data="digits", settings={**measured, "data.limit": 96}, out=out, quiet=True)
    assert found.table().equals(evaluate(ran.trial, out=out, quiet=True).table())
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert found.file.exists() and all(check.name for check in found.checks)


def test_a_suite_an_image_count_and_a_split_are_chosen(out):
    few = evaluate(FEW, ["standard", "corruption"], images=7, test=True, out=out, quiet=True)
    assert (
        {score.n for score in few.scores.values()} == {7} and "test/fog" in few.scores and "test/robust" in few.scores
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: run({"method": "sta"}), "method 'sta' is not known; did you mean 'sat'?"),
        (lambda: run({"epoch": 3}), "a trial has no 'epoch'; did you mean 'epochs'?"),
        (lambda: run("sat"), "a trial is given by its settings, such as {'method': 'sat'}, not by 'sat'"),
        (lambda: run(build(FEW), data="shapes"), "the data of a trial are a part of it; give settings in its place"),
        (lambda: run(FEW, data=[1]), "data is a name, or made by Data.from_arrays or Data.from_dataset, not a list"),
        (lambda: tune({"method": "sat"}), "a space is a Space, or the name of one, not a dict"),
        (lambda: run(FEW, device="tpu"), "no device 'tpu' here; there are: cpu"),
        (lambda: evaluate(torch.nn.Flatten()), "name the data that the net is measured on: data='cifar10'"),
        (lambda: evaluate(torch.nn.Flatten(), data="digits"), "Flatten has 64 classes, the data 10"),
        (lambda: evaluate(FEW, "standart"), "suite 'standart' is not known; did you mean 'standard'?"),
        (lambda: evaluate(FEW, settings={"epochs": 2}), "epochs is fixed by the trial; only measure"),
        (lambda: evaluate(FEW, images=-1), "images must be at least 0, not -1"),
        (lambda: tune("sta"), "space 'sta' is not known; did you mean 'sat'?"),
        (lambda: tune("sat", trials=0), "trials must be at least 1, not 0"),
        (lambda: tune("sat", seeds=1.5), "seeds takes a whole number, not '1.5'"),
        (lambda: tune("sat", cells="noize"), "cell 'noize' is not known; did you mean 'noise'?"),
        (lambda: tune("sat", settings={"optim.lrr": 1}), "Optim has no 'lrr'; did you mean 'lr'?"),
        (lambda: tune("sat", worker=2), "tune has no 'worker'; did you mean 'workers'?"),
        (lambda: tune("sat", budget=[2]), "budget takes float | None, not [2]"),
        (lambda: tune("sat", cpus="2"), "cpus takes float, not '2'"),
        (lambda: tune("sat", retry_failed="no"), "retry_failed takes bool, not 'no'"),
        (lambda: tune("sat", budget="2 weeks"), "budget takes a time such as 90m, 2h30m or 7200s, not '2 weeks'"),
        (lambda: tune("sat", keep="some"), "--keep takes winners or all, not 'some'"),
        (lambda: tune("sat", address="ray://h:1"), "a notebook outside of a cluster cannot tune there"),
        (lambda: tune(SMALL, name="sat"), "name 'sat' is that of a space of search_spaces; choose another"),
        (lambda: tune(SMALL, name="a/b"), "name takes letters, digits, . - and _, not 'a/b'"),
        (lambda: report("nowhere"), "there is no MLflow database at "),
        (lambda: report("x://y"), "MLflow at 'x://y' cannot be read: "),
    ],
)
def test_bad_input_is_one_line(out, call, said):
    with pytest.raises(UserError) as mistake:
        call()
    assert said in str(mistake.value) and "\n" not in str(mistake.value)
    shutil.rmtree("runs", ignore_errors=True)  # the default, below the working directory


# ---- tune


@pytest.fixture
def asked(monkeypatch):
    """The request that `tune` makes, of a driver that ends at once; its end may be replaced."""
    made = SimpleNamespace(request=None, end=lambda planned: sweep_driver.Swept(planned))

    def prepared(request):
        made.request = request
        return Plan(request, None, {}, 0, 0, "", "", ()), None

    monkeypatch.setattr(sweep_driver, "prepared", prepared)
    monkeypatch.setattr(sweep_driver, "run", lambda planned, workspace: made.end(planned))
    return made


def test_its_arguments_are_what_a_command_asks_for(out, asked, own):
    with pytest.raises(KeyboardInterrupt, match="finished trials are stored, and the same call continues"):
        tune(SMALL, name="mine", data=own, cells="a", settings={"epochs": 2}, trials=4, seeds=0, out=out, budget="2h")
    given = asked.request
    assert (given.space.name, given.space.space, given.cells) == ("mine", SMALL, ("a",))
    (stored,) = (out / "data").iterdir()
    assert dict(given.settings) == {"epochs": 2, "data": stored.name, "data.size": 0, "data.test_share": 0.2}
    assert (given.trials, given.seeds, given.budget, given.out) == (4, 0, 7200, str(out))
    assert given.data_root == str(out / "data") and stored.name.startswith("stripes-")


def test_a_size_that_the_space_sets_stays(out, asked, own):
    sized = dataclasses.replace(SMALL, base={**SMALL.base, "data.size": 12})
    with pytest.raises(KeyboardInterrupt):
        tune(sized, data=own, out=out)
    assert "data.size" not in asked.request.settings and asked.request.settings["data.test_share"] == 0.2


def test_another_command_that_took_the_output_over_is_one_line(out, asked):
    from harness.storage.driver_lock import DriverLost

    def lost(planned):
        raise DriverLost("another command writes to s3://b")

    asked.end = lost
    with pytest.raises(UserError, match=r"^another command writes to s3://b$"):
        tune("smoke", out=out)


def test_what_mlflow_lacks_is_a_warning(out, asked):
    found = SimpleNamespace(table=None, leaderboard=None, files=())
    asked.end = lambda planned: sweep_driver.Swept(planned, found, "the store refused 2 writes")
    with pytest.warns(UserWarning, match="the store refused 2 writes"):
        assert tune("smoke", out=out).files == ()


# ---- report


@pytest.fixture(scope="module")
def made(undisturbed):
    """The report of a finished sweep of a command."""
    return report(undisturbed.out)


def test_a_report_has_the_numbers_of_the_commands(made, undisturbed):
    (file,) = (undisturbed.out / "reports").glob("*.csv")
    written = pd.read_csv(file)
    table = made.table()
    assert list(table["cell"]) == list(written["cell"]) and list(table.columns) == list(written.columns)
    np.testing.assert_allclose(table["test/robust"], written["test/robust"], rtol=1e-12)
    assert str(made) in undisturbed.printed and repr(made) == str(made)


@pytest.mark.parametrize("place", ["folder", "store"])
def test_the_best_trials_are_those_whose_weights_are_kept(undisturbed, place):
    where = undisturbed.out if place == "folder" else f"sqlite:///{undisturbed.out / 'mlflow.db'}"
    best = report(where).best
    assert list(best) == list(report(where).table()["cell"])
    for winner in best.values():
        assert (undisturbed.out / "trials" / winner.key / "weights.pt").exists()


def test_figures_are_found_by_name(made):
    assert made.figures[0] == "accuracy" and {"spread", "learning", "fronts"} <= set(made.figures)
    drawn = made.figure("accuracy")._repr_html_()
    assert drawn.count("<svg") == len(made.table()) and "Accuracy against eps" in drawn and "<script" not in drawn
    assert all(made.figure(name).html.startswith("<div class='harness-figure'>") for name in made.figures)
    with pytest.raises(UserError, match=r"^figure 'acuracy' is not known; did you mean 'accuracy'\?$"):
        made.figure("acuracy")


def test_a_notebook_shows_the_ranking(made):
    shown = made._repr_html_()
    assert shown.count("<tr>") == 1 + len(made.table()) and all(f"<td>{cell}" in shown for cell in made.table()["cell"])


def test_of_several_experiments_one_is_named(undisturbed, monkeypatch):
    monkeypatch.setattr("reports.read.runs.experiments", lambda uri: ["one", "two"])
    with pytest.raises(UserError, match=r"^name the experiment; there are: one, two$"):
        report(undisturbed.out)


def test_texts_from_outside_stay_texts():
    evil = "<script>x</script>"
    table = Table("k", evil, [Column(evil)], [[Entry(evil, 0, mark=evil, best=True)]], evil)
    assert "<script" not in notebook.table(table) and notebook.table(table).count("&lt;script&gt;x") == 5


def test_the_rules_of_a_figure_hold_in_it_alone(made):
    """Other cells of the notebook are in the same document: a rule for `svg` or `:root` would reach them."""
    style = re.findall(r"<style>(.*?)</style>", made.figure("accuracy").html, re.DOTALL)
    assert len(style) == 1 and style[0].startswith(".harness-figure {") and ":root" not in style[0]
    depth = np.cumsum([{"{": 1, "}": -1}.get(letter, 0) for letter in style[0]])
    assert depth[-1] == 0 and (depth[style[0].index("{") : -1] > 0).all()


IN_A_THREAD = """
import signal, sys, threading
import ray
from harness.api import tune

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
found = []
thread = threading.Thread(target=lambda: found.append(tune("smoke", out=sys.argv[1], trials=1, seeds=1, quiet=True)))
thread.start()
thread.join()
assert ray.is_initialized(), "the Ray of the notebook was shut down"
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
print(found[0].table()["seeds"].tolist(), ray.get(ray.remote(lambda: 7).remote()))
"""


@pytest.mark.slow
def test_a_sweep_in_a_thread_leaves_ray_and_signals_as_they_were(out):
    """In a process that has a Ray of its own, and another working directory than the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    words = [sys.executable, "-c", IN_A_THREAD, str(out)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert re.fullmatch(r"\[1(, 1)*\] 7\n", done.stdout), done.stderr
