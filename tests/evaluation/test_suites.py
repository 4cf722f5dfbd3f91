"""Every suite, run on a net and images that allow all of it, and on such as do not."""

import dataclasses
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from harness.config import trial
from harness.data import datasets
from harness.data.corruptions import names, registry
from harness.data.corruptions.published_files import Folder
from harness.data.datasets import Split
from harness.data.settings import DataSource
from harness.evaluation import batching, cost, evaluator, measurements, suites, versions
from harness.evaluation.measurements import EvaluationContext, Published
from harness.evaluation.score_name import ScoreName
from harness.evaluation.settings import Attribution, Measure
from harness.explain import localization
from harness.models import nets
from harness.trials import run as trial_run

BRIEF = Attribution(k=20, steps=2, images=3, points=2, restarts=1)


def check(run, data):
    evaluator.check(run.measure, run.attribution, data, run.data.name)


def published_of(run, split, root):
    return evaluator.published(run.measure, run.data.name, split, root)


@pytest.fixture(scope="module")
def shapes(shared_workspace):
    """A net that was trained on shapes for a moment, and some images."""
    run = trial.build({"data": "shapes", "epochs": 2, "data.limit": 600, "measure.watch": 2})
    net, _ = trial_run.trained_model(run, shared_workspace)
    data = datasets.load(run.data, shared_workspace)
    return net, data.val.head(60), data.test.head(24)


@pytest.fixture
def quick(monkeypatch):
    """Measurements that take a second: fewer steps, attacks of AutoAttack that are stubs of one FGSM each."""
    from harness.attacks import autoattack, minimum_perturbation, pgd
    from harness.evaluation import attribution_protocols

    for points in ("SCORING_POINTS", "PUBLISHED_POINTS"):
        monkeypatch.setattr(attribution_protocols, points, 4)

    def fgsm(name, model, x, y, *, eps, norm):
        return pgd.fgsm(model, x, y, eps=eps / 2)

    monkeypatch.setattr(autoattack, "attack", fgsm)
    slow = {"cw": minimum_perturbation.cw, "stadv": minimum_perturbation.stadv}
    monkeypatch.setattr(
        minimum_perturbation, "cw", lambda *a, **how: slow["cw"](*a, **{**how, "steps": 3, "searches": 2})
    )
    monkeypatch.setattr(minimum_perturbation, "stadv", lambda *a, **how: slow["stadv"](*a, **{**how, "steps": 3}))


def scores(net, split, suite, measure=None, **more):
    measure = measure or Measure(eps=(2 / 255, 8 / 255), steps=3)
    found = evaluator.evaluate(net, split, measure, BRIEF, name="test", suite=suites.SUITES[suite], **more)
    return {s.name.removeprefix("test/"): s for s in found}


@pytest.mark.sample("attribution", "localization", "paper-art", "paper-sat")
@pytest.mark.parametrize("suite", suites.SUITES)
def test_a_suite_gives_one_number_per_image_and_says_how(suite, shapes, quick):
    net, val, split = shapes
    found = scores(net, split, suite, val=val)
    assert found
    for name, score in found.items():
        assert score.per_example.shape == (24,), name
        assert np.isnan(score.mean) or score.mean == pytest.approx(np.nanmean(score.per_example)), name
        says = f"{name}: give its `Measurement` a protocol, what its number depends on"
        assert score.protocol or name == "clean", says
        unit = ScoreName.parse(name).about.unit
        says = f"{name}: {score.mean} is outside the range of its unit in `METRICS`"
        assert not score.n or unit.lowest <= score.mean <= unit.highest, says


@pytest.mark.slow
def test_full_holds_every_other_suite_but_the_papers_and_a_second_autoattack(shapes, quick):
    net, val, split = shapes
    found = scores(net, split, "full", val=val)
    for suite in suites.SUITES:
        if not suite.startswith("paper") and suite != "autoattack-l2":
            says = f"{suite}: add its measurements to `full_suite`, which lacks the papers' and AutoAttack in L2"
            assert set(scores(net, split, suite, val=val)) <= set(found), says
    linf = [n for n, s in found.items() if s.protocol.get("norm") == "linf" and s.protocol.get("eps") == 8 / 255]
    attacked = [n for n in linf if n.startswith(("pgd", "fgsm", "aa"))]
    worst = np.min([found[n].per_example for n in attacked], axis=0)
    assert len(attacked) >= 12 and np.array_equal(found["worst-8"].per_example, worst)
    assert "l2-pgd40-128" in found  # 16 times 8/255 at 32x32x3


def test_full_passes_over_what_images_and_net_do_not_allow(quick):
    class Stranger(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nets.build("small", 1, 10)

        def forward(self, x):
            return self.inner(x)

    split = Split(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8), torch.zeros(6, dtype=torch.int64))
    found = scores(Stranger(), split, "full")
    assert "corrupted" in found and not any("gtknown" in n or n.startswith("iou") for n in found)
    boxes = replace(split, boxes=torch.tensor([[1, 1, 6, 6]] * 6, dtype=torch.int16))
    found = scores(Stranger(), boxes, "localization")
    assert "gtknown-grad" in found and "gtknown-cam" not in found


def test_the_suites_that_attack_attributions_say_so():
    reading = set()
    for name, suite in suites.SUITES.items():
        one, two = (suite(EvaluationContext(Measure(), Attribution(eps=e))) for e in (0.1, 0.2))
        if any(getattr(one[k], "is_similarity", False) and one[k].protocol != two[k].protocol for k in one):
            reading.add(name)
    assert reading == {name for name, suite in suites.SUITES.items() if suite.attacks_attributions}


def test_thresholds_are_taken_from_the_validation_images(shapes):
    net, val, split = shapes
    here, there = (scores(net, s, "localization", val=v) for s, v in ((split, val), (val, None)))
    assert "gtknown-grad-transferred" in here and "gtknown-grad-transferred" not in there
    transferred, oracle = here["gtknown-grad-transferred"].mean, here["gtknown-grad-oracle"].mean
    assert transferred <= oracle
    batch = batching.to_batch(val)
    chosen = localization.choose_boxes(localization.measure_boxes(net, batch.x, batch.y, batch.boxes))
    batch = batching.to_batch(split)
    measured = localization.measure_boxes(net, batch.x, batch.y, batch.boxes)
    expected = localization.box_scores(measured, chosen)["gtknown-grad-transferred"]
    assert np.array_equal(here["gtknown-grad-transferred"].per_example, expected.numpy())


def test_contours_which_no_threshold_reads_are_traced_on_the_scored_images_only(shapes, monkeypatch):
    net, val, split = shapes
    traced, trace = [], localization.contour_overlaps
    monkeypatch.setattr(
        localization, "contour_overlaps", lambda heat, boxes: traced.append(len(heat)) or trace(heat, boxes)
    )
    found = scores(net, split, "localization", val=val)
    assert sum(traced) == 2 * len(split)  # of both maps
    assert {"maxboxacc-grad", "maxboxacc-cam", "gtknown-cam-transferred"} <= found.keys()


@pytest.mark.slow
def test_corruptions_are_averaged_as_published(shapes):
    net, _, split = shapes
    found = scores(net, split, "corruption")
    each = {n: np.mean([found[f"{n}-{s}"].mean for s in range(1, 6)]) for n in registry.CORRUPTIONS}
    for name, mean in each.items():
        assert found[name].mean == pytest.approx(mean)
    assert found["corrupted"].mean == pytest.approx(np.mean([each[n] for n in names.STANDARD]))
    assert found["corrupted_art"].mean == pytest.approx(np.mean([each[n] for n in names.ART]))
    assert "corrupted" not in scores(net, split, "paper-art")  # which has no frost
    assert found["fog-3"].protocol["images"] == "generated here"


def test_published_files_are_measured_where_they_are(tmp_path, shapes):
    net, _, split = shapes
    n = len(split)
    order = datasets.test_order(n)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    # Published are the images in another order than ours, here uncorrupted at 1 and black at all other severities.
    rows = np.zeros((5 * n, 32, 32, 3), np.uint8)
    rows[order] = split.x.permute(0, 2, 3, 1).numpy()
    labels = np.zeros(n, np.int64)
    labels[order] = split.y.numpy()
    np.save(folder / "fog.npy", rows)
    np.save(folder / "labels.npy", np.tile(labels, 5))
    asked = trial.build({"data": "cifar10", "measure.suites": "corruption"})
    published = published_of(asked, split, tmp_path)
    found = scores(net, split, "corruption", published=published)
    assert np.array_equal(found["fog-1"].per_example, found["clean"].per_example)
    assert not np.array_equal(found["fog-2"].per_example, found["clean"].per_example)
    assert found["fog-2"].protocol["images"] == "CIFAR-10-C/fog.npy" and len(found["fog-2"].protocol["sha256"]) == 16
    assert found["frost-2"].protocol["images"] == "generated here"
    assert published_of(trial.build({"measure.suites": "corruption"}), split, tmp_path) is None
    assert published_of(trial.build({"data": "cifar10"}), split, tmp_path) is None
    assert published_of(asked, split, tmp_path / "nowhere") is None
    smaller = replace(split, x=split.x[:, :, ::2, ::2])
    assert published_of(asked, smaller, tmp_path) is None
    assert Published(Folder(folder, n), order[:3]).images("fog", 1).shape == (3, 3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "suite", "measure", "eps"),
    [
        ("Linf", "autoattack", Measure(eps=(1 / 255, 12 / 255)), 12 / 255),
        ("L2", "autoattack-l2", Measure(eps_l2=192 / 255), 192 / 255),
    ],
    ids=["linf", "l2"],
)
def test_the_cascade_of_autoattack_is_that_of_the_package(norm, suite, measure, eps, shapes):
    """On one batch, so that both draw alike."""
    import pyautoattack

    net, _, split = shapes
    with torch.no_grad():
        split = replace(split.head(2), y=net(batching.to_batch(split.head(2)).x).argmax(1))  # all are attacked
    found = evaluator.evaluate(net, split, measure, name="test", suite=suites.SUITES[suite])
    assert all(s.protocol["eps"] == pytest.approx(eps) for s in found[1:])
    found = {s.name.removeprefix("test/"): s.per_example for s in found}
    before, strength = ("l2-" if norm == "L2" else ""), round(255 * eps)
    stages = ["clean", *(f"{before}{name}-{strength}" for name in ("aa-apgd-ce", "aa-apgd-t", "aa-fab-t", "aa"))]
    assert list(found) == stages
    for weaker, stronger in itertools.pairwise(stages):
        assert (found[stronger] <= found[weaker]).all()
    batch = batching.to_batch(split)
    whole = pyautoattack.AutoAttack(net, eps=eps, norm=norm, seed=0, device="cpu")
    whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = 7
    z, _ = whole.run_standard_evaluation(batch.x.contiguous(), batch.y)
    with torch.no_grad():
        theirs = (net(z).argmax(1) == split.y).numpy()
    assert 0 < theirs.sum() < 2 and (theirs == found[stages[-1]]).all()


def test_an_eps_in_l2_is_that_of_every_attack_in_l2_and_of_none_else():
    plain, own = (EvaluationContext(Measure(eps_l2=eps)) for eps in (0.0, 0.5))
    assert list(suites.SUITES["autoattack-l2"](plain))[-1] == "l2-aa-128"
    assert list(suites.SUITES["autoattack-l2"](own))[-1] == "l2-aa-127.5"
    for name, suite in suites.SUITES.items():
        before, after = (set(suite(context)) for context in (plain, own))
        assert all(key.startswith("l2-") for key in before ^ after)
        assert (before != after) == (name in ("autoattack-l2", "full"))
    assert {"l2-pgd40-127.5"} == set(suites.SUITES["full"](own)) - set(suites.SUITES["full"](plain))


def test_an_eps_in_l2_beyond_any_image_is_refused():
    """128 for 128/255; images of 224 pixels have distances beyond 1."""
    shape = (3, 32, 32)
    assert suites.eps_l2(Measure(eps_l2=55.0), shape) == 55.0
    with pytest.raises(trial.UserError, match=r"128/255; 128 is beyond the 55.4 from black to white at 3x32x32"):
        suites.eps_l2(Measure(eps_l2=128.0), shape)


def test_an_eps_in_l2_is_in_the_key_of_a_trial_that_sets_it():
    plain, own = trial.build({}), trial.build({"measure.eps_l2": "0.5"})
    assert trial.build({"measure.eps_l2": 0}).key == plain.key != own.key
    assert "measure.eps_l2" not in plain.identity() and own.identity()["measure.eps_l2"] == 0.5


def test_suites_that_differ_in_a_measurement_are_not_mixed(shared_workspace):
    data = datasets.load(DataSource(), shared_workspace)
    both = trial.build({"measure.suites": "attribution,full"})
    with pytest.raises(trial.UserError, match="suites attribution, full measure 'strong' in different ways"):
        check(both, data)
    check(trial.build({"measure.suites": "standard,corruption,autoattack"}), data)


@pytest.mark.slow
def test_full_measures_pgd_as_standard_does(shapes, quick):
    net, val, split = shapes
    measure = Measure(eps=(8 / 255,), steps=10, step=1 / 255)
    protocol = scores(net, split, "full", measure, val=val)["pgd10-8"].protocol
    assert protocol["step"] == 1 / 255


def test_data_without_boxes_cannot_be_localised_in(shared_workspace):
    data = datasets.load(DataSource(), shared_workspace)
    with pytest.raises(trial.UserError, match="suite 'localization' needs boxes or masks, which data 'digits'"):
        check(trial.build({"measure.suites": "localization"}), data)


def test_the_cost_of_the_standard_and_attribution_suites_has_a_closed_form():
    measure = Measure((8 / 255, 16 / 255), 10, restarts=3, watch=2, images=100)
    settings = Attribution(steps=50, points=10, restarts=2, images=20)
    passes = cost.image_passes(EvaluationContext(measure, settings), epochs=5, val=300, test=1000)
    robust = 1 + 2 * 3 * 11
    curve = 3 * 100 * robust
    assert passes == {"curve": curve, "val": curve + 300 * (robust + 4), "test": 1000 * (robust + 4)}
    whole = EvaluationContext(
        dataclasses.replace(measure, images=0), settings
    )  # watched: not measured again at the end
    again = cost.image_passes(whole, epochs=5, val=300, test=1000)
    assert again == {"curve": 3 * 300 * robust, "val": 3 * 300 * robust + 300 * 4, "test": 1000 * (robust + 4)}
    attribution = cost.passes(suites.SUITES["attribution"](EvaluationContext(measure, settings)), 1000)
    maps, bound, completeness = 2 * 2 * (4 * 50 * 10 + 4 * 100), 3 * 50 + 3, 10 + 2 + 2 * 100
    assert attribution == 20 * (maps + bound + completeness)
    legacy = cost.passes(suites.SUITES["attribution-legacy"](EvaluationContext(measure, settings)), 1000)
    assert legacy == 20 * 2 * (4 * 50 * 100 + 2 * 100)
    fast = cost.passes(suites.SUITES["attribution-fast"](EvaluationContext(measure, settings)), 1000)
    assert fast == 20 * (50 * (3 * 10 + 20) + 2 * 100)


@pytest.mark.parametrize("suite", suites.SUITES)
def test_no_suite_costs_nothing(suite):
    context = EvaluationContext(Measure(), boxes=True, masks=True)
    assert all(item.passes >= 1 for item in suites.SUITES[suite](context).values() if hasattr(item, "passes"))
    assert cost.passes(suites.SUITES[suite](context), 10) >= 10


def test_the_cost_is_the_passes_that_the_net_makes():
    class Counting(nn.Module):
        images = 0

        def __init__(self):
            super().__init__()
            self.inner = nets.build("small", 1, 10)

        def forward(self, x):
            Counting.images += len(x)
            return self.inner(x)

    split = Split(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8), torch.zeros(6, dtype=torch.int64))
    for suite in ("standard", "corruption", "paper-sat"):
        Counting.images, measure = 0, Measure(steps=4, restarts=2)
        context = EvaluationContext(measure, shape=(1, 8, 8))
        evaluator.evaluate(Counting(), split, measure, name="test", suite=suites.SUITES[suite])
        items = suites.SUITES[suite](context)
        clean = 2 * 6 * len(items)  # an attack predicts the clean images, and its start, too
        assert 0 < Counting.images <= cost.passes(items, 6) + clean, suite


@pytest.mark.parametrize("name", suites.SUITES)
def test_every_measurement_says_by_which_version_it_is_measured(name):
    context = EvaluationContext(Measure(), Attribution(), boxes=True, masks=True)
    for key, item in suites.combined([name])(context).items():
        if isinstance(item, measurements.Measurement):
            says = f"{key}: give its `Measurement` a family of `harness.evaluation.versions.VERSIONS`"
            assert item.family in versions.VERSIONS and item.family != "other", says
