"""The benchmark measures what it says: the same work, the same result, expected costs of a coin."""

import pytest
import torch

import methods
from harness.bench import epochs
from harness.config.trial import build
from harness.data.batches import Batch
from harness.models import nets
from harness.trials import step_cost
from methods.noise import uniform_noise


def test_the_published_loop_finds_the_same_images():
    net = nets.build("small", 3, 5).eval()
    batch = Batch(torch.rand(6, 3, 8, 8), torch.randint(5, (6,)))
    torch.manual_seed(1)
    theirs = epochs.PublishedPGD(crafting="eval").perturb(net, batch)
    torch.manual_seed(1)
    ours = methods.make("pgd", crafting="eval").perturb(net, batch)
    assert torch.allclose(theirs, ours, atol=1e-6)
    assert all(p.grad is not None for p in net.parameters())  # which is what it pays for
    torch.manual_seed(1)
    assert not torch.equal(ours, uniform_noise(batch.x, 8 / 255))


def test_a_coin_is_timed_by_its_two_sides():
    sides = step_cost.step_variants(build({"method": "pgd_sat", "method.flip": 0.3}))
    assert {side: share for side, (share, _) in sides.items()} == pytest.approx({"attack": 0.7, "cheap": 0.3})
    assert sides["attack"][1].method.flip == 0.0 and sides["cheap"][1].method.flip == 1.0
    assert list(step_cost.step_variants(build({"method": "pgd"}))) == [""]


def test_those_of_second_order_are_timed_when_asked_for():
    figures = epochs.epochs({"data": "digits", "batch": 4}, (1, 8, 8), "cpu", 1, 1)
    assert not {"art", "ig_norm", "ig_sum_norm"} & set(figures) and {"standard", "trades_sat"} <= set(figures)


def test_every_method_is_timed():
    figures = epochs.epochs({"data": "digits", "batch": 4}, (1, 8, 8), "cpu", 1, 2, methods.names())
    assert set(figures) == {*methods.names(), epochs.PUBLISHED}
    assert all(len(each["seconds"]) == 2 and min(each["seconds"]) > 0 for each in figures.values())
    assert figures["pgd"]["to pgd"] == [1.0, 1.0]
