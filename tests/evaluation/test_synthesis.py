"""Images drawn by a classifier: the fitted seeds against their covariance, the walk against its ball."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from harness.data.datasets import Split
from harness.data.readers import builtin
from harness.errors import UserError
from harness.evaluation import image_synthesis
from harness.evaluation.image_synthesis import AscentSettings
from harness.models import nets
from harness.models.freezing import frozen
from harness.randomness import PerImageRng


@pytest.fixture(scope="module")
def digits():
    raw = builtin.digits(0).train
    return Split(torch.from_numpy(raw.x), torch.from_numpy(raw.y))


@pytest.fixture(scope="module")
def net(digits):
    """A small net after some epochs of digits, noisy ones, so that its gradients are not noise."""
    torch.manual_seed(0)
    net = nets.build("small", 1, 10)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    x = digits.x.float().div(255)
    for _ in range(6):
        for index in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(x[index] + 0.2 * torch.randn_like(x[index])), digits.y[index]).backward()
            optimiser.step()
    return net


def test_the_published_walks():
    assert image_synthesis.default_settings(3, 32, 32) == AscentSettings(30, 0.5, 60, 1)
    large = image_synthesis.default_settings(3, 224, 224)
    assert (large.eps, large.step, large.steps, large.shrink) == pytest.approx((40, 1, 60, 4))
    small = image_synthesis.default_settings(1, 8, 8)
    share = 30 / math.sqrt(3 * 32 * 32)
    assert small.eps == pytest.approx(share * math.sqrt(64)) and small.step == pytest.approx(small.eps / 60)
    between = image_synthesis.default_settings(3, 64, 64)
    assert 30 < between.eps < 40 and 0.5 < between.step < 1 and between.shrink == 1


@pytest.mark.parametrize("n", [500, 5, 2])
def test_seeds_have_the_covariance_of_the_images_plus_the_ridge(n):
    torch.manual_seed(1)
    mixing = 0.02 * torch.randn(6, 6)  # so that nothing is cut to [0, 1]
    x = (0.5 + torch.randn(n, 6) @ mixing).view(n, 1, 2, 3)
    seeds = image_synthesis.sample_seeds(x, PerImageRng(torch.arange(3000))).flatten(1)
    expected = torch.cov(x.flatten(1).T) + 1e-4 * torch.eye(6)
    scale = expected.diagonal().sqrt()
    error = (torch.cov(seeds.T) - expected) / (scale[:, None] * scale)
    assert error.abs().max() < 0.1  # a correlation of 3,000 is known to about 0.02
    assert ((seeds.mean(0) - x.flatten(1).mean(0)) / scale).abs().max() < 0.1


def test_one_image_gives_itself_and_a_little_noise():
    x = torch.full((1, 3, 8, 8), 0.4)
    delta = image_synthesis.sample_seeds(x, PerImageRng(torch.arange(50))) - x
    assert delta.std() == pytest.approx(0.01, rel=0.03) and delta.mean().abs() < 1e-3


def test_seeds_of_small_images_are_enlarged_and_in_the_box():
    x = torch.rand(20, 3, 18, 30)
    seeds = image_synthesis.sample_seeds(x, PerImageRng(torch.arange(4)), shrink=4)
    assert seeds.shape == (4, 3, 18, 30) and seeds.min() >= 0 and seeds.max() <= 1
    fine = image_synthesis.sample_seeds(x, PerImageRng(torch.arange(4)))
    assert seeds.diff(dim=3).abs().mean() < 0.3 * fine.diff(dim=3).abs().mean()


def test_an_image_does_not_depend_on_what_else_is_drawn(net, digits):
    many = image_synthesis.samples(net, digits, (3, 7), 4, seed=2)
    few = image_synthesis.samples(net, digits, (7,), 2, seed=2)
    torch.testing.assert_close(few[0], many[1, :2], atol=1e-2, rtol=0)  # up to rounding, over 60 steps
    first = image_synthesis.class_seeds(digits, 7, 2, seed=2)
    torch.testing.assert_close(first, image_synthesis.class_seeds(digits, 7, 5, seed=2)[:2])
    other = image_synthesis.class_seeds(digits, 7, 2, seed=3)
    assert (first - other).abs().mean() > 0.05 and (first[0] - first[1]).abs().mean() > 0.05


def test_samples_are_in_the_ball_and_of_their_class_more_often_than_seeds(net, digits):
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    settings = AscentSettings(eps=1.0, step=0.1, steps=20)
    images = image_synthesis.samples(net, digits, range(10), 8, settings=settings).flatten(0, 1)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    seeds = torch.cat([image_synthesis.class_seeds(digits, c, 8) for c in range(10)])
    y = torch.arange(10).repeat_interleave(8)
    distance = (images - seeds).flatten(1).norm(dim=1)
    assert distance.min() > 0.1 and distance.max() <= 1 + 1e-5
    assert images.min() >= 0 and images.max() <= 1
    with frozen(net), torch.no_grad():
        drawn, fitted = ((net(x).argmax(1) == y).float().mean() for x in (images, seeds))
    assert 0.2 < fitted < drawn and drawn > 0.95


def test_more_images_than_go_at_once(net, digits, monkeypatch):
    monkeypatch.setattr(image_synthesis, "CHUNK", 3)
    settings = AscentSettings(eps=0.5, step=0.1, steps=3)
    images = image_synthesis.samples(net, digits, (0, 1), 4, settings=settings)
    monkeypatch.undo()
    whole = image_synthesis.samples(net, digits, (0, 1), 4, settings=settings)
    assert images.shape == (2, 4, 1, 8, 8)
    torch.testing.assert_close(images, whole, atol=1e-4, rtol=0)


def test_few_images_of_a_class_are_enough_and_none_are_a_mistake(net, digits):
    few = digits.at(torch.tensor([0, 1, 2, 3]))
    assert image_synthesis.samples(net, few, (int(few.y[0]),), 2, settings=AscentSettings(1.0, 0.1, 2)).isfinite().all()
    with pytest.raises(UserError, match="class 11 has no training images; classes with images: 0 to 9"):
        image_synthesis.samples(net, digits, (11,), 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_has_a_row_per_class(channels):
    images = torch.rand(2, 3, channels, 8, 8)
    png = image_synthesis.grid(images, height=16, gap=2)
    assert png.startswith(b"\x89PNG")
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    assert sheet.shape == (2 * 18 + 2, 3 * 18 + 2, 3)
    for row in range(2):
        for column in range(3):
            tile = sheet[18 * row + 2 : 18 * row + 18, 18 * column + 2 : 18 * column + 18]
            expected = (images[row, column] * 255).round().numpy().transpose(1, 2, 0)
            assert np.array_equal(tile[::2, 1::2], np.broadcast_to(expected, (8, 8, 3)))
    assert (sheet[:2] == 255).all() and (sheet[:, :2] == 255).all() and (sheet[18:20] == 255).all()
    assert (sheet[-2:] == 255).all() and (sheet[:, -2:] == 255).all()
