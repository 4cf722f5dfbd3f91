"""Random weights in place of learned ones: which layers, by which numbers, and what that does to maps."""

import copy
from dataclasses import dataclass

import pytest
import torch
from oracles import Brightness
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from harness.contracts.map_examples import Linear, with_trained_norms
from harness.errors import UserError
from harness.explain import maps, similarity
from harness.explain.base import Map
from harness.explain.parameter_randomisation import by_layer, layers, randomised, with_all_random
from harness.models import nets

ORDERS = ("cascading", "independent")


@dataclass(frozen=True)
class Edges(Map):
    """Size of the Sobel gradient: a map of the image that looks like an explanation."""

    def __call__(self, net, x, y):
        sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        kernels = torch.stack([sobel, sobel.T])[:, None].to(x)
        return F.conv2d(x.flatten(0, 1)[:, None], kernels, padding=1).square().sum(1).view_as(x)


def trained(channels=1):
    """A net that is no fresh one: other weights, statistics and biases."""
    torch.manual_seed(0)
    return with_trained_norms(nets.build("small", channels, 10)).eval()


def images(n=4, channels=1):
    return torch.rand(n, channels, 8, 8), torch.arange(n) % 3


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(net, other):
    before, after = net.state_dict(), other.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# Which layers


def test_layers_go_from_the_output_down_in_the_order_of_calls():
    norms, convs = ([f"features.{kind}.{i}" for i in (2, 1, 0)] for kind in ("norms", "convs"))
    pairs = [name for pair in zip(norms, convs, strict=True) for name in pair]
    assert layers(trained(), images()[0]) == ["head", *pairs]


def test_registration_in_another_order_and_modules_that_are_not_called():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.unused, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)
            self.by_hand, self.statistics = nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)

        def forward(self, x):
            h = self.statistics(F.relu(F.linear(x.flatten(1), self.by_hand.weight)))
            return self.last(self.first(h))

    net = Odd().eval()
    x = torch.rand(2, 1, 2, 2)
    assert layers(net, x) == ["last", "first", "statistics", "by_hand", "unused"]
    assert not any(m._forward_hooks for m in net.modules())
    assert layers(nn.Flatten(), x) == []


# What a random layer is


def test_weights_and_statistics_are_initialised_anew_and_the_net_is_untouched():
    net = trained().train()
    net.head.bias.requires_grad_(False)
    before, modes = state(net), [m.training for m in net.modules()]
    other = randomised(net, ["features.norms.1", "head"], seed=0)
    assert changed(net, other) == {
        *(f"features.norms.1.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
        *("head.weight", "head.bias"),
    }
    norm = other.features.norms[1]
    assert (norm.weight == 1).all() and (norm.bias == 0).all()
    assert (norm.running_mean == 0).all() and (norm.running_var == 1).all()
    assert other.head.weight.abs().max() <= 64**-0.5  # uniform within 1 / sqrt(inputs)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes and not net.head.bias.requires_grad
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in net.parameters()]


def test_a_layer_depends_on_its_name_and_the_seed_only():
    net = trained()
    alone, both = randomised(net, ["head"], seed=3), randomised(net, ["features.convs.0", "head"], seed=3)
    assert torch.equal(alone.head.weight, both.head.weight)
    assert not torch.equal(alone.head.weight, randomised(net, ["head"], seed=4).head.weight)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(randomised(net, ["head"], seed=3).head.weight, alone.head.weight)
    assert torch.equal(torch.rand(1), expected)  # nor does it draw from the global generator


def test_weights_of_a_layer_that_cannot_reset_them_are_permuted():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.arange(60.0).view(3, 20))

        def forward(self, x):
            return x.flatten(1) @ self.w.T

    net = Own()
    other = randomised(net, layers(net, torch.rand(1, 1, 4, 5)), seed=0)
    assert changed(net, other) == {"w"} and torch.equal(other.w.flatten().sort().values, net.w.flatten())


def test_a_weight_that_is_computed_from_others_becomes_random():
    net = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(36, 3)))
    x = torch.rand(2, 1, 6, 6)
    other = randomised(net, layers(net, x), seed=0)
    assert not torch.allclose(other[1].weight, net[1].weight)
    assert abs(torch.corrcoef(torch.stack([w[1].weight.flatten() for w in (net, other)]))[0, 1]) < 0.4


def test_a_net_that_cannot_be_copied_is_a_mistake_of_one_line():
    class Holding(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.kept = self.head.weight * 2  # a result of a computation, with its graph

    with pytest.raises(UserError, match=r"^Holding cannot be copied, so its weights cannot be replaced: .+$"):
        randomised(Holding(), ["head"], seed=0)


def test_a_net_that_does_not_say_why_it_cannot_be_copied():
    class Silent(Linear):
        def __deepcopy__(self, memo):
            raise TypeError

    with pytest.raises(UserError, match=r"^Silent cannot be copied, so its weights cannot be replaced: TypeError$"):
        randomised(Silent(4, classes=2), ["head"], seed=0)


# What that does to maps


@pytest.mark.parametrize("explain", [Edges(), Brightness()])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_of_the_image_alone_stays_the_same(explain, channels):
    net, (x, y) = trained(channels=channels), images(channels=channels)
    for order in ORDERS:
        for _, similar in by_layer(net, explain, x, y, order, seed=0):
            assert (similar.rank == 1).all() and (similar.ssim == 1).all()
    for similar in with_all_random(net, explain, x, y, seed=0):
        assert (similar.rank == 1).all() and (similar.ssim == 1).all()


def test_the_gradient_of_a_linear_net_is_as_good_as_independent():
    """Its map is the class's weights: over classes, independent draws, with a standard error of 1 / sqrt(pixels)."""
    torch.manual_seed(2)
    side, classes = 24, 40
    net, x, y = Linear(side * side, classes), torch.rand(classes, 1, side, side), torch.arange(classes)
    found, control = with_all_random(net, maps.Gradient(), x, y, seed=0)
    for rank in (found.rank, control.rank):
        assert abs(rank.mean()) < 4 / side / classes**0.5 and rank.abs().max() < 5 / side
    assert 0.5 < control.rank.std() * side < 1.5
    assert (control.ssim < 0.5).all()


def test_integrated_gradients_of_a_linear_net_keep_the_black_pixels():
    """The map is x times the weights: where x is black, it is 0 whatever the weights are."""
    torch.manual_seed(2)
    net, x, y = Linear(24 * 24, 8), torch.rand(8, 1, 24, 24), torch.arange(8)
    x[:, :, :, :12] = 0
    found, control = with_all_random(net, maps.IntegratedGradients(2), x, y, seed=0)
    assert (found.rank > 0.7).all() and (control.rank > 0.7).all()


@pytest.mark.parametrize("order", ORDERS)
def test_every_step_by_hand(order):
    """Nets put together of a trained and a random one, their maps, and scipy's correlation."""
    net, (x, y) = trained(), images()
    names = layers(net, x)
    random = randomised(net, names, seed=1).state_dict()

    def importance(model):
        g = torch.autograd.grad(model(at := x.clone().requires_grad_(True)).gather(1, y[:, None]).sum(), at)[0]
        return g.abs().sum(1).flatten(1).numpy()

    found = list(by_layer(net, maps.Gradient(), x, y, order, seed=1))
    assert [name for name, _ in found] == names
    for end, (_, similar) in enumerate(found):
        replaced = names[: end + 1] if order == "cascading" else [names[end]]
        other = copy.deepcopy(net)
        own = {k: v for k, v in random.items() if k.rpartition(".")[0] in replaced}
        assert not other.load_state_dict(own, strict=False).unexpected_keys
        pairs = zip(importance(net), importance(other), strict=True)
        torch.testing.assert_close(similar.rank.tolist(), [stats.spearmanr(*pair).statistic for pair in pairs])


def test_all_random_is_the_end_of_two_cascades_and_the_control_is_between_them():
    net, (x, y) = trained(), images()
    found, control = with_all_random(net, maps.Gradient(), x, y, seed=7)
    ends = [list(by_layer(net, maps.Gradient(), x, y, "cascading", seed=s))[-1][1] for s in (7, 8)]
    torch.testing.assert_close(found.rank, (ends[0].rank + ends[1].rank) / 2)
    torch.testing.assert_close(found.ssim, (ends[0].ssim + ends[1].ssim) / 2)
    names = layers(net, x)
    one, two = (maps.Gradient().detached(randomised(net, names, seed=s), x, y).abs()[:, 0] for s in (7, 8))
    torch.testing.assert_close(control.rank, similarity.spearman(one, two))
    scaled = [m / m.amax((1, 2), keepdim=True) for m in (one, two)]
    torch.testing.assert_close(control.ssim, similarity.ssim(*scaled))


def test_of_many_layers_some_with_both_ends():
    net, (x, y) = trained(), images(2)
    names = layers(net, x)
    for most, expected in ((0, names), (3, [names[0], names[3], names[6]]), (1, names[:1]), (99, names)):
        found = [name for name, _ in by_layer(net, maps.Gradient(), x, y, "independent", seed=0, most=most)]
        assert found == expected


def test_a_map_with_noise_has_the_same_noise_for_every_net():
    net, (x, y) = trained(), images()
    noisy = maps.SmoothGrad(n=3, noise="fresh")
    runs = [[s.rank for _, s in by_layer(net, noisy, x, y, "cascading", seed=0)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    same = randomised(net, [], seed=0)
    torch.manual_seed(1)
    a, b = with_all_random(net, noisy, x, y, seed=0), with_all_random(same, noisy, x, y, seed=0)
    assert torch.equal(a[0].rank, b[0].rank)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gets_the_same_random_weights():
    net, (x, y) = trained(), images()
    here = randomised(net, layers(net, x), seed=0).state_dict()
    there = randomised(copy.deepcopy(net).cuda(), layers(net, x), seed=0).state_dict()
    assert all(value.is_cuda and torch.equal(value.cpu(), here[name]) for name, value in there.items())
    found, _ = with_all_random(net, maps.Gradient(), x, y, seed=0)
    on_gpu, _ = with_all_random(copy.deepcopy(net).cuda(), maps.Gradient(), x.cuda(), y.cuda(), seed=0)
    torch.testing.assert_close(on_gpu.rank.cpu(), found.rank, rtol=0, atol=0.02)
