"""Measurement, with a linear model of known margins as the oracle."""

import numpy as np
import pytest
import torch
from torch import nn

from harness.attacks import pgd
from harness.data.datasets import Split
from harness.evaluation import batching, evaluator, suites
from harness.evaluation.measurements import Combined, Measurement, accuracy, attacked
from harness.evaluation.scores import Ledger, Score, per_image, save_images
from harness.evaluation.settings import Measure


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
    scores = {s.name: s for s in evaluator.evaluate(model, split, measure, name="val")}
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
    scores = {s.name: s for s in evaluator.evaluate(model, split, Measure(eps=(8 / 255,), restarts=3), name="test")}
    robust = scores["test/pgd10x3-8"]
    p = robust.mean
    assert robust.n == 300
    assert robust.stderr == pytest.approx((p * (1 - p) / 299) ** 0.5, rel=1e-6)
    assert robust.protocol["restarts"] == 3 and robust.protocol["steps"] == 10
    assert robust.protocol["step"] == pytest.approx(2.5 * (8 / 255) / 10)


def test_eps_zero_is_clean(linear):
    model, split, *_ = linear
    scores = {s.name: s for s in evaluator.evaluate(model, split, Measure(eps=(0.0,)), name="val")}
    assert np.array_equal(scores["val/pgd10-0"].per_example, scores["val/clean"].per_example)


def test_more_restarts_are_never_weaker_image_by_image(linear):
    model, split, *_ = linear
    few, many = (
        evaluator.evaluate(model, split, Measure(eps=(9 / 255,), steps=1, step=4 / 255, restarts=r), name="val")
        for r in (1, 6)
    )
    one, six = ({s.name.split("x")[0]: s for s in scores} for scores in (few, many))
    assert six["val/pgd1"].mean <= next(s for n, s in one.items() if n.startswith("val/pgd1")).mean


def test_a_metric_does_not_move_when_another_is_added_or_generators_have_run(linear):
    model, split, *_ = linear
    measure = Measure(eps=(9 / 255,), steps=1, step=4 / 255)
    alone = {s.name: s for s in evaluator.evaluate(model, split, measure, name="val", suite=suites.robust_suite)}
    torch.rand(5)
    together = {
        s.name: s
        for s in evaluator.evaluate(model, split, Measure(eps=(3 / 255, 9 / 255), steps=1, step=4 / 255), name="val")
    }
    assert np.array_equal(alone["val/pgd1-9"].per_example, together["val/pgd1-9"].per_example)


def test_measuring_draws_nothing_from_the_global_generator_and_leaves_the_model_alone(linear):
    model, split, *_ = linear
    model.train()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    evaluator.evaluate(model, split, Measure(), name="val")
    assert torch.equal(torch.rand(3), expected)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_attack_gets_only_images_that_are_still_right(linear):
    model, split, margin, _ = linear
    seen = []

    def attack(model, x, y, draws):
        seen.append(len(x))
        return pgd.fgsm(model, x, y, eps=20 / 255)

    (batch,) = batching.to_batches(split.head(200))
    attacked(attack, restarts=2)(model, batch)
    assert seen[0] == int((margin[:200] > 0).sum()) and seen[1] < seen[0]


def test_stderr_of_one_image_is_unknown():
    score = Score.of("val/clean", torch.ones(1), {})
    assert score.mean == 1.0 and np.isnan(score.stderr)


def by_name(scores):
    return {s.name: s for s in scores}


def test_neither_the_size_of_batches_nor_the_order_of_images_moves_a_score(monkeypatch, linear):
    model, split, *_ = linear
    measure = Measure(eps=(9 / 255,), steps=1, step=4 / 255)  # one short step: the random start decides
    before = by_name(evaluator.evaluate(model, split, measure, name="val"))
    assert 0.2 < before["val/pgd1-9"].mean < before["val/clean"].mean
    order = torch.randperm(len(split))
    monkeypatch.setattr(batching, "IMAGES", 7)
    after = by_name(evaluator.evaluate(model, split.at(order), measure, name="val"))
    for name, score in before.items():
        assert np.array_equal(score.per_example[order.numpy()], after[name].per_example), name


def test_another_seed_draws_another_start(linear):
    model, split, *_ = linear
    measure = Measure(eps=(9 / 255,), steps=1, step=4 / 255)
    one, two = (by_name(evaluator.evaluate(model, split, measure, name="val", seed=seed)) for seed in (0, 1))
    assert not np.array_equal(one["val/pgd1-9"].per_example, two["val/pgd1-9"].per_example)


def test_memory_that_is_too_small_halves_the_batch_and_changes_nothing(linear):
    model, split, *_ = linear
    measure = Measure(eps=(9 / 255,), steps=1, step=4 / 255)
    sizes = []

    class Small(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            if len(x) > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return model(x)

    expected = by_name(evaluator.evaluate(model, split, measure, name="val"))
    found = by_name(evaluator.evaluate(Small(), split, measure, name="val"))
    assert max(sizes) > 40 and all(np.array_equal(s.per_example, found[n].per_example) for n, s in expected.items())

    class None_(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        evaluator.evaluate(None_(), split, measure, name="val")


def test_what_the_ledger_holds_is_not_measured_again(tmp_path, linear):
    model, split, *_ = linear
    asked = []

    def counted(key, fails=False):
        def metric(net, batch):
            asked.append(key)
            if fails:
                raise KeyboardInterrupt
            return accuracy(net, batch) * (0.5 if key == "b" else 1)

        return Measurement(metric, {"of": key})

    def suite(fails):
        return lambda subject: {
            "a": counted("a"),
            "b": counted("b"),
            "c": counted("c", fails),
            "mean": Combined(("a", "b"), "mean"),
            "worst": Combined(("a", "b", "c"), "worst"),
        }

    ledger = Ledger(tmp_path / "ledger")
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate(model, split.head(20), Measure(), name="val", suite=suite(True), ledger=ledger)
    assert asked == ["a", "b", "c"]
    again = evaluator.evaluate(model, split.head(20), Measure(), name="val", suite=suite(False), ledger=ledger)
    scores = by_name(again)
    assert asked == ["a", "b", "c", "c"]
    clean = scores["val/a"].per_example
    assert np.array_equal(scores["val/mean"].per_example, clean * 0.75)
    assert np.array_equal(scores["val/worst"].per_example, clean * 0.5)
    assert scores["val/b"].protocol == {"of": "b"}
    assert scores["val/worst"].protocol == {"worst of": ["val/a", "val/b", "val/c"]}
    assert ledger.read("a")[0].per_example.tolist() == clean.tolist() and ledger.read("zzz") is None
    ledger.clear()
    assert not (tmp_path / "ledger").exists()


def test_a_cascade_measures_only_what_is_left(linear):
    model, split, margin, _ = linear
    seen = []

    def break_every_other(net, batch):
        seen.append(len(batch))
        return (torch.arange(len(batch)) % 2).float()

    suite = {
        "clean": Measurement(accuracy, {}),
        "first": Measurement(break_every_other, {}, only_correct_after="clean"),
        "second": Measurement(break_every_other, {}, only_correct_after="first"),
    }
    scores = by_name(evaluator.evaluate(model, split.head(200), Measure(), name="val", suite=lambda subject: suite))
    right = int((margin[:200] > 0).sum())
    assert seen == [right, right // 2]
    assert scores["val/second"].n == 200 and scores["val/second"].mean == pytest.approx(right // 2 // 2 / 200)
    assert not scores["val/second"].per_example[margin[:200].numpy() <= 0].any()


def test_numbers_per_image_are_kept_small_and_come_back(tmp_path):
    torch.manual_seed(0)
    some = torch.rand(10_000)
    values = {
        "val/yes": (some < 0.3).float(),
        "val/part": torch.where(some < 0.1, torch.nan, some),
        "val/large": some * 1e6,
    }
    scores = [Score.of(name, v, {}) for name, v in values.items()]
    kept = per_image(scores)
    assert [kept[n].dtype for n in values] == [np.bool_, np.float16, np.float32]
    save_images(tmp_path / "yes.npz", scores[:1])
    assert (tmp_path / "yes.npz").stat().st_size < 2000  # a bit an image, and the file's own words
    save_images(tmp_path / "all.npz", scores)
    with np.load(tmp_path / "all.npz") as images:
        for name, v in values.items():
            assert np.allclose(images[name].astype(np.float32), v.numpy(), rtol=1e-3, equal_nan=True), name


def test_a_net_that_gives_no_number_is_never_right(linear):
    _, split, *_ = linear

    class Lost(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), torch.nan) * x.sum()

    scores = by_name(evaluator.evaluate(Lost(), split, Measure(), name="val"))
    assert all(score.mean == 0 for score in scores.values())


def test_a_cascade_that_leaves_nothing_asks_no_net_about_no_image(linear):
    model, split, *_ = linear

    class Viewing(nn.Module):
        def forward(self, x):
            return model(x.reshape(x.size(0), -1).view(x.size(0), 1, 4, 4))  # fails for no image

    none = Measurement(lambda net, batch: torch.zeros(len(batch)), {})
    suite = {"none": none, "then": Measurement(accuracy, {}, only_correct_after="none")}
    scores = by_name(evaluator.evaluate(Viewing(), split, Measure(), name="val", suite=lambda subject: suite))
    assert scores["val/then"].n == len(split) and scores["val/then"].mean == 0
