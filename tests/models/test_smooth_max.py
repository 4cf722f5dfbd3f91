"""Max pooling and maxima in the smooth surrogate: shapes and values of torch's own, and log-sum-exp by hand."""

import pytest
import torch
from oracles import Function
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from harness.models.relus import softened
from harness.models.smooth_max import SMOOTH_MAXIMA


def smooth(function, x: Tensor, beta: float) -> Tensor:
    return softened(Function(function), beta)(x)


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)


MAXIMA = {
    "F.max_pool2d": lambda x: F.max_pool2d(x, 3),
    "nn.MaxPool2d": nn.MaxPool2d(3, 2, 1),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x, 2, padding=1),
    "nn.MaxPool1d": lambda x: nn.MaxPool1d(3, 2, 1, ceil_mode=True)(x.flatten(0, 1)),
    "nn.MaxPool3d": lambda x: nn.MaxPool3d((1, 2, 3))(x[None]),
    "nn.AdaptiveMaxPool2d(1)": nn.AdaptiveMaxPool2d(1),
    "nn.AdaptiveMaxPool2d((4, None))": nn.AdaptiveMaxPool2d((4, None)),
    "F.adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x.flatten(1, 2), 4),
    "F.adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x, (2, 1, 4)),
    "amax": lambda x: x.amax((2, 3)),
    "torch.amax": lambda x: torch.amax(x, 1, keepdim=True),
    "amin": lambda x: x.amin(dim=-1),
    "max": lambda x: x.max(1)[0],
    "torch.max": lambda x: torch.max(x, dim=2, keepdim=True).values,
    "min": lambda x: x.min(-1).values,
    "max of two": lambda x: torch.max(x, x.flip(1)),
    "min of two": lambda x: x.min(other=x.flip(1)),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_a_maximum_is_met_as_beta_grows_and_has_curvature_before(name, x):
    function = MAXIMA[name]
    hard, sharp = function(x), smooth(function, x, 1e4)
    assert sharp.shape == hard.shape
    least = name.startswith(("amin", "min"))
    above = (hard - sharp if least else sharp - hard).detach()
    most = torch.log(torch.tensor(99.0)) / 1e4  # no window here has more values
    assert (above > -1e-12).all() and (above <= most).all()
    (g,) = torch.autograd.grad(smooth(function, x, 2.0).sum(), x, create_graph=True)
    (again,) = torch.autograd.grad((g * torch.randn_like(g)).sum(), x)
    assert again.isfinite().all() and (again != 0).double().mean() > 0.5
    assert torch.equal(function(x), hard)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, (1, 0)])
@pytest.mark.parametrize("stride", [None, 1, 3, (1, 2)])
@pytest.mark.parametrize("kernel", [2, 3, (3, 2)])
def test_windows_are_those_of_torch(kernel, stride, padding, dilation, ceil_mode, x):
    def pool(t: Tensor) -> Tensor:
        return F.max_pool2d(t, kernel, stride, padding, dilation, ceil_mode=ceil_mode)

    torch.testing.assert_close(smooth(pool, x, 1e6), pool(x), rtol=0, atol=1e-5)


def test_a_window_has_the_log_sum_exp_of_its_values(x):
    windows = F.unfold(x[:, :1], 3, stride=2)  # (2, 9, positions)
    expected = (3.0 * windows).logsumexp(1) / 3
    torch.testing.assert_close(smooth(nn.MaxPool2d(3, 2), x[:, :1], 3.0).flatten(1), expected)


def test_derivatives_are_right(x):
    some = x[:1, :1, :4, :5].detach().requires_grad_(True)
    pool = softened(Function(lambda t: F.max_pool2d(t, 3, 2, 1)), 2.0)
    assert gradcheck(pool, some) and gradgradcheck(pool, some)


def test_the_maximum_of_x_and_0_is_softplus(x):
    def pooled(t: Tensor) -> Tensor:
        return F.max_pool3d(torch.stack([t, torch.zeros_like(t)], 2), (2, 1, 1))[:, :, 0]

    for function in (pooled, lambda t: torch.stack([t, torch.zeros_like(t)]).amax(0)):
        torch.testing.assert_close(smooth(function, x, 5.0), F.softplus(x, 5.0), rtol=1e-7, atol=1e-9)


def test_large_values_do_not_overflow():
    x = torch.tensor([[[[1e4, -1e4], [3.0, 1e4]]]], requires_grad=True)
    out = smooth(nn.MaxPool2d(2), x, 50.0)
    (g,) = torch.autograd.grad(out.sum(), x)
    assert out.item() == pytest.approx(1e4, abs=0.02) and g.flatten().tolist() == pytest.approx(
        [0.5, 0, 0, 0.5], abs=0.01
    )


def test_indices_whole_numbers_and_the_maximum_of_a_batch_stay_as_they_are(x):
    assert torch.equal(smooth(lambda t: t.max(1).indices, x, 5.0), x.max(1).indices)
    assert torch.equal(smooth(lambda t: t.argmax(1).max(1).values, x, 5.0), x.argmax(1).max(1).values)
    for whole in (torch.max, torch.amax, Tensor.max, Tensor.amax):
        assert torch.equal(smooth(whole, x, 5.0), x.max())
    assert all(callable(function) for function in SMOOTH_MAXIMA)


def test_without_maxima_they_stay_as_they_are(x):
    net = Function(
        lambda t: F.max_pool2d(t, 2) + t.amax((2, 3), keepdim=True) + torch.max(t, -1, keepdim=True)[0].mean()
    )
    assert torch.equal(softened(net, 5.0, maxima=False)(x), net(x))
    assert not torch.allclose(softened(net, 5.0)(x), net(x))
    pairwise = Function(lambda t: torch.max(t, torch.zeros_like(t)))
    torch.testing.assert_close(softened(pairwise, 5.0, maxima=False)(x), F.softplus(x, 5.0))


def test_a_frozen_graph_of_torch_export_is_softened_too(x):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).double().eval()
    program = torch.export.export(net, (x.detach(),)).module()
    torch.testing.assert_close(softened(program, 5.0)(x), softened(net, 5.0)(x))
