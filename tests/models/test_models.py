"""The nets, by their published sizes; their softplus twins; the swap of ReLUs."""

import copy
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from harness.contracts.nets import CONTRACT, ReLUCalls, example
from harness.errors import UserError
from harness.models import nets as models_nets
from harness.models.nets import NETS, build
from harness.models.relus import rectified_by, softened

LIGHT = ("small", "resnet10", "wrn40_2")
# Published numbers of ReLU calls.
RELUS = {
    "small": 3,
    "resnet10": 9,
    "resnet18": 17,
    "resnet34": 33,
    "wrn28_10": 25,
    "wrn40_2": 37,
    "resnet50": 49,
    "vgg_gap": 14,
}


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "channels", "classes", "parameters"),
    [
        ("resnet10", 3, 100, 4_949_412),
        ("resnet18", 3, 10, 11_173_962),
        ("resnet34", 3, 10, 21_282_122),
        ("wrn28_10", 3, 10, 36_479_194),
        ("wrn40_2", 3, 10, 2_243_546),
        ("resnet50", 3, 1000, 25_557_032),
        ("vgg_gap", 3, 200, 14_714_688 + 4_719_616 + 205_000),
    ],
)
def test_published_number_of_parameters(name, channels, classes, parameters):
    with torch.device("meta"):
        assert count(NETS[name](channels, classes)) == parameters


def contract(name):
    for promise in CONTRACT:
        promise(name)


@pytest.mark.parametrize("name", NETS)
def test_contract(name):
    contract(name)


@pytest.mark.parametrize("name", RELUS)
def test_number_of_relus(name):
    net, x = example(name)
    with ReLUCalls() as relus, torch.no_grad():
        net(x)
    assert relus.calls == RELUS[name]


def made_up(channels: int, classes: int, **stages) -> models_nets.Net:
    first = nn.Sequential(models_nets.conv(channels, 6), nn.BatchNorm2d(6), nn.ReLU())
    features = nn.Sequential(first, models_nets.conv(6, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    return models_nets.Net(features, 8, classes, channels, **({"stages": [first]} | stages))


def test_a_new_net_needs_nothing_but_its_entry(monkeypatch):
    monkeypatch.setitem(NETS, "made_up", made_up)
    contract("made_up")


@pytest.mark.parametrize(
    ("stages", "advice"), [([], "pass the ends of its stages"), ([nn.ReLU()], "must be modules within its features")]
)
def test_a_net_whose_stages_are_wrong_is_said(stages, advice, monkeypatch):
    monkeypatch.setitem(NETS, "made_up", lambda channels, classes: made_up(channels, classes, stages=stages))
    with pytest.raises(AssertionError, match=f"^made_up: .*{advice}"):
        contract("made_up")


@pytest.mark.parametrize("name", LIGHT)
def test_seed_makes_the_net(name):
    nets = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        nets.append(build(name, 3, 5).state_dict())
    assert all(torch.equal(v, nets[1][k]) for k, v in nets[0].items())
    assert any(not torch.equal(v, nets[2][k]) for k, v in nets[0].items())


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("size", [(9, 13), (32, 32), (8, 48)])
def test_sizes_and_channels(name, size):
    net = build(name, 3, 5).eval()
    assert net(torch.rand(1, 3, *size)).shape == (1, 5)


def test_normalisation_is_by_channel():
    torch.manual_seed(0)
    net = build("small", 3, 5).eval()
    x = torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 1.0, 3.0])
    outside = net((x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    torch.testing.assert_close(net.normalised_by(mean, std)(x), outside)


def test_normalisation_travels_with_the_weights():
    net, other = build("small", 1, 2), build("small", 1, 2)
    other.load_state_dict(net.normalised_by(torch.tensor([0.3]), torch.tensor([0.7])).state_dict())
    assert other.mean.item() == pytest.approx(0.3) and other.std.item() == pytest.approx(0.7)


def test_unknown_model():
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        build("resnet-18", 3, 10)


# The swap of ReLUs


class InPlace(nn.Module):
    """Drops what relu_ returns, as code that works in place may."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        x.relu_()
        return x


WAYS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu(inplace)": lambda x: F.relu(x, inplace=True),
    "F.relu(x, True)": lambda x: F.relu(x, True),
    "F.relu(input=)": lambda x: F.relu(input=x),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu(input=)": lambda x: torch.relu(input=x),
    "torch.relu_": torch.relu_,
    "x.relu": lambda x: x.relu(),
    "x.relu_": lambda x: x.relu_(),
    "x.relu_ dropped": InPlace(),
    "nn.Sequential": nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_call_a_relu_is_caught(way):
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    with rectified_by(lambda t: t**3):
        y = WAYS[way](x * 1)
    assert y.tolist() == [-8, 27]
    (g,) = torch.autograd.grad(y.sum(), x)
    assert g.tolist() == [12, 27]
    assert WAYS[way](x * 1).tolist() == [0, 3]


def test_swap_ends_with_an_exception_and_nests():
    x = torch.tensor([-2.0, 3.0])
    with pytest.raises(RuntimeError, match="on purpose"), rectified_by(lambda t: t * 0):
        raise RuntimeError("on purpose")
    assert F.relu(x).tolist() == [0, 3]
    with rectified_by(lambda t: t * 2):
        with rectified_by(lambda t: t * 10):
            assert F.relu(x).tolist() == [-20, 30]
        assert F.relu(x).tolist() == [-4, 6]
    with rectified_by(lambda t: F.relu(t) + 1):  # the swap may itself use a ReLU
        assert F.relu(x).tolist() == [1, 4]


def test_swap_holds_for_its_thread_only():
    x, seen = torch.tensor([-2.0, 3.0]), []
    with rectified_by(lambda t: t * 2):
        thread = threading.Thread(target=lambda: seen.append(F.relu(x).tolist()))
        thread.start()
        thread.join()
    assert seen == [[0, 3]]


def test_other_functions_are_left_alone():
    x = torch.tensor([-2.0, 3.0])
    with rectified_by(lambda t: t * 0):
        assert F.leaky_relu(x, 0.5).tolist() == [-1, 3]
        assert x.clamp(min=0).tolist() == [0, 3]
        assert F.gelu(x).sum() != 0


# The softplus twin

MADE_OF_RELUS = {
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp to a tensor": lambda x: torch.clamp(x, min=torch.tensor(0.2)),
    "clamp by name": lambda x: torch.clamp(input=x, max=0.3),
    "clip": lambda x: x.clip(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_max": lambda x: torch.clamp_max(x, 0.5),
    "clamp_": lambda x: (x * 1).clamp_(min=0),
    "clamp_ dropped": lambda x: (z := x * 1, z.clamp_(-1, 1))[0],
    "relu6": lambda x: F.relu6(4 * x),
    "nn.ReLU6": nn.ReLU6(inplace=True),
    "hardtanh": lambda x: F.hardtanh(x, -0.4, 0.6),
    "nn.Hardtanh": nn.Hardtanh(inplace=True),
    "hardsigmoid": lambda x: F.hardsigmoid(4 * x),
    "hardswish": lambda x: F.hardswish(4 * x),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "nn.LeakyReLU": nn.LeakyReLU(0.3, inplace=True),
    "prelu": nn.PReLU(3, init=0.4).double(),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "minimum": lambda x: x.minimum(torch.zeros(())),
    "abs": abs,
    "x.abs": lambda x: x.abs(),
}


@pytest.mark.parametrize("name", MADE_OF_RELUS)
def test_what_is_made_of_relus_has_their_curvature_in_the_softplus_twin(name):
    """Value and gradient near those of the function for a large beta; the second derivative where it has a kink."""
    torch.manual_seed(0)
    x, function = torch.randn(64, 3, 5, dtype=torch.float64, requires_grad=True), MADE_OF_RELUS[name]
    net = nn.Module()
    net.forward = lambda x: function(x * 1)
    plain, sharp = net(x), softened(net, 1e4)(x)
    torch.testing.assert_close(sharp, plain, rtol=0, atol=3e-4)
    slopes = [torch.autograd.grad(out.sum(), x)[0] for out in (plain, sharp)]
    assert ((slopes[0] - slopes[1]).abs() > 1e-2).double().mean() < 0.01  # but for values at a kink
    (slope,) = torch.autograd.grad(softened(net, 5.0)(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad((slope * torch.randn_like(slope)).sum(), x)
    assert (curvature != 0).double().mean() > 0.5
    assert torch.equal(net(x), plain)


@pytest.mark.parametrize(
    "written",
    [
        lambda x: x.clamp(min=0),
        lambda x: F.leaky_relu(x, 0.0),
        lambda x: torch.maximum(x, torch.zeros((), dtype=x.dtype)),
        lambda x: F.hardtanh(x, 0.0, 1e3),
        lambda x: (x + x.abs()) / 2,
    ],
    ids=["clamp", "leaky", "maximum", "hardtanh", "abs"],
)
def test_a_relu_written_another_way_has_the_same_curvature(tiny, written):
    """So an attack on attributions is as strong, however the net is written."""
    net, x = tiny
    other = copy.deepcopy(net)
    other.features[1].forward = written

    def curvature(model):
        z = x.clone().requires_grad_(True)
        (g,) = torch.autograd.grad(softened(model)(z)[:, 0].sum(), z, create_graph=True)
        (c,) = torch.autograd.grad((g * torch.linspace(-1, 1, g.numel(), dtype=g.dtype).view(g.shape)).sum(), z)
        return g.detach(), c

    for ours, theirs in zip(curvature(net), curvature(other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)
    assert curvature(net)[1].abs().max() > 1e-3


def test_a_whole_number_stays_one_in_the_softplus_twin():
    net = nn.Module()
    net.forward = lambda x: x[:, torch.tensor([-3, 1]).clamp(min=0)]
    assert torch.equal(softened(net)(torch.eye(3)), torch.eye(3)[:, [0, 1]])


@pytest.fixture
def tiny():
    """A net with one layer of ReLUs, in float64, and images."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    return models_nets.Net(features, 4, 3, 1).double(), torch.rand(2, 1, 4, 4, dtype=torch.float64)


def test_softened_nears_the_net_as_beta_grows(tiny):
    """softplus exceeds ReLU by at most log(2) / beta."""
    net, x = tiny
    largest = net.head.weight.abs().sum(1)
    errors = []
    for beta in (1.0, 5.0, 50.0, 500.0):
        error = (softened(net, beta)(x) - net(x)).abs()
        assert (error <= torch.log(torch.tensor(2.0)) / beta * largest + 1e-9).all()
        errors.append(error.mean().item())
    assert errors == sorted(errors, reverse=True) and errors[0] > 0


@pytest.mark.parametrize("name", LIGHT)
def test_deep_softened_nears_the_net_as_beta_grows(name):
    torch.manual_seed(0)
    net, x = build(name, 1, 5).eval(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        errors = [(softened(net, beta)(x) - net(x)).norm() / net(x).norm() for beta in (10, 100, 1000)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05


def test_softened_has_the_second_derivative_that_relu_lacks(tiny):
    net, x = tiny

    def hessian(model):
        return torch.autograd.functional.hessian(lambda z: model(z)[:, 0].sum(), x)

    assert (hessian(net) == 0).all()
    assert hessian(softened(net)).abs().max() > 1e-3


def test_derivatives_of_softened_are_right(tiny):
    net, x = tiny
    x = x.requires_grad_(True)
    assert gradcheck(softened(net, 5.0), x)
    assert gradgradcheck(softened(net, 5.0), x)


def test_softened_in_place_has_right_derivatives_too(tiny):
    net, x = copy.deepcopy(tiny[0]), tiny[1].requires_grad_(True)
    with torch.no_grad():
        expected = softened(net, 5.0)(x)
    net.features[1] = nn.ReLU(inplace=True)
    torch.testing.assert_close(softened(net, 5.0)(x), expected)
    assert gradgradcheck(softened(net, 5.0), x)


def test_softened_shares_weights_and_leaves_the_net_a_relu_net(tiny):
    net, x = tiny
    before, soft = net(x), softened(net)
    assert [p.data_ptr() for p in soft.parameters()] == [p.data_ptr() for p in net.parameters()]
    soft(x)
    assert torch.equal(net(x), before)
    with torch.no_grad():
        net.head.bias += 1
    torch.testing.assert_close(soft(x).mean() - before.mean(), torch.tensor(1.0).double(), rtol=0, atol=0.1)
