"""What an evaluation leaves behind to be doubted: attacked images, and the checks beside its scores."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from harness.config.trial import build
from harness.data import datasets
from harness.evaluation import evaluator
from harness.evaluation.checks import run_checks
from harness.trials import run as trial_run


@pytest.fixture(scope="module")
def digits(shared_workspace):
    """A net trained by PGD on digits, its settings, and test images."""
    run = build({"method": "pgd", "epochs": 10, "measure.watch": 10, "measure.eps": "8/255,24/255"})
    net, _ = trial_run.trained_model(run, shared_workspace)
    return net, run, datasets.load(run.data, shared_workspace).test


def measured(net, run, split):
    return evaluator.evaluate(net, split, run.measure, name="test")


def verdicts(checks):
    return {c.name: c.passed for c in checks}


@pytest.mark.slow
def test_a_sound_evaluation_is_not_doubted_and_its_images_are_kept(tmp_path, digits):
    net, run, split = digits
    scores = measured(net, run, split)
    file = tmp_path / "attacked.npz"
    checks = run_checks.run_checks(net, split, run.measure, scores, examples=file, expensive=True)
    assert False not in verdicts(checks).values(), [c.about for c in checks if c.passed is False]
    asked = {name for name, passed in verdicts(checks).items() if passed}
    assert {"repeats", "convergence", "random_search", "falls_with_eps", "unbounded", "reach"} <= asked
    json.dumps([vars(c) for c in checks])  # as they are stored
    with np.load(file) as kept:
        n = len(kept["x"])
        assert n == 256 and kept["x"].dtype == np.uint8
        delta = np.abs(kept["z"] - kept["x"] / np.float32(255))
        assert 20 / 255 < delta.max() <= 24 / 255 + 1e-6
        score = next(s for s in scores if s.name == "test/pgd10-24")
        assert np.array_equal(kept["right"], score.per_example[:n] == 1)
        with torch.no_grad():
            right = net(torch.from_numpy(kept["z"])).argmax(1) == split.y[:n]
        assert (right.numpy() == kept["right"]).mean() > 0.99


def test_of_large_images_fewer_are_kept(tmp_path, digits):
    _, run, _ = digits
    split = datasets.Split(torch.randint(256, (4, 3, 200, 200), dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))

    class Flat(nn.Module):
        def forward(self, x):
            mean = x.mean((1, 2, 3))
            return torch.stack([mean, 1 - mean], 1)

    scores = measured(Flat(), run, split)
    run_checks.run_checks(Flat(), split, run.measure, scores, examples=tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as kept:
        assert len(kept["z"]) == 1


def test_scores_of_another_net_are_doubted(tmp_path, digits):
    net, run, split = digits
    scores = measured(net, run, split)

    class Turned(nn.Module):
        def forward(self, x):
            return net(x.flip(3))

    checks = verdicts(run_checks.run_checks(Turned(), split, run.measure, scores, examples=tmp_path / "a.npz"))
    assert checks["repeats"] is False and checks["zero_eps"] is False


def test_doubts_stand_beside_the_test_scores_of_a_trial(workspace, quick):
    run = quick(method="standard")
    assert trial_run.run(run, workspace).checks == []
    tested = trial_run.run(run, workspace, test=True)
    assert {"gradients", "repeats"} <= set(verdicts(tested.checks))
    assert trial_run.run(run, workspace).checks == tested.checks
    assert (workspace.trial(run.key) / "attacked.npz").exists()
    assert not list(workspace.trial(run.key).glob("measuring-*"))


def test_an_interrupted_test_goes_on(workspace, quick, monkeypatch):
    run = quick(method="standard")
    trial_run.run(run, workspace)
    asked, real = [], evaluator._Evaluation.measure

    def measured(self, key, item, scores):
        asked.append(key)
        if key.startswith("fgsm") and len(asked) < 4:
            raise KeyboardInterrupt
        return real(self, key, item, scores)

    monkeypatch.setattr(evaluator._Evaluation, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        trial_run.run(run, workspace, test=True)
    trial_run.run(run, workspace, test=True)
    assert asked == ["clean", "pgd2-16", "fgsm-16", "fgsm-16"]
