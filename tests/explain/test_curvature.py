"""Whether the second derivative of a net explains how its gradient changes: nets for which it does, and does not."""

import pytest
import torch
from oracles import FirstOrderSquare, Function, Linear, Wrapped, mask
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError
from harness.explain import curvature
from harness.explain.curvature import check_curvature
from harness.models import nets
from harness.models.freezing import frozen
from harness.models.relus import softened


def behind(function) -> Wrapped:
    """Three logits behind a function of the images."""
    return Wrapped(Linear(32), function)


def layered(activation) -> nn.Module:
    if not isinstance(activation, nn.Module):
        activation = Function(activation)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 16), activation, nn.Linear(16, 3))


@pytest.fixture
def images():
    return torch.rand(6, 2, 4, 4), torch.tensor([0, 1, 2, 2, 1, 0])


def refusal(*args) -> str:
    with pytest.raises(UserError) as error:
        check_curvature(*args)
    message = str(error.value)
    assert "\n" not in message and message.endswith("; or choose suites without attacks on attributions")
    return message


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0].tanh() ** 2)


def attention(t: Tensor) -> Tensor:
    heads = t.view(len(t), 4, 4, 1)
    return F.scaled_dot_product_attention(heads, heads, 3 * heads).flatten(1)


SOUND = {
    "linear": lambda: Linear(32),
    "smooth": lambda: layered(nn.Tanh()),
    "softened": lambda: softened(layered(nn.ReLU())),
    "relu in place, softened": lambda: softened(layered(nn.ReLU(inplace=True))),
    "leaky, softened": lambda: softened(layered(nn.LeakyReLU(0.1))),
    "relu by clamping, softened": lambda: softened(behind(lambda x: (x - 0.5).clamp_min(0))),
    "pooled, softened": lambda: softened(behind(lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2))),
    "attention, softened": lambda: softened(layered(attention)),
    "sharp": lambda: layered(lambda t: F.softplus(t, 3000.0)),
    "layer norm, softened": lambda: softened(layered(nn.Sequential(nn.LayerNorm(16), nn.ReLU()))),
    "constant": lambda: behind(torch.zeros_like),
    "noisy, softened": lambda: softened(layered(lambda t: F.relu(t + torch.randn_like(t)))),
    "hardly curved": lambda: layered(lambda t: t + 1e-7 * t.square()),
}


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("name", SOUND)
def test_nets_with_a_true_second_derivative_pass(name, count, images):
    net = SOUND[name]().eval()
    check_curvature(net, *(t[:count] for t in images))
    with frozen(net), torch.no_grad():
        check_curvature(net, *(t[:count] for t in images))


def gated(t: Tensor) -> Tensor:
    return mask(t) * (1 + 1e-3 * torch.sigmoid(t.mean(1, keepdim=True)))


SEEMING = {
    "relu": lambda: layered(nn.ReLU()),
    "leaky": lambda: layered(nn.LeakyReLU(0.1)),
    "leaky and smooth": lambda: layered(nn.Sequential(nn.LeakyReLU(), nn.Tanh())),
    "relu by a mask, softened": lambda: softened(layered(mask)),
    "relu by where, softened": lambda: softened(layered(lambda t: torch.where(t > 0, t, 0))),
    "a mask of the image, softened": lambda: softened(behind(lambda x: x * (x > 0.5))),
    "one of two masked, softened": lambda: softened(
        nn.Sequential(nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 16), Function(mask), nn.Linear(16, 3))
    ),
    "a mask and a smooth gate, softened": lambda: softened(layered(gated)),
    "the largest by sorting, softened": lambda: softened(
        layered(lambda t: t.sort(1).values * torch.linspace(-1, 2, 16))
    ),
}


@pytest.mark.parametrize("name", SEEMING)
def test_a_gradient_that_jumps_is_refused(name, images):
    net = SEEMING[name]()
    kind = type(net.model if "softened" in name else net).__name__
    message = refusal(net, *images)
    assert message.startswith(f"the second derivative of {kind} explains ")
    assert int(message.split("explains ")[1].split("%")[0]) < 90


def test_a_net_of_convolutions_passes_with_max_pooling_and_not_without_its_smooth_counterpart(monkeypatch):
    features = nn.Sequential(nets.conv(1, 8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nets.conv(8, 8), nn.ReLU())
    net = nets.Net(features, 8, 3, 1).eval()
    images = torch.rand(2, 1, 12, 12), torch.tensor([0, 2])
    check_curvature(softened(net), *images)
    monkeypatch.setattr("harness.models.relus.SMOOTH_MAXIMA", {})
    refusal(softened(net), *images)


@pytest.mark.parametrize("name", ["small", "resnet10", "wrn40_2"])
def test_an_untrained_net_passes(name):
    net = nets.build(name, 1, 5).eval().requires_grad_(False)
    check_curvature(softened(net), torch.rand(2, 1, 8, 8), torch.tensor([1, 4]))


def test_a_net_that_can_be_differentiated_once_only_is_refused(images):
    refusal(softened(behind(_Once.apply)), *images)


def test_a_net_whose_second_derivative_fails_is_refused_with_the_reason(images):
    message = refusal(softened(behind(FirstOrderSquare.apply)), *images)
    assert message.startswith("the gradient of Wrapped cannot be differentiated: no derivative of the derivative;")


def test_a_second_derivative_that_is_not_finite_is_refused(images):
    net = softened(layered(lambda t: t + (0 * t).norm(dim=1, keepdim=True)))
    assert refusal(net, *images).startswith("the derivative of the gradient of Sequential is not finite")


def test_a_net_of_one_logit_is_refused(images):
    with pytest.raises(UserError, match=r"at least two classes; this one has 1$"):
        check_curvature(nn.Sequential(nn.Flatten(), nn.Linear(32, 1), nn.Tanh()), images[0], torch.zeros(6).long())


def test_the_check_leaves_net_images_and_generator_alone(images):
    (x, y), net = images, layered(nn.Tanh()).train()
    state = torch.get_rng_state()
    check_curvature(net, x, y)
    assert not x.requires_grad and x.grad is None and net.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_only_the_first_images_are_asked(images):
    net = softened(layered(mask))
    assert refusal(net, *images) == refusal(net, *(t[: curvature.IMAGES] for t in images))


def test_the_parts_of_a_path_are_followed_exactly(images):
    """A cubic: the midpoint rule is exact for its quadratic gradient's linear derivative."""
    x, y = images
    net = behind(lambda z: z**3)
    path = 0.1 * torch.randn_like(x)
    size, change, errors = curvature._followed(net.double(), x.double(), path.double(), y)
    w = net.net.w[y].view_as(x)
    torch.testing.assert_close(size, 3 * w * x.double() ** 2)
    torch.testing.assert_close(change, 3 * w * ((x + path).double() ** 2 - x.double() ** 2), rtol=1e-5, atol=1e-6)
    assert errors.shape == (curvature.PARTS, *x.shape) and errors.abs().max() < 1e-12
