"""Maps with a graph, which attacks differentiate: linear nets, derivatives by hand, captum, and one place at a time."""

import weakref

import attack_examples
import captum.attr
import pytest
import torch
from attack_examples import MAPS, OBJECTIVES, RULES, TwoLayers
from oracles import Linear
from torch import Tensor
from torch.nn import functional as F

from harness.attacks import attribution
from harness.explain import similarity as explain_similarity
from harness.explain.input_gradients import gradient
from harness.explain.integrated_gradients import IntegratedGradients
from harness.explain.maps import Gradient, SmoothGrad, trapezoids
from harness.models.freezing import frozen
from harness.models.relus import softened

net, images = attack_examples.net, attack_examples.images

# Maps of a linear net


def test_maps_of_a_linear_net_are_its_weights():
    net, x, y = Linear(72, torch.float64), torch.rand(4, 2, 6, 6, dtype=torch.float64), torch.tensor([2, 0, 1, 2])
    row = net.w.detach()[y].view_as(x)
    with frozen(net):
        assert torch.equal(Gradient()(net, x, y), row)
        torch.testing.assert_close(SmoothGrad(3)(net, x, y), row)
        for rule in RULES:
            for factor in (True, False):
                torch.testing.assert_close(IntegratedGradients(5, rule, through_factor=factor)(net, x, y), x * row)


# Derivatives by hand


def tanh_derivatives(a: Tensor) -> tuple[Tensor, Tensor]:
    t = a.tanh()
    return 1 - t**2, -2 * t * (1 - t**2)


def softplus_derivatives(a: Tensor) -> tuple[Tensor, Tensor]:
    s = (3 * a).sigmoid()
    return s, 3 * s * (1 - s)


@pytest.mark.parametrize("activation, derivatives", [(torch.tanh, tanh_derivatives), (F.relu, softplus_derivatives)])
def test_map_and_direction_of_the_top_k_attack_have_a_closed_form(activation, derivatives):
    """With I = N S / T, S the sum of |g| over channels, T the sum of S: the Hessian times the gradient in g."""
    net, k, pixels = TwoLayers(activation), 6, 36
    x, y = torch.rand(4, 2, 6, 6, dtype=torch.float64), torch.tensor([2, 0, 1, 2])
    z = (x + 0.1 * torch.randn_like(x)).requires_grad_(True)

    def by_hand(at):
        first, second = derivatives(at.flatten(1) @ net.w.T + net.b)
        hessian = net.w.T @ torch.diag_embed(net.v[y] * second) @ net.w
        return ((net.v[y] * first) @ net.w).view_as(at), hessian

    with frozen(net):
        surrogate = softened(net, 3.0)
        g, clean = Gradient()(surrogate, z, y), explain_similarity.importance(Gradient()(surrogate, x, y))
        value = attribution.top_k(k)(clean)(explain_similarity.importance(g))
        direction = gradient(value, z)
        expected, hessian = by_hand(z.detach())
        size_of_clean = by_hand(x)[0].abs().sum(1).flatten(1)
    torch.testing.assert_close(g.detach(), expected)
    top = torch.zeros(4, pixels).scatter(1, size_of_clean.topk(k).indices, 1).double()
    size = expected.abs().sum(1).flatten(1)
    total = size.sum(1, keepdim=True)
    share = (size * top).sum(1, keepdim=True) / total
    torch.testing.assert_close(value.detach(), -pixels * share.squeeze(1))
    in_size = (-pixels / total * (top - share)).view(4, 1, 6, 6)
    in_gradient = (expected.sign() * in_size).flatten(1)
    torch.testing.assert_close(direction.flatten(1), (hessian @ in_gradient[..., None]).squeeze(-1))


@pytest.mark.parametrize("objective", ["top_k", "mass_centre", "towards"])
@pytest.mark.parametrize("name", MAPS)
def test_directions_by_finite_differences(name, objective, net, images):
    """What is taken as given is held fixed: the factor of integrated gradients, the spread of SmoothGrad's noise."""
    (x, y), explain, surrogate = images, MAPS[name], softened(net, 5.0)
    goal = OBJECTIVES[objective](explain_similarity.importance(explain(surrogate, x, y)))
    at = 0.1 + x + 0.02 * torch.randn_like(x)  # nowhere 0, as it is divided by
    extremes = torch.stack([at.flatten(1).argmax(1), at.flatten(1).argmin(1)], 1)
    u = torch.randn(7, 72).scatter(1, extremes, 0).view_as(at).double()

    def value(z):
        maps = explain(surrogate, z, y)
        if name == "integrated, fixed factor":
            maps = maps / z.detach() * at
        return goal(explain_similarity.importance(maps))

    z = at.clone().requires_grad_(True)
    slope = (gradient(value(z), z) * u).sum((1, 2, 3))
    h = 1e-6
    torch.testing.assert_close(slope, (value(at + h * u) - value(at - h * u)) / (2 * h), rtol=1e-5, atol=1e-7)
    assert slope.abs().min() > 1e-4


def test_the_factor_is_a_part_of_the_direction_or_not(net, images):
    (x, y), maps = images, {}
    for factor in (True, False):
        z = x.clone().requires_grad_(True)
        m = IntegratedGradients(4, through_factor=factor)(softened(net, 5.0), z, y)
        maps[factor] = m.detach(), gradient(m, z)
    torch.testing.assert_close(maps[True][0], maps[False][0])
    mean = maps[True][0] / x
    torch.testing.assert_close(maps[True][1], maps[False][1] + mean)


# First order


METHODS = {"right": ("riemann_right", 0), "midpoint": ("riemann_middle", 0), "trapezoid": ("riemann_trapezoid", 1)}


@pytest.mark.parametrize("of", ["logit", "loss"])
@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_are_those_of_captum(rule, of, net, images):
    x, y = images
    method, ends = METHODS[rule]
    if of == "logit":
        oracle = captum.attr.IntegratedGradients(net).attribute
        expected = oracle(x, target=y, n_steps=9 + ends, method=method)
    else:
        oracle = captum.attr.IntegratedGradients(lambda z, y: F.cross_entropy(net(z), y, reduction="none")).attribute
        expected = oracle(x, additional_forward_args=(y,), n_steps=9 + ends, method=method)
    expected = expected * (9 + ends) / 9  # captum divides by the number of places, not of intervals
    torch.testing.assert_close(IntegratedGradients(9, rule, of)(net, x, y), expected, rtol=1e-5, atol=1e-8)


def test_rotating_places_are_in_turn_the_published_ones(net, images):
    x, y = images
    rotating = IntegratedGradients(5, "rotating")
    each = [rotating.at_step(step)(net, x, y) for step in range(20)]
    whole = IntegratedGradients(50, "right")(net, x, y)
    for turn in range(4):  # any ten steps in a row
        torch.testing.assert_close(torch.stack(each[turn : turn + 10]).mean(0), whole)
    assert len({float(m.sum()) for m in each[:10]}) == 10 and torch.equal(each[0], each[10])
    assert IntegratedGradients(5).at_step(3) == IntegratedGradients(5)


def test_integrated_gradients_sum_to_what_the_way_from_black_changes(net, images):
    x, y = images
    black, there = net(torch.zeros_like(x)), net(x)
    sums = {of: IntegratedGradients(2000, "trapezoid", of)(net, x, y).sum((1, 2, 3)) for of in ("logit", "loss")}
    torch.testing.assert_close(sums["logit"], (there - black).gather(1, y[:, None]).squeeze(1), rtol=0, atol=1e-3)
    loss = F.cross_entropy(there, y, reduction="none") - F.cross_entropy(black, y, reduction="none")
    torch.testing.assert_close(sums["loss"], loss, rtol=0, atol=1e-3)


def test_the_gradient_is_that_of_captum(net, images):
    x, y = images
    expected = captum.attr.Saliency(net).attribute(x.clone().requires_grad_(True), target=y, abs=False)
    torch.testing.assert_close(Gradient()(net, x, y), expected)


def test_maps_to_attack_are_those_to_train_on_up_to_their_constants(net, images, monkeypatch):
    x, y = images
    ours = IntegratedGradients(100, "trapezoid")(net, x, y)
    torch.testing.assert_close(ours, trapezoids(100, 128).detached(net, x, y))
    explain = SmoothGrad(5, 0.3)
    draws = iter(torch.randn(5, 1, 2, 6, 6, generator=torch.Generator().manual_seed(0)).double())
    ours = explain(net, x, y)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(draws).expand_as(x))
    torch.testing.assert_close(ours, SmoothGrad(5, 0.3, "fresh").detached(net, x, y))


@pytest.mark.parametrize("name", MAPS)
def test_a_map_has_a_graph_where_it_is_asked_for(name, net, images):
    x, y = images
    with torch.no_grad():
        plain = MAPS[name](softened(net), x, y)
    z = x.clone().requires_grad_(True)
    asked = MAPS[name](softened(net), z, y)
    assert asked.requires_grad and not plain.requires_grad and z.grad is None
    torch.testing.assert_close(asked.detach(), plain)


# A few at a time


@pytest.mark.parametrize("name", MAPS)
def test_an_image_is_explained_by_itself(name, net, images):
    x, y = images
    together = MAPS[name](net, x, y)
    alone = torch.cat([MAPS[name](net, *one) for one in zip(x.split(1), y.split(1), strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    assert MAPS[name](net, x[:0], y[:0]).shape == together[:0].shape


@pytest.mark.parametrize("chunk", [1, 7, 14, 21])
@pytest.mark.parametrize(
    "settings", [*({"rule": r} for r in RULES), {"through_factor": False}, {"of": "loss"}], ids=str
)
def test_places_taken_in_turn_change_neither_map_nor_direction(settings, chunk, net, images):
    (x, y), results, v = images, [], torch.randn(7, 2, 6, 6).double()
    for together in (chunk, 10_000):
        z = x.clone().requires_grad_(True)
        maps = IntegratedGradients(5, chunk=together, **settings)(softened(net), z, y)
        (direction,) = torch.autograd.grad((maps * v).sum(), z)
        results.append((maps.detach(), direction, IntegratedGradients(5, chunk=together, **settings)(net, x, y)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-13)


def test_places_taken_in_turn_are_not_held_together(net, images):
    class Kept:
        def __init__(self, t):
            self.t = t

    def held(chunk):
        kept = weakref.WeakSet()

        def keep(t):
            box = Kept(t)
            kept.add(box)
            return box

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda box: box.t):
            z = images[0].clone().requires_grad_(True)
            maps = IntegratedGradients(20, chunk=chunk)(softened(net), z, images[1])
        size = sum({box.t.data_ptr(): box.t.numel() for box in kept}.values())
        assert maps.requires_grad
        return size

    assert held(7) < held(10_000) / 20
