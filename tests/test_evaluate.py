"""Measurement, with a linear model of known margins as the oracle."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from harness import attacks, evaluate, suites, trial
from harness.config import Measure
from harness.datasets import Split
from harness.errors import Mistake
from harness.evaluate import Score


class Linear(nn.Module):
    """Two classes, logit difference w.x + b."""

    def __init__(self, w, b):
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x):
        z = x.flatten(1).to(self.w.dtype) @ self.w + self.b
        return torch.stack([-z / 2, z / 2], 1)


@pytest.fixture
def linear():
    torch.manual_seed(2)
    w = torch.randn(16) / 4
    x = torch.randint(60, 196, (300, 1, 4, 4), dtype=torch.uint8)  # eps 30/255 never meets the box
    b = -(x.float().div(255).flatten(1) @ w).median()
    model = Linear(w, b)
    z = x.float().div(255).flatten(1) @ w + b
    y = (z > 0).long()
    y[:30] = 1 - y[:30]  # some images are wrong from the start
    margin = torch.where(y == 1, z, -z)
    return model, Split(x, y), margin, w.abs().sum()


def test_robust_accuracy_of_a_linear_model_is_its_share_of_large_margins(linear):
    model, split, margin, norm = linear
    measure = Measure(eps=(5 / 255, 20 / 255), steps=5)
    scores = {s.name: s for s in evaluate.evaluate(model, split, measure, name="val")}
    assert set(scores) == {"val/clean", "val/pgd5-5", "val/pgd5-20", "val/fgsm-5", "val/fgsm-20", "val/robust"}
    assert scores["val/clean"].mean == pytest.approx(float((margin > 0).float().mean()))
    for strength in (5, 20):
        exact = (margin > strength / 255 * norm).float()
        for attack in (f"pgd5-{strength}", f"fgsm-{strength}"):
            assert np.array_equal(scores[f"val/{attack}"].per_example, exact.numpy())
    mean = (scores["val/pgd5-5"].per_example + scores["val/pgd5-20"].per_example) / 2
    assert np.allclose(scores["val/robust"].per_example, mean)


def test_a_score_carries_n_stderr_and_protocol(linear):
    model, split, *_ = linear
    scores = {s.name: s for s in evaluate.evaluate(model, split, Measure(eps=(8 / 255,), restarts=3), name="test")}
    robust = scores["test/pgd10x3-8"]
    p = robust.mean
    assert robust.n == 300
    assert robust.stderr == pytest.approx((p * (1 - p) / 299) ** 0.5, rel=1e-6)
    assert robust.protocol["restarts"] == 3 and robust.protocol["steps"] == 10
    assert robust.protocol["step"] == pytest.approx(2.5 * (8 / 255) / 10)


def test_eps_zero_is_clean(linear):
    model, split, *_ = linear
    scores = {s.name: s for s in evaluate.evaluate(model, split, Measure(eps=(0.0,)), name="val")}
    assert np.array_equal(scores["val/pgd10-0"].per_example, scores["val/clean"].per_example)


def test_more_restarts_are_never_weaker_image_by_image(linear):
    model, split, *_ = linear
    few, many = (
        evaluate.evaluate(model, split, Measure(eps=(9 / 255,), steps=1, step=4 / 255, restarts=r), name="val")
        for r in (1, 6)
    )
    one, six = ({s.name.split("x")[0]: s for s in scores} for scores in (few, many))
    assert six["val/pgd1"].mean <= next(s for n, s in one.items() if n.startswith("val/pgd1")).mean


def test_a_metric_does_not_move_when_another_is_added_or_generators_have_run(linear):
    model, split, *_ = linear
    measure = Measure(eps=(9 / 255,), steps=1, step=4 / 255)
    alone = {s.name: s for s in evaluate.evaluate(model, split, measure, name="val", suite=suites.robust_suite)}
    torch.rand(5)
    together = {
        s.name: s
        for s in evaluate.evaluate(model, split, Measure(eps=(3 / 255, 9 / 255), steps=1, step=4 / 255), name="val")
    }
    assert np.array_equal(alone["val/pgd1-9"].per_example, together["val/pgd1-9"].per_example)


def test_measuring_draws_nothing_from_the_global_generator_and_leaves_the_model_alone(linear):
    model, split, *_ = linear
    model.train()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    evaluate.evaluate(model, split, Measure(), name="val")
    assert torch.equal(torch.rand(3), expected)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_attack_gets_only_images_that_are_still_right(linear):
    model, split, margin, _ = linear
    seen = []

    def attack(model, x, y):
        seen.append(len(x))
        return attacks.fgsm(model, x, y, eps=20 / 255)

    (batch,) = evaluate.chunks(split.head(200))
    suites.attacked(attack, restarts=2)(model, batch)
    assert seen[0] == int((margin[:200] > 0).sum()) and seen[1] < seen[0]


def test_stderr_of_one_image_is_unknown():
    score = Score.of("val/clean", torch.ones(1), {})
    assert score.mean == 1.0 and np.isnan(score.stderr)


def evaluated(monkeypatch, place, *words):
    """The exit status of `python -m harness.evaluate` with these words."""
    from harness.errors import exit_status

    argv = ["evaluate", *words, "--out", str(place.out), "--data-root", str(place.data), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", argv)
    return exit_status(evaluate.main)


FEW = [f"attribution.{setting}" for setting in ("images=5", "steps=2", "points=3", "restarts=1")]
FEW = [word for setting in FEW for word in ("--set", setting)]


def test_the_command_measures_a_recorded_trial_once(monkeypatch, capsys, place, quick):
    run = quick(method="standard", data__limit=300, epochs=4)
    trial.run(run, place)
    words = ("--trial", run.key, "--suite", "attribution,attribution-legacy", *FEW)
    assert evaluated(monkeypatch, place, *words) == 0
    said = capsys.readouterr().out
    for score in ("strong-in", "strong-k", "random-in", "art-in", "rar-lens_recall", "bound_slack", "completeness"):
        assert re.search(rf"^val/{score} .* n = 5", said, re.M), score
    (file,) = place.trial(run.key).glob("evaluation-val-*.json")
    stamp = file.stat().st_mtime_ns
    stored = json.loads(file.read_text())
    assert stored["settings"]["attribution.images"] == 5 and stored["checksums"]
    with np.load(file.with_suffix(".npz")) as images:
        assert (~np.isnan(images["val/strong-in"])).sum() == 5
    assert evaluated(monkeypatch, place, *words) == 0
    assert capsys.readouterr().out == said and file.stat().st_mtime_ns == stamp
    assert trial.run(run, place).touches == 0


def test_a_measurement_on_test_is_a_touch(monkeypatch, capsys, place, quick):
    run = quick(method="standard")
    trial.run(run, place)
    for _ in range(2):
        assert evaluated(monkeypatch, place, "--trial", run.key, "--test") == 0
    assert "test/robust" in capsys.readouterr().out
    assert trial.run(run, place).touches == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trial", "KEY", "--suite", "atribution"), "did you mean 'attribution'?"),
        (("--trial", "fff"), "trial 'fff' is not known; "),
        (("--trial", "KEY", "--set", "epochs=3"), "epochs is settled by --trial"),
        (("--trial", "KEY", "--suite", "attribution", "--set", "attribution.k=65"), "at most the 8 x 8 pixels"),
        (("--trial", "KEY", "--suite", "attribution", "--set", "attribution.eps=-1/255"), "must be at least 0"),
        (("--trial", "KEY", "--suite", "attribution", "--set", "attribution.maps=gradcampp"), "'gradcam_pp'?"),
        (("--trial", "KEY", "--suite", "attribution", "--set", "attribution.beta=0"), "must be positive"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, shared_place, quick, words, said):
    run = quick(method="standard", epochs=1)
    trial.run(run, shared_place)
    words = [run.key if word == "KEY" else word for word in words]
    assert evaluated(monkeypatch, shared_place, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


def test_what_its_data_does_not_allow_is_refused_before_a_trial_is_trained(place, quick):
    run = quick(method="standard", measure__suites="attribution", attribution__k=100)
    with pytest.raises(Mistake, match="at most the 8 x 8 pixels of a map, not 100"):
        trial.run(run, place)
    assert not (place.trial(run.key) / "weights.pt").exists()
