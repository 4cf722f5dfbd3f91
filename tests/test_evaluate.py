"""Measurement, with a linear model of known margins as the oracle."""

import numpy as np
import pytest
import torch
from torch import nn

from harness import attacks, evaluate, suites
from harness.config import Measure
from harness.datasets import Split
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
