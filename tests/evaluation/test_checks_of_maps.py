"""Maps that do not depend on the weights, planted, and maps that do."""

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from oracles import Brightness
from scipy import stats
from torch import nn

from harness.config.trial import build
from harness.data import datasets
from harness.evaluation.checks import parameter_randomisation as checks_of_maps
from harness.evaluation.checks.common import ALPHA
from harness.evaluation.checks.evidence import Evidence
from harness.evaluation.checks.parameter_randomisation import IMAGES, MAX_CORRELATION, depends_on_weights, every_layer
from harness.evaluation.metrics import CHECKS_OF_MAPS
from harness.explain import maps
from harness.explain.base import Map
from harness.models.freezing import frozen
from harness.randomness import PerImageRng
from harness.tracking.run_content import check_metrics
from harness.trials import run as trial_run


@dataclass(frozen=True)
class OfTheFirstLayer(Map):
    """Gradient of the first layer's sum: of its weights, and of no other's."""

    def __call__(self, net, x, y):
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            return torch.autograd.grad(net[0](at).square().sum(), at)[0]


def net_of_two_layers(seed=0):
    torch.manual_seed(seed)
    first, last = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 3)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(first, nn.ReLU(), *pooled, last)


def evidence(model, *scores, n=24):
    """Images that the model classifies correctly, and scores of which only the names count."""
    torch.manual_seed(1)
    x = torch.rand(n, 1, 12, 12)
    with torch.no_grad():
        y = model(x).argmax(1)
    values = dict.fromkeys(scores, np.ones(n, np.float32))
    return Evidence(model, x, y, PerImageRng(torch.arange(n)), 0.1, 0.1, 1, values)


@pytest.fixture
def planted(monkeypatch):
    for name, kind in (("brightness", Brightness), ("first_layer", OfTheFirstLayer)):
        monkeypatch.setitem(maps.MAPS, name, kind)


@pytest.fixture(scope="module")
def digits(shared_workspace):
    """A net trained on the digits, frozen, and test images."""
    run = build({"epochs": 8, "measure.watch": 100, "measure.eps": "32/255"})
    net, _ = trial_run.trained_model(run, shared_workspace)
    split = datasets.load(run.data, shared_workspace).test
    with frozen(net):
        yield net, split.x.float().div(255)[:64], split.y[:64]


def of_digits(digits, *scores):
    return Evidence(*digits, PerImageRng(torch.arange(64)), 0.1, 0.1, 1, dict.fromkeys(scores, np.ones(64)))


def test_a_map_of_the_image_alone_is_doubted(planted):
    check = depends_on_weights(evidence(net_of_two_layers(), "strong-brightness-k"))
    assert check.passed is False and check.about.endswith("it shows the image more than what the net learned")
    assert "brightness has a rank correlation of 1.00 and an SSIM of 1.00" in check.about
    numbers = {"rank": 1, "ssim": 1, "rank_random": 1, "ssim_random": 1, "depends": 0}
    assert check.numbers == {f"brightness/{name}": number for name, number in numbers.items()}


def test_one_such_map_among_others_is_named(planted):
    check = depends_on_weights(evidence(net_of_two_layers(), "strong-gradient-in", "random-brightness-in", "art-in"))
    assert check.passed is False and "the map brightness" in check.about
    depends = {name: number for name, number in check.numbers.items() if name.endswith("/depends")}
    assert list(depends) == ["gradient/depends", "brightness/depends", "integrated_gradients/depends"]
    assert depends["gradient/depends"] == 1 and depends["brightness/depends"] == 0


def test_gradients_of_a_trained_net_depend_on_it(digits):
    check = depends_on_weights(of_digits(digits, "strong-gradient-in", "strong-smoothgrad-k", "strong-cam-in"))
    assert check.passed and "shows the image" not in check.about
    for name in ("gradient", "smoothgrad", "cam"):
        assert abs(check.numbers[f"{name}/rank"]) < 0.4 and check.numbers[f"{name}/depends"] == 1


def test_black_pixels_make_most_of_integrated_gradients_on_digits(digits):
    """Half of a digit is black, where the map is 0 whatever the weights are: two random nets are as much alike."""
    check = depends_on_weights(of_digits(digits, "art-in"))
    assert check.passed is False and next(iter(check.numbers)) == "integrated_gradients/rank"
    assert 0.85 < check.numbers["integrated_gradients/rank"] < 0.98
    assert 0.85 < check.numbers["integrated_gradients/rank_random"] < 0.98


@pytest.mark.parametrize(
    ("ranks", "passed"),
    [
        ([0.9] * 16, False),
        ([0.7] * 16, True),
        ([0.72] * 16, False),  # equal for every image: no doubt that it is above
        ([0.55, 0.9] * 8, True),  # above on average, by chance perhaps
        ([0.8, 0.9] * 8, False),
        ([-1.0] * 16, True),
        ([0.9, 0.99], True),  # too few images
    ],
)
def test_the_interval_is_over_images(ranks, passed):
    assert (checks_of_maps._lower_end(torch.tensor(ranks)) <= MAX_CORRELATION) is passed


def test_the_interval_is_scipys_test_of_the_mean():
    generator, decided = torch.Generator().manual_seed(0), set()
    for n in range(2, 17):
        for spread in (0.02, 0.1, 0.2):
            ranks = 0.8 + spread * torch.randn(n, generator=generator, dtype=torch.float64)
            above = stats.ttest_1samp(ranks, MAX_CORRELATION, alternative="greater").pvalue < ALPHA
            assert (checks_of_maps._lower_end(ranks) > MAX_CORRELATION) == above
            decided.add(bool(above))
    assert decided == {True, False}


def test_the_first_correct_images_are_explained():
    found = evidence(net_of_two_layers(), "strong-gradient-in")
    wrong = found.y.clone()
    wrong[:3] = (wrong[:3] + 1) % 3
    x, y = checks_of_maps._images(dataclasses.replace(found, y=wrong))
    assert torch.equal(x, found.x[3 : 3 + IMAGES]) and torch.equal(y, found.y[3 : 3 + IMAGES])


def test_a_layer_that_a_map_ignores_is_named(planted):
    named = OrderedDict(zip(("0", "relu", "pool", "flat", "head"), net_of_two_layers(), strict=True))
    found = evidence(nn.Sequential(named), "strong-first_layer-in")
    check = every_layer(found)
    assert check.passed is False and check.about.endswith("that the logits depend on: first_layer on head")
    assert check.numbers["first_layer/independent/head"] == check.numbers["first_layer/cascading/head"] == 1
    assert check.numbers["first_layer/independent/0"] == check.numbers["first_layer/cascading/0"] < 1


def test_a_layer_without_influence_is_no_doubt(planted):
    net = net_of_two_layers()
    net[4].weight.data.zero_()  # then the logits do not depend on the first layer
    net[4].bias.data = torch.tensor([0.0, 1.0, 0.0])
    found = evidence(net, "strong-brightness-in")
    assert every_layer(found).about.endswith("that the logits depend on: brightness on 4")


def test_every_layer_of_a_trained_net_matters(digits):
    check = every_layer(of_digits(digits, "strong-gradient-in"))
    assert check.passed and {name.split("/")[1] for name in check.numbers} == {"cascading", "independent"}
    assert len(check.numbers) == 2 * 7


@pytest.mark.parametrize("check", [depends_on_weights, every_layer])
def test_why_it_is_not_asked(check):
    net = net_of_two_layers()
    assert check.__name__ in CHECKS_OF_MAPS
    assert check(evidence(net, "clean", "pgd10-8", "bound_left")).about == "not asked: no attribution was measured"
    found = evidence(net, "art-in")
    found = dataclasses.replace(found, y=torch.where(torch.arange(24) == 5, found.y, (found.y + 1) % 3))
    assert check(found).about == "not asked: fewer than two images are classified correctly"
    flat = nn.Flatten()
    assert check(evidence(flat, "art-in")).about == "not asked: the net has no weights"
    net.kept = net[4].weight * 2
    said = check(evidence(net, "art-in"))
    assert said.passed is None and said.about.startswith("not asked: Sequential cannot be copied, ")


def test_it_is_asked_where_attributions_were_measured_and_kept_with_the_result(workspace, quick):
    attacked = {"attribution.k": 20, "attribution.steps": 1, "attribution.restarts": 1, "attribution.points": 2}
    settings = {name.replace(".", "__"): value for name, value in attacked.items()}
    run = quick(measure__suites="standard,attribution", attribution__images=2, attribution__maps="gradient", **settings)
    tested = trial_run.run(run, workspace, test=True)
    (check,) = [c for c in tested.checks if c.name == "depends_on_weights"]
    assert check.passed is not None and "every_layer" not in {c.name for c in tested.checks}
    assert trial_run.run(run, workspace).checks == tested.checks
    metrics = check_metrics(tested.checks)
    assert metrics["check/depends_on_weights/gradient/rank"] == check.numbers["gradient/rank"]
    assert set(metrics) == {f"check/depends_on_weights/{name}" for name in check.numbers}
