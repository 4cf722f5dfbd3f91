"""One trial: what it stores, that it is not done twice, and that it needs neither cluster nor server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import trial as trial_command
from harness.data import datasets
from harness.errors import UserError
from harness.evaluation import evaluator
from harness.storage.sealed_json import CHECKSUM_KEY
from harness.trials import run as trial_run

ROOT = Path(__file__).parents[2]


def test_a_finished_trial_is_not_run_again(workspace, quick):
    run = quick(method="sat", maps__saliency="gradient")
    rows = []
    first = trial_run.run(run, workspace)
    stamps = {p: p.stat().st_mtime_ns for p in workspace.trial(run.key).iterdir()}
    again = trial_run.run(run, workspace, report=rows.append)
    assert again == first and len(rows) == run.epochs
    assert {p: p.stat().st_mtime_ns for p in workspace.trial(run.key).iterdir() if p.name != "lock"} == {
        p: t for p, t in stamps.items() if p.name != "lock"
    }


def test_what_is_stored_is_what_was_measured(workspace, quick):
    run = quick(method="noise")
    result = trial_run.run(run, workspace, test=True)
    folder = workspace.trial(run.key)
    assert json.loads((folder / "trial.json").read_text())["settings"]["method"] == "noise"
    assert not (folder / "checkpoint.pt").exists()
    for part in ("val", "test"):
        with np.load(folder / f"{part}.npz") as images:
            for score in (s for s in result.scores if s.name.startswith(part)):
                assert images[score.name].mean() == pytest.approx(score.mean, abs=1e-6)
                assert len(images[score.name]) == score.n
    state = torch.load(folder / "weights.pt", weights_only=True)
    net, _ = trial_run.trained_model(run, workspace)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())


@pytest.mark.parametrize("images", [0, 20])
def test_the_last_validation_of_the_training_is_not_repeated(workspace, quick, monkeypatch, images):
    """If it was of all validation images: its scores are those that a measurement of the stored net gives."""
    run, measured, measure = quick(method="noise", measure__images=images), [], evaluator._Evaluation.measure

    def counted(self, key, item, scores):
        measured.append(f"{self.name}/{key}")
        return measure(self, key, item, scores)

    monkeypatch.setattr(evaluator._Evaluation, "measure", counted)
    result = trial_run.run(run, workspace)
    again = {name.replace("curve/", "val/") for name in measured if name.startswith("curve/")}
    assert "val/clean" in again and any("pgd" in name for name in again)
    assert again.isdisjoint(measured) == (images == 0)
    net, _ = trial_run.trained_model(run, workspace)
    val = datasets.load(run.data, workspace).val
    fresh = evaluator.evaluate(net, val, run.measure, run.attribution, name="val")
    assert result.scores == fresh
    assert all(np.array_equal(a.per_example, b.per_example) for a, b in zip(result.scores, fresh, strict=True))


def test_test_images_are_touched_only_when_asked_and_counted(workspace, quick):
    run = quick(method="standard")
    assert not [s for s in trial_run.run(run, workspace).scores if s.name.startswith("test/")]
    assert trial_run.run(run, workspace).test_evaluations == 0
    assert trial_run.run(run, workspace, test=True).test_evaluations == 1
    assert trial_run.run(run, workspace, test=True).test_evaluations == 1  # remembered, not measured again
    assert trial_run.run(run, workspace).score("test/clean").n == 96


def test_measurements_are_told_first_of_the_validation_and_then_of_the_test(workspace, quick):
    told = []
    trial_run.run(quick(), workspace, progress=lambda done, of, key: told.append((done, of, key)), test=True)
    first = [done for done, _, _ in told].index(0, 1)
    validation, test = told[:first], told[first:]
    assert validation == test and len(test) > 1 and test[0][::2] == (0, "clean")
    numbers = [done for done, _, _ in test]
    assert numbers == sorted(set(numbers)) and all(done < of for done, of, _ in test)
    trial_run.run(quick(), workspace, progress=lambda *of: told.append(of), test=True)
    assert told == validation + test  # nothing is measured again


def test_same_trial_same_numbers_elsewhere(workspace, quick, tmp_path):
    run = quick(method="pgd")
    other = trial_run.run(run, type(workspace)(tmp_path / "other", workspace.data).writable(), test=True)
    here = trial_run.run(run, workspace, test=True)
    assert [s.mean for s in here.scores] == [s.mean for s in other.scores]
    assert here.checksums == other.checksums


def assert_other_data_is_noticed(run, workspace, name):
    """As if the stored file had been written on other images."""
    file = workspace.trial(run.key) / name
    record = json.loads(file.read_text())
    record["checksums"]["train"] = "0" * 16
    del record[CHECKSUM_KEY]
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match="has changed"):
        trial_run.run(run, workspace)


def test_other_data_under_the_same_name_is_noticed(workspace, quick):
    run = quick(method="standard")
    trial_run.run(run, workspace)
    assert_other_data_is_noticed(run, workspace, "result.json")


def test_a_checkpoint_is_not_gone_on_with_on_other_data(workspace, quick):
    run = quick(method="standard", epochs=3)

    def stop(row):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        trial_run.run(run, workspace, report=stop)
    assert_other_data_is_noticed(run, workspace, "trial.json")


def test_weights_that_are_none_are_named_and_no_touch_is_counted(workspace, quick):
    run = quick(method="standard")
    trial_run.run(run, workspace)
    torch.save([1, 2], workspace.trial(run.key) / "weights.pt")
    with pytest.raises(UserError, match="weights"):
        trial_run.run(run, workspace, test=True)
    assert trial_run.run(run, workspace).test_evaluations == 0


def test_what_is_no_result_is_named_and_kept(workspace, quick):
    run = quick(method="standard")
    file = workspace.trial(run.key) / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"result\.json"):
        trial_run.run(run, workspace)
    assert file.read_text() == "{}"


def test_the_command_says_what_speaks_against_its_scores_on_test(tmp_path, monkeypatch, capsys, quick):
    """Two steps of 1/255 do not reach 16/255."""
    words = ["--space", "smoke", "--cell", "standard", "--set", "epochs=1", "--set", "data.limit=96"]
    words += [word for setting in ("steps=2", "step=1/255", "eps=16/255") for word in ("--set", f"measure.{setting}")]
    said = []
    for more in ([], ["--test"], ["--test", "--quiet"]):
        monkeypatch.setattr("sys.argv", ["trial", *words, "--out", str(tmp_path), "--device", "cpu", *more])
        assert trial_command.main() == 0
        said.append(capsys.readouterr().out)
    assert "doubt" not in said[0] and "checks passed" not in said[0] and "test/" not in said[0]
    for text in said[1:]:
        (doubt,) = re.findall("^  doubt: reach: .*", text, re.M)
        assert "steps" in doubt and re.search(r"^  checks passed: finite, .*deterministic", text, re.M)


@pytest.mark.slow
def test_runs_where_neither_ray_nor_mlflow_can_be_imported(tmp_path):
    """The command itself, with the packages it must not need made unimportable."""
    blocked = "ray mlflow sqlalchemy alembic captum pandas"
    code = (
        "import sys, runpy\n"
        f"for name in {blocked!r}.split(): sys.modules[name] = None\n"
        "sys.argv = ['harness.trial', '--space', 'smoke', '--cell', 'all', '--set', 'epochs=1',"
        f" '--out', {str(tmp_path)!r}, '--test']\n"
        "runpy.run_module('harness.trial', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test/robust" in done.stdout and "sat: trial" in done.stdout


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "words, said",
    [
        (["--space", "stt"], "sat"),
        (["--cell", "nobody"], "nobody"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--set", "epochs"], "epochs"),
        (["--data", "digit"], "digits"),
        (["--set", "model=resnet11"], "resnet1"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, words, said):
    command = [sys.executable, "-m", "harness.trial", "--out", str(tmp_path), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr
