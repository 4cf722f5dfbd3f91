"""Nets made for other pixels or another order of classes, and such as are only bad: which are which."""

import numpy as np
import pytest
import torch
from oracles import Wrapped
from torch import nn
from torch.nn import functional as F

from harness.data import datasets
from harness.data.settings import DataSource
from harness.evaluation.checks.chance import chance
from harness.evaluation.checks.evidence import Evidence


class Template(nn.Module):
    """A net that knows its images: the class is written into the first pixels, which are 0 or `white`.

    wrong: share of the images, by a pixel of theirs, in which it sees another class, which differs.
    """

    def __init__(self, classes, white=1.0, wrong=0.0):
        super().__init__()
        self.classes, self.white, self.wrong = classes, white, wrong

    def forward(self, x):
        flat = x.flatten(1) / self.white
        out = 10 * flat[:, : self.classes]
        mark = flat[:, -1] / flat.amax(1)
        others = torch.stack(
            [row.roll(1 + int(1000 * m) % (self.classes - 1)) for row, m in zip(out, mark, strict=True)]
        )
        out = torch.where(mark[:, None] < self.wrong, others, out)
        return out * (flat.amax(1, keepdim=True) > 0.5)  # too dark an image is of class 0, whatever it shows


def images(n, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=generator)
    x = torch.zeros(n, 1, 1, classes + 1)
    x[:, 0, 0, :classes] = F.one_hot(y, classes).float()
    x[:, 0, 0, -1] = torch.linspace(0, 0.999, n)[torch.randperm(n, generator=generator)]
    return x, y


def found(net, x, y):
    return chance(Evidence(net, x, y, None, 0.1, 0.1, 1))


def shifted(net):
    return Wrapped(net, after=lambda out: out.roll(3, 1))


def reversed_order(net):
    return Wrapped(net, after=lambda out: out.flip(1))


def shuffled(net, seed=0):
    return Wrapped(net, after=lambda out: out[:, np.random.default_rng(seed).permutation(out.shape[1])])


def swapped(net):
    """Four of five classes are in their place: accuracy is far above chance, and too low all the same."""
    return Wrapped(net, after=lambda out: torch.cat([out[:, [1, 0]], out[:, 2:]], 1))


@pytest.mark.parametrize("classes", [2, 10, 100, 200])
@pytest.mark.parametrize("white", [255.0])
def test_a_net_made_for_pixels_to_255_is_explained_by_them(classes, white):
    x, y = images(256, classes)
    check = found(Template(classes, white, wrong=0.1), x, y)
    assert check.passed is False and check.numbers["scaled"] == pytest.approx(0.9, abs=0.01)
    assert check.about.endswith("the net seems made for pixels of 0 to 255") and " of 256 images right, " in check.about


@pytest.mark.parametrize(
    ("order", "classes", "wrong"),
    [
        (shifted, 10, 0.0),
        (shifted, 10, 0.35),
        (reversed_order, 2, 0.1),
        (shuffled, 10, 0.2),
        (shuffled, 100, 0.1),
        (shuffled, 200, 0.1),  # more classes than half of the images show
        (lambda net: shuffled(net, 5), 37, 0.3),
    ],
)
def test_an_order_of_the_classes_is_found_on_half_of_the_images_and_holds_on_the_other(order, classes, wrong):
    x, y = images(256, classes)
    check = found(order(Template(classes, wrong=wrong)), x, y)
    assert check.passed is False and check.numbers["reordered"] > check.numbers["accuracy"] + 0.25
    assert check.about.endswith("the net seems made for another order of the classes")


@pytest.mark.parametrize("classes", [4, 10])
def test_two_classes_that_are_exchanged_are_found_though_accuracy_is_above_chance(classes):
    x, y = images(256, classes)
    check = found(swapped(Template(classes, wrong=0.02)), x, y)
    assert check.passed is False and check.numbers["reordered"] == pytest.approx(0.98, abs=0.01)
    assert check.numbers["accuracy"] > 1 / classes


@pytest.fixture(scope="module")
def digits(shared_workspace):
    test = datasets.load(DataSource(), shared_workspace).test
    return test.x[:256].float() / 255, test.y[:256]


class Guessing(nn.Module):
    """A net whose logits have nothing to do with the images."""

    def __init__(self, classes, seed):
        super().__init__()
        self.classes, self.seed = classes, seed

    def forward(self, x):
        return torch.randn(len(x), self.classes, generator=torch.Generator().manual_seed(self.seed))


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_a_net_that_guesses_is_never_explained(classes):
    """By an order fitted to the images that it is measured on, ten classes would give it 17 %."""
    alarms = 0
    for seed in range(150):
        x, y = images(256, classes, seed)
        check = found(Guessing(classes, seed + 1000), x, y)
        alarms += not check.passed
        assert abs(check.numbers["reordered"] - 1 / classes) < 0.16
    assert alarms <= 1  # at 0.001 each


@pytest.mark.parametrize("seed", range(30))
def test_an_untrained_net_is_not_explained_though_its_outputs_go_with_the_classes(seed, digits):
    """With the order that fits it best it is right about 25 % of the time, of ten classes."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    assert "seems made for" not in found(net, *digits).about


def constant(classes):
    return Wrapped(Template(classes), after=lambda out: F.one_hot(torch.zeros(len(out)).long(), out.shape[1]).float())


@pytest.mark.parametrize("net", [Template(10), Template(10, wrong=0.5), Template(10, wrong=0.7), constant(10)])
def test_a_net_that_is_right_or_only_bad_is_no_doubt(net):
    check = found(net, *images(256, 10))
    assert check.passed, check


def test_accuracy_below_chance_is_said_where_nothing_explains_it():
    """A net that knows the class and never says it: its mistakes are spread over all other classes."""
    classes = 10
    x, y = images(256, classes)

    def never(out):
        others = torch.rand(out.shape, generator=torch.Generator().manual_seed(0))
        return others.masked_fill(F.one_hot(out.argmax(1), classes).bool(), -1)

    check = found(Wrapped(Template(classes), after=never), x, y)
    assert check.passed is False and check.numbers["accuracy"] == 0
    assert check.about.endswith("accuracy is below chance, and neither explains it")
    assert check.about.startswith("0.0% of 256 images right, 0.0% with pixels of 0 to 255, ")
    assert "chance is 10.0%: " in check.about


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images_decide_nothing(n):
    x, y = images(n, 10)
    assert found(shifted(Template(10)), x, y).passed
