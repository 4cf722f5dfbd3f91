"""One trial: what it stores, that it is not done twice, and that it needs neither cluster nor server."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import trial
from harness.errors import Mistake
from harness.place import SEAL

ROOT = Path(__file__).parent.parent


def test_a_finished_trial_is_not_run_again(place, quick):
    run = quick(method="sat", maps__saliency="gradient")
    rows = []
    first = trial.run(run, place)
    stamps = {p: p.stat().st_mtime_ns for p in place.trial(run.key).iterdir()}
    again = trial.run(run, place, report=rows.append)
    assert again == first and len(rows) == run.epochs
    assert {p: p.stat().st_mtime_ns for p in place.trial(run.key).iterdir() if p.name != "lock"} == {
        p: t for p, t in stamps.items() if p.name != "lock"
    }


def test_what_is_stored_is_what_was_measured(place, quick):
    run = quick(method="noise")
    result = trial.run(run, place, test=True)
    folder = place.trial(run.key)
    assert json.loads((folder / "trial.json").read_text())["settings"]["method"] == "noise"
    assert not (folder / "checkpoint.pt").exists()
    for part in ("val", "test"):
        with np.load(folder / f"{part}.npz") as images:
            for score in (s for s in result.scores if s.name.startswith(part)):
                assert images[score.name].mean() == pytest.approx(score.mean, abs=1e-6)
                assert len(images[score.name]) == score.n
    state = torch.load(folder / "weights.pt", weights_only=True)
    net, _ = trial.trained(run, place)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())


def test_test_images_are_touched_only_when_asked_and_counted(place, quick):
    run = quick(method="standard")
    assert not [s for s in trial.run(run, place).scores if s.name.startswith("test/")]
    assert trial.run(run, place).touches == 0
    assert trial.run(run, place, test=True).touches == 1
    assert trial.run(run, place, test=True).touches == 1  # remembered, not measured again
    assert trial.run(run, place).score("test/clean").n == 96


def test_same_trial_same_numbers_elsewhere(place, quick, tmp_path):
    run = quick(method="pgd")
    other = trial.run(run, type(place)(tmp_path / "other", place.data).writable(), test=True)
    here = trial.run(run, place, test=True)
    assert [s.mean for s in here.scores] == [s.mean for s in other.scores]
    assert here.checksums == other.checksums


def assert_other_data_is_noticed(run, place, name):
    """As if the stored file had been written on other images."""
    file = place.trial(run.key) / name
    record = json.loads(file.read_text())
    record["checksums"]["train"] = "0" * 16
    del record[SEAL]
    file.write_text(json.dumps(record))
    with pytest.raises(Mistake, match="has changed"):
        trial.run(run, place)


def test_other_data_under_the_same_name_is_noticed(place, quick):
    run = quick(method="standard")
    trial.run(run, place)
    assert_other_data_is_noticed(run, place, "result.json")


def test_a_checkpoint_is_not_gone_on_with_on_other_data(place, quick):
    run = quick(method="standard", epochs=3)

    def stop(row):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        trial.run(run, place, report=stop)
    assert_other_data_is_noticed(run, place, "trial.json")


def test_weights_that_are_none_are_named_and_no_touch_is_counted(place, quick):
    run = quick(method="standard")
    trial.run(run, place)
    torch.save([1, 2], place.trial(run.key) / "weights.pt")
    with pytest.raises(Mistake, match="weights"):
        trial.run(run, place, test=True)
    assert trial.run(run, place).touches == 0


def test_what_is_no_result_is_named_and_kept(place, quick):
    run = quick(method="standard")
    file = place.trial(run.key) / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(Mistake, match=r"result\.json"):
        trial.run(run, place)
    assert file.read_text() == "{}"


@pytest.mark.slow
def test_runs_where_neither_ray_nor_mlflow_nor_optuna_can_be_imported(tmp_path):
    """The command itself, with the packages it must not need made unimportable."""
    blocked = "ray mlflow optuna captum pandas"
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
