"""A metric of one's own on a trial that is there already: measured on its stored weights, which nothing trains anew."""

import json
import shutil
import sys

import plugin_files
import pytest
import torch

from harness import evaluate, plugins
from harness.config.trial import build
from harness.data import datasets
from harness.errors import exit_status
from harness.storage.workspace import Workspace
from harness.trials import run as trial_run


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """measured(words): status, lines and error of `harness.evaluate` on trials of `runs`, in a folder of plug-ins."""
    monkeypatch.chdir(plugin_files.write(tmp_path / "ideas"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate", "--out", str(tmp_path / "runs"), "--device", "cpu", *words])
        status = exit_status(evaluate.main)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_it_is_measured_on_stored_weights(measured, tmp_path):
    workspace = Workspace(tmp_path / "runs", tmp_path / "data").writable()
    trial = build({"model": "tiny", "epochs": 1, "data.limit": 60, "measure.watch": 1})
    net, _ = trial_run.trained_model(trial, workspace)
    weights = workspace.trial(trial.key) / "weights.pt"
    before = weights.stat().st_mtime_ns
    status, said, error = measured("--trial", trial.key, "--suite", "things.py:confidence", "--test")
    assert status == 0, error
    test = datasets.load(trial.data, workspace).test
    with torch.no_grad():
        expected = net(test.x.float() / 255).softmax(1).amax(1).mean()
    (file,) = workspace.trial(trial.key).glob("evaluation-test-*.json")
    record = json.loads(file.read_text())
    (score,) = record["scores"]
    assert score["name"] == "test/confidence" and score["mean"] == pytest.approx(float(expected), abs=1e-5)
    assert record["settings"]["measure.suites"] == [plugins.pinned("things.py:confidence")]
    assert weights.stat().st_mtime_ns == before and "test/confidence" in said


def test_a_trial_of_a_plug_in_is_measured_by_the_copy_that_was_kept(measured, tmp_path):
    workspace = Workspace(tmp_path / "runs", tmp_path / "data").writable()
    trial = build({"method": "alp.py:ALP", "model": "things.py:thin", "epochs": 1, "data.limit": 60})
    trial_run.trained_model(trial, workspace)
    shutil.rmtree(tmp_path / "ideas" / "__pycache__", ignore_errors=True)
    (tmp_path / "ideas" / "things.py").write_text("raise SystemExit('the edited file was run')")
    (tmp_path / "ideas" / "alp.py").unlink()
    status, said, error = measured("--trial", trial.key)
    assert status == 0, error
    assert f"plug-ins, as they were kept: {', '.join(trial.plugins)}\n" in said and "val/robust" in said
