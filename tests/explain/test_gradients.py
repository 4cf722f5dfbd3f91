"""Gradients that can be differentiated again, against derivatives done by hand and against a net built of softplus."""

import copy

import pytest
import torch
from oracles import Linear
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError
from harness.explain import input_gradients
from harness.explain.input_gradients import check_classes, gradient, true_logit, wrong_logit
from harness.models.nets import Net, conv
from harness.models.relus import softened


@pytest.fixture
def images():
    return torch.rand(6, 2, 4, 4), torch.tensor([0, 1, 2, 2, 1, 0])


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Scalars of logits


def test_scalars_of_logits():
    logits, y = torch.tensor([[1.0, 3.0, 2.0], [5.0, -1.0, 4.0]]), torch.tensor([1, 2])
    assert true_logit(logits, y).tolist() == [3, 4]
    assert wrong_logit(logits, y).tolist() == [2, 5]
    expected = -logits.log_softmax(1)[[0, 1], y]
    torch.testing.assert_close(input_gradients.loss(logits, y), expected)
    assert set(input_gradients.SCALARS) == {"logit", "loss"}


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2, 2)])
def test_logits_of_fewer_than_two_classes_are_refused(shape):
    with pytest.raises(UserError) as error:
        check_classes(torch.zeros(shape))
    assert "at least two classes" in one_line(error)
    check_classes(torch.zeros(4, 2))


# Gradients


def cube(z: Tensor) -> Tensor:
    return (z**3).flatten(1).sum(1)


def test_the_gradient_of_a_cube_can_be_differentiated_again(images):
    z, u = images[0].requires_grad_(True), torch.randn(6, 2, 4, 4)
    g = input_gradients.of(cube, z)
    torch.testing.assert_close(g, 3 * z**2)
    torch.testing.assert_close(gradient((g * u).sum((1, 2, 3)), z), 6 * z.detach() * u)


def test_the_graph_goes_back_through_what_z_was_made_of(images):
    x = images[0].requires_grad_(True)
    g = input_gradients.of(cube, 2 * x)
    torch.testing.assert_close(gradient(g, x), 2 * 6 * 2 * x.detach())


def test_without_a_request_there_is_no_graph_and_z_stays_as_it_was(images):
    z = images[0]
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            g = input_gradients.of(cube, z)
        torch.testing.assert_close(g, 3 * z**2)
        assert not g.requires_grad and not z.requires_grad and z.grad is None


@pytest.mark.parametrize("freeze", [False, True])
def test_the_gradient_of_a_linear_function_has_a_graph_too_and_its_gradient_is_zero(images, freeze):
    (x, y), net = images, Linear(32).requires_grad_(not freeze)
    z = x.requires_grad_(True)
    g = input_gradients.of(lambda at: true_logit(net(at), y), z)
    assert torch.equal(g.flatten(1), net.w[y])
    (again,) = torch.autograd.grad(g.square().sum(), z)
    assert torch.equal(again, torch.zeros_like(z))


@pytest.mark.parametrize("graph", [False, True])
def test_what_does_not_depend_on_x_has_the_gradient_zero(images, graph):
    x, w = images[0].requires_grad_(True), torch.ones(6, requires_grad=True)
    for values in (w * 2, torch.ones(6)):
        assert torch.equal(gradient(values, x, graph=graph), torch.zeros_like(x))
        assert torch.equal(input_gradients.of(lambda at, values=values: values, x), torch.zeros_like(x))


def test_values_may_be_asked_again_where_that_is_said(images):
    x = images[0].requires_grad_(True)
    values = cube(x)
    first = gradient(values, x, again=True)
    assert not first.requires_grad
    assert torch.equal(gradient(values, x), first)
    with pytest.raises(RuntimeError, match="second time"):
        gradient(values, x)


# The softened net, whose normalisation is a product and a sum


def normed(activation, norm) -> Net:
    """Two convolutions with normalisation, its statistics and weights away from where they begin."""
    torch.manual_seed(1)
    features = nn.Sequential(conv(2, 6), norm(6), activation(), conv(6, 5), norm(5), activation())
    net = Net(features, 5, 3, 2).double()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d) and m.affine:
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    for _ in range(3):
        net(torch.rand(8, 2, 4, 4, dtype=torch.float64))
    return net


NORMS = {
    "plain": nn.BatchNorm2d,
    "without weights": lambda n: nn.BatchNorm2d(n, affine=False),
    "without statistics": lambda n: nn.BatchNorm2d(n, track_running_stats=False),
    "large eps": lambda n: nn.BatchNorm2d(n, eps=0.1),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_softened_is_the_net_built_of_softplus(norm, train, images):
    beta = 5.0
    net, twin = (normed(a, NORMS[norm]).train(train) for a in (nn.ReLU, lambda: nn.Softplus(beta)))
    with torch.no_grad():  # the softplus net has moved its statistics otherwise
        twin.load_state_dict(net.state_dict())
    x, y = images[0].double(), images[1]
    u, results = torch.randn_like(x), []
    for model in (softened(net, beta), twin):
        z = x.clone().requires_grad_(True)
        logits = model(z)
        g = gradient(true_logit(logits, y), z, graph=True)
        again = torch.autograd.grad((g * u).sum(), [z, *model.parameters()], allow_unused=True)
        results.append([logits, g, model.maps(x), *(t for t in again if t is not None)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    assert results[0][3].any()
    for ours, expected in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_softened_has_the_maps_and_the_head_of_the_net(images):
    net = normed(nn.ReLU, nn.BatchNorm2d).eval()
    smooth, x = softened(net, 5.0), images[0].double()
    maps = smooth.maps(x)
    assert smooth.head is net.head
    torch.testing.assert_close(smooth(x), net.head(maps.mean((2, 3))))
    assert (maps > 0).all() and (net.maps(x) == 0).any()  # softplus lies above 0


def test_outside_softened_normalisation_is_torchs_own(images):
    net = normed(nn.ReLU, nn.BatchNorm2d).eval()
    x = images[0].double()
    before, state = net(x), copy.deepcopy(net.state_dict())
    softened(net)(x)
    assert torch.equal(net(x), before)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert F.relu(torch.tensor(-1.0)) == 0
